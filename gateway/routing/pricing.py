"""What a quote adds to its terms: the fee in US dollars, and a cheaper route. Pure."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gateway.assets import EXACT, Asset
from gateway.model import Account, Amount, format_amount
from gateway.routing.prices import PriceSource
from gateway.routing.router import Choice, Decision

#: A fee in US dollars is rounded to a millionth.
_USD = Decimal("0.000001")
_HUNDRED = Decimal(100)


class AlternativeRoute(BaseModel):
    """A route that would cost less."""

    model_config = ConfigDict(frozen=True)

    route: str | None = Field(
        description="Its name, as in `POST /routes/explain`; null: the operator has not named it."
    )
    custodian: str
    account: Account = Field(
        description="The account that would pay; custodian and account go into `route` of the request."
    )
    network: str | None
    fee_total_usd: Amount
    savings_usd: Annotated[Amount, Field(description="What it costs less, in US dollars.")]


class Recommendation(BaseModel):
    """A cheaper route to suggest to the user. Ask for it in `route`; nothing takes it by itself."""

    model_config = ConfigDict(frozen=True)

    message: str
    alternative_route: AlternativeRoute


def in_usd(fee: Decimal, asset: Asset, prices: PriceSource | None) -> Decimal | None:
    """Return a fee in US dollars; None if the asset has no price. A zero fee needs no price."""
    if not fee:
        return fee
    price = prices.usd(asset.code) if prices is not None else None
    if price is None:
        return fee if asset.usd_pegged else None
    value = EXACT.multiply(fee, price)
    # A fee in a dollar-pegged asset has the asset's own decimals, and is shown as it is.
    return value if price == 1 else value.quantize(_USD, ROUND_HALF_EVEN, EXACT)


def recommended(
    decision: Decision, taken: Choice, asset: Asset, prices: PriceSource | None, percent: Decimal
) -> Recommendation | None:
    """Return the cheaper route if its fee has a price and is lower by at least this many percent."""
    other = decision.cheaper
    if other is None or other.fee >= taken.fee:
        return None
    saved = EXACT.subtract(taken.fee, other.fee)
    if EXACT.multiply(saved, _HUNDRED) < EXACT.multiply(taken.fee, percent):
        return None
    costs, saves = in_usd(other.fee, asset, prices), in_usd(saved, asset, prices)
    if costs is None or saves is None:
        return None
    where = f" on {other.route.to_network}" if other.route.to_network else ""
    message = (
        f"{other.route.custodian}{where} would cost {format_amount(other.fee)} {asset.code} instead of "
        f"{format_amount(taken.fee)} {asset.code}."
    )
    return Recommendation(
        message=message,
        alternative_route=AlternativeRoute(
            # A name has no dot; a route without a name is identified by its position, `routes.N`.
            route=other.name if "." not in other.name else None,
            custodian=other.route.custodian,
            account=other.account,
            network=other.route.to_network,
            fee_total_usd=costs,
            savings_usd=saves,
        ),
    )
