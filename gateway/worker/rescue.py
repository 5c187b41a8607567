"""What an operator may do with a payout by hand: the engine's own rules, and everything recorded."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from gateway.adapter import Capabilities, Failure, FailureCode, FundsMoved, Report, SubStatus
from gateway.errors import GatewayError
from gateway.model import Payout
from gateway.payouts import Payouts
from gateway.recovery import Attempt, AttemptState, absence_proven
from gateway.runtime import Runtime
from gateway.store import payouts as payout_rows
from gateway.store import sets, work
from gateway.store.database import Tx
from gateway.store.rows import to_us
from gateway.worker.says import attempt_of


class NotAllowedError(GatewayError):
    """The proof that the act needs is missing; the message names what."""


async def resolve(  # noqa: PLR0913 - the decision and its circumstances
    tx: Tx,
    payouts: Payouts,
    runtime: Runtime,
    payout_id: str,
    *,
    delivered: bool,
    funds_moved: FundsMoved,
    evidence: str,
) -> None:
    """End a payout as an operator has found it to be. Store function; the evidence is recorded.

    It goes through `apply` as all news does: event, timeline, deliveries. NotAllowedError where the
    payout is unknown or final, or while a worker has it in hand.
    """
    payout = await _open_payout(tx, runtime, payout_id)
    await _leaves_alone(tx, runtime, payout)
    detail = f"resolved by an operator: {evidence}"
    failure = None
    if not delivered:
        failure = Failure(
            code=FailureCode.OPERATOR_DECISION, message=detail, funds_moved=funds_moved
        )
    report = Report(
        SubStatus.DELIVERED if delivered else SubStatus.FAILED,
        "",
        failure=failure,
        detail=detail,
    )
    attempt = await work.last_attempt(tx, payout.id)
    await payouts.apply(tx, payout.id, report)
    if attempt is not None:
        await work.update_attempt(
            tx,
            payout.id,
            attempt["number"],
            state=AttemptState.ENDED,
            outcome=detail,
            ended_at=to_us(runtime.clock.now()),
        )


async def retry(tx: Tx, runtime: Runtime, payout_id: str, capabilities: Capabilities) -> None:
    """Have a payout submitted again, with the same keys. Store function.

    NotAllowedError unless it is proven that the attempt did not pay; the message names what is missing.
    """
    payout = await _open_payout(tx, runtime, payout_id)
    row = await work.last_attempt(tx, payout.id)
    if row is None and payout.batch_id is not None:
        raise NotAllowedError(
            f"a retry of its own: it goes with its batch {payout.batch_id}, whose set is submitted again "
            "by the engine once it is proven that it did not pay; `payouts show` tells how it stands"
        )
    attempt = None if row is None else attempt_of(row)
    missing = missing_proof(attempt, capabilities)
    if missing is not None:
        raise NotAllowedError(missing)
    assert attempt is not None  # noqa: S101 - without one the proof is missing
    ready = replace(attempt, state=AttemptState.PREPARED)
    await work.update_attempt(tx, payout.id, ready.number, state=ready.state, failures=0, looks=0)
    await work.hasten_work(tx, payout.id, to_us(runtime.clock.now()))


def missing_proof(attempt: Attempt | None, capabilities: Capabilities) -> str | None:
    """Return what is missing before an attempt may be submitted again by hand, or None. Pure."""
    if attempt is None or attempt.state is AttemptState.PREPARED:
        return "nothing is missing and nothing is to be done: the engine submits it by itself"
    if attempt.state is AttemptState.PARKED and attempt.moves == 0:
        return None
    if attempt.state is AttemptState.UNKNOWN and absence_proven(attempt, capabilities):
        return None
    if attempt.state is AttemptState.UNKNOWN:
        return (
            f"proof that the first call did not pay: {attempt.absences} of {capabilities.absence_looks} answers "
            f"that the custodian does not know it, over at least {capabilities.visibility_s:g} s"
        )
    if attempt.state is AttemptState.MOVING:
        return "the outcome of the call that is under way"
    return "proof that it did not pay: the custodian has it, and it is being followed"


async def _leaves_alone(tx: Tx, runtime: Runtime, payout: Payout) -> None:
    """Refuse to end an item of a batch that would still be sent with its set, or by its batch."""
    if payout.batch_id is None or await work.work_row(tx, payout.id) is not None:
        return
    row = await sets.set_of_item(tx, payout.id)
    if row is None or (not row["moves"] and row["ended_at"] is None):
        raise NotAllowedError(
            f"{payout.id} has not been sent; cancel its batch {payout.batch_id} instead"
        )
    if row["lease_until"] > to_us(runtime.clock.now()):
        raise NotAllowedError("a worker has its set in hand; try again in a minute")


async def _open_payout(tx: Tx, runtime: Runtime, payout_id: str) -> Payout:
    payout = await payout_rows.find_payout(tx, payout_id)
    if payout is None:
        raise NotAllowedError(f"there is no payout {payout_id}")
    if payout.final:
        raise NotAllowedError(f"{payout_id} is {payout.status}: final statuses never change")
    row = await work.work_row(tx, payout.id)
    now = runtime.clock.now()
    if row is not None and row["lease_until"] > to_us(now):
        left = timedelta(microseconds=row["lease_until"] - to_us(now)).total_seconds()
        raise NotAllowedError(
            f"a worker ({row['lease_owner']}) has it in hand for up to {left:.0f} s; try again then"
        )
    return payout
