"""Which custodian account pays a quote, and what it costs. Pure: configuration in, choice out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from gateway.adapter import Capabilities
from gateway.assets import EXACT, Asset, round_fee
from gateway.config import AccountSettings, Mode, RouteSettings
from gateway.errors import Refused
from gateway.model import (
    Account,
    AddressDestination,
    CustodianAccountDestination,
    Destination,
    Route,
)

#: Ways that are remembered. A network that nobody has configured may be any text, so there is a bound.
_MOST_WAYS = 1000


@dataclass(frozen=True)
class Instance:
    """What the router knows of a custodian instance."""

    name: str
    modes: frozenset[Mode]
    capabilities: Capabilities
    accounts: tuple[AccountSettings, ...] = ()


@dataclass(frozen=True)
class Wish:
    """The route a partner asked for."""

    custodian: str
    account: Account


@dataclass(frozen=True)
class _Way:
    """What of a choice does not depend on the amount."""

    settings: RouteSettings
    account: Account
    route: Route


@dataclass(frozen=True)
class Choice:
    """The route taken: which account pays, over which networks, for which fee."""

    account: Account
    route: Route
    fee: Decimal


class Router:
    """Chooses a route by destination type from the configuration."""

    def __init__(self, instances: Sequence[Instance], routes: Sequence[RouteSettings]) -> None:
        self._instances: Mapping[str, Instance] = {each.name: each for each in instances}
        # An instance whose adapter does not load is not there; neither are its routes.
        self._routes = tuple(each for each in routes if each.custodian in self._instances)
        #: ways found before, by what they were asked for; the configuration does not change
        self._ways: dict[tuple[str | None, ...], _Way] = {}

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
        """Return the first configured route that fits.

        Refused: `route_unavailable`, `unknown_account`, `unsupported_network`, `invalid_destination`,
        `amount_below_minimum` (the fee eats the amount).
        """
        key = _key(org, mode, destination, asset, network_hint, wish)
        way = self._ways.get(key)
        if way is None:
            way = self._way(
                org=org,
                mode=mode,
                destination=destination,
                asset=asset,
                network_hint=network_hint,
                wish=wish,
            )
            if len(self._ways) >= _MOST_WAYS:
                self._ways.clear()
            self._ways[key] = way
        fee = self._fee(way.settings, amount, asset, way.route.to_network)
        return Choice(way.account, way.route, fee)

    def _way(  # noqa: PLR0913 - everything that it may depend on: `_key` has all of it
        self,
        *,
        org: str,
        mode: Mode,
        destination: Destination,
        asset: Asset,
        network_hint: str | None,
        wish: Wish | None,
    ) -> _Way:
        fitting = [each for each in self._routes if self._fits(each, org, mode, destination, asset)]
        if wish is not None:
            fitting = self._wished(fitting, wish, org)
        if not fitting:
            detail = (
                f"No custodian is configured to pay {asset.code} to a {destination.type} in {mode} mode. "
                "GET /custodians lists what there is."
            )
            raise Refused("route_unavailable", detail)
        taken = fitting[0]
        network = self._network(fitting, destination, asset, network_hint)
        if network is not None:
            taken = next(
                each for each in fitting if each.networks is None or network in each.networks
            )
        route = Route(
            custodian=taken.custodian,
            from_network=network,
            to_network=network,
            estimated_seconds=taken.estimated_seconds,
        )
        return _Way(taken, wish.account if wish is not None else taken.account, route)

    def instance(self, name: str) -> Instance:
        """Return a configured instance. KeyError where there is none of that name."""
        return self._instances[name]

    def instances(self) -> tuple[Instance, ...]:
        """Return every configured instance, by name."""
        return tuple(self._instances[name] for name in sorted(self._instances))

    def routes_of(self, instance: Instance, org: str, mode: Mode) -> list[RouteSettings]:
        """Return the routes by which an org may use an instance; none where it may not."""
        if mode not in instance.modes:
            return []
        return [
            each
            for each in self._routes
            if each.custodian == instance.name and (each.orgs is None or org in each.orgs)
        ]

    def _fits(
        self, route: RouteSettings, org: str, mode: Mode, destination: Destination, asset: Asset
    ) -> bool:
        instance = self._instances[route.custodian]
        return (
            route.destination == destination.type
            and mode in instance.modes
            and destination.type in instance.capabilities.destination_types
            and (route.orgs is None or org in route.orgs)
            and (route.assets is None or asset.code in route.assets)
        )

    def _wished(self, fitting: list[RouteSettings], wish: Wish, org: str) -> list[RouteSettings]:
        of_custodian = [each for each in fitting if each.custodian == wish.custodian]
        if not of_custodian:
            detail = (
                f"The custodian {wish.custodian!r} has no route for this destination and asset."
            )
            raise Refused(
                "route_unavailable",
                detail,
                errors=[_fault("/route/custodian", "route_unavailable", detail)],
            )
        known = {(each.account.type, each.account.id) for each in of_custodian}
        # Another org's account is refused in the same words as one that does not exist.
        known |= {
            (each.type, each.id)
            for each in self._instances[wish.custodian].accounts
            if each.orgs is None or org in each.orgs
        }
        if (wish.account.type, wish.account.id) not in known:
            detail = f"The account {wish.account.type} {wish.account.id!r} is not configured at {wish.custodian!r}."
            raise Refused(
                "unknown_account",
                detail,
                errors=[_fault("/route/account", "unknown_account", detail)],
            )
        return of_custodian

    @staticmethod
    def _network(
        fitting: Sequence[RouteSettings],
        destination: Destination,
        asset: Asset,
        network_hint: str | None,
    ) -> str | None:
        """Return the network on which the recipient is paid, where there is one."""
        named = destination.network if isinstance(destination, AddressDestination) else network_hint
        if named is None:
            first = fitting[0].networks
            return first[0] if first else None
        covered = any(each.networks is None or named in each.networks for each in fitting)
        if not covered or (asset.networks and named not in asset.networks):
            detail = f"No route pays {asset.code} on the network {named!r}."
            pointer = (
                "/destination/network"
                if isinstance(destination, AddressDestination)
                else "/network_hint"
            )
            raise Refused(
                "unsupported_network",
                detail,
                errors=[_fault(pointer, "unsupported_network", detail)],
            )
        return named

    @staticmethod
    def _fee(route: RouteSettings, amount: Decimal, asset: Asset, network: str | None) -> Decimal:
        share = EXACT.divide(EXACT.multiply(amount, route.fee.basis_points), Decimal(10_000))
        fee = round_fee(EXACT.add(route.fee.flat, share), asset.decimals_on(network))
        if fee >= amount:
            detail = (
                f"The fee of this route is {fee} {asset.code}: nothing would be left of the amount."
            )
            raise Refused(
                "amount_below_minimum",
                detail,
                errors=[_fault("/amount", "amount_below_minimum", detail)],
            )
        return fee


def _key(  # noqa: PLR0913 - everything that a way depends on
    org: str,
    mode: Mode,
    destination: Destination,
    asset: Asset,
    network_hint: str | None,
    wish: Wish | None,
) -> tuple[str | None, ...]:
    """Return what a way depends on. Of the destination that is its type and its network."""
    network = destination.network if isinstance(destination, AddressDestination) else None
    wanted = (wish.custodian, wish.account.type, wish.account.id) if wish is not None else ()
    return (org, mode, destination.type, network, asset.code, network_hint, *wanted)


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
