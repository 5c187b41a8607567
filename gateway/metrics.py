"""Metrics for Prometheus, in a registry of their own. Label values are bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_CALL_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: A custodian that invents words must not fill the memory of the metrics' store.
_MOST_WORDS = 100
_WORD_CHARS = 64
_OF_PAYOUTS = ("mode", "custodian", "status", "sub_status")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Every metric of a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._words: set[tuple[str, str]] = set()
        self._attention_codes: set[str] = set()
        self._payouts = self._counter("payouts", "Status changes of payouts.", "status")
        self._calls = self._counter(
            "custodian_calls", "Calls of adapters' verbs.", "custodian", "verb", "outcome"
        )
        self._call_seconds = Histogram(
            "payout_gateway_custodian_call_seconds",
            "Time of calls of adapters' verbs.",
            ("custodian", "verb"),
            registry=self.registry,
            buckets=_CALL_SECONDS,
        )
        self._unknown = self._counter(
            "unknown_words", "Words of custodians that no table has.", "custodian", "word"
        )
        self._inbox = self._counter("inbox", "Webhooks of custodians.", "custodian", "outcome")
        self._webhooks = self._counter(
            "webhook_attempts", "Tries of webhook deliveries.", "outcome"
        )
        #: by outcome: looking a labelled counter up costs more than counting
        self._requests = self._counter(
            "http_requests", "Requests to the API.", "route", "method", "status"
        )
        self._request_seconds = Histogram(
            "payout_gateway_http_seconds",
            "Time of requests to the API.",
            ("route",),
            registry=self.registry,
            buckets=_CALL_SECONDS,
        )
        self._unowned = Counter(
            "payout_gateway_unowned_rows",
            "Payouts found that nobody worked on.",
            registry=self.registry,
        )
        self._attention = Gauge(
            "payout_gateway_attention",
            "Rows of the operator's list; marks_refused: nothing is handed to custodians; "
            "endpoint_unreadable: webhook endpoints whose secrets do not open.",
            ("code",),
            registry=self.registry,
        )
        self._open = Gauge(
            "payout_gateway_open_payouts",
            "Payouts that have not ended; at most 50000 of each status are counted.",
            _OF_PAYOUTS,
            registry=self.registry,
        )
        self._open_age = Gauge(
            "payout_gateway_open_payouts_oldest_seconds",
            "Time since the oldest payout that has not ended was accepted.",
            _OF_PAYOUTS,
            registry=self.registry,
        )
        self._measured = Gauge(
            "payout_gateway_measured_timestamp_seconds",
            "When the gauges of the database were set (payouts, work, deliveries, attention), as Unix time. "
            "Only processes that run the engine set them.",
            registry=self.registry,
        )
        self._work_age = Gauge(
            "payout_gateway_work_oldest_due_seconds",
            "Age of the oldest due work.",
            registry=self.registry,
        )
        self._delivery_age = Gauge(
            "payout_gateway_webhook_oldest_due_seconds",
            "Age of the oldest due delivery.",
            registry=self.registry,
        )

        self._endpoint_lag = Gauge(
            "payout_gateway_webhook_endpoint_lag_seconds",
            "Age of the oldest due delivery of the endpoints that wait longest.",
            ("endpoint",),
            registry=self.registry,
        )

        self._marks = Gauge(
            "payout_gateway_marks_allowed",
            "Whether this process may hand payouts to custodians (1); /readyz says why not (0).",
            registry=self.registry,
        )

        self._pauses = Gauge(
            "payout_gateway_paused",
            "What is paused (1), by scope and target; see payout-gateway pause.",
            ("scope", "target"),
            registry=self.registry,
        )

        self._breakers = Gauge(
            "payout_gateway_breaker_open",
            "Whether nothing that moves money is sent to a custodian (1), because it does not answer.",
            ("custodian",),
            registry=self.registry,
        )

        accounts = ("custodian", "account", "asset", "network")
        self._balances = {
            name: Gauge(f"payout_gateway_account_{name}", words, accounts, registry=self.registry)
            for name, words in (
                ("balance", "What an account holds, as it was last read."),
                ("reserved", "What accepted payouts have reserved of it."),
                ("waiting", "What accepted payouts wait for it to cover."),
            )
        }
        self._balance_age = Gauge(
            "payout_gateway_account_balance_age_seconds",
            "Age of an account's balances; NaN: not known.",
            ("custodian", "account"),
            registry=self.registry,
        )

        self._connections = Gauge(
            "payout_gateway_connections",
            "Open connections of the public listener.",
            registry=self.registry,
        )
        self._connections_closed = self._counter(
            "connections_closed", "Connections that a limit closed or refused.", "reason"
        )

        self._rate_limited = self._counter(
            "rate_limited", "Requests that a rate refused (429).", "limit"
        )
        self._refusals_held = self._counter(
            "refusals_held",
            "Refusals (429) that were held back (held), or sent with Connection: close (closed).",
            "result",
        )
        # To find the metric of some label values costs more than to raise it. Label values are bounded.
        self._request = cache(self._requests.labels)
        self._request_time = cache(self._request_seconds.labels)
        self._call = cache(self._calls.labels)
        self._call_time = cache(self._call_seconds.labels)
        self._attempt = cache(self._webhooks.labels)
        self._status = cache(self._payouts.labels)
        self._received = cache(self._inbox.labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"payout_gateway_{name}", text, labels, registry=self.registry)

    def payout(self, status: str) -> None:
        """Count a payout that has reached a status."""
        self._status(status).inc()

    def call(self, custodian: str, verb: str, outcome: str, seconds: float) -> None:
        """Count and time a call of an adapter's verb."""
        self._call(custodian, verb, outcome).inc()
        self._call_time(custodian, verb).observe(seconds)

    def unknown_word(self, custodian: str, word: str) -> None:
        """Count a custodian's word that no table has."""
        label = word[:_WORD_CHARS]
        if (custodian, label) not in self._words:
            if sum(known == custodian for known, _ in self._words) >= _MOST_WORDS:
                label = "other"
            self._words.add((custodian, label))
        self._unknown.labels(custodian, label).inc()

    def inbox(self, custodian: str, outcome: str) -> None:
        """Count what became of a custodian's webhook."""
        self._received(custodian, outcome).inc()

    def webhook_attempt(self, outcome: str) -> None:
        """Count a try of a delivery."""
        self._attempt(outcome).inc()

    def http_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count and time a request."""
        known = method if method in _METHODS else "other"
        self._request(route, known, str(status)).inc()
        self._request_time(route).observe(seconds)

    def connections(self, count: int) -> None:
        """Set how many connections are open."""
        self._connections.set(count)

    def connection_closed(self, reason: str) -> None:
        """Count a connection that a limit closed."""
        self._connections_closed.labels(reason).inc()

    def rate_limited(self, limit: str) -> None:
        """Count a request that a rate refused."""
        self._rate_limited.labels(limit).inc()

    def refusal_held(self, result: str) -> None:
        """Count a refusal that was held back, or that could not be."""
        self._refusals_held.labels(result).inc()

    def unowned(self) -> None:
        """Count a payout that was found without an owner."""
        self._unowned.inc()

    def attention(self, rows: Mapping[str, int]) -> None:
        """Set how many rows of each kind wait for the operator; a kind that is not given has none."""
        self._attention_codes |= set(rows)
        for code in self._attention_codes:
            self._attention.labels(code).set(rows.get(code, 0))

    def open_payouts(self, found: Iterable[tuple[tuple[str, ...], int, float]]) -> None:
        """Set what is open, each as (mode, custodian, status, sub-status), payouts, age of the oldest."""
        self._open.clear()
        self._open_age.clear()
        for labels, count, age in found:
            self._open.labels(*labels).set(count)
            self._open_age.labels(*labels).set(age)

    def measured(self, at: float) -> None:
        """Set when the gauges of the database were set, as Unix time."""
        self._measured.set(at)

    def work_age(self, seconds: float) -> None:
        """Set the age of the oldest due work."""
        self._work_age.set(seconds)

    def marks(self, *, allowed: bool) -> None:
        """Set whether moving marks may be set; where not, the operator's list has one more row."""
        self._marks.set(int(allowed))
        self._attention.labels("marks_refused").set(int(not allowed))

    def balance(self, *account: str, **values: float) -> None:
        """Set what an account (custodian, account, asset, network) holds, has reserved, is waited for."""
        for name, value in values.items():
            self._balances[name].labels(*account).set(value)

    def balance_age(self, custodian: str, account: str, seconds: float | None) -> None:
        """Set the age of an account's balances; None: it is not known."""
        age = float("nan") if seconds is None else seconds
        self._balance_age.labels(custodian, account).set(age)

    def paused(self, found: Iterable[tuple[str, str]]) -> None:
        """Set what is paused, each as scope and target; nothing else is."""
        self._pauses.clear()
        for scope, target in found:
            self._pauses.labels(scope, target).set(1)

    def breaker(self, custodian: str, is_open: bool) -> None:  # noqa: FBT001 - a gauge's value
        """Set whether nothing is sent to a custodian, because it does not answer."""
        self._breakers.labels(custodian).set(is_open)

    def endpoints_set_aside(self, count: int) -> None:
        """Set how many endpoints wait because their secrets do not open: a row of the operator's list."""
        self._attention.labels("endpoint_unreadable").set(count)

    def delivery_age(self, seconds: float) -> None:
        """Set the age of the oldest due delivery."""
        self._delivery_age.set(seconds)

    def endpoint_lags(self, seconds: Mapping[str, float]) -> None:
        """Set how long each of these endpoints waits; no other one does."""
        self._endpoint_lag.clear()
        for endpoint_id, age in seconds.items():
            self._endpoint_lag.labels(endpoint_id).set(age)

    def render(self) -> tuple[bytes, str]:
        """Return the exposition and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
