"""What an adapter must not claim: the payout goes to the operator's list, and never to `delivered`."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import (
    Failure,
    FailureCode,
    FundsMoved,
    OutcomeUnknown,
    Report,
    SubStatus,
)
from gateway.errors import AdapterFault
from gateway.execution.decide import decide
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.proof import Source
from gateway.execution.state import State, Verb
from gateway.model import Attention, Status
from gateway.store import payouts as payout_rows
from gateway.store.database import Tx
from tests.execution.conftest import Bench
from tests.execution.rows import rows
from tests.execution.test_decide import paying, view

FAULT = AdapterFault("Report.failure is missing; name it", where="acme.fetch")
YES = Failure(code=FailureCode.CUSTODIAN_ERROR, message="lost", funds_moved=FundsMoved.YES)
CLAIMS = {
    **{
        each.value: Report(each, "WORD")
        for each in (
            SubStatus.BROADCAST,
            SubStatus.CONFIRMING,
            SubStatus.SETTLING,
            SubStatus.DELIVERED,
        )
    },
    "failed, and the money is gone": Report(SubStatus.FAILED, "WORD", failure=YES),
}


@pytest.fixture
def capabilities(capabilities: Any) -> Any:
    """One payout after the other is not what these tests are about."""
    return replace(capabilities, one_at_a_time=False)


async def _listed(tx: Tx) -> list[tuple[str, str]]:
    return [(row["code"], row["detail"]) for row in await payout_rows.attention_list(tx, 10)]


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("verb", [Verb.SUBMIT, Verb.FETCH])
async def test_money_does_not_move_without_a_mark(bench: Bench, name: str, verb: Verb) -> None:
    """By a reply or a look: nothing is told to the partner, the next mark is refused, a person looks."""
    payout_id = await bench.accept()
    job = await bench.begin()
    await bench.record(job, verb, CLAIMS[name])
    payout = await bench.payout(payout_id)
    assert payout.status is Status.PENDING
    ((code, detail),) = await bench.db.read(_listed)
    assert code == Attention.ADAPTER_ERROR
    assert detail.startswith(f"adapter.{verb}: Report.")
    assert "call order.moving()" in detail
    await _refused(bench)


@pytest.mark.parametrize("name", CLAIMS)
async def test_a_webhook_without_a_mark_moves_nothing(bench: Bench, name: str) -> None:
    """The sign of a restored copy, or of another payout's reference."""
    payout_id = await bench.accept()
    told = await bench.db.run(bench.recorder.news, payout_id, CLAIMS[name], Source.WEBHOOK)
    assert told is None
    assert (await bench.payout(payout_id)).status is Status.PENDING
    assert [code for code, _ in await bench.db.read(_listed)] == [Attention.ADAPTER_ERROR]
    await _refused(bench)


async def test_with_a_mark_the_same_words_count(bench: Bench) -> None:
    """The control: a call was marked, and what is said of it is believed."""
    payout_id = await bench.accept()
    job = await bench.begin()
    order = bench.order(job)
    await order.moving()
    await bench.record(job, Verb.SUBMIT, CLAIMS["delivered"], order=order)
    assert (await bench.payout(payout_id)).status is Status.DELIVERED
    assert await bench.db.read(_listed) == []


async def _refused(bench: Bench) -> None:
    """Expect that no mark is set any more, as with a mismatch."""
    await bench.clock.advance(400)
    job = await bench.begin()
    with pytest.raises(MarkRefused) as refused:
        await bench.order(job).moving()
    assert refused.value.refusal in {Refusal.BLOCKED, Refusal.NEWS}


def test_a_fault_is_on_the_list_at_once_whatever_the_verb() -> None:
    """After a mark the outcome is unknown; without one it is tried again; a look has failed."""
    for state, verb, history, call, after in (
        (State.MOVING, Verb.SUBMIT, rows(paying(1)), 1, State.UNKNOWN),
        (State.PREPARED, Verb.SUBMIT, rows(), None, State.PREPARED),
        (State.ACCEPTED, Verb.FETCH, rows(paying(1)), None, State.ACCEPTED),
    ):
        decided = decide(view(history, state=state, verb=verb, call=call), FAULT)
        assert decided.state is after
        assert decided.alerts == ((Attention.ADAPTER_ERROR, str(FAULT)),)
    plain = decide(view(rows(paying(1)), state=State.MOVING, call=1), OutcomeUnknown("lost"))
    assert plain.alerts == ()
    assert isinstance(FAULT, OutcomeUnknown)


NOTES: dict[str, Any] = {
    "an amount": Decimal(5),
    "a collection without order": {1},
    "bytes": b"x",
    "no number": float("nan"),
    "an object": object(),
    "a deep amount": {"a": Decimal(1)},
    "a mapping by numbers": {1: "a"},
}


@pytest.mark.parametrize("name", NOTES)
async def test_notes_that_are_no_json_are_refused(bench: Bench, name: str) -> None:
    """Whoever reads them back would find something else; the message names the note."""
    await bench.accept()
    order = bench.order(await bench.begin())
    with pytest.raises(AdapterFault, match=r"remember\(amount=…\) is given an? .*; remember texts"):
        await order.remember(amount=NOTES[name])
    await order.remember(amount="5", many=["a", 1, None, True], pair=("a", "b"))
    assert order.notes["many"] == ["a", 1, None, True]
