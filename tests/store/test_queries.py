"""Every statement of the store compiles, once and for all."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from gateway import store
from gateway.store.database import Query

QUERIES = [
    pytest.param(value, id=f"{module.name}.{name}")
    for module in pkgutil.iter_modules(store.__path__)
    if module.name != "migrations"
    for name, value in vars(importlib.import_module(f"gateway.store.{module.name}")).items()
    if isinstance(value, Query)
]


@pytest.mark.parametrize("query", QUERIES)
def test_it_compiles(query: Query) -> None:
    """A statement that cannot be built fails here, not in a worker at night."""
    text, _ = query.compiled()
    assert text
    assert query.compiled() is query.compiled()
