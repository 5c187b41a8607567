"""The audit log: what people and keys did, and what the gateway decided about its database.

Append-only; triggers refuse every change and deletion. There is one chain per org, and one for the
installation: each row holds the hash of the row before it, so that a row which is changed, taken out
or put in later is found by `broken`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, exists, insert, or_, select, union

from gateway.logs import SCRUBBER, scrub
from gateway.runtime import Ids
from gateway.store.database import Query, Row, Tx
from gateway.store.schema import api_keys, audit_log, payouts

#: Who acts where no operator does.
GATEWAY = "gateway"
#: The chain of acts that belong to no org.
INSTALLATION = ""
#: What a row's hash is made of, in this order.
HASHED = (
    "previous",
    "org",
    "number",
    "id",
    "at",
    "actor",
    "act",
    "subject",
    "detail",
    "before",
    "after",
    "request_id",
)

_ADD = Query(insert(audit_log))
#: For copies of a schema that has no chains yet.
_ADD_UNCHAINED = (
    "INSERT INTO audit_log (id, at, actor, act, subject, detail) "
    "VALUES (:id, :at, :actor, :act, :subject, :detail)"
)
_NEWEST = Query(
    select(audit_log.c.number, audit_log.c.hash)
    .where(audit_log.c.org == bindparam("org"))
    .order_by(audit_log.c.number.desc())
    .limit(1)
)
_OF_ACT = Query(
    select(audit_log).where(audit_log.c.act == bindparam("act")).order_by(audit_log.c.id)
)
_OF_SUBJECT = Query(
    select(audit_log)
    .where(and_(audit_log.c.subject == bindparam("subject"), audit_log.c.act == bindparam("act")))
    .order_by(audit_log.c.id)
)
_ABOUT = Query(
    select(audit_log)
    .where(audit_log.c.subject == bindparam("subject"))
    .order_by(audit_log.c.id.desc())
    .limit(bindparam("limit"))
)
_PAGE = Query(
    select(audit_log)
    .where(and_(audit_log.c.org == bindparam("org"), audit_log.c.number > bindparam("after")))
    .order_by(audit_log.c.number)
    .limit(bindparam("limit"))
)
_NEXT_ORG = Query(
    select(audit_log.c.org)
    .where(audit_log.c.org > bindparam("after"))
    .order_by(audit_log.c.org)
    .limit(1)
)
#: Orgs that have done something since there is a log. A key without an owner is from before it.
_OF_ORGS = union(
    select(api_keys.c.org).where(api_keys.c.org.is_not(None)), select(payouts.c.org)
).subquery()
_WITHOUT_CHAIN = Query(
    select(_OF_ORGS.c.org).where(
        and_(
            ~exists().where(audit_log.c.org == _OF_ORGS.c.org),
            ~exists().where(and_(api_keys.c.org == _OF_ORGS.c.org, api_keys.c.owner.is_(None))),
        )
    )
)
_NEWEST_ROWS = Query(
    select(audit_log)
    .where(
        and_(
            *(
                or_(bindparam(f"any_{name}") == 1, audit_log.c[name] == bindparam(name))
                for name in ("org", "subject", "act")
            )
        )
    )
    .order_by(audit_log.c.id.desc())
    .limit(bindparam("limit"))
)


@dataclass(frozen=True)
class Act:
    """Who acts, and by which request."""

    actor: str
    request_id: str | None = None


@dataclass(frozen=True)
class Head:
    """The newest row of a chain. Kept elsewhere, it shows later that no row was cut off."""

    org: str
    number: int
    hash: str


async def add_audit(  # noqa: PLR0913 - one argument per column
    tx: Tx,
    ids: Ids,
    at: int,
    *,
    actor: str,
    act: str,
    subject: str,
    detail: str = "",
    org: str = INSTALLATION,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> None:
    """Append a row to the chain of an org, or of the installation, in the act's own transaction.

    `at`: wall clock, in microseconds. What looks like a secret is removed from the texts.
    """
    newest = await tx.one(_NEWEST, org=org)
    row = {
        "id": ids.new("aud"),
        "at": at,
        "actor": actor,
        "act": act,
        "subject": subject,
        "detail": scrub(detail),
        "org": org,
        "before": _document(before),
        "after": _document(after),
        "request_id": request_id,
    }
    await tx.all(_ADD, **_chained(row, newest))


def add_to_copy(copy: sqlite3.Connection, row: Mapping[str, Any]) -> None:
    """Append a row of the installation to a copy of whatever schema; none where it has no log.

    `row`: id, at, actor, act, subject, detail.
    """
    columns = {each[1] for each in copy.execute("PRAGMA table_info(audit_log)")}
    if not columns:
        return
    if "hash" not in columns:
        copy.execute(_ADD_UNCHAINED, row)
        return
    text, fixed = _NEWEST.compiled()
    found = copy.execute(text, {**fixed, "org": INSTALLATION}).fetchone()
    newest = None if found is None else {"number": found[0], "hash": found[1]}
    whole = {**row, "org": INSTALLATION, "before": None, "after": None, "request_id": None}
    text, fixed = _ADD.compiled()
    copy.execute(text, {**fixed, **_chained(whole, newest)})


async def audit_rows(tx: Tx, act: str, subject: str | None = None) -> list[Row]:
    """Return the rows of an act, oldest first; with `subject`, those about it."""
    if subject is None:
        return await tx.all(_OF_ACT, act=act)
    return await tx.all(_OF_SUBJECT, act=act, subject=subject)


async def acts_on(tx: Tx, subject: str, limit: int) -> list[Row]:
    """Return the newest rows about a subject, oldest first."""
    return (await tx.all(_ABOUT, subject=subject, limit=limit))[::-1]


async def newest_acts(
    tx: Tx,
    limit: int,
    *,
    org: str | None = None,
    subject: str | None = None,
    act: str | None = None,
) -> list[Row]:
    """Return the newest rows, newest first; only those of a chain, about a subject, of an act."""
    wanted = {"org": org, "subject": subject, "act": act}
    flags = {f"any_{name}": int(value is None) for name, value in wanted.items()}
    return await tx.all(_NEWEST_ROWS, limit=limit, **wanted, **flags)


async def chain_page(tx: Tx, org: str, after: int, limit: int) -> list[Row]:
    """Return the rows of a chain after a number, oldest first."""
    return await tx.all(_PAGE, org=org, after=after, limit=limit)


async def chains(tx: Tx) -> list[str]:
    """Return the org of every chain; that of the installation is empty."""
    found: list[str] = []
    row = await tx.one(_NEXT_ORG, after=INSTALLATION)
    while row is not None:
        # Unchanged: if the column holds bytes, they find its rows.
        found.append(row["org"])
        row = await tx.one(_NEXT_ORG, after=row["org"])
    return [INSTALLATION, *found] if await tx.one(_NEWEST, org=INSTALLATION) else found


async def orgs_without_chain(tx: Tx) -> list[str]:
    """Return the orgs that have keys or payouts, and no chain although their keys were logged."""
    return sorted(row["org"] for row in await tx.all(_WITHOUT_CHAIN))


def hash_of(row: Mapping[str, Any] | Row) -> str:
    """Return the hash that a row must have. Pure."""
    text = json.dumps([row[name] for name in HASHED], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def broken(rows: Iterable[Mapping[str, Any] | Row], before: Head) -> tuple[Head, str | None]:
    """Follow a chain on from a row that is known; return the last one that fits, and what is wrong.

    Pure. The second is None where every row fits.
    """
    head = before
    for row in rows:
        if row["number"] != head.number + 1:
            return head, f"row {head.number + 1} is missing"
        if row["previous"] != head.hash:
            return head, f"row {row['number']} ({row['id']}) does not follow the row before it"
        try:
            fits = row["hash"] == hash_of(row)
        except TypeError:
            # Bytes where the gateway writes text.
            fits = False
        if not fits:
            return head, f"row {row['number']} ({row['id']}) was changed"
        head = Head(head.org, row["number"], row["hash"])
    return head, None


def _chained(row: Mapping[str, Any], newest: Mapping[str, Any] | Row | None) -> dict[str, Any]:
    number, previous = (1, "") if newest is None else (newest["number"] + 1, newest["hash"])
    whole = {**row, "number": number, "previous": previous}
    return {**whole, "hash": hash_of(whole)}


def _document(values: Mapping[str, Any] | None) -> str | None:
    if values is None:
        return None
    return json.dumps(SCRUBBER.scrub(dict(values)), ensure_ascii=False, sort_keys=True)
