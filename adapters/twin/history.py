"""The states of a twin's object over time, for the fault that shows an old state."""

from __future__ import annotations

import copy
from typing import Any


class History:
    """The states of an object over time, so that an old one can be shown again."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, dict[str, Any]]] = []

    def add(self, at: float, look: dict[str, Any]) -> None:
        """Remember the present state."""
        self._looks.append((at, copy.deepcopy(look)))

    def look(self, at: float | None = None) -> dict[str, Any]:
        """Return the state, now or at a time; the first one if the object did not exist yet."""
        if at is None:
            return self._looks[-1][1]
        return [look for when, look in self._looks if when <= at or look is self._looks[0][1]][-1]

    def began(self) -> float:
        """Return when the object was created."""
        return self._looks[0][0]
