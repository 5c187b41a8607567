"""The record of what the kit has shown: when it is stale, and how the matrix reads it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.check import cell
from gateway.testing.plugin import differs


def kind(**topics: dict[str, int]) -> dict[str, Any]:
    """Return what a class of the kit has shown."""
    return {"destination": "address", "delivered_to": ["address"], "topics": topics}


@pytest.mark.parametrize(
    ("shown", "stale"),
    [
        (kind(lives={"passed": 3}), False),
        (kind(lives={"passed": 2}), False),  # a part of the class says nothing
        (kind(lives={"passed": 4}), True),
        (kind(lives={"passed": 2, "failed": 1}), True),
        (kind(lives={"passed": 2, "not_applicable": 1}), True),
        (kind(looks={"passed": 3}), True),
    ],
)
def test_a_record_is_stale_where_the_whole_class_shows_something_else(
    shown: dict[str, Any], *, stale: bool
) -> None:
    """More tests, other outcomes, other topics; a run of some tests is not compared."""
    assert differs(shown, kind(lives={"passed": 3})) is stale
    assert differs(shown, None)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (None, "unproven"),
        ({"passed": 3}, "3 passed"),
        ({"not_applicable": 2}, "does not apply"),
        ({"passed": 2, "failed": 1}, "FAILED 1 of 3"),
        ({"passed": 2, "gaps": 1}, "2 passed, 1 known to fail"),
    ],
)
def test_a_topic_is_never_shown_better_than_it_is(
    counts: dict[str, int] | None, words: str
) -> None:
    """What was not tried is unproven; what fails says so."""
    assert cell(counts) == words
