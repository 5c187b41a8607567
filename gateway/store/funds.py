"""Accounts, their balances, and what is reserved of them. Store functions.

Every reservation and release reads the account's row with `lock_account` first: on PostgreSQL the row is
locked until the commit, and on SQLite there is one writer. Sums are computed as decimals in Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import (
    BindParameter,
    and_,
    bindparam,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    update,
)

from gateway.model import Account
from gateway.store.database import Query, Row, Tx, listed, upsert
from gateway.store.dialects import json_at
from gateway.store.executions import kept
from gateway.store.schema import batches, execution_items, executions, payouts
from gateway.store.schema_funds import fund_accounts, reservations

HELD, WAITING = "held", "waiting"
_KEY: BindParameter[str] = bindparam("account_key")
_LOCK = Query(select(fund_accounts).where(fund_accounts.c.id == _KEY).with_for_update())
_ALL = Query(select(fund_accounts).order_by(fund_accounts.c.id))
_INSERT = upsert(fund_accounts)
_WRITE_SUMS = Query(
    _INSERT.on_conflict_do_update(
        index_elements=["id"],
        set_={name: _INSERT.excluded[name] for name in ("reserved", "waiting")},
    )
)
_OPEN = Query(_INSERT.on_conflict_do_nothing())
_UPDATE_READ = Query(
    update(fund_accounts)
    .where(fund_accounts.c.id == _KEY)
    .values(
        supported=bindparam("new_supported"),
        balances=bindparam("new_balances"),
        reserved=bindparam("new_reserved"),
        waiting=bindparam("new_waiting"),
        read_number=bindparam("new_number"),
        read_clock_id=bindparam("new_clock_id"),
        read_elapsed=bindparam("new_elapsed"),
        read_wall=bindparam("new_wall"),
        fault=null(),
        blind_clock_id=bindparam("new_blind_clock_id"),
        blind_elapsed=bindparam("new_blind_elapsed"),
    )
)
_FAULT = Query(
    update(fund_accounts).where(fund_accounts.c.id == _KEY).values(fault=bindparam("new_fault"))
)
_ASK = Query(
    update(fund_accounts)
    .where(fund_accounts.c.id == _KEY)
    .values(asked=fund_accounts.c.asked + 1, due_at=bindparam("new_due"))
    .returning(fund_accounts)
)
_SET_RESERVING = Query(
    update(fund_accounts)
    .where(fund_accounts.c.id == _KEY)
    .values(
        reserving=bindparam("new_reserving"),
        reserved=bindparam("new_reserved"),
        waiting=bindparam("new_waiting"),
        blind_clock_id=bindparam("new_blind_clock_id"),
        blind_elapsed=bindparam("new_blind_elapsed"),
        due_at=bindparam("new_due"),
    )
)
_BLIND = Query(
    update(fund_accounts).values(
        blind_clock_id=bindparam("new_clock_id"), blind_elapsed=bindparam("new_elapsed"), due_at=0
    )
)
_ADD = Query(insert(reservations))
_OF_OWNERS = Query(
    select(reservations)
    .where(reservations.c.owner_id.in_(listed("ids")))
    .order_by(reservations.c.owner_id, reservations.c.asset, reservations.c.network)
)
_ONE = and_(
    reservations.c.owner_id == bindparam("of_owner"),
    reservations.c.asset == bindparam("of_asset"),
    reservations.c.network == bindparam("of_network"),
)
_CHANGE = Query(
    update(reservations)
    .where(_ONE)
    .values(
        state=bindparam("new_state"),
        amount=bindparam("new_amount"),
        fee=bindparam("new_fee"),
        released=bindparam("new_released"),
        ended=bindparam("new_ended"),
        ended_clock_id=bindparam("new_clock_id"),
        ended_elapsed=bindparam("new_elapsed"),
    )
)
_DROP = Query(delete(reservations).where(_ONE))
_DROP_ALL = Query(delete(reservations).where(reservations.c.account_key == _KEY))
_NOTED = Query(
    select(reservations)
    .where(and_(reservations.c.account_key == _KEY, reservations.c.ended.is_not(None)))
    .order_by(reservations.c.owner_id, reservations.c.asset, reservations.c.network)
)
_WAITING = Query(
    select(reservations)
    .where(and_(reservations.c.account_key == _KEY, reservations.c.state == WAITING))
    .order_by(reservations.c.created_at, reservations.c.owner_id)
    .limit(bindparam("limit"))
)
#: Reservations with their payouts whose money moved. The caller computes the sums.
_MOVED = or_(
    payouts.c.status == "delivered",
    and_(payouts.c.status == "failed", payouts.c.funds_moved == "yes"),
)
_OPEN_ROW = and_(
    reservations.c.account_key == _KEY,
    reservations.c.state == HELD,
    reservations.c.ended.is_(None),
)
_ENDED_PAYOUTS = Query(
    select(
        reservations.c.owner_id,
        reservations.c.asset,
        reservations.c.network,
        reservations.c.amount,
        reservations.c.fee,
    )
    .join(payouts, payouts.c.id == reservations.c.owner_id)
    .where(and_(_OPEN_ROW, _MOVED))
)
_SENDS = json_at(payouts.c.terms, "user_sends")
_GETS = json_at(payouts.c.terms, "recipient_gets")
_ASSET = json_at(payouts.c.terms, "send_asset")
_NETWORK = func.coalesce(json_at(json_at(payouts.c.terms, "route"), "from_network"), "")
_ENDED_ITEMS = Query(
    select(
        reservations.c.owner_id,
        reservations.c.asset,
        reservations.c.network,
        _SENDS.label("amount"),
        func.count().label("n"),
    )
    .select_from(reservations)
    .join(
        payouts,
        and_(
            payouts.c.batch_id == reservations.c.owner_id,
            reservations.c.asset == _ASSET,
            reservations.c.network == _NETWORK,
        ),
    )
    .where(and_(_OPEN_ROW, _MOVED))
    .group_by(reservations.c.owner_id, reservations.c.asset, reservations.c.network, _SENDS)
)
_BATCH_NEEDS = Query(
    select(
        _ASSET.label("asset"),
        _NETWORK.label("network"),
        _SENDS.label("sends"),
        _GETS.label("gets"),
        func.count().label("n"),
    )
    .where(
        and_(
            payouts.c.batch_id == bindparam("batch_id"),
            # Not by the index of open payouts: those of others would be read, too.
            func.coalesce(payouts.c.status, "") == "pending",
        )
    )
    .group_by(_ASSET, _NETWORK, _SENDS, _GETS)
)
#: What was accepted and has not ended, at an account that begins to reserve: payouts, and batches.
_ALIVE = or_(payouts.c.status == "pending", payouts.c.status == "broadcast")
_OPEN_PAYOUTS = Query(
    select(payouts.c.id, payouts.c.terms)
    .select_from(executions)
    .join(execution_items, execution_items.c.execution_id == executions.c.id)
    .join(payouts, payouts.c.id == execution_items.c.payout_id)
    .where(
        and_(
            executions.c.custodian == bindparam("of_custodian"),
            executions.c.account == bindparam("of_account"),
            executions.c.ended_at.is_(None),
            payouts.c.batch_id.is_(None),
            _ALIVE,
        )
    )
)
_OPEN_BATCHES = Query(
    select(batches.c.id).where(
        and_(
            batches.c.custodian == bindparam("of_custodian"),
            batches.c.account == bindparam("of_account"),
            batches.c.executed_at.is_not(None),
            or_(
                *(
                    batches.c.state == each
                    for each in ("requested", "verifying", "awaiting_funds", "executing")
                )
            ),
        )
    )
)
_BATCH_ALIVE = Query(
    select(
        _ASSET.label("asset"),
        _NETWORK.label("network"),
        _SENDS.label("sends"),
        _GETS.label("gets"),
        func.count().label("n"),
    )
    .where(and_(payouts.c.batch_id == bindparam("batch_id"), _ALIVE))
    .group_by(_ASSET, _NETWORK, _SENDS, _GETS)
)
_FUND = Query(
    update(executions)
    .where(
        and_(
            executions.c.ended_at.is_(None),
            executions.c.awaits_funds == 1,
            executions.c.id.in_(
                select(execution_items.c.execution_id).where(
                    and_(
                        execution_items.c.payout_id.in_(listed("ids")),
                        execution_items.c.open == 1,
                    )
                )
            ),
        )
    )
    .values(awaits_funds=0, due_at=bindparam("now"))
    .returning(executions),
    keeps=True,
)
_HELD_UP = Query(
    select(reservations.c.owner_id)
    .where(and_(reservations.c.owner_id == bindparam("of_owner"), reservations.c.state == WAITING))
    .limit(1)
)


def account_key(custodian: str, account: Account) -> str:
    """Return what an account's row is called. Pure."""
    return json.dumps([custodian, account.type, account.id], separators=(",", ":"))


