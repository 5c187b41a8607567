"""What an attacker does to another org's quote and payout: `make bench-isolation` (`--quick`: two minutes).

For each attack, two gateways, each with a database, a custodian's twin and a receiver of its own: one is
attacked, and the other one is the control. The victim is one client that quotes and pays, one pair after
the other, each over a new connection, now at the one gateway and now at the other. So what else the
machine does at a moment, the attacker's own process included, meets both. Before the attack, the victim
pays at the attacked gateway alone. Times are of this machine and this moment: only ratios travel. What
was refused, lost or not delivered comes first.

Prints a line of JSON for each attack and run as it ends, and a table of the medians at the end. `--into`
also keeps the lines in a file, and does only what the file does not have; `--join` makes the table of files.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import isolation_table
import uvloop
from harness import stop_when_told
from isolation_attacks import ATTACKS, PREPARE_S
from isolation_stack import Child, NameServer, Stack, enter_namespaces, running_stacks, set_up_names

_HERE = Path(__file__).parent
#: The attack that needs a name server of ours.
_BY_NAME = "names without answer"
_PAUSE_S = 0.01
_LOOK_S = 0.25
_DESTINATION = {
    "type": "address",
    "network": "EthereumSepolia",
    "address": "0x52908400098527886E0F7030069857D2E4169EE7",
}


@dataclass(frozen=True)
class Plan:
    """How much is measured, and how long at most."""

    pairs: int
    #: before the attack, at the one gateway
    before: int
    runs: int
    quick: bool
    #: for the pairs of a phase
    phase_s: float
    #: for one pair
    pair_s: float
    #: for what is still to be delivered after an attack
    drain_s: float
    #: for all of it: no attack begins after
    total_s: float


QUICK = Plan(
    pairs=40, before=40, runs=1, quick=True, phase_s=2.5, pair_s=2.5, drain_s=2.0, total_s=105
)
FULL = Plan(
    pairs=2000,
    before=300,
    runs=3,
    quick=False,
    phase_s=180,
    pair_s=15,
    drain_s=60,
    total_s=3 * 3600,
)


@dataclass
class Phase:
    """What became of the victim's pairs in one phase."""

    asked: int = 0
    failed: int = 0
    limited: int = 0
    pairs_ms: list[float] = field(default_factory=list)
    #: processor time that the gateway used during each pair, for whatever it did
    cpu_ms: list[float] = field(default_factory=list)
    #: when each accepted payout was requested, by its id (monotonic time in ns)
    requested: dict[str, int] = field(default_factory=dict)
    #: from the request to the receipt of the first event, and of that of the delivered payout
    events_ms: list[float] = field(default_factory=list)
    paid_ms: list[float] = field(default_factory=list)
    #: accepted payouts that the database does not have
    lost: int = 0
    #: those whose first or last event had not come when waiting ended
    late: int = 0
    memory_mb: float = 0.0
    health_ms: float = 0.0
    health_failed: int = 0


def quantile(values: list[float], percent: int) -> float:
    """Return a quantile of some times; infinite where there is none."""
    if len(values) < 2:  # noqa: PLR2004 - one value has no quantiles
        return values[0] if values else float("inf")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


