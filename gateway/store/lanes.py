"""Handing new deliveries to the sender of this process with the commit that makes them.

Without it every event would be written, then found by a query, then claimed by a commit of its own.
With it the change that publishes an event reserves room in the lanes of the endpoints and inserts the
deliveries as already leased to this process; once the change is durable, the sender gets them with the
event's bytes. Whatever has no room is inserted without a lease, and claimed as ever.

    reserve ─▶ INSERT … RETURNING ─▶ COMMIT ─▶ over(committed=True)     the sender begins
       └───────────── error, rollback ───────▶ over(committed=False)    the room is given back
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol

#: A lease token is the number of the gateway that holds the lease, then a number that it gives once.
_OWN_BITS = 32
#: The gateway's number has 31 bits, so that a token fits a signed 64-bit column.
_GATEWAYS = 2**31 - 1
#: The token of a delivery that nobody holds.
FREE = 0


class Handed(NamedTuple):
    """A new delivery that was inserted under a lease of this process."""

    endpoint_id: str
    position: int
    #: the columns of its event
    event: Mapping[str, Any]


class Room(Protocol):
    """Room that a change has reserved for its deliveries."""

    #: The endpoints of which every delivery of the change has room.
    endpoint_ids: Sequence[str]
    token: int
    #: Until when what is inserted is leased, on the timeline.
    until: int

    def take(self, handed: Sequence[Handed], *, others: bool) -> None:
        """Note what was inserted under the lease, and whether anything was without one."""

    def over(self, *, committed: bool) -> None:
        """Begin to send what was taken, or give the room back. Called once, after the transaction."""


class Lanes(Protocol):
    """The sender of this process, as the store sees it."""

    def reserve(self, org: str, events: int) -> Room:
        """Reserve room for so many events in the lanes of an org's endpoints, as far as there is any."""


class Held(NamedTuple):
    """Whose leases are meant: those whose tokens are in one range and not in the other one."""

    first: int
    last: int
    own_first: int
    own_last: int

    @classmethod
    def by(cls, gateway_id: str) -> Held:
        """Return the leases of one gateway."""
        return cls(*tokens_of(gateway_id), -1, -1)

    @classmethod
    def by_others(cls, gateway_id: str) -> Held:
        """Return the leases of every gateway but one, of those that give such tokens."""
        return cls(1 << _OWN_BITS, 2**63 - 1, *tokens_of(gateway_id))


class LeaseTokens:
    """The lease tokens of one gateway: each is given once, and says whose it is.

    A gateway is known by the id of its row in the registry.
    """

    def __init__(self, gateway_id: str) -> None:
        self._first, _ = tokens_of(gateway_id)
        self._numbers = count(1)

    def new(self) -> int:
        """Return a token that nobody has had."""
        return self._first + next(self._numbers)


def tokens_of(gateway_id: str) -> tuple[int, int]:
    """Return the first and the last token that a gateway may give.

    Two gateways of one number (once in two thousand millions) could end each other's leases: an event
    would be sent twice, which it may be.
    """
    digest = int.from_bytes(hashlib.sha256(gateway_id.encode()).digest()[:8])
    number = 1 + digest % _GATEWAYS
    return number << _OWN_BITS, ((number + 1) << _OWN_BITS) - 1
