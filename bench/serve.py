"""`payout-gateway serve`, with the counters of its store on standard output: for the benchmarks only.

For each line on standard input one line of JSON is printed: how many statements and commits the store
has run so far. With `--profile FILE` in front, the functions that the main thread spends its time in are
sampled, and written to the file once the gateway stops.
"""

from __future__ import annotations

import collections
import json
import signal
import sys
import threading
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


def answer() -> None:
    """Answer each line with the counters."""
    for _ in sys.stdin:
        counted = {
            "statements": sum(each.statements for each in _opened),
            "commits": sum(each.commits for each in _opened),
        }
        sys.stdout.write(json.dumps(counted) + "\n")
        sys.stdout.flush()


class Profile:
    """Samples of the main thread by processor time: own time by function, and time within each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own: collections.Counter[str] = collections.Counter()
        self._within: collections.Counter[str] = collections.Counter()

    def start(self) -> None:
        """Begin to sample."""
        signal.signal(signal.SIGPROF, self._note)
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

    def write(self) -> None:
        """Stop, and write the file."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = max(1, sum(self._own.values()))
        lines = [f"{total} samples"]
        for title, found in (("own", self._own), ("within", self._within)):
            lines += ["", f"{title} %"]
            lines += [
                f"{100 * count / total:5.1f} {name}" for name, count in found.most_common(_SHOWN)
            ]
        self._path.write_text("\n".join(lines) + "\n")


def _name(frame: FrameType) -> str:
    code = frame.f_code
    return f"{'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_qualname}"


if __name__ == "__main__":
    remember_databases()
    threading.Thread(target=answer, daemon=True).start()
    arguments, profile = sys.argv[1:], None
    if arguments[0] == "--profile":
        profile = Profile(Path(arguments[1]))
        profile.start()
        arguments = arguments[2:]
    sys.argv = ["payout-gateway", "serve", *arguments]
    try:
        main()
    finally:
        if profile is not None:
            profile.write()
