"""Decides which custodian account pays a quote, at what fee, and why the others do not. Pure.

It turns configuration and facts into a decision. Routes are tried in a fixed order: by `priority`, then
as they are written. Whatever does not depend on the amount or the moment is computed once and
remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from gateway.assets import EXACT, Asset, check_precision, round_fee
from gateway.capabilities import Capabilities
from gateway.config.routes import FailoverPolicy, Policy, RouteSettings
from gateway.config.settings import AccountSettings, Mode
from gateway.errors import Refused
from gateway.model import (
    Account,
    AddressDestination,
    CustodianAccountDestination,
    Destination,
    Route,
    format_amount,
    route_key,
)

#: The most combinations that are remembered. The bound is needed because a request may name any text as
#: a network.
_MOST_WAYS = 1000
_RETRY_AFTER = {"Retry-After": "60"}


class Reason(StrEnum):
    """Why a route was left out."""

    DESTINATION = "destination"  #: it pays another kind of destination
    MODE = "mode"  #: its custodian is not used in this mode
    ORG = "org"  #: it is for other orgs
    CAPABILITIES = "capabilities"  #: the adapter cannot pay this
    ASSET = "asset"  #: it pays other assets
    CUSTODIAN = "custodian"  #: the partner asked for another custodian
    ACCOUNT = "account"  #: the partner asked for an account that the custodian does not have
    NETWORK = "network"  #: it pays on other networks
    AMOUNT = "amount"  #: the amount is outside its bounds, or too precise for its network
    FEE = "fee"  #: its fee leaves nothing of the amount
    PAUSED = "paused"  #: nothing is sent this way now
    HEALTH = "health"  #: its custodian does not answer
    SHORTAGE = "shortage"  #: its account does not cover the amount, and another one does


#: Causes that pass without a change of the request or the configuration.
_PASSING = frozenset({Reason.PAUSED, Reason.HEALTH, Reason.SHORTAGE})
#: Reasons that an org must not see, because the routes are not for it.
NOT_SHOWN = frozenset({Reason.ORG, Reason.MODE})


@dataclass(frozen=True)
class Instance:
    """What the router knows about a custodian instance."""

    name: str
    modes: frozenset[Mode]
    capabilities: Capabilities
    accounts: tuple[AccountSettings, ...] = ()


class Wish(NamedTuple):
    """The route a partner asked for."""

    custodian: str
    account: Account


class Asked(NamedTuple):
    """Everything that a route may depend on."""

    org: str
    mode: Mode
    destination: Destination
    asset: Asset
    amount: Decimal
    network_hint: str | None = None
    wish: Wish | None = None


class Facts(Protocol):
    """Facts that change from moment to moment. Each answer comes from memory: nothing is read or called."""

    def pause(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return what is paused, for people; None if no pause would refuse such a payout."""

    def waits(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return the pause under which such a payout is accepted and waits; None if it would be sent."""

    def health(self, instance: str) -> str | None:
        """Return why nothing should be sent to a custodian now; None if it answers or nothing is known."""

    def shortage(self, instance: str, account: Account, asset: str, needed: Decimal) -> str | None:
        """Return what an account lacks; None if it can pay or nothing is known."""

    def seconds(self, route: str) -> int | None:
        """Return the usual time of payouts by this way (`route_key`); None if too few are known."""

    def still(self) -> Facts:
        """Return a snapshot for another process, without what accounts lack."""


class NothingKnown:
    """The facts if nothing is known: nothing is paused, everything answers, every account can pay."""

    def pause(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return None."""

    def waits(self, instance: str, account: Account, asset: str, org: str) -> str | None:
        """Return None."""

    def health(self, instance: str) -> str | None:
        """Return None."""

    def shortage(self, instance: str, account: Account, asset: str, needed: Decimal) -> str | None:
        """Return None."""

    def seconds(self, route: str) -> int | None:
        """Return None."""

    def still(self) -> Facts:
        """Return itself."""
        return self


NOTHING_KNOWN = NothingKnown()


class Choice(NamedTuple):
    """A route that could be taken, with the account that pays, the networks and the fee."""

    account: Account
    route: Route
    fee: Decimal
    #: the name of the configured route
    name: str = ""
    #: the pause under which a payout is accepted and waits; None if it is sent at once
    waits: str | None = None


#: Returns why the adapter could never pay by a route, or None.
Check = Callable[[Choice], str | None]


@dataclass(frozen=True)
class LeftOut:
    """A route that is not taken, with the reason."""

    name: str
    custodian: str
    account: Account
    reason: Reason
    detail: str
    #: the refusal if every route is left out for this cause; None means `no_route`
    refusal: Refused | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Decision:
    """The routes that could be taken, the best one first, and why each other one was left out."""

    policy: Policy
    candidates: tuple[Choice, ...]
    left_out: tuple[LeftOut, ...]
    #: a cheaper route than the one taken, if the partner asked for that one or the policy prefers it
    cheaper: Choice | None = None
    #: the refusal if there is no candidate
    refusal: Refused | None = field(default=None, compare=False)

    @property
    def taken(self) -> Choice:
        """The route taken. Refused if there is none; see `refusal_of`."""
        if self.refusal is not None:
            raise self.refusal
        return self.candidates[0]


@dataclass
class _Way:
    """The part of a choice that does not depend on the amount or the moment."""

    name: str
    settings: RouteSettings
    account: Account
    route: Route
    key: str

    def timed(self, seconds: int | None) -> Route:
        """Return the route with its usual time, measured if possible and otherwise configured."""
        expected = self.settings.estimated_seconds if seconds is None else seconds
        if self.route.estimated_seconds != expected:
            self.route = self.route.model_copy(update={"estimated_seconds": expected})
        return self.route


@dataclass(frozen=True)
class _Ways:
    """The ways that fit the request, in the fixed order, and those that do not."""

    fitting: tuple[_Way, ...]
    left_out: tuple[LeftOut, ...]
    #: the ways that would fit without the partner's wish
    unwished: tuple[_Way, ...] = ()


class Router:
    """Chooses among the configured routes."""

    def __init__(self, instances: Sequence[Instance], routes: Sequence[RouteSettings]) -> None:
        self._instances: Mapping[str, Instance] = {each.name: each for each in instances}
        named = [(each.name or f"routes.{index}", each) for index, each in enumerate(routes)]
        # An instance whose adapter does not load is missing here, and so are its routes.
        there = [(name, each) for name, each in named if each.custodian in self._instances]
        #: in the fixed order, by name
        self._routes = tuple(sorted(there, key=lambda each: each[1].priority))
        #: cached results by request; they stay valid because the configuration does not change
        self._ways: dict[tuple[str | None, ...], _Ways] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, without the cached results."""
        return {**self.__dict__, "_ways": {}}

    def choose(  # noqa: PLR0913 - everything a route may depend on
        self,
        *,
        org: str,
        mode: Mode,
        destination: Destination,
        asset: Asset,
        amount: Decimal,
        network_hint: str | None,
        wish: Wish | None,
    ) -> Choice:
        """Return the route that is taken if nothing is paused and everything answers.

        Refused as `decide` and `Decision.taken` are.
        """
        asked = Asked(org, mode, destination, asset, amount, network_hint, wish)
        return self.decide(asked).taken

    def decide(
        self, asked: Asked, facts: Facts = NOTHING_KNOWN, check: Check | None = None
    ) -> Decision:
        """Return every route that could be taken, ranked, and the reason for each other one.

        Refused if no configured route fits, for any amount and at any moment: `route_unavailable`,
        `no_route` (the routes do not fit for several reasons), `unknown_account`,
        `unsupported_network`.
        """
        ways = self._found(asked)
        candidates: list[Choice] = []
        left_out: list[LeftOut] = []
        for way in ways.fitting:
            found = _judge(way, self._instances[way.settings.custodian], asked, facts, check)
            if isinstance(found, LeftOut):
                left_out.append(found)
            else:
                candidates.append(found)
        policy = ways.fitting[0].settings.policy
        if len(candidates) > 1:
            candidates = _ranked(policy, candidates)
        candidates, short = _funded(candidates, asked, facts)
        candidates, waiting = _sent_now(candidates, asked, facts)
        others = [
            found
            for way in ways.unwished
            if not isinstance(
                found := _judge(way, self._instances[way.settings.custodian], asked, facts, check),
                LeftOut,
            )
        ]
        if others:
            others, _ = _sent_now(others, asked, facts)
            others = [each for each in others if each.waits is None]
        return Decision(
            policy,
            tuple(candidates),
            (*left_out, *short, *waiting, *ways.left_out),
            _cheaper(candidates, others),
            None if candidates else refusal_of(left_out),
        )

    def explain(
        self, asked: Asked, facts: Facts = NOTHING_KNOWN, check: Check | None = None
    ) -> Decision:
        """Return the decision, with the reason against each route if no configured one fits at all."""
        try:
            return self.decide(asked, facts, check)
        except Refused as refused:
            left_out = tuple(self._left_out(asked, self._fit(asked)))
            return Decision(Policy.FIXED, (), left_out, refusal=refused)

    def failover_of(self, asked: Asked, custodian: str, account: Account) -> FailoverPolicy:
        """Return when a payout from an account may move elsewhere, by the first route that fits it."""
        named = _named_network(asked)
        fitting = (each for _, each in self._fit(asked) if each.custodian == custodian)
        return next(
            (
                each.failover
                for each in fitting
                if each.account == account and _on_network(each, named)
            ),
            FailoverPolicy.NEVER,
        )

    def networks(self, org: str, mode: Mode, asset: Asset) -> frozenset[str]:
        """Return the networks on which addresses are paid in an asset, as far as routes name them."""
        fitting = [
            each
            for _, each in self._routes
            if self._unfit(each, org, mode, "address", asset) is None
        ]
        if any(each.networks is None for each in fitting):
            return frozenset(asset.networks)
        return frozenset(name for each in fitting for name in each.networks or ())

    def instance(self, name: str) -> Instance:
        """Return a configured instance. KeyError if there is none of that name."""
        return self._instances[name]

    def instances(self) -> tuple[Instance, ...]:
        """Return every configured instance, by name."""
        return tuple(self._instances[name] for name in sorted(self._instances))

    def routes_of(self, instance: Instance, org: str, mode: Mode) -> list[RouteSettings]:
        """Return the routes by which an org may use an instance; empty if it may not."""
        if mode not in instance.modes:
            return []
        return [
            each
            for _, each in self._routes
            if each.custodian == instance.name and (each.orgs is None or org in each.orgs)
        ]

    # --- What does not depend on the amount or the moment -----------------------------------------

    def _found(self, asked: Asked) -> _Ways:
        key = _key(asked)
        ways = self._ways.get(key)
        if ways is None:
            ways = self._fitting(asked)
            if len(self._ways) >= _MOST_WAYS:
                self._ways.clear()
            self._ways[key] = ways
        return ways

    def _fitting(self, asked: Asked) -> _Ways:
        fitting = self._fit(asked)
        wished: list[tuple[str, RouteSettings]] = fitting
        unwished: list[tuple[str, RouteSettings]] = []
        if asked.wish is not None:
            wished = self._wished(fitting, asked.wish, asked.org)
            unwished = [each for each in fitting if each not in wished]
        if not wished:
            shown = [
                each for each in self._left_out(asked, fitting) if each.reason not in NOT_SHOWN
            ]
            if len({each.reason for each in shown}) > 1:
                raise refusal_of(shown)
            detail = (
                f"No custodian is configured to pay {asked.asset.code} to a destination of type "
                f"{asked.destination.type} in {asked.mode} mode. GET /custodians lists what there is."
            )
            raise Refused("route_unavailable", detail)
        named = _named_network(asked)
        _check_network(wished, named, asked)
        source = asked.wish.account if asked.wish is not None else None
        return _Ways(
            _ways_on(wished, named, asked, source),
            tuple(self._left_out(asked, fitting)),
            _ways_on(unwished, named, asked, None),
        )

    def _unfit(
        self, route: RouteSettings, org: str, mode: Mode, destination: str, asset: Asset
    ) -> tuple[Reason, str] | None:
        """Return why a route cannot pay such payouts on any network, or None."""
        instance = self._instances[route.custodian]
        can = instance.capabilities.destination_types
        rules = (
            (route.destination == destination, Reason.DESTINATION, f"pays {route.destination}"),
            (mode in instance.modes, Reason.MODE, f"is not used in {mode} mode"),
            (route.orgs is None or org in route.orgs, Reason.ORG, "is for other orgs"),
            (destination in can, Reason.CAPABILITIES, f"its adapter cannot pay {destination}"),
            (
                route.assets is None or asset.code in route.assets,
                Reason.ASSET,
                f"pays {', '.join(route.assets or ())}",
            ),
        )
        return next(((reason, detail) for fits, reason, detail in rules if not fits), None)

    def _fit(self, asked: Asked) -> list[tuple[str, RouteSettings]]:
        """Return the routes that fit, regardless of the network and the partner's wish."""
        names = asked.org, asked.mode, asked.destination.type, asked.asset
        return [each for each in self._routes if self._unfit(each[1], *names) is None]

    def _left_out(
        self, asked: Asked, fitting: Sequence[tuple[str, RouteSettings]]
    ) -> Iterator[LeftOut]:
        """Yield the routes that fit for no amount and at no moment."""
        names = asked.org, asked.mode, asked.destination.type, asked.asset
        for name, route in self._routes:
            unfit = self._unfit(route, *names) or self._unwanted(route, asked, fitting)
            if unfit is not None:
                yield LeftOut(name, route.custodian, route.account, *unfit)

    def _unwanted(
        self, route: RouteSettings, asked: Asked, fitting: Sequence[tuple[str, RouteSettings]]
    ) -> tuple[Reason, str] | None:
        """Return why a route does not match the partner's wish, or None."""
        wish, named, asset = asked.wish, _named_network(asked), asked.asset
        if wish is not None and route.custodian != wish.custodian:
            return Reason.CUSTODIAN, f"{wish.custodian} was asked for"
        if wish is not None and not self._has_account(wish, asked.org, fitting):
            return Reason.ACCOUNT, f"{wish.account.type} {wish.account.id} is not configured there"
        if not _on_network(route, named):
            return Reason.NETWORK, f"pays on {', '.join(route.networks or ())}"
        if named is not None and asset.networks and named not in asset.networks:
            return Reason.NETWORK, f"{asset.code} is not on {named}"
        return None

    def _has_account(
        self, wish: Wish, org: str, fitting: Sequence[tuple[str, RouteSettings]]
    ) -> bool:
        """Whether an org may name an account. Another org's account is refused as if it did not exist."""
        known = {
            (each.account.type, each.account.id)
            for _, each in fitting
            if each.custodian == wish.custodian
        }
        known |= {
            (each.type, each.id)
            for each in self._instances[wish.custodian].accounts
            if each.orgs is None or org in each.orgs
        }
        return (wish.account.type, wish.account.id) in known

    def _wished(
        self, fitting: Sequence[tuple[str, RouteSettings]], wish: Wish, org: str
    ) -> list[tuple[str, RouteSettings]]:
        """Return the routes of the custodian that was asked for. Refused if it, or its account, has none."""
        of_custodian = [each for each in fitting if each[1].custodian == wish.custodian]
        if not of_custodian:
            code, pointer = "route_unavailable", "/route/custodian"
            detail = (
                f"The custodian {wish.custodian!r} has no route for this destination and asset."
            )
        elif not self._has_account(wish, org, fitting):
            code, pointer = "unknown_account", "/route/account"
            detail = f"The account {wish.account.type} {wish.account.id!r} is not configured at {wish.custodian!r}."
        else:
            return of_custodian
        raise Refused(code, detail, errors=[_fault(pointer, code, detail)])


# --- What depends on the amount and the moment ----------------------------------------------------


def _judge(  # noqa: PLR0911 - one per reason
    way: _Way, instance: Instance, asked: Asked, facts: Facts, check: Check | None
) -> Choice | LeftOut:
    """Return what a way would cost, or why it cannot be taken for this amount or at this moment."""
    route, asset = way.settings, asked.asset
    if asked.amount <= 0:
        detail = "The amount must be above 0."
        return _left(way, Reason.AMOUNT, detail, _too_little(detail))
    if route.min_amount is not None and asked.amount < route.min_amount:
        least = format_amount(route.min_amount)
        detail = f"Less than {least} {asset.code} is not sent this way."
        return _left(way, Reason.AMOUNT, detail, _too_little(detail))
    if route.max_amount is not None and asked.amount > route.max_amount:
        most = format_amount(route.max_amount)
        detail = f"More than {most} {asset.code} is not sent this way."
        return _left(way, Reason.AMOUNT, detail, None)
    network = way.route.to_network
    fee = _fee(route, asked.amount, asset, network)
    if fee >= asked.amount:
        detail = (
            f"The fee of this route is {fee} {asset.code}: nothing would be left of the amount."
        )
        return _left(way, Reason.FEE, detail, _too_little(detail))
    choice = Choice(way.account, way.timed(facts.seconds(way.key)), fee, way.name)
    try:
        check_payee(asked.destination, instance.capabilities)
        check_precision(asked.amount, asset, network)
    except Refused as refused:
        precise = refused.code == "amount_too_precise"
        reason = Reason.AMOUNT if precise else Reason.CAPABILITIES
        return _left(way, reason, refused.detail, refused)
    impossible = None if check is None else check(choice)
    if impossible is not None:
        detail = f"The custodian {route.custodian!r} cannot pay this: {impossible}."
        fault = _fault("/destination", "invalid_destination", detail)
        refusal = Refused("invalid_destination", detail, errors=[fault])
        return _left(way, Reason.CAPABILITIES, detail, refusal)
    paused = facts.pause(route.custodian, way.account, asset.code, asked.org)
    if paused is not None:
        refusal = Refused("paused", paused, headers=_RETRY_AFTER)
        return _left(way, Reason.PAUSED, paused, refusal)
    ill = facts.health(route.custodian)
    return choice if ill is None else _left(way, Reason.HEALTH, ill, None)


def _left(way: _Way, reason: Reason, detail: str, refusal: Refused | None) -> LeftOut:
    return LeftOut(way.name, way.settings.custodian, way.account, reason, detail, refusal)


def _too_little(detail: str) -> Refused:
    code = "amount_below_minimum"
    return Refused(code, detail, errors=[_fault("/amount", code, detail)])


def _fee(route: RouteSettings, amount: Decimal, asset: Asset, network: str | None) -> Decimal:
    flat, basis_points = route.fee.flat, route.fee.basis_points
    if not basis_points:
        return round_fee(flat, asset.decimals_on(network))
    share = EXACT.divide(EXACT.multiply(amount, basis_points), Decimal(10_000))
    return round_fee(EXACT.add(flat, share), asset.decimals_on(network))


def _ranked(policy: Policy, candidates: list[Choice]) -> list[Choice]:
    """Sort candidates, the best one first. Equal ones keep the fixed order."""
    if policy is Policy.CHEAPEST:
        return sorted(candidates, key=lambda each: each.fee)
    if policy is Policy.FASTEST:
        return sorted(candidates, key=lambda each: each.route.estimated_seconds)
    return candidates


def _funded(
    candidates: list[Choice], asked: Asked, facts: Facts
) -> tuple[list[Choice], list[LeftOut]]:
    """Leave out accounts that do not cover the amount; if none covers it, keep all, and the quote says so."""
    if len(candidates) < 2:  # noqa: PLR2004 - one alone is taken as it is
        return candidates, []
    funded, short = [], []
    for each in candidates:
        lacks = facts.shortage(each.route.custodian, each.account, asked.asset.code, asked.amount)
        if lacks is None:
            funded.append(each)
        else:
            short.append(
                LeftOut(each.name, each.route.custodian, each.account, Reason.SHORTAGE, lacks)
            )
    return (funded, short) if funded else (candidates, [])


def _sent_now(
    candidates: list[Choice], asked: Asked, facts: Facts
) -> tuple[list[Choice], list[LeftOut]]:
    """Leave out routes whose payouts would wait for a pause to end, unless all would."""
    asset, org = asked.asset.code, asked.org
    waits = [facts.waits(each.route.custodian, each.account, asset, org) for each in candidates]
    if waits.count(None) == len(waits):
        return candidates, []
    known = list(zip(candidates, waits, strict=True))
    sent = [each for each, held in known if held is None]
    if not sent:
        return [each._replace(waits=held) for each, held in known], []
    waiting = [
        LeftOut(each.name, each.route.custodian, each.account, Reason.PAUSED, held)
        for each, held in known
        if held is not None
    ]
    return sent, waiting


def _cheaper(candidates: Sequence[Choice], others: Sequence[Choice]) -> Choice | None:
    """Return the cheapest route, if it is cheaper than the one taken."""
    if len(candidates) + len(others) < 2 or not candidates:  # noqa: PLR2004 - there is no other one
        return None
    best = min((*candidates, *others), key=lambda each: each.fee)
    return best if best.fee < candidates[0].fee else None


def refusal_of(left_out: Sequence[LeftOut]) -> Refused:
    """Return the refusal if every route that fits is left out.

    If all of them share a refusal, that is returned: `amount_below_minimum`, `amount_too_precise`,
    `invalid_destination`, `paused`. Otherwise `no_route` is returned, with the reason of each; asking
    again later helps if one of them passes by itself.
    """
    codes = {None if each.refusal is None else each.refusal.code for each in left_out}
    first = left_out[0].refusal
    if first is not None and len(codes) == 1:
        details = dict.fromkeys(each.detail for each in left_out)
        if first.code == "paused" and len(details) > 1:
            return Refused("paused", " ".join(details), headers=_RETRY_AFTER)
        return first
    reasons = [
        {"custodian": each.custodian, "reason": each.reason.value, "detail": each.detail}
        for each in left_out
    ]
    told = "; ".join(f"{each['custodian']}: {each['detail']}" for each in reasons)
    passes = any(each.reason in _PASSING for each in left_out)
    return Refused(
        "no_route",
        f"No route can pay this now. {told}",
        headers=_RETRY_AFTER if passes else None,
        retryable=passes,
        reasons=reasons,
    )


# --- Small rules ----------------------------------------------------------------------------------


def _named_network(asked: Asked) -> str | None:
    """Return the network that was asked for."""
    destination = asked.destination
    return (
        destination.network if isinstance(destination, AddressDestination) else asked.network_hint
    )


def _on_network(route: RouteSettings, network: str | None) -> bool:
    return network is None or route.networks is None or network in route.networks


def _check_network(
    fitting: Sequence[tuple[str, RouteSettings]], named: str | None, asked: Asked
) -> None:
    """Refuse a network that no route pays on: `unsupported_network`."""
    if named is None:
        return
    asset = asked.asset
    covered = any(_on_network(each, named) for _, each in fitting)
    if not covered or (asset.networks and named not in asset.networks):
        detail = f"No route pays {asset.code} on the network {named!r}."
        in_destination = isinstance(asked.destination, AddressDestination)
        pointer = "/destination/network" if in_destination else "/network_hint"
        raise Refused(
            "unsupported_network",
            detail,
            errors=[_fault(pointer, "unsupported_network", detail)],
        )


def _ways_on(
    routes: Iterable[tuple[str, RouteSettings]],
    named: str | None,
    asked: Asked,
    account: Account | None,
) -> tuple[_Way, ...]:
    """Return the ways of routes on a network, or on each route's first network if none was asked for."""
    ways = []
    for name, each in routes:
        if not _on_network(each, named):
            continue
        network = named if named is not None or not each.networks else each.networks[0]
        route = Route(
            custodian=each.custodian,
            from_network=network,
            to_network=network,
            estimated_seconds=each.estimated_seconds,
        )
        key = route_key(each.custodian, asked.destination.type, network)
        ways.append(_Way(name, each, account or each.account, route, key))
    return tuple(ways)


def _key(asked: Asked) -> tuple[str | None, ...]:
    """Return the key that ways depend on; of the destination, that is the type and the network."""
    destination, wish = asked.destination, asked.wish
    network = destination.network if isinstance(destination, AddressDestination) else None
    wanted = (wish.custodian, wish.account.type, wish.account.id) if wish is not None else ()
    kind, code, hint = destination.type, asked.asset.code, asked.network_hint
    return (asked.org, asked.mode, kind, network, code, hint, *wanted)


def check_payee(destination: Destination, capabilities: Capabilities) -> None:
    """Refuse a custodian account of a type that the custodian cannot pay (`invalid_destination`)."""
    if isinstance(destination, CustodianAccountDestination) and capabilities.payee_types:
        if destination.account_type in capabilities.payee_types:
            return
        known = ", ".join(sorted(capabilities.payee_types))
        detail = (
            f"The account type {destination.account_type!r} cannot be paid. Known types: {known}."
        )
        raise Refused(
            "invalid_destination",
            detail,
            errors=[_fault("/destination/account_type", "invalid_destination", detail)],
        )


def _fault(pointer: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "code": code, "detail": detail}
