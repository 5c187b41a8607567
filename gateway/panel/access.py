"""Who may open a page of the panel or send a form. Routes declare it, and only this module checks it."""

from __future__ import annotations

import asyncio
import base64
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.api.admission import admission_of, refuse_stranger
from gateway.api.context import ApiContext
from gateway.api.problems import PROBLEMS
from gateway.api.requests import context_of, read_body, request_id_of
from gateway.caller import Caller
from gateway.config.section import ORG
from gateway.config.settings import Mode
from gateway.errors import Refused
from gateway.keys import Scope
from gateway.limits import Buckets
from gateway.logs import get_logger
from gateway.pages.render import headers_of_page
from gateway.panel.render import draw
from gateway.store.audit import Act
from gateway.store.users import note_seen
from gateway.users import Role, User, form_token, is_form_token, is_to_note, session_of

_log = get_logger("panel")
#: The field that every form carries.
FORM = "_form"
#: The field that identifies one rendering of a form.
ONCE = "_once"
#: Endings of API texts that mention the caller's key.
_UNDER_KEY = " under this API key"
#: Of the headers of a refusal, those that its page has too.
_KEPT = frozenset({"Retry-After", "Connection"})
_PLACE = re.compile(r"/admin(/[A-Za-z0-9_.\-]{1,80}){0,6}", re.ASCII)
_HEADERS = headers_of_page(script=True, forms=True)


class PageError(Exception):
    """A page cannot be shown, or a form was not taken; the message says why."""

    def __init__(self, status: int, words: str) -> None:
        self.status = status
        super().__init__(words)


class Panel:
    """What the pages of one process share."""

    def __init__(self, context: ApiContext) -> None:
        self.context = context
        https = context.settings.public_url.startswith("https://")
        self.secure = https
        prefix = "__Host-" if https else ""
        self.cookie, self.form_cookie = f"{prefix}panel", f"{prefix}panel-form"
        clock = context.runtime.clock
        #: limits of one client's attempts, and of its attempts at one name; both refill slowly
        self.clients = Buckets("sign_in", clock, 1 / 10, 20)
        self.names_of_clients = Buckets("sign_in", clock, 1 / 60, 20)
        #: limit of all clients' attempts at one name, large enough that a few clients cannot lock a
        #: user out
        self.names = Buckets("sign_in", clock, 1 / 12, 200)
        #: limit of repeated password checks of a signed-in user; nobody else can exhaust it
        self.passwords = Buckets("password", clock, 1 / 60, 20)
        #: limits of the failed attempts in the audit log, for one user and for unknown names
        self.noted = Buckets("sign_in_noted", clock, 1 / 60, 10)
        #: limit of parallel password checks, because each one needs 64 MiB
        self.comparing = asyncio.Semaphore(2)
        #: the figures of charts, cached briefly
        self.kept: dict[tuple[str, ...], tuple[float, Any]] = {}


def panel_of(request: Request) -> Panel:
    """Return the panel of the application."""
    panel: Panel = request.app.state.panel
    return panel


@dataclass(frozen=True)
class Visit:
    """One request of a signed-in user, about one org in one mode."""

    request: Request
    panel: Panel
    user: User
    token: str
    org: str
    mode: Mode
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def context(self) -> ApiContext:
        """The context that use cases need."""
        return self.panel.context

    @property
    def caller(self) -> Caller:
        """Return the caller for use cases: the org, under the user's name."""
        return Caller(self.org, self.mode, self.user.name, frozenset(Scope))

    @property
    def act(self) -> Act:
        """Return the actor for the audit log."""
        return Act(self.user.name, request_id_of(self.request))

    def may(self, role: str) -> bool:
        """Whether the user has a role, or one that includes it."""
        return self.user.role.includes(Role(role))

    @property
    def operates(self) -> bool:
        """Whether the user is an operator of the whole gateway."""
        return self.user.everywhere and self.may(Role.OPERATOR)

    def path(self, *parts: str) -> str:
        """Return the path of a page of this org and mode."""
        return "/".join(("/admin", self.org, self.mode, *(quote(each, safe="") for each in parts)))

    def to(self, *parts: str, done: str = "") -> Response:
        """Redirect to a page of this org and mode. `done` is the code of the completed action."""
        return redirect(self.request, self.path(*parts) + (f"?done={done}" if done else ""))

    def draw(self, template: str, code: int = 200, **values: Any) -> Response:
        """Return a page of the panel."""
        values = {"done": self.request.query_params.get("done", ""), "problem": None} | values
        values["problem"] = _for_people(values["problem"])
        return draw(
            self.request,
            template,
            code,
            _HEADERS,
            visit=self,
            form_token=form_token(self.token),
            once_token=_drawing(self.context),
            now=self.context.runtime.clock.now(),
            display=display_name(self.context, self.org),
            **values,
        )


Handler = Callable[[Visit], Awaitable[Response]]
OpenHandler = Callable[[Request], Awaitable[Response]]


def _drawing(context: ApiContext) -> str:
    return base64.urlsafe_b64encode(context.runtime.ids.random_bytes(16)).rstrip(b"=").decode()


def display_name(context: ApiContext, org: str) -> str:
    """Return the display name of an org."""
    found = context.settings.orgs.get(org)
    return org if found is None or found.display_name is None else found.display_name


def root_of(request: Request) -> str:
    """Return the relative path from a page to the root; links are relative, so that a proxy may add a prefix."""
    return "../" * (request.url.path.count("/") - 1) or "./"


