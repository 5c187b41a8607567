"""Signed deliveries a second, beside a bare client in the same run; and nothing lost: `make bench-webhooks`.

One process is the gateway with its store on this disk (synchronous=FULL), one is the receiver, and this
one looks on. The ceiling posts the same bodies to the same receiver with aiohttp alone: no store, no
signature, no plan. Counts of lost and doubled events come first; times are of this machine and this
moment, and only the ratios travel.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from gateway.examples import example_event

_HERE = Path(__file__).parent
ENDPOINTS = 20
HANGING = 4
DRAIN = 6000
ROUNDS = 3
PACED_S = 20
#: Half of what a drain reached in this run, at most so many a second.
_MOST_RATE = 400
DOWN_S = 60
KILLS = 8
KILL_EVERY_S = 3.0
_LIMIT_S = 240


@dataclass
class Counted:
    """What became of the events that were committed."""

    events: int = 0
    lost: int = 0
    doubled: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

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
        self._wanted = {
            "database": str(database),
            "base": base,
            "endpoints": ENDPOINTS,
            "hanging": 0,
            "webhooks": {},
            **wanted,
        }
        self._out = out
        self._process: subprocess.Popen[str]
        self.start()

    def start(self, **changed: Any) -> None:
        """Start it."""
        self._wanted |= changed
        with self._out.open("a", encoding="utf-8") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(_HERE / "webhook_sender.py"), json.dumps(self._wanted)],
                stdin=subprocess.PIPE,
                stdout=out,
                text=True,
            )

    def go(self) -> None:
        """Let it send what it has written."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def written(self) -> bool:
        """Whether it has written all of its events."""
        if self._process.poll() is not None:
            message = "the gateway's process has ended"
            raise SystemExit(message)
        return '"written"' in self._out.read_text(encoding="utf-8")

    def committed(self) -> dict[str, int]:
        """Return when each event was committed, as far as it could say so."""
        found = {}
        for line in self._out.read_text(encoding="utf-8").splitlines():
            if line.startswith("[") and line.endswith("]"):
                event_id, at = json.loads(line)
                found[event_id] = at
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self._process.send_signal(how)
        self._process.wait(30)


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


def counted(receiver: Receiver, sender: Sender, path: Path, limit_s: float) -> Counted:
    """Return what became of all that was committed."""
    missing = until_all_are_there(receiver, path, limit_s)
    time.sleep(0.5)
    seen, committed = receiver.seen(), sender.committed()
    return Counted(
        events=len(in_database(path)),
        lost=len(missing),
        doubled=sum(count - 1 for _, count in seen.values()),
        latencies_ms=[
            (seen[event_id][0] - at) / 1e6 for event_id, at in committed.items() if event_id in seen
        ],
    )


def bare(receiver: Receiver) -> float:
    """Return the posts a second of a bare client: as many at once as the gateway may have."""
    body = example_event("payout.delivered", datetime.now(UTC), livemode=True)

    async def post() -> float:
        waiting = iter(range(DRAIN))
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

    return DRAIN / uvloop.run(post())


def drain() -> tuple[float, float, Counted]:
    """Return deliveries a second of a full queue, and the bare client's."""
    with stage("drain") as (receiver, path, out):
        raw = bare(receiver)
        receiver.ask("forget")
        sender = Sender(path, receiver.base, out=out, events=DRAIN, rate=0)
        while not sender.written():
            time.sleep(0.1)
        sender.go()
        result = counted(receiver, sender, path, _LIMIT_S)
        times = sorted(at for at, _ in receiver.seen().values())
        sender.stop()
    # From the first receipt to the last: the start of the process is not delivery.
    return (len(times) - 1) / ((times[-1] - times[0]) / 1e9), raw, result


def paced(rate: float, hanging: int = 0) -> Counted:
    """Return how events fare that come at a steady rate."""
    with stage("paced") as (receiver, path, out):
        sender = Sender(
            path,
            receiver.base,
            out=out,
            events=int(rate * PACED_S),
            rate=rate,
            hanging=hanging,
        )
        while not sender.written():
            time.sleep(0.1)
        result = counted(receiver, sender, path, 60)
        sender.stop()
    return result


def down(rate: float) -> Counted:
    """Return how events fare while their receiver is away for a minute, and after."""
    with stage("down") as (receiver, path, out):
        sender = Sender(
            path,
            receiver.base,
            out=out,
            events=int(rate * (DOWN_S + 10)),
            rate=rate,
            webhooks={"retry_plan_s": [5, 10, 20, 40, 60, 60]},
        )
        time.sleep(5)
        receiver.ask("down")
        time.sleep(DOWN_S)
        receiver.ask("up")
        back = time.monotonic()
        while not sender.written():
            time.sleep(0.1)
        result = counted(receiver, sender, path, _LIMIT_S)
        result.seconds = time.monotonic() - back
        sender.stop()
    return result


def killed(rate: float) -> Counted:
    """Return how events fare whose gateway is killed every few seconds."""
    with stage("killed") as (receiver, path, out):
        each = int(rate * KILL_EVERY_S * 2)
        sender = Sender(
            path, receiver.base, out=out, events=each, rate=rate, webhooks={"timeout_s": 2}
        )
        for _ in range(KILLS):
            time.sleep(KILL_EVERY_S)
            sender.stop(signal.SIGKILL)
            sender.start()
        while not sender.written():
            time.sleep(0.1)
        result = counted(receiver, sender, path, _LIMIT_S)
        sender.stop()
    return result


def main() -> int:
    """Run all, in turn, and print the tables; 1 where an event was lost."""
    write, results = sys.stdout.write, []
    rounds = [drain() for _ in range(ROUNDS)]
    results += [result for _, _, result in rounds]
    ratio = statistics.median(mine / raw for mine, raw, _ in rounds)
    rate = min(_MOST_RATE, 0.5 * min(mine for mine, _, _ in rounds))
    cases = {
        "clean": paced(rate),
        f"{HANGING} of {ENDPOINTS} endpoints hang": paced(rate, HANGING),
        f"receiver away for {DOWN_S} s": down(rate / 4),
        f"gateway killed {KILLS} times, every {KILL_EVERY_S:g} s": killed(rate / 2),
    }
    results += cases.values()
    write(
        f"{os.cpu_count()} cores; {ENDPOINTS} endpoints, 4 in flight each; one process sends, one receives\n\n"
    )
    write("| events at a steady rate | events | lost | doubled | p50 ms | p99 ms |\n")
    write("| --- | --- | --- | --- | --- | --- |\n")
    for name, result in cases.items():
        p50, p99 = result.quantile(50), result.quantile(99)
        write(
            f"| {name} | {result.events} | {result.lost} | {result.doubled} | {p50:.1f} | {p99:.1f} |\n"
        )
    clean, slow = list(cases.values())[:2]
    write(
        f"\np99 with hanging endpoints to p99 without: {slow.quantile(99) / clean.quantile(99):.2f}\n\n"
    )
    write("| a full queue of | lost | doubled | delivered/s | bare client/s | ratio |\n")
    write("| --- | --- | --- | --- | --- | --- |\n")
    for mine, raw, result in rounds:
        write(
            f"| {result.events} | {result.lost} | {result.doubled} | {mine:.0f} | {raw:.0f} | {mine / raw:.2f} |\n"
        )
    write(f"\nmedian ratio to the bare client: {ratio:.2f}\n")
    lost = sum(result.lost for result in results)
    write(f"lost in all: {lost}\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
