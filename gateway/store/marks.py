"""The turn of those that set marks, for what has to be effective once it is committed. Store function."""

from __future__ import annotations

from sqlalchemy import update

from gateway.store.database import Query, Tx
from gateway.store.schema import store_state

_TAKE_TURN = Query(
    update(store_state).where(store_state.c.id == 1).values(marks=store_state.c.marks), keeps=True
)


async def take_turn(tx: Tx) -> None:
    """Let no mark be committed that did not read what this transaction writes.

    Every mark writes the row that is written here, so that one of two such transactions runs again. Without
    it PostgreSQL lets a mark be committed after a pause that it has not read: in the order of the two that
    explains their results the mark simply came first. SQLite has one writer, and such an order only.
    """
    await tx.all(_TAKE_TURN)
