"""Metrics: the names that dashboards are built on, and labels that stay bounded."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample as a scraper reads it."""
    body, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def _use_all(metrics: Metrics) -> None:
    """Count one of everything."""
    metrics.payout("delivered")
    metrics.call("fb", "submit", "submitted", 0.2)
    metrics.unknown_word("fb", "MOONLIT")
    metrics.inbox("fb", "applied")
    metrics.webhook_attempt("delivered")
    metrics.http_request("/payouts/{id}", "GET", 200, 0.01)
    metrics.unowned()
    metrics.attention({"unknown_word": 2})
    metrics.open_payouts([(("live", "fb", "pending", "queued"), 7, 90.5)])
    metrics.measured(1_700_000_000.5)
    metrics.work_age(3.5)
    metrics.delivery_age(4.5)
    metrics.marks(allowed=True)
    metrics.rate_limited("reads")
    metrics.refusal_held("held")
    metrics.connections(3)
    metrics.connection_closed("headers_late")


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("payouts_total", {"status": "delivered"}, 1),
        (
            "custodian_calls_total",
            {"custodian": "fb", "verb": "submit", "outcome": "submitted"},
            1,
        ),
        ("custodian_call_seconds_count", {"custodian": "fb", "verb": "submit"}, 1),
        ("custodian_call_seconds_sum", {"custodian": "fb", "verb": "submit"}, 0.2),
        ("unknown_words_total", {"custodian": "fb", "word": "MOONLIT"}, 1),
        ("inbox_total", {"custodian": "fb", "outcome": "applied"}, 1),
        ("webhook_attempts_total", {"outcome": "delivered"}, 1),
        (
            "http_requests_total",
            {"route": "/payouts/{id}", "method": "GET", "status": "200"},
            1,
        ),
        ("http_seconds_count", {"route": "/payouts/{id}"}, 1),
        ("unowned_rows_total", {}, 1),
        ("attention", {"code": "unknown_word"}, 2),
        (
            "open_payouts",
            {"mode": "live", "custodian": "fb", "status": "pending", "sub_status": "queued"},
            7,
        ),
        (
            "open_payouts_oldest_seconds",
            {"mode": "live", "custodian": "fb", "status": "pending", "sub_status": "queued"},
            90.5,
        ),
        ("measured_timestamp_seconds", {}, 1_700_000_000.5),
        ("work_oldest_due_seconds", {}, 3.5),
        ("webhook_oldest_due_seconds", {}, 4.5),
        ("marks_allowed", {}, 1),
        ("rate_limited_total", {"limit": "reads"}, 1),
        ("connections", {}, 3),
        ("connections_closed_total", {"reason": "headers_late"}, 1),
    ],
)
def test_a_scraper_reads_it(name: str, labels: dict[str, str], value: float) -> None:
    """Names and labels are a promise: alerts are written on them."""
    metrics = Metrics()
    _use_all(metrics)
    found = _samples(metrics)
    assert found["payout_gateway_" + name, tuple(sorted(labels.items()))] == value


def test_every_metric_is_ours_and_explained() -> None:
    """One prefix, a line of help each; nothing of the process-wide registry is mixed in."""
    metrics = Metrics()
    _use_all(metrics)
    body, media_type = metrics.render()
    assert media_type.startswith("text/plain")
    families = list(text_string_to_metric_families(body.decode()))
    assert len(families) >= 12
    for family in families:
        assert family.name.startswith("payout_gateway_")
        assert re.fullmatch(r"[A-Z].*\.", family.documentation), family.name


def test_two_gateways_in_one_process_do_not_mix() -> None:
    """Each has its own registry; a second one can be made, and is empty."""
    first, second = Metrics(), Metrics()
    first.payout("delivered")
    key = ("payout_gateway_payouts_total", (("status", "delivered"),))
    assert _samples(first)[key] == 1
    assert key not in _samples(second)


def test_invented_words_are_bounded_per_custodian() -> None:
    """100 words of a custodian are distinguished, the rest is `other`; nothing is lost in the sum."""
    metrics = Metrics()
    for number in range(150):
        metrics.unknown_word("wild", f"W{number}")
    metrics.unknown_word("wild", "W7")
    metrics.unknown_word("calm", "X")
    found = {
        (dict(labels)["custodian"], dict(labels)["word"]): value
        for (name, labels), value in _samples(metrics).items()
        if name == "payout_gateway_unknown_words_total"
    }
    wild = {word: value for (custodian, word), value in found.items() if custodian == "wild"}
    assert len(wild) == 101
    assert wild["other"] == 50
    assert wild["W7"] == 2
    assert sum(wild.values()) == 151
    assert found["calm", "X"] == 1


def test_long_and_odd_words_are_cut_and_escaped() -> None:
    """64 characters of a word are enough; a line break or a quote does not break the page."""
    metrics = Metrics()
    metrics.unknown_word("fb", "L" * 500)
    metrics.unknown_word("fb", 'a"b\n\\c')
    words = {
        dict(labels)["word"]
        for (name, labels) in _samples(metrics)
        if name == "payout_gateway_unknown_words_total"
    }
    assert words == {"L" * 64, 'a"b\n\\c'}


def test_invented_methods_are_one_label() -> None:
    """A stranger may send any word as a method."""
    metrics = Metrics()
    for number in range(50):
        metrics.http_request("unmatched", f"M{number}", 405, 0.001)
    methods = {
        dict(labels)["method"]
        for (name, labels) in _samples(metrics)
        if name == "payout_gateway_http_requests_total"
    }
    assert methods == {"other"}


def test_attention_that_was_settled_goes_to_zero() -> None:
    """A kind that has no row any more must not stay on the dashboard."""
    metrics = Metrics()
    metrics.attention({"mismatch": 1, "unknown_word": 3})
    metrics.attention({"unknown_word": 1})
    found = _samples(metrics)
    assert found["payout_gateway_attention", (("code", "mismatch"),)] == 0
    assert found["payout_gateway_attention", (("code", "unknown_word"),)] == 1
