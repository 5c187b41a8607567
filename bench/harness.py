"""What the benchmarks share: processes, load, quantiles, tables, JSON lines, recorded ratios.

Every figure is printed with its ceiling, measured in the same run, and the ratio of the two. Absolute
times are of one machine at one time; only ratios and counts are comparable with other runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import re
import select
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.json"
#: A ratio this many times worse than the recorded one is warned of; one of latencies or of times.
TOLERANCE = 1.3
TIMES_TOLERANCE = 2.0
#: Of a measurement of CPU time.
PARTS = 4
_START_S = 60.0
_PR_SET_PDEATHSIG = 1
_STOP_S = 15.0
_LOAD_S = 120.0
_MS = 1000.0


class Failed(Exception):
    """A benchmark that could not be measured, and why."""


# --- processes ---------------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """Have the system end this process when the one that started it has ended (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """A process of ours: stderr goes to a file, stdin and stdout carry one line per question."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        self.command = command
        kept = {name: each for name, each in os.environ.items() if "PAYOUT_GATEWAY" not in name}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=kept,
                # Whatever ends the benchmark ends what it started.
                preexec_fn=end_with_parent,  # noqa: PLW1509 - this program has one thread
                # Ctrl-C is for the benchmark, which then ends each process by its id.
                start_new_session=True,
            )
        self._read = b""

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def line(self, seconds: float = _START_S) -> str:
        """Return its next line. Failed with the end of its log where none comes in time."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = end - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, left))
            part = os.read(self._process.stdout.fileno(), 2**20) if ready else b""
            if not part:
                raise Failed(f"no line from {' '.join(self.command)}:\n{self.log_tail()}")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def ask(self, word: str) -> Any:
        """Write a word to it; return its answer, one line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self.line())

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def cpu_s(self) -> float:
        """Return the CPU time of all of its threads so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fine_cpu_s(self) -> float:
        """Return the CPU time of the threads that live now, in seconds, to the nanosecond."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in tasks) / 1e9

    def memory_mb(self, what: Literal["VmRSS", "VmHWM"] = "VmRSS") -> float:
        """Return its memory now, or at its highest (VmHWM), in MB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{what}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    def pause(self) -> None:
        """Stop it from running: it answers nothing until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it: SIGTERM first, then SIGKILL. May be called twice."""
        if self._process.poll() is None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextmanager
def child(log: Path, program: str, *arguments: str) -> Iterator[Child]:
    """Run a Python program (`name.py` of this folder, or a module); end it whatever happens."""
    what = (str(HERE / program),) if program.endswith(".py") else ("-m", program)
    started = Child(log, sys.executable, *what, *arguments)
    try:
        yield started
    finally:
        started.stop()


# --- load --------------------------------------------------------------------------------------------------

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.lost = False
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport  # type: ignore[assignment] # uvloop's transports have no common class

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.lost = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError(f"the connection was closed: {exc}"))

    def data_received(self, data: bytes) -> None:
        """Take an answer with a Content-Length."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._buffer, 0, end + 2)
        size = end + 4 + (int(found[1]) if found else 0)
        if len(self._buffer) < size or self.answer is None or self.answer.done():
            return
        whole, self._buffer = self._buffer[:size], b""
        self.answer.set_result((int(whole[9:12]), whole[end + 4 :]))


class Http:
    """A client that costs the driver as little as Python allows: bare keep-alive connections."""

    def __init__(self, port: int, key: str = "") -> None:
        self._port = port
        self._fields = f"Host: 127.0.0.1:{port}\r\n" + (
            f"Authorization: Bearer {key}\r\n" if key else ""
        )
        self._free: list[_Connection] = []
        self._all: list[_Connection] = []

    async def call(
        self, method: str, path: str, body: bytes = b"", fields: str = "", *, wanted: int = 2
    ) -> bytes:
        """Return the body of an answer. Failed where its status is not of the hundred `wanted`."""
        connection = self._free.pop() if self._free else None
        if connection is None or connection.lost:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
            self._all.append(connection)
        head = f"{method} {path} HTTP/1.1\r\n{self._fields}{fields}"
        if body:
            kind = "" if "Content-Type" in fields else "Content-Type: application/json\r\n"
            head += f"{kind}Content-Length: {len(body)}\r\n"
        elif method != "GET":
            head += "Content-Length: 0\r\n"
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        connection.answer = answer
        connection.transport.write(head.encode() + b"\r\n" + body)
        status, told = await answer
        self._free.append(connection)
        if status // 100 != wanted:
            raise Failed(f"{method} {path} answered {status}: {told[:500].decode()}")
        return told

    async def json(self, method: str, path: str, body: Any = None, fields: str = "") -> Any:
        """Call with a JSON body; return the JSON answer."""
        raw = b"" if body is None else json.dumps(body).encode()
        return json.loads(await self.call(method, path, raw, fields))

    def close(self) -> None:
        """Close every connection."""
        for each in self._all:
            each.transport.abort()


@dataclass
class Load:
    """What came of many calls."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Calls a second."""
        return len(self.latencies_s) / self.seconds

    def ms(self, percent: int) -> float:
        """Return a quantile of the latencies, in ms."""
        return quantile(self.latencies_s, percent) * _MS


