"""Runs the benchmarks one after the other, compares their ratios with the recorded ones, and records them.

`make bench` runs all of them, `make bench-quick` with smaller counts; both print warnings about ratios
that are much worse than the recorded ones, and end with 0. `--record` keeps the ratios of this run in
`recorded.json` and its tables in `docs/explanation/performance.md`. `--only a,b` runs some.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import accept
import batches
import footprint
import growth
import payouts
import reads
from harness import Result, record, say, show, warnings

BENCHES = {
    "payouts": payouts.measure,
    "accept": accept.measure,
    "reads": reads.measure,
    "batches": batches.measure,
    "footprint": footprint.measure,
    "growth": growth.measure,
}
PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"


def machine() -> str:
    """Return what of the machine bears on the numbers: its cores, and versions."""
    cores = os.cpu_count()
    return f"{cores} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def write_page(results: Sequence[Result]) -> None:
    """Put the tables of a run into the page, between the comments that name each benchmark."""
    text = PAGE.read_text(encoding="utf-8")
    for name, body in [("machine", machine()), *((each.bench, each.table()) for each in results)]:
        before, mark, rest = text.partition(f"<!-- bench: {name} -->\n")
        _, end, after = rest.partition("<!-- /bench -->")
        if not end:
            raise SystemExit(f"{PAGE.name} has no place for {name}")
        text = f"{before}{mark}\n{body}\n\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="smaller counts, under two minutes")
    parser.add_argument("--record", action="store_true", help="keep the ratios and the tables")
    parser.add_argument("--only", default=",".join(BENCHES), help="names, separated by commas")
    wanted = parser.parse_args()
    mode = "quick" if wanted.quick else "full"
    say(machine() + "\n")
    results, failed, begun = [], [], time.monotonic()
    for name in wanted.only.split(","):
        started = time.monotonic()
        try:
            results.append(BENCHES[name](wanted.quick))
        except (SystemExit, TimeoutError) as error:
            failed.append(f"warning: {name} was not measured: {error}")
            continue
        show(results[-1], mode)
        say(f"({name}: {time.monotonic() - started:.0f} s)\n")
    for line in [*failed, *warnings(results, mode)]:
        say(line)
    say(f"{time.monotonic() - begun:.0f} s in all")
    if wanted.record:
        record(results, mode)
        if not wanted.quick:
            write_page(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
