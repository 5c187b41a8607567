"""A custodian without funds refuses, another one pays: killed at every step, paid once."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.runtime import Failpoint
from gateway.testing.processes import Process
from tests.e2e.stack import EVM_PAYEE, eventually, free_port

pytestmark = pytest.mark.timeout(120)
NAMES = ("first", "second")
STEPS = (
    Failpoint.CLAIMED,
    Failpoint.ATTEMPT_COMMITTED,
    Failpoint.MOVING,
    Failpoint.MOVED,
    Failpoint.SUBMITTED,
    Failpoint.SETTLED,
)
#: Marked, and nobody has written what became of the call.
_IN_DOUBT = frozenset({Failpoint.MOVED, Failpoint.SUBMITTED})
EMPTY = {"balances": [{"account": "MAIN", "asset": "USDC", "amount": "0"}]}
FUNDED = {"balances": [{"account": "MAIN", "asset": "USDC", "amount": "100"}]}
QUOTE = {
    "external_ref": "u",
    "destination": {"type": "address", "network": "EthereumSepolia", "address": EVM_PAYEE},
    "asset": "USDC",
    "amount": "5",
}


@dataclass
class Pair:
    """Two custodians, the first one without funds, and a gateway."""

    folder: Path
    port: int
    twins: dict[str, dict[str, Any]]
    http: aiohttp.ClientSession
    key: str = ""
    gateways: list[Process] = field(default_factory=list)

    async def serve(self, *arguments: str) -> Process:
        """Start the gateway with short waiting times."""
        config = str(self.folder / "g.toml")
        started = await Process.start(
            self.folder / "gateway.log",
            "gateway.testing.serving",
            *("--config", config, "--quick", *arguments),
        )
        self.gateways.append(started)
        return started

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Call the gateway."""
        async with self.http.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.key}", **headers},
        ) as answer:
            return await answer.json()

    async def steer(self, name: str, method: str, path: str, body: Any = None) -> Any:
        """Call the control API of a twin."""
        url = f"{self.twins[name]['control_url']}/_twin/{path}"
        async with self.http.request(method, url, json=body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def paid(self, name: str) -> int:
        """Return how many transfers a custodian has made."""
        return len((await self.steer(name, "GET", "ledger"))["transfers"])

    async def quote(self) -> str:
        """Ask for a quote, with a payee that both custodians know."""
        quote = await self.call("POST", "/payouts/quote", QUOTE, **{"Idempotency-Key": "quote"})
        assert quote["route"]["custodian"] == "first", quote
        return str(quote["quote_id"])

    async def looked_at(self, payout_id: str) -> None:
        """Wait until a payout whose outcome is unknown was refused again, and looked for since."""

        async def look() -> bool:
            payout = await self.call("GET", f"/payouts/{payout_id}")
            calls = (await self.steer("first", "GET", "calls"))["calls"]
            repeats = sum(each["call"] == "transfer" for each in calls)
            return bool(payout["sub_status"] == "outcome_unknown" and repeats > 2)

        await eventually(look, 40)

    async def reaches(self, payout_id: str, status: str) -> Any:
        """Wait until a payout has a status."""

        async def look() -> Any:
            payout = await self.call("GET", f"/payouts/{payout_id}")
            return payout if payout["status"] == status else None

        return await eventually(look, 40)


@asynccontextmanager
async def started(folder: Path, failover: str) -> AsyncIterator[Pair]:
    """Start both custodians, and write the configuration."""
    port, lines, processes = free_port(), [], []
    parts = [
        f'database = "g.db"\nserver_key = "{"A" * 43}="\n[listen]\nport = {port}\n[engine]\nlease_s = 2\nidle_s = 0.5\n'
    ]
    async with aiohttp.ClientSession() as http:
        try:
            for name in NAMES:
                hooks = f"http://127.0.0.1:{port}/custodians/{name}/webhooks"
                process = await Process.start(
                    folder / f"{name}.log",
                    "adapters.dummy.twin.app",
                    *("--port", "0", "--step-s", "0.1", "--webhook-url", hooks),
                )
                processes.append(process)
                twin = json.loads(process.line)
                lines.append(twin)
                secrets = "".join(
                    f'{key} = "{text}"\n' for key, text in twin["credentials"].items()
                )
                parts.append(
                    f'[custodians.{name}]\nadapter = "dummy"\nbase_url = "{twin["url"]}"\n{secrets}'
                )
            parts += [
                f'[[routes]]\ndestination = "address"\ncustodian = "{name}"\n'
                f'account = {{ id = "MAIN", type = "ACCOUNT" }}\nfailover = "{failover}"\n'
                for name in NAMES
            ]
            (folder / "g.toml").write_text("".join(parts), encoding="utf-8")
            made = Pair(folder, port, dict(zip(NAMES, lines, strict=True)), http)
            for arguments in (
                ("db", "upgrade"),
                ("keys", "create", "--org", "acme", "--mode", "live", "--json"),
            ):
                made.key = await run(*arguments, "--config", str(folder / "g.toml")) or made.key
            try:
                yield made
            finally:
                for each in made.gateways:
                    await each.stop()
        finally:
            for each in processes:
                await each.stop()


async def run(*arguments: str) -> str:
    """Run a command; return the key that it has made."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return str(json.loads(said)["key"]) if b'"key"' in said else ""


@pytest.mark.parametrize("occurrence", [1, 2])
@pytest.mark.parametrize("failpoint", STEPS)
async def test_killed_on_its_way_it_is_paid_once(
    tmp_path: Path, failpoint: Failpoint, occurrence: int
) -> None:
    """Killed at the first custodian or at the second: one transfer, at the second; one event of each kind.

    What is in doubt at the first one stays there.
    """
    async with started(tmp_path, "on_absence") as pair:
        dying = await pair.serve("--at", failpoint, "--occurrence", str(occurrence))
        quote_id = await pair.quote()
        # Not before: a quote leaves out an account whose balance is known to be short.
        await pair.steer("first", "PUT", "balances", EMPTY)
        payout = await pair.call("POST", "/payouts", {"quote_id": quote_id})
        assert await dying.died(40) == -signal.SIGKILL, f"{failpoint} was never reached"
        await pair.serve()
        if occurrence == 1 and failpoint in _IN_DOUBT:
            # A refusal of the repeat may mean that the call of before has arrived: it stays where it is.
            await pair.looked_at(payout["id"])
            assert (await pair.paid("first"), await pair.paid("second")) == (0, 0)
            await pair.steer("first", "PUT", "balances", FUNDED)
            payout = await pair.reaches(payout["id"], "delivered")
            assert (await pair.paid("first"), await pair.paid("second")) == (1, 0)
            return
        payout = await pair.reaches(payout["id"], "delivered")
        assert (await pair.paid("first"), await pair.paid("second")) == (0, 1)
        assert payout["custodian"] == "second"
        assert payout["quote"]["route"]["custodian"] == "first"
        places = [(each["number"], each["custodian"]) for each in payout["executions"]]
        assert places == [(1, "first"), (2, "second")]
        feed = (await pair.call("GET", f"/events?payout_id={payout['id']}"))["data"]
        assert [each["type"] for each in feed] == [
            "payout.created",
            "payout.broadcast",
            "payout.delivered",
        ]


async def test_what_is_in_doubt_stays_with_the_first(tmp_path: Path) -> None:
    """Its reply is lost after it has paid: nobody else pays, and it is found."""
    async with started(tmp_path, "on_absence") as pair:
        await pair.steer("first", "POST", "reset")
        await pair.steer(
            "first", "POST", "faults", {"fault": "lose_reply", "call": "transfer", "times": 1}
        )
        await pair.serve()
        payout = await pair.call("POST", "/payouts", {"quote_id": await pair.quote()})
        payout = await pair.reaches(payout["id"], "delivered")
        assert (payout["custodian"], payout["executions"]) == ("first", None)
        assert (await pair.paid("first"), await pair.paid("second")) == (1, 0)
