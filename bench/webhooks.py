"""Signed deliveries a second, beside a bare client in the same run; and nothing lost: `make bench-webhooks`.

One process is the gateway with its store on this disk (synchronous=FULL), one is the receiver, and this
one publishes and looks on. The ceiling posts the same bodies to the same receiver with aiohttp alone: no store, no
signature, no plan. Counts of lost and doubled events come first; times are of this machine and this
moment, and only the ratios travel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from harness import PARTS, Failed, Result
from webhook_publisher import Publisher, Told

from gateway.examples import example_event

_HERE = Path(__file__).parent
ENDPOINTS = 20
HANGING = 4
KILL_EVERY_S = 3.0
_LIMIT_S = 240


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    drain: int = 6000
    flow: int = 8000
    paced_s: float = 20
    down_s: float = 60
    kills: int = 5


SIZES = Sizes()


@dataclass
class Counted:
    """What became of the events that were committed."""

    events: int = 0
    lost: int = 0
    doubled: int = 0
    #: from the commit of an event to its arrival
    latencies_ms: list[float] = field(default_factory=list)
    #: from the request that publishes it to its arrival
    asked_ms: list[float] = field(default_factory=list)

    def quantile(self, percent: int) -> float:
        """Return a latency in ms."""
        return statistics.quantiles(self.latencies_ms, n=100)[percent - 1]


class Receiver:
    """The receiving process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "webhook_receiver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.base = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def ask(self, word: str) -> Any:
        """Say a word to it; return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def seen(self) -> dict[str, tuple[int, int]]:
        """Return time and count by webhook-id, of what was answered."""
        return {
            event_id: (at, count)
            for event_id, path, at, count in self.ask("tell")
            if not path.startswith("/hang")
        }

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


class Sender:
    """The gateway's process."""

    def __init__(self, database: Path, base: str, *, out: Path, **wanted: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._wanted = {
            "database": str(database),
            "base": base,
            "endpoints": ENDPOINTS,
            "hanging": 0,
            "preload": 0,
            "port": self.port,
            "webhooks": {},
            **wanted,
        }
        self._out = out
        self._process: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        """Start it."""
        with (
            self._out.open("a", encoding="utf-8") as out,
            self._out.with_suffix(".log").open("ab") as log,
        ):
            self._process = subprocess.Popen(
                [sys.executable, str(_HERE / "webhook_sender.py"), json.dumps(self._wanted)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                text=True,
            )

    def go(self) -> float:
        """Let it send what it has written; return the CPU seconds that it has used so far."""
        while not (text := self._out.read_text(encoding="utf-8")).endswith("}\n"):
            self._check()
            time.sleep(0.1)
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(json.loads(text)["written"])

    def ready(self) -> None:
        """Wait until it serves."""
        while True:
            self._check()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)

    def _check(self) -> None:
        if self._process.poll() is not None:
            log = self._out.with_suffix(".log").read_text(errors="replace")
            raise Failed(f"the gateway's process has ended:\n{log[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self._process.send_signal(how)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise Failed("the gateway's process did not stop within 30 s") from None


@contextmanager
def stage(name: str) -> Iterator[tuple[Receiver, Path, Path]]:
    """Give a receiver, a fresh database's path and a file for what is told."""
    receiver = Receiver()
    with tempfile.TemporaryDirectory(prefix=f"payout-gateway-bench-{name}-") as folder:
        try:
            yield receiver, Path(folder) / "g.db", Path(folder) / "out"
        finally:
            receiver.stop()


def in_database(path: Path, *, hanging: bool = False) -> set[str]:
    """Return the ids of the events that are durable: what must arrive, whatever was killed."""
    kind = "hang" if hanging else "ok"
    with sqlite3.connect(path, timeout=30) as db:
        rows = db.execute(
            "SELECT v.id FROM deliveries d JOIN events v ON v.position = d.position "
            "JOIN endpoints e ON e.id = d.endpoint_id "
            "WHERE e.url LIKE ?",
            (f"%/{kind}/%",),
        ).fetchall()
    db.close()
    return {row[0] for row in rows}


def until_all_are_there(receiver: Receiver, path: Path, limit_s: float) -> set[str]:
    """Wait for every durable event of an endpoint that answers; return those that never came."""
    end = time.monotonic() + limit_s
    expected = in_database(path)
    while True:
        missing = expected - receiver.seen().keys()
        if not missing or time.monotonic() > end:
            return missing
        time.sleep(0.25)


def until_count(receiver: Receiver, count: int) -> None:
    """Wait until so many events have arrived."""
    end = time.monotonic() + _LIMIT_S
    while receiver.ask("count") < count and time.monotonic() < end:
        time.sleep(0.02)


def counted(receiver: Receiver, told: Told, path: Path, limit_s: float) -> Counted:
    """Return what became of all that was committed."""
    missing = until_all_are_there(receiver, path, limit_s)
    time.sleep(0.5)
    seen = receiver.seen()
    return Counted(
        events=len(in_database(path)),
        lost=len(missing),
        doubled=sum(count - 1 for _, count in seen.values()),
        latencies_ms=[
            (seen[each][0] - at) / 1e6 for each, at in told.committed.items() if each in seen
        ],
        asked_ms=[(seen[each][0] - at) / 1e6 for each, at in told.asked.items() if each in seen],
    )


def bare(receiver: Receiver) -> tuple[float, float]:
    """Return the posts a second of a bare client, as many at once as the gateway may have, and CPU ms each."""
    body = example_event("payout.delivered", datetime.now(UTC), livemode=True)

    async def post() -> float:
        waiting = iter(range(SIZES.drain))
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def worker() -> None:
                for number in waiting:
                    headers = {"webhook-id": f"raw_{number}", "content-type": "application/json"}
                    url = f"{receiver.base}/ok/{number % ENDPOINTS}"
                    async with session.post(url, data=body, headers=headers) as answer:
                        await answer.read()

            begun = time.monotonic()
            await asyncio.gather(*(worker() for _ in range(4 * ENDPOINTS)))
            return time.monotonic() - begun

    before = time.process_time()
    per_s = SIZES.drain / uvloop.run(post())
    return per_s, 1e3 * (time.process_time() - before) / SIZES.drain


def drain() -> dict[str, Any]:
    """Deliver a full queue, beside what the bare client posts."""
    with stage("drain") as (receiver, path, out):
        raw, raw_ms = bare(receiver)
        receiver.ask("forget")
        sender = Sender(path, receiver.base, out=out, preload=SIZES.drain)
        before_s = sender.go()
        # Only counted meanwhile: to list all of it would take the receiver's time.
        until_count(receiver, SIZES.drain)
        result = counted(receiver, Told(), path, _LIMIT_S)
        sender.ready()
        after_s, _, _ = uvloop.run(Publisher(sender.port, ENDPOINTS).used())
        times = sorted(at for at, _ in receiver.seen().values())
        sender.stop()
    # From the first receipt to the last: the start of the process is not delivery.
    mine = (len(times) - 1) / ((times[-1] - times[0]) / 1e9)
    cpu_ms = 1e3 * (after_s - before_s) / SIZES.drain
    return row("a full queue", result) | beside(mine, cpu_ms, raw, raw_ms)


def flow() -> dict[str, Any]:
    """Publish as fast as the gateway takes it: accepted and delivered, beside the bare client."""
    with stage("flow") as (receiver, path, out):
        raw, raw_ms = bare(receiver)
        receiver.ask("forget")
        sender = Sender(path, receiver.base, out=out)
        sender.ready()
        publisher = Publisher(sender.port, ENDPOINTS)

        async def publish() -> tuple[int, float]:
            await publisher.all_at_once(ENDPOINTS * 20)
            await asyncio.sleep(0.5)
            begun, before = time.monotonic_ns(), await publisher.used()
            await publisher.all_at_once(SIZES.flow)
            await asyncio.to_thread(until_count, receiver, SIZES.flow + ENDPOINTS * 20)
            return begun, (await publisher.used())[0] - before[0]

        begun, cpu_s = uvloop.run(publish())
        result = counted(receiver, publisher.told, path, _LIMIT_S)
        last = max(at for at, _ in receiver.seen().values())
        sender.stop()
    mine = SIZES.flow / ((last - begun) / 1e9)
    cpu_ms = 1e3 * cpu_s / SIZES.flow
    return row("accepted and delivered", result) | beside(mine, cpu_ms, raw, raw_ms)


def beside(mine: float, cpu_ms: float, raw: float, raw_ms: float) -> dict[str, float]:
    """Return what was reached beside the ceiling; on a busy machine the CPU says more than the rate."""
    return {
        "per_s": mine,
        "ceiling_per_s": raw,
        "ratio": mine / raw,
        "cpu_ms": cpu_ms,
        "ceiling_cpu_ms": raw_ms,
        "cpu_ratio": raw_ms / cpu_ms,
    }


def paced(name: str, rate: float, seconds: float, hanging: int = 0) -> dict[str, Any]:
    """Publish at a steady rate."""
    with stage("paced") as (receiver, path, out):
        sender = Sender(path, receiver.base, out=out, hanging=hanging)
        sender.ready()
        warm, publisher = Publisher(sender.port, ENDPOINTS), Publisher(sender.port, ENDPOINTS)

        async def used(path: str, part_s: float) -> list[float]:
            before = await publisher.used()
            await (publisher if path == "/publish" else warm).at_a_rate(rate, part_s, path)
            await asyncio.sleep(0.2)
            after = await publisher.used()
            count = int(rate * part_s)
            return [(new - old) / count for new, old in zip(after, before, strict=True)]

        async def publish() -> list[list[float]]:
            # Short runs would measure the first connections and the compilation of statements.
            await warm.at_a_rate(rate, 2)
            parts = [await used("/publish", seconds / PARTS) for _ in range(PARTS)]
            nothing = [await used("/nothing", seconds / PARTS / 2) for _ in range(PARTS)]
            # Of CPU time the cheapest part; counts are the mean of all.
            return [
                min(parts),
                [statistics.mean(each) for each in zip(*parts, strict=True)],
                min(nothing),
            ]

        (cpu_s, _, _), (_, statements, commits), (asking_s, _, _) = uvloop.run(publish())
        result = counted(receiver, publisher.told, path, 60)
        sender.stop()
    return row(name, result) | {
        "cpu_ms": 1e3 * (cpu_s - asking_s),
        "asking_ms": 1e3 * asking_s,
        "statements": statements,
        "commits": commits,
    }


def down(rate: float) -> dict[str, Any]:
    """Publish while the receiver is away, and after."""
    with stage("down") as (receiver, path, out):
        plan = {"retry_plan_s": [5, 10, 20, 40, 60, 60]}
        sender = Sender(path, receiver.base, out=out, webhooks=plan)
        sender.ready()
        publisher = Publisher(sender.port, ENDPOINTS)

        async def publish() -> None:
            going = asyncio.create_task(publisher.at_a_rate(rate, SIZES.down_s + 10))
            await asyncio.sleep(5)
            await asyncio.to_thread(receiver.ask, "down")
            await asyncio.sleep(SIZES.down_s)
            await asyncio.to_thread(receiver.ask, "up")
            await going

        uvloop.run(publish())
        result = counted(receiver, publisher.told, path, _LIMIT_S)
        sender.stop()
    return row(f"receiver away for {SIZES.down_s} s", result)


def killed(rate: float) -> dict[str, Any]:
    """Publish at a gateway that is killed every few seconds."""
    with stage("killed") as (receiver, path, out):
        sender = Sender(path, receiver.base, out=out)
        sender.ready()
        publisher = Publisher(sender.port, ENDPOINTS)
        kills: list[tuple[int, int]] = []

        async def publish() -> None:
            each_s = KILL_EVERY_S + 3
            going = asyncio.create_task(publisher.at_a_rate(rate, SIZES.kills * each_s + 3))
            for _ in range(SIZES.kills):
                await asyncio.sleep(KILL_EVERY_S)
                await asyncio.to_thread(sender.stop, signal.SIGKILL)
                at = time.monotonic_ns()
                sender.start()
                await asyncio.to_thread(sender.ready)
                kills.append((at, time.monotonic_ns()))
            await going

        uvloop.run(publish())
        result = counted(receiver, publisher.told, path, _LIMIT_S)
        sender.stop()
        seen = receiver.seen()
    # What was committed before a kill and had not arrived: how long after the start did the last of it?
    late_s = [
        max(
            (
                (seen[each][0] - at) / 1e9
                for each, committed in publisher.told.committed.items()
                if committed < at < seen[each][0]
            ),
            default=0.0,
        )
        for at, _ in kills
    ]
    return row(f"gateway killed {SIZES.kills} times", result) | {
        "doubled_each": result.doubled / len(kills),
        "resumed_s": max(late_s),
        "start_s": max((ready - at) / 1e9 for at, ready in kills),
        # From when it serves again: before, nothing can be sent.
        "after_start_s": max(
            0.0,
            *(late - (ready - at) / 1e9 for late, (at, ready) in zip(late_s, kills, strict=True)),
        ),
    }


def row(name: str, result: Counted) -> dict[str, Any]:
    """Return what every case tells."""
    told: dict[str, Any] = {
        "case": name,
        "events": result.events,
        "lost": result.lost,
        "doubled": result.doubled,
    }
    if result.latencies_ms:
        told |= {"p50_ms": result.quantile(50), "p99_ms": result.quantile(99)}
        whole = statistics.quantiles(result.asked_ms, n=100)
        told |= {"asked_p50_ms": whole[49], "asked_p99_ms": whole[98]}
    return told


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "drain": drain,
    "flow": flow,
    "paced50": lambda: paced("50 a second", 50, SIZES.paced_s),
    "paced200": lambda: paced("200 a second", 200, SIZES.paced_s),
    "hanging": lambda: paced(
        f"200 a second, {HANGING} of {ENDPOINTS} hang", 200, SIZES.paced_s, HANGING
    ),
    "down": lambda: down(100),
    "killed": lambda: killed(200),
}
#: What `make bench` measures of them, and `make bench-quick`: the others take minutes.
_RECORDED = ("drain", "flow", "paced50", "paced200", "hanging", "killed")
_RECORDED_QUICK = ("drain", "paced200")
_QUICK = Sizes(drain=2000, flow=2000, paced_s=6, down_s=10, kills=2)


def measure(quick: bool) -> Result:  # noqa: FBT001 - as each benchmark is called
    """Measure the cases that are recorded."""
    global SIZES  # noqa: PLW0603 - one run has one size
    SIZES = _QUICK if quick else SIZES
    found = {name: CASES[name]() for name in (_RECORDED_QUICK if quick else _RECORDED)}
    result = Result("webhooks", "a bare aiohttp client that posts the same bytes")
    for name, words in (("drain", "a full queue"), ("flow", "accepted and delivered")):
        if name not in found:
            continue
        each = found[name]
        raw, raw_ms = each["ceiling_per_s"], each["ceiling_cpu_ms"]
        target = "≥ 0.6" if name == "drain" else "≥ 2 600"
        result.add(f"{words}, a second", "1/s", "higher", each["per_s"], raw, target=target)
        result.add(f"CPU per event, {words}", "ms", "lower", each["cpu_ms"], raw_ms)
    for name in ("paced50", "paced200"):
        if name not in found:
            continue
        each = found[name]
        words = each["case"]
        result.add(f"p50 at {words}", "ms", "lower", each["p50_ms"], target="≤ 2 ms")
        result.add(f"p99 at {words}", "ms", "lower", each["p99_ms"], target="≤ 5 ms")
        result.add(f"CPU per event at {words}", "ms", "lower", each["cpu_ms"], target="≤ 1 ms")
        result.add(f"CPU per request of the benchmark at {words}", "ms", "lower", each["asking_ms"])
        result.add(f"statements per event at {words}", "count", "lower", each["statements"])
        result.add(f"commits per event at {words}", "count", "lower", each["commits"])
    if "hanging" in found:
        result.add(
            f"p99 at {found['hanging']['case']}",
            "ms",
            "lower",
            found["hanging"]["p99_ms"],
            found["paced200"]["p99_ms"],
            against="all answer",
            target="≤ 1.5",
        )
    if "killed" in found:
        each = found["killed"]
        result.add("sent twice after a kill", "count", "lower", each["doubled_each"], target="≤ 5")
        late_s = each["after_start_s"]
        result.add("the rest is sent, after the start", "s", "lower", late_s, target="≤ 2 s")
    lost = sum(each["lost"] for each in found.values())
    result.add("lost", "count", "lower", lost, target="0")
    result.notes.append(
        f"{ENDPOINTS} endpoints, 4 deliveries in flight each; latencies from the commit of an event to its "
        f"arrival; CPU at a steady rate without the request that asks for an event, which has its own row; "
        f"{SIZES.drain} events in a full queue, {SIZES.flow} at the full rate, {SIZES.paced_s:g} s "
        f"at each steady rate; {SIZES.kills} kills under 200 a second."
    )
    return result


_COLUMNS = (
    ("events", "{:d}"),
    ("lost", "{:d}"),
    ("doubled", "{:d}"),
    ("p50_ms", "{:.1f}"),
    ("p99_ms", "{:.1f}"),
    ("asked_p50_ms", "{:.1f}"),
    ("asked_p99_ms", "{:.1f}"),
    ("cpu_ms", "{:.2f}"),
    ("asking_ms", "{:.2f}"),
    ("statements", "{:.1f}"),
    ("per_s", "{:.0f}"),
    ("ceiling_per_s", "{:.0f}"),
    ("ratio", "{:.2f}"),
    ("cpu_ratio", "{:.2f}"),
    ("resumed_s", "{:.1f}"),
)


def main() -> int:
    """Run the cases, in turn, and print a line of JSON each and the table; 1 where an event was lost."""
    global SIZES  # noqa: PLW0603 - one run has one size
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all, if none is given")
    parser.add_argument("--quick", action="store_true", help="fewer events; figures vary more")
    options = parser.parse_args()
    if options.quick:
        SIZES = _QUICK
    write, rows = sys.stdout.write, []
    for name in options.cases or CASES:
        rows.append(CASES[name]())
        write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
    write(f"\n{os.cpu_count()} cores; {ENDPOINTS} endpoints, 4 in flight each\n\n")
    write("| case | " + " | ".join(name for name, _ in _COLUMNS) + " |\n")
    write("| --- |" + " --- |" * len(_COLUMNS) + "\n")
    for each in rows:
        cells = (form.format(each[name]) if name in each else "" for name, form in _COLUMNS)
        write(f"| {each['case']} | " + " | ".join(cells) + " |\n")
    return 1 if any(each["lost"] for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
