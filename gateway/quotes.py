"""Quotes: a price promise for 60 seconds, consumed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, Protocol, cast

from pydantic import Field, PrivateAttr, StringConstraints

from gateway.adapter import Offer, Terms
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
from gateway.errors import Refused
from gateway.funds.reservations import Funds
from gateway.keys import Caller
from gateway.limits import Buckets
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
    Time,
    Value,
    format_amount,
    format_time,
)
from gateway.pause import Pause, Subject, held_by
from gateway.pausing import paused_detail
from gateway.routing.prices import PriceSource, StillPrices
from gateway.routing.pricing import Recommendation, in_usd, recommended
from gateway.routing.router import (
    NOTHING_KNOWN,
    Asked,
    Choice,
    Decision,
    Facts,
    LeftOut,
    Reason,
    Router,
    Wish,
)
from gateway.runtime import Runtime
from gateway.spending import Spending, spend_for
from gateway.spending_rules import Spend, destination_of
from gateway.store import quotes as rows
from gateway.store.database import Tx
from gateway.store.rows import to_json, to_us
from gateway.views import terms_json

QUOTE_LIFE = timedelta(seconds=60)
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


class InsufficientFunds(Value):
    """What an account lacks for a payout."""

    needed: Amount = Field(description="How much more the account needs, in the asset.")
    asset: str
    network_with_lowest_top_up_fee: Network | None = Field(
        description="The network to top it up on; null where the account has none."
    )


class Quote(QuoteTerms):
    """A price promise."""

    quote_id: str
    expires_at: Time
    external_ref: str
    reference: str | None
    metadata: Mapping[str, str]
    fee_usd_as_of: Time | None = Field(
        default=None,
        description="When the price was true by which `fee_total_usd` was reckoned; null: nobody says, or "
        "the asset is pegged to the dollar.",
    )
    recommendation: Recommendation | None = Field(
        default=None,
        description="A route that would cost at least 1 % less (the operator may set another share).",
    )
    insufficient_funds: InsufficientFunds | None = Field(
        default=None,
        description="What the account lacks by its last balance; null: nothing, or its balance is not known. "
        "The quote reserves nothing: the payout is refused or waits where it is still short.",
    )

    #: how the route was chosen, as JSON: kept with the quote, shown to operators
    _decision: str | None = PrivateAttr(default=None)


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


@dataclass(frozen=True)
class FactsNow:
    """What is known at this moment, with the pauses that were read in this transaction."""

    facts: Facts
    mode: str
    pauses: Sequence[Pause]
    #: whether a pause leaves a route out although payouts are accepted meanwhile: where one is to be sent now
    to_be_sent: bool = False

    def pause(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return what is paused, for people."""
        pauses = [each for each in self.pauses if self.to_be_sent or not each.keep_accepting]
        held = held_by(pauses, [Subject(org, self.mode, instance, account, asset)])
        return None if held is None else paused_detail(held)

    def waits(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return what a payout would be accepted for and wait for, for people."""
        held = held_by(self.pauses, [Subject(org, self.mode, instance, account, asset)])
        return None if held is None else f"{held.name} is paused: a payout would wait"

    def health(self, instance: str) -> str | None:
        """Return why nothing should be sent to a custodian now."""
        return self.facts.health(instance)

    def shortage(self, instance: str, account: Account, asset: str, needed: Decimal) -> str | None:
        """Return what an account lacks."""
        return self.facts.shortage(instance, account, asset, needed)

    def seconds(self, route: str) -> int | None:
        """Return how long payouts by this way have usually taken."""
        return self.facts.seconds(route)

    def still(self) -> Facts:
        """Return what is known apart from the pauses, as it is now."""
        return self.facts.still()


class Quotes:
    """Makes quotes."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        router: Router,
        assets: AssetRegistry,
        runtime: Runtime,
        custodians: Mapping[str, Pricer] | None,
        budget: Buckets | None = None,
        spending: Spending | None = None,
        funds: Funds | None = None,
        *,
        facts: Facts = NOTHING_KNOWN,
        prices: PriceSource | None = None,
        recommend_percent: Decimal = Decimal(1),
    ) -> None:
        self._spending = spending
        self._funds = funds
        self._facts = facts
        self._prices = prices
        self._recommend_percent = recommend_percent
        self._router = router
        self._assets = assets
        self._runtime = runtime
        self._custodians: Mapping[str, Pricer] = {} if custodians is None else custodians
        #: None: the custodians are asked in another process
        self._asks_custodians = custodians is not None
        #: of calls, per org and instance
        self._budget = budget

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

    def has_offers(self, caller: Caller, request: QuoteRequest) -> bool:
        """Return whether `offers` would call a custodian. False for an invalid request."""
        asked = {each.name for each in self._router.instances() if each.capabilities.quotes}
        if not asked:
            return False
        try:
            _, decision = self._plan(caller, request, self._facts)
        except Refused:
            return False
        return decision.candidates[0].route.custodian in asked

    async def offers(self, caller: Caller, request: QuoteRequest) -> Offered | None:
        """Ask the custodian for offers, before any transaction. None for a faulty request.

        Refused: `rate_limited`, if the org has used up its budget of calls to this instance. What
        was quoted already is answered from its key, and costs nothing of it.
        """
        try:
            asked, decision = self._plan(caller, request, self._facts)
        except Refused:
            return None
        taken = decision.candidates[0]
        name = taken.route.custodian
        if self._budget is not None:
            token = self._budget.take(f"{caller.org} {name}")
            if not token.allowed:
                detail = f"Too many quotes that {name!r} has to be asked for. Nothing was done."
                headers = {"Retry-After": str(token.retry_s), **self._budget.headers(token)}
                raise Refused("rate_limited", detail, headers=headers)
        terms = _draft(asked, request, taken)
        return Offered(name, await self._custodians[name].offers(terms))

    def draft(
        self,
        caller: Caller,
        request: QuoteRequest,
        offered: Offered | None = None,
        pauses: Sequence[Pause] = (),
    ) -> tuple[Quote, Account]:
        """Return the quote and the account that would pay it; nothing is written. Pure but for id and time.

        `pauses`: all that there are. Refused: every fault of the request that its schema cannot see, and
        `no_route`.
        """
        facts: Facts = FactsNow(self._facts, caller.mode, pauses) if pauses else self._facts
        asked, decision = self._plan(caller, request, facts)
        promised, taken = self._promised(caller, request, asked, decision, offered)
        members = {name: getattr(promised, name) for name in QuoteTerms.model_fields}
        prices = self._prices
        quote = Quote(
            **{
                **members,
                "quote_id": self._runtime.ids.new("quo"),
                "expires_at": self._runtime.clock.now() + QUOTE_LIFE,
            },
            external_ref=request.external_ref,
            reference=request.reference,
            metadata=request.metadata,
            fee_usd_as_of=None
            if prices is None or not taken.fee
            else prices.as_of(asked.asset.code),
            recommendation=recommended(
                decision, taken, asked.asset, prices, self._recommend_percent
            ),
            insufficient_funds=self._lacks(promised, taken.account),
        )
        quote._decision = decision_json(decision, asked_for=request.route is not None)  # noqa: SLF001 - its own module
        return quote, taken.account

    def _lacks(self, terms: QuoteTerms, account: Account) -> InsufficientFunds | None:
        """Return what an account lacks, by what is known of it."""
        if self._funds is None:
            return None
        network = terms.route.from_network
        asset, amount = terms.send_asset, terms.user_sends
        lacks = self._funds.missing(terms.route.custodian, account, asset, network, amount)
        if lacks is None:
            return None
        return InsufficientFunds(needed=lacks, asset=asset, network_with_lowest_top_up_fee=network)

    def terms(
        self, caller: Caller, request: QuoteRequest | Wanted, offered: Offered | None = None
    ) -> tuple[QuoteTerms, Account]:
        """Return what would be paid and from which account, without a quote. Pure. Refused: as `draft`."""
        asked, decision = self._plan(caller, request, self._facts)
        promised, taken = self._promised(caller, request, asked, decision, offered)
        return promised, taken.account

    def still(self) -> Quotes:
        """Return what makes `terms` in another process: by the prices and the facts of this moment.

        It can be pickled and has no secret: no custodian is in it, so that their own `check` is left to
        the caller. Nor does it know what accounts lack, which `terms` do not depend on where the source
        was asked for.
        """
        prices = None if self._prices is None else StillPrices(self._prices, self._assets.codes())
        spending = self._spending
        if spending is not None:
            spending = spending.by_prices(_no_price if prices is None else prices.usd)
        return Quotes(
            self._router,
            self._assets,
            cast("Runtime", None),
            None,
            spending=spending,
            facts=self._facts.still(),
            prices=prices,
        )

    def explain(
        self, caller: Caller, request: QuoteRequest, pauses: Sequence[Pause] = ()
    ) -> Decision:
        """Return how a quote would be routed; nothing is written. Pure.

        Refused: what is wrong with the request whatever the route, such as an unknown asset.
        """
        asked = self._asked(caller, request)
        facts: Facts = FactsNow(self._facts, caller.mode, pauses) if pauses else self._facts
        return self._router.explain(asked, facts, self._checking(asked, request))

    async def over_limit(
        self, tx: Tx, caller: Caller, request: QuoteRequest, decision: Decision
    ) -> Refused | None:
        """Return which limit would refuse the payout of a decision now; None: none. A dry run.

        A quote is refused by caps on one payout; limits of a day or a month refuse the payout.
        """
        if self._spending is None or not decision.candidates:
            return None
        asked, taken = self._asked(caller, request), decision.candidates[0]
        spend = Spend(
            org=caller.org,
            mode=caller.mode,
            key_id=caller.key_id,
            custodian=taken.route.custodian,
            account=taken.account,
            asset=asked.asset.code,
            destination=destination_of(asked.destination),
            amount=request.amount,
        )
        return await self._spending.would_refuse(tx, spend, self._runtime.clock.now())

    def shortage(
        self, caller: Caller, request: QuoteRequest, decision: Decision
    ) -> tuple[InsufficientFunds | None, str | None, Refused | None]:
        """Return how a decision stands to the balance of its account. A dry run.

        What the account lacks, a remark where its balance is not known and the payout is accepted, and what
        the payout would be refused with.
        """
        if self._funds is None or not decision.candidates:
            return None, None, None
        asked = self._asked(caller, request)
        terms, taken = self._promised(caller, request, asked, decision, None)
        short = self._lacks(terms, taken.account)
        if short is None:
            return None, *self._funds.without_balance(taken.route.custodian, taken.account)
        as_json, lacks = terms_json(terms), Decimal(short.needed)
        return short, None, self._funds.would_refuse(caller.org, taken.account, as_json, lacks)

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
        terms = _draft(asked, request, taken)
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
        if self._spending is not None:
            spend = spend_for(caller.org, caller.mode, caller.key_id, promised, taken.account)
            self._spending.check(spend)
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
            terms = _draft(asked, request, choice)
            return self._custodians[choice.route.custodian].check(terms)

        return check

    async def store(self, tx: Tx, caller: Caller, quote: Quote, account: Account) -> None:
        """Store a drafted quote."""
        await rows.insert_quote(
            tx,
            id=quote.quote_id,
            org=caller.org,
            mode=caller.mode,
            external_ref=quote.external_ref,
            reference=quote.reference,
            metadata=to_json(dict(quote.metadata)),
            terms=to_json(terms_json(quote)),
            account=account.model_dump_json(),
            decision=quote._decision,  # noqa: SLF001 - its own module
            expires_at=to_us(quote.expires_at),
            created_at=to_us(self._runtime.clock.now()),
        )

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


