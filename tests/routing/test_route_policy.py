"""The routing policy, as a specification: what is configured, what is asked for, what is taken and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import Capabilities
from gateway.assets import AssetRegistry
from gateway.config.routes import RouteSettings
from gateway.errors import Refused
from gateway.model import Account, AddressDestination, CustodianAccountDestination
from gateway.routing.router import Asked, Choice, Decision, Instance, Router, Wish

ADDRESS = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
ON_BASE = AddressDestination(network="Base", address=ADDRESS)
ON_POLYGON = AddressDestination(network="Polygon", address=ADDRESS)
WALLET = CustodianAccountDestination(account_type="WALLET", id="w-1")
USDC = AssetRegistry().find("USDC")


@dataclass
class Moment:
    """What is known at a moment."""

    paused: frozenset[str] = frozenset()
    #: paused, while payouts are accepted all the same
    waiting: frozenset[str] = frozenset()
    ill: frozenset[str] = frozenset()
    short: frozenset[str] = frozenset()
    measured: Mapping[str, int] = field(default_factory=dict)

    def pause(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return what is paused."""
        return f"{instance} is paused" if instance in self.paused else None

    def waits(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return what a payout would wait for."""
        return f"{instance} is paused" if instance in self.waiting else None

    def health(self, instance: str) -> str | None:
        """Return why nothing is sent there."""
        return f"{instance} does not answer" if instance in self.ill else None

    def shortage(self, instance: str, account: Account, asset: str, needed: Decimal) -> str | None:
        """Return what is lacking."""
        return f"{instance} lacks {needed} {asset}" if instance in self.short else None

    def seconds(self, route: str) -> int | None:
        """Return the measured time of a custodian's deliveries."""
        return self.measured.get(route.split(maxsplit=1)[0])

    def still(self) -> Moment:
        """Return itself."""
        return self


def route(custodian: str, **settings: Any) -> dict[str, Any]:
    """Return a route of a custodian, on any network, to an address unless it says otherwise."""
    return {
        "name": custodian,
        "destination": "address",
        "custodian": custodian,
        "account": {"id": f"{custodian}-1", "type": "VAULT"},
        **settings,
    }


def fee(flat: str) -> dict[str, Any]:
    """Return the setting of a flat fee."""
    return {"fee": {"flat": flat}}


DEAR, CHEAP = fee("2"), fee("1")
SLOW, FAST = {"estimated_seconds": 600}, {"estimated_seconds": 30}
#: Three custodians: the second one is a sandbox as well, the third one pays wallets of its own only.
INSTANCES = (
    Instance("red", frozenset({"live"}), Capabilities(frozenset({"address"}))),
    Instance("blue", frozenset({"live", "test"}), Capabilities(frozenset({"address"}))),
    Instance(
        "green",
        frozenset({"live"}),
        Capabilities(frozenset({"custodian_account"}), payee_types=frozenset({"WALLET"})),
    ),
)
ASKED = Asked("acme", "live", ON_BASE, USDC, Decimal(100))


@dataclass(frozen=True)
class Case:
    """A line of the specification."""

    says: str
    routes: tuple[dict[str, Any], ...]
    #: the custodians that could pay, the best one first
    ranked: str
    #: `custodian: reason` of each that is left out
    left_out: str = ""
    asked: Asked = ASKED
    moment: Moment = field(default_factory=Moment)
    impossible: str = ""


PREFERENCE = (
    Case("fixed: the first in the file", (route("red"), route("blue")), "red blue"),
    Case(
        "fixed: neither fee nor time counts",
        (route("red", **DEAR, **SLOW), route("blue", **CHEAP, **FAST)),
        "red blue",
    ),
    Case(
        "a lower priority goes first, whatever the file says",
        (route("red", priority=2), route("blue", priority=1)),
        "blue red",
    ),
    Case(
        "cheapest: the lowest fee",
        (route("red", policy="cheapest", **DEAR), route("blue", **CHEAP)),
        "blue red",
    ),
    Case(
        "cheapest: of equal fees the first",
        (route("red", policy="cheapest", **CHEAP), route("blue", **CHEAP)),
        "red blue",
    ),
    Case(
        "fastest: the shortest configured time",
        (route("red", policy="fastest", **SLOW), route("blue", **FAST)),
        "blue red",
    ),
    Case(
        "fastest: what was measured counts more than what is configured",
        (route("red", policy="fastest", **SLOW), route("blue", **FAST)),
        "red blue",
        moment=Moment(measured={"red": 5, "blue": 900}),
    ),
    Case(
        "the first route that fits says the policy for all that fit",
        (route("red", policy="fixed", **DEAR), route("blue", policy="cheapest", **CHEAP)),
        "red blue",
    ),
    Case(
        "a route for something else says no policy",
        (
            route("green", destination="custodian_account", policy="fixed"),
            route("red", policy="cheapest", **DEAR),
            route("blue", **CHEAP),
        ),
        "blue red",
        "green: destination",
    ),
)
ELIGIBILITY = (
    Case(
        "a custodian that is not used in this mode",
        (route("red"), route("blue")),
        "blue",
        "red: mode",
        ASKED._replace(mode="test"),
    ),
    Case(
        "a route for other orgs",
        (route("red", orgs=("rival",)), route("blue")),
        "blue",
        "red: org",
    ),
    Case(
        "another kind of destination",
        (route("green", destination="custodian_account"), route("red")),
        "red",
        "green: destination",
    ),
    Case(
        "a destination that the adapter cannot pay",
        (route("green"), route("red")),
        "red",
        "green: capabilities",
    ),
    Case(
        "a payee that the adapter says it could never pay",
        (route("red"), route("blue")),
        "blue",
        "red: capabilities",
        impossible="red",
    ),
    Case(
        "another asset",
        (route("red", assets=("EURC",)), route("blue")),
        "blue",
        "red: asset",
    ),
    Case(
        "another network",
        (route("red", networks=("Polygon",)), route("blue")),
        "blue",
        "red: network",
    ),
    Case(
        "less than the least of a route",
        (route("red", min_amount="100.01"), route("blue", min_amount="100")),
        "blue",
        "red: amount",
    ),
    Case(
        "more than the most of a route",
        (route("red", max_amount="99.99"), route("blue", max_amount="100")),
        "blue",
        "red: amount",
    ),
    Case(
        "a fee that leaves nothing",
        (route("red", **fee("100")), route("blue", **fee("99.999999"))),
        "blue",
        "red: fee",
    ),
    Case(
        "paused",
        (route("red"), route("blue")),
        "blue",
        "red: paused",
        moment=Moment(paused=frozenset({"red"})),
    ),
    Case(
        "paused while payouts are accepted: another one sends at once",
        (route("red"), route("blue")),
        "blue",
        "red: paused",
        moment=Moment(waiting=frozenset({"red"})),
    ),
    Case(
        "paused while payouts are accepted, and no other one: it is taken, and waits",
        (route("red"), route("blue", max_amount="1")),
        "red",
        "blue: amount",
        moment=Moment(waiting=frozenset({"red"})),
    ),
    Case(
        "where all wait, the policy ranks them as ever",
        (route("red", policy="cheapest", **DEAR), route("blue", **CHEAP)),
        "blue red",
        moment=Moment(waiting=frozenset({"red", "blue"})),
    ),
    Case(
        "an account that covers it and waits goes before one that does not cover it",
        (route("red"), route("blue")),
        "red",
        "blue: shortage",
        moment=Moment(waiting=frozenset({"red"}), short=frozenset({"blue"})),
    ),
    Case(
        "a custodian that does not answer",
        (route("red"), route("blue")),
        "blue",
        "red: health",
        moment=Moment(ill=frozenset({"red"})),
    ),
    Case(
        "an account that does not cover it, where another one does",
        (route("red"), route("blue")),
        "blue",
        "red: shortage",
        moment=Moment(short=frozenset({"red"})),
    ),
    Case(
        "where no account covers it, all stay: the quote says what is lacking",
        (route("red"), route("blue")),
        "red blue",
        moment=Moment(short=frozenset({"red", "blue"})),
    ),
    Case(
        "the partner asks for another custodian",
        (route("red"), route("blue")),
        "blue",
        "red: custodian",
        ASKED._replace(wish=Wish("blue", Account(id="blue-1", type="VAULT"))),
    ),
    Case(
        "a policy ranks only what can be taken",
        (route("red", policy="cheapest", **CHEAP), route("blue", **DEAR)),
        "blue",
        "red: health",
        moment=Moment(ill=frozenset({"red"})),
    ),
)


def decided(case: Case) -> Decision:
    """Return the decision of a case."""
    routes = [RouteSettings.model_validate(each) for each in case.routes]

    def check(choice: Choice) -> str | None:
        return "the payee is closed" if choice.route.custodian == case.impossible else None

    return Router(INSTANCES, routes).decide(case.asked, case.moment, check)


@pytest.mark.parametrize("case", [*PREFERENCE, *ELIGIBILITY], ids=lambda each: each.says)
def test_what_is_taken_and_why_the_others_are_not(case: Case) -> None:
    """Each line of the specification."""
    decision = decided(case)
    assert " ".join(each.route.custodian for each in decision.candidates) == case.ranked
    assert decision.taken is decision.candidates[0]
    told = "; ".join(f"{each.custodian}: {each.reason}" for each in decision.left_out)
    assert told == case.left_out
    assert all(each.detail for each in decision.left_out)


@dataclass(frozen=True)
class Refusal:
    """What is answered where nothing is left."""

    says: str
    routes: tuple[dict[str, Any], ...]
    code: str
    asked: Asked = ASKED
    moment: Moment = field(default_factory=Moment)


REFUSALS = (
    Refusal(
        "nothing pays such destinations",
        (route("red"),),
        "route_unavailable",
        ASKED._replace(destination=WALLET),
    ),
    Refusal("no route pays the asset", (route("red", assets=("EURC",)),), "route_unavailable"),
    Refusal(
        "some pay other assets, and some other destinations",
        (route("red", assets=("EURC",)), route("blue", destination="custodian_account")),
        "no_route",
    ),
    Refusal(
        "no route pays on the network",
        (route("red", networks=("Base",)), route("blue", networks=("Ethereum",))),
        "unsupported_network",
        ASKED._replace(destination=ON_POLYGON),
    ),
    Refusal(
        "the account that the partner asks for is none",
        (route("red"),),
        "unknown_account",
        ASKED._replace(wish=Wish("red", Account(id="red-2", type="VAULT"))),
    ),
    Refusal(
        "the custodian that the partner asks for has no route",
        (route("red"),),
        "route_unavailable",
        ASKED._replace(wish=Wish("blue", Account(id="blue-1", type="VAULT"))),
    ),
    Refusal(
        "every fee is above the amount",
        (route("red", **fee("100")), route("blue", min_amount="101")),
        "amount_below_minimum",
    ),
    Refusal(
        "more decimals than the asset has",
        (route("red"), route("blue")),
        "amount_too_precise",
        ASKED._replace(amount=Decimal("1.0000001")),
    ),
    Refusal(
        "everything that could pay is paused",
        (route("red"), route("blue")),
        "paused",
        moment=Moment(paused=frozenset({"red", "blue"})),
    ),
    Refusal(
        "no custodian answers",
        (route("red"), route("blue")),
        "no_route",
        moment=Moment(ill=frozenset({"red", "blue"})),
    ),
    Refusal("more than any route sends", (route("red", max_amount="99"),), "no_route"),
    Refusal(
        "each for a reason of its own",
        (route("red", **fee("100")), route("blue")),
        "no_route",
        moment=Moment(ill=frozenset({"blue"})),
    ),
)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda each: each.says)
def test_what_is_answered_where_nothing_is_left(case: Refusal) -> None:
    """A cause that all share has its own code; otherwise `no_route` lists each reason."""
    router = Router(INSTANCES, [RouteSettings.model_validate(each) for each in case.routes])
    with pytest.raises(Refused) as refused:
        _ = router.decide(case.asked, case.moment).taken
    assert refused.value.code == case.code
    # The same as an explanation: a decision with the reason for each route.
    explained = router.explain(case.asked, case.moment)
    assert explained.candidates == ()
    assert {each.custodian for each in explained.left_out} == {
        each["custodian"] for each in case.routes
    }
    assert explained.refusal is not None
    assert explained.refusal.code == case.code
    if case.code == "no_route":
        passes = any(each.reason in {"health", "paused", "shortage"} for each in explained.left_out)
        assert refused.value.retryable is passes
        assert ("Retry-After" in refused.value.headers) is passes
        reasons = refused.value.members["reasons"]
        assert [each["custodian"] for each in reasons] == [
            each["custodian"] for each in case.routes
        ]


