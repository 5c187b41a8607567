"""Settings of routes: which custodian account pays what, at which fee, and how one of them is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from gateway.config.funds import Shortage
from gateway.config.section import InstanceName, OrgName, Section
from gateway.model import Account, Amount, DestinationType, Network


def _some_orgs(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of orgs. Raises ValueError if there is none, because nobody could use that route or account."""
    if not names:
        msg = "must not be empty: list the orgs, or remove it to allow all orgs"
        raise ValueError(msg)
    return names


OrgNames = Annotated[tuple[OrgName, ...], AfterValidator(_some_orgs)]


class Policy(StrEnum):
    """How one of the routes that could pay is preferred."""

    FIXED = "fixed"  #: the first one, by priority and then as they are written
    CHEAPEST = "cheapest"  #: the one with the lowest fee
    FASTEST = "fastest"  #: the one that usually takes the shortest time


class FailoverPolicy(StrEnum):
    """When a payout may go on at another custodian, once it is proven that this one does not pay it."""

    NEVER = "never"  #: it ends as the custodian has said
    ON_REFUSAL = "on_refusal"  #: refused before anything moved, or nothing could be sent
    ON_ABSENCE = "on_absence"  #: then, and where it is proven that a call never arrived


class FeeSettings(Section):
    """The fee of a route, in the asset that is sent."""

    flat: Amount = Field(default=Decimal(0), description="Fixed part, in units of the asset.")
    basis_points: Amount = Field(
        default=Decimal(0),
        description="Variable part, in hundredths of a percent of the amount; rounded up to the asset's unit.",
    )


class RouteSettings(Section):
    """Which custodian account pays which kind of destination."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] | None = Field(
        default=None,
        description="Name of the route in `routes explain` and in stored decisions. Not set: `routes.N`, its "
        "position in the file from 0.",
    )
    destination: DestinationType = Field(description="Destination type.")
    custodian: InstanceName = Field(description="Name of the custodian instance.")
    account: Account = Field(description="Account that pays: the custodian's id and type.")
    assets: tuple[str, ...] | None = Field(default=None, description="Asset codes. Not set: all.")
    networks: tuple[Network, ...] | None = Field(
        default=None,
        description="Networks. Not set: all. The first is the default for custodian accounts.",
    )
    orgs: OrgNames | None = Field(
        default=None, description="Orgs that may use the route. Not set: all."
    )
    min_amount: Amount | None = Field(
        default=None, description="Smallest amount for this route, in units of the asset."
    )
    max_amount: Amount | None = Field(
        default=None, description="Largest amount for this route, in units of the asset."
    )
    priority: int = Field(
        default=0,
        description="Lower values come first; routes of the same priority keep the order of the file.",
    )
    policy: Policy = Field(
        default=Policy.FIXED,
        description="How one of several matching routes is selected: the first one (`fixed`), the one with the "
        "lowest fee (`cheapest`) or the one that usually delivers soonest (`fastest`). The first "
        "matching route sets the policy for all.",
    )
    failover: FailoverPolicy = Field(
        default=FailoverPolicy.NEVER,
        description="When a payout to an address continues on another route, within the quoted terms: `never`; "
        "`on_refusal`, if the custodian refuses it for a reason of its own before anything moved, or "
        "does not answer and nothing was sent; `on_absence`, also if it is proven that a call never "
        "arrived.",
    )
    estimated_seconds: int = Field(
        default=60,
        ge=0,
        description="Usual time to delivery, used until 20 deliveries on this route were measured.",
    )
    fee: FeeSettings = Field(default=FeeSettings(), description="Fee. Not set: none.")
    on_shortage: Shortage = Field(
        default="refuse",
        description="If the account reserves and does not cover a payout: `refuse` it, or accept it and let it "
        "`wait`.",
    )


class RoutingSettings(Section):
    """How routes are compared."""

    recommend_percent: Amount = Field(
        default=Decimal(1),
        description="A quote recommends another route if its fee is lower by at least this many percent.",
    )


def route_faults(routes: Sequence[RouteSettings]) -> list[str]:
    """Return the errors of routes that are each readable."""
    faults: list[str] = []
    names: set[str] = set()
    for index, each in enumerate(routes):
        if each.name is not None and each.name in names:
            faults.append(f"routes.{index}.name: another route is called {each.name}")
        names |= {each.name} if each.name is not None else set()
        least, most = each.min_amount, each.max_amount
        if least is not None and most is not None and least > most:
            faults.append(f"routes.{index}.min_amount: {least} is above max_amount, {most}")
    return faults
