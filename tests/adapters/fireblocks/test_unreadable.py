"""A transaction whose details may not be read has no known sub-status. Reproducing test."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.adapter import Account, Report
from tests.adapters.fireblocks.rig import answering, fetch, order, submit

READABLE = (200, {"txHash": "", "subStatus": "CANCELLED_EXTERNALLY"})


@pytest.mark.parametrize("state", ["CANCELLED", "REJECTED", "BLOCKED"])
@pytest.mark.parametrize(
    "answer",
    [
        READABLE,
        (403, {"message": "no", "code": -8}),
        (404, {"message": "none", "code": 1404}),
        (404, ""),
    ],
)
async def test_what_cannot_be_read_is_never_no(state: str, answer: tuple[int, Any]) -> None:
    """Read, the sub-status says unknown; unread (no right, 404, a proxy) it must not say no."""
    async with answering({"transaction": answer}) as (adapter, wire):
        mine = order(source=Account(id="0", type="VAULT_ACCOUNT"))
        await submit(adapter, mine)
        wire.registered["instructionSet"][0].update(
            state="FAILED", transactions=[{"id": "t-1", "state": state}]
        )
        found = await fetch(adapter, mine.again())
        assert isinstance(found, Report)
        assert found.failure is None or found.failure.funds_moved == "unknown"
