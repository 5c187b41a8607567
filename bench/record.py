"""Keeps what a run of `run.py` has printed: `make bench-record`, after `make bench` or `make bench-quick`.

Reads the output from a file. The ratios go to `recorded.json`, which later runs are compared with, and the
tables of a full run to `docs/explanation/performance.md` (`--page` for those of a quick one).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from harness import Failed, record, say

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"
_END = "<!-- /bench -->"


def read(text: str) -> tuple[str, dict[str, float], dict[str, str]]:
    """Return the mode of an output, what its figures are compared by, and the tables by benchmark."""
    figures = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if not figures:
        raise Failed("the file has no figures: is it what bench/run.py printed?")
    found = {
        f"{each['bench']}: {each['name']}": each["ours"] if each["ratio"] is None else each["ratio"]
        for each in figures
    }
    tables = {"machine": text.partition("\n")[0]}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        tables[name] = re.split(r"^\{", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
    return figures[0]["mode"], found, tables


def write_page(tables: dict[str, str]) -> None:
    """Put tables into the page, between the comments that name each benchmark."""
    text = PAGE.read_text(encoding="utf-8")
    for name, body in tables.items():
        before, mark, rest = text.partition(f"<!-- bench: {name} -->\n")
        _, end, after = rest.partition(_END)
        if not end:
            raise Failed(f"{PAGE.name} has no place for {name}")
        text = f"{before}{mark}\n{body}\n\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> int:
    """Keep a run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path, help="what bench/run.py has printed")
    parser.add_argument("--page", action="store_true", help="the tables of a quick run, too")
    wanted = parser.parse_args()
    mode, found, tables = read(wanted.output.read_text(encoding="utf-8"))
    record(found, mode)
    if mode == "full" or wanted.page:
        write_page(tables)
    say(f"recorded {len(found)} figures of a {mode} run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
