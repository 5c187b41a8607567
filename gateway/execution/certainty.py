"""What is certain, checked in the transaction that records it.

A decision may be made in one transaction and reported in the next. In between, news of a transfer may
come in, or the database may turn out to be an old copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.adapter import BatchReport, Report
from gateway.errors import Rejected
from gateway.execution.decide import Outcome
from gateway.execution.gate import may_reopen
from gateway.execution.history import others_of
from gateway.execution.proof import History
from gateway.execution.reports import claims_unpaid, failed
from gateway.execution.state import View
from gateway.runtime import Moment
from gateway.store.database import Columns, Tx
from gateway.store.state import frozen


async def still_certain(
    tx: Tx, row: Columns, history: History, news: Sequence[tuple[str, Report]], now: Moment
) -> Sequence[tuple[str, Report]]:
    """Return decided news of an execution without the "not paid" that is not certain any more.

    Store function.
    """
    unpaid = [item for item, each in news if claims_unpaid(each)]
    if not unpaid:
        return news
    others = await others_of(tx, row["id"], unpaid, now) if row["earlier"] else ()
    old = await frozen(tx) is not None
    doubtful = {each for each in unpaid if old or not may_reopen(history, each, others)}
    return tuple((item, each) for item, each in news if item not in doubtful)


async def with_frozen(tx: Tx, view: View, *, ends: bool = False) -> View:
    """Return the view with whether the database may be an old copy: then nothing is ended.

    Store function. It reads only where something could end: an expiry, or a report of a failure.
    """
    if not ends and not any(each.unanswered for each in view.open_items):
        return view
    return replace(view, frozen=await frozen(tx) is not None)


def could_end(outcome: Outcome) -> bool:
    """Whether an outcome may end a payout: a refusal, or a report of a failure."""
    reports = outcome.items.values() if isinstance(outcome, BatchReport) else ()
    return isinstance(outcome, Rejected) or any(failed(each) for each in reports)
