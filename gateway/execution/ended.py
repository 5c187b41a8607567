"""News of payouts that have ended: nothing changes them any more, and the operator hears of it."""

from __future__ import annotations

from gateway.adapter import Absent, BatchReport, CannotLook, Report
from gateway.execution.decide import (
    REFERENCE_OF_ANOTHER,
    Outcome,
    names_no_call,
)
from gateway.execution.history import columns_of, histories
from gateway.execution.proof import Evidence, Kind, Source, calls, was_seen
from gateway.execution.reports import NEWS
from gateway.model import Attention
from gateway.payouts import Applied, Payouts
from gateway.runtime import Moment
from gateway.store import evidence as stored
from gateway.store import executions
from gateway.store import payouts as payout_rows
from gateway.store.database import Tx


async def news_after_end(  # noqa: PLR0913 - the news and its circumstances
    tx: Tx, payouts: Payouts, payout_id: str, report: Report, source: Source, now: Moment
) -> Applied | None:
    """Bring news to a payout that no execution is open for. Store function; None: it is not about it.

    That its money moves after all is kept as evidence of its last execution, once per reference.
    """
    rows = await executions.executions_of(tx, payout_id)
    known = await histories(tx, rows, now)
    made = {each.reference for history in known.values() for each in calls(history)}
    if names_no_call(report, made):
        code, detail = Attention.FOREIGN_REF, REFERENCE_OF_ANOTHER
        await payout_rows.add_attention(tx, payout_id, code, detail, now.wall)
        return None
    applied = await payouts.apply(tx, payout_id, report)
    if not rows or Attention.CONTRADICTION not in applied.attention:
        return applied
    row, history = rows[-1], known[rows[-1]["id"]]
    if report.sub_status in NEWS and not was_seen(history.rows, report.reference):
        news = Evidence(
            number=history.last_number + 1,
            kind=Kind.NEWS,
            seen=history.last_number,
            at=now,
            reference=report.reference,
            item=payout_id,
            source=source,
        )
        await stored.add_evidence(tx, [columns_of(row["id"], news, report.custodian_word)])
        await executions.update_execution(tx, row["id"], rows=news.number)
    return applied


async def note_look_in_vain(tx: Tx, payout_id: str, outcome: Outcome, now: Moment) -> None:
    """Put a payout that has ended on the operator's list where its last look showed nothing.

    Nobody knows what happened there, and no look follows. That the custodian does not know it is an answer.
    """
    if isinstance(outcome, Absent | BatchReport):
        return
    blind = isinstance(outcome, CannotLook)
    code = Attention.CANNOT_LOOK if blind else Attention.CUSTODIAN_UNREACHABLE
    detail = "the custodian told of it after its end, and it could not be looked at"
    await payout_rows.add_attention(tx, payout_id, code, detail, now.wall)
