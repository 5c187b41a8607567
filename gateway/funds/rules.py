"""Rules of balances and reservations, which decide what an account can still pay. Pure.

A payout with a network pays from the balance on that network; one without may pay from any of them. Two
conditions therefore hold for all reservations: each network's reservations are covered by its balance,
and all reservations of an asset together by all balances of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gateway.assets import EXACT
from gateway.model import format_amount
from gateway.runtime import Moment

ZERO = Decimal(0)
#: The network of a balance that has none, and of a payout whose network is not known.
ANY = ""
#: Balances or reservations of an asset, by network.
ByNetwork = Mapping[str, Decimal]


@dataclass(frozen=True)
class Need:
    """The amount to reserve: the transferred amount and the fee, both in the asset."""

    asset: str
    network: str
    amount: Decimal
    fee: Decimal = ZERO

    @property
    def total(self) -> Decimal:
        """Amount and fee."""
        return EXACT.add(self.amount, self.fee)


@dataclass(frozen=True)
class Sums:
    """Sums by asset and network. Immutable; one that is zero is not kept."""

    amounts: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Sums:
        """Read sums as they are stored."""
        return cls({(asset, network): Decimal(each) for asset, network, each in json.loads(text)})

    @property
    def text(self) -> str:
        """The stored form."""
        listed = [[*key, format_amount(each)] for key, each in sorted(self.amounts.items())]
        return json.dumps(listed, separators=(",", ":"), ensure_ascii=False)

    def plus(self, asset: str, network: str, amount: Decimal) -> Sums:
        """Return the sums with an amount added."""
        after = EXACT.add(self.amounts.get((asset, network), ZERO), amount)
        if after < 0:
            msg = f"a sum of {asset} on {network or 'any network'} would be negative"
            raise ValueError(msg)
        amounts = {**self.amounts, (asset, network): after}
        if not after:
            del amounts[asset, network]
        return Sums(amounts)

    def minus(self, asset: str, network: str, amount: Decimal) -> Sums:
        """Return the sums with an amount subtracted. Raises ValueError if a sum would be negative."""
        return self.plus(asset, network, EXACT.minus(amount))

    def of_asset(self, asset: str) -> dict[str, Decimal]:
        """Return the sums of one asset, by network."""
        return {key[1]: each for key, each in self.amounts.items() if key[0] == asset}


def balances_of(text: str | None) -> list[Mapping[str, Any]] | None:
    """Read balances from their stored form; None if they are not known."""
    return None if text is None else json.loads(text)


def by_network(balances: Iterable[Mapping[str, Any]], asset: str) -> dict[str, Decimal]:
    """Return the balances of an asset by network, adding duplicates; empty if the account holds none."""
    found: dict[str, Decimal] = {}
    for each in balances:
        if each["asset"] == asset:
            network = each["network"] or ANY
            found[network] = EXACT.add(found.get(network, ZERO), Decimal(each["available"]))
    return found


def pool_of(held: ByNetwork, network: str) -> str | None:
    """Return the balance that pays a payout on a network; None if it may be any or none is known."""
    if network in held:
        return network
    if network != ANY:
        return ANY if ANY in held else None
    return next(iter(held)) if len(held) == 1 else None


def room(held: ByNetwork, taken: Iterable[ByNetwork], network: str) -> Decimal:
    """Return how much more of an asset can be reserved on a network; negative if too much is reserved.

    `held` has the balances of the asset; an asset that the custodian does not list counts as zero.
    `taken` is what is reserved and what waits before it.
    Without this rule two callers who come in the same second spend one balance.
    """
    by_pool: dict[str | None, Decimal] = {}
    together = ZERO
    for each in taken:
        for of, amount in each.items():
            pool = pool_of(held, of)
            by_pool[pool] = EXACT.add(by_pool.get(pool, ZERO), amount)
            together = EXACT.add(together, amount)
    whole = EXACT.minus(together)
    for balance in held.values():
        whole = EXACT.add(whole, balance)
    pool = pool_of(held, network)
    if pool is None:
        # Any balance may pay it, or the account holds nothing on the network that it names.
        return whole if network == ANY else min(whole, ZERO)
    return min(whole, EXACT.subtract(held[pool], by_pool.get(pool, ZERO)))


def is_fresh(age: int | None, most: int) -> bool:
    """Whether a balance is fresh enough to reserve from. `age` is in microseconds; None if it is not known.

    Without this rule a payout is accepted by a balance that others have spent long ago.
    """
    return age is not None and age <= most


def shows_end(passed: int | None, visibility: int) -> bool:
    """Whether a balance shows an ended payout, because its read began at least `visibility` after the end.

    `passed` is the elapsed time between the end and the start of the read; None if it is not known.
    Without this rule money that has left is counted as there, while the balance does not show it yet.
    """
    return passed is not None and passed >= visibility


def passed_since(clock_id: str, elapsed: int, now: Moment, first_seen: int | None) -> int | None:
    """Return how much time has certainly passed at `now` since a row was dated, in microseconds.

    On another clock it is counted from when this process first saw the row (`first_seen`, on its own
    clock); None if it had not.
    """
    if clock_id == now.clock_id:
        return now.elapsed - elapsed
    return None if first_seen is None else now.elapsed - first_seen


def is_newer(number: int, stored: int) -> bool:
    """Whether a read began after the stored one.

    Without this rule a slow answer brings back a balance from before what it was released for.
    """
    return number > stored


def may_release_at_once(funds_moved: str | None) -> bool:
    """Whether a payout's end releases its reservation at once, because certainly no money moved.

    Without this rule a payout whose outcome is unknown, or that the balance does not show yet, is
    spent twice.
    """
    return funds_moved == "no"


@dataclass(frozen=True)
class Ended:
    """The part of a reservation that has ended with money that moved."""

    owner_id: str
    asset: str
    network: str
    amount: Decimal


def need_of(terms: Mapping[str, Any]) -> Need:
    """Return what a payout needs, by its terms as JSON has them: the amount, and the fee. Pure."""
    gets, sends = Decimal(terms["recipient_gets"]), Decimal(terms["user_sends"])
    network = terms["route"]["from_network"] or ANY
    if terms["send_asset"] != terms["recipient_asset"]:
        # The assets differ, so the amount sent is all that leaves the account.
        return Need(terms["send_asset"], network, sends)
    return Need(terms["send_asset"], network, gets, EXACT.subtract(sends, gets))
