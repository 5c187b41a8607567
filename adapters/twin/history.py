"""How an object of a twin looked over time: for the fault that shows an old state."""

from __future__ import annotations

import copy
from typing import Any


class History:
    """What an object looked like over time, so that an old look can be shown again."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, dict[str, Any]]] = []

    def add(self, at: float, look: dict[str, Any]) -> None:
        """Remember how it looks from now on."""
        self._looks.append((at, copy.deepcopy(look)))

    def look(self, at: float | None = None) -> dict[str, Any]:
        """Return how it looks, or how it looked then; its first look if it was not yet there."""
        if at is None:
            return self._looks[-1][1]
        return [look for when, look in self._looks if when <= at or look is self._looks[0][1]][-1]

    def began(self) -> float:
        """Return when it came to be."""
        return self._looks[0][0]
