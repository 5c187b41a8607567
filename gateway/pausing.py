"""Pausing and resuming payouts, and what waits meanwhile. Store functions.

Who may pause what is the caller's to check: a key of an org only its own payouts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from gateway.errors import Refused
from gateway.model import Account, Payout
from gateway.pause import Pause, PauseScope, Subject, held_by, holds
from gateway.runtime import Moment, Runtime
from gateway.store.audit import INSTALLATION, Act, add_audit
from gateway.store.database import Tx
from gateway.store.pauses import active_pauses, add_pause, remove_pause, waiting_page, wake_held

#: Acts in the audit log.
PAUSED, RESUMED = "paused", "resumed"
_RETRY_AFTER = {"Retry-After": "60"}


@dataclass(frozen=True)
class Wanted:
    """What is to be paused or resumed."""

    scope: PauseScope
    target: str = ""
    #: the org that does it; empty: the operator
    owner: str = ""
    #: `live` or `test`; empty: both
    mode: str = ""


@dataclass(frozen=True)
class Waiting:
    """What waits while something is paused. Times by the wall clock, in microseconds."""

    payouts: int = 0
    first_expiry: int | None = None
    last_expiry: int | None = None


async def pause(  # noqa: PLR0913 - what, why and by whom
    tx: Tx, runtime: Runtime, wanted: Wanted, reason: str, act: Act, *, keep_accepting: bool = False
) -> Pause:
    """Pause payouts; when this is committed, no mark of them is set any more. May be called again.

    A pause of the same kind that is there already gets the new reason and terms.
    """
    now = runtime.clock.moment().wall
    done = await add_pause(
        tx,
        Pause(
            id=runtime.ids.new("pau"),
            scope=wanted.scope,
            target=wanted.target,
            owner=wanted.owner,
            mode=wanted.mode,
            reason=reason,
            actor=act.actor,
            keep_accepting=keep_accepting,
            since=now,
        ),
    )
    await _audit(tx, runtime, done, PAUSED, reason, act)
    return done


async def standing(tx: Tx, wanted: Wanted) -> Pause | None:
    """Return the pause of this kind that there is already, or None. Store function."""
    names = wanted.scope, wanted.target, wanted.owner, wanted.mode
    return next(
        (
            each
            for each in await active_pauses(tx)
            if (each.scope, each.target, each.owner, each.mode) == names
        ),
        None,
    )


async def resume(
    tx: Tx, runtime: Runtime, wanted: Wanted, reason: str, act: Act
) -> list[Pause] | None:
    """End a pause; return those that remain. None: there is no such pause.

    What nothing else holds is due at once.
    """
    found = await standing(tx, wanted)
    return None if found is None else await end_pause(tx, runtime, found, reason, act)


async def end_pause(
    tx: Tx, runtime: Runtime, ended: Pause, reason: str, act: Act
) -> list[Pause] | None:
    """End a pause that was read; return those that remain. None: it was already ended."""
    if await remove_pause(tx, ended.id) is None:
        return None
    await _audit(tx, runtime, ended, RESUMED, reason, act)
    await wake_held(tx, runtime.timeline.now())
    return await active_pauses(tx)


async def _audit(  # noqa: PLR0913 - the act and its circumstances
    tx: Tx, runtime: Runtime, each: Pause, act: str, reason: str, by: Act
) -> None:
    terms = {"mode": each.mode or "both", "keep_accepting": each.keep_accepting}
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=by.actor,
        act=act,
        subject=each.name,
        detail=reason,
        org=each.owner or INSTALLATION,
        before=None if act == PAUSED else terms,
        after=terms if act == PAUSED else None,
        request_id=by.request_id,
    )


def subject_of(payout: Payout) -> Subject:
    """Return what a pause may stop of a payout. Pure."""
    mode = "live" if payout.livemode else "test"
    return Subject(payout.org, mode, payout.custodian, payout.account, payout.terms.asset)


async def refuse_if_paused(tx: Tx, subject: Subject, *, accepting: bool = True) -> None:
    """Raise Refused: `paused`, where a pause holds such a payout. To be asked only where there is one.

    `accepting`: pauses during which new quotes are given do not count.
    """
    found = await (pauses_of_quotes if accepting else active_pauses)(tx)
    holding = held_by(found, [subject])
    if holding is None:
        return
    raise Refused("paused", paused_detail(holding), headers=_RETRY_AFTER)


async def pauses_of_quotes(tx: Tx) -> list[Pause]:
    """Return the pauses during which no new quotes are given for what they hold. Store function."""
    return [each for each in await active_pauses(tx) if not each.keep_accepting]


def paused_detail(holding: Pause) -> str:
    """Return what a partner hears of a pause. Pure."""
    if holding.scope is PauseScope.ORG and not holding.owner:
        return "The operator has paused your payouts. Nothing was done."
    whose = "your org" if holding.owner else "the operator"
    return f"Paused by {whose}: {holding.name}. Nothing was done."


async def waiting(tx: Tx, each: Pause, now: Moment, submit_within: int) -> Waiting:
    """Return which payouts a pause holds that nothing was sent for, and when their time is over.

    A long read. `submit_within` is in microseconds. A payout that was accepted before the machine was
    restarted, or on another one, may have more time than reported here, because counting starts again.
    """
    count, expiries, after = 0, [], ""
    while page := await waiting_page(tx, after):
        after = page[-1]["payout_id"]
        for row in page:
            account = Account.model_validate_json(row["account"])
            asset = json.loads(row["terms"])["asset"]
            subject = Subject(row["org"], row["mode"], row["custodian"], account, asset)
            if not holds(each, subject):
                continue
            count += 1
            passed = now.wall - row["created_at"]
            if row["created_clock_id"] == now.clock_id:
                passed = now.elapsed - row["created_elapsed"]
            expiries.append(now.wall + max(0, submit_within - passed))
    if not expiries:
        return Waiting(count)
    return Waiting(count, min(expiries), max(expiries))
