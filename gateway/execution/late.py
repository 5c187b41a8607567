"""Late reports of a custodian about a payout that has moved to another one. Store functions."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.adapter import BatchReport, FundsMoved, Report
from gateway.execution.decide import Outcome
from gateway.execution.history import histories, note_news
from gateway.execution.proof import History, Source, open_calls
from gateway.execution.reports import NEWS, failed
from gateway.model import Attention, Payout
from gateway.runtime import Moment
from gateway.store import executions
from gateway.store import payouts as payout_rows
from gateway.store.database import Tx


async def news_of_closed(  # noqa: PLR0913 - the news and its circumstances
    tx: Tx, payout_id: str, custodian: str, report: Report, source: Source, now: Moment
) -> bool:
    """Record news of a custodian that a payout has left. Store function. Return whether it was noted.

    It is never applied as an outcome. If the payout may be paid there after all, that is kept as
    evidence of the closed execution, which forbids every further mark; the open execution elsewhere is
    blocked, and a person looks.
    """
    rows = [
        each
        for each in await executions.executions_of(tx, payout_id)
        if each["custodian"] == custodian
    ]
    history = (await histories(tx, rows[-1:], now))[rows[-1]["id"]] if rows else History()
    if not contradicts_closing(history, report):
        return False
    if rows:
        await note_news(tx, rows[-1]["id"], history, report, payout_id, source, now)
    open_one = await executions.open_execution_of(tx, payout_id)
    if open_one is not None and open_one["blocked"] is None:
        await executions.update_execution(tx, open_one["id"], blocked=Attention.LATE_NEWS.value)
    detail = (
        f"{custodian} did not pay it, so that it went on elsewhere; now {custodian} says "
        f"{report.custodian_word}: ask both custodians before it is paid by anybody"
    )
    await payout_rows.add_attention(tx, payout_id, Attention.LATE_NEWS, detail[:300], now.wall)
    return True


def contradicts_closing(history: History, report: Report) -> bool:
    """Whether a late report means that an execution that was closed as not paid may pay after all.

    The report says that money is on its way, came back, or was moved by what failed. If the execution
    was closed because the custodian did not know the call, any sign that it does know it is enough: a
    transfer that waits for an approval is paid once somebody approves it. Without this rule it is paid
    by the next custodian, and then by this one.
    """
    claim = FundsMoved.NO if report.failure is None else report.failure.funds_moved
    if report.sub_status in NEWS or report.returned or claim is FundsMoved.YES:
        return True
    unpaid = failed(report) and claim is FundsMoved.NO and report.failure is not None
    return bool(open_calls(history)) and report.sub_status is not None and not unpaid


async def answer_of_closed(
    tx: Tx, items: Iterable[Payout], custodian: str, outcome: Outcome, now: Moment
) -> None:
    """Record the answer to a worker that lost its lease, for payouts that have moved elsewhere.

    No look at this custodian follows, so the answer would otherwise be lost. Store function.
    """
    told = outcome.items if isinstance(outcome, BatchReport) else {}
    for item in (each.id for each in items if each.id in told):
        row = await payout_rows.payout_row(tx, item)
        if row is not None and row["custodian"] != custodian:
            await news_of_closed(tx, item, custodian, told[item], Source.REPLY, now)
