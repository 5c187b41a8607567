"""Ids that are registered before the call that makes them known at the custodian, and their owners.

Without it, a webhook that overtakes the reply of a call waits for an id that no payout has yet.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from gateway.adapter import BatchReport, Report
from gateway.execution.reports import without_status
from gateway.execution.state import Decision
from gateway.model import Attention
from gateway.store import executions, inbox
from gateway.store import payouts as payout_rows
from gateway.store.database import Row, Tx
from gateway.store.rows import Document, to_json

#: The note in an execution that has registered ids.
EXPECTED = "expected"


async def expect_refs(  # noqa: PLR0913 - the lease, the owner and the ids
    tx: Tx,
    execution_id: str,
    token: int,
    payout_id: str,
    custodian: str,
    pairs: Sequence[tuple[str, str]],
    at: int,
) -> str | None:
    """Register ids (kind, value) as a payout's, under the lease of its execution. May be called twice.

    If a webhook already waits for such an id, it came before any call: somebody else may have paid,
    such as another copy of the database. From then on no call is made, and an operator looks. `at` is
    the wall clock in microseconds. Returns an empty text; or the reason, if an id belongs to another
    payout and nothing was written; or None if the lease is lost.
    """
    execution = await executions.held(tx, execution_id, token)
    if execution is None:
        return None
    row = await payout_rows.payout_row(tx, payout_id)
    assert row is not None  # noqa: S101 - an item of the execution
    fresh = Document(row["document"]).unknown_refs(custodian, pairs)
    if (
        not fresh
        or payout_rows.remembers_refs(tx, custodian, fresh, payout_id)
        or await payout_rows.claim_refs(tx, custodian, fresh, row)
    ):
        await _note(tx, execution)
        return ""
    known = await payout_rows.find_refs(tx, custodian, fresh)
    for kind, value in fresh:
        owner = known.owners.get((kind, value), payout_id)
        if owner != payout_id:
            return f"{kind} {value} already belongs to {owner}"
    new = [each for each in fresh if each not in known.owners]
    await payout_rows.add_refs(tx, custodian, new, payout_id)
    if known.awaited:
        await inbox.wake_webhooks(tx, custodian, list(known.awaited))
        # Block in this transaction, not when the inbox reads the webhooks: a mark may be set before
        # that.
        detail = "a webhook about this payout came before any call was made for it"
        await payout_rows.add_attention(tx, payout_id, Attention.EARLY_NEWS, detail, at)
        if execution["blocked"] is None:
            await executions.update_execution(tx, execution_id, blocked=Attention.EARLY_NEWS.value)
    await _note(tx, execution)
    return ""


def expects(notes: str) -> bool:
    """Whether ids were registered for an execution, by its stored notes."""
    return EXPECTED in json.loads(notes)


def without_news(decision: Decision, outcome: object, ours: Collection[str]) -> Decision:
    """Return a decision for an execution that `early_news` blocks: it changes no item's status.

    The operator has this alert already, so the same money without a mark is not reported a second time.
    What came back is kept for the items (`ours`) whose report names no other payout's transfer.
    """
    if not isinstance(outcome, BatchReport):
        told = decision.reports
        alerts = decision.alerts
    else:
        back = {
            item: each for item, each in outcome.items.items() if each.returned and item in ours
        }
        told = {**back, **decision.reports}
        alerts = tuple(each for each in decision.alerts if each[0] is not Attention.ADAPTER_ERROR)
    held = {item: without_status(each) for item, each in told.items()}
    return replace(decision, reports=held, alerts=alerts)


async def strangers(
    tx: Tx, custodian: str, rows: Mapping[str, Row], reports: Mapping[str, Report]
) -> tuple[frozenset[str], payout_rows.KnownRefs | None]:
    """Return the items (`rows` by id) whose report names an id of another payout, and the owners of new ids.

    The second value is None if no report has a new id. Store function.
    """
    named: dict[tuple[str, str], set[str]] = {}
    for item, row in rows.items():
        refs = reports[item].refs if item in reports else ()
        pairs = ((ref.kind, ref.value) for ref in refs)
        for pair in Document(row["document"]).unknown_refs(custodian, pairs):
            named.setdefault(pair, set()).add(item)
    if not named:
        return frozenset(), None
    known = await payout_rows.find_refs(tx, custodian, list(named))
    foreign = frozenset(
        item
        for pair, items in named.items()
        for item in items
        if known.owners.get(pair, item) != item
    )
    return foreign, known


async def _note(tx: Tx, execution: Row) -> None:
    """Note in the execution that its ids are known before its call."""
    notes = json.loads(execution["notes"])
    if EXPECTED not in notes:
        columns = {"notes": to_json({**notes, EXPECTED: True})}
        await executions.update_execution(tx, execution["id"], **columns)
