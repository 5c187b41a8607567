"""`POST /routes/explain`: which route a quote would take, and why not the others. Nothing is written."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.requests import caller_of, context_of, read_json, validate
from gateway.caller import Caller
from gateway.config.routes import Policy
from gateway.errors import Refused
from gateway.model import Account, Amount, Text
from gateway.planning import QuoteRequest
from gateway.quotes import InsufficientFunds, Quotes, choice_view, left_out_view
from gateway.routing.router import NOT_SHOWN, Reason
from gateway.store.database import Tx
from gateway.store.pauses import active_pauses


class ExplainRequest(QuoteRequest):
    """As a quote is asked for."""

    external_ref: Text = Field(default="explain", description="As in a quote; it changes nothing.")
    org: Text | None = Field(
        default=None, description="Under a key of the operator: for which org. Required there."
    )


class CandidateView(BaseModel):
    """A route that could be taken."""

    route: str
    custodian: str
    account: Account
    network: str | None
    fee: Amount
    estimated_seconds: int
    waits: str | None = Field(
        description="What is paused while payouts are accepted: this one would wait. Null: it is sent at once."
    )


class LeftOutView(BaseModel):
    """A route that could not be taken, and why."""

    route: str
    custodian: str
    account: Account
    reason: Reason
    detail: str


class Explanation(BaseModel):
    """How a quote would be routed at this moment."""

    policy: Policy = Field(description="How the candidates are ranked.")
    candidates: list[CandidateView] = Field(description="The best one first; it would be taken.")
    left_out: list[LeftOutView]
    code: str | None = Field(
        description="What a quote would be refused with, or its payout by a limit or a balance of now; null: "
        "neither."
    )
    detail: str | None
    insufficient_funds: InsufficientFunds | None = Field(
        description="What the account of the best candidate lacks, as in a quote; null: nothing, or it is not known."
    )
    balance_remark: str | None = Field(
        description="Why the balance of that account is not known while a payout would be accepted; null: it "
        "is known, or the account does not reserve."
    )


async def explain_route(request: Request) -> Response:
    """`POST /routes/explain`: a dry run. May be repeated."""
    context, caller = context_of(request), await caller_of(request)
    asked = validate(ExplainRequest, await read_json(request))
    if caller.operator:
        if asked.org is None:
            fault = {"pointer": "/org", "code": "invalid_request", "detail": "is required"}
            raise Refused("invalid_request", "Name the org.", errors=[fault])
        as_org = Caller(asked.org, caller.mode, caller.key_id)
    elif asked.org not in {None, caller.org}:
        raise Refused("operator_key_required", "A key of an org explains its own routes only.")
    else:
        as_org = caller
    view = await context.db.read(explanation, context.quotes, as_org, asked, whole=caller.operator)
    return Response(to_json(view), media_type="application/json")


async def explanation(
    tx: Tx, quotes: Quotes, caller: Caller, asked: QuoteRequest, *, whole: bool
) -> dict[str, Any]:
    """Return how a quote would be routed, as it is answered. A dry run; its schema is `Explanation`.

    `whole`: with what is not for the org. Refused: what is wrong with the request whatever the route.
    """
    decision = quotes.explain(caller, asked, await active_pauses(tx))
    refusal = decision.refusal or await quotes.over_limit(tx, caller, asked, decision)
    short = remark = None
    if refusal is None:
        short, remark, refusal = quotes.shortage(caller, asked, decision)
    return {
        "policy": decision.policy.value,
        "candidates": [choice_view(each) for each in decision.candidates],
        "left_out": [
            left_out_view(each)
            for each in decision.left_out
            if whole or each.reason not in NOT_SHOWN
        ],
        "code": None if refusal is None else refusal.code,
        "detail": None if refusal is None else refusal.detail,
        "insufficient_funds": None if short is None else short.model_dump(),
        "balance_remark": remark,
    }
