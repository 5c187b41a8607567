"""The runbook and the alerts: a page for each, rules that Prometheus takes, on metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.metrics import Metrics
from gateway.model import Attention
from gateway.store.attention import _OVER_AT_END, _OVER_AT_SUCCESS

ROOT = Path(__file__).parents[1]
RUNBOOK = ROOT / "docs/runbook"
PROMETHEUS = ROOT / "deploy/prometheus"
#: Attention in the gauge alone: of a process or an endpoint, not of a payout.
_IN_GAUGE = {"marks_refused", "endpoint_unreadable"}
_PARTS = ("**Effect.** ", "## What to look at\n\n- ", "## What to do\n\n1. ")


@cache
def rules() -> dict[str, dict[str, Any]]:
    """Return the alert rules by name."""
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return {each["alert"]: each for each in group["rules"]}


def pages() -> list[Path]:
    """Return every page of the runbook."""
    return sorted(RUNBOOK.rglob("*.md"))


def test_every_attention_code_has_a_page() -> None:
    """And no page is of a code that is gone."""
    assert {each.stem for each in (RUNBOOK / "attention").iterdir()} == set(Attention)


def test_every_alert_has_a_page() -> None:
    """The address in the alert is that page's; with a code in it, each code's."""
    own = set()
    for name, rule in rules().items():
        url = rule["annotations"]["runbook_url"]
        if "{{ $labels.code }}" in url:
            assert url == "runbook/attention/{{ $labels.code }}.html"
            continue
        assert url == f"runbook/alerts/{name}.html"
        own.add(name)
    assert {each.stem for each in (RUNBOOK / "alerts").iterdir()} == own


def test_pages_that_send_to_readyz_name_both_of_its_answers() -> None:
    """`marks` has the reason only with 200: a database that cannot be written is 503, with `reason`."""
    told = {each.stem: each.read_text() for each in pages() if "in `marks`" in each.read_text()}
    assert set(told) == {"state_file", "PayoutGatewayMarksRefused"}
    assert all("503 `store_unavailable`" in each for each in told.values())


@pytest.mark.parametrize("page", [each for each in pages() if each.stem != "index"], ids=str)
def test_a_page_says_what_to_do(page: Path) -> None:
    """Meaning, effect, what to look at, what to do; and whether its row closes by itself."""
    text = page.read_text()
    for part in _PARTS:
        assert part in text
    if page.parent.name == "attention":
        by_itself = Attention(page.stem) in {*_OVER_AT_END, *_OVER_AT_SUCCESS}
        assert ("The row closes by itself" in text) == by_itself
        acknowledged = f"payouts acknowledge PAYOUT --code {page.stem}" in text
        assert acknowledged != by_itself


@pytest.mark.parametrize("page", pages(), ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve()
        assert other.is_file(), target
        heads = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w\s-]", "", each).strip().lower().replace(" ", "-") for each in heads}
        assert not anchor or anchor in slugs, (target, slugs)


def test_rules_are_on_metrics_that_exist() -> None:
    """A metric that was renamed would silence an alert for ever."""
    exported = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    # Of metrics with labels there are no samples before the first one.
    exported |= {
        name + ("_total" if family.type == "counter" else "")
        for family in Metrics().registry.collect()
        for name in (family.name,)
    }
    named = {
        name
        for each in rules().values()
        for name in re.findall(r"payout_gateway_[a-z_]+", each["expr"])
    }
    assert len(named) > 10
    assert named <= exported


def test_every_code_is_in_one_alert() -> None:
    """Money or not; what is no code of a payout has alerts of its own."""
    money = rules()["PayoutGatewayMoneyAttention"]["expr"]
    others = rules()["PayoutGatewayAttention"]["expr"]
    wanted = set(re.search(r'code=~"([^"]+)"', money)[1].split("|"))  # type: ignore[index]
    excluded = set(re.search(r'code!~"([^"]+)"', others)[1].split("|"))  # type: ignore[index]
    assert wanted <= set(Attention)
    assert excluded == wanted | _IN_GAUGE


def test_every_alert_has_a_test() -> None:
    """Of promtool: quiet first, firing later."""
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    tested = [each for case in cases for each in case["alert_rule_test"]]
    for expected in (True, False):
        names = {each["alertname"] for each in tested if bool(each["exp_alerts"]) is expected}
        assert names == rules().keys()


@pytest.mark.parametrize("words", [("check", "alerts.yml"), ("test", "alerts_test.yml")])
def test_prometheus_takes_them(words: tuple[str, str]) -> None:
    """Debian's promtool checks the rules and runs their tests; `make alerts` gets it."""
    own = ROOT / "build/promtool/root/usr/bin/promtool"
    tool = shutil.which("promtool") or (str(own) if own.is_file() else "")
    if not tool:
        pytest.skip("promtool is missing: make alerts, or apt-get install prometheus")
    verb, file = words
    done = subprocess.run(
        [tool, verb, "rules", file], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
