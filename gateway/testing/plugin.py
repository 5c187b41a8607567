"""What the kit has shown, as JSON: `pytest -p gateway.testing.plugin --kit-json FILE`.

By adapter, by class of the kit (one for each way to pay), by topic: how many tests passed, how many
say nothing of this custodian, how many failed, and how many are gaps that the author has named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_PROPERTY = "kit"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the kit."""
    group = parser.getgroup("payout-gateway kit")
    group.addoption("--kit-adapter", help="run the kit of this adapter only, and nothing else")
    group.addoption("--kit-json", type=Path, help="write here what the kit has shown")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the results of this run."""
    config.addinivalue_line("markers", "e2e: whole processes over real sockets")
    if config.getoption("--kit-json") is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Record(config.getoption("--kit-json")))


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
    return {
        "adapter": kind.adapter.name,
        "class": kind.__name__,
        "destination": kind.terms["destination"].type,
        "topic": topic,
    }


class _Record:
    """Counts results, also those of other processes that share the tests."""

    def __init__(self, path: Path) -> None:
        self._path = path
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
            told["class"], {"destination": told["destination"], "topics": {}}
        )
        counts = kind["topics"].setdefault(told["topic"], {})
        counts[word] = counts.get(word, 0) + 1

    def pytest_sessionfinish(self) -> None:
        """Write what was counted."""
        text = json.dumps(self._adapters, indent=1, sort_keys=True)
        self._path.write_text(text + "\n", encoding="utf-8")
