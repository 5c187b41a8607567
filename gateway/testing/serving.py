"""A gateway process that kills or stops itself at a failpoint. For the crash tests only.

    python -m gateway.testing.serving --config g.toml [--at order.moved --how kill|stop]

- `--occurrence N`: not the first time that it comes to the failpoint, but the Nth.
- `--quick`: the waiting times of the adapters shrink to about a second, so that the recovery of an
  unknown outcome can be watched; the rule itself stays the same. `--call-life` sets another life of a
  call, `--quick-number MODULE:NAME=NUMBER` another number in a module of an adapter. What a custodian itself decides (the life of a session, of a
  token) is a switch of its twin, or a setting of its adapter.
- `--short-looks`: every waiting time is the adapter's own, and only the time between two looks is
  short.
- `--clock FILE`: the wall clock is as many seconds off as FILE says, now and whenever it changes.
  Elapsed time and the clock's id are the machine's.
- `--allow-removed`: starts also where a custodian that is not configured has open payouts.
- `--adapter MODULE:CLASS`: an adapter of a test, beside the installed ones.
- `--mute`: on PostgreSQL it wakes no other process; whatever it adds is found by looking.
- `--beat SECONDS`: how often it gives a sign of life; one that gives none for two of them is gone, and after
  twelve its idempotency keys are taken over.
- `--next-release FOLDER`: the program of a release to come, which knows the migrations of the folder and
  one more condition for marks.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from gateway import heartbeat
from gateway.adapter import Adapter, Capabilities
from gateway.api import idempotency
from gateway.app import Role
from gateway.config import settings as config
from gateway.custodians import registry
from gateway.execution import gate
from gateway.runtime import Failpoint, Ids, Moment, Runtime, SystemClock, real_runtime
from gateway.server import serve
from gateway.store import gateways, migrate, state
from gateway.store.postgres import wakeups

_LOOKS_S = (0.2, 0.3, 0.4, 0.5)


class SteppedClock(SystemClock):
    """The machine's clock, but for its wall time: that is as many seconds off as a file says."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._read_at = -1
        self._off = timedelta()

    def moment(self) -> Moment:
        """Return this moment by all clocks at once."""
        now = super().moment()
        return replace(now, wall=now.wall + self._offset() // timedelta(microseconds=1))

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return super().now() + self._offset()

    def _offset(self) -> timedelta:
        with suppress(FileNotFoundError):
            changed = self._path.stat().st_mtime_ns
            if changed != self._read_at:
                self._off = timedelta(seconds=float(self._path.read_text()))
                self._read_at = changed
        return self._off


def stop_at(
    failpoint: Failpoint, how: signal.Signals, database: Path, occurrence: int = 1
) -> Callable[..., None]:
    """Return a hook that sends the signal to this very process, once, at the failpoint."""
    times: list[Failpoint] = []

    def hook(reached: Failpoint) -> None:
        if reached is not failpoint:
            return
        times.append(reached)
        if len(times) == occurrence:
            if how is signal.SIGSTOP:
                _outside_transactions(database)
            os.kill(os.getpid(), how)

    return hook


def _outside_transactions(database: Path) -> None:
    """Wait until no transaction of this process is open.

    A process that stops inside a transaction stops every process on the database; that is another test.
    """
    if not database.exists():
        # PostgreSQL itself ends a transaction in which a process stands still.
        return
    with (
        closing(sqlite3.connect(database, timeout=2, isolation_level=None)) as connection,
        suppress(sqlite3.OperationalError),
    ):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def quick(can: Capabilities, call_life_s: float | None) -> Capabilities:
    """Return an adapter's capabilities with short waiting times."""
    return replace(can, call_life_s=call_life_s, visibility_s=0.5, polling_s=_LOOKS_S)


def install(named: str) -> type[Adapter[Any]]:
    """Have an adapter of a test found beside the installed ones, as an entry point; return it."""
    module, _, name = named.partition(":")
    adapter: type[Adapter[Any]] = getattr(importlib.import_module(module), name)
    own = EntryPoint(adapter.name, f"{module}:{name}", registry.GROUP)
    # Where the registry looks them up, and nowhere else.
    vars(registry)["entry_points"] = lambda group: [*entry_points(group=group), own]
    return adapter


def shorten(number: str) -> None:
    """Set a number of a module: `MODULE:NAME=NUMBER`."""
    place, _, value = number.partition("=")
    module, _, name = place.partition(":")
    loaded = importlib.import_module(module)
    assert hasattr(loaded, name), f"{module} has no {name}"
    setattr(loaded, name, float(value))


def next_release(folder: Path) -> None:
    """Be the program of the release to come: it knows more migrations, and one more condition for marks."""
    migrate.FOLDERS.append(folder)
    for module in (gate, heartbeat, state):
        vars(module)["GATE_VERSION"] += 1


def adapt(options: argparse.Namespace) -> None:
    """Change adapters and their waiting times as the options say."""
    if options.adapter is not None:
        install(options.adapter)
    for each in registry.find_adapters().values():
        if isinstance(each, registry.BrokenAdapter):
            continue
        if options.short_looks:
            each.capabilities = replace(each.capabilities, polling_s=_LOOKS_S)
        if options.quick:
            each.capabilities = quick(each.capabilities, options.call_life)
    if options.quick:
        for number in options.quick_number:
            shorten(number)


def main() -> int:
    """Serve until stopped, or until the failpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--at", type=Failpoint)
    parser.add_argument("--how", choices=["kill", "stop"], default="kill")
    parser.add_argument("--occurrence", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--quick-number", action="append", default=[])
    parser.add_argument("--call-life", type=float, default=1.0)
    parser.add_argument("--short-looks", action="store_true")
    parser.add_argument("--allow-removed", action="store_true")
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--adapter")
    parser.add_argument("--next-release", type=Path)
    parser.add_argument("--mute", action="store_true")
    parser.add_argument("--beat", type=float)
    parser.add_argument("--port", type=int)
    parser.add_argument("--role", type=Role, action="append")
    options = parser.parse_args()
    settings = config.load(options.config)
    runtime: Runtime = real_runtime()
    if options.clock is not None:
        clock = SteppedClock(options.clock)
        runtime = replace(runtime, clock=clock, ids=Ids(clock))
    if options.at is not None:
        how = signal.SIGKILL if options.how == "kill" else signal.SIGSTOP
        runtime = replace(
            runtime, failpoint=stop_at(options.at, how, settings.database, options.occurrence)
        )
    if options.next_release is not None:
        next_release(options.next_release)
    if options.beat is not None:
        vars(heartbeat)["BEAT_S"] = options.beat
        vars(gateways)["STALE_S"] = 2 * options.beat + 1
        vars(idempotency)["STILL_S"] = 12 * options.beat
    if options.mute:
        vars(wakeups)["_CHANNEL"] = "nobody_listens"
    adapt(options)
    return asyncio.run(
        serve(
            settings,
            port=options.port,
            runtime=runtime,
            ready=lambda url: print(url or "no listener", flush=True),
            roles=frozenset(options.role or Role),
            allow_removed=options.allow_removed,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
