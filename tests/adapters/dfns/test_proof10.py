"""Reviewer's reproduction (red): "not sent" after the moving mark, although the payout is under way."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.dfns.client import Answer
from gateway.adapter import NotSent, OutcomeUnknown
from tests.adapters.dfns.rig import pair
from tests.adapters.dfns.test_never_twice import ready


async def test_a_refused_confirm_of_a_payout_under_way_is_not_called_not_sent() -> None:
    """The Confirm takes effect and is answered with a 4xx; the look sees the payout run.

    Its settling transfer is not shown yet. `judge` raises NotSent, and the engine takes that for the
    adapter's own word about the Confirm: everything is closed, and a cancel says "not paid".
    """
    async with pair() as (adapter, org):
        order = await ready(adapter, org)
        client: Any = adapter._client
        send = client.send

        async def sent(call: Any) -> Answer:
            answer = await send(call)
            if call.path.endswith("/action"):
                assert answer.ok
                await org.steps(1)
                await org.fault("transfer_status", "reject", status=404)
                return Answer(404, {"error": {"message": "no such payout action"}})
            return answer

        client.send = sent
        told: Exception | None = None
        try:
            await adapter.submit(order)
        except (NotSent, OutcomeUnknown) as error:
            told = error
        assert order.story[-1] == "moving"
        await org.steps(6)
        assert len(await org.ledger()) == 1, "it was paid"
        assert not isinstance(told, NotSent), told
        if told is None:
            pytest.skip("a report")
