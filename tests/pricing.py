"""A custodian that would pay anything, and offers what the test says."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.adapter import Offer, Terms


class TakesEverything:
    """What quotes ask of a custodian. `refuses`, if set, is why it could never pay."""

    def __init__(self) -> None:
        self.refuses: str | None = None
        self.offered: Sequence[Offer] = ()
        self.asked: list[Terms] = []

    def check(self, terms: Terms) -> str | None:
        """Return the reason that the test set."""
        self.asked.append(terms)
        return self.refuses

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Return the offers that the test set."""
        self.asked.append(terms)
        return self.offered
