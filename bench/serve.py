"""`payout-gateway serve`, with the counters of its store on standard output: for the benchmarks only.

For each line on standard input one line of JSON is printed: how many statements and commits the store
has run so far. With `--profile FILE` in front, the functions that the main thread spends its time in are
sampled from the first such line on, and written to the file once the gateway stops: by part of the work,
and by function.
"""

from __future__ import annotations

import collections
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from gateway.cli.main import main
from gateway.store.database import Database

_SAMPLE_S = 0.004
_SHOWN = 80
_opened: list[Database] = []


def remember_databases() -> None:
    """Keep every store that is opened in `_opened`; nothing else about it changes."""
    enter = Database.__aenter__

    async def entered(self: Database) -> Database:
        _opened.append(self)
        return await enter(self)

    Database.__aenter__ = entered  # type: ignore[method-assign, assignment] # of the same shape


def answer(first: Callable[[], None]) -> None:
    """Answer each line with the counters; call a function at each, which may begin something."""
    for _ in sys.stdin:
        first()
        counted = {
            "statements": sum(each.statements for each in _opened),
            "commits": sum(each.commits for each in _opened),
        }
        sys.stdout.write(json.dumps(counted) + "\n")
        sys.stdout.flush()


#: The parts of the work, by a piece of a file's path and function. The first that any frame of a sample
#: matches has it: what is at the bottom of others (SQL, crypto, log lines) comes before what calls it.
_PARTS = (
    ("SQL", ("store/connection.py:Connection.query", "store/connection.py:Connection.execute")),
    ("log lines", ("gateway/logs.py:",)),
    ("crypto", ("hmac.py:", "gateway/vault.py:", "gateway/signing.py:", "ciphers/aead.py:")),
    ("changes, without SQL", ("store/transaction.py:run_through", "store/writer.py:")),
    ("reads, without SQL", ("store/transaction.py:snapshot", "store/database.py:")),
    ("webhooks out", ("gateway/webhooks/", "egress/keepalive.py:", "egress/exchange.py:")),
    ("validation of requests", ("api/requests.py:",)),
    (
        "calls of the custodian",
        ("aiohttp/", "gateway/custodians/", "adapters/dummy/", "gateway/egress/"),
    ),
    ("engine, outside changes", ("gateway/execution/",)),
    (
        "HTTP in",
        (
            "gateway/api/",
            "uvicorn/",
            "http/httptools_impl.py:",
            "starlette/",
            "gateway/connections.py:",
        ),
    ),
)
_REST = "event loop, waiting, other"


class Profile:
    """Samples of the main thread by processor time: own time by function, and time within each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own: collections.Counter[str] = collections.Counter()
        self._within: collections.Counter[str] = collections.Counter()
        self._parts: collections.Counter[str] = collections.Counter()

    def prepare(self) -> None:
        """Make ready to sample. On the main thread."""
        signal.signal(signal.SIGPROF, self._note)

    @staticmethod
    def start() -> None:
        """Begin to sample. May be called again."""
        if signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0):
            signal.setitimer(signal.ITIMER_PROF, _SAMPLE_S, _SAMPLE_S)

    def _note(self, _: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self._own[_name(frame)] += 1
        seen: set[str] = set()
        at: FrameType | None = frame
        while at is not None:
            seen.add(_name(at))
            at = at.f_back
        self._within.update(seen)
        self._parts[_part(seen)] += 1

    def write(self) -> None:
        """Stop, and write the file."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = max(1, sum(self._own.values()))
        lines = [f"{total} samples"]
        tables = (("part", self._parts), ("own", self._own), ("within", self._within))
        for title, found in tables:
            lines += ["", f"{title} %"]
            lines += [
                f"{100 * count / total:5.1f} {name}" for name, count in found.most_common(_SHOWN)
            ]
        self._path.write_text("\n".join(lines) + "\n")


def _part(names: set[str]) -> str:
    """Return the part of the work that a sample belongs to, by the functions of its stack."""
    for part, pieces in _PARTS:
        if any(piece in name for piece in pieces for name in names):
            return part
    return _REST


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_qualname}"


if __name__ == "__main__":
    remember_databases()
    arguments, profile = sys.argv[1:], None
    if arguments[0] == "--profile":
        profile = Profile(Path(arguments[1]))
        profile.prepare()
        arguments = arguments[2:]
    begin = Profile.start if profile is not None else lambda: None
    threading.Thread(target=answer, args=(begin,), daemon=True).start()
    sys.argv = ["payout-gateway", "serve", *arguments]
    try:
        main()
    finally:
        if profile is not None:
            profile.write()
