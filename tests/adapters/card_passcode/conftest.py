"""Fixtures of the card-passcode tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.adapters.card_passcode.merchant import Merchant, open_merchant


@pytest.fixture
async def merchant() -> AsyncIterator[Merchant]:
    """A running twin whose life-cycle steps take 100 s of its own clock."""
    async with open_merchant() as opened:
        yield opened
