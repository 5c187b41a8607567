"""What an attacker does to another org's quote and payout: `make bench-isolation` (`--quick`: two minutes).

For each attack, a gateway on a fresh database, and in the same run: first the victim alone (the control),
then the victim beside the attack. The victim is one client that quotes and pays, one pair after the
other, each over a new connection; its events go to a receiver of its own. Times are of this machine and
this moment: only the ratio to the control travels. What was refused, lost or not delivered comes first.

Prints a line of JSON for each attack and run as it ends, and a table of the medians at the end.
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
import uvloop
from isolation_attacks import ATTACKS, PREPARE_S
from isolation_stack import Child, NameServer, Stack, enter_namespaces, running_stack, set_up_names

_HERE = Path(__file__).parent
#: The attack that needs a name server of ours.
_BY_NAME = "names without answer"
#: The most that the victim's p99 may become, as a ratio to its control.
AIM = 1.5
#: A pair; what the gateway computed during it; from its request to the receipt of its first event; to that of `payout.delivered`.
_TIMED = ("pair", "cpu", "event", "paid")
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
    runs: int
    quick: bool
    #: for the pairs beside an attack, and without one
    phase_s: float
    #: for one pair
    pair_s: float
    #: for what is still to be delivered after an attack
    drain_s: float
    #: for all of it: no attack begins after
    total_s: float


QUICK = Plan(pairs=40, runs=1, quick=True, phase_s=2.5, pair_s=2.5, drain_s=2.0, total_s=105)
FULL = Plan(pairs=2000, runs=3, quick=False, phase_s=180, pair_s=15, drain_s=60, total_s=3 * 3600)


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
    """One client that pays, one pair after the other."""

    def __init__(self, stack: Stack, plan: Plan) -> None:
        self._stack = stack
        self._plan = plan
        self._keys: Iterator[str] = itertools.cycle(stack.victim_keys)

    async def measure(self) -> Phase:
        """Make the pairs of a phase: all of them, or as many as there is time for."""
        phase, end = Phase(), time.monotonic() + self._plan.phase_s
        async with self._watched(phase):
            while phase.asked < self._plan.pairs and time.monotonic() < end:
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
        return phase

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
    async def _watched(self, phase: Phase) -> AsyncIterator[None]:
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
    async with running_stack(names=name == _BY_NAME) as stack:
        victim = Victim(stack, plan)
        # What the first requests load and compile belongs to neither phase.
        for _ in range(10):
            await victim._pair(Phase())  # noqa: SLF001 - of this module
        control = await victim.measure()
        await delivered(stack, plan, control)
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
            beside = await victim.measure()
        finally:
            did = await attacker.stop()
        await delivered(stack, plan, beside)
        ended = stack.gateway.ended
    return {
        "attack": name,
        "ready": ready == "ready",
        "did": json.loads(did) if did.startswith("{") else None,
        "gateway_ended": ended,
        **_compared(control, beside),
    }


def _compared(control: Phase, beside: Phase) -> dict[str, Any]:
    """Return both phases in numbers. Ratios are to the control of the same run."""
    found: dict[str, Any] = {}
    for what, mine, others in (
        ("pair", beside.pairs_ms, control.pairs_ms),
        ("cpu", beside.cpu_ms, control.cpu_ms),
        ("event", beside.events_ms, control.events_ms),
        ("paid", beside.paid_ms, control.paid_ms),
    ):
        for percent in (50, 99):
            least = max(quantile(others, percent), 1e-3)
            found[f"{what}_p{percent}_ratio"] = quantile(mine, percent) / least
            found[f"{what}_p{percent}_control_ms"] = quantile(others, percent)
    for phase, prefix in ((control, "control_"), (beside, "")):
        for name in ("asked", "failed", "limited", "lost", "late", "memory_mb", "health_ms"):
            found[prefix + name] = getattr(phase, name)
        found[prefix + "health_failed"] = phase.health_failed
    return found


def _row(name: str, runs: list[dict[str, Any]]) -> str:
    """Return an attack's line of the table: medians of ratios, sums of losses, the most memory."""

    def ratio(column: str) -> str:
        value = statistics.median(each[column] for each in runs)
        return "none" if value == float("inf") else f"{value:.2f}"

    def total(column: str) -> int:
        return sum(each[column] for each in runs)

    cells = [
        name,
        f"{total('asked')}",
        f"{total('failed')}",
        f"{total('lost')}",
        f"{total('late')}",
        *(ratio(f"{what}_p{percent}_ratio") for what in _TIMED for percent in (50, 99)),
        f"{max(each['control_memory_mb'] for each in runs):.0f}",
        f"{max(each['memory_mb'] for each in runs):.0f}",
        f"{max(each['health_ms'] for each in runs):.0f}",
        f"{total('health_failed')}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as JSON has it: rounded, and null for a ratio of nothing."""
    return {
        name: (round(value, 3) if value != float("inf") else None)
        if isinstance(value, float)
        else value
        for name, value in result.items()
    }


_HEAD = (
    "attack",
    "pairs",
    "failed",
    "lost",
    "late",
    *(f"{what} p{percent}" for what in _TIMED for percent in (50, 99)),
    "MB control",
    "MB most",
    "healthz worst ms",
    "healthz failed",
)


async def run(plan: Plan, names: list[str], folder: Path) -> int:
    """Run the attacks, one after the other; 1 where a payout was lost or an attack did not begin."""
    write, results = sys.stdout.write, dict[str, list[dict[str, Any]]]()
    has_names = set_up_names(folder)
    begun = time.monotonic()
    if has_names:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 53))
    elif _BY_NAME in names:
        names = [name for name in names if name != _BY_NAME]
        write(f"left out, as this machine gives no namespaces: {_BY_NAME}\n")
    for number, name in itertools.product(range(plan.runs), names):
        if time.monotonic() - begun > plan.total_s:
            write(f"left out for time, run {number}: {name}\n")
            continue
        result = {"run": number, **await attacked(name, plan)}
        results.setdefault(name, []).append(result)
        write(json.dumps(_plain(result)) + "\n")
        sys.stdout.flush()
    write(
        f"\n{os.cpu_count()} cores; {plan.pairs} pairs of quote and payout at most in each phase, "
        f"{plan.runs} run(s), {time.monotonic() - begun:.0f} s. Ratios are to the control of the same "
        f"run, medians of the runs; the aim for the pair's p99 is {AIM}.\n\n"
    )
    write("| " + " | ".join(_HEAD) + " |\n" + "| --- " * len(_HEAD) + "|\n")
    for name, runs in results.items():
        write(_row(name, runs))
    every = [each for runs in results.values() for each in runs]
    above = [
        name
        for name, runs in results.items()
        if statistics.median(each["pair_p99_ratio"] for each in runs) > AIM
        or any(each["failed"] for each in runs)
    ]
    lost = sum(each["lost"] + each["control_lost"] for each in every)
    idle = sorted({each["attack"] for each in every if not each["ready"]})
    write(
        f"\nlost in all: {lost}\nabove the aim, or with failed pairs: {', '.join(above) or 'none'}\n"
    )
    if idle:
        write(f"not under way in time: {', '.join(idle)}\n")
    return 1 if lost else 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short run, in two minutes")
    parser.add_argument("--attack", action="append", choices=sorted(ATTACKS), help="only this one")
    parser.add_argument("--pairs", type=int, help="pairs in each phase")
    parser.add_argument("--runs", type=int, help="runs of each attack")
    parser.add_argument("--minutes", type=float, help="no attack begins after so many minutes")
    options = parser.parse_args()
    enter_namespaces()
    base = QUICK if options.quick else FULL
    plan = replace(
        base,
        pairs=options.pairs or base.pairs,
        runs=options.runs or base.runs,
        total_s=60 * options.minutes if options.minutes else base.total_s,
    )
    with contextlib.suppress(BrokenPipeError), tempfile.TemporaryDirectory() as folder:
        return uvloop.run(run(plan, options.attack or list(ATTACKS), Path(folder)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
