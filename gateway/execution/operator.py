"""What an operator may do with a payout by hand, under the engine's own rules and recorded in full.

An operator adds facts that only a person can see; no command adds a permission. `resolve` may say "not
paid" only if the evidence proves it, and `retry` asks the gate again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.adapter import (
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    Ref,
    Report,
    SubStatus,
)
from gateway.errors import GatewayError
from gateway.execution.decide import microseconds
from gateway.execution.gate import (
    Other,
    Request,
    earlier_is_closed,
    items_are_pending,
    key_is_alive,
    may_end_unpaid,
    no_news,
    nothing_blocks,
    others_are_closed,
    repeat_is_harmless,
)
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
from gateway.model import Payout, Status
from gateway.runtime import Moment, Runtime
from gateway.store import evidence as stored
from gateway.store import executions
from gateway.store import payouts as payout_rows
from gateway.store import state as store_state
from gateway.store.attention import close_of_ended
from gateway.store.audit import add_audit
from gateway.store.batches import note_ended_item
from gateway.store.database import Row, Tx
from gateway.views import BY_OPERATOR

#: Who acts where no name is known.
OPERATOR = "operator"
#: Acts in the audit log.
RESOLVED, LOOK_ASKED, RETRIED = "payout_resolved", "payout_look_asked", "payout_retried"
ASKED_AGAIN = "payout_asked_again"


class NotAllowedError(GatewayError):
    """The action is not possible, or the proof that it needs is missing; the message gives the reason."""


class ProofMissingError(NotAllowedError):
    """The gate would refuse a retry; the message names what is missing."""


@dataclass(frozen=True)
class LookAsked:
    """The operator has to look at the custodian's own records now, and then repeat the command with this number."""

    number: int


@dataclass(frozen=True)
class Resolution:
    """The end of a payout, as an operator has found it."""

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
    by: str = OPERATOR,
    request_id: str | None = None,
) -> LookAsked | None:
    """End a payout as an operator has found it to be. Store function.

    `by` and the evidence are written to the audit log and shown to nobody else: the evidence may name
    people and accounts.

    `failed` with `funds_moved: no` is allowed if nothing was sent, if absence is proven, or if the
    operator has looked after no call could arrive any more; for such a look, LookAsked is returned the
    first time. Raises NotAllowedError if the payout is unknown or final, if a worker handles it, or if
    the proof is missing.
    """
    payout = await _open_payout(tx, payout_id)
    execution = await executions.open_execution_of(tx, payout_id)
    now = runtime.clock.moment()
    if execution is not None:
        _not_leased(execution, runtime)
        if execution["custodian"] != recorder.custodian:
            raise NotAllowedError(
                f"{payout_id} has gone on at {execution['custodian']} since you asked; try again"
            )
    if found.delivered:
        await _known_transfer(tx, payout, found)
    elif found.funds_moved is FundsMoved.NO:
        asked = await _not_paid(tx, payout, execution, found, now, lag=lag)
        if asked is not None:
            await _audit(tx, runtime, payout, by, LOOK_ASKED, found, request_id)
            return asked
    await _audit(tx, runtime, payout, by, RESOLVED, found, request_id)
    report = _report_of(found)
    if payout.batch_id is not None and execution is None:
        # Its batch may be running now, with items that were read before this change.
        await note_ended_item(tx, payout.batch_id)
    if found.delivered or execution is None:
        applied = await recorder.news(tx, payout_id, report, Source.OPERATOR)
        if applied is not None and applied.final:
            await close_of_ended(tx, payout_id, now.wall)
    else:
        await recorder.end(tx, execution, payout_id, report)
        await executions.wake(tx, payout_id, runtime.timeline.now())
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
    """Check whether "no money moved" may be recorded; None if it may."""
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
    if has_news(history):
        raise NotAllowedError(
            "money of this payout was seen on its way, and the gateway follows it; where the custodian's "
            "records say that it came back or never left, say funds_moved unknown"
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
    """Return the report. Partners and subscribers see it, so it contains none of the evidence."""
    if found.delivered:
        return Report(
            SubStatus.DELIVERED,
            "",
            detail=BY_OPERATOR,
            custodian_reference=found.transfer,
            # The hash becomes the payout's own, so no other payout can be delivered by it.
            refs=(Ref(payout_rows.OPERATORS_REF, found.transfer),) if found.transfer else (),
        )
    failure = Failure(
        code=FailureCode.OPERATOR_DECISION, message=BY_OPERATOR, funds_moved=found.funds_moved
    )
    return Report(SubStatus.FAILED, "", failure=failure, detail=BY_OPERATOR)


async def _audit(  # noqa: PLR0913 - the act and its circumstances
    tx: Tx,
    runtime: Runtime,
    payout: Payout,
    by: str,
    act: str,
    found: Resolution | None = None,
    request_id: str | None = None,
) -> None:
    after = None
    if found is not None:
        after = {
            "as": "delivered" if found.delivered else "failed",
            "funds_moved": None if found.delivered else found.funds_moved,
            "transfer": found.transfer,
            "looked": found.looked,
        }
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=by,
        act=act,
        subject=payout.id,
        org=payout.org,
        detail="" if found is None else found.evidence,
        before={"status": payout.status, "sub_status": payout.sub_status},
        after=after,
        request_id=request_id,
    )


