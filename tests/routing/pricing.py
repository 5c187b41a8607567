"""A custodian that would pay anything, and offers what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.adapter import Offer, Terms


class TakesEverything:
    """What quotes ask of a custodian. `refuses`, if set, is why it could never pay."""

    def __init__(self) -> None:
        self.refuses: str | None = None
        self.offered: Sequence[Offer] = ()
        self.asked: list[Terms] = []
        #: how often it was asked for offers; each call waits until `answering` is set
        self.calls = 0
        self.called = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        #: what a call for offers raises
        self.fails: Exception | None = None

    def check(self, terms: Terms) -> str | None:
        """Return the reason that the test set."""
        self.asked.append(terms)
        return self.refuses

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Return the offers that the test set, once it lets them be answered."""
        self.asked.append(terms)
        self.calls += 1
        self.called.set()
        await self.answering.wait()
        if self.fails is not None:
            raise self.fails
        return self.offered
