"""Payouts, one row each with its document; the ids they are found by; attention rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)

from gateway.model import Payout, Status
from gateway.store.database import Columns, Later, Query, Row, Tx, upsert, wide
from gateway.store.dialects import json_at, json_items
from gateway.store.inbox import listed_refs
from gateway.store.later import write_changes
from gateway.store.rows import payout_of, to_json
from gateway.store.schema import (
    attention,
    execution_items,
    inbox_refs,
    payout_hashes,
    payouts,
    refs,
)
from gateway.text import reference_key

_INSERT = Query(insert(payouts), keeps=True)
_GET = Query(select(payouts).where(payouts.c.id == bindparam("payout_id")), remembered=True)


def frees_reference(table: FromClause = payouts) -> ColumnElement[bool]:
    """Return whether a payout leaves its reference free: it has failed, and nothing has moved.

    Not where the custodian has contradicted that since. A reference may be paid again only where this
    holds for every payout that carries it. A payout carries every reference that has the same
    `reference_key`.
    """
    contradicted = exists().where(
        and_(
            attention.c.payout_id == table.c.id,
            or_(attention.c.code == "contradiction", attention.c.code == "late_news"),
        )
    )
    return and_(
        table.c.status == "failed",
        func.coalesce(table.c.funds_moved, "unknown") == "no",
        ~contradicted,
    )


_SAME = payouts.alias("same")
#: References that were written in more than one way before they were compared by their key.
_COLLIDING = (
    select(_SAME.c.org, _SAME.c.mode, _SAME.c.reference_key)
    .where(and_(_SAME.c.reference_key.is_not(None), ~frees_reference(_SAME)))
    .group_by(_SAME.c.org, _SAME.c.mode, _SAME.c.reference_key)
    .having(func.count(_SAME.c.reference.distinct()) > 1)
    .order_by(_SAME.c.org, _SAME.c.mode, _SAME.c.reference_key)
    .limit(bindparam("limit"))
    .subquery("colliding")
)
_COLLISIONS = Query(
    select(
        payouts.c.org,
        payouts.c.mode,
        payouts.c.reference,
        payouts.c.id,
        payouts.c.status,
        payouts.c.batch_id,
    )
    .select_from(_COLLIDING)
    .join(
        payouts,
        and_(
            payouts.c.org == _COLLIDING.c.org,
            payouts.c.mode == _COLLIDING.c.mode,
            payouts.c.reference_key == _COLLIDING.c.reference_key,
        ),
    )
    .where(~frees_reference(payouts))
    .order_by(payouts.c.org, payouts.c.mode, payouts.c.reference_key, payouts.c.id)
)
_ADD_REF = Query(upsert(refs).on_conflict_do_nothing(), keeps=True)
#: The owner of each id; a row without an owner says that a webhook waits for the id.
#: The kind of an id that an operator named as the transfer by which a payout was delivered.
OPERATORS_REF = "operator"

_REFS = Query(
    union_all(
        select(refs.c.kind, refs.c.value, refs.c.payout_id).where(listed_refs(refs)),
        select(inbox_refs.c.kind, inbox_refs.c.value, null()).where(listed_refs(inbox_refs)),
    )
)
_NEW_REFS = json_items(bindparam("new"), "new")
#: All of some ids, or none where one of them has an owner or is waited for.
_CLAIM_REFS = Query(
    insert(refs)
    .from_select(
        ["custodian", "kind", "value", "payout_id"],
        select(
            bindparam("of_custodian", type_=Text),
            json_at(_NEW_REFS.c.value, 0),
            json_at(_NEW_REFS.c.value, 1),
            bindparam("of_payout", type_=Text),
        )
        .select_from(_NEW_REFS)
        .where(
            ~exists(select(literal_column("1")).select_from(refs).where(listed_refs(refs))),
            ~exists(
                select(literal_column("1")).select_from(inbox_refs).where(listed_refs(inbox_refs))
            ),
        ),
    )
    .returning(refs.c.kind, refs.c.value),
    keeps=True,
)
_PAYOUTS_OF_REFS = Query(
    select(refs.c.kind.label("ref_kind"), refs.c.value.label("ref_value"), payouts)
    .select_from(refs)
    .join(payouts, payouts.c.id == refs.c.payout_id)
    .where(listed_refs(refs))
)
_REF = Query(
    select(refs.c.payout_id).where(
        and_(
            refs.c.custodian == bindparam("custodian"),
            refs.c.kind == bindparam("kind"),
            refs.c.value == bindparam("value"),
        )
    )
)
_ANY_REF = Query(select(refs.c.payout_id).where(refs.c.value == bindparam("value")).limit(1))
_ADD_HASH = Query(upsert(payout_hashes).on_conflict_do_nothing())
_ANY_HASH = Query(
    select(payout_hashes.c.payout_id).where(payout_hashes.c.tx_hash == bindparam("value")).limit(1)
)
_REFS_OF = Query(
    select(refs).where(refs.c.payout_id == bindparam("payout_id")).order_by(refs.c.kind)
)
_INSERT_ATTENTION = upsert(attention)
_ADD_ATTENTION = Query(
    _INSERT_ATTENTION.on_conflict_do_update(
        index_elements=["payout_id", "code", "detail"],
        set_={
            "times": attention.c.times + 1,
            "last_at": _INSERT_ATTENTION.excluded.last_at,
            # What an operator has acknowledged stays so; what had ended by itself is open again.
            **{
                name: case(
                    (func.coalesce(attention.c.closed_by, "") == "gateway", null()),
                    else_=attention.c[name],
                )
                for name in ("closed_at", "closed_by", "told_at")
            },
        },
    )
)
_ATTENTION_OF = Query(
    select(attention)
    .where(attention.c.payout_id == bindparam("payout_id"))
    .order_by(attention.c.first_at)
)
_ATTENTION = Query(
    select(attention, payouts.c.status, payouts.c.sub_status, payouts.c.custodian)
    .join(payouts, payouts.c.id == attention.c.payout_id)
    .where(attention.c.closed_at.is_(None))
    .order_by(attention.c.last_at.desc())
    .limit(bindparam("limit"))
)
_ATTENTION_COUNT = Query(
    select(attention.c.code, func.count().label("rows"))
    .where(attention.c.closed_at.is_(None))
    .group_by(attention.c.code)
)
_FIRST_ANSWER = Query(
    update(payouts)
    .where(payouts.c.id == bindparam("payout_id"))
    .values(first_answer=bindparam("answer")),
    keeps=True,
)
_UNOWNED = Query(
    select(payouts.c.id, payouts.c.custodian)
    .where(
        and_(
            or_(payouts.c.status == "pending", payouts.c.status == "broadcast"),
            # What belongs to a batch is handed to the engine by it. Not the bare column: by its
            # index every single payout that there ever was would be looked at.
            func.coalesce(payouts.c.batch_id, "") == "",
            ~exists().where(
                and_(execution_items.c.payout_id == payouts.c.id, execution_items.c.open == 1)
            ),
        )
    )
    .limit(bindparam("limit"))
)


async def insert_payout(tx: Tx, columns: Mapping[str, object]) -> None:
    """Store a payout; a value for each column but those that are made here."""
    await tx.all(_INSERT, **_completed(columns))


async def insert_payouts(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Store many payouts, one mapping of columns each; see `insert_payout`."""
    await tx.many(_INSERT, [_completed(each) for each in rows])


