"""News of payouts that have ended, and looks at them: the status stays, and the operator is alerted."""

from __future__ import annotations

from gateway.adapter import Absent, BatchReport, CannotLook, Capabilities, Report
from gateway.execution.decide import Outcome
from gateway.execution.history import histories, note_news
from gateway.execution.interpret import REFERENCE_OF_ANOTHER, names_no_call
from gateway.execution.proof import Source, calls
from gateway.execution.reports import NEWS
from gateway.model import Attention
from gateway.payout_change import Applied
from gateway.payouts import Payouts
from gateway.runtime import Moment
from gateway.store import executions
from gateway.store import payouts as payout_rows
from gateway.store.database import Tx
from gateway.store.returns import begin_looks, wake_looks

_SECOND = 1_000_000


async def news_after_end(  # noqa: PLR0913 - the news and its circumstances
    tx: Tx, payouts: Payouts, payout_id: str, report: Report, source: Source, now: Moment
) -> Applied | None:
    """Apply news to a payout without an open execution. Store function. None: the news is not about it.

    A report that its money moves after all is kept as evidence of its last execution, once per
    reference.
    """
    rows = await executions.executions_of(tx, payout_id)
    known = await histories(tx, rows, now)
    here = [each["id"] for each in rows if each["custodian"] == rows[-1]["custodian"]]
    made = {each.reference for execution_id in here for each in calls(known[execution_id])}
    if names_no_call(report, made):
        code, detail = Attention.FOREIGN_REF, REFERENCE_OF_ANOTHER
        await payout_rows.add_attention(tx, payout_id, code, detail, now.wall)
        return None
    applied = await payouts.apply(tx, payout_id, report)
    if not rows or Attention.CONTRADICTION not in applied.attention:
        return applied
    row, history = rows[-1], known[rows[-1]["id"]]
    if report.sub_status in NEWS:
        await note_news(tx, row["id"], history, report, payout_id, source, now)
    return applied


async def note_look_in_vain(tx: Tx, payout_id: str, outcome: Outcome, now: Moment) -> None:
    """Alert the operator to a payout that has ended and whose last look showed nothing.

    Nobody knows what happened at the custodian, and no look follows. If the custodian says that it does
    not know the payout, that is an answer and needs no alert.
    """
    if isinstance(outcome, Absent | BatchReport):
        return
    blind = isinstance(outcome, CannotLook)
    code = Attention.CANNOT_LOOK if blind else Attention.CUSTODIAN_UNREACHABLE
    detail = "the custodian reported it after its end, and it could not be looked up"
    await payout_rows.add_attention(tx, payout_id, code, detail, now.wall)


async def look_later(
    tx: Tx, can: Capabilities, custodian: str, execution_id: str, now: int
) -> None:
    """Schedule looks at an execution that ends now, for as long as the adapter declares. Store function.

    `now` is on the timeline, in microseconds.
    """
    life = round(can.looked_after_delivery_s * _SECOND)
    if life:
        due = now + min(life, round(can.polling_s[-1] * _SECOND))
        await begin_looks(tx, execution_id, custodian, begun=now, until=now + life, due=due)


async def look_again(tx: Tx, can: Capabilities, custodian: str, payout_id: str, now: int) -> None:
    """Schedule a look now at a payout that has ended, if the adapter declares looks after the delivery."""
    if not can.looked_after_delivery_s or await wake_looks(tx, payout_id, now):
        return
    for row in (await executions.executions_of(tx, payout_id))[-1:]:
        await begin_looks(tx, row["id"], custodian, begun=now, until=now, due=now)
