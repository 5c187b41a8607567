"""A twin's ledger: what each account can spend, and every transfer that moved money."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from adapters.twin.clock import TwinClock


class Ledger:
    """Balances, and one entry for every transfer that moved money."""

    def __init__(self, clock: TwinClock, seed: Mapping[tuple[str, str], Decimal]) -> None:
        self._clock = clock
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Go back to the seeded balances."""
        self._free = dict(self._seed)
        self._transfers: list[dict[str, str]] = []

    def free(self, account: str, asset: str) -> Decimal:
        """Return what the account can still spend, in whole units."""
        return self._free.get((account, asset), Decimal(0))

    def hold(self, account: str, asset: str, amount: Decimal) -> None:
        """Reserve an amount until it moves or is given back."""
        self._free[account, asset] = self.free(account, asset) - amount

    def give_back(self, account: str, asset: str, amount: Decimal) -> None:
        """Undo a hold."""
        self._free[account, asset] = self.free(account, asset) + amount

    def move(self, reference: str, source: str, destination: str, asset: str, amount: str) -> None:
        """Record that a held amount has moved; call it once per transfer."""
        if (destination, asset) in self._free:
            self.give_back(destination, asset, Decimal(amount))
        self._transfers.append(
            {
                "reference": reference,
                "source": source,
                "destination": destination,
                "asset": asset,
                "amount": amount,
                "at": self._clock.stamp(),
            }
        )

    def transfers(self) -> list[dict[str, str]]:
        """Return every entry, oldest first."""
        return list(self._transfers)

    def balances(self) -> list[dict[str, str]]:
        """Return what can be spent, per account and asset."""
        return [
            {"account": account, "asset": asset, "amount": f"{amount:f}"}
            for (account, asset), amount in sorted(self._free.items())
        ]

    def set_balance(self, account: str, asset: str, amount: Decimal) -> None:
        """Set what can be spent."""
        self._free[account, asset] = amount