def _completed(columns: Mapping[str, object]) -> Mapping[str, object]:
    """Return the columns of a new payout with what follows from them."""
    reference = columns["reference"]
    assert reference is None or isinstance(reference, str)  # noqa: S101 - as its column
    return {
        **columns,
        "reference_key": reference_key(reference),
        "erased_at": None,
        "returned_amount": None,
    }


async def payout_row(tx: Tx, payout_id: str) -> Row | None:
    """Return the bare row of a payout."""
    row = None if tx.live is None else tx.live.payout(payout_id)
    return row if row is not None else await tx.one(_GET, payout_id=payout_id)


async def find_payout(tx: Tx, payout_id: str) -> Payout | None:
    """Return a payout."""
    row = await payout_row(tx, payout_id)
    return None if row is None else payout_of(row)


@lru_cache(maxsize=256)
def _update_query(names: tuple[str, ...]) -> Query:
    return Query(
        update(payouts)
        .where(payouts.c.id == bindparam("at_id"))
        .values({name: bindparam("set_" + name) for name in names}),
        keeps=True,
    )


async def _write_changes(tx: Tx, changes: Sequence[tuple[str, Mapping[str, object]]]) -> None:
    await write_changes(tx, changes, _update_query)


_CHANGES = Later(frozenset({"payouts"}), _write_changes)


