"""What the documentation states, compared with the product."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from gateway.api.application import ROUTES
from gateway.api.openapi import document
from gateway.api.problems import PROBLEMS
from gateway.batches.items import COLUMNS
from gateway.config.settings import Settings
from gateway.demo.case import seeded_cases
from gateway.demo.stack import TWINS
from gateway.keys import Scope
from gateway.metrics import Metrics
from gateway.model import Attention
from gateway.quotes import QUOTE_LIFE
from gateway.runtime import Ids, real_runtime
from gateway.views import EVENT_TYPES

_ROOT = Path(__file__).parent.parent
_DOCS = _ROOT / "docs"
_PAGES = {
    path.relative_to(_ROOT).as_posix(): path.read_text("utf-8")
    for path in (*_DOCS.rglob("*.md"), _ROOT / "README.md")
}
_NUMBERS = {3: "three", 7: "seven"}


def test_what_the_demo_pays() -> None:
    """As many payouts at as many custodians as the README, the quickstart and `make` say."""
    payouts, custodians = _NUMBERS[len(seeded_cases())], _NUMBERS[len(TWINS)]
    readme, quickstart = _PAGES["README.md"], _PAGES["docs/quickstart.md"]
    assert f"pays {payouts} payees through {custodians} custodians" in readme
    assert f"takes {payouts} payouts" in quickstart
    assert f"twins (simulators) of {custodians} custodians" in quickstart
    assert f"{payouts.capitalize()} payouts" in (_ROOT / "Makefile").read_text("utf-8")


def test_prefixes_of_keys_and_ids() -> None:
    """Every id that a page shows has a prefix that the gateway gives out."""
    ids = Ids(real_runtime().clock)
    known = {"pay", "quo", "bat", "evt", "whe", "key", "rec", "req"}
    for prefix in known:
        assert ids.new(prefix).startswith(prefix + "_")
    for name, text in _PAGES.items():
        shown = set(re.findall(r"\b([a-z]{3})_[0-9a-z]{26}\b", text))
        assert shown <= known | {"pau"}, name
        assert set(re.findall(r"\bsk_([a-z]+)_", text)) <= {"live", "test"}, name


def test_calls_codes_events_and_scopes_that_pages_name_exist() -> None:
    """Whatever a page names as a call, a problem, an event or a scope is one."""
    paths = document("https://gateway.example")["paths"]
    forms = [re.sub(r"\{\w+\}", "[^/]+", path) for path in paths]
    for name, text in _PAGES.items():
        if "/decisions/" in name or "/protocols/" in name:
            continue  # of custodians, and of their time
        for method, path in re.findall(
            r"`(GET|POST|PATCH|DELETE) (/(?:payouts|payout-batches|events|webhook-endpoints|pauses)[^\s`?]*)`",
            text,
        ):
            plain = path.replace("…", "x")
            fits = [form for form in forms if re.fullmatch(form, plain)]
            assert fits, f"{name}: {method} {path}"
        for kind in re.findall(r"`((?:payout|batch|webhook_endpoint)\.[a-z_]+)`", text):
            assert kind in EVENT_TYPES, f"{name}: {kind}"
        for code in re.findall(r"\b4\d\d `([a-z_]+)`", text):
            assert code in PROBLEMS, f"{name}: {code}"
        for scope in re.findall(r"`((?:quotes|payouts|batches|webhooks|events|keys):\w+)`", text):
            assert scope in {each.value for each in Scope}, f"{name}: {scope}"


def test_figures() -> None:
    """The life of a quote, the columns of a file, the defaults that pages repeat."""
    assert QUOTE_LIFE.total_seconds() == 60
    assert "for 60 seconds" in _PAGES["docs/reference/api.md"]
    header = re.search(r"(?m)^external_ref,asset,.*$", _PAGES["docs/tutorial.md"])
    assert header is not None
    assert set(header[0].split(",")) <= set(COLUMNS)
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
        if not field.is_required()
    }
    assert TypeAdapter(float).validate_python(defaults["engine"].submit_within_s) == 6 * 3600
    assert "at most 6 hours by default" in next(
        text for name, text in _PAGES.items() if "/0024-" in name
    )


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("approvals by a second person", "/approvals"),
        ("an address book", "/addresses"),
    ],
)
def test_what_the_readme_calls_not_yet_available_is_not_there(words: str, path: str) -> None:
    """When one of them arrives, its words have to go."""
    lines = _PAGES["README.md"].splitlines()
    line = next((each for each in lines if each.startswith("Not yet available")), "")
    there = any(route.path.startswith(path) for route in ROUTES)
    assert (words in line) is not there


def _setting(name: str) -> Any:
    """Return the default of a setting by its dotted name."""
    kind: Any = Settings
    value: Any = None
    for part in name.split("."):
        fields = getattr(kind, "model_fields", {})
        assert part in fields, f"there is no setting {name}"
        value = fields[part].get_default(call_default_factory=True)
        kind = type(value)
    return value


def test_settings_that_pages_name_exist() -> None:
    """A renamed setting is found on every page that names it."""
    sections = {
        name
        for name, field in Settings.model_fields.items()
        if hasattr(type(field.get_default(call_default_factory=True)), "model_fields")
    }
    named = rf"`((?:{'|'.join(sorted(sections))})\.[a-z_]+)(?: = [^`]*)?`"
    found = [(page, name) for page, text in _PAGES.items() for name in re.findall(named, text)]
    assert len(found) > 100
    for page, name in found:
        try:
            _setting(name)
        except AssertionError as missing:
            pytest.fail(f"{page}: {missing}")


def test_defaults_beside_the_names_of_settings() -> None:
    """A number in parentheses behind a setting's name is its default."""
    units = {"": 1, "s": 1, "minutes": 60, "hours": 3600, "KiB": 1024}
    pattern = r"`([a-z]+\.[a-z_.]+)` \((\d[\d,]*)(?: (s|minutes|hours|KiB)\b)?(?: by default)?\)"
    found = [
        (page, *each)
        for page, text in _PAGES.items()
        if "/decisions/" not in page
        for each in re.findall(pattern, text)
    ]
    assert len(found) > 15
    for page, name, number, unit in found:
        assert _setting(name) == int(number.replace(",", "")) * units[unit], f"{page}: {name}"


