"""Quotes: a price promise for 60 seconds, consumed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pydantic import Field, PrivateAttr

from gateway.assets import EXACT, AssetRegistry
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.funds.reservations import Funds
from gateway.limits import Buckets
from gateway.model import (
    Account,
    Amount,
    Network,
    QuoteTerms,
    Time,
    Value,
    format_amount,
    format_time,
)
from gateway.pause import Pause, Subject, held_by
from gateway.pausing import paused_detail
from gateway.planning import Offered, Planner, Pricer, QuoteRequest, draft_of
from gateway.routing.prices import PriceSource
from gateway.routing.pricing import Recommendation, recommended
from gateway.routing.router import NOTHING_KNOWN, Choice, Decision, Facts, LeftOut, Reason, Router
from gateway.runtime import Runtime
from gateway.spending import Spending
from gateway.spending_rules import Spend, destination_of
from gateway.store import quotes as rows
from gateway.store.database import Tx
from gateway.store.rows import to_json, to_us
from gateway.views import terms_json

QUOTE_LIFE = timedelta(seconds=60)


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


class Quotes(Planner):
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
        *,
        facts: Facts = NOTHING_KNOWN,
        prices: PriceSource | None = None,
        recommend_percent: Decimal = Decimal(1),
    ) -> None:
        rules = None if spending is None else spending.rules
        super().__init__(router, assets, custodians, rules, facts=facts, prices=prices)
        self._spending = spending
        self._funds = funds
        self._recommend_percent = recommend_percent
        self._runtime = runtime
        #: of calls, per org and instance
        self._budget = budget

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
        terms = draft_of(asked, request, taken)
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