def quantile(values: Sequence[float], percent: int) -> float:
    """Return a quantile; NaN where there are too few values for it."""
    if len(values) < 2:  # noqa: PLR2004 - what `quantiles` needs
        return float("nan")
    return statistics.quantiles(values, n=100)[percent - 1]


async def closed_loop(
    callers: int, count: int, call: Callable[[int], Awaitable[object]], seconds: float = _LOAD_S
) -> Load:
    """Make `count` calls, each caller its next one when its last one was answered."""
    load, numbers, begun = Load(), iter(range(count)), time.perf_counter()

    async def caller() -> None:
        for number in numbers:
            at = time.perf_counter()
            await call(number)
            load.latencies_s.append(time.perf_counter() - at)

    async with asyncio.timeout(seconds):
        await asyncio.gather(*(caller() for _ in range(callers)))
    load.seconds = time.perf_counter() - begun
    return load


@dataclass
class Cost:
    """What calls cost the server's process, and how they fared."""

    cpu_ms: float
    load: Load


async def cost(
    process: Child,
    callers: int,
    count: int,
    call: Callable[[int], Awaitable[object]],
    parts: int = PARTS,
) -> Cost:
    """Make calls in some parts; return the CPU per call of the cheapest part and the fastest one's load.

    Whatever else runs on the machine makes CPU time longer and never shorter: the least is the truest. More
    parts are more chances of one that nothing disturbed. Warm up first: the first calls cost more.
    """
    each = max(callers, count // parts)
    found = []
    for _ in range(parts):
        before = process.fine_cpu_s()
        load = await closed_loop(callers, each, call)
        found.append((1000 * (process.fine_cpu_s() - before) / each, load))
    best = max((load for _, load in found), key=lambda load: load.per_s)
    return Cost(min(cpu_ms for cpu_ms, _ in found), best)


async def open_loop(
    rate: float, count: int, call: Callable[[int], Awaitable[object]], seconds: float = _LOAD_S
) -> Load:
    """Make `count` calls at a steady rate, whatever becomes of those before.

    A latency runs from when the call was due, not from when it could be made: a server that stalls is
    charged for every call that it kept from being made (no coordinated omission).
    """
    load, begun = Load(), time.perf_counter()

    async def one(number: int, due: float) -> None:
        await call(number)
        load.latencies_s.append(time.perf_counter() - due)

    async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
        for number in range(count):
            due = begun + number / rate
            left = due - time.perf_counter()
            if left > 0:
                await asyncio.sleep(left)
            group.create_task(one(number, due))
    load.seconds = time.perf_counter() - begun
    return load


# --- figures -----------------------------------------------------------------------------------------------

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """One measured number: ours, the ceiling of the same run, and which way is better."""

    name: str
    unit: str
    better: Better
    ours: float
    ceiling: float | None = None
    #: what the ceiling is, where it is not the one that the benchmark names
    against: str = ""
    target: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to the ceiling; None where there is no ceiling."""
        return self.ours / self.ceiling if self.ceiling else None

    @property
    def is_time(self) -> bool:
        """Whether it is a time by the clock, which varies more than CPU time and counts do."""
        return self.unit in {"ms", "s"} and not self.name.startswith("CPU")

    @property
    def comparable(self) -> float:
        """What other runs are compared by: the ratio, or a number that needs no ceiling."""
        return self.ours if self.ratio is None else self.ratio


@dataclass
class Result:
    """The figures of one benchmark."""

    bench: str
    ceiling: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(  # noqa: PLR0913 - the parts of a figure
        self,
        name: str,
        unit: str,
        better: Better,
        ours: float,
        ceiling: float | None = None,
        *,
        against: str = "",
        target: str = "",
    ) -> None:
        """Add a figure."""
        self.figures.append(Figure(name, unit, better, ours, ceiling, against, target))

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        lines = [
            f"Ceiling: {self.ceiling}." if self.ceiling else "",
            "",
            "| figure | unit | ours | ceiling | ours / ceiling | better | target |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for each in self.figures:
            ceiling = number(each.ceiling) + (f" ({each.against})" if each.against else "")
            cells = [each.name, each.unit, number(each.ours), ceiling, number(each.ratio)]
            lines.append(f"| {' | '.join([*cells, each.better, each.target or '-'])} |")
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines).strip()

    def json_lines(self, mode: str) -> Iterator[str]:
        """Return the figures as JSON, one line each."""
        for each in self.figures:
            members = {"bench": self.bench, "mode": mode, **dataclasses.asdict(each)}
            yield json.dumps({**members, "ratio": each.ratio})


def number(value: float | None) -> str:
    """Return a number as a table shows it."""
    if value is None:
        return "-"
    if value >= 100:  # noqa: PLR2004 - no decimals are worth reading
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show(result: Result, mode: str) -> None:
    """Print a result: the table, then the JSON lines."""
    say(f"## {result.bench}\n\n{result.table()}\n")
    for line in result.json_lines(mode):
        say(line)
    say()


def recorded() -> dict[str, dict[str, float]]:
    """Return the recorded ratios, by mode and by `bench: figure`."""
    if not RECORDED.exists():
        return {}
    found: dict[str, dict[str, float]] = json.loads(RECORDED.read_text())
    return found


def record(found: dict[str, float], mode: str) -> None:
    """Record what later runs are compared with, by `bench: figure`; other figures stay as they are."""
    known = recorded()
    known.setdefault(mode, {}).update({name: round(value, 4) for name, value in found.items()})
    known = {name: dict(sorted(known[name].items())) for name in sorted(known)}
    RECORDED.write_text(json.dumps(known, indent=1) + "\n")


def warnings(results: Sequence[Result], mode: str) -> list[str]:
    """Return a line for each figure that is much worse than the recorded one."""
    known, found = recorded().get(mode, {}), []
    for result in results:
        for each in result.figures:
            name, now = f"{result.bench}: {each.name}", each.comparable
            before = known.get(name)
            if before is None or not before or not now:
                continue
            worse = before / now if each.better == "higher" else now / before
            if worse > (TIMES_TOLERANCE if each.is_time else TOLERANCE):
                what = "ratio" if each.ratio is not None else each.unit
                found.append(
                    f"warning: {name}: {what} {number(now)}, recorded {number(before)} "
                    f"({worse:.1f} times worse)"
                )
    return found


#: What a benchmark that cannot be measured ends with.
FAILURES = (Failed, OSError, ExceptionGroup, sqlite3.Error, subprocess.SubprocessError)


def stop_when_told() -> None:
    """Have SIGTERM end this program as an error does, so that the processes it started are ended."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(f"stopped by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, stop)


def run_alone(measure: Callable[..., Result], parser: argparse.ArgumentParser | None = None) -> int:
    """Run one benchmark from the command line (`--quick` for smaller counts) and print it.

    `parser`: the options that it has beside; their values are arguments of `measure`.
    """
    parser = parser or argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="smaller counts")
    options = vars(parser.parse_args())
    stop_when_told()
    try:
        show(measure(**options), "quick" if options["quick"] else "full")
    except FAILURES as error:
        say(f"not measured: {error!r}")
        return 1
    return 0
