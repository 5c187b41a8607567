"""What may be spent: per payout, per UTC day and per UTC month, by count and by amount. Pure.

A rule with a window has a counter for each window, and for each value of what it counts `each` of. What a
payout adds to a counter is fixed when it is accepted, with the price of that moment.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from gateway.assets import EXACT
from gateway.config.spending import SpendingLimitSettings, SpendingSettings
from gateway.errors import Refused
from gateway.model import (
    Account,
    AddressDestination,
    BankAccountDestination,
    CustodianAccountDestination,
    Destination,
    PayoutAccountDestination,
    QuoteTerms,
    format_amount,
    format_time,
)

_EVM = re.compile("0x[0-9a-fA-F]{40}")
#: The unit of limits and caps that hold for every asset with a price.
USD = "USD"
#: The names of the limits that are not in the list.
DEFAULT_CAP, ASSET_CAP = "payout_cap_usd", "asset_caps"


@dataclass(frozen=True)
class Spend:
    """What is to be spent: one payout, or some of a batch that differ in nothing that is counted."""

    org: str
    mode: str
    key_id: str
    custodian: str
    account: Account
    asset: str
    destination: str  #: as `destination_of` says
    amount: Decimal  #: of one payout, in the asset that is sent
    count: int = 1

    @property
    def total(self) -> Decimal:
        """The amount of all of them."""
        return EXACT.multiply(self.amount, Decimal(self.count))


@dataclass(frozen=True)
class Claim:
    """What a spend adds to a counter."""

    counter: str
    rule: SpendingLimitSettings
    spend: Spend
    window: str
    #: when the window ends
    frees_at: datetime
    count: int
    #: in the rule's unit; zero where it counts no amount
    amount: Decimal
    #: US dollars of one unit of the asset; None if the rule counts in the asset, or no amount
    price: Decimal | None
    #: the digest of the destination, where the counter is of one destination
    destination: str | None


@dataclass(frozen=True)
class Counter:
    """How much of a window is spent."""

    count: int = 0
    amount: Decimal = Decimal(0)


def destination_of(destination: Destination) -> str:
    """Return what names a payee: its address, or its id at the custodian."""
    match destination:
        case AddressDestination():
            return destination.address
        case CustodianAccountDestination():
            return f"{destination.account_type}/{destination.id}"
        case PayoutAccountDestination():
            return destination.payout_account_id
        case BankAccountDestination():
            return destination.payment_instructions_id


def spend_for(org: str, mode: str, key_id: str, terms: QuoteTerms, account: Account) -> Spend:
    """Return what would be spent by terms. Pure."""
    destination: Destination = terms.destination
    return Spend(
        org=org,
        mode=mode,
        key_id=key_id,
        custodian=terms.route.custodian,
        account=account,
        asset=terms.asset,
        destination=destination_of(destination),
        amount=terms.user_sends,
    )


def digest_of_destination(destination: str) -> str:
    """Return what a counter has in the place of a payee: its personal data is nowhere but in the payout."""
    return hashlib.sha256(destination.encode()).hexdigest()[:32]


class Rules:
    """The limits of a configuration. `usd` returns the price of an asset's unit in US dollars, or None."""

    def __init__(self, settings: SpendingSettings, usd: Callable[[str], Decimal | None]) -> None:
        self._settings = settings
        self._usd = usd
        self._windows = tuple(each for each in settings.limits if each.per != "payout")
        self._caps = tuple(each for each in settings.limits if each.per == "payout")

    def by_prices(self, usd: Callable[[str], Decimal | None]) -> Rules:
        """Return the same rules by other prices."""
        return Rules(self._settings, usd)

    @property
    def counts(self) -> bool:
        """Whether anything is counted at all."""
        return bool(self._windows)

    @property
    def by_destination(self) -> bool:
        """Whether a counter depends on the payee."""
        return any(
            "destination" in each.each or each.destination is not None
            for each in self._settings.limits
        )

    def check(self, spend: Spend) -> None:
        """Check what holds for one payout alone. Refused: `limit_exceeded`."""
        price = self._usd(spend.asset)
        own = self._settings.asset_caps.get(spend.asset)
        if price is None and own is None:
            detail = (
                f"{spend.asset} has no price and no cap of its own, so no limit could hold: the operator has "
                "to set one."
            )
            raise Refused("limit_exceeded", detail, limit=ASSET_CAP, frees_at=None)
        if own is not None and spend.amount > own:
            raise _too_much(ASSET_CAP, own, spend.asset)
        default = self._settings.payout_cap_usd
        if price is not None and EXACT.multiply(spend.amount, price) > default:
            raise _too_much(DEFAULT_CAP, default, USD)
        for rule in self._caps:
            if not _fits(rule, spend) or rule.amount is None:
                continue
            value = _value(rule, spend.amount, price)
            if value is not None and value > rule.amount:
                raise _too_much(rule.name, rule.amount, rule.unit)

    def claims(self, spends: Iterable[Spend], now: datetime) -> list[Claim]:
        """Return what is added to counters in the windows of a moment, by counter and asset."""
        found: dict[tuple[str, str], Claim] = {}
        for spend in spends:
            price = self._usd(spend.asset)
            for rule in self._windows:
                if _fits(rule, spend):
                    claim = _claim(rule, spend, price, now)
                    before = found.get((claim.counter, spend.asset))
                    found[claim.counter, spend.asset] = (
                        claim if before is None else _sum(before, claim)
                    )
        return [found[each] for each in sorted(found)]


