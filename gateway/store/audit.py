"""The audit log: what operators did, and what the gateway decided about its database. Append-only."""

from __future__ import annotations

from sqlalchemy import and_, bindparam, insert, select

from gateway.runtime import Ids
from gateway.store.database import Query, Row, Tx
from gateway.store.schema import audit_log

#: Who acts where no operator does.
GATEWAY = "gateway"

ADD = Query(insert(audit_log))
_OF_ACT = Query(
    select(audit_log).where(audit_log.c.act == bindparam("act")).order_by(audit_log.c.id)
)
_OF_SUBJECT = Query(
    select(audit_log)
    .where(and_(audit_log.c.subject == bindparam("subject"), audit_log.c.act == bindparam("act")))
    .order_by(audit_log.c.id)
)


async def add_audit(  # noqa: PLR0913 - one argument per column
    tx: Tx, ids: Ids, at: int, *, actor: str, act: str, subject: str, detail: str
) -> None:
    """Append a row. `at`: wall clock, in microseconds."""
    await tx.all(
        ADD, id=ids.new("aud"), at=at, actor=actor, act=act, subject=subject, detail=detail
    )


async def audit_rows(tx: Tx, act: str, subject: str | None = None) -> list[Row]:
    """Return the rows of an act, oldest first; with `subject`, those about it."""
    if subject is None:
        return await tx.all(_OF_ACT, act=act)
    return await tx.all(_OF_SUBJECT, act=act, subject=subject)
