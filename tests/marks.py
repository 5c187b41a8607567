"""Moving calls for tests of what comes after them."""

from __future__ import annotations

from gateway.execution.history import columns_of
from gateway.execution.proof import Answer, Evidence, Kind
from gateway.runtime import Runtime
from gateway.store import evidence, executions
from gateway.store.database import Database, Tx


async def mark_call(db: Database, runtime: Runtime, payout_id: str) -> None:
    """Give the open execution of a payout a call that the custodian accepted, if it has none."""

    async def add(tx: Tx) -> None:
        row = await executions.open_execution_of(tx, payout_id)
        if row is None or row["open_calls"]:
            return
        number = row["rows"] + 1
        call = Evidence(
            number=number,
            kind=Kind.CALL,
            seen=row["rows"],
            at=runtime.clock.moment(),
            answer=Answer.ACCEPTED,
        )
        await evidence.add_evidence(tx, [columns_of(row["id"], call, None)])
        await executions.update_execution(tx, row["id"], rows=number, open_calls=1)

    await db.run(add)