def test_every_pause_is_named_that_blocks_a_route() -> None:
    """Where no one pause blocks them all."""
    router = Router(
        INSTANCES, [RouteSettings.model_validate(route(each)) for each in ("red", "blue")]
    )
    decision = router.decide(ASKED, Moment(paused=frozenset({"red", "blue"})))
    assert decision.refusal is not None
    assert [each.detail in decision.refusal.detail for each in decision.left_out] == [True, True]
    assert decision.left_out[0].detail != decision.left_out[1].detail


def test_a_cheaper_route_is_told_and_not_taken() -> None:
    """Whether the policy prefers another one, or the partner does."""
    routes = (route("red", **DEAR), route("blue", **CHEAP))
    by_policy = decided(Case("fixed", routes, ""))
    assert by_policy.cheaper is not None
    assert (by_policy.taken.route.custodian, by_policy.cheaper.route.custodian) == ("red", "blue")
    wish = Wish("red", Account(id="red-1", type="VAULT"))
    by_wish = decided(Case("wished", routes, "", asked=ASKED._replace(wish=wish)))
    assert by_wish.cheaper == by_policy.cheaper
    ill = decided(Case("ill", routes, "", moment=Moment(ill=frozenset({"blue"}))))
    assert ill.cheaper is None
    held = Moment(waiting=frozenset({"blue"}))
    waits = decided(Case("waits", routes, "", moment=held, asked=ASKED._replace(wish=wish)))
    assert waits.cheaper is None


def test_what_waits_says_so() -> None:
    """Whoever asks for an explanation sees which of the candidates would not be sent now."""
    both = (route("red"), route("blue"))
    held = decided(Case("all wait", both, "", moment=Moment(waiting=frozenset({"red", "blue"}))))
    assert [each.waits for each in held.candidates] == ["red is paused", "blue is paused"]
    assert decided(Case("nothing waits", both, "")).taken.waits is None


def test_an_address_needs_no_hint_where_one_network_is_configured() -> None:
    """The networks that routes name for addresses of an asset; all of the asset's, where one names none."""
    only = [RouteSettings.model_validate(route("red", networks=("Base",), orgs=("acme",)))]
    router = Router(INSTANCES, only)
    assert router.networks("acme", "live", USDC) == {"Base"}
    assert router.networks("rival", "live", USDC) == frozenset()
    every = Router(INSTANCES, [*only, RouteSettings.model_validate(route("blue"))])
    assert every.networks("acme", "live", USDC) == frozenset(USDC.networks)
