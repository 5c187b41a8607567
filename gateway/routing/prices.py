"""What a unit of an asset is worth in US dollars: a table in the configuration, or a class of your own."""

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
    """Where prices come from. Built once, with the assets and the settings; then asked from memory.

    It is asked inside transactions: a source that fetches its prices does so on its own, beforehand.
    """

    def usd(self, asset: str) -> Decimal | None:
        """Return the price of one unit in US dollars; None if it has none."""

    def as_of(self, asset: str) -> datetime | None:
        """Return when that price was true, with a zone; None if it is not known."""


class PriceTable:
    """Prices that the operator has set; an asset that is pegged to the dollar counts as one."""

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
        """Return when the operator has updated the table; None for what is not in it."""
        return self._as_of if asset in self._usd else None


class StillPrices:
    """The prices of one moment."""

    def __init__(self, source: PriceSource, codes: Iterable[str]) -> None:
        self._known = {code: (source.usd(code), source.as_of(code)) for code in codes}

    def usd(self, asset: str) -> Decimal | None:
        """Return the price of one unit in US dollars then; None if it had none."""
        return self._known[asset][0] if asset in self._known else None

    def as_of(self, asset: str) -> datetime | None:
        """Return when that price was true."""
        return self._known[asset][1] if asset in self._known else None


def price_source(assets: AssetRegistry, settings: PriceSettings) -> PriceSource:
    """Return the configured source. ConfigError if there is none of that name, or it cannot be built."""
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
