"""What a request would be paid by, and on which terms: a quote's part that reads and writes nothing.

It imports neither the store nor the network, so that the process that checks files starts with little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

from pydantic import Field, StringConstraints

from gateway.assets import (
    EXACT,
    Asset,
    AssetRegistry,
    check_address,
    fitting_networks,
    natural_network,
    possible_networks,
    round_fee,
    shape_fault,
)
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.model import (
    Account,
    AddressDestination,
    Amount,
    Destination,
    Network,
    QuoteTerms,
    Reference,
    RequestBody,
    Text,
)
from gateway.routing.prices import PriceSource, StillPrices
from gateway.routing.pricing import in_usd
from gateway.routing.router import NOTHING_KNOWN, Asked, Choice, Decision, Facts, Router, Wish
from gateway.spending_rules import Rules, spend_for

if TYPE_CHECKING:
    # It imports the HTTP client of adapters.
    from gateway.adapter import Offer, Terms

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=40)]
MetadataText = Annotated[str, StringConstraints(max_length=500)]


class RouteWish(RequestBody):
    """A custodian and account that the partner asks for."""

    custodian: Text
    account: Account


class QuoteRequest(RequestBody):
    """What a quote is asked for."""

    external_ref: Text = Field(
        description="Your own id of the user or case that this payout is for."
    )
    destination: Annotated[str, StringConstraints(min_length=1, max_length=128)] | Destination = (
        Field(description="An on-chain address, or an object with `type`.")
    )
    asset: Annotated[str, StringConstraints(min_length=2, max_length=16)] = Field(
        description="Asset code, in any case of letters."
    )
    amount: Amount = Field(
        description="What is sent, as a decimal string; the fee is taken from it."
    )
    network_hint: Network | None = Field(
        default=None, description="Tells networks apart where an address fits several."
    )
    route: RouteWish | None = Field(
        default=None, description="A custodian and source account, where you want a certain one."
    )
    reference: Reference | None = Field(
        default=None,
        description="Your own reference; searchable, shown in reports. No invisible characters.",
    )
    metadata: Annotated[dict[MetadataKey, MetadataText], Field(max_length=20)] = Field(
        default={}, description="Up to 20 pairs of strings, returned as they are."
    )


class Wanted(NamedTuple):
    """What terms depend on, of a request that was checked already: an item of a batch."""

    destination: str | Destination
    asset: str
    amount: Decimal
    network_hint: str | None
    route: RouteWish | None
    reference: str | None


class DraftTerms(NamedTuple):
    """What a quote would pay, before there is a payout."""

    asset: str
    network: str | None
    decimals: int
    amount: Decimal
    source: Account
    destination: Destination
    reference: str | None


class Pricer(Protocol):
    """What a custodian instance reports about proposed terms."""

    def check(self, terms: Terms) -> str | None:
        """Return why it could never pay, or None."""

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Return what providers behind it would give now."""


@dataclass(frozen=True)
class Offered:
    """What the providers behind one custodian instance would give now."""

    custodian: str
    offers: Sequence[Offer]


