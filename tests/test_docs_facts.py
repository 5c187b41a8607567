"""What the documentation states, compared with the product."""

from __future__ import annotations

import re
from pathlib import Path

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
