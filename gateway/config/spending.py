"""Settings of limits on what is spent, and of the prices that they are counted by."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from gateway.config.section import AssetCode, InstanceName, OrgName, Section
from gateway.model import Amount, Text

_LimitName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
#: More digits than any price has; its product with an amount is still exact.
_MOST_PRICE_DIGITS = 30


def _price(value: Decimal) -> Decimal:
    """Return a price. ValueError if it is zero, or so long that a product would be rounded."""
    if not value:
        msg = "must be more than zero"
        raise ValueError(msg)
    if len(value.as_tuple().digits) > _MOST_PRICE_DIGITS:
        msg = f"may have {_MOST_PRICE_DIGITS} digits"
        raise ValueError(msg)
    return value


class PriceSettings(Section):
    """What assets are worth in US dollars: for limits, and for the fee that a quote shows."""

    usd: dict[AssetCode, Annotated[Amount, AfterValidator(_price)]] = Field(
        default={},
        description='Price of one unit of an asset in US dollars, such as `{ ETH = "3000" }`. An asset that is '
        "pegged to the dollar counts as one without an entry. Update them yourself: nothing else "
        "does.",
    )
    as_of: datetime | None = Field(
        default=None,
        description="When `usd` was last updated, with a zone; quotes show it beside their fee in US dollars.",
    )
    source: str = Field(
        default="table",
        pattern=r"^[a-z][a-z0-9_-]{0,62}$",
        description="Source of prices: `table`, which is `usd`, or the name of an entry point of the group "
        "`payout_gateway.prices`.",
    )

    @field_validator("as_of")
    @classmethod
    def _zoned(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            msg = "must have a zone, such as 2026-03-02T10:00:00Z"
            raise ValueError(msg)
        return value


class SpendingLimitSettings(Section):
    """A limit on what is spent: per payout, per UTC day or per UTC month."""

    name: _LimitName = Field(
        description="Name of the limit, shown when it refuses a payout. Counters belong to this name."
    )
    per: Literal["payout", "day", "month"] = Field(
        description="Period of the limit. Days and months are in UTC."
    )
    amount: Amount | None = Field(default=None, description="Maximum amount, in `unit`.")
    unit: str = Field(
        default="USD",
        pattern=r"^[A-Z0-9_.]{2,16}$",
        description="`USD`, at the prices of `[prices]`, or an asset code; the limit then applies only to that "
        "asset.",
    )
    count: int | None = Field(
        default=None, ge=1, description="Maximum number of payouts per day or month."
    )
    each: tuple[Literal["org", "key", "account", "asset", "destination"], ...] = Field(
        default=(),
        description="Keep a separate counter for each of these. Not set: one counter for all.",
    )
    org: OrgName | None = Field(default=None, description="Only payouts of this org.")
    key: Text | None = Field(default=None, description="Only payouts of this API key, by its id.")
    custodian: InstanceName | None = Field(
        default=None, description="Only payouts through this custodian instance."
    )
    account: Text | None = Field(
        default=None, description="Only payouts from the account with this id."
    )
    asset: AssetCode | None = Field(default=None, description="Only payouts in this asset.")
    destination: Text | None = Field(
        default=None,
        description="Only payouts to this payee: its address, `type/id` of an account at the custodian, or its "
        "id.",
    )


class SpendingSettings(Section):
    """What may be spent at most. Each key mode has counters of its own."""

    payout_cap_usd: Amount = Field(
        default=Decimal(100_000),
        description="Maximum that one payout may send, in US dollars.",
    )
    asset_caps: dict[AssetCode, Amount] = Field(
        default={},
        description="Maximum that one payout may send per asset, in units of the asset. An asset without a price "
        "needs an entry, or its payouts are refused.",
    )
    limits: tuple[SpendingLimitSettings, ...] = Field(default=(), description="Additional limits.")


def limit_faults(settings: SpendingSettings, custodians: frozenset[str]) -> list[str]:
    """Return the errors of limits that are each readable."""
    faults: list[str] = []
    names: set[str] = set()
    for index, each in enumerate(settings.limits):
        where = f"spending.limits.{index} ({each.name})"
        if each.name in names:
            faults.append(f"{where}: another limit has that name; counters are kept by it")
        names.add(each.name)
        if each.amount is None and each.count is None:
            faults.append(f"{where}: give amount, count, or both")
        if each.per == "payout" and (each.amount is None or each.count is not None):
            faults.append(f"{where}: a limit per payout has an amount and no count")
        if each.unit != "USD" and each.asset not in {None, each.unit}:
            faults.append(f"{where}: it counts in {each.unit} and is only of {each.asset}")
        if each.custodian is not None and each.custodian not in custodians:
            faults.append(f"{where}: there is no custodian {each.custodian}")
    return faults
