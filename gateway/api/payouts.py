"""Quotes and payouts over HTTP."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, StringConstraints
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.cursors import check_names, decode, encode, limit_of, query_fault
from gateway.api.idempotency import (
    Answer,
    Claim,
    Drafted,
    claimed,
    idempotency_key,
    keyed_request,
    once,
)
from gateway.api.requests import caller_of, context_of, read_json, validate
from gateway.api.shown import PayoutResponse, payout_answer, shown_of
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.model import Payout, RequestBody, Status, SubStatus
from gateway.planning import Offered, QuoteRequest
from gateway.quotes import quote_json
from gateway.store import payouts as rows
from gateway.store.account_turns import account_holder
from gateway.store.database import Row, Tx
from gateway.store.executions import executions_of
from gateway.store.pauses import active_pauses
from gateway.store.payout_lists import list_rows
from gateway.store.rows import payout_of, to_us
from gateway.store.state import refuse_unless_accepting
from gateway.text import reference_key
from gateway.vault import Vault
from gateway.views import PayoutWithTracking

_FILTERS = ("external_ref", "status", "sub_status", "custodian", "reference", "from", "to")


class PayoutRequest(RequestBody):
    """The whole body of `POST /payouts`: terms cannot be changed between quote and payout."""

    quote_id: Annotated[str, StringConstraints(min_length=1, max_length=128)]


class PayoutList(BaseModel):
    """A page of payouts, newest first: the schema of what `list_payouts` answers."""

    data: list[PayoutWithTracking]
    next_cursor: str | None
    has_more: bool


async def create_quote(request: Request) -> Response:
    """`POST /payouts/quote`."""
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=True)
    members = await read_json(request)
    wanted = validate(QuoteRequest, members)

    async def draft(tx: Tx, offered: Offered | None = None) -> Drafted:
        paused = await refuse_unless_accepting(tx, context.own_rules)
        pauses = await active_pauses(tx) if paused else ()
        quote, account = context.quotes.draft(caller, wanted, offered, pauses)
        return Drafted(
            Answer(200, to_json(quote_json(quote)), created_id=quote.quote_id),
            lambda tx: context.quotes.store(tx, caller, quote, account),
        )

    async def store(tx: Tx, offered: Offered | None = None) -> Answer:
        drafted = await draft(tx, offered)
        await drafted.write(tx)
        return drafted.answer

    if key is None or not context.quotes.has_offers(caller, wanted):
        return await once(request, caller, key, members, store, draft=draft)

    async def price(claim: Claim) -> Answer:
        # Asked between two transactions: nothing is called inside one.
        offered = await context.quotes.offers(caller, wanted)
        return await claim.finish(lambda tx: store(tx, offered), keep_refusals=True)

    keyed = keyed_request(request, caller.org, caller.mode, key, members)
    return await claimed(request, keyed, price)


async def create_payout(request: Request) -> Response:
    """`POST /payouts`."""
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=False)
    members = await read_json(request)
    quote_id = validate(PayoutRequest, members).quote_id
    strict = request.headers.get("gateway-sandbox", "").strip().lower() == "strict"
    custodians: list[str] = []

    async def work(tx: Tx) -> Answer:
        payout = await context.payouts.accept(tx, caller, quote_id, strict=strict)
        custodians.append(payout.custodian)
        if payout.livemode:
            return _created(context.vault, context.settings.public_url, payout)
        return await _first_answer(tx, context.vault, context.settings.public_url, payout)

    answer = await once(request, caller, key, members, work)
    for name in custodians:
        context.wake(name)
    return answer


async def get_payout(request: Request) -> Response:
    """`GET /payouts/{id}`."""
    context = context_of(request)
    caller = await caller_of(request)
    row = await context.db.read(context.payouts.get_row, caller, request.path_params["payout_id"])
    shown = shown_of(request).of(row)
    body = shown.body if shown.whole else await _with_more(context, caller, row)
    return PayoutResponse(body)


async def _with_more(context: ApiContext, caller: Caller, row: Row) -> bytes:
    """Return a payout with what only `GET /payouts/{id}` shows of it."""
    payout = payout_of(row)
    behind = None
    if payout.sub_status is SubStatus.QUEUED:
        names = payout.custodian, payout.account.type, payout.account.id
        behind = await context.db.read(account_holder, *names, caller.org)
    places = None
    if payout.custodian != payout.terms.route.custodian:
        places = await context.db.read(executions_of, payout.id)
    return payout_answer(
        context.vault,
        context.settings.public_url,
        payout,
        with_secret=True,
        behind=behind,
        places=places,
    )


async def list_payouts(request: Request) -> Response:
    """`GET /payouts`."""
    context = context_of(request)
    caller = await caller_of(request)
    check_names(request, frozenset({*_FILTERS, "limit", "cursor"}))
    limit = limit_of(request)
    given = request.query_params
    filters = {name: given[name] for name in _FILTERS if name in given}
    conditions = _conditions(filters, caller)
    if "cursor" in given:
        at, after = decode(request, given["cursor"], filters, (int, str))
        conditions |= {"after_at": at, "after_id": after}
    found = await context.db.read_page(list_rows, conditions, limit + 1)
    page = found[:limit]
    more = len(found) > limit
    cursor = encode(request, [page[-1]["created_at"], page[-1]["id"]], filters) if more else None
    shown = shown_of(request)
    body = b'{"data":[%b],%b' % (
        b",".join([shown.of(row).body for row in page]),
        to_json({"next_cursor": cursor, "has_more": more})[1:],
    )
    return PayoutResponse(body)


def _conditions(filters: dict[str, str], caller: Caller) -> dict[str, object]:
    """Return the filters as the store takes them. Refused: `invalid_request`."""
    conditions: dict[str, object] = {**filters, "org": caller.org, "mode": caller.mode}
    if "status" in filters and filters["status"] not in set(Status):
        raise query_fault("status", f"is one of {', '.join(Status)}")
    if "sub_status" in filters and filters["sub_status"] not in set(SubStatus):
        raise query_fault("sub_status", f"is one of {', '.join(SubStatus)}")
    if "reference" in filters:
        conditions["reference_key"] = reference_key(filters["reference"])
    for name in ("from", "to"):
        if name in filters:
            conditions[name] = _time(name, filters[name])
    return conditions


def _time(name: str, text: str) -> int:
    """Return the first microsecond of the millisecond that is meant; for `to` the last one.

    Times are shown to the millisecond, so a payout is found by the time that it shows.
    """
    try:
        at = datetime.fromisoformat(text.replace(" ", "+"))
        # A time without a zone cannot be compared, which the subtraction refuses with TypeError.
        begin = max(0, to_us(at)) // 1000 * 1000
        return begin + 999 if name == "to" else begin
    except (ValueError, OverflowError, TypeError):
        raise query_fault(
            name, "is an RFC 3339 time with a zone, such as 2026-03-02T10:00:00Z"
        ) from None


async def _first_answer(tx: Tx, vault: Vault, public_url: str, payout: Payout) -> Answer:
    """Store function: test mode answers a repeat with the first answer, byte for byte."""
    row = await rows.payout_row(tx, payout.id)
    if row is None:
        raise Refused("payout_not_found", "The payout is gone.")
    if row["first_answer"] is not None:
        kept = Answer.unpack(vault.open(row["first_answer"], bound_to=payout.id))
        return replace(kept, created_id=payout.id)
    answer = _created(vault, public_url, payout)
    await rows.set_first_answer(tx, payout.id, vault.seal(answer.pack(), bound_to=payout.id))
    return answer


def _created(vault: Vault, public_url: str, payout: Payout) -> Answer:
    return Answer(
        201,
        payout_answer(vault, public_url, payout),
        location=f"/payouts/{payout.id}",
        created_id=payout.id,
    )
