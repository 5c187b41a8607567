"""Pausing and resuming payouts over HTTP: anything with a key of the operator, an org itself with its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.requests import caller_of, context_of, read_json, request_id_of, validate
from gateway.caller import Caller
from gateway.config.section import ORG
from gateway.credentials import accounts_of
from gateway.errors import Refused
from gateway.model import Account, RequestBody, Text, Time
from gateway.pause import Pause, PauseScope, account_target, parts_of
from gateway.pausing import Waiting, Wanted, end_pause, pause, waiting
from gateway.store.audit import Act
from gateway.store.database import Tx
from gateway.store.pauses import active_pauses
from gateway.store.rows import from_us, maybe_from_us

_Reason = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class PauseRequest(RequestBody):
    """What is to be paused. A key of an org pauses that org, whatever it names."""

    scope: PauseScope = Field(
        default=PauseScope.ORG, description="What is paused; a key of an org may only say `org`."
    )
    custodian: Text | None = Field(
        default=None, description="For `custodian` and `account`: the instance."
    )
    account: Account | None = Field(default=None, description="For `account`.")
    asset: Text | None = Field(default=None, description="For `asset`: its code.")
    org: Text | None = Field(default=None, description="For `org`, under a key of the operator.")
    reason: _Reason = Field(description="Kept in the audit log; not shown to other orgs.")
    keep_accepting: bool = Field(
        default=False,
        description="Give new quotes meanwhile; their payouts wait. Otherwise they are refused.",
    )


class ResumeRequest(RequestBody):
    """Why a pause ends."""

    reason: _Reason = Field(description="Kept in the audit log.")


class PauseView(BaseModel):
    """A pause."""

    id: str
    object: Literal["pause"] = "pause"
    scope: PauseScope
    custodian: str | None
    account: Account | None
    asset: str | None
    org: str | None
    mode: str | None = Field(description="`live` or `test`; null: both modes.")
    by: Literal["operator", "org"] = Field(description="Only who has paused may resume.")
    reason: str | None = Field(
        description="Null under a key of an org, of a pause that is not its own."
    )
    keep_accepting: bool
    since: Time


class WaitingView(BaseModel):
    """What a pause holds at this moment."""

    payouts: int = Field(description="Payouts of which nothing was sent.")
    first_expiry: Time | None = Field(
        description="When the first of them fails as `not_sent_in_time`, unless it is resumed before."
    )
    last_expiry: Time | None = Field(description="When the last of them does.")


class PauseMade(PauseView):
    """A pause as it was made."""

    waiting: WaitingView


class PauseList(BaseModel):
    """What is paused now, oldest first."""

    data: list[PauseView]
    next_cursor: str | None = Field(default=None, description="Always null: the list has one page.")
    has_more: bool = False


async def list_pauses(request: Request) -> Response:
    """`GET /pauses`: under a key of an org those that hold all of its payouts, and its own."""
    context, caller = context_of(request), await caller_of(request)
    found = [
        pause_view(each, caller)
        for each in await context.db.read(active_pauses)
        if _may_see(each, caller)
    ]
    return Response(PauseList(data=found).model_dump_json(), media_type="application/json")


async def create_pause(request: Request) -> Response:
    """`POST /pauses`. May be repeated: one of the same kind gets the new reason and terms."""
    context, caller = context_of(request), await caller_of(request)
    body = validate(PauseRequest, await read_json(request))
    wanted, act = _wanted(context, body, caller), Act(caller.key_id, request_id_of(request))
    made = await context.db.run(
        pause, context.runtime, wanted, body.reason, act, keep_accepting=body.keep_accepting
    )
    within = round(context.settings.engine.submit_within_s * 1_000_000)
    held = await context.db.scan(waiting, made, context.runtime.clock.moment(), within)
    view = PauseMade(**pause_view(made, caller).model_dump(), waiting=waiting_view(held))
    return Response(view.model_dump_json(), 201, media_type="application/json")


async def resume_pause(request: Request) -> Response:
    """`POST /pauses/{id}/resume`: what nothing else holds goes on at once."""
    context, caller = context_of(request), await caller_of(request)
    body = validate(ResumeRequest, await read_json(request))
    pause_id, act = request.path_params["pause_id"], Act(caller.key_id, request_id_of(request))

    async def work(tx: Tx) -> list[Pause]:
        for each in await active_pauses(tx):
            if each.id == pause_id and _may_end(each, caller):
                left = await end_pause(tx, context.runtime, each, body.reason, act)
                if left is not None:
                    return left
        raise Refused(
            "pause_not_found", f"There is no pause {pause_id[:64]} that this key may end."
        )

    left = [
        pause_view(each, caller) for each in await context.db.run(work) if _may_see(each, caller)
    ]
    for name in context.custodians:
        context.wake(name)
    return Response(PauseList(data=left).model_dump_json(), media_type="application/json")


def _wanted(context: ApiContext, body: PauseRequest, caller: Caller) -> Wanted:
    """Return what is to be paused. Refused: `invalid_request`, `operator_key_required`."""
    if not caller.operator:
        if body.scope is not PauseScope.ORG or body.org not in {None, caller.org}:
            raise Refused("operator_key_required", "A key of an org pauses its own payouts only.")
        return Wanted(PauseScope.ORG, caller.org, owner=caller.org, mode=caller.mode)
    # What a key of the operator for test mode stops, it stops in test mode.
    mode = "test" if caller.mode == "test" else ""
    needs = {"all": (), "account": ("custodian", "account")}.get(body.scope, (body.scope.value,))
    for name in ("custodian", "account", "asset", "org"):
        given = getattr(body, name) is not None
        if given != (name in needs):
            detail = "is needed" if name in needs else "does not belong to this scope"
            raise _fault(name, "missing" if name in needs else "extra_forbidden", detail)
    if body.custodian is not None and body.custodian not in context.settings.custodians:
        known = ", ".join(sorted(context.settings.custodians))
        raise _fault("custodian", "unknown_custodian", f"is not configured; known: {known}")
    if body.custodian is not None and body.account is not None:
        if body.account not in accounts_of(context.settings, body.custodian):
            raise _fault("account", "unknown_account", "is no configured account of the custodian")
        return Wanted(body.scope, account_target(body.custodian, body.account), mode=mode)
    asset = None if body.asset is None else body.asset.upper()
    if asset is not None and asset not in context.quotes.assets:
        known = ", ".join(context.quotes.assets)
        raise _fault("asset", "unsupported_asset", f"is not known; known: {known}")
    if body.org is not None and not ORG.fullmatch(body.org):
        raise _fault("org", "invalid", "is not a valid org name")
    return Wanted(body.scope, body.custodian or asset or body.org or "", mode=mode)


def _fault(name: str, code: str, detail: str) -> Refused:
    fault = {"pointer": f"/{name}", "code": code, "detail": detail}
    return Refused(
        "invalid_request", "The request is not valid; errors lists what to fix.", errors=[fault]
    )


def _may_see(each: Pause, caller: Caller) -> bool:
    """An org sees every pause that stops all of its payouts, and no pauses of other orgs."""
    if caller.operator:
        return True
    mine = each.scope is PauseScope.ORG and each.target == caller.org
    return each.mode in {"", caller.mode} and (mine or each.scope is PauseScope.ALL)


def _may_end(each: Pause, caller: Caller) -> bool:
    """Only who has paused may resume, in the mode of the key."""
    if caller.operator:
        return not each.owner and (caller.mode == "live" or each.mode == "test")
    return each.owner == caller.org and each.mode == caller.mode


def pause_view(each: Pause, caller: Caller) -> PauseView:
    """Return a pause as a key sees it."""
    custodian, account, asset, org = parts_of(each)
    mine = caller.operator or each.owner == caller.org
    return PauseView(
        id=each.id,
        scope=each.scope,
        custodian=custodian,
        account=account,
        asset=asset,
        org=org,
        mode=each.mode or None,
        by="org" if each.owner else "operator",
        reason=each.reason if mine else None,
        keep_accepting=each.keep_accepting,
        since=from_us(each.since),
    )


def waiting_view(held: Waiting) -> WaitingView:
    """Return what a pause holds as it is shown."""
    return WaitingView(
        payouts=held.payouts,
        first_expiry=maybe_from_us(held.first_expiry),
        last_expiry=maybe_from_us(held.last_expiry),
    )
