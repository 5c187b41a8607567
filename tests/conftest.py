"""Which tests run on both stores.

A test that takes the fixture `store` runs on SQLite. With the mark `both_stores` it runs on PostgreSQL as
well; with STORES=all in the environment every one of them does.
"""

from __future__ import annotations

import os

import pytest

STORES = ("sqlite", "postgresql")


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """Which store the test is on: `sqlite` or `postgresql`."""
    return str(getattr(request, "param", "sqlite"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the marked tests on each store."""
    if "store" not in metafunc.fixturenames:
        return
    marked = metafunc.definition.get_closest_marker("both_stores") is not None
    wanted = os.environ.get("STORES", "")
    if wanted in STORES:
        metafunc.parametrize("store", [wanted], indirect=True)
    elif marked or wanted == "all":
        metafunc.parametrize("store", STORES, indirect=True)
