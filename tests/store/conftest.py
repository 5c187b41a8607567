"""A fresh database for each test, migrated only once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.store import migrate


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with every table and no row."""
    path = tmp_path_factory.mktemp("migrated") / "store.db"
    migrate.prepare(path)
    return path


@pytest.fixture
def path(tmp_path: Path, migrated: Path) -> Path:
    """A fresh database file."""
    return Path(shutil.copy(migrated, tmp_path / "store.db"))
