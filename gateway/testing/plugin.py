"""What the kit has shown, as JSON: `pytest -p gateway.testing.plugin --kit-json FILE`.

By adapter, by class of the kit (one for each way to pay), by topic: how many tests passed, how many
say nothing of this custodian, how many failed, and how many are gaps that the author has named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.adapter import SubStatus

_PROPERTY = "kit"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit."""
    group = parser.getgroup("payout-gateway kit")
    group.addoption("--kit-adapter", help="run the kit of this adapter only, and nothing else")
    group.addoption("--kit-json", type=Path, help="write here what the kit has shown")
    group.addoption(
        "--kit-compare",
        type=Path,
        help="fail where a class of the kit ran as a whole and has shown something else than this",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keep the results of this run."""
    config.addinivalue_line("markers", "e2e: whole processes over real sockets")
    write, compare = config.getoption("--kit-json"), config.getoption("--kit-compare")
    if not hasattr(config, "workerinput") and (write or compare):
        config.pluginmanager.register(_Record(write, None if write else compare))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Name adapter, class and topic of each test of a kit; leave out other adapters' tests."""
    wanted = config.getoption("--kit-adapter")
    kept = []
    for item in items:
        told = kit_of(item)
        if told is not None:
            item.user_properties.append((_PROPERTY, told))
        if wanted is None or (told is not None and told["adapter"] == wanted):
            kept.append(item)
    items[:] = kept


def kit_of(item: pytest.Item) -> dict[str, Any] | None:
    """Return what a test of a kit is about; None for any other test."""
    kind = getattr(item, "cls", None)
    topic = getattr(getattr(item, "function", None), "kit_topic", None)
    if kind is None or topic is None:
        return None
    told = {
        "adapter": kind.adapter.name,
        "class": kind.__name__,
        "destination": kind.terms["destination"].type,
        "topic": topic,
    }
    life = getattr(item, "callspec", None) and item.callspec.params.get("life")  # type: ignore[attr-defined]
    if life is not None and life.end is SubStatus.DELIVERED:
        told["delivered_to"] = life.terms.get("destination", kind.terms["destination"]).type
    return told


class _Record:
    """Counts results, also those of other processes that share the tests."""

    def __init__(self, write: Path | None, compare: Path | None) -> None:
        self._write = write
        self._compare = compare
        self._adapters: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a result once: at the call, or where it ended earlier."""
        told = dict(report.user_properties).get(_PROPERTY)
        if not isinstance(told, dict) or (report.when != "call" and report.passed):
            return
        word = "failed"
        if report.passed:
            word = "passed"
        elif report.skipped:
            word = "gaps" if hasattr(report, "wasxfail") else "not_applicable"
        kind = self._adapters.setdefault(told["adapter"], {}).setdefault(
            told["class"],
            {"destination": told["destination"], "delivered_to": [], "topics": {}},
        )
        if word == "passed" and "delivered_to" in told:
            kind["delivered_to"] = sorted({*kind["delivered_to"], told["delivered_to"]})
        counts = kind["topics"].setdefault(told["topic"], {})
        counts[word] = counts.get(word, 0) + 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what was counted, or compare it with the record."""
        if self._write is not None:
            text = json.dumps(self._adapters, indent=1, sort_keys=True)
            self._write.write_text(text + "\n", encoding="utf-8")
        if self._compare is None or not self._compare.is_file():
            return
        recorded = json.loads(self._compare.read_text(encoding="utf-8"))
        stale = [
            f"{adapter} {name}"
            for adapter, kinds in self._adapters.items()
            for name, shown in kinds.items()
            if differs(shown, recorded.get(adapter, {}).get(name))
        ]
        if stale:
            words = f"{self._compare} is not what the kit has shown of {', '.join(stale)}"
            print(f"\n{words}: record it again (make matrix)")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def differs(shown: dict[str, Any], recorded: dict[str, Any] | None) -> bool:
    """Say whether a class of the kit that ran as a whole has shown something else than is recorded."""
    if recorded is None:
        return True
    # Some of its tests only: a part says nothing of the whole.
    complete = _total(shown) >= _total(recorded)
    return complete and shown != recorded


def _total(kind: dict[str, Any]) -> int:
    return sum(sum(counts.values()) for counts in kind["topics"].values())
