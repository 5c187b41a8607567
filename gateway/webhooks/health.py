"""When an endpoint is warned of, and when it is disabled. Pure: what is known in, what changes out.

The rule (webhooks protocol notes, §2): nothing was received for five days, counted from the first
failure, at least two failures lie twelve hours apart, and at least one event was given up. A warning
goes out after three days. A success resets this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

_APART = timedelta(hours=12)
_US = timedelta(microseconds=1)


class Verdict(StrEnum):
    """What becomes of the endpoint."""

    NOTHING = "nothing"
    WARN = "warn"
    DISABLE = "disable"


@dataclass(frozen=True)
class Health:
    """What is remembered of an endpoint's failures since its last success."""

    failing_since: int | None = None
    failing_twice: int = 0
    exhausted: int = 0
    warned_at: int | None = None

    @classmethod
    def of(cls, row: Any) -> Health:
        """Return what an endpoint's row remembers."""
        return cls(row["failing_since"], row["failing_twice"], row["exhausted"], row["warned_at"])

    @property
    def columns(self) -> Mapping[str, int | None]:
        """The columns of the row."""
        return dict(vars(self))


def after_failure(
    health: Health, now: int, *, gave_up: bool, warn_after_s: float, disable_after_s: float
) -> tuple[Health, Verdict]:
    """Return what is known after a failed try at `now` (microseconds), and what follows from it."""
    since = health.failing_since if health.failing_since is not None else now
    # The two that must lie apart: half a day by the rule, less where the rule's days are set shorter.
    apart = min(_APART / _US, disable_after_s * 1e6 / 10)
    twice = int(health.failing_twice or now - since >= apart)
    known = Health(since, twice, health.exhausted + gave_up, health.warned_at)
    failing_s = (now - since) / 1e6
    if twice and known.exhausted and failing_s >= disable_after_s:
        return known, Verdict.DISABLE
    if twice and failing_s >= warn_after_s and health.warned_at is None:
        return Health(since, twice, known.exhausted, now), Verdict.WARN
    return known, Verdict.NOTHING