async def ask_again(
    tx: Tx, runtime: Runtime, payout_id: str, *, by: str = OPERATOR, request_id: str | None = None
) -> str:
    """Bring the next look at a payout forward; return the custodian to wake. Store function.

    It only reads at the custodian, so it is always safe and may be called again. Raises NotAllowedError
    if the next step is not a look.
    """
    payout = await _open_payout(tx, payout_id)
    execution = await executions.open_execution_of(tx, payout_id)
    if execution is None:
        raise NotAllowedError(_not_sent_yet(payout))
    _not_leased(execution, runtime)
    history = await history_of(tx, execution, runtime.clock.moment())
    if State(execution["state"]) is State.PREPARED and not has_news(history):
        raise NotAllowedError("nothing was sent yet, so there is nothing to ask for")
    await _audit(tx, runtime, payout, by, ASKED_AGAIN, None, request_id)
    await executions.wake(tx, payout_id, runtime.timeline.now())
    return payout.custodian


async def refuse_retry(
    tx: Tx, runtime: Runtime, payout_id: str, capabilities: Capabilities, asked: str = ""
) -> None:
    """Raise what `retry` would raise now, without a change. Store function."""
    await _retryable(tx, runtime, payout_id, capabilities, asked)


async def retry(  # noqa: PLR0913 - the act and its circumstances
    tx: Tx,
    runtime: Runtime,
    payout_id: str,
    capabilities: Capabilities,
    asked: str = "",
    *,
    by: str = OPERATOR,
    request_id: str | None = None,
) -> None:
    """Have a payout submitted again, with the same keys. Store function.

    It adds no permission: the gate decides again at the mark. `asked` names the account that is
    configured now. ProofMissingError names what is missing; NotAllowedError says why there is nothing
    to submit.
    """
    payout, execution = await _retryable(tx, runtime, payout_id, capabilities, asked)
    await _audit(tx, runtime, payout, by, RETRIED, None, request_id)
    await executions.update_execution(
        tx,
        execution["id"],
        state=State.PREPARED.value,
        looks=0,
        due_at=runtime.timeline.now(),
    )


