"""What a list of a window proves of calls whose wall-clock date is not their own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.adapter import NotListed, OutcomeUnknown
from gateway.execution.claims import covers_calls
from gateway.execution.operator import NotAllowedError, Resolution, resolve
from gateway.execution.proof import Evidence, History, Kind
from gateway.execution.state import View
from gateway.model import FundsMoved
from gateway.runtime import Moment
from gateway.store.state_file import StateFile
from tests.execution.conftest import Bench
from tests.execution.script import Desk, Line, raises
from tests.execution.test_copies import adopt, state_file  # noqa: F401 - a fixture


def of_the_last_hour(bench: Bench) -> Line:
    """Search a complete list of the last hour, by the custodian's clock; it has not stepped."""
    begun = bench.clock.monotonic(), bench.clock.now()

    def line(_: object) -> NotListed:
        passed = timedelta(seconds=bench.clock.monotonic() - begun[0])
        return NotListed(begun[1] + passed - timedelta(hours=1))

    return line  # type: ignore[return-value] # the desk's type of outcome is older


@pytest.mark.parametrize("declared", [True, False])
async def test_a_window_that_begins_after_the_copy_proves_nothing_of_a_lost_call(
    bench: Bench,
    state_file: StateFile,  # noqa: F811 - the fixture
    declared: bool,
) -> None:
    """The lost database paid two hours ago; the list of the last hour cannot have it."""
    bench.capabilities = replace(bench.capabilities, finds_lost_calls=declared)
    desk = Desk(bench)
    await desk.open(1)
    # The copy is of this moment. The lost database made the call now, and it paid.
    await bench.clock.advance(7200)
    await adopt(bench, state_file)
    desk.script.looks = [of_the_last_hour(bench)]
    await desk.turn()
    await desk.turns(5, 45)
    found = Resolution(delivered=False, evidence="not in the list", funds_moved=FundsMoved.NO)
    # Refused, or a person is asked to look at the custodian's own records first.
    with suppress(NotAllowedError):
        await bench.db.run(resolve, bench.recorder, bench.runtime, desk.ids[0], found)
    assert (await bench.payout(desk.ids[0])).failure is None


@pytest.mark.parametrize("ahead_s", [0, 3 * 3600])
async def test_a_call_dated_by_a_clock_that_was_ahead_is_not_ruled_out_by_a_short_window(
    bench: Bench, ahead_s: int
) -> None:
    """A wall clock never proves. Ahead at the mark and set right later, it pays a second time."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.looks = [of_the_last_hour(bench)]
    desk.script.submits = [raises(OutcomeUnknown("timeout"))]
    bench.clock.step(ahead_s)
    await desk.turn()
    assert len(desk.script.moved) == 1  # it arrived, and pays
    bench.clock.step(-ahead_s)
    # The engine was down for longer than the window of the list.
    await bench.clock.advance(2 * 3600)
    await desk.turn()
    await desk.turns(6, 45)
    assert len(desk.script.moved) == 1


@pytest.mark.parametrize(("clock", "covered"), [("one", True), ("another", False)])
def test_a_call_of_another_clock_is_not_ruled_out_by_a_window(clock: str, covered: bool) -> None:
    """The elapsed time of another clock cannot be compared: after a boot it starts from nothing."""
    hour = 3_600_000_000
    call = Evidence(number=1, kind=Kind.CALL, seen=0, at=Moment("one", 0, 10 * hour))
    view = SimpleNamespace(
        history=History((call,)),
        capabilities=SimpleNamespace(clock_skew_s=30),
        started=Moment(clock, hour // 10, 10 * hour + hour // 10),
    )
    found = NotListed(datetime.fromtimestamp(9 * 3600, UTC))
    assert covers_calls(cast(View, view), found) is covered
