"""Turns at source accounts that pay one execution at a time."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, case, delete, select, update

from gateway.store.database import Query, Tx, upsert
from gateway.store.executions import kept, org_of
from gateway.store.schema import account_locks, execution_items, executions, payouts

_OPEN = executions.c.ended_at.is_(None)
_TAKE_LOCK = Query(upsert(account_locks).on_conflict_do_nothing())
_LOCK = Query(
    select(account_locks.c.execution_id).where(
        and_(
            account_locks.c.custodian == bindparam("custodian"),
            account_locks.c.account_type == bindparam("account_type"),
            account_locks.c.account_id == bindparam("account_id"),
        )
    )
)
_HOLDER = Query(
    select(payouts.c.id, payouts.c.org)
    .select_from(account_locks)
    .join(execution_items, execution_items.c.execution_id == account_locks.c.execution_id)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(
        and_(
            account_locks.c.custodian == bindparam("custodian"),
            account_locks.c.account_type == bindparam("account_type"),
            account_locks.c.account_id == bindparam("account_id"),
        )
    )
    .order_by(execution_items.c.position)
    .limit(1)
)
_FREE_LOCK = Query(
    delete(account_locks)
    .where(account_locks.c.execution_id == bindparam("execution_id"))
    .returning(account_locks.c.custodian, account_locks.c.account_type, account_locks.c.account_id)
)
_ORG, _LAST_ORG = org_of(executions.c.id), org_of(bindparam("ended_id"))
_NEXT_WAITING = Query(
    select(executions.c.id)
    .where(
        and_(
            executions.c.custodian == bindparam("custodian"),
            executions.c.account == bindparam("account"),
            executions.c.waiting_since.is_not(None),
            _OPEN,
        )
    )
    # The orgs go in a circle, by their names: the one after that whose turn ends, and from the first one
    # again. So each waits for one turn of every other org at most, however many it has queued.
    .order_by(
        case((_ORG > _LAST_ORG, 0), else_=1),
        _ORG,
        executions.c.rank,
        executions.c.waiting_since,
        executions.c.id,
    )
    .limit(1)
)
_WAKE_ONE = Query(
    update(executions)
    .where(and_(executions.c.id == bindparam("woken_id"), executions.c.due_at > bindparam("now")))
    .values(due_at=bindparam("now"))
    .returning(executions),
    keeps=True,
)


async def account_holder(
    tx: Tx, custodian: str, account_type: str, account_id: str, org: str | None = None
) -> str | None:
    """Return a payout of the execution that has the turn at an account; None: nobody has it.

    `org`: only where it is a payout of that org.
    """
    row = await tx.one(
        _HOLDER, custodian=custodian, account_type=account_type, account_id=account_id
    )
    return None if row is None or org not in {None, row["org"]} else str(row["id"])


async def acquire_account(  # noqa: PLR0913 - the account has three parts
    tx: Tx, custodian: str, account_type: str, account_id: str, execution_id: str, at: int
) -> bool:
    """Take the turn at a source account; True where it is ours."""
    names = {"custodian": custodian, "account_type": account_type, "account_id": account_id}
    await tx.all(_TAKE_LOCK, **names, execution_id=execution_id, taken_at=at)
    row = await tx.one(_LOCK, **names)
    return row is not None and row["execution_id"] == execution_id


async def release_account(  # noqa: PLR0913 - the account has three parts
    tx: Tx, execution_id: str, custodian: str, account: str, at: int, now: int
) -> None:
    """Hand the turn at a source account to the next org, and there to what has waited longest.

    Run it any time. It is handed over, not left free: a payout accepted this moment must not overtake the queue.
    """
    freed = await tx.one(_FREE_LOCK, execution_id=execution_id)
    if freed is None:
        return
    following = await tx.one(
        _NEXT_WAITING, custodian=custodian, account=account, ended_id=execution_id
    )
    if following is not None:
        names = {name: freed[name] for name in ("custodian", "account_type", "account_id")}
        await tx.all(_TAKE_LOCK, **names, execution_id=following["id"], taken_at=at)
        kept(tx, await tx.all(_WAKE_ONE, woken_id=following["id"], now=now))
