"""Payouts: the list with its search, and the actions of operators."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import Response

from gateway.adapter import Capabilities, FundsMoved
from gateway.api import acts
from gateway.api.acts import note_act
from gateway.api.cursors import decode, encode
from gateway.attention import acknowledge as close_attention
from gateway.errors import Refused
from gateway.execution import operator
from gateway.execution.operator import LookAsked, NotAllowedError, Resolution
from gateway.execution.record import Recorder
from gateway.model import Attention, Payout, Status
from gateway.panel import timeline
from gateway.panel.access import PageError, Visit
from gateway.panel.overview import open_count
from gateway.panel.proofs import possibilities
from gateway.panel.words import look_of, place_of, reason_of
from gateway.pause import PauseScope
from gateway.pausing import Wanted, pause, resume
from gateway.store import executions
from gateway.store.attention import attention_page
from gateway.store.database import Tx
from gateway.store.overview import search, waiting
from gateway.store.pauses import active_pauses
from gateway.store.payout_lists import list_payouts
from gateway.store.rows import from_us, maybe_from_us, to_us
from gateway.store.users import user_by_name
from gateway.story import tell
from gateway.text import reference_key
from gateway.users import is_password

_PAGE = 50
_LONGEST = 255
_MOST_NOTED = 100
#: The states that can be chosen, each with its query.
_STATES: Mapping[str, tuple[str, str | None]] = {
    "": ("All", None),
    "pending": ("Pending", Status.PENDING.value),
    "broadcast": ("Broadcast", Status.BROADCAST.value),
    "delivered": ("Delivered", Status.DELIVERED.value),
    "failed": ("Failed", Status.FAILED.value),
    "unknown": ("Checking", "outcome_unknown"),
    "code": ("Needs a code", "requires_action"),
}
_NOT_CONFIGURED = "Its custodian is not configured at this gateway."
#: The capabilities of a custodian that is not configured are unknown. Each call stores what proves that
#: it cannot arrive any more; for the rest the cautious defaults apply, as in the command `payouts
#: resolve`.
_UNDECLARED = Capabilities(frozenset())
_SUB_STATES = frozenset({"unknown", "code"})


def row_of(payout: Payout) -> dict[str, Any]:
    """Return the fields of a payout that a list shows."""
    return {
        "id": payout.id,
        "reference": payout.reference or payout.external_ref,
        "to": place_of(payout.terms.destination),
        "amount": payout.terms.recipient_gets,
        "asset": payout.terms.recipient_asset,
        "look": look_of(payout),
        "custodian": payout.custodian,
        "created_at": payout.created_at,
        "updated_at": payout.updated_at,
    }


async def index(visit: Visit) -> Response:
    """`GET …/payouts`: `q` searches by any id, `state` filters, `after` continues the list."""
    query, context = visit.request.query_params, visit.context
    text, state = query.get("q", "").strip()[:_LONGEST], query.get("state", "")
    if state not in _STATES:
        raise Refused("not_found", "There is no such page.")
    after, found = None, []
    if text:
        # Use exactly one of them: an index finds an id, so no list has to be scanned.
        key = reference_key(text)
        found = await context.db.scan(search, visit.org, visit.mode, text, key, _PAGE)
    elif state in _SUB_STATES:
        word = str(_STATES[state][1])
        found = await context.db.scan(waiting, visit.org, visit.mode, word, _PAGE)
    else:
        filters: dict[str, Any] = {"org": visit.org, "mode": visit.mode}
        if state:
            filters["status"] = _STATES[state][1]
        if "after" in query:
            place = decode(visit.request, query["after"], {"state": state}, (int, str))
            filters |= {"after_at": int(place[0]), "after_id": str(place[1])}
        found = await context.db.scan(list_payouts, filters, _PAGE + 1)
        if len(found) > _PAGE:
            found = found[:_PAGE]
            last = found[-1]
            after = encode(visit.request, [to_us(last.created_at), last.id], {"state": state})
    own = await _own_pause(visit)
    return visit.draw(
        "panel/payouts.html",
        section="payouts",
        here="Payouts",
        open_count=await open_count(visit),
        rows=[row_of(each) for each in found],
        states=[(name, words) for name, (words, _) in _STATES.items()],
        state=state,
        q=text,
        after=after,
        first="after" not in query,
        paused=own,
    )


async def _own_pause(visit: Visit) -> Any:
    """Return the pause by which the org has stopped its own payouts, or None."""
    return next(
        (
            {"reason": each.reason, "since": from_us(each.since), "actor": each.actor}
            for each in await visit.context.db.read(active_pauses)
            if each.owner == visit.org and each.mode in {"", visit.mode}
        ),
        None,
    )


async def show(visit: Visit, problem: str | None = None, code: int = 200) -> Response:
    """`GET …/payouts/{id}`: the whole story and the possible actions. `show` selects one group of the story."""
    payout, story = await _told(visit)
    context, chosen = visit.context, visit.request.query_params.get("show", "")
    custodian = context.custodians.get(payout.custodian)
    capabilities = None if custodian is None else custodian.capabilities
    can = await context.db.read(
        possibilities, context.runtime, payout, capabilities, _asked(visit, payout)
    )
    entries = timeline.entries(story, payout, everything=visit.user.everywhere)
    shown = [each for each in entries if chosen in {"", each.group}]
    token = context.vault.tracking_token(payout.id)
    return visit.draw(
        "panel/payout.html",
        code,
        section="payouts",
        here="Payouts",
        open_count=await open_count(visit),
        payout=payout,
        row=row_of(payout),
        can=can,
        entries=shown,
        many=len(entries),
        groups=timeline.GROUPS,
        chosen=chosen,
        first_rows=timeline.FIRST_ROWS,
        most_rows=timeline.MOST_ROWS,
        attention=[
            reason_of(each["code"]) for each in story["attention"] if each["closed_at"] is None
        ],
        word=story["custodian_word"] if visit.user.everywhere else None,
        tracking=f"track/{token}",
        problem=problem,
    )


async def _told(visit: Visit) -> tuple[Payout, dict[str, Any]]:
    """Return the payout in the path, if it is the org's, and its story. Refused: `payout_not_found`."""
    context = visit.context
    payout_id = visit.request.path_params["payout_id"]
    payout = await context.db.read(context.payouts.get, visit.caller, payout_id)
    story = await context.db.scan(tell, payout.id)
    assert story is not None  # noqa: S101 - the payout was read before
    return payout, story


