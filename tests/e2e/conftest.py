"""What the tests with whole processes share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.stack import SharedStacks


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stacks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SharedStacks]:
    """Stacks that the tests of a module share. For tests on the loop of the module."""
    shared = SharedStacks(lambda: tmp_path_factory.mktemp("stack"))
    try:
        yield shared
    finally:
        await shared.close()
