"""The table of the isolation benchmark: medians of its runs, from the lines of JSON that they printed.

A full run takes about an hour. Its lines can be kept in a file as they come (`--into`), so that a run that
was interrupted goes on where it ended, and the lines of several files make one table (`--join`).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

#: The most that the victim's p99 may become, as a ratio to its control.
AIM = 1.5
#: A pair; what the gateway computed during it; from its request to the receipt of its first event; to that of `payout.delivered`.
#: Last: the pair again, compared with that before the attack.
SHOWN = ("pair", "cpu", "event", "paid", "before")
_HEAD = (
    "attack",
    "pairs",
    "failed",
    "lost",
    "late",
    *(f"{what} p{percent}" for what in SHOWN for percent in (50, 99)),
    "control p99 ms",
    "MB control",
    "MB most",
    "healthz worst ms",
    "healthz failed",
)


def to_line(result: dict[str, Any]) -> str:
    """Return a result as a line of JSON: rounded, and null for a ratio of nothing."""
    plain = {
        name: (round(value, 3) if value != math.inf else None)
        if isinstance(value, float)
        else value
        for name, value in result.items()
    }
    return json.dumps(plain) + "\n"


def of_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the results among lines; what is none is left out, such as a table or half of a line."""
    found = []
    for line in lines:
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if isinstance(result, dict) and "attack" in result:
            found.append(
                {k: math.inf if _is_time(k) and v is None else v for k, v in result.items()}
            )
    return found


def _is_time(name: str) -> bool:
    return name.endswith(("_ratio", "_ms"))


def of_files(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the results in files; those that do not exist have none."""
    return [
        each
        for path in paths
        if path.exists()
        for each in of_lines(path.read_text("utf-8").splitlines())
    ]


def lost_in(results: Sequence[dict[str, Any]]) -> int:
    """Return how many payouts were lost, at whichever gateway."""
    return sum(each["lost"] + each["control_lost"] + each["before_lost"] for each in results)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of some results, and what stands out in it; one row for each attack."""
    by_attack: dict[str, list[dict[str, Any]]] = {}
    for each in results:
        by_attack.setdefault(each["attack"], []).append(each)
    above = [
        name
        for name, runs in by_attack.items()
        if statistics.median(each["pair_p99_ratio"] for each in runs) > AIM
        or any(each["failed"] for each in runs)
    ]
    idle = sorted({each["attack"] for each in results if not each["ready"]})
    parts = [
        _title(by_attack),
        "| " + " | ".join(_HEAD) + " |\n" + "| --- " * len(_HEAD) + "|\n",
        *(_row(name, runs) for name, runs in by_attack.items()),
        f"\nlost in all: {lost_in(results)}\n",
        f"above the aim, or with failed pairs: {', '.join(above) or 'none'}\n",
        f"not under way in time: {', '.join(idle)}\n" if idle else "",
    ]
    return "".join(parts)


def _title(by_attack: dict[str, list[dict[str, Any]]]) -> str:
    results = [each for runs in by_attack.values() for each in runs]

    def each_of(values: Iterable[int]) -> str:
        return " or ".join(str(each) for each in sorted(set(values))) or "none"

    return (
        f"{each_of(each['cores'] for each in results)} cores; "
        f"{each_of(each['pairs'] for each in results)} pairs of quote and payout at most beside an attack, "
        f"{each_of(map(len, by_attack.values()))} run(s), "
        f"{sum(each['took_s'] for each in results) / 60:.0f} min. Ratios are to the control of the same "
        "moment (`before`: to the pair before the attack), medians of the runs; the aim for the pair's p99 "
        f"is {AIM}.\n\n"
    )


def _row(name: str, runs: list[dict[str, Any]]) -> str:
    """Return an attack's line of the table: medians of ratios, sums of losses, the most memory."""

    def ratio(column: str) -> str:
        value = statistics.median(each[column] for each in runs)
        return "none" if value == math.inf else f"{value:.2f}"

    def total(column: str) -> int:
        return sum(each[column] for each in runs)

    cells = [
        name,
        f"{total('asked')}",
        f"{total('failed')}",
        f"{total('lost')}",
        f"{total('late')}",
        *(ratio(f"{what}_p{percent}_ratio") for what in SHOWN for percent in (50, 99)),
        f"{statistics.median(each['pair_p99_control_ms'] for each in runs):.0f}",
        f"{max(each['control_memory_mb'] for each in runs):.0f}",
        f"{max(each['memory_mb'] for each in runs):.0f}",
        f"{max(each['health_ms'] for each in runs):.0f}",
        f"{total('health_failed')}",
    ]
    return "| " + " | ".join(cells) + " |\n"