def redirect(request: Request, path: str) -> Response:
    """Redirect to a path of the panel."""
    return RedirectResponse(root_of(request) + path.removeprefix("/"), 303, headers=dict(_HEADERS))


def place_of(text: str) -> str:
    """Return the path that was sent if it is in the panel, else the panel's root, so no link leads to another site."""
    return text if _PLACE.fullmatch(text) else "/admin"


def signed_in(role: Role, handler: Handler, *, form_bytes: int | None = 64 * 1024) -> OpenHandler:
    """Let users with a role open a page or send its form.

    If `form_bytes` is None, the handler reads the body and checks `FORM` itself with `refuse_forged`.
    """

    async def guarded(request: Request) -> Response:
        return await answered(request, lambda: _admitted(request, role, handler, form_bytes))

    return guarded


async def answered(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """Return the response of a handler, or a page that says what went wrong."""
    try:
        return await work()
    except PageError as error:
        return problem_page(request, error.status, str(error))
    except Refused as refused:
        return await _refusal(request, refused)
    except sqlite3.OperationalError as error:
        _log.error("store_unavailable", request_id=request_id_of(request), exc_info=error)
        return problem_page(request, 503, "The store cannot be reached now. Try again in a moment.")
    except Exception as error:  # noqa: BLE001 - whatever failed, a page says so, and the log why
        _log.error("internal_error", request_id=request_id_of(request), exc_info=error)
        words = (
            "This page could not be loaded. No payout was touched. Try again."
            if request.method in {"GET", "HEAD"}
            else "The gateway failed, and what was asked for may have been done. Open the page again and look."
        )
        return problem_page(request, 500, words)


def problem_page(
    request: Request, code: int, words: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a page that says what went wrong, with the request's id."""
    return draw(
        request,
        "panel/problem.html",
        code,
        {**_HEADERS, **(headers or {})},
        words=words,
        request_id=request_id_of(request),
    )


async def _refusal(request: Request, refused: Refused) -> Response:
    refused = refuse_stranger(request, refused, PROBLEMS[refused.code].status)
    if refused.code == "rate_limited":
        refused = await admission_of(request).hold_back(request, refused)
    status = PROBLEMS[refused.code].status
    kept = {name: value for name, value in refused.headers.items() if name in _KEPT}
    return problem_page(request, status, _for_people(refused.detail) or "", kept)


def _for_people(detail: str | None) -> str | None:
    """Return an API text without mentions of an API key, which users of the panel do not have."""
    return None if detail is None else detail.replace(_UNDER_KEY, " in this organisation and mode")


async def user_of(request: Request) -> tuple[User, str] | None:
    """Return the signed-in user and the session's token; None if nobody is signed in."""
    panel, context = panel_of(request), context_of(request)
    token = request.cookies.get(panel.cookie, "")
    if not token:
        return None
    user = await context.db.read(session_of, context.runtime, token)
    return None if user is None else (user, token)


async def _admitted(
    request: Request, role: Role, handler: Handler, form_bytes: int | None
) -> Response:
    found = await user_of(request)
    if found is None:
        # A user who was signed out returns to the page; a form is not sent again automatically.
        to = request.url.path if request.method in {"GET", "HEAD"} else ""
        return redirect(request, f"/admin/sign-in?to={place_of(to)}" if to else "/admin/sign-in")
    user, token = found
    admission_of(request).admit(request, user.id)
    org, mode = request.path_params.get("org", user.org or ""), request.path_params.get("mode")
    if (user.org is not None and org != user.org) or (org and not ORG.fullmatch(org)):
        raise Refused("not_found", "There is no such page.")
    if mode not in {None, "live", "test"}:
        raise Refused("not_found", "There is no such page.")
    if not user.role.includes(role):
        words = f"This needs the role {role}; you are {user.role}. Nothing was done."
        raise PageError(403, words)
    request.scope["state"] |= {"org": org, "mode": mode}
    form: dict[str, str] = {}
    if request.method == "POST":
        refuse_other_sites(request)
        if form_bytes is not None:
            form = parsed(await read_body(request, form_bytes))
            refuse_forged(form, token)
    if is_to_note(panel_of(request).context.runtime, user):
        # The disk may be full; a later request updates the session.
        with suppress(sqlite3.Error):
            context = context_of(request)
            await context.db.run(note_seen, user.session, context.runtime.clock.moment().wall)
    chosen: Mode = "test" if mode == "test" else "live"
    return await handler(Visit(request, panel_of(request), user, token, org, chosen, form))


def refuse_other_sites(request: Request) -> None:
    """Refuse a request that another site has sent, according to the browser. Raises PageError."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise _forged()


def refuse_forged(form: Mapping[str, str], token: str) -> None:
    """Refuse a form that was not made for this session. Raises PageError."""
    if not is_form_token(form.get(FORM, ""), token):
        raise _forged()


def _forged() -> PageError:
    return PageError(
        403,
        "This form is out of date, or another site has sent it. Nothing was done. Open the page again.",
    )


def parsed(body: bytes) -> dict[str, str]:
    """Return the fields of a form; several values of one name are joined by spaces. Refused: `invalid_request`."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=200,
            errors="strict",
        )
    except ValueError:
        raise Refused("invalid_request", "The form cannot be read.") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields[name] = f"{fields[name]} {value}" if name in fields else value
    return fields
