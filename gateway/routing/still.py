"""The facts of one moment, for another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.routing.router import NothingKnown


@dataclass(frozen=True)
class StillFacts(NothingKnown):
    """The facts of one moment."""

    words: Mapping[str, str | None]
    medians: Mapping[str, int]

    def health(self, instance: str) -> str | None:
        """Return why nothing should be sent to a custodian then."""
        return self.words.get(instance)

    def seconds(self, route: str) -> int | None:
        """Return how long payouts by this way had usually taken then."""
        return self.medians.get(route)
