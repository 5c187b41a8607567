"""`adapters check`: runs an adapter's kit in a separate process, and prints the matrix."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gateway.cli.common import fail, print_json, print_table, say

_NO_TESTS = 5  # pytest's exit code if no test was collected


def check(name: str, tests: Path, *, e2e: bool, as_json: bool) -> int:
    """Run the kit of an adapter; return the exit code."""
    missing = [each for each in ("pytest", "pytest_asyncio") if not importlib.util.find_spec(each)]
    if missing:
        fail(f"{' and '.join(missing)} is not installed: pip install 'payout-gateway[testing]'", 2)
    kits = [tests] if tests.is_file() else sorted(tests.rglob("test_kit.py"))
    if not kits:
        fail(f"there is no test_kit.py under {tests}: say where with --tests", 2)
    with TemporaryDirectory() as folder:
        told = Path(folder) / "kit.json"
        arguments = ["-p", "gateway.testing.plugin", "--kit-adapter", name, "--kit-json", str(told)]
        if not e2e:
            arguments += ["-m", "not e2e"]
        run = subprocess.run(  # noqa: S603 - our own arguments
            [sys.executable, "-m", "pytest", "-q", *arguments, *map(str, kits)],
            check=False,
            stdout=sys.stderr if as_json else None,
        )
        if run.returncode == _NO_TESTS:
            fail(f"no class of the kit under {tests} is about the adapter {name!r}", 2)
        shown = json.loads(told.read_text(encoding="utf-8")).get(name, {}) if told.exists() else {}
    if as_json:
        print_json({"adapter": name, "passed": run.returncode == 0, "kit": shown})
    else:
        _print(name, shown, e2e=e2e)
    return min(run.returncode, 1)


def _print(name: str, shown: dict[str, Any], *, e2e: bool) -> None:
    topics = dict.fromkeys(topic for each in shown.values() for topic in each["topics"])
    print_table(
        f"What the kit has shown of {name}",
        ["topic", *(f"{kind} ({each['destination']})" for kind, each in shown.items())],
        [
            [topic, *(cell(each["topics"].get(topic)) for each in shown.values())]
            for topic in topics
        ],
    )
    if not e2e:
        say("Not tried with a real gateway; add --e2e.")


def cell(counts: dict[str, int] | None) -> str:
    """Return the short result of a topic."""
    if counts is None:
        return "unproven"
    if counts.get("failed"):
        return f"FAILED {counts['failed']} of {sum(counts.values())}"
    gaps = f", {counts['gaps']} known to fail" if counts.get("gaps") else ""
    passed = counts.get("passed", 0)
    return f"{passed} passed{gaps}" if passed or gaps else "does not apply"
