"""The course of an order in the kit: what gets it on after an unknown outcome."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.adapter import (
    CannotLook,
    Capabilities,
    KeySemantics,
    NotListed,
    OutcomeUnknown,
    Report,
    SubStatus,
)
from gateway.testing import Course, OrderForTest

MARKED = datetime(2026, 3, 2, 10, tzinfo=UTC)
CAN = Capabilities(
    destination_types=frozenset({"address"}),
    keys=KeySemantics(life_s=None, look_up=True, repeat_is_safe=False),
    call_life_s=60,
    visibility_s=10,
)


class ListingCustodian:
    """Loses the first reply, and the call with it; afterwards it lists nothing, then it pays."""

    capabilities = CAN

    def __init__(self, found: NotListed | CannotLook) -> None:
        self.found = found
        self.calls = 0

    async def submit(self, order: OrderForTest) -> Report:
        await order.moving()
        self.calls += 1
        if self.calls == 1:
            raise OutcomeUnknown("HTTP 502")
        return Report(SubStatus.DELIVERED, "DONE")

    async def fetch(self, order: OrderForTest) -> NotListed | CannotLook:
        del order
        return self.found


def course(found: NotListed | CannotLook) -> Course:
    """Return the course of an order at such a custodian."""

    async def passes(_: float = 0) -> None: ...

    bench: Any = SimpleNamespace(
        instance=ListingCustodian(found), pass_time=passes, step=passes, clock=None
    )
    return Course(bench, OrderForTest(now=lambda: MARKED))


@pytest.mark.parametrize("since", [None, MARKED - timedelta(seconds=31)])
async def test_a_complete_list_counts_as_absence(since: datetime | None) -> None:
    """After as many looks as absence needs, and not one earlier, the call is made again."""
    made = course(NotListed(since, "complete"))
    await made.until_ended()
    verbs = [verb for verb, _ in made.outcomes]
    assert verbs == ["submit", *["fetch"] * CAN.absence_looks, "submit"]


async def test_a_list_that_begins_after_the_call_fails_the_kit() -> None:
    """The engine would look for ever: the author reads why."""
    made = course(NotListed(MARKED - timedelta(seconds=30), "the last minute"))
    with pytest.raises(AssertionError, match=r"begin earlier by more than clock_skew_s \(30 s\)"):
        await made.until_ended()


async def test_what_cannot_be_looked_up_is_not_repeated() -> None:
    """Without a safe key a person decides."""
    made = course(CannotLook("no reference"))
    with pytest.raises(AssertionError, match="never reached"):
        await made.until_ended()
    assert [verb for verb, _ in made.outcomes].count("submit") == 1
