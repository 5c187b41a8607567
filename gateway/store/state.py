"""The state of the whole store: its newest mark, whether it is frozen, whether it lets payouts in."""

from __future__ import annotations

from sqlalchemy import Text, and_, bindparam, exists, null, or_, select, update

from gateway.errors import Refused
from gateway.model import GATE_VERSION
from gateway.rules import OTHER_RULES
from gateway.runtime import Ids
from gateway.store.audit import GATEWAY, add_audit, audit_rows
from gateway.store.database import Columns, Query, Row, Tx
from gateway.store.pauses import pause_count
from gateway.store.payouts import payout_of_ref
from gateway.store.rules import active_digest
from gateway.store.schema import payouts, store_state
from gateway.store.state_file import PROMOTED, next_step

#: Acts in the audit log.
FROZEN, UNMATCHED, CHECKED = "database_frozen", "unmatched_reference", "reference_checked"
#: The subject of acts on the whole database.
DATABASE = "database"
_RETRY_AFTER = {"Retry-After": "60"}

_STATE = Query(
    select(
        store_state,
        or_(store_state.c.marks > 0, exists().where(payouts.c.id > "")).label("used"),
        pause_count().label("pauses"),
        active_digest().label("rules_digest"),
    ).where(store_state.c.id == 1)
)
_FREEZE = Query(
    update(store_state)
    .where(
        and_(
            store_state.c.id == 1,
            # Certainty takes the place of a doubt.
            or_(
                store_state.c.frozen.is_(None),
                and_(store_state.c.frozen == PROMOTED, bindparam("reason", type_=Text) != PROMOTED),
            ),
        )
    )
    .values(frozen=bindparam("reason", type_=Text))
    .returning(store_state.c.id)
)
_UNFREEZE = Query(update(store_state).where(store_state.c.id == 1).values(frozen=null()))
_WITNESSED = Query(update(store_state).where(store_state.c.id == 1).values(witnessed=1))
_ACCEPTING = Query(
    update(store_state).where(store_state.c.id == 1).values(accepting=bindparam("new"))
)
_MARKS = Query(
    update(store_state)
    .where(store_state.c.id == 1)
    .values(marks=bindparam("new"))
    .returning(store_state.c.marks)
)
_NEXT_MARK = Query(
    update(store_state)
    .where(store_state.c.id == 1)
    .values(marks=store_state.c.marks + 1)
    .returning(store_state.c.marks)
)


async def state_row(tx: Tx) -> Row:
    """Return the state, with `used`: whether there was ever a payout or a mark.

    And with `pauses`: how many there are; `rules_digest`: of the active rules.
    """
    row = await tx.one(_STATE)
    assert row is not None  # noqa: S101 - the row is made with the table
    return row


async def frozen(tx: Tx) -> str | None:
    """Return why nothing may move, or None.

    While a database is frozen no mark is set, nothing is ended by time, by cancelling or by an
    operator, and nothing is handed to another custodian. Reads, inbound webhooks and looks go on.
    """
    reason = (await state_row(tx))["frozen"]
    return None if reason is None else str(reason)


async def freeze(tx: Tx, ids: Ids, at: int, reason: str, actor: str = GATEWAY) -> bool:
    """Freeze the database for every gateway, and write it to the audit log. May be called twice.

    False if it is frozen already: the first reason stays, unless that was only a doubt.
    """
    if await tx.one(_FREEZE, reason=reason) is None:
        return False
    await add_audit(tx, ids, at, actor=actor, act=FROZEN, subject=DATABASE, detail=reason)
    return True


async def unfreeze(tx: Tx) -> None:
    """Let marks be set again. For `db adopt` and `db moved`, which write to the audit log."""
    await tx.all(_UNFREEZE)


async def note_witnessed(tx: Tx) -> None:
    """Note that a state file was written: without one the database is frozen from now on."""
    await tx.all(_WITNESSED)


async def set_accepting(tx: Tx, *, accepting: bool) -> None:
    """Let new quotes, payouts and batches in, or not."""
    await tx.all(_ACCEPTING, new=int(accepting))


async def set_marks(tx: Tx, marks: int) -> None:
    """Set the number of the newest mark. For `db adopt`."""
    await tx.all(_MARKS, new=marks)


async def advance(tx: Tx) -> int:
    """Count a promise as a mark: an older copy of the database is then recognised without one.

    For a payout that ends without money: a copy from before would pay it after all.
    """
    row = await tx.one(_NEXT_MARK)
    assert row is not None  # noqa: S101 - the row is made with the table
    tx.mark(row["marks"])
    return int(row["marks"])


