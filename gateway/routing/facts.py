"""The present facts about routes: whether custodians answer, what accounts lack, and usual times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Protocol

from gateway.model import Account
from gateway.routing.durations import Durations
from gateway.routing.router import Facts
from gateway.routing.still import StillFacts


class Health(Protocol):
    """Knows whether a custodian answers."""

    @property
    def word(self) -> str | None:
        """Return why nothing should be sent to it; None if it answers or nothing is known."""


#: Returns what an account lacks of a sum: (instance, account, asset, needed).
Shortage = Callable[[str, Account, str, Decimal], str | None]


def _nothing_known(_instance: str, _account: Account, _asset: str, _needed: Decimal) -> str | None:
    return None


class KnownFacts:
    """The facts of a process, from memory. Pauses are read in the transaction, where they count."""

    def __init__(
        self,
        health: Mapping[str, Health],
        durations: Durations,
        shortage: Shortage = _nothing_known,
    ) -> None:
        self._health = health
        self._durations = durations
        self._shortage = shortage

    def pause(
        self,
        instance: str,  # noqa: ARG002 - the protocol's
        account: Account,  # noqa: ARG002
        asset: str,  # noqa: ARG002
        org: str,  # noqa: ARG002
    ) -> str | None:
        """Return None; `gateway.quotes` reads pauses."""
        return None

    def waits(
        self,
        instance: str,  # noqa: ARG002 - the protocol's
        account: Account,  # noqa: ARG002
        asset: str,  # noqa: ARG002
        org: str,  # noqa: ARG002
    ) -> str | None:
        """Return None: see `gateway.quotes`."""
        return None

    def health(self, instance: str) -> str | None:
        """Return why nothing should be sent to a custodian now."""
        known = self._health.get(instance)
        return None if known is None else known.word

    def shortage(self, instance: str, account: Account, asset: str, needed: Decimal) -> str | None:
        """Return what an account lacks."""
        return self._shortage(instance, account, asset, needed)

    def seconds(self, route: str) -> int | None:
        """Return the usual time of payouts by this way."""
        return self._durations.seconds(route)

    def still(self) -> Facts:
        """Return them as they are now."""
        words = {name: each.word for name, each in self._health.items()}
        return StillFacts(words, self._durations.medians())
