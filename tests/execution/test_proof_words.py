"""When a failed word speaks of everything that was sent."""

from __future__ import annotations

from gateway.execution.proof import Answer, Evidence, History, Kind, Source, ended
from gateway.model import FundsMoved
from gateway.runtime import Moment


def _call(number: int, *, one_key: bool) -> Evidence:
    return Evidence(
        number=number,
        kind=Kind.CALL,
        seen=number - 1,
        at=Moment("c", number, 0),
        answer=Answer.UNKNOWN,
        one_key=one_key,
    )


def _failed(number: int) -> Evidence:
    return Evidence(
        number=number,
        kind=Kind.WORD,
        seen=number - 1,
        at=Moment("c", number, 0),
        answer=FundsMoved.NO,
        source=Source.WEBHOOK,
    )


def test_calls_under_one_final_key_are_one() -> None:
    """A key that never ends and is never tried again after a failure: the word is about both calls."""
    history = History((_call(1, one_key=True), _call(2, one_key=True), _failed(3)))
    assert ended(history)


def test_otherwise_an_earlier_call_may_be_meant() -> None:
    """The first call was refused late while the second is on its way: the word ends nothing."""
    history = History((_call(1, one_key=False), _call(2, one_key=False), _failed(3)))
    assert not ended(history)