async def _payout(visit: Visit) -> Payout:
    context = visit.context
    payout_id = visit.request.path_params["payout_id"]
    return await context.db.read(context.payouts.get, visit.caller, payout_id)


def _asked(visit: Visit, payout: Payout) -> str:
    """Return the name of the account that is configured now, as the engine names it."""
    custodian = visit.context.custodians.get(payout.custodian)
    named = getattr(custodian, "fingerprint", None)
    return "" if named is None else str(named(payout.account, livemode=payout.livemode))


async def ask(visit: Visit) -> Response:
    """`POST …/payouts/{id}/ask`: bring the next look forward."""
    payout, context = await _payout(visit), visit.context
    try:
        name = await context.db.run(
            operator.ask_again,
            context.runtime,
            payout.id,
            by=visit.user.name,
            request_id=visit.act.request_id,
        )
    except NotAllowedError as error:
        return await show(visit, f"Not asked: {error}.", 409)
    context.wake(name)
    return visit.to("payouts", payout.id, done="asked")


async def retry(visit: Visit) -> Response:
    """`POST …/payouts/{id}/retry`: the gate decides again at the mark."""
    _refuse_unless_operates(visit)
    payout, context = await _payout(visit), visit.context
    custodian = context.custodians.get(payout.custodian)
    if custodian is None:
        return await show(visit, _NOT_CONFIGURED, 409)
    try:
        await context.db.run(
            operator.retry,
            context.runtime,
            payout.id,
            custodian.capabilities,
            _asked(visit, payout),
            by=visit.user.name,
            request_id=visit.act.request_id,
        )
    except NotAllowedError as error:
        return await show(visit, f"Not retried: {error}.", 409)
    context.wake(payout.custodian)
    return visit.to("payouts", payout.id, done="retried")