async def update_payout(tx: Tx, payout_id: str, **columns: object) -> None:
    """Change columns of a payout, together with those that other changes of the group write."""
    await tx.later(_CHANGES, [(payout_id, columns)])
    if tx.live is not None:
        tx.live.change_payout(payout_id, columns)


async def update_payouts(tx: Tx, changes: Sequence[tuple[str, Mapping[str, object]]]) -> None:
    """Change the same columns of some payouts, each given by its id."""
    names = tuple(sorted(changes[0][1]))
    await tx.many(
        _update_query(names),
        [
            {"at_id": payout_id, **{"set_" + name: columns[name] for name in names}}
            for payout_id, columns in changes
        ],
    )
    if tx.live is not None:
        for payout_id, columns in changes:
            tx.live.change_payout(payout_id, columns)


async def set_first_answer(tx: Tx, payout_id: str, answer: bytes) -> None:
    """Keep the first answer of a test-mode payout, sealed, to repeat it byte for byte."""
    await tx.all(_FIRST_ANSWER, payout_id=payout_id, answer=answer)
    if tx.live is not None:
        tx.live.change_payout(payout_id, {"first_answer": answer})


@dataclass(frozen=True)
class KnownRefs:
    """What is known of some ids at a custodian."""

    #: the payouts that they belong to, by kind and value
    owners: Mapping[tuple[str, str], str]
    #: the ids that custodians' webhooks wait for
    awaited: frozenset[tuple[str, str]]


async def find_refs(tx: Tx, custodian: str, pairs: Sequence[tuple[str, str]]) -> KnownRefs:
    """Return the owners of some ids (kind, value) at a custodian, and which of them webhooks wait for.

    An id that an operator named as a payout's transfer is that payout's, of whichever kind it is.
    """
    rows = await tx.all(_REFS, at_custodian=custodian, pairs=_with_operators(pairs))
    owners = {(row[0], row[1]): row[2] for row in rows if row[2] is not None}
    for kind, value in pairs:
        if (OPERATORS_REF, value) in owners:
            owners.setdefault((kind, value), owners[OPERATORS_REF, value])
    return KnownRefs(owners, frozenset((row[0], row[1]) for row in rows if row[2] is None))


def remembers_refs(
    tx: Tx, custodian: str, pairs: Sequence[tuple[str, str]], payout_id: str
) -> bool:
    """Whether it is known without a read that some ids (kind, value) at a custodian are a payout's."""
    live = tx.live
    if live is None:
        return False
    owners = (live.owner(custodian, pair) for pair in pairs)
    return all(each is not None and each["id"] == payout_id for each in owners)


async def claim_refs(
    tx: Tx, custodian: str, pairs: Sequence[tuple[str, str]], payout: Columns
) -> bool:
    """Store ids (kind, value) at a custodian as a payout's, where none of them is known; whether they are.

    False: one belongs to a payout, perhaps this one, or a webhook waits for it; `find_refs` says which.
    Nothing is written then. `payout`: its row.
    """
    rows = await tx.all(
        _CLAIM_REFS,
        of_custodian=custodian,
        of_payout=payout["id"],
        new=to_json(pairs),
        at_custodian=custodian,
        pairs=_with_operators(pairs),
    )
    if tx.live is not None:
        for row in rows:
            # Not from memory: what the insert returns is what the database holds.
            tx.live.put_owner(custodian, (row["kind"], row["value"]), payout)
    return bool(rows)


def _with_operators(pairs: Sequence[tuple[str, str]]) -> str:
    """Return ids with those by which an operator may have named the same transfers: JSON."""
    named = [(OPERATORS_REF, value) for value in dict.fromkeys(value for _, value in pairs)]
    return to_json([*pairs, *named])


async def add_refs(
    tx: Tx, custodian: str, pairs: Sequence[tuple[str, str]], payout_id: str
) -> None:
    """Store ids (kind, value) at a custodian as a payout's; they must belong to no other."""
    if not pairs:
        return
    await tx.many(
        _ADD_REF,
        [
            {"custodian": custodian, "kind": kind, "value": value, "payout_id": payout_id}
            for kind, value in pairs
        ],
    )


async def payouts_of_refs(
    tx: Tx, custodian: str, pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Row]:
    """Return the rows of the payouts that some ids (kind, value) at a custodian belong to."""
    if tx.live is not None:
        known = {pair: tx.live.owner(custodian, pair) for pair in pairs}
        found = {pair: row for pair, row in known.items() if row is not None}
        if len(found) == len(known):
            return found
    rows = wide(await tx.all(_PAYOUTS_OF_REFS, at_custodian=custodian, pairs=to_json(pairs)))
    read = {(row["ref_kind"], row["ref_value"]): row for row in rows}
    if tx.live is not None:
        for pair, row in read.items():
            tx.live.put_owner(custodian, pair, row)
    return read


