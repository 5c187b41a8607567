"""Fixtures of the Fireblocks tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.adapters.fireblocks.workspace import Workspace, open_workspace


@pytest.fixture
async def workspace() -> AsyncIterator[Workspace]:
    """A running twin whose life-cycle steps take 100 s of its own clock."""
    async with open_workspace() as opened:
        yield opened