async def confirm_cancel(visit: Visit) -> Response:
    """`GET …/payouts/{id}/cancel`: confirm the amount and the consequence."""
    payout = await _payout(visit)
    return visit.draw(
        "panel/payout_cancel.html",
        section="payouts",
        here="Payouts",
        open_count=await open_count(visit),
        payout=payout,
        row=row_of(payout),
    )


async def cancel(visit: Visit) -> Response:
    """`POST …/payouts/{id}/cancel`."""
    payout, context = await _payout(visit), visit.context
    if payout.final:
        return await show(visit, f"Not canceled: it is {payout.status}.", 409)
    execution = await context.db.read(executions.open_execution_of, payout.id)
    if payout.batch_id is not None and (execution is None or execution["size"] > 1):
        return await show(visit, "Not canceled: it is part of a batch. Cancel the batch.", 409)

    async def note(tx: Tx, detail: str) -> None:
        await note_act(
            tx, visit.request, visit.caller, acts.PAYOUT_CANCELED, payout.id, detail=detail
        )

    try:
        await context.actions.cancel(payout, note=note)
    except Refused as refused:
        return await show(visit, f"Not canceled. {refused.detail}", 409)
    now = await _payout(visit)
    return visit.to("payouts", payout.id, done="canceled" if now.final else "cancel-asked")


async def resolve_form(
    visit: Visit, problem: str | None = None, asked: LookAsked | None = None, code: int = 200
) -> Response:
    """`GET …/payouts/{id}/resolve`: the form for an operator's finding and its evidence."""
    _refuse_unless_operates(visit)
    payout, context = await _payout(visit), visit.context
    custodian = context.custodians.get(payout.custodian)
    capabilities = None if custodian is None else custodian.capabilities
    can = await context.db.read(
        possibilities, context.runtime, payout, capabilities, _asked(visit, payout)
    )
    return visit.draw(
        "panel/payout_resolve.html",
        code,
        section="payouts",
        here="Payouts",
        open_count=await open_count(visit),
        payout=payout,
        row=row_of(payout),
        can=can,
        form=visit.form,
        asked=asked,
        problem=problem,
    )


async def resolve(visit: Visit) -> Response:
    """`POST …/payouts/{id}/resolve`: end the payout as the custodian's record says. It needs the password again."""
    _refuse_unless_operates(visit)
    payout, context, form = await _payout(visit), visit.context, visit.form
    evidence = form.get("evidence", "").strip()
    ending = form.get("as", "")
    if not evidence or len(evidence) > 500:  # noqa: PLR2004 - as much as the evidence keeps
        return await resolve_form(
            visit, "Say what you saw, where and when: 1 to 500 characters.", code=400
        )
    if ending not in {"delivered", "no", "unknown", "yes"}:
        return await resolve_form(visit, "Choose what the custodian's record says.", code=400)
    if not await _is_password(visit):
        return await resolve_form(visit, "The password is wrong. Nothing was done.", code=403)
    custodian = context.custodians.get(payout.custodian)
    looked = form.get("looked", "")
    found = Resolution(
        delivered=ending == "delivered",
        evidence=evidence,
        funds_moved=FundsMoved.UNKNOWN if ending == "delivered" else FundsMoved(ending),
        transfer=form.get("transfer", "").strip() or None,
        looked=int(looked) if looked.isascii() and looked.isdigit() and len(looked) < 10 else None,  # noqa: PLR2004 - more than any number
    )
    try:
        can = _UNDECLARED if custodian is None else custodian.capabilities
        recorder = Recorder(context.runtime, context.payouts, payout.custodian, can)
        asked = await context.db.run(
            operator.resolve,
            recorder,
            context.runtime,
            payout.id,
            found,
            lag=can.console_lags,
            by=visit.user.name,
            request_id=visit.act.request_id,
        )
    except NotAllowedError as error:
        return await resolve_form(visit, f"Not resolved: {error}.", code=409)
    if asked is not None:
        return await resolve_form(visit, asked=asked)
    context.wake(payout.custodian)
    context.wake("deliveries")
    return visit.to("payouts", payout.id, done="resolved")