class Victim:
    """One client that pays at one gateway, one pair after the other."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self.stack = self._stack = stack
        self._plan = plan
        self._keys: Iterator[str] = itertools.cycle(stack.victim_keys)

    async def one(self, phase: Phase) -> None:
        """Make a pair, and note what became of it."""
        phase.asked += 1
        used = self._stack.gateway.cpu_ms()
        try:
            async with asyncio.timeout(self._plan.pair_s):
                await self._pair(phase)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            # No answer is no fast answer: it counts as long as one may take.
            phase.failed += 1
            phase.pairs_ms.append(1000 * self._plan.pair_s)
        phase.cpu_ms.append(self._stack.gateway.cpu_ms() - used)
        await asyncio.sleep(_PAUSE_S)

    async def _pair(self, phase: Phase) -> None:
        """Quote and pay over a new connection. Waiting that a limit asks for is not counted as time."""
        key, waited = next(self._keys), 0.0
        begun = time.perf_counter()
        async with aiohttp.ClientSession(trust_env=False) as http:

            async def call(path: str, body: dict[str, Any], wanted: int) -> dict[str, Any]:
                nonlocal waited
                headers = {
                    "Authorization": f"Bearer {key}",
                    "Idempotency-Key": secrets.token_hex(8),
                }
                while True:
                    url = self._stack.url + path
                    async with http.post(url, json=body, headers=headers) as answer:
                        told: dict[str, Any] = await answer.json(content_type=None)
                    if answer.status == wanted:
                        return told
                    if answer.status != 429:  # noqa: PLR2004 - too many requests
                        raise ValueError(told)
                    phase.limited += 1
                    pause = float(answer.headers.get("Retry-After", "1"))
                    waited += pause
                    await asyncio.sleep(pause)

            body = {
                "external_ref": "v",
                "asset": "USDC",
                "amount": "1",
                "destination": _DESTINATION,
            }
            quote = await call("/payouts/quote", body, 200)
            # An event may come before the response does: its time begins with the request.
            sent, waited_before = time.monotonic_ns(), waited
            payout = await call("/payouts", {"quote_id": quote["quote_id"]}, 201)
        phase.requested[payout["id"]] = sent + round((waited - waited_before) * 1e9)
        phase.pairs_ms.append(1000 * (time.perf_counter() - begun - waited))

    @asynccontextmanager
    async def watched(self, phase: Phase) -> AsyncIterator[None]:
        """Look at the gateway's memory and health meanwhile."""

        async def memory() -> None:
            while True:
                phase.memory_mb = max(phase.memory_mb, self._stack.gateway.memory_mb())
                await asyncio.sleep(_LOOK_S)

        async def health() -> None:
            timeout = aiohttp.ClientTimeout(total=self._plan.pair_s)
            while True:
                begun = time.perf_counter()
                try:
                    async with (
                        aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
                        http.get(self._stack.url + "/healthz") as answer,
                    ):
                        phase.health_failed += answer.status != 200  # noqa: PLR2004 - well
                except (aiohttp.ClientError, OSError, TimeoutError):
                    phase.health_failed += 1
                finally:
                    # Also of one that still waits at the end.
                    took = 1000 * (time.perf_counter() - begun)
                    phase.health_ms = max(phase.health_ms, took)
                await asyncio.sleep(_LOOK_S)

        watching = [asyncio.create_task(memory()), asyncio.create_task(health())]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)


async def measure(plan: Plan, pairs: int, *victims: Victim) -> list[Phase]:
    """Make the pairs of a phase: all of them, or as many as there is time for; the victims take turns."""
    phases, end = [Phase() for _ in victims], time.monotonic() + plan.phase_s
    async with contextlib.AsyncExitStack() as watching:
        for each, phase in zip(victims, phases, strict=True):
            await watching.enter_async_context(each.watched(phase))
        while phases[0].asked < pairs and time.monotonic() < end:
            for each, phase in zip(victims, phases, strict=True):
                await each.one(phase)
    return phases


async def delivered(stack: Stack, plan: Plan, phase: Phase) -> None:
    """Wait for the first and the last event of each payout of a phase; note how long each took."""
    end = time.monotonic() + plan.drain_s
    while True:
        received = await stack.received()
        events = [stack.events(kind) for kind in ("payout.created", "payout.delivered")]
        arrived = [
            {payout: received[event] for payout, event in of_kind.items() if event in received}
            for of_kind in events
        ]
        late = phase.requested.keys() - (arrived[0].keys() & arrived[1].keys())
        if not late or time.monotonic() > end:
            break
        await asyncio.sleep(_LOOK_S)
    phase.lost = len(phase.requested.keys() - events[0].keys())
    phase.late = len(late)
    phase.events_ms, phase.paid_ms = (
        [(times[payout] - at) / 1e6 for payout, at in phase.requested.items() if payout in times]
        for times in arrived
    )


async def attacked(name: str, plan: Plan) -> dict[str, Any]:
    """Run an attack and its control; return what is printed of them."""
    _, quick, full = ATTACKS[name]
    names = name == _BY_NAME
    begun = time.monotonic()
    async with running_stacks(2, names=names) as (stack, other):
        victim, untouched = Victim(stack, plan), Victim(other, plan)
        # What the first requests load and compile belongs to no phase.
        for each in (victim, untouched):
            for _ in range(20):
                await each.one(Phase())
        (before,) = await measure(plan, plan.before, victim)
        await delivered(stack, plan, before)
        wanted = {
            "attack": name,
            "host": "127.0.0.1",
            "port": stack.port,
            "key": stack.attacker_key,
            "most": quick if plan.quick else full,
        }
        attacker = await Child.start(
            stack.folder / "attacker.log", str(_HERE / "isolation_attacks.py"), json.dumps(wanted)
        )
        try:
            ready = await attacker.line(8.0 if plan.quick else 2 * PREPARE_S)
            beside, control = await measure(plan, plan.pairs, victim, untouched)
        finally:
            did = await attacker.stop()
        await asyncio.gather(
            delivered(stack, plan, beside),
            delivered(other, plan, control),
        )
        ended = stack.gateway.ended
    return {
        "attack": name,
        "ready": ready == "ready",
        "did": json.loads(did) if did.startswith("{") else None,
        "gateway_ended": ended,
        "cores": os.cpu_count(),
        "pairs": plan.pairs,
        "took_s": time.monotonic() - begun,
        **_compared(control, beside, before),
    }