def marks_refused(
    row: Row,
    failing: str | None,
    gate_version: int | None = None,
    rules: str | None = None,
) -> str | None:
    """Return why this process sets no marks and what to do, or None.

    `failing`: what ails the state file. `rules`: the digest of this process's own. Pure.
    """
    if row["frozen"] is not None:
        return f"{row['frozen']}. Next: {next_step(row['frozen'])}"
    own = GATE_VERSION if gate_version is None else gate_version
    if row["gate_version"] > own:
        return (
            f"this program is too old to set marks: it has gate version {own}, "
            f"and the database needs {row['gate_version']}"
        )
    if not goes_by(row, rules):
        return OTHER_RULES
    return failing


# --- For partners ---------------------------------------------------------------------------------


async def refuse_if_frozen(tx: Tx) -> None:
    """Raise Refused: `database_frozen`. In the transaction of what must not happen then."""
    _refuse_if_frozen(await state_row(tx))


async def refuse_unless_accepting(tx: Tx, rules: str | None = None) -> int:
    """Raise Refused: `database_frozen`, `not_accepting`. For new quotes, payouts and batches.

    `rules`: the digest of this process's own. What is accepted by other limits would be paid by a gateway
    that has the active ones, and does not check them again. Return how many pauses there are: where there
    is one, the caller reads them.
    """
    kept = None if tx.live is None else tx.live.flags
    flags: Columns = await state_row(tx) if kept is None else kept
    if kept is None and tx.live is not None:
        tx.live.put_flags(flags)
    _refuse_if_frozen(flags)
    if not flags["accepting"]:
        detail = "The gateway's database was restored. The operator has not let new payouts in yet."
        raise Refused("not_accepting", detail, headers=_RETRY_AFTER)
    if not goes_by(flags, rules):
        detail = (
            "The limits and routes of this gateway are not the active ones. The operator has to activate "
            "them, or another gateway has to be asked."
        )
        raise Refused("not_accepting", detail, headers=_RETRY_AFTER)
    return int(flags["pauses"])


def goes_by(row: Columns, rules: str | None) -> bool:
    """Whether a process with such rules goes by the active ones, by the store's state. Pure."""
    return rules is None or row["rules_digest"] in {None, rules}


def _refuse_if_frozen(row: Columns) -> None:
    if row["frozen"] is not None:
        detail = "The gateway's database may be out of date. The operator has to check it first."
        raise Refused("database_frozen", detail, headers=_RETRY_AFTER)


# --- References without a payout ------------------------------------------------------------------


async def note_unmatched(  # noqa: PLR0913 - a reference has three parts
    tx: Tx, ids: Ids, at: int, custodian: str, kind: str, value: str
) -> None:
    """Record that a custodian reported a transfer that belongs to no payout of this database.

    Only while the database is frozen or does not accept: it may then be a payout that only the
    database before the restore had. May be called twice.
    """
    row = await state_row(tx)
    if row["frozen"] is None and row["accepting"]:
        return
    subject = f"{custodian} {kind} {value}"
    if not await _is_open(tx, subject):
        detail = "a webhook names it, and no payout does"
        await add_audit(tx, ids, at, actor=custodian, act=UNMATCHED, subject=subject, detail=detail)


async def unmatched(tx: Tx) -> list[str]:
    """Return the references that were noted, that no payout has got, and that nobody has checked."""
    found = []
    for subject in dict.fromkeys(row["subject"] for row in await audit_rows(tx, UNMATCHED)):
        custodian, kind, value = subject.split(" ", 2)
        known = await payout_of_ref(tx, custodian, kind, value)
        if known is None and await _is_open(tx, subject):
            found.append(subject)
    return found


async def note_checked(tx: Tx, ids: Ids, at: int, actor: str) -> list[str]:
    """Note that an operator has checked every reference without a payout; return them."""
    subjects = await unmatched(tx)
    for subject in subjects:
        detail = "new payouts are accepted all the same"
        await add_audit(tx, ids, at, actor=actor, act=CHECKED, subject=subject, detail=detail)
    return subjects


async def _is_open(tx: Tx, subject: str) -> bool:
    """Whether a reference was noted, and not checked since."""
    noted = await audit_rows(tx, UNMATCHED, subject)
    return len(noted) > len(await audit_rows(tx, CHECKED, subject))
