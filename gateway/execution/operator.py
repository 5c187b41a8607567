"""What an operator may do with a payout by hand: the engine's own rules, and everything recorded.

An operator adds what only a person can see; no command adds a right. `resolve` may say "not paid" only
where the evidence proves it, and `retry` asks the gate again.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.adapter import Capabilities, Failure, FailureCode, FundsMoved, Report, SubStatus
from gateway.errors import GatewayError
from gateway.execution.decide import microseconds
from gateway.execution.gate import key_is_alive, may_end_unpaid
from gateway.execution.history import columns_of, history_of, others_of
from gateway.execution.proof import (
    Evidence,
    Finding,
    History,
    Kind,
    Source,
    call_can_die,
    closed,
    console_look,
    has_news,
    open_calls,
)
from gateway.execution.record import Recorder
from gateway.execution.state import State
from gateway.model import Payout
from gateway.runtime import Moment, Runtime
from gateway.store import evidence as stored
from gateway.store import executions
from gateway.store import payouts as payout_rows
from gateway.store import state as store_state
from gateway.store.database import Row, Tx


class NotAllowedError(GatewayError):
    """The proof that the act needs is missing; the message names what."""


@dataclass(frozen=True)
class LookAsked:
    """The operator has to look at the custodian's own records now, and to name this number then."""

    number: int


@dataclass(frozen=True)
class Resolution:
    """How an operator has found a payout to have ended."""

    delivered: bool
    evidence: str
    funds_moved: FundsMoved = FundsMoved.UNKNOWN
    #: the transfer's id at the custodian, for `delivered`
    transfer: str | None = None
    #: the number of the look that the operator was asked for
    looked: int | None = None


async def resolve(  # noqa: PLR0913 - the decision and its circumstances
    tx: Tx,
    recorder: Recorder,
    runtime: Runtime,
    payout_id: str,
    found: Resolution,
    *,
    lag: bool = True,
) -> LookAsked | None:
    """End a payout as an operator has found it to be. Store function; the evidence is recorded.

    `failed` with `funds_moved: no` needs that nothing was sent, or proof, or the operator's own look
    after no call could arrive any more: then LookAsked is returned the first time. NotAllowedError where
    the payout is unknown or final, while a worker handles it, or where the proof is missing.
    """
    payout = await _open_payout(tx, payout_id)
    execution = await executions.open_execution_of(tx, payout_id)
    now = runtime.clock.moment()
    if execution is not None:
        _not_leased(execution, runtime)
    if found.delivered:
        await _known_transfer(tx, payout, found)
    elif found.funds_moved is FundsMoved.NO:
        asked = await _not_paid(tx, payout, execution, found, now, lag=lag)
        if asked is not None:
            return asked
    report = _report_of(found)
    if found.delivered and execution is not None:
        await recorder.news(tx, payout_id, report, Source.OPERATOR)
    elif execution is not None:
        await recorder.end(tx, execution, payout_id, report)
        await executions.wake(tx, payout_id, runtime.timeline.now())
    else:
        await recorder.news(tx, payout_id, report, Source.OPERATOR)
    return None


async def _not_paid(  # noqa: PLR0913 - the decision and its circumstances
    tx: Tx,
    payout: Payout,
    execution: Row | None,
    found: Resolution,
    now: Moment,
    *,
    lag: bool,
) -> LookAsked | None:
    """Check the right to say that no money moved; None: it may be said."""
    if execution is None:
        raise NotAllowedError(_not_sent_yet(payout))
    history = await history_of(tx, execution, now)
    others = await others_of(tx, execution["id"], [payout.id], now)
    frozen = await store_state.frozen(tx) is not None
    if may_end_unpaid(history, payout.id, others, looked=found.looked, lag=lag, frozen=frozen):
        return None
    if frozen:
        raise NotAllowedError(
            "the database may be an old copy that misses a call: adopt it first (`db adopt`), or say "
            "funds_moved unknown"
        )
    if not all(closed(each.history, payout.id) for each in others):
        raise NotAllowedError(
            "an earlier execution of it may still have paid; say funds_moved unknown"
        )
    if found.looked is not None:
        raise NotAllowedError(
            f"look {found.looked} does not count: it was not asked for, or a call was made since"
        )
    left = console_look(history, now, lag=lag)
    if left is None:
        raise NotAllowedError(
            "a request of this payout never stops being acceptable at the custodian, so that nobody can "
            "know that it will not be paid; say funds_moved unknown"
        )
    if left > 0:
        raise NotAllowedError(
            f"a call of this payout may still arrive for {left / 1e6:.0f} s; look at the custodian's own "
            "records after that, or say funds_moved unknown"
        )
    number = execution["rows"] + 1
    row = Evidence(
        number=number, kind=Kind.CONSOLE, seen=execution["rows"], at=now, source=Source.OPERATOR
    )
    await stored.add_evidence(tx, [columns_of(execution["id"], row, found.evidence)])
    await executions.update_execution(tx, execution["id"], rows=number)
    return LookAsked(number)


