"""The engine's outbox: leases with fencing tokens, attempts, locks on source accounts.

A lease is taken by raising `lease_token`; whoever holds an older token writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import and_, bindparam, case, delete, func, insert, select, update

from gateway.store.database import Query, Row, Tx, upsert
from gateway.store.rows import to_json
from gateway.store.schema import account_locks, attempts, payouts, work
from gateway.store.sets import hasten_set, waiting_set

_ADD = Query(upsert(work).on_conflict_do_nothing())
_DROP = Query(delete(work).where(work.c.payout_id == bindparam("payout_id")))
_CLAIM = Query(
    update(work)
    .where(
        work.c.payout_id.in_(
            select(work.c.payout_id)
            .where(
                and_(
                    work.c.custodian == bindparam("custodian"),
                    work.c.due_at <= bindparam("now"),
                    work.c.lease_until <= bindparam("now"),
                )
            )
            .order_by(work.c.rank, work.c.due_at)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(
        lease_token=work.c.lease_token + 1,
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until"),
        # News that arrives while the lease is held lowers this again, and so is not lost at release.
        due_at=bindparam("until"),
    )
    .returning(work.c.payout_id, work.c.lease_token, work.c.due_at)
)
_CLAIM_ONE = Query(
    update(work)
    .where(
        and_(work.c.payout_id == bindparam("claimed_id"), work.c.lease_until <= bindparam("now"))
    )
    .values(
        lease_token=work.c.lease_token + 1,
        lease_owner=bindparam("owner"),
        lease_until=bindparam("until"),
        due_at=bindparam("until"),
    )
    .returning(work.c.payout_id, work.c.lease_token, work.c.due_at)
)
_HELD = and_(
    work.c.payout_id == bindparam("held_id"),
    work.c.lease_token == bindparam("held_token"),
)
_EXTEND = Query(
    update(work)
    .where(and_(_HELD, work.c.lease_until > bindparam("now")))
    .values(lease_until=bindparam("until"))
    .returning(work.c.payout_id)
)
_CHECK = Query(select(work.c.payout_id).where(_HELD))
_RELEASE = Query(
    update(work)
    .where(_HELD)
    .values(
        due_at=case(
            (work.c.due_at == bindparam("claimed_due"), bindparam("due")), else_=work.c.due_at
        ),
        lease_until=bindparam("free"),
    )
    .returning(work.c.payout_id)
)
_HASTEN = Query(
    update(work)
    .where(and_(work.c.payout_id == bindparam("hastened_id"), work.c.due_at > bindparam("now")))
    .values(due_at=bindparam("now"))
    .returning(work.c.custodian)
)
_ANEW = Query(
    update(attempts)
    .where(and_(attempts.c.payout_id == bindparam("payout_id"), attempts.c.ended_at.is_(None)))
    .values(looks=0)
)
_NEXT_DUE = Query(
    select(func.min(func.max(work.c.due_at, work.c.lease_until)).label("due")).where(
        work.c.custodian == bindparam("custodian")
    )
)
_ROW = Query(select(work).where(work.c.payout_id == bindparam("payout_id")))
_OLDEST_DUE = Query(select(func.min(work.c.due_at).label("due")))

_ATTEMPT = Query(
    select(attempts)
    .where(attempts.c.payout_id == bindparam("payout_id"))
    .order_by(attempts.c.number.desc())
    .limit(1)
)
_ATTEMPTS = Query(
    select(attempts)
    .where(attempts.c.payout_id == bindparam("payout_id"))
    .order_by(attempts.c.number)
)
_ADD_ATTEMPT = Query(insert(attempts))

_TAKE_LOCK = Query(upsert(account_locks).on_conflict_do_nothing())
_LOCK = Query(
    select(account_locks.c.payout_id).where(
        and_(
            account_locks.c.custodian == bindparam("custodian"),
            account_locks.c.account_type == bindparam("account_type"),
            account_locks.c.account_id == bindparam("account_id"),
        )
    )
)
_FREE_LOCK = Query(
    delete(account_locks)
    .where(account_locks.c.payout_id == bindparam("payout_id"))
    .returning(account_locks.c.custodian, account_locks.c.account_type, account_locks.c.account_id)
)
_NEXT_QUEUED = Query(
    select(payouts.c.id, payouts.c.created_at)
    .join(work, work.c.payout_id == payouts.c.id)
    .where(
        and_(
            payouts.c.custodian == bindparam("custodian"),
            payouts.c.account == bindparam("account"),
            # The status says no more than the sub-status, but it has an index.
            payouts.c.status == "pending",
            payouts.c.sub_status == "queued",
        )
    )
    .order_by(payouts.c.created_at, payouts.c.id)
    .limit(1)
)


async def add_work(tx: Tx, payout_id: str, custodian: str, due: int, *, rank: int = 0) -> None:
    """Give the engine a payout; a second time changes nothing. Of a lower rank goes first."""
    await tx.all(
        _ADD,
        payout_id=payout_id,
        custodian=custodian,
        due_at=due,
        lease_token=0,
        lease_owner=None,
        lease_until=0,
        rank=rank,
    )


async def drop_work(tx: Tx, payout_id: str) -> None:
    """Take a final payout off the engine."""
    await tx.all(_DROP, payout_id=payout_id)


async def claim_work(  # noqa: PLR0913 - the terms of a lease
    tx: Tx, custodian: str, owner: str, now: int, until: int, limit: int
) -> list[Row]:
    """Lease due payouts of one custodian: rows with `payout_id`, `lease_token`, `due_at`."""
    return await tx.all(_CLAIM, custodian=custodian, owner=owner, now=now, until=until, limit=limit)


async def claim_one(tx: Tx, payout_id: str, owner: str, now: int, until: int) -> Row | None:
    """Lease one payout, due or not; None where somebody has it in hand, or it is final."""
    return await tx.one(_CLAIM_ONE, claimed_id=payout_id, owner=owner, now=now, until=until)


async def extend_lease(tx: Tx, payout_id: str, token: int, now: int, until: int) -> bool:
    """Prolong a lease that is still ours and has not ended; False where it is lost."""
    row = await tx.one(_EXTEND, held_id=payout_id, held_token=token, now=now, until=until)
    return row is not None


async def holds_lease(tx: Tx, payout_id: str, token: int) -> bool:
    """Whether nobody has taken the lease over since this token was given."""
    return await tx.one(_CHECK, held_id=payout_id, held_token=token) is not None


async def release_work(tx: Tx, payout_id: str, token: int, claimed_due: int, due: int) -> bool:
    """Give a lease back, with the time of the next look; False where it is lost.

    `claimed_due` is the `due_at` that the claim returned: where it was lowered since, by news, the
    payout stays due at once.
    """
    row = await tx.one(
        _RELEASE, held_id=payout_id, held_token=token, claimed_due=claimed_due, due=due, free=0
    )
    return row is not None


async def hasten_work(tx: Tx, payout_id: str, now: int) -> bool:
    """Bring the next look at a payout forward, and begin its polling curve anew: there is news.

    False where it was due anyway or is final.
    """
    await tx.all(_ANEW, payout_id=payout_id)
    return await tx.one(_HASTEN, hastened_id=payout_id, now=now) is not None


async def next_due(tx: Tx, custodian: str) -> int | None:
    """Return when the next payout of a custodian can be claimed."""
    row = await tx.one(_NEXT_DUE, custodian=custodian)
    return None if row is None else row["due"]


async def oldest_due(tx: Tx) -> int | None:
    """Return the time since when the longest waiting payout is due."""
    row = await tx.one(_OLDEST_DUE)
    return None if row is None else row["due"]


async def work_row(tx: Tx, payout_id: str) -> Row | None:
    """Return the work row of a payout."""
    return await tx.one(_ROW, payout_id=payout_id)


async def last_attempt(tx: Tx, payout_id: str) -> Row | None:
    """Return the newest attempt of a payout."""
    return await tx.one(_ATTEMPT, payout_id=payout_id)


async def attempts_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return all attempts of a payout, first one first."""
    return await tx.all(_ATTEMPTS, payout_id=payout_id)