def new_account(custodian: str, account: Account, **columns: object) -> dict[str, object]:
    """Return the columns of an account that nothing is known of. Pure."""
    return {
        "id": account_key(custodian, account),
        "custodian": custodian,
        "account_type": account.type,
        "account_id": account.id,
        "supported": None,
        "reserving": 0,
        "balances": None,
        "reserved": "[]",
        "waiting": "[]",
        "asked": 0,
        "read_number": 0,
        "read_clock_id": None,
        "read_elapsed": None,
        "read_wall": None,
        "due_at": 0,
        "fault": None,
        "blind_clock_id": None,
        "blind_elapsed": None,
        **columns,
    }


async def lock_account(tx: Tx, key: str) -> Row | None:
    """Return an account's row, locked until the commit; None if nothing is known of it."""
    return await tx.one(_LOCK, account_key=key)


async def all_accounts(tx: Tx) -> list[Row]:
    """Return every account that was ever read or reserved from."""
    return await tx.all(_ALL)


async def open_account(tx: Tx, custodian: str, account: Account) -> None:
    """Make an account's row, unless it is there."""
    await tx.all(_OPEN, **new_account(custodian, account))


async def write_sums(tx: Tx, custodian: str, account: Account, reserved: str, waiting: str) -> None:
    """Write the sums of an account that is locked; its row is made where there is none."""
    columns = new_account(custodian, account, reserved=reserved, waiting=waiting)
    await tx.all(_WRITE_SUMS, **columns)