def _draft(asked: Asked, request: QuoteRequest | Wanted, taken: Choice) -> DraftTerms:
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


def decision_json(decision: Decision, *, asked_for: bool) -> str:
    """Return a decision as it is kept: without what pays other kinds of destinations, or in other modes.

    `asked_for`: whether the partner asked for a custodian.
    """
    return to_json(
        {
            "asked_for": asked_for,
            "policy": decision.policy.value,
            "candidates": [choice_view(each) for each in decision.candidates],
            "left_out": [
                left_out_view(each)
                for each in decision.left_out
                if each.reason not in {Reason.DESTINATION, Reason.MODE}
            ],
        }
    )


def choice_view(choice: Choice) -> dict[str, Any]:
    """Return a candidate as it is shown."""
    return {
        "route": choice.name,
        "custodian": choice.route.custodian,
        "account": {"id": choice.account.id, "type": choice.account.type},
        "network": choice.route.to_network,
        "fee": format_amount(choice.fee),
        "estimated_seconds": choice.route.estimated_seconds,
        "waits": choice.waits,
    }


def left_out_view(each: LeftOut) -> dict[str, Any]:
    """Return what was left out as it is shown."""
    return {
        "route": each.name,
        "custodian": each.custodian,
        "account": {"id": each.account.id, "type": each.account.type},
        "reason": each.reason.value,
        "detail": each.detail,
    }


def quote_json(quote: Quote) -> dict[str, Any]:
    """Return a quote as JSON has it; its schema is `Quote`."""
    short = quote.insufficient_funds
    return {
        **terms_json(quote),
        "external_ref": quote.external_ref,
        "reference": quote.reference,
        "metadata": quote.metadata,
        "fee_usd_as_of": None if quote.fee_usd_as_of is None else format_time(quote.fee_usd_as_of),
        "recommendation": None
        if quote.recommendation is None
        else quote.recommendation.model_dump(mode="json"),
        "insufficient_funds": None if short is None else short.model_dump(),
    }


def fee_of(terms: QuoteTerms) -> Decimal:
    """Return the fee of a quote, in the asset that is sent."""
    return EXACT.subtract(terms.user_sends, terms.recipient_gets)