async def add_attempt(tx: Tx, payout_id: str, number: int, custodian: str, at: int) -> None:
    """Store the intent to hand a payout to a custodian, before anything is called."""
    await tx.all(
        _ADD_ATTEMPT,
        payout_id=payout_id,
        number=number,
        custodian=custodian,
        state="prepared",
        notes="{}",
        moving_at=None,
        last_call_at=None,
        moves=0,
        ever_unknown=0,
        absences=0,
        first_absence_at=None,
        last_absence_at=None,
        looks=0,
        failures=0,
        outcome=None,
        created_at=at,
        ended_at=None,
    )


@lru_cache(maxsize=64)
def _update_attempt(names: tuple[str, ...]) -> Query:
    return Query(
        update(attempts)
        .where(
            and_(
                attempts.c.payout_id == bindparam("payout_id"),
                attempts.c.number == bindparam("attempt_number"),
            )
        )
        .values({name: bindparam("set_" + name) for name in names})
    )


async def update_attempt(tx: Tx, payout_id: str, number: int, **columns: object) -> None:
    """Change columns of an attempt."""
    names = tuple(sorted(columns))
    values = {"set_" + name: value for name, value in columns.items()}
    await tx.all(_update_attempt(names), payout_id=payout_id, attempt_number=number, **values)


