"""Runs the benchmarks one after the other and compares their ratios with the recorded ones.

`make bench` runs all of them, `make bench-quick` with smaller counts. Both print warnings about ratios that
are much worse than the recorded ones, and end with 0. `--only a,b` runs some. What is printed can be kept
as the new record: `record.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import time
from functools import partial

import accept
import batches
import footprint
import growth
import payouts
import reads
import webhooks
from harness import FAILURES, say, show, stop_when_told, warnings

BENCHES = {
    "payouts": payouts.measure,
    "accept": accept.measure,
    "reads": reads.measure,
    "webhooks": webhooks.measure,
    "batches": batches.measure,
    "footprint": footprint.measure,
    "growth": growth.measure,
}


def machine() -> str:
    """Return what of the machine bears on the numbers: its cores, and versions."""
    cores = os.cpu_count()
    return f"{cores} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="smaller counts, under two minutes")
    parser.add_argument("--only", default=",".join(BENCHES), help="names, separated by commas")
    parser.add_argument(
        "--million",
        action="store_true",
        help="growth with a million payouts, too: 16 GB, 15 minutes",
    )
    wanted = parser.parse_args()
    stop_when_told()
    benches = dict(BENCHES)
    if wanted.million:
        benches["growth"] = partial(growth.measure, million=True)
    mode = "quick" if wanted.quick else "full"
    say(machine() + "\n")
    results, failed, begun = [], [], time.monotonic()
    for name in wanted.only.split(","):
        started = time.monotonic()
        try:
            results.append(benches[name](wanted.quick))
        except FAILURES as error:
            failed.append(f"warning: {name} was not measured: {error!r}")
            continue
        show(results[-1], mode)
        say(f"({name}: {time.monotonic() - started:.0f} s)\n")
    for line in [*failed, *warnings(results, mode)]:
        say(line)
    say(f"{time.monotonic() - begun:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