async def _retryable(
    tx: Tx, runtime: Runtime, payout_id: str, capabilities: Capabilities, asked: str
) -> tuple[Payout, Row]:
    """Return a payout and its execution if it may be submitted again."""
    payout = await _open_payout(tx, payout_id)
    execution = await executions.open_execution_of(tx, payout_id)
    if execution is None:
        raise NotAllowedError(_not_sent_yet(payout))
    _not_leased(execution, runtime)
    now = runtime.clock.moment()
    history = await history_of(tx, execution, now, asked=asked)
    rows = (await executions.items_of(tx, [execution["id"]]))[execution["id"]]
    items = {each["id"]: Status(each["status"]) for each in rows}
    others = await others_of(tx, execution["id"], items, now) if execution["earlier"] else ()
    asks = any(each["sub_status"] == SubStatus.REQUIRES_ACTION for each in rows)
    if State(execution["state"]) is State.PREPARED and not has_news(history):
        raise NotAllowedError("nothing is to be done: the engine submits it by itself")
    wanted = _request(execution, history, items, others, capabilities, asked)
    missing = missing_proof(State(execution["state"]), wanted, now, asks=asks)
    if missing is not None:
        raise ProofMissingError(missing)
    return payout, execution


def _request(  # noqa: PLR0913 - what the right of a mark depends on
    execution: Row,
    history: History,
    items: Mapping[str, Status],
    others: tuple[Other, ...],
    capabilities: Capabilities,
    asked: str,
) -> Request:
    """Return the request for the mark of a retry, which repeats the last call."""
    said, unknown = execution["repeat_is_safe"], open_calls(history)
    return Request(
        token_current=True,
        frozen=False,
        state_file=None,
        gate_version=0,
        blocked=execution["blocked"],
        history=history,
        items=items,
        others=others,
        reference=unknown[-1].reference if unknown else None,
        fingerprint=asked or next((e.fingerprint for e in history.rows[::-1] if e.fingerprint), ""),
        repeat_is_safe=capabilities.keys.repeat_is_safe if said is None else bool(said),
        key_life=microseconds(capabilities.keys.life_s),
        call_life=unknown[-1].call_life if unknown else None,
    )


def missing_proof(state: State, wanted: Request, now: Moment, *, asks: bool) -> str | None:
    """Return what the gate would miss if an execution were submitted again by hand, or None. Pure."""
    followed = "the custodian has it" if state is State.ACCEPTED else "a transfer of it was seen"
    rules = (
        (
            nothing_blocks(wanted),
            f"the end of what blocks it ({wanted.blocked}); only `payouts resolve` ends it",
        ),
        (
            no_news(wanted),
            f"proof that it did not pay: {followed}, and the gateway follows it",
        ),
        (
            items_are_pending(wanted),
            "an item of its set has ended or is on its way; the set is not sent again as it is",
        ),
        (others_are_closed(wanted), "proof that an earlier execution of it did not pay"),
    )
    for holds, missing in rules:
        if not holds:
            return missing
    if earlier_is_closed(wanted):
        answer = (
            "the answer of the person who was asked (`POST /payouts/{id}/confirm`), or a cancel"
        )
        return answer if asks else None
    return _missing_for_repeat(state, wanted, now)


def _missing_for_repeat(state: State, wanted: Request, now: Moment) -> str | None:
    """Return what is missing before a call that may have arrived can be repeated, or None."""
    if state is State.MOVING:
        return "the outcome of the call in progress"
    if state is State.UNKNOWN and wanted.repeat_is_safe:
        if not repeat_is_harmless(wanted):
            return (
                "one call to repeat: what may have arrived was sent under several references, or at another "
                "account than the one that is configured now"
            )
        reference, life, call_life = wanted.reference, wanted.key_life, wanted.call_life
        if key_is_alive(wanted.history, reference, life, call_life, now):
            return None
        return "a key that the custodian certainly remembers: the first call is too old"
    if state is State.ACCEPTED:
        return "proof that it did not pay: the custodian has it, and the gateway follows it"
    return _missing_absence(wanted.history)


def _missing_absence(history: History) -> str:
    """Return what is missing before absence is proven."""
    unknown = open_calls(history)
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