# --- Reading balances -----------------------------------------------------------------------------


async def ask(tx: Tx, key: str, due: int) -> Row | None:
    """Begin a read: raise the number, and have the next one due at a time of the timeline."""
    return await tx.one(_ASK, account_key=key, new_due=due)


async def write_read(tx: Tx, key: str, **columns: object) -> None:
    """Write what a read has shown, of an account that is locked; one argument per column, `new_…`."""
    await tx.all(_UPDATE_READ, account_key=key, **columns)


async def write_fault(tx: Tx, key: str, fault: str) -> None:
    """Note why the last read failed."""
    await tx.all(_FAULT, account_key=key, new_fault=fault)


async def set_reserving(tx: Tx, key: str, **columns: object) -> None:
    """Begin or end reserving from an account that is locked; one argument per column, `new_…`."""
    await tx.all(_SET_RESERVING, account_key=key, **columns)


async def distrust_balances(tx: Tx, clock_id: str, elapsed: int) -> None:
    """Have no balance count until a read begins `visibility` after this moment. For `db adopt`."""
    await tx.all(_BLIND, new_clock_id=clock_id, new_elapsed=elapsed)


# --- Reservations ---------------------------------------------------------------------------------


async def add_reservations(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Store reservations, one mapping of columns each."""
    await tx.many(_ADD, rows)


async def reservations_of(tx: Tx, owners: Iterable[str]) -> list[Row]:
    """Return the reservations of payouts and batches."""
    return await tx.all(_OF_OWNERS, ids=json.dumps(list(owners)))


async def noted_ends(tx: Tx, key: str) -> list[Row]:
    """Return the reservations of an account of which something has ended and was not released."""
    return await tx.all(_NOTED, account_key=key)


async def waiting_reservations(tx: Tx, key: str, limit: int) -> list[Row]:
    """Return the reservations that wait for an account to cover them, in the order of acceptance."""
    return await tx.all(_WAITING, account_key=key, limit=limit)


async def is_waiting(tx: Tx, owner_id: str) -> bool:
    """Return whether a payout or a batch waits for its account to cover it."""
    return await tx.one(_HELD_UP, of_owner=owner_id) is not None


async def change_reservations(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Write reservations: `of_owner`, `of_asset`, `of_network`, and `new_…` for each other column."""
    await tx.many(_CHANGE, rows)


async def drop_reservations(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Delete reservations, by `of_owner`, `of_asset`, `of_network`."""
    await tx.many(_DROP, rows)


async def drop_all(tx: Tx, key: str) -> None:
    """Delete every reservation of an account."""
    await tx.all(_DROP_ALL, account_key=key)


async def ended_payouts(tx: Tx, key: str) -> list[Row]:
    """Return the reservations of payouts that have ended with money that moved. A long read."""
    return await tx.all(_ENDED_PAYOUTS, account_key=key)


async def ended_items(tx: Tx, key: str) -> list[Row]:
    """Return how many payouts of each amount have ended so, by reservation of a batch. A long read."""
    return await tx.all(_ENDED_ITEMS, account_key=key)


async def batch_needs(tx: Tx, batch_id: str) -> list[Row]:
    """Return what a batch has to pay: `asset`, `network`, `sends`, `gets`, and how many, `n`."""
    return await tx.all(_BATCH_NEEDS, batch_id=batch_id)


# --- Beginning to reserve -------------------------------------------------------------------------


async def open_payouts(tx: Tx, custodian: str, account: str) -> list[Row]:
    """Return the payouts of an account (JSON) that have not ended: `id`, `terms`."""
    return await tx.all(_OPEN_PAYOUTS, of_custodian=custodian, of_account=account)


async def open_batches(tx: Tx, custodian: str, account: str) -> list[str]:
    """Return the batches of an account (JSON) that were executed and have not ended."""
    found = await tx.all(_OPEN_BATCHES, of_custodian=custodian, of_account=account)
    return [str(each["id"]) for each in found]


async def batch_alive(tx: Tx, batch_id: str) -> list[Row]:
    """Return what of a batch has not ended, as `batch_needs` does."""
    return await tx.all(_BATCH_ALIVE, batch_id=batch_id)


async def fund(tx: Tx, payout_ids: Iterable[str], now: int) -> None:
    """Let payouts go on that waited for funds. `now`: on the timeline."""
    kept(tx, await tx.all(_FUND, ids=json.dumps(list(payout_ids)), now=now))
