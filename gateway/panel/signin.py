"""Signing in and out."""

from __future__ import annotations

import base64
import hmac
import sqlite3
from functools import partial

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admission import admission_of
from gateway.api.cursors import check_names
from gateway.api.requests import client_address, context_of, read_body, request_id_of
from gateway.errors import Refused
from gateway.limits import client_group
from gateway.logs import get_logger
from gateway.pages.render import headers_of_page
from gateway.panel.access import (
    FORM,
    Panel,
    Visit,
    answered,
    panel_of,
    parsed,
    place_of,
    redirect,
    refuse_other_sites,
    user_of,
)
from gateway.panel.render import draw
from gateway.store.audit import Act
from gateway.store.database import Row
from gateway.store.users import user_by_name
from gateway.users import Claim, begin_session, end_session, form_token, is_genuine, note_failed
from gateway.vault import digest_of

_log = get_logger("panel")
_HEADERS = headers_of_page(script=True, forms=True)
_WRONG = "Name, password or code is wrong. Nobody was signed in."
_SEVERAL_TIMES = "Too many attempts. Wait {} s, then try again."


async def show(request: Request) -> Response:
    """`GET /admin/sign-in`."""

    async def work() -> Response:
        if await user_of(request) is not None:
            return redirect(request, "/admin")
        check_names(request, frozenset({"to"}))
        return _page(request, place_of(request.query_params.get("to", "")))

    return await answered(request, work)


async def sign_in(request: Request) -> Response:
    """`POST /admin/sign-in`: start a session with a new token, even if the browser already had one."""
    return await answered(request, lambda: _sign_in(request))


async def _sign_in(request: Request) -> Response:
    panel, context = panel_of(request), context_of(request)
    refuse_other_sites(request)
    form = parsed(await read_body(request, 8 * 1024))
    to = place_of(form.get("to", ""))
    sent = request.cookies.get(panel.form_cookie, "")
    if not sent or not hmac.compare_digest(form.get(FORM, "").encode(), form_token(sent).encode()):
        return _page(request, to, 403, "The page was open for too long. Try again.")
    claim = Claim(form.get("name", "").strip(), form.get("password", ""), form.get("code", ""))
    wait_s = _must_wait(panel, request, claim.name)
    if wait_s is not None:
        words = _SEVERAL_TIMES.format(wait_s)
        refused = Refused("rate_limited", words, headers={"Retry-After": str(wait_s)})
        refused = await admission_of(request).hold_back(request, refused)
        return _page(request, to, 429, words, claim.name, refused.headers)
    row = await context.db.read(user_by_name, claim.name)
    async with panel.comparing:
        genuine = partial(is_genuine, context.vault, row, claim, context.runtime.clock.now())
        step = await context.runtime.offload(genuine)
    token = None
    if step is not None and row is not None:
        before = request.cookies.get(panel.cookie)
        token = await context.db.run(
            begin_session,
            context.runtime,
            row,
            step,
            Act(row["name"], request_id_of(request)),
            before=None if before is None else digest_of(before),
        )
    if token is None:
        # Record the name only if a user has it, because people type passwords into the wrong field.
        _log.warning("sign_in_failed", user=None if row is None else row["name"])
        limited = admission_of(request).unknown(request)
        if limited is not None:
            raise limited
        answer = _page(request, to, 401, _WRONG, claim.name)
        # Write it after the response, so that the response time does not tell whether the user exists.
        answer.background = BackgroundTask(_note_failure, panel, row, request_id_of(request))
        return answer
    _log.info("signed_in", user=claim.name)
    answer = redirect(request, to)
    _set(panel, answer, panel.cookie, token)
    answer.delete_cookie(panel.form_cookie, path="/", secure=panel.secure, httponly=True)
    return answer


async def _note_failure(panel: Panel, row: Row | None, request_id: str) -> None:
    """Write a failed attempt to the audit log; frequent attempts are sampled."""
    context = panel.context
    if not panel.noted.take("" if row is None else row["id"]).allowed:
        return
    try:
        await context.db.run(note_failed, context.runtime, row, request_id)
    except sqlite3.Error as error:
        _log.error("sign_in_failure_not_noted", exc_info=error)


def _must_wait(panel: Panel, request: Request, name: str) -> int | None:
    """Count an attempt; return for how many seconds further ones are ignored, or None.

    An attempt that the client's limit refuses does not count towards other limits: an attacker at one
    address must not use up the user's attempts at another one.
    """
    client, name = client_group(client_address(request)), name[:64]
    for buckets, who in (
        (panel.clients, client),
        (panel.names_of_clients, f"{client} {name}"),
        (panel.names, name),
    ):
        taken = buckets.take(who)
        if not taken.allowed:
            return taken.retry_s
    return None


async def sign_out(visit: Visit) -> Response:
    """`POST /admin/sign-out`."""
    context, panel = visit.context, visit.panel
    await context.db.run(end_session, context.runtime, visit.user, visit.act)
    answer = redirect(visit.request, "/admin/sign-in")
    answer.delete_cookie(panel.cookie, path="/", secure=panel.secure, httponly=True)
    return answer


def _page(  # noqa: PLR0913 - what the page says
    request: Request,
    to: str,
    code: int = 200,
    problem: str | None = None,
    name: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    panel = panel_of(request)
    sent = request.cookies.get(panel.form_cookie, "")
    fresh = not sent
    if fresh:
        random = context_of(request).runtime.ids.random_bytes(32)
        sent = base64.urlsafe_b64encode(random).rstrip(b"=").decode()
    answer = draw(
        request,
        "panel/sign_in.html",
        code,
        {**_HEADERS, **(headers or {})},
        to=to,
        problem=problem,
        name=name[:64],
        form_token=form_token(sent),
    )
    if fresh:
        _set(panel, answer, panel.form_cookie, sent)
    return answer


def _set(panel: Panel, answer: Response, name: str, value: str) -> None:
    answer.set_cookie(name, value, path="/", secure=panel.secure, httponly=True, samesite="strict")


def refuse_nobody() -> Refused:
    """Return the refusal for a page that does not exist."""
    return Refused("not_found", "There is no such page.")
