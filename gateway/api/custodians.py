"""Custodian instances: what there is, and where they call in."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.requests import caller_of, context_of, read_body
from gateway.errors import CannotVerify, InvalidSignature, Refused

MAX_WEBHOOK = 1024 * 1024


class CustodianView(BaseModel):
    """A custodian instance and what it can do."""

    name: str
    adapter: str
    destination_types: list[str]
    payee_types: list[str]
    source_types: list[str]
    assets: list[str]
    batch: bool
    cancel: bool
    webhooks: bool
    one_at_a_time: bool


class CustodianList(BaseModel):
    """The custodian instances that this key may use."""

    data: list[CustodianView]
    next_cursor: None = None
    has_more: bool = False


async def list_custodians(request: Request) -> Response:
    """`GET /custodians`."""
    context = context_of(request)
    caller = await caller_of(request)
    data = []
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
            )
        )
    return Response(CustodianList(data=data).model_dump_json(), media_type="application/json")


async def receive_webhook(request: Request) -> Response:
    """`POST /custodians/{name}/webhooks`: verify, apply or keep it for later, once; then answer."""
    context = context_of(request)
    name = request.path_params["name"]
    custodian = context.custodians.get(name)
    if custodian is None and name in context.settings.custodians:
        # Its adapter does not load: the sender keeps the news until it does.
        detail = f"The adapter of {name} does not load."
        raise Refused("cannot_verify", detail, headers={"Retry-After": "30"})
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