async def payout_of_ref(tx: Tx, custodian: str, kind: str, value: str) -> str | None:
    """Return the payout that an id at a custodian belongs to."""
    row = await tx.one(_REF, custodian=custodian, kind=kind, value=value)
    return None if row is None else str(row["payout_id"])


async def add_hashes(tx: Tx, payout_id: str, hashes: Sequence[str]) -> None:
    """Let a payout be found by the hashes of its transactions."""
    await tx.later(_HASHES, [{"tx_hash": each, "payout_id": payout_id} for each in hashes])


async def _add_hashes(tx: Tx, found: Sequence[Mapping[str, str]]) -> None:
    await tx.many(_ADD_HASH, found)


_HASHES = Later(frozenset({"payout_hashes"}), _add_hashes)


async def payout_of_any_id(tx: Tx, value: str) -> str | None:
    """Return the payout that has this id or hash at whichever custodian."""
    row = await tx.one(_ANY_REF, value=value) or await tx.one(_ANY_HASH, value=value)
    return None if row is None else str(row["payout_id"])


async def refs_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return a payout's ids at custodians."""
    return await tx.all(_REFS_OF, payout_id=payout_id)


async def add_attention(tx: Tx, payout_id: str, code: str, detail: str, at: int) -> None:
    """Put a payout on the operator's list, or count it there once more."""
    await add_attentions(tx, payout_id, [(code, detail)], at)


async def add_attentions(tx: Tx, payout_id: str, found: Sequence[tuple[str, str]], at: int) -> None:
    """Put a payout on the operator's list for some reasons (code, detail), or count them once more."""
    await tx.many(
        _ADD_ATTENTION,
        [
            {
                "payout_id": payout_id,
                "code": code,
                "detail": detail,
                "times": 1,
                "first_at": at,
                "last_at": at,
                "closed_at": None,
                "closed_by": None,
                "told_at": None,
            }
            for code, detail in found
        ],
    )


async def attention_of(tx: Tx, payout_id: str) -> list[Row]:
    """Return what an operator should know of one payout."""
    return await tx.all(_ATTENTION_OF, payout_id=payout_id)


async def attention_list(tx: Tx, limit: int) -> list[Row]:
    """Return what is open on the operator's list, newest first."""
    return await tx.all(_ATTENTION, limit=limit)


async def attention_counts(tx: Tx) -> Sequence[Row]:
    """Return how many rows are open on the operator's list per code."""
    return await tx.all(_ATTENTION_COUNT)


@lru_cache(maxsize=4)
def _counted(status: Status) -> Query:
    """Return the count and the oldest of the payouts of one open status, at most so many of them."""
    rows = (
        select(payouts.c.mode, payouts.c.custodian, payouts.c.sub_status, payouts.c.created_at)
        .where(payouts.c.status == literal_column(f"'{status.value}'"))
        .limit(bindparam("most"))
        .subquery("counted")
    )
    keys = (rows.c.mode, rows.c.custodian, rows.c.sub_status)
    counted = func.count().label("payouts"), func.min(rows.c.created_at).label("oldest")
    return Query(select(*keys, *counted).group_by(*keys))


async def open_counts(tx: Tx, most: int) -> list[tuple[Status, Row]]:
    """Return how many payouts are open, and when the oldest was created, in microseconds.

    By status, with `mode`, `custodian`, `sub_status`, `payouts` and `oldest`. It reads the open payouts of
    each status, `most` of them, and no other ones: beyond that, counts are too low.
    """
    return [
        (status, row)
        for status in (Status.PENDING, Status.BROADCAST)
        for row in await tx.all(_counted(status), most=most)
    ]


async def reference_collisions(tx: Tx, limit: int) -> list[Row]:
    """Return payouts whose references were written differently and are one reference now. A long read.

    Those of the first `limit` references, each reference's beside each other: `org`, `mode`, `reference`,
    `id`, `status`, `batch_id`. Payouts that leave their reference free are left out.
    """
    return await tx.all(_COLLISIONS, limit=limit)


async def unowned_payouts(tx: Tx, limit: int) -> list[Row]:
    """Return payouts that are not final and that nobody would ever work on."""
    return await tx.all(_UNOWNED, limit=limit)
