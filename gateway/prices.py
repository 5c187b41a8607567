"""What a unit of an asset is worth in US dollars. Pure: a table in the configuration."""

from __future__ import annotations

from decimal import Decimal

from gateway.assets import AssetRegistry
from gateway.config_spending import PriceSettings


class PriceTable:
    """Prices that the operator has set; an asset that is pegged to the dollar counts as one."""

    def __init__(self, assets: AssetRegistry, settings: PriceSettings) -> None:
        self._pegged = {each for each in assets.codes() if assets.find(each).usd_pegged}
        self._usd = dict(settings.usd)

    def usd(self, asset: str) -> Decimal | None:
        """Return the price of one unit in US dollars; None where it has none."""
        if asset in self._usd:
            return self._usd[asset]
        return Decimal(1) if asset in self._pegged else None