def _fits(rule: SpendingLimitSettings, spend: Spend) -> bool:
    """Whether a rule is about such a payout."""
    pairs = (
        (rule.org, spend.org),
        (rule.key, spend.key_id),
        (rule.custodian, spend.custodian),
        (rule.account, spend.account.id),
        (rule.asset, spend.asset),
    )
    in_unit = rule.unit in {USD, spend.asset}
    named = all(name in {None, value} for name, value in pairs)
    return in_unit and named and _is_payee(rule.destination, spend.destination)


def _is_payee(name: str | None, payee: str) -> bool:
    """Whether a rule's payee is this one. An EVM address is the same one in any case of letters."""
    if name is None or name == payee:
        return True
    return _EVM.fullmatch(name) is not None and name.lower() == payee.lower()


def _value(rule: SpendingLimitSettings, amount: Decimal, price: Decimal | None) -> Decimal | None:
    """Return an amount in a rule's unit; None if the asset has no price."""
    if rule.unit != USD:
        return amount
    return None if price is None else EXACT.multiply(amount, price)


def _claim(
    rule: SpendingLimitSettings, spend: Spend, price: Decimal | None, now: datetime
) -> Claim:
    window, frees_at = window_of(rule.per, now)
    destination = digest_of_destination(spend.destination)
    values = {
        "org": spend.org,
        "key": spend.key_id,
        "account": [spend.custodian, spend.account.type, spend.account.id],
        "asset": spend.asset,
        "destination": destination,
    }
    subject = [values[name] for name in rule.each]
    of_one = "destination" in rule.each or rule.destination is not None
    value = None if rule.amount is None else _value(rule, spend.total, price)
    return Claim(
        counter=json.dumps([rule.name, spend.mode, window, *subject], separators=(",", ":")),
        rule=rule,
        spend=spend,
        window=window,
        frees_at=frees_at,
        count=spend.count,
        amount=Decimal(0) if value is None else value,
        price=price if rule.unit == USD and value is not None else None,
        destination=destination if of_one else None,
    )


def _sum(one: Claim, other: Claim) -> Claim:
    return Claim(
        counter=one.counter,
        rule=one.rule,
        spend=one.spend,
        window=one.window,
        frees_at=one.frees_at,
        count=one.count + other.count,
        amount=EXACT.add(one.amount, other.amount),
        price=one.price,
        destination=one.destination,
    )


def window_of(per: str, now: datetime) -> tuple[str, datetime]:
    """Return the name of the window of a moment, in UTC, and when it ends."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return f"{day:%Y-%m-%d}", day + timedelta(days=1)
    first = day.replace(day=1)
    return f"{first:%Y-%m}", (first + timedelta(days=32)).replace(day=1)


def taken(claims: Sequence[Claim], counters: Mapping[str, Counter]) -> dict[str, Counter]:
    """Return the counters after claims. Refused: `limit_exceeded`, naming the limit and when it frees."""
    after: dict[str, Counter] = {}
    for claim in claims:
        before = after.get(claim.counter) or counters.get(claim.counter) or Counter()
        count, amount = before.count + claim.count, EXACT.add(before.amount, claim.amount)
        rule = claim.rule
        if rule.count is not None and count > rule.count:
            raise _used_up(claim, f"{rule.count} payouts", never=claim.count > rule.count)
        if rule.amount is not None and amount > rule.amount:
            whole = f"{format_amount(rule.amount)} {rule.unit}"
            raise _used_up(claim, whole, never=claim.amount > rule.amount)
        after[claim.counter] = Counter(count, amount)
    return after


def _used_up(claim: Claim, whole: str, *, never: bool) -> Refused:
    """Return the refusal of a claim. How much others have spent is not said."""
    rule, frees_at = claim.rule, None if never else format_time(claim.frees_at)
    end = "This alone is more than the limit." if never else f"It frees at {frees_at}."
    detail = f"The limit {rule.name!r}, {whole} a UTC {rule.per}, would be exceeded. {end}"
    return Refused("limit_exceeded", detail, limit=rule.name, frees_at=frees_at)


def _too_much(name: str, most: Decimal, unit: str) -> Refused:
    detail = f"The limit {name!r} allows {format_amount(most)} {unit} a payout, and this is more."
    return Refused("limit_exceeded", detail, limit=name, frees_at=None)
