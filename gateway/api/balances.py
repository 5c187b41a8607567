"""What each account can pay: its balances as they were last read, less what payouts have reserved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.cursors import check_names
from gateway.api.requests import caller_of, context_of
from gateway.caller import Caller
from gateway.config.settings import Mode
from gateway.funds.balances import account_view
from gateway.funds.reservations import AccountRule
from gateway.model import Account, Amount, Network, Time
from gateway.routing.router import Instance, Router
from gateway.store.funds import all_accounts


class BalanceView(BaseModel):
    """A balance of an account, of one asset on one network."""

    asset: str
    network: Network | None = Field(
        description="Null where the account holds the asset on no network of its own, or a payout named none."
    )
    balance: Amount = Field(description="What the custodian says that can be paid now.")
    pending: Amount | None = Field(
        description="What is on its way to the account; null: the custodian does not say."
    )
    reserved: Amount = Field(
        description="Amounts and fees of accepted payouts that the balance does not show yet."
    )
    waiting: Amount = Field(description="Amounts and fees of payouts that wait for the account.")
    available: Amount = Field(
        description="What the next payout may need: the balance less what is reserved and what waits, and "
        "never below zero."
    )
    as_of: Time | None = Field(description="When the custodian says that it was so.")


class AccountBalances(BaseModel):
    """What an account can pay."""

    object: Literal["account_balances"] = "account_balances"
    custodian: str
    account: Account
    state: Literal["fresh", "old", "unknown", "unsupported"] = Field(
        description="`old`: older than `balance_max_age_s`; `unknown`: not read yet, or not since the database "
        "was adopted; `unsupported`: the custodian reports no balances of such an account. Nothing can be "
        "reserved from an `old` or `unknown` balance."
    )
    reserves: bool = Field(description="Whether accepted payouts reserve from it.")
    read_at: Time | None = Field(description="When the balances were asked for, by the wall clock.")
    age_seconds: int | None = Field(description="How old they are at most; null: not known.")
    fault: str | None = Field(
        description="Why the last read failed; null under a key of an org, and where it did not."
    )
    balances: list[BalanceView]


class BalanceList(BaseModel):
    """The accounts that this key may use."""

    data: list[AccountBalances]
    next_cursor: str | None = Field(default=None, description="Always null: the list has one page.")
    has_more: bool = False


async def list_balances(request: Request) -> Response:
    """`GET /balances`."""
    context, caller = context_of(request), await caller_of(request)
    check_names(request, frozenset())
    body = BalanceList(data=await balances_for(context, caller))
    return Response(body.model_dump_json(), media_type="application/json")


async def balances_for(context: ApiContext, caller: Caller) -> list[AccountBalances]:
    """Return what the accounts that a caller may use can pay."""
    funds = context.funds
    data: list[Mapping[str, Any]] = []
    if funds is not None:
        known = {row["id"]: row for row in await context.db.read(all_accounts)}
        now = context.runtime.clock.moment()
        for rule in _own(context, caller, funds.rules.values()):
            seen = account_view(funds, rule, known.get(rule.key), now)
            data.append(seen if caller.operator else {**seen, "fault": None})
    return [AccountBalances.model_validate(each) for each in data]


def _own(
    context: ApiContext, caller: Caller, rules: Iterable[AccountRule]
) -> Iterable[AccountRule]:
    """Return the accounts that a caller may use, in its mode: those of its routes, and those it may name."""
    for rule in rules:
        instance = context.router.instance(rule.custodian)
        if caller.mode not in instance.modes:
            continue
        if caller.operator:
            yield rule
            continue
        if rule.account in accounts_of(context.router, instance, caller.org, caller.mode):
            yield rule


def accounts_of(router: Router, instance: Instance, org: str, mode: Mode) -> list[Account]:
    """Return the accounts of an instance that an org may pay from: of its routes, and those configured."""
    routes = router.routes_of(instance, org, mode)
    if not routes:
        return []
    named = [
        Account(id=each.id, type=each.type)
        for each in instance.accounts
        if each.orgs is None or org in each.orgs
    ]
    return [*(each.account for each in routes), *named]
