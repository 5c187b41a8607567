"""Prices of assets in US dollars, from a table in the configuration or from a class of your own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from importlib.metadata import entry_points
from typing import Protocol

from gateway.assets import AssetRegistry
from gateway.config.spending import PriceSettings
from gateway.errors import ConfigError

#: The group of entry points in which price sources are found.
GROUP = "payout_gateway.prices"
#: The name of the built-in source.
TABLE = "table"


class PriceSource(Protocol):
    """A source of prices. It is built once, with the assets and the settings, and then answers from memory.

    It is asked inside transactions, so a source that fetches its prices must do so on its own,
    beforehand.
    """

    def usd(self, asset: str) -> Decimal | None:
        """Return the price of one unit in US dollars; None if it has none."""

    def as_of(self, asset: str) -> datetime | None:
        """Return the time of that price, with a zone; None if it is not known."""


class PriceTable:
    """Prices that the operator has set. An asset that is pegged to the dollar is worth one dollar."""

    def __init__(self, assets: AssetRegistry, settings: PriceSettings) -> None:
        self._pegged = {each for each in assets.codes() if assets.find(each).usd_pegged}
        self._usd = dict(settings.usd)
        self._as_of = settings.as_of

    def usd(self, asset: str) -> Decimal | None:
        """Return the price of one unit in US dollars; None if it has none."""
        if asset in self._usd:
            return self._usd[asset]
        return Decimal(1) if asset in self._pegged else None

    def as_of(self, asset: str) -> datetime | None:
        """Return when the operator updated the table; None for an asset that is not in it."""
        return self._as_of if asset in self._usd else None


class StillPrices:
    """The prices of one moment."""

    def __init__(self, source: PriceSource, codes: Iterable[str]) -> None:
        self._known = {code: (source.usd(code), source.as_of(code)) for code in codes}

    def usd(self, asset: str) -> Decimal | None:
        """Return the price of one unit in US dollars then; None if it had none."""
        return self._known[asset][0] if asset in self._known else None

    def as_of(self, asset: str) -> datetime | None:
        """Return the time of that price."""
        return self._known[asset][1] if asset in self._known else None


def price_source(assets: AssetRegistry, settings: PriceSettings) -> PriceSource:
    """Return the configured source. Raises ConfigError if no source has that name, or it cannot be built."""
    if settings.source == TABLE:
        return PriceTable(assets, settings)
    found = {each.name: each for each in entry_points(group=GROUP)}
    if settings.source not in found:
        known = ", ".join(sorted({TABLE, *found}))
        raise ConfigError([f"prices.source: there is no {settings.source!r}; known: {known}"])
    try:
        built: PriceSource = found[settings.source].load()(assets, settings)
    except Exception as error:
        raise ConfigError(
            [f"prices.source: {settings.source!r} cannot be used ({type(error).__name__}: {error})"]
        ) from error
    return built
