"""The gateway processes on this database, as they see each other."""

from __future__ import annotations

from sqlalchemy import bindparam, select

from gateway.store.database import Query, Row, Tx
from gateway.store.schema import gateways

_PULSE = Query(
    select(gateways.c.counter, gateways.c.stopped_at).where(
        gateways.c.id == bindparam("gateway_id")
    )
)


async def gateway_pulse(tx: Tx, gateway_id: str) -> Row | None:
    """Return `counter`, which rises while a gateway runs, and `stopped_at`; None for an unknown one."""
    return await tx.one(_PULSE, gateway_id=gateway_id)