def _compared(control: Phase, beside: Phase, before: Phase) -> dict[str, Any]:
    """Return the phases in numbers. Ratios are to the control of the same moment, or to before the attack."""
    found: dict[str, Any] = {}
    for what, mine, others in (
        ("pair", beside.pairs_ms, control.pairs_ms),
        ("cpu", beside.cpu_ms, control.cpu_ms),
        ("event", beside.events_ms, control.events_ms),
        ("paid", beside.paid_ms, control.paid_ms),
        ("before", beside.pairs_ms, before.pairs_ms),
    ):
        for percent in (50, 99):
            least = max(quantile(others, percent), 1e-3)
            found[f"{what}_p{percent}_ratio"] = quantile(mine, percent) / least
            found[f"{what}_p{percent}_control_ms"] = quantile(others, percent)
    for phase, prefix in ((control, "control_"), (beside, ""), (before, "before_")):
        for name in ("asked", "failed", "limited", "lost", "late", "memory_mb", "health_ms"):
            found[prefix + name] = getattr(phase, name)
        found[prefix + "health_failed"] = phase.health_failed
    return found


async def run(plan: Plan, names: list[str], folder: Path, into: Path | None) -> int:
    """Run the attacks, one after the other; 1 where a payout was lost.

    `into`: a file that each line is appended to as it comes; what it has of this plan is not done again.
    """
    write = sys.stdout.write
    results = [] if into is None else isolation_table.of_files([into])
    done = {(each["run"], each["attack"]) for each in results if each["pairs"] == plan.pairs}
    has_names = set_up_names(folder)
    begun = time.monotonic()
    if has_names:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 53))
    elif _BY_NAME in names:
        names = [name for name in names if name != _BY_NAME]
        write(f"left out, as this machine gives no namespaces: {_BY_NAME}\n")
    for number, name in itertools.product(range(plan.runs), names):
        if (number, name) in done:
            continue
        if time.monotonic() - begun > plan.total_s:
            write(f"left out for time, run {number}: {name}\n")
            continue
        result = {"run": number, **await attacked(name, plan)}
        results.append(result)
        line = isolation_table.to_line(result)
        if into is not None:
            with into.open("a", encoding="utf-8") as file:
                file.write(line)
        write(line)
        sys.stdout.flush()
    write("\n" + isolation_table.table(results))
    return 1 if isolation_table.lost_in(results) else 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short run, in two minutes")
    parser.add_argument("--attack", action="append", choices=sorted(ATTACKS), help="only this one")
    parser.add_argument("--pairs", type=int, help="pairs in each phase")
    parser.add_argument("--runs", type=int, help="runs of each attack")
    parser.add_argument("--minutes", type=float, help="no attack begins after so many minutes")
    parser.add_argument("--into", type=Path, help="append the lines to a file, and go on with it")
    parser.add_argument(
        "--join", type=Path, nargs="+", metavar="FILE", help="only print the table of such files"
    )
    options = parser.parse_args()
    if options.join:
        sys.stdout.write(isolation_table.table(isolation_table.of_files(options.join)))
        return 0
    stop_when_told()
    enter_namespaces()
    base = QUICK if options.quick else FULL
    plan = replace(
        base,
        pairs=options.pairs or base.pairs,
        before=min(options.pairs or base.pairs, base.before),
        runs=options.runs or base.runs,
        total_s=60 * options.minutes if options.minutes else base.total_s,
    )
    with contextlib.suppress(BrokenPipeError), tempfile.TemporaryDirectory() as folder:
        return uvloop.run(run(plan, options.attack or list(ATTACKS), Path(folder), options.into))
    return 1


if __name__ == "__main__":
    sys.exit(main())
