"""Ids that are registered before the call that makes them known at the custodian. Store function.

Without it a webhook that overtakes the reply of a call waits for an id that nobody has told yet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from gateway.store import executions, inbox
from gateway.store import payouts as payout_rows
from gateway.store.database import Row, Tx
from gateway.store.rows import Document, to_json

#: The note of an execution that ids were registered for.
EXPECTED = "expected"


async def expect_refs(  # noqa: PLR0913 - the lease, the owner and the ids
    tx: Tx,
    execution_id: str,
    token: int,
    payout_id: str,
    custodian: str,
    pairs: Sequence[tuple[str, str]],
) -> str | None:
    """Register ids (kind, value) as a payout's, under the lease of its execution. May be called twice.

    Returns an empty text, why not (an id is another payout's: nothing was written), or None where the
    lease is lost.
    """
    execution = await executions.held(tx, execution_id, token)
    if execution is None:
        return None
    row = await payout_rows.payout_row(tx, payout_id)
    assert row is not None  # noqa: S101 - an item of the execution
    document = Document(row["document"])
    fresh = document.unknown_refs(custodian, pairs)
    if not fresh:
        await _note(tx, execution)
        return ""
    known = await payout_rows.find_refs(tx, custodian, fresh)
    for kind, value in fresh:
        owner = known.owners.get((kind, value), payout_id)
        if owner != payout_id:
            return f"{kind} {value} already belongs to {owner}"
    new = [each for each in fresh if each not in known.owners]
    await payout_rows.add_refs(tx, custodian, new, payout_id)
    document.add_refs(custodian, fresh)
    await payout_rows.update_payout(tx, payout_id, document=document.text)
    if known.awaited:
        await inbox.wake_webhooks(tx, custodian, list(known.awaited))
    await _note(tx, execution)
    return ""


def expects(notes: str) -> bool:
    """Whether ids were registered for an execution, by its stored notes."""
    return EXPECTED in json.loads(notes)


async def _note(tx: Tx, execution: Row) -> None:
    """Keep with the execution that ids of it are known before its call."""
    notes = json.loads(execution["notes"])
    if EXPECTED not in notes:
        columns = {"notes": to_json({**notes, EXPECTED: True})}
        await executions.update_execution(tx, execution["id"], **columns)