async def add_notes(
    tx: Tx, payout_id: str, number: int, notes: Mapping[str, object]
) -> dict[str, Any]:
    """Add to the notes of the newest attempt, which must be this one; return all of them."""
    row = await last_attempt(tx, payout_id)
    if row is None or row["number"] != number:
        msg = f"attempt {number} of {payout_id} is not the newest"
        raise LookupError(msg)
    merged: dict[str, Any] = {**json.loads(row["notes"]), **notes}
    await update_attempt(tx, payout_id, number, notes=to_json(merged))
    return merged


async def add_told(tx: Tx, payout_id: str, told: Mapping[str, str]) -> None:
    """Keep what a notice told beside the notes of the newest attempt, every distinct value of it."""
    row = await last_attempt(tx, payout_id)
    if row is None or not told:
        return
    notes = json.loads(row["notes"])
    known: dict[str, list[str]] = notes.get("told", {})
    for name, value in told.items():
        values = known.setdefault(name, [])
        if value not in values:
            values.append(value)
    await update_attempt(tx, payout_id, row["number"], notes=to_json({**notes, "told": known}))


async def take_account(  # noqa: PLR0913 - the account has three parts
    tx: Tx, custodian: str, account_type: str, account_id: str, payout_id: str, at: int
) -> bool:
    """Take the turn at a source account, for a payout or a set; True where it is ours."""
    names = {"custodian": custodian, "account_type": account_type, "account_id": account_id}
    await tx.all(_TAKE_LOCK, **names, payout_id=payout_id, taken_at=at)
    row = await tx.one(_LOCK, **names)
    return row is not None and row["payout_id"] == payout_id


async def free_account(tx: Tx, payout_id: str, custodian: str, account: str, now: int) -> None:
    """Hand the turn at a source account to whoever has waited longest, payout or set. Run it any time.

    It is handed over, not left free: a payout accepted this moment must not overtake the queue.
    """
    freed = await tx.one(_FREE_LOCK, payout_id=payout_id)
    if freed is None:
        return
    following = await tx.one(_NEXT_QUEUED, custodian=custodian, account=account)
    waiting = await waiting_set(tx, custodian, account)
    names = {name: freed[name] for name in ("custodian", "account_type", "account_id")}
    if waiting is not None and (
        following is None or waiting["waiting_since"] < following["created_at"]
    ):
        await tx.all(_TAKE_LOCK, **names, payout_id=waiting["id"], taken_at=now)
        await hasten_set(tx, waiting["id"], now)
    elif following is not None:
        await tx.all(_TAKE_LOCK, **names, payout_id=following["id"], taken_at=now)
        await hasten_work(tx, following["id"], now)
