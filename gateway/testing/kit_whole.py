"""Inherited tests with real processes: `serve`, the twin, a subscriber; one stack for the class."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.runtime import Failpoint
from gateway.testing.declared import HTTP_FAULTS, proves
from gateway.testing.kit_base import KitBase, not_applicable
from gateway.testing.stack import SharedStacks, Stack, eventually, subscribe

_EVENTS = ["payout.created", "payout.broadcast", "payout.delivered"]
#: Between the effects of one payout, where a process may die.
_FAILPOINTS = (
    Failpoint.REMEMBERED,
    Failpoint.MOVING,
    Failpoint.MOVED,
    Failpoint.SUBMITTED,
    Failpoint.FETCHED,
)
_PARKED = {"awaiting_approval", "outcome_unknown", "requires_action"}


class WholeTests(KitBase):
    """The adapter in a real gateway."""

    @pytest.mark.e2e
    @pytest.mark.asyncio(loop_scope="class")
    @pytest.mark.timeout(180)
    @proves("whole: faults")
    async def test_every_fault_on_every_call_pays_once(self, stacks: SharedStacks) -> None:
        """Many payouts at once, a fault for each call of each: delivered or refused, each paid once."""
        async with self.lent(stacks) as made:
            await made.serve()
            await subscribe(made)
            payouts: dict[str, str] = {}
            faults = [(call, fault) for call in self.calls() for fault in HTTP_FAULTS]
            for call, fault in dict.fromkeys(faults):
                await made.fault(call, fault, **HTTP_FAULTS[fault])
                payouts[await made.pay(self.amount())] = f"{call} {fault}"
                await _until_happened(made)
            paid = 0
            for payout_id, what in payouts.items():
                payout = await made.reaches(
                    payout_id, "delivered", "failed", "awaiting_approval", seconds=60
                )
                lawful = {"delivered"} if not what.endswith("reject") else {"delivered", "failed"}
                parked = payout["sub_status"] == "awaiting_approval"
                assert parked or payout["status"] in lawful, (what, payout)
                paid += payout["status"] == "delivered"
            assert len(await made.ledger()) == paid
            assert paid >= len(payouts) - len(self.calls())

    @pytest.mark.e2e
    @pytest.mark.asyncio(loop_scope="class")
    @pytest.mark.timeout(120)
    @proves("whole: webhooks")
    async def test_doubled_reordered_lost_and_forged_news_changes_nothing(
        self, stacks: SharedStacks
    ) -> None:
        """The payout is delivered, its events are told once each and in order."""
        if not self.adapter.capabilities.webhooks:
            not_applicable("the custodian sends no webhooks")
        async with self.lent(stacks) as made:
            await made.serve()
            await subscribe(made)
            payouts = []
            for fault in ("duplicate", "reorder", "drop", "forge", "delay"):
                await made.fault("webhook", fault)
                payouts.append(await made.pay(self.amount()))
            for each in payouts:
                await made.reaches(each, "delivered", seconds=60)

            async def told() -> bool:
                return all(made.receiver.types(each) == _EVENTS for each in payouts)

            await eventually(told)
            assert made.receiver.unverified == 0
            assert len(await made.ledger()) == len(payouts)

    @pytest.mark.e2e
    @pytest.mark.asyncio(loop_scope="class")
    @pytest.mark.timeout(120)
    @proves("whole: crashes")
    @pytest.mark.parametrize("failpoint", _FAILPOINTS)
    async def test_a_kill_at_a_failpoint_pays_once(
        self, stacks: SharedStacks, failpoint: Failpoint
    ) -> None:
        """Killed between two effects and started again: one transfer, delivered."""
        async with self.lent(stacks) as made:
            dying = await made.kill_at(failpoint)
            quote_id = await made.quote(self.amount())
            with contextlib.suppress(aiohttp.ClientError):
                await made.execute(quote_id)
            if await self.outlives(made, quote_id, dying):
                not_applicable(f"no payout comes to {failpoint}")
            await made.serve()
            payout_id = await made.execute(quote_id)
            await made.reaches(payout_id, "delivered", seconds=60)
            assert len(await made.ledger()) == 1

    @contextlib.asynccontextmanager
    async def lent(self, stacks: SharedStacks) -> AsyncIterator[Stack]:
        """Lend the stack of the class."""
        if self.asks_person:
            not_applicable("each payout asks a person")
        async with stacks.lend(self.name(), self.rail()) as made:
            yield made

    async def outlives(self, made: Stack, quote_id: str, dying: Any) -> bool:
        """Wait until a gateway has died, or has delivered the payout without coming to its failpoint."""
        for _ in range(600):
            if dying.exit_code is not None:
                assert dying.exit_code == -signal.SIGKILL, dying.told()
                return False
            with contextlib.suppress(aiohttp.ClientError):
                payout_id = await made.execute(quote_id)
                if (await made.payout(payout_id))["status"] == "delivered":
                    return dying.exit_code is None
            await asyncio.sleep(0.1)
        raise AssertionError("neither died nor delivered")

    @pytest.mark.e2e
    @pytest.mark.asyncio(loop_scope="class")
    @pytest.mark.timeout(120)
    @proves("whole: secrets")
    async def test_no_secret_is_in_the_log_or_the_database(self, stacks: SharedStacks) -> None:
        """After a payout with a failed call: not in the log, not in the database, not in the API."""
        async with self.lent(stacks) as made:
            await made.serve()
            await made.fault(self.moving, "bad_json")
            payout_id = await made.pay(self.amount())
            payout = await made.reaches(payout_id, "delivered", seconds=60)
            kept = {"the API": str(payout).encode()}
            for path in made.folder.iterdir():
                if path.is_file() and path != made.config and "twin" not in path.name:
                    kept[path.name] = path.read_bytes()
            names = self.credentials or made.credentials
            for name in names:
                secret = max(made.credentials[name].split("\n"), key=len)
                if not self.is_secret(name) or len(secret) < 4:
                    continue
                assert [n for n, text in kept.items() if secret.encode() in text] == [], name

    def is_secret(self, name: str) -> bool:
        """Say whether a setting is a secret."""
        return "Secret" in str(self.adapter.Settings.model_fields[name].annotation)

    def amount(self) -> str:
        """Return the amount of the kit's terms."""
        return str(self.terms.get("amount", "43"))


async def _until_happened(made: Stack) -> None:
    async def happened() -> bool:
        return not (await made.steer("GET", "faults"))["faults"]

    await eventually(happened)
