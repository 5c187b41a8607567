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
#: The others are tried call by call, where no process has to wait for them.
_WHOLE_FAULTS = (
    "reject",
    "drop_before",
    "error_before",
    "error_after",
    "lose_reply",
    "half_response",
)


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
            payouts: list[str] = []
            calls = dict.fromkeys(self.calls())
            for call, fault in ((call, fault) for call in calls for fault in _WHOLE_FAULTS):
                await made.fault(call, fault, **HTTP_FAULTS[fault])
                payouts.append(await made.pay(self.amount()))
                await _until_happened(made, payouts[-1])
            ended = [
                await made.reaches(each, "delivered", "failed", "awaiting_approval", seconds=60)
                for each in payouts
            ]
            failed = [each for each in ended if each["status"] == "failed"]
            delivered = [each for each in ended if each["status"] == "delivered"]
            # A fault may hit the next call of another payout: only how many is certain.
            assert len(failed) <= len(calls), failed
            assert all(each["failure"]["funds_moved"] == "no" for each in failed), failed
            assert len(delivered) >= len(payouts) - len(calls), ended
            assert len(await made.ledger()) == len(delivered)

    @pytest.mark.e2e
    @pytest.mark.asyncio(loop_scope="class")
    @pytest.mark.timeout(120)
    @proves("whole: webhooks")
    async def test_doubled_reordered_lost_and_forged_news_changes_nothing(
        self, stacks: SharedStacks
    ) -> None:
        """The payout is delivered, and its events are sent once each and in order."""
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


async def _until_happened(made: Stack, payout_id: str) -> None:
    """Wait until a fault has happened, or the payout needed no such call."""

    async def happened() -> bool:
        if not (await made.steer("GET", "faults"))["faults"]:
            return True
        return (await made.payout(payout_id))["status"] in {"delivered", "failed"}

    await eventually(happened)
