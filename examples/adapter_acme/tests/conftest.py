"""Ends a run of the tests with one message while this package is not installed."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

#: The gateway finds the adapter and its twin by these entry points, and in no other way.
_GROUPS = ("payout_gateway.adapters", "payout_gateway.twins")


def pytest_configure() -> None:
    """Refuse to run if the adapter or its twin is not registered: every test would fail."""
    if not all(entry_points(group=each, name="acme") for each in _GROUPS):
        words = "the adapter 'acme' is not installed: run pip install -e '.[test]' first"
        raise pytest.UsageError(words)
