"""The store bench of the engine's tests, for deliveries and replays as well."""

from __future__ import annotations

from tests.execution.conftest import bench, capabilities, empty_database

__all__ = ["bench", "capabilities", "empty_database"]