def test_rates_of_an_api_key() -> None:
    """The table of classes has the defaults of the settings."""
    rows = re.findall(
        r"(?m)^\| `(\w+)` \|.*\| (\d+) a second, (\d+) at once \|$",
        _PAGES["docs/reference/rate-limits.md"],
    )
    assert {name for name, _, _ in rows} == {"reads", "quotes", "confirms", "writes"}
    for name, per_s, burst in rows:
        assert (_setting(f"limits.{name}_per_s"), _setting(f"limits.{name}_burst")) == (
            float(per_s),
            int(burst),
        ), name


def test_attempts_of_a_delivery() -> None:
    """The page of events lists the retry plan and the time limit of an attempt."""
    page = _PAGES["docs/reference/events.md"]
    plan = re.search(r"at once, then after (.*?), each ±20 %", page)
    assert plan is not None
    units = {"s": 1, "min": 60, "h": 3600}
    waits = [each.split(" ") for each in plan[1].split(", ")]
    assert tuple(int(n) * units[unit] for n, unit in waits) == _setting("webhooks.retry_plan_s")
    assert f"within {_setting('webhooks.timeout_s'):g} seconds (`webhooks.timeout_s`)" in page


def test_metrics_that_pages_name_exist() -> None:
    """A renamed metric is found on every page that names it."""
    exported = {family.name for family in Metrics().registry.collect()}
    for page, text in _PAGES.items():
        for name in re.findall(r"`(payout_gateway_[a-z_]+[a-z])(?:\{[^`]*\})?`", text):
            assert name.removesuffix("_total") in exported, f"{page}: {name}"


def test_custodians_that_the_readme_names_are_the_adapters() -> None:
    """Every adapter for a real custodian is named, and no other."""
    words = {"fireblocks": "Fireblocks", "dfns": "Dfns", "card_passcode": "card-passcode"}
    adapters = {each.name for each in entry_points(group="payout_gateway.adapters")}
    assert adapters & set(words) == set(words)
    line = next(
        each for each in _PAGES["README.md"].splitlines() if each.startswith("| **Custodians**")
    )
    for name in set(words):
        assert words[name] in line, name


def test_attention_codes_on_the_recovery_page() -> None:
    """The operator's table names codes that exist, and none twice."""
    page = _PAGES["docs/how-to/recover-an-unknown-outcome.md"]
    table = page[page.index("| in the list as |") : page.index("The [runbook]")]
    codes = re.findall(r"(?m)^\| `([a-z_]+)` \|", table)
    assert len(codes) > 15
    assert set(codes) <= {each.value for each in Attention}
    assert len(set(codes)) == len(codes)


def test_the_changelog_says_each_thing_once() -> None:
    """The coming release has one section of each kind, in order, and no line twice."""
    text = (_ROOT / "CHANGELOG.md").read_text("utf-8")
    coming = text[text.index("## [Unreleased]") : text.index("## [0.1.0]")]
    order = ["Before you upgrade", "Added", "Changed", "Fixed", "Security"]
    assert re.findall(r"(?m)^### (.*)$", coming) == order
    lines = [each for each in coming.splitlines() if each.startswith("- ")]
    begins = [re.sub(r"\W+", " ", each)[:60] for each in lines]
    assert len(set(begins)) == len(begins)


@pytest.mark.parametrize("name", ["explanation/states", "reference/problems", "runbook/index"])
def test_no_row_of_a_generated_table_is_without_a_meaning(name: str) -> None:
    """A comment that a formatter moved away from its member would leave a cell empty."""
    page = _PAGES[f"docs/{name}.md"]
    rows = re.findall(r"(?m)^\| \[?`[A-Za-z_]+`.*\|$", page)
    assert len(rows) > 20
    for row in rows:
        cells = [each.strip() for each in row.strip("|").split("|")]
        # The last column of the problems says only whether a retry may help.
        last = cells[-2] if name == "reference/problems" else cells[-1]
        assert last, row
