"""What a quote shows beside its terms: the fee in dollars, its age, and a cheaper route."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from gateway.adapter import Capabilities, Offer
from gateway.assets import AssetRegistry
from gateway.caller import Caller
from gateway.config.routes import RouteSettings
from gateway.config.spending import PriceSettings
from gateway.errors import ConfigError, Refused
from gateway.planning import Offered, QuoteRequest
from gateway.quotes import Quote, Quotes, quote_json
from gateway.routing.prices import PriceSource, PriceTable, price_source
from gateway.routing.router import Instance, Router
from gateway.runtime import Ids, Runtime
from tests.clock import SetClock
from tests.routing.pricing import TakesEverything

ASSETS = AssetRegistry()
AT = datetime(2026, 3, 2, 9, tzinfo=UTC)
ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"


def quotes(
    *fees: dict[str, str],
    prices: PriceSource | None = None,
    percent: str = "1",
    named: bool = True,
) -> Quotes:
    """Return what makes quotes, with a route and a custodian per fee: `one`, `two` and so on.

    Unless `named`, the routes have no names.
    """
    names = ("one", "two", "three")[: len(fees)]
    can = Capabilities(frozenset({"address"}))
    clock = SetClock()
    routes = [
        RouteSettings.model_validate(
            {
                "name": f"by-{name}" if named else None,
                "destination": "address",
                "custodian": name,
                "account": {"id": "A", "type": "VAULT"},
                "networks": ["Ethereum"],
                "fee": fee,
            }
        )
        for name, fee in zip(names, fees, strict=True)
    ]
    router = Router([Instance(name, frozenset({"live"}), can) for name in names], routes)
    return Quotes(
        router,
        ASSETS,
        Runtime(clock=clock, ids=Ids(clock)),
        {name: TakesEverything() for name in names},
        prices=prices,
        recommend_percent=Decimal(percent),
    )


def ask(made: Quotes, asset: str = "ETH", offered: Offered | None = None, **members: Any) -> Quote:
    """Return a quote for a hundred, or less of it."""
    request = QuoteRequest.model_validate(
        {"external_ref": "u", "destination": ADDRESS, "asset": asset, "amount": Decimal(100)}
        | members
    )
    return made.draft(Caller("acme", "live", "key_1"), request, offered)[0]


def table(**settings: Any) -> PriceTable:
    """Return a table with a price of ETH."""
    return PriceTable(ASSETS, PriceSettings.model_validate({"usd": {"ETH": "3000.5"}} | settings))


def test_a_fee_in_dollars_has_a_price_and_an_age() -> None:
    """To a millionth. Without a price only a dollar-pegged fee, or none at all, has a value."""
    made = quotes({"flat": "0.000000123456789"}, prices=table(as_of=AT))
    quote = ask(made)
    assert quote.recipient_gets == Decimal(100) - Decimal("0.000000123456789")
    assert quote.fee_total_usd == Decimal("0.000370")
    assert quote_json(quote)["fee_usd_as_of"] == "2026-03-02T09:00:00.000Z"
    pegged = ask(quotes({"flat": "0.1"}, prices=table(as_of=AT)), "USDC")
    assert (pegged.fee_total_usd, pegged.fee_usd_as_of) == (Decimal("0.1"), None)
    unpriced = quotes({"flat": "0.1"}, prices=PriceTable(ASSETS, PriceSettings()))
    assert ask(unpriced).fee_total_usd is None
    assert ask(quotes({}, prices=table())).fee_total_usd == 0


@pytest.mark.parametrize(
    ("fees", "percent", "saves"),
    [
        (("1", "0.99"), "1", "30.005"),
        (("1", "0.991"), "1", None),
        (("1", "0.991"), "0.5", "27.0045"),
        (("1", "1"), "0", None),
        (("1", "2"), "1", None),
        (("1", "0"), "1", "3000.5"),
    ],
)
def test_a_cheaper_route_is_recommended(
    fees: tuple[str, str], percent: str, saves: str | None
) -> None:
    """Where its fee is lower by so many percent; the quote keeps the first route all the same."""
    made = quotes(*({"flat": each} for each in fees), prices=table(), percent=percent)
    quote = ask(made)
    assert quote.route.custodian == "one"
    told = quote_json(quote)["recommendation"]
    if saves is None:
        assert told is None
        return
    assert told["alternative_route"] == {
        "route": "by-two",
        "custodian": "two",
        "account": {"id": "A", "type": "VAULT"},
        "network": "Ethereum",
        "fee_total_usd": str((Decimal(fees[1]) * Decimal("3000.5")).normalize()).replace("E+3", ""),
        "savings_usd": saves,
    } | ({"fee_total_usd": "0"} if fees[1] == "0" else {})
    assert told["message"] == f"two on Ethereum would cost {fees[1]} ETH instead of 1 ETH."


def test_a_recommended_route_without_a_name_has_none() -> None:
    """Its position in the file is nothing to a partner."""
    told = quote_json(ask(quotes({"flat": "1"}, {"flat": "0.5"}, prices=table(), named=False)))
    assert told["recommendation"]["alternative_route"]["route"] is None


def test_without_a_price_nothing_is_recommended() -> None:
    """What it saves could not be said."""
    made = quotes({"flat": "1"}, {"flat": "0.5"}, prices=PriceTable(ASSETS, PriceSettings()))
    assert ask(made).recommendation is None


def test_an_offered_fee_takes_the_place_of_the_configured_one() -> None:
    """Of the best rate, rounded up to the asset's unit; of the custodian that is taken, and no other."""
    made = quotes({"flat": "1"}, prices=table())
    offers = (Offer(Decimal(2)), Offer(Decimal(3), Decimal("0.25")))
    quote = ask(made, offered=Offered("one", offers))
    assert (quote.fx_rate, quote.recipient_gets) == (Decimal(3), Decimal("99.75"))
    other = ask(made, offered=Offered("two", offers))
    assert (other.fx_rate, other.recipient_gets) == (None, Decimal(99))
    rounded = ask(made, "USDC", Offered("one", (Offer(Decimal(1), Decimal("0.0000001")),)))
    assert rounded.recipient_gets == Decimal("99.999999")
    with pytest.raises(Refused) as refused:
        ask(made, offered=Offered("one", (Offer(Decimal(1), Decimal(100)),)))
    assert refused.value.code == "amount_below_minimum"


