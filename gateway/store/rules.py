"""The active rules that guard money: one row. Store functions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ScalarSelect, select

from gateway.runtime import Ids
from gateway.store.audit import GATEWAY, add_audit
from gateway.store.database import Query, Row, Tx, upsert
from gateway.store.marks import take_turn
from gateway.store.schema_control import money_rules

#: The act in the audit log, and its subject.
ACTIVATED, RULES = "rules_activated", "rules"


def active_digest() -> ScalarSelect[Any]:
    """Return the digest of the active rules, as a column for another statement."""
    return select(money_rules.c.digest).where(money_rules.c.id == 1).scalar_subquery()


_ROW = Query(select(money_rules).where(money_rules.c.id == 1))
_FIRST = Query(upsert(money_rules).on_conflict_do_nothing().returning(money_rules.c.id))
_INSERT = upsert(money_rules)
_ACTIVATE = Query(
    _INSERT.on_conflict_do_update(
        index_elements=["id"],
        set_={
            name: _INSERT.excluded[name]
            for name in ("digest", "document", "activated_at", "activated_by")
        },
    )
)


async def active_rules(tx: Tx) -> Row | None:
    """Return the active rules: `digest`, `document`, `activated_at`, `activated_by`; None: none so far."""
    return await tx.one(_ROW)


async def begin_with(tx: Tx, ids: Ids, at: int, digest: str, document: str) -> str:
    """Make these rules the active ones where there are none; return the digest of the active ones.

    So the first gateway of a database needs no command. May be called by several at once.
    """
    row = await active_rules(tx)
    if row is not None:
        return str(row["digest"])
    first = await tx.one(
        _FIRST, id=1, digest=digest, document=document, activated_at=at, activated_by=GATEWAY
    )
    if first is None:
        row = await active_rules(tx)
        return digest if row is None else str(row["digest"])
    await _audit(tx, ids, at, GATEWAY, None, digest, "the first rules of this database")
    return digest


async def activate(  # noqa: PLR0913 - the rules, and who activates them
    tx: Tx, ids: Ids, at: int, digest: str, document: str, by: str, reason: str
) -> bool:
    """Make these rules the active ones for every gateway; False if they are already.

    Once this is committed, no gateway that goes by other rules commits a mark.
    """
    await take_turn(tx)
    row = await active_rules(tx)
    if row is not None and row["digest"] == digest:
        return False
    await tx.all(
        _ACTIVATE, id=1, digest=digest, document=document, activated_at=at, activated_by=by
    )
    await _audit(tx, ids, at, by, None if row is None else row["digest"], digest, reason)
    return True


async def _audit(  # noqa: PLR0913 - the act and its circumstances
    tx: Tx, ids: Ids, at: int, by: str, before: str | None, after: str, reason: str
) -> None:
    await add_audit(
        tx,
        ids,
        at,
        actor=by,
        act=ACTIVATED,
        subject=RULES,
        detail=reason,
        before=None if before is None else {"digest": before},
        after={"digest": after},
    )
