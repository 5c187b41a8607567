"""The evidence of executions, read from its rows and written to them. Store functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.execution.gate import Other
from gateway.execution.proof import (
    Evidence,
    Heartbeat,
    History,
    Kind,
    Source,
    open_calls,
    was_seen,
)
from gateway.execution.state import Item
from gateway.model import Status, SubStatus
from gateway.report import Report
from gateway.runtime import Moment
from gateway.store import batches
from gateway.store import evidence as stored
from gateway.store import executions as rows
from gateway.store.database import Columns, Row, Tx
from gateway.store.rows import action_of, to_us


async def histories(
    tx: Tx, of: Sequence[Columns], now: Moment, *, asked: str = ""
) -> dict[str, History]:
    """Return what is known of executions, by id.

    `asked` names the account that is asked now; rows may not have named it yet.
    """
    found = await stored.evidence_rows(tx, [each["id"] for each in of])
    known = {}
    for each in of:
        evidence = tuple(evidence_of(row) for row in found.get(each["id"], ()))
        known[each["id"]] = await _completed(tx, each["custodian"], evidence, now, asked)
    return known


async def history_of(tx: Tx, execution: Columns, now: Moment, *, asked: str = "") -> History:
    """Return what is known of one execution; see `histories`."""
    return (await histories(tx, [execution], now, asked=asked))[execution["id"]]


async def note_news(  # noqa: PLR0913 - the news and its execution
    tx: Tx,
    execution_id: str,
    history: History,
    report: Report,
    item: str,
    source: Source,
    now: Moment,
) -> None:
    """Keep news of a transfer as evidence of an execution, once per reference. May be called twice."""
    if was_seen(history.rows, report.reference):
        return
    news = Evidence(
        number=history.last_number + 1,
        kind=Kind.NEWS,
        seen=history.last_number,
        at=now,
        reference=report.reference,
        item=item,
        source=source,
    )
    await stored.add_evidence(tx, [columns_of(execution_id, news, report.custodian_word)])
    await rows.update_execution(tx, execution_id, rows=news.number)


async def others_of(
    tx: Tx, execution_id: str, items: Iterable[str], now: Moment
) -> tuple[Other, ...]:
    """Return the other executions that ever held one of some payouts."""
    shared = await rows.sharing(tx, execution_id, items)
    if not shared:
        return ()
    found = {each: await rows.execution_row(tx, each) for each in (execution_id, *shared)}
    known = await histories(tx, [row for row in found.values() if row is not None], now)
    own = found[execution_id]
    return tuple(
        Other(
            known[each],
            tuple(payout_ids),
            elsewhere=own is not None and _custodian(found[each]) != own["custodian"],
        )
        for each, payout_ids in shared.items()
    )


def _custodian(row: Row | None) -> str | None:
    return None if row is None else str(row["custodian"])


async def _completed(
    tx: Tx, custodian: str, evidence: tuple[Evidence, ...], now: Moment, asked: str
) -> History:
    """Add rows that are seldom needed: heartbeats of other clocks, and accounts that were declared equal."""
    history = History(evidence)
    unknown = open_calls(history)
    if not unknown:
        return history
    beats: tuple[Heartbeat, ...] = ()
    if any(each.at.clock_id != now.clock_id for each in evidence):
        mark = unknown[-1].mark
        beats = tuple(
            Heartbeat(row["clock_id"], elapsed, mark)
            for row in await stored.heartbeat_rows(tx, mark)
            for elapsed in {row["first"], row["last"]}
        )
    accounts: Mapping[str, str] = {}
    named = {each.fingerprint for each in evidence if each.kind in {Kind.CALL, Kind.LOOK}}
    if len(named | ({asked} if asked else set())) > 1:
        accounts = await stored.declared_accounts(tx, custodian)
    return History(evidence, beats, accounts)


def evidence_of(row: Row) -> Evidence:
    """Return the evidence that a stored row holds."""
    return Evidence(
        number=row["number"],
        kind=Kind(row["kind"]),
        seen=row["seen"],
        at=Moment(row["clock_id"], row["elapsed"], row["wall"]),
        fingerprint=row["fingerprint"],
        answer=row["answer"],
        reference=row["reference"],
        item=row["item"],
        source=Source(row["source"]),
        mark=row["mark"],
        call_life=row["call_life"],
        visibility=row["visibility"],
        absence_looks=row["absence_looks"],
        key_life=row["key_life"],
        one_key=bool(row["one_key"]),
    )


def columns_of(
    execution_id: str, each: Evidence, detail: str | None = None
) -> Mapping[str, object]:
    """Return the columns of a row of evidence."""
    return {
        "execution_id": execution_id,
        "number": each.number,
        "kind": each.kind.value,
        "seen": each.seen,
        "clock_id": each.at.clock_id,
        "elapsed": each.at.elapsed,
        "wall": each.at.wall,
        "fingerprint": each.fingerprint,
        "answer": each.answer,
        "reference": each.reference,
        "item": each.item,
        "source": each.source.value,
        "mark": each.mark,
        "call_life": each.call_life,
        "visibility": each.visibility,
        "absence_looks": each.absence_looks,
        "key_life": each.key_life,
        "one_key": int(each.one_key),
        "detail": None if detail is None else detail[:500],
    }


def item_of(row: Row, now: Moment) -> Item:
    """Return what `decide` needs to know of a payout's row."""
    action = action_of(row)
    asks = row["sub_status"] == SubStatus.REQUIRES_ACTION
    late = asks and action is not None and action.open and to_us(action.expires_at) <= now.wall
    return Item(row["id"], Status(row["status"]), SubStatus(row["sub_status"]), unanswered=late)


async def next_number(tx: Tx, row: Columns) -> int:
    """Return the number of the next execution of this payout, or of the next set of this batch."""
    batch = None if row["batch_id"] is None else await batches.batch_row(tx, row["batch_id"])
    if batch is None or not batch["native"]:
        return int(row["number"]) + 1
    sets = await rows.executions_of_batch(tx, row["batch_id"])
    return 1 + max(int(each["number"]) for each in sets)
