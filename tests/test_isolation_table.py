"""The table of the isolation benchmark, from lines that were kept: a run may be interrupted, or made in parts."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def _load() -> Any:
    spec = importlib.util.spec_from_file_location(
        "isolation_table", ROOT / "bench" / "isolation_table.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLE = _load()


def result(attack: str, run: int, p99: float, **changed: Any) -> dict[str, Any]:
    """Return what is printed of an attack and its control."""
    found: dict[str, Any] = {
        "run": run,
        "attack": attack,
        "ready": True,
        "cores": 2,
        "pairs": 2000,
        "took_s": 60.0,
    }
    for what in TABLE.SHOWN:
        for percent in (50, 99):
            found[f"{what}_p{percent}_ratio"] = p99 if percent == 99 else 1.0
            found[f"{what}_p{percent}_control_ms"] = 10.0
    for prefix in ("", "control_", "before_"):
        found |= {prefix + "asked": 2000, prefix + "memory_mb": 130.0, prefix + "health_ms": 5.0}
        found |= {prefix + each: 0 for each in ("failed", "lost", "late", "health_failed")}
    return found | changed


def cells(text: str, attack: str) -> list[str]:
    """Return the cells of an attack's row."""
    (row,) = [each for each in text.splitlines() if each.startswith(f"| {attack} |")]
    return [each.strip() for each in row.strip("|").split("|")]


def test_parts_of_a_run_make_the_table_of_all_of_it(tmp_path: Path) -> None:
    """Files of some runs each, in any order, with tables and an unfinished line between their lines."""
    runs = [result("a", 0, 1.2), result("b", 0, 1.1), result("a", 1, 1.6), result("a", 2, 1.3)]
    whole = TABLE.table(runs)
    assert cells(whole, "a")[:2] == ["a", "6000"]
    assert cells(whole, "a")[6] == "1.30"
    assert "60 min" not in whole
    assert "4 min" in whole
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_text("".join(map(TABLE.to_line, runs[:3])) + whole)
    second.write_text(TABLE.to_line(runs[3]) + TABLE.to_line(runs[0])[:200])
    kept = TABLE.of_files([first, second, tmp_path / "none.txt"])
    assert kept == runs
    assert TABLE.table(kept) == whole


def test_what_stands_out() -> None:
    """A median above the aim, a failed pair, a payout that was lost at either gateway, a late attacker."""
    runs = [
        *(result("slow", run, p99) for run, p99 in enumerate((1.4, 1.51, 1.7))),
        *(result("well", run, p99) for run, p99 in enumerate((1.4, 1.49, 1.7))),
        result("failed", 0, 1.0, failed=1),
        result("lost", 0, 1.0, control_lost=2, ready=False),
    ]
    text = TABLE.table(runs)
    assert "above the aim, or with failed pairs: slow, failed\n" in text
    assert "lost in all: 2\n" in text
    assert "not under way in time: lost\n" in text
    assert "1 or 3 run(s)" in text


def test_a_ratio_of_nothing_is_kept() -> None:
    """JSON has no infinity. None of the pairs had an event, say: that is no small ratio."""
    (kept,) = TABLE.of_lines([TABLE.to_line(result("a", 0, math.inf))])
    assert kept["event_p99_ratio"] == math.inf
    text = TABLE.table([kept])
    assert cells(text, "a")[6] == "none"
    assert "with failed pairs: a\n" in text


@pytest.mark.parametrize("number", [0, 1])
def test_the_page_has_the_columns_of_the_table(number: int) -> None:
    """The table of the last run on the page: its head, and the line below."""
    page = (ROOT / "docs" / "explanation" / "isolation.md").read_text("utf-8")
    head = TABLE.table([result("a", 0, 1.0)]).splitlines()[2 + number]
    assert head.replace(" ", "") in page.replace(" ", "")
