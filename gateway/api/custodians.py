"""Custodian instances: what there is, and where they call in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.requests import caller_of, context_of, read_body
from gateway.errors import CannotVerify, InvalidSignature, Refused
from gateway.model import Account, DestinationType
from gateway.pause import Pause, PauseScope, parts_of
from gateway.store.pauses import active_pauses

MAX_WEBHOOK = 1024 * 1024


class CustodianView(BaseModel):
    """A custodian instance and what it can do."""

    name: str
    adapter: str
    destination_types: list[DestinationType]
    payee_types: list[str]
    source_types: list[str]
    assets: list[str]
    batch: bool
    cancel: bool
    webhooks: bool
    one_at_a_time: bool
    paused: bool = Field(
        description="Whether nothing is sent through it for you now: it, everything or your org is paused."
    )
    paused_accounts: list[Account] = Field(description="Accounts of it that are paused.")
    paused_assets: list[str] = Field(description="Its assets that are paused.")
    available: bool = Field(
        description="False: it does not answer, so quotes leave it out and payouts through it wait."
    )


class CustodianList(BaseModel):
    """The custodian instances that this key may use."""

    data: list[CustodianView]
    next_cursor: str | None = Field(default=None, description="Always null: the list has one page.")
    has_more: bool = False


async def list_custodians(request: Request) -> Response:
    """`GET /custodians`."""
    context = context_of(request)
    caller = await caller_of(request)
    data = []
    paused = [
        each for each in await context.db.read(active_pauses) if each.mode in {"", caller.mode}
    ]
    for instance in context.router.instances():
        routes = context.router.routes_of(instance, caller.org, caller.mode)
        if not routes:
            continue
        can = instance.capabilities
        data.append(
            CustodianView(
                name=instance.name,
                adapter=context.custodians[instance.name].adapter_name,
                destination_types=sorted(
                    {route.destination for route in routes} & can.destination_types
                ),
                payee_types=sorted(can.payee_types),
                source_types=sorted(can.source_types),
                assets=sorted({code for route in routes for code in route.assets or ("*",)}),
                batch=can.batch,
                cancel=can.cancel,
                webhooks=can.webhooks,
                one_at_a_time=can.one_at_a_time,
                available=context.quotes.facts.health(instance.name) is None,
                **_pauses_of(paused, instance.name, caller.org),
            )
        )
    return Response(CustodianList(data=data).model_dump_json(), media_type="application/json")


def _pauses_of(paused: Sequence[Pause], name: str, org: str) -> dict[str, Any]:
    """Return what is paused of an instance, as an org sees it."""
    wide = {PauseScope.ALL: "", PauseScope.CUSTODIAN: name, PauseScope.ORG: org}
    parts = [(each, *parts_of(each)) for each in paused]
    return {
        "paused": any(wide.get(each.scope) == each.target for each in paused),
        "paused_accounts": [
            account for _, custodian, account, _, _ in parts if account and custodian == name
        ],
        "paused_assets": sorted({asset for _, _, _, asset, _ in parts if asset}),
    }


async def receive_webhook(request: Request) -> Response:
    """`POST /custodians/{name}/webhooks`: verify, apply or keep it for later, once; then answer."""
    context = context_of(request)
    name = request.path_params["name"]
    custodian = context.custodians.get(name)
    if custodian is None and name in context.settings.custodians:
        detail = "Its adapter cannot be used now; send it again."
        raise Refused("cannot_verify", detail, headers={"Retry-After": "60"})
    if custodian is None:
        raise Refused("custodian_not_found", f"There is no custodian instance {name[:64]}.")
    body = await read_body(request, MAX_WEBHOOK)
    headers = {key.lower(): value for key, value in request.headers.items()}
    try:
        await custodian.verify(headers, body)
    except InvalidSignature as error:
        context.metrics.inbox(name, "forged")
        raise Refused(
            "invalid_signature", str(error) or "The signature is not the custodian's."
        ) from None
    except CannotVerify:
        context.metrics.inbox(name, "unverifiable")
        detail = "The verification keys are out of reach."
        raise Refused("cannot_verify", detail, headers={"Retry-After": "30"}) from None
    await context.inbox.receive(name, body)
    return Response(b'{"received":true}', media_type="application/json")