def test_a_bare_address_is_paid_on_the_one_configured_network() -> None:
    """Its shape fits many; the hint still wins, and is refused where no route pays there."""
    made = quotes({})
    destination = ask(made).destination
    assert destination.type == "address"
    assert destination.network == "Ethereum"
    with pytest.raises(Refused) as refused:
        ask(made, "USDC", network_hint="Polygon")
    assert refused.value.code == "unsupported_network"


class Doubled:
    """A price source of one's own: everything costs two dollars."""

    def __init__(self, assets: AssetRegistry, settings: PriceSettings) -> None:
        assert assets.codes()
        self._as_of = settings.as_of

    def usd(self, asset: str) -> Decimal | None:
        """Return two dollars."""
        return Decimal(2) if asset else None

    def as_of(self, asset: str) -> datetime | None:
        """Return when somebody set it."""
        return self._as_of if asset else None


def test_prices_may_come_from_a_class_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by its entry point; a name that is not known lists those that are."""
    entry = EntryPoint("doubled", f"{__name__}:Doubled", "payout_gateway.prices")
    broken = EntryPoint("broken", f"{__name__}:Missing", "payout_gateway.prices")
    monkeypatch.setattr("gateway.routing.prices.entry_points", lambda **_: [entry, broken])
    made = price_source(ASSETS, PriceSettings(source="doubled", as_of=AT))
    quote = ask(quotes({"flat": "0.5"}, prices=made))
    assert (quote.fee_total_usd, quote.fee_usd_as_of) == (Decimal(1), AT)
    assert isinstance(price_source(ASSETS, PriceSettings()), PriceTable)
    for name, word in (("other", "known: broken, doubled, table"), ("broken", "cannot be used")):
        with pytest.raises(ConfigError, match=word):
            price_source(ASSETS, PriceSettings(source=name))


def test_every_fee_and_net_add_up() -> None:
    """Whatever the fee: what the recipient gets and the fee are what is sent, in the asset's decimals."""
    for points in range(0, 9_800, 37):
        quote = ask(
            quotes({"flat": "0.1", "basis_points": str(points)}), "USDC", amount=Decimal("7.654321")
        )
        fee = quote.user_sends - quote.recipient_gets
        exact = Decimal("0.1") + Decimal("7.654321") * points / 10_000
        assert quote.user_sends == Decimal("7.654321")
        assert exact <= fee < exact + Decimal("0.000001")
        assert fee == fee.quantize(Decimal("0.000001"))
