"""Quotes: a price promise for 60 seconds, consumed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Protocol

from pydantic import Field, StringConstraints

from gateway.adapter import Offer, Terms
from gateway.assets import (
    EXACT,
    Asset,
    AssetRegistry,
    check_address,
    check_precision,
    natural_network,
)
from gateway.errors import Refused
from gateway.funds import Funds
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
)
from gateway.router import Choice, Router, Wish, check_payee
from gateway.runtime import Runtime
from gateway.spending import Spending, spend_for
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
    recommendation: dict[str, Any] | None = Field(
        default=None, description="A cheaper route. Reserved: always null today."
    )
    insufficient_funds: InsufficientFunds | None = Field(
        default=None,
        description="What the account lacks by its last balance; null: nothing, or its balance is not known. "
        "The quote reserves nothing: the payout is refused or waits where it is still short.",
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What terms depend on, of a request that was checked already: an item of a batch."""

    destination: str | Destination
    asset: str
    amount: Decimal
    network_hint: str | None
    route: RouteWish | None
    reference: str | None


@dataclass(frozen=True)
class DraftTerms:
    """What a quote would pay, before there is a payout."""

    asset: str
    network: str | None
    decimals: int
    amount: Decimal
    source: Account
    destination: Destination
    reference: str | None


class Pricer(Protocol):
    """What a custodian instance says of terms that it would be given."""

    def check(self, terms: Terms) -> str | None:
        """Return why it could never pay, or None."""

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Return what providers behind it would give now."""


class Quotes:
    """Makes quotes."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        router: Router,
        assets: AssetRegistry,
        runtime: Runtime,
        custodians: Mapping[str, Pricer],
        budget: Buckets | None = None,
        spending: Spending | None = None,
        funds: Funds | None = None,
    ) -> None:
        self._spending = spending
        self._funds = funds
        self._router = router
        self._assets = assets
        self._runtime = runtime
        self._custodians = custodians
        #: of calls, per org and instance
        self._budget = budget

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
            _, _, choice = self._plan(caller, request)
        except Refused:
            return False
        return choice.route.custodian in asked

    async def offers(self, caller: Caller, request: QuoteRequest) -> Sequence[Offer]:
        """Ask the custodian for offers, before any transaction. Nothing for a faulty request.

        Refused: `rate_limited`, where the org has used up its budget of calls to this instance. What
        was quoted already is answered from its key, and costs nothing of it.
        """
        try:
            _, terms, choice = self._plan(caller, request)
        except Refused:
            return ()
        name = choice.route.custodian
        if self._budget is not None:
            taken = self._budget.take(f"{caller.org} {name}")
            if not taken.allowed:
                detail = f"Too many quotes that {name!r} has to be asked for. Nothing was done."
                headers = {"Retry-After": str(taken.retry_s), **self._budget.headers(taken)}
                raise Refused("rate_limited", detail, headers=headers)
        return await self._custodians[name].offers(terms)

    def draft(
        self, caller: Caller, request: QuoteRequest, offers: Sequence[Offer] = ()
    ) -> tuple[Quote, Account]:
        """Return the quote and the account that would pay it; nothing is written. Pure but for id and time.

        Refused: every fault of the request that its schema cannot see.
        """
        promised, account = self.terms(caller, request, offers)
        members = {name: getattr(promised, name) for name in QuoteTerms.model_fields}
        quote = Quote(
            **{
                **members,
                "quote_id": self._runtime.ids.new("quo"),
                "expires_at": self._runtime.clock.now() + QUOTE_LIFE,
            },
            external_ref=request.external_ref,
            reference=request.reference,
            metadata=request.metadata,
            insufficient_funds=self._lacks(promised, account),
        )
        return quote, account

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
        self, caller: Caller, request: QuoteRequest | Wanted, offers: Sequence[Offer] = ()
    ) -> tuple[QuoteTerms, Account]:
        """Return what would be paid and from which account, without a quote. Pure. Refused: as `draft`."""
        asset, terms, choice = self._plan(caller, request)
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
            fx_rate=max((each.fx_rate for each in offers), default=None),
            # A bank pays out in its own currency, at a rate that nobody promises us.
            price="indicative" if terms.destination.type == "bank_account" else "firm",
            # Without a price source only a dollar-pegged fee, or none at all, has a known dollar value.
            fee_total_usd=choice.fee if asset.usd_pegged or not choice.fee else None,
            route=choice.route,
        )
        if self._spending is not None:
            spend = spend_for(caller.org, caller.mode, caller.key_id, promised, choice.account)
            self._spending.check(spend)
        return promised, choice.account

    def _plan(
        self, caller: Caller, request: QuoteRequest | Wanted
    ) -> tuple[Asset, DraftTerms, Choice]:
        asset = self._assets.find(request.asset)
        destination = self._destination(request)
        if isinstance(destination, AddressDestination):
            destination = check_address(destination, asset)
        choice = self._router.choose(
            org=caller.org,
            mode=caller.mode,
            destination=destination,
            asset=asset,
            amount=request.amount,
            network_hint=request.network_hint,
            wish=Wish(request.route.custodian, request.route.account) if request.route else None,
        )
        check_payee(destination, self._router.instance(choice.route.custodian).capabilities)
        check_precision(request.amount, asset, choice.route.to_network)
        terms = DraftTerms(
            asset=asset.code,
            network=choice.route.to_network,
            decimals=asset.decimals_on(choice.route.to_network),
            amount=EXACT.subtract(request.amount, choice.fee),
            source=choice.account,
            destination=destination,
            reference=request.reference,
        )
        reason = self._custodians[choice.route.custodian].check(terms)
        if reason is not None:
            detail = f"The custodian {choice.route.custodian!r} cannot pay this: {reason}."
            fault = {"pointer": "/destination", "code": "invalid_destination", "detail": detail}
            raise Refused("invalid_destination", detail, errors=[fault])
        return asset, terms, choice

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
            expires_at=to_us(quote.expires_at),
            created_at=to_us(self._runtime.clock.now()),
        )

    def _destination(self, request: QuoteRequest | Wanted) -> Destination:
        """Return the destination object; a bare address gets the network its shape fits."""
        if not isinstance(request.destination, str):
            return request.destination
        asset = self._assets.find(request.asset)
        network = request.network_hint or natural_network(request.destination, asset)
        if network is None:
            detail = (
                f"The network of this address is not clear from its shape. Give network_hint, one of: "
                f"{', '.join(sorted(asset.networks)) or 'none'}."
            )
            raise Refused(
                "invalid_destination",
                detail,
                errors=[
                    {"pointer": "/network_hint", "code": "invalid_destination", "detail": detail}
                ],
            )
        return AddressDestination(network=network, address=request.destination)


def quote_json(quote: Quote) -> dict[str, Any]:
    """Return a quote as JSON has it; its schema is `Quote`."""
    short = quote.insufficient_funds
    return {
        **terms_json(quote),
        "external_ref": quote.external_ref,
        "reference": quote.reference,
        "metadata": quote.metadata,
        "recommendation": quote.recommendation,
        "insufficient_funds": None if short is None else short.model_dump(),
    }


def fee_of(terms: QuoteTerms) -> Decimal:
    """Return the fee of a quote, in the asset that is sent."""
    return EXACT.subtract(terms.user_sends, terms.recipient_gets)