async def _is_password(visit: Visit) -> bool:
    """Whether the user has entered the own password again; attempts are limited."""
    panel, context = visit.panel, visit.context
    taken = panel.passwords.take(visit.user.id)
    if not taken.allowed:
        detail = "Too many attempts. Nothing was done."
        raise Refused("rate_limited", detail, headers={"Retry-After": str(taken.retry_s)})
    row = await context.db.read(user_by_name, visit.user.name)
    async with panel.comparing:
        given = visit.form.get("password", "")
        return await context.runtime.offload(partial(is_password, row, given))


async def acknowledge(visit: Visit) -> Response:
    """`POST …/payouts/{id}/acknowledge`: close the payout's open entries on the operator's list."""
    _refuse_unless_operates(visit)
    payout, context = await _payout(visit), visit.context
    reason = visit.form.get("reason", "").strip()[:500] or "acknowledged in the panel"
    await context.db.run(close_attention, context.runtime, payout.id, None, reason, visit.act)
    return visit.to("payouts", payout.id, done="acknowledged")


async def resend(visit: Visit) -> Response:
    """`POST …/payouts/{id}/resend`: send an event again, to all subscribers or to one endpoint."""
    payout, context = await _payout(visit), visit.context
    await resend_event(visit, visit.form.get("event", ""), visit.form.get("endpoint") or None)
    context.wake("deliveries")
    return visit.to("payouts", payout.id, done="resent")


async def resend_event(visit: Visit, event_id: str, endpoint_id: str | None) -> None:
    """Send an event again, and record who did. Refused as `Replays.resend` is."""
    context = visit.context

    async def work(tx: Tx) -> None:
        sent = await context.replays.resend(tx, visit.caller, event_id, endpoint_id)
        after = {"endpoints": sent.endpoint_ids}
        await note_act(tx, visit.request, visit.caller, "event_resent", event_id, after=after)

    await context.db.run(work)


async def pause_org(visit: Visit) -> Response:
    """`POST …/payouts/pause`: pause the org's own payouts, as a key of the org can."""
    reason = visit.form.get("reason", "").strip()
    if not 0 < len(reason) <= 500 or not reason.isprintable():  # noqa: PLR2004 - as over HTTP
        raise Refused("invalid_request", "Say why, in 1 to 500 characters.")
    context = visit.context
    await context.db.run(pause, context.runtime, _own(visit), reason, visit.act)
    return visit.to("payouts", done="paused")


async def resume_org(visit: Visit) -> Response:
    """`POST …/payouts/resume`."""
    context = visit.context
    reason = visit.form.get("reason", "").strip()[:500] or "resumed in the panel"
    await context.db.run(resume, context.runtime, _own(visit), reason, visit.act)
    for name in context.custodians:
        context.wake(name)
    return visit.to("payouts", done="resumed")


def _own(visit: Visit) -> Wanted:
    return Wanted(PauseScope.ORG, visit.org, visit.org, visit.mode)


async def attention(visit: Visit) -> Response:
    """`GET …/attention`: the operator's list, including closed entries."""
    context = visit.context
    wanted = {"org": visit.org, "mode": visit.mode}
    rows = await context.db.scan(attention_page, wanted, _MOST_NOTED, 0, everything=True)
    return visit.draw(
        "panel/attention.html",
        section="",
        here="Attention",
        open_count=await open_count(visit),
        rows=[
            {
                "reason": reason_of(each["code"]),
                "code": each["code"] if each["code"] in set(Attention) else "other",
                "payout_id": each["payout_id"],
                "custodian": each["custodian"],
                "detail": each["detail"] if visit.user.everywhere else "",
                "times": each["times"],
                "first_at": from_us(each["first_at"]),
                "closed_at": maybe_from_us(each["closed_at"]),
                "closed_by": _closed_by(visit, each["closed_by"]),
            }
            for each in rows
        ],
        most=_MOST_NOTED,
    )


def _closed_by(visit: Visit, by: str | None) -> str:
    if by in {None, "gateway"} or visit.user.everywhere:
        return by or ""
    return "operator"


def _refuse_unless_operates(visit: Visit) -> None:
    if not visit.operates:
        raise PageError(403, "This needs an operator of the whole gateway. Nothing was done.")