def _not_sent_yet(payout: Payout) -> str:
    if payout.batch_id is not None:
        return f"{payout.id} has not been sent; cancel its batch {payout.batch_id} instead"
    return f"{payout.id} has not been sent; cancel it instead"


async def _known_transfer(tx: Tx, payout: Payout, found: Resolution) -> None:
    if not found.transfer:
        raise NotAllowedError(
            "name the transfer that delivered it: its id or hash at the custodian"
        )
    owner = await payout_rows.payout_of_any_id(tx, found.transfer)
    if owner not in {None, payout.id}:
        raise NotAllowedError(f"the transfer {found.transfer} belongs to {owner}")


def _report_of(found: Resolution) -> Report:
    detail = f"resolved by an operator: {found.evidence}"
    if found.delivered:
        return Report(
            SubStatus.DELIVERED,
            "",
            detail=f"{detail} (transfer {found.transfer})",
            custodian_reference=found.transfer,
        )
    failure = Failure(
        code=FailureCode.OPERATOR_DECISION, message=detail, funds_moved=found.funds_moved
    )
    return Report(SubStatus.FAILED, "", failure=failure, detail=detail)


async def retry(tx: Tx, runtime: Runtime, payout_id: str, capabilities: Capabilities) -> None:
    """Have a payout submitted again, with the same keys. Store function.

    It adds no right: the gate decides again at the mark. NotAllowedError names what is missing.
    """
    payout = await _open_payout(tx, payout_id)
    execution = await executions.open_execution_of(tx, payout_id)
    if execution is None:
        raise NotAllowedError(f"an execution: {_not_sent_yet(payout)}")
    _not_leased(execution, runtime)
    now = runtime.clock.moment()
    history = await history_of(tx, execution, now)
    rows = (await executions.items_of(tx, [execution["id"]]))[execution["id"]]
    items = [each["id"] for each in rows if each["status"] in {"pending", "broadcast"}]
    missing = missing_proof(execution, history, items, capabilities, now)
    if missing is not None:
        raise NotAllowedError(missing)
    await executions.update_execution(
        tx,
        execution["id"],
        state=State.PREPARED.value,
        failures=0,
        looks=0,
        due_at=runtime.timeline.now(),
    )


def missing_proof(  # noqa: PLR0911 - one per kind of what is missing
    execution: Row, history: History, items: list[str], capabilities: Capabilities, now: Moment
) -> str | None:
    """Return what is missing before an execution may be submitted again by hand, or None. Pure."""
    state = State(execution["state"])
    if execution["blocked"] is not None:
        return f"the end of what blocks it ({execution['blocked']}); only `payouts resolve` ends it"
    if has_news(history) and state is not State.ACCEPTED:
        return "proof that it did not pay: a transfer of it was seen, and the gateway follows it"
    if state is State.PREPARED:
        return "nothing is missing and nothing is to be done: the engine submits it by itself"
    if all(closed(history, item) for item in items):
        return None
    if state is State.MOVING:
        return "the outcome of the call in progress"
    unknown = open_calls(history)
    said = execution["repeat_is_safe"]
    safe = capabilities.keys.repeat_is_safe if said is None else bool(said)
    if safe and state is State.UNKNOWN:
        life = microseconds(capabilities.keys.life_s)
        if key_is_alive(history, unknown[-1].reference, life, unknown[-1].call_life, now):
            return None
        return "a key that the custodian certainly remembers: the first call is too old"
    if state is State.ACCEPTED:
        return "proof that it did not pay: the custodian has it, and the gateway follows it"
    if not all(call_can_die(each) for each in unknown):
        return "proof that the first call did not pay: its request can be accepted for ever"
    absent = sum(each.answer == Finding.ABSENT for each in history.rows)
    wanted = max(each.absence_looks for each in unknown)
    life_s = max((each.call_life or 0) + each.visibility for each in unknown) / 1e6
    return (
        f"proof that the first call did not pay: {absent} of {wanted} looks that did not find it, the "
        f"last one at least {life_s:g} s after the last call"
    )


def _not_leased(execution: Row, runtime: Runtime) -> None:
    left = (execution["lease_until"] - runtime.timeline.now()) / 1e6
    if left > 0:
        raise NotAllowedError(
            f"a worker ({execution['lease_owner']}) handles it for up to {left:.0f} s; try again then"
        )


async def _open_payout(tx: Tx, payout_id: str) -> Payout:
    payout = await payout_rows.find_payout(tx, payout_id)
    if payout is None:
        raise NotAllowedError(f"there is no payout {payout_id}")
    if payout.final:
        raise NotAllowedError(f"{payout_id} is {payout.status}: final statuses never change")
    return payout
