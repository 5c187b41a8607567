"""The operator's list over HTTP: everybody's for the operator, an org's own without details for the org."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.cursors import check_names, decode, encode, limit_of, query_fault
from gateway.api.requests import caller_of, context_of
from gateway.caller import Caller
from gateway.model import Attention, Status, SubStatus, Time
from gateway.store.attention import attention_page
from gateway.store.database import Row
from gateway.store.rows import from_us, maybe_from_us

_FILTERS = ("code", "state")


class AttentionView(BaseModel):
    """Why a person should look at a payout."""

    object: Literal["attention"] = "attention"
    payout_id: str
    org: str
    status: Status
    sub_status: SubStatus
    custodian: str
    code: Attention
    detail: str | None = Field(
        description="Null under a key of an org: it may name what is another org's."
    )
    times: int = Field(description="How often it was noted.")
    first_at: Time
    last_at: Time
    closed_at: Time | None = Field(description="Null while it is open.")
    closed_by: str | None = Field(
        description="`gateway`: its cause has ended. Otherwise who has acknowledged it; for an org: "
        "`operator`."
    )


class AttentionList(BaseModel):
    """A page of the operator's list, newest first."""

    data: list[AttentionView]
    next_cursor: str | None
    has_more: bool


async def list_attention(request: Request) -> Response:
    """`GET /attention`: what is open, in the mode of the key; with `state=all` what was closed, too."""
    context, caller = context_of(request), await caller_of(request)
    check_names(request, frozenset({*_FILTERS, "limit", "cursor"}))
    limit = limit_of(request)
    filters = {
        name: request.query_params[name] for name in _FILTERS if name in request.query_params
    }
    if filters.get("code", Attention.MISMATCH) not in set(Attention):
        raise query_fault("code", f"is one of {', '.join(Attention)}")
    if filters.get("state", "open") not in {"open", "all"}:
        raise query_fault("state", "is open or all")
    begin = 0
    if "cursor" in request.query_params:
        (position,) = decode(request, request.query_params["cursor"], filters, (int,))
        begin = int(position)
    wanted = {"mode": caller.mode} | ({} if caller.operator else {"org": caller.org})
    if "code" in filters:
        wanted["code"] = filters["code"]
    everything = filters.get("state") == "all"
    found = await context.db.scan(attention_page, wanted, limit + 1, begin, everything=everything)
    more = len(found) > limit
    body = AttentionList(
        data=[_view(each, caller) for each in found[:limit]],
        next_cursor=encode(request, [begin + limit], filters) if more else None,
        has_more=more,
    )
    return Response(body.model_dump_json(), media_type="application/json")


def _view(row: Row, caller: Caller) -> AttentionView:
    by = row["closed_by"]
    if by not in {None, "gateway"} and not caller.operator:
        by = "operator"
    return AttentionView(
        payout_id=row["payout_id"],
        org=row["org"],
        status=row["status"],
        sub_status=row["sub_status"],
        custodian=row["custodian"],
        code=row["code"],
        detail=row["detail"] if caller.operator else None,
        times=row["times"],
        first_at=from_us(row["first_at"]),
        last_at=from_us(row["last_at"]),
        closed_at=maybe_from_us(row["closed_at"]),
        closed_by=by,
    )
