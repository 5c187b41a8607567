"""A fresh database for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases import make_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A fresh database file."""
    return make_database(tmp_path / "store.db")
