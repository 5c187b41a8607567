"""Evidence about executions: every moving call, every look; heartbeats and declared accounts beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, func, insert, select, update

from gateway.store.database import Later, Query, Row, Tx, listed, wide
from gateway.store.schema import account_declarations, evidence, heartbeats

_IDS = listed("ids")
_ADD_EVIDENCE = Query(insert(evidence), keeps=True)
_ANSWER = Query(
    update(evidence)
    .where(
        and_(
            evidence.c.execution_id == bindparam("of_execution"),
            evidence.c.number == bindparam("of_number"),
        )
    )
    .values(answer=bindparam("said")),
    keeps=True,
)
_EVIDENCE = Query(
    select(evidence)
    .where(evidence.c.execution_id.in_(_IDS))
    .order_by(evidence.c.execution_id, evidence.c.number)
)
_CALL_OF_MARK = Query(
    select(evidence.c.number).where(
        and_(
            evidence.c.execution_id == bindparam("execution_id"),
            evidence.c.mark == bindparam("mark"),
        )
    )
)
_HEARTBEATS = Query(
    select(
        heartbeats.c.clock_id,
        func.min(heartbeats.c.elapsed).label("first"),
        func.max(heartbeats.c.elapsed).label("last"),
    )
    .where(heartbeats.c.marks >= bindparam("marks"))
    .group_by(heartbeats.c.clock_id)
)
_DECLARED = Query(
    select(account_declarations.c.fingerprint, account_declarations.c.same_as).where(
        account_declarations.c.custodian == bindparam("custodian")
    )
)


@dataclass(frozen=True)
class _Answered:
    """What became of a call, and the row of it."""

    execution_id: str
    number: int
    answer: str | None

    @property
    def values(self) -> dict[str, object]:
        return {
            "of_execution": self.execution_id,
            "of_number": self.number,
            "said": self.answer,
        }


async def _write(tx: Tx, noted: Sequence[Mapping[str, object] | _Answered]) -> None:
    """Append what was noted, then the answers: a call is there before it is answered."""
    rows = [each for each in noted if not isinstance(each, _Answered)]
    answers = [each.values for each in noted if isinstance(each, _Answered)]
    if rows:
        await tx.many(_ADD_EVIDENCE, rows)
    if answers:
        await tx.many(_ANSWER, answers)


_NOTE: Later[Mapping[str, object] | _Answered] = Later(frozenset({"evidence"}), _write)


async def evidence_rows(tx: Tx, execution_ids: Iterable[str]) -> dict[str, list[Row]]:
    """Return the evidence of executions, by execution, in its order."""
    found, wanted, live = dict[str, list[Row]](), list(execution_ids), tx.live
    if live is not None:
        known = {each: live.evidence(each) for each in wanted}
        found = {each: rows for each, rows in known.items() if rows is not None}
        wanted = [each for each in wanted if each not in found]
    if wanted:
        read = grouped(wide(await tx.all(_EVIDENCE, ids=json.dumps(wanted))))
        if live is not None:
            for each in wanted:
                live.put_evidence(each, read.get(each, ()))
        found |= read
    return found


def reread(tx: Tx, execution_ids: Iterable[str] | None) -> None:
    """Have the evidence of executions read from the database, whatever is kept of it. None: of all."""
    if tx.live is not None:
        tx.live.forget_evidence(execution_ids)


async def add_evidence(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """Append rows of evidence; one mapping of columns each."""
    await tx.many(_ADD_EVIDENCE, rows)
    if tx.live is not None:
        tx.live.add_evidence(rows)


async def note_evidence(tx: Tx, rows: Sequence[Mapping[str, object]]) -> None:
    """As `add_evidence`, together with the evidence of other changes. Not for a mark."""
    await tx.later(_NOTE, rows)
    if tx.live is not None:
        tx.live.add_evidence(rows)


async def note_answer(tx: Tx, execution_id: str, number: int, answer: str | None) -> None:
    """As `set_answer`, together with the evidence of other changes. Not for a mark."""
    await tx.later(_NOTE, [_Answered(execution_id, number, answer)])
    if tx.live is not None:
        tx.live.change_answer(execution_id, number, answer)


async def set_answer(tx: Tx, execution_id: str, number: int, answer: str | None) -> None:
    """Write what became of a call."""
    await tx.all(_ANSWER, of_execution=execution_id, of_number=number, said=answer)
    if tx.live is not None:
        tx.live.change_answer(execution_id, number, answer)


async def call_of_mark(tx: Tx, execution_id: str, mark: int) -> int | None:
    """Return the number of the row that a mark was given to."""
    row = await tx.one(_CALL_OF_MARK, execution_id=execution_id, mark=mark)
    return None if row is None else int(row["number"])


async def heartbeat_rows(tx: Tx, marks: int) -> list[Row]:
    """Return, per clock, the first and last heartbeat dated after a mark was committed."""
    return await tx.all(_HEARTBEATS, marks=marks)


async def declared_accounts(tx: Tx, custodian: str) -> dict[str, str]:
    """Return the fingerprints that an operator declared to be the same account."""
    rows = await tx.all(_DECLARED, custodian=custodian)
    return {row["fingerprint"]: row["same_as"] for row in rows}


def grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by their execution."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["execution_id"], []).append(row)
    return found