class Planner:
    """Makes terms. Pure: all that it asks is in memory."""

    def __init__(  # noqa: PLR0913 - all that terms depend on
        self,
        router: Router,
        assets: AssetRegistry,
        custodians: Mapping[str, Pricer] | None,
        rules: Rules | None = None,
        *,
        facts: Facts = NOTHING_KNOWN,
        prices: PriceSource | None = None,
    ) -> None:
        self._router = router
        self._assets = assets
        self._custodians: Mapping[str, Pricer] = {} if custodians is None else custodians
        #: None: the custodians are asked in another process
        self._asks_custodians = custodians is not None
        self._rules = rules
        self._facts = facts
        self._prices = prices

    @property
    def facts(self) -> Facts:
        """What is known at this moment, pauses apart."""
        return self._facts

    def objection(self, custodian: str, terms: Terms) -> str | None:
        """Return why a custodian could never pay on such terms, or None. Pure."""
        return self._custodians[custodian].check(terms)

    @property
    def registry(self) -> AssetRegistry:
        """All known assets."""
        return self._assets

    @property
    def assets(self) -> tuple[str, ...]:
        """The codes of all known assets."""
        return self._assets.codes()

    def terms(
        self, caller: Caller, request: QuoteRequest | Wanted, offered: Offered | None = None
    ) -> tuple[QuoteTerms, Account]:
        """Return what would be paid and from which account, without a quote. Pure. Refused: as `draft`."""
        asked, decision = self._plan(caller, request, self._facts)
        promised, taken = self._promised(caller, request, asked, decision, offered)
        return promised, taken.account

    def still(self) -> Planner:
        """Return what makes the same terms in another process: by the prices and the facts of this moment.

        It can be pickled and has no secret: no custodian is in it, so that their own `check` is left to
        the caller. Nor does it know what accounts lack, which `terms` do not depend on where the source
        was asked for.
        """
        prices = None if self._prices is None else StillPrices(self._prices, self._assets.codes())
        rules = self._rules
        if rules is not None:
            rules = rules.by_prices(_no_price if prices is None else prices.usd)
        return Planner(
            self._router, self._assets, None, rules, facts=self._facts.still(), prices=prices
        )

    def _promised(
        self,
        caller: Caller,
        request: QuoteRequest | Wanted,
        asked: Asked,
        decision: Decision,
        offered: Offered | None,
    ) -> tuple[QuoteTerms, Choice]:
        """Return the terms of a decision, and the choice with the fee that they are made by."""
        asset, taken = asked.asset, decision.candidates[0]
        offers = (
            () if offered is None or offered.custodian != taken.route.custodian else offered.offers
        )
        best = max(offers, key=lambda each: each.fx_rate, default=None)
        if best is not None and best.fee is not None:
            taken = taken._replace(fee=_offered_fee(best.fee, request.amount, asset, taken))
        terms = draft_of(asked, request, taken)
        promised = QuoteTerms(
            quote_id=None,
            expires_at=None,
            destination=terms.destination,
            asset=asset.code,
            amount=request.amount,
            user_sends=request.amount,
            recipient_gets=terms.amount,
            send_asset=asset.code,
            recipient_asset=asset.code,
            fx_rate=None if best is None else best.fx_rate,
            # A bank pays out in its own currency, at a rate that nobody promises us.
            price="indicative" if terms.destination.type == "bank_account" else "firm",
            fee_total_usd=in_usd(taken.fee, asset, self._prices),
            route=taken.route,
        )
        if self._rules is not None:
            spend = spend_for(caller.org, caller.mode, caller.key_id, promised, taken.account)
            self._rules.check(spend)
        return promised, taken

    def _plan(
        self, caller: Caller, request: QuoteRequest | Wanted, facts: Facts
    ) -> tuple[Asked, Decision]:
        """Return what was asked for, and the decision about it. Refused if there is no route for it."""
        asked = self._asked(caller, request)
        decision = self._router.decide(asked, facts, self._checking(asked, request))
        if decision.refusal is not None:
            raise decision.refusal
        return asked, decision

    def _asked(self, caller: Caller, request: QuoteRequest | Wanted) -> Asked:
        asset = self._assets.find(request.asset)
        return Asked(
            caller.org,
            caller.mode,
            self._payee(caller, request, asset),
            asset,
            request.amount,
            request.network_hint,
            Wish(request.route.custodian, request.route.account) if request.route else None,
        )

    def _checking(
        self, asked: Asked, request: QuoteRequest | Wanted
    ) -> Callable[[Choice], str | None] | None:
        """Return what asks a custodian whether it could ever pay by a route; None: it is asked elsewhere."""
        if not self._asks_custodians:
            return None

        def check(choice: Choice) -> str | None:
            terms = draft_of(asked, request, choice)
            return self._custodians[choice.route.custodian].check(terms)

        return check

    def _payee(self, caller: Caller, request: QuoteRequest | Wanted, asset: Asset) -> Destination:
        """Return the destination, its address checked; a bare address gets the network that it fits.

        That is the one network that is configured for such addresses; where there are several, the one
        whose addresses look like it.
        """
        found = request.destination
        if isinstance(found, str):
            network = request.network_hint
            if network is None:
                configured = self._router.networks(caller.org, caller.mode, asset)
                fitting = fitting_networks(found, asset) & configured
                network = next(iter(fitting)) if len(fitting) == 1 else None
            network = network or natural_network(found, asset)
            if network is None:
                raise _unclear_network(found, asset)
            found = AddressDestination(network=network, address=found)
        return check_address(found, asset) if isinstance(found, AddressDestination) else found


def _unclear_network(address: str, asset: Asset) -> Refused:
    """Return the refusal of an address whose network is not clear: several fit it, or none."""
    fitting = possible_networks(address, asset)
    pointer, detail = "/destination", shape_fault(address, asset)
    if fitting:
        pointer = "/network_hint"
        detail = (
            "The network of this address is not clear from its shape. Give network_hint, one of: "
            f"{', '.join(fitting)}."
        )
    fault = {"pointer": pointer, "code": "invalid_destination", "detail": detail}
    return Refused("invalid_destination", detail, errors=[fault])


def _no_price(_: str) -> Decimal | None:
    return None


def draft_of(asked: Asked, request: QuoteRequest | Wanted, taken: Choice) -> DraftTerms:
    """Return what a custodian would be asked to pay by a route."""
    return DraftTerms(
        asset=asked.asset.code,
        network=taken.route.to_network,
        decimals=asked.asset.decimals_on(taken.route.to_network),
        amount=EXACT.subtract(request.amount, taken.fee),
        source=taken.account,
        destination=asked.destination,
        reference=request.reference,
    )


def _offered_fee(fee: Decimal, amount: Decimal, asset: Asset, taken: Choice) -> Decimal:
    """Return a fee that was offered, in the asset's own decimals. Refused: `amount_below_minimum`."""
    rounded = round_fee(fee, asset.decimals_on(taken.route.to_network))
    if rounded < amount:
        return rounded
    detail = (
        f"The fee of this route is {rounded} {asset.code}: nothing would be left of the amount."
    )
    fault = {"pointer": "/amount", "code": "amount_below_minimum", "detail": detail}
    raise Refused("amount_below_minimum", detail, errors=[fault])
