"""Months of events: which positions are theirs, and whether a month may be dropped. Pure.

On PostgreSQL a month is a partition of events, of deliveries and of their tries, each with the same range of
positions. The numbers of positions say the month: month 683 (December 2026) begins at 683 · 2⁴⁰. So a
position still rises with every commit, keys need no other column, and a row finds its partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

#: Positions of one month: enough for 400,000 events a second. More than that go on in the next month's.
_ROOM = 1 << 40
#: Before the first month: what was written before there were months, and until the first sweep.
FIRST_END = _ROOM
#: How many months are made ahead of the one that is written to.
AHEAD = 2
_YEAR = 1970
_MONTHS = 12


@dataclass(frozen=True, order=True)
class Month:
    """A calendar month (UTC), by its number since January 1970."""

    number: int

    @classmethod
    def at(cls, microseconds: int) -> Month:
        """Return the month of a time since 1970."""
        at = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
        return cls((at.year - _YEAR) * _MONTHS + at.month - 1)

    @classmethod
    def of_name(cls, name: str) -> Month | None:
        """Return the month that `name` names; None if it names something else."""
        year, _, month = name.partition("_")
        if not (year.isdecimal() and month.isdecimal()):
            return None
        made = cls((int(year) - _YEAR) * _MONTHS + int(month) - 1)
        return made if made.number > 0 and made.name == name else None

    @property
    def name(self) -> str:
        """What its partitions end with: `2026_12`."""
        year, month = divmod(self.number, _MONTHS)
        return f"{_YEAR + year:04}_{month + 1:02}"

    @property
    def first(self) -> int:
        """Its first position."""
        return self.number * _ROOM

    @property
    def end(self) -> int:
        """The first position after it."""
        return self.after(1).first

    @property
    def ends_at(self) -> int:
        """When it ends, in microseconds since 1970."""
        year, month = divmod(self.number + 1, _MONTHS)
        return int(datetime(_YEAR + year, month + 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

    def after(self, count: int) -> Month:
        """Return the month so many months later."""
        return Month(self.number + count)


class Span(NamedTuple):
    """Positions, `end` not included."""

    first: int
    end: int


class Left(NamedTuple):
    """What has to be deleted row by row."""

    events: list[Span]
    tries: list[Span]


class Months(Protocol):
    """What a store that has months does with them."""

    async def sweep(self, now: int, events_before: int, tries_before: int) -> Left:
        """Begin the present month, drop what is over; return what has to be deleted row by row.

        `now`: on the timeline. `…_before`: microseconds since 1970; what is younger is kept.
        """


class Kept(StrEnum):
    """Why a month is kept."""

    WRITTEN = "events are still written into it"
    YOUNG = "an event of it is younger than webhooks.keep_events_days"
    YOUNG_TRY = "a try of it is younger than webhooks.keep_attempts_days"
    UNDELIVERED = "an event of it is still to be delivered"
    OPEN_PAYOUT = "a payout with an event in it has not ended"
    REPLAYED = "a recovery that may need it runs"


class Facts(NamedTuple):
    """What is known of a month. Times are microseconds since 1970."""

    #: the position that the next event gets
    next_position: int
    #: the newest event; None: it has none
    newest_at: int | None = None
    #: the newest try; None: it has none
    newest_try_at: int | None = None
    undelivered: bool = False
    open_payout: bool = False
    #: the earliest time that a running recovery sends again from; None: none runs
    replayed_from: int | None = None


def why_kept(month: Month, facts: Facts, before: int) -> Kept | None:
    """Return why a month is kept with all its rows; None: it may be dropped.

    `before`: events from then on are younger than they are kept. A month without a row is dropped once it is
    over for so long.
    """
    newest = month.ends_at if facts.newest_at is None else facts.newest_at
    if facts.next_position < month.end:
        return Kept.WRITTEN
    if newest >= before:
        return Kept.YOUNG
    if facts.undelivered:
        return Kept.UNDELIVERED
    if facts.open_payout:
        return Kept.OPEN_PAYOUT
    if facts.newest_at is None or facts.replayed_from is None:
        return None
    return Kept.REPLAYED if facts.replayed_from <= newest else None


def why_tries_kept(month: Month, facts: Facts, before: int) -> Kept | None:
    """Return why the tries of a month are kept; None: all of them may be deleted.

    Nothing but the log of tries reads them, so an open payout keeps none. `before`: tries from then on are
    younger than they are kept.
    """
    if facts.next_position < month.end:
        return Kept.WRITTEN
    if facts.newest_try_at is not None and facts.newest_try_at >= before:
        return Kept.YOUNG_TRY
    return Kept.UNDELIVERED if facts.undelivered else None
