"""Every column that holds something sealed, to be sealed anew under another server key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Table, and_, bindparam, select, tuple_, update

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import endpoints, idempotency, payouts, previous_secrets


@dataclass(frozen=True)
class Sealed:
    """A column, how its rows are named, and what each value is bound to."""

    table: Table
    column: Column[Any]
    keys: Sequence[Column[Any]]
    bound_to: Callable[[Row], str]
    page: Query
    write: Query

    @property
    def name(self) -> str:
        """What an operator reads."""
        return f"{self.table.name}.{self.column.name}"


def _sealed(
    table: Table, column: Column[Any], keys: Sequence[Column[Any]], bound_to: Callable[[Row], str]
) -> Sealed:
    after = tuple_(*(bindparam(f"after_{each.name}") for each in keys))
    page = (
        select(*keys, column.label("sealed"))
        .where(and_(column.is_not(None), tuple_(*keys) > after))
        .order_by(*keys)
        .limit(bindparam("limit"))
    )
    write = (
        update(table)
        .where(and_(*(each == bindparam(f"at_{each.name}") for each in keys)))
        .values({column: bindparam("sealed")})
    )
    return Sealed(table, column, keys, bound_to, Query(page), Query(write))


def _id(row: Row) -> str:
    return str(row["id"])


_IDEMPOTENCY = (
    idempotency.c.org,
    idempotency.c.mode,
    idempotency.c.route,
    idempotency.c.key,
)
SEALED: tuple[Sealed, ...] = (
    _sealed(endpoints, endpoints.c.secret, (endpoints.c.id,), _id),
    _sealed(
        endpoints, endpoints.c.sealed_headers, (endpoints.c.id,), lambda row: f"{row['id']}/headers"
    ),
    _sealed(previous_secrets, previous_secrets.c.secret, (previous_secrets.c.id,), _id),
    _sealed(payouts, payouts.c.first_answer, (payouts.c.id,), _id),
    _sealed(
        idempotency,
        idempotency.c.answer,
        _IDEMPOTENCY,
        lambda row: "|".join(str(row[each.name]) for each in _IDEMPOTENCY),
    ),
)


async def sealed_page(
    tx: Tx, what: Sealed, after: Mapping[str, str] | None, limit: int
) -> list[Row]:
    """Return rows with a sealed value, in the order of their keys, after those of a row."""
    at = {f"after_{each.name}": "" if after is None else after[each.name] for each in what.keys}
    return await tx.all(what.page, limit=limit, **at)


async def write_sealed(tx: Tx, what: Sealed, row: Row, sealed: bytes) -> None:
    """Replace one sealed value."""
    at = {f"at_{each.name}": row[each.name] for each in what.keys}
    await tx.all(what.write, sealed=sealed, **at)
