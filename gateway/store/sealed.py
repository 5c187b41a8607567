"""Every column that holds a sealed value, for resealing under another server key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Table, and_, bindparam, select, tuple_, update

from gateway.store.database import Query, Row, Tx, upsert
from gateway.store.schema import (
    account_declarations,
    endpoints,
    idempotency,
    payouts,
    previous_secrets,
    users,
)


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
    _sealed(users, users.c.totp, (users.c.id,), _id),
    _sealed(
        idempotency,
        idempotency.c.answer,
        _IDEMPOTENCY,
        lambda row: "|".join(str(row[each.name]) for each in _IDEMPOTENCY),
    ),
)


#: The row that says which server key the database is used with. No custodian has an empty name.
_OF_KEY = {"custodian": "", "fingerprint": "server_key"}
_KEY_ROW = and_(
    account_declarations.c.custodian == bindparam("custodian"),
    account_declarations.c.fingerprint == bindparam("fingerprint"),
)
_NOTED_KEY = Query(select(account_declarations.c.same_as).where(_KEY_ROW))
_ADD_KEY = Query(upsert(account_declarations).on_conflict_do_nothing())
_SET_KEY = Query(update(account_declarations).where(_KEY_ROW).values(same_as=bindparam("digest")))


async def noted_key(tx: Tx) -> str | None:
    """Return the digest that was made with the server key of this database; None: there is none yet."""
    row = await tx.one(_NOTED_KEY, **_OF_KEY)
    return None if row is None else str(row["same_as"])


async def note_key(tx: Tx, digest: str, at: int) -> None:
    """Keep a digest that only the present server key makes. `at`: wall clock, in microseconds."""
    await tx.all(_ADD_KEY, **_OF_KEY, same_as=digest, evidence="", at=at)
    await tx.all(_SET_KEY, **_OF_KEY, digest=digest)


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
