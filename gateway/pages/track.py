"""The public page of one payout, for its recipient: the page itself, and the stream that keeps it current."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.config.settings import Settings
from gateway.limits import HELD, client_group
from gateway.model import Payout
from gateway.pages.files import RELEASE
from gateway.pages.live import NO_ROOM_S, Hub, Stream, Update
from gateway.pages.render import headers_of_page, page, render
from gateway.pages.tracking import Tracking, tracking_of
from gateway.pages.words import Words, accepted_language, words_of

if TYPE_CHECKING:
    from gateway.errors import Refused
    from gateway.runtime import Runtime
    from gateway.store.database import Database
    from gateway.vault import Vault

#: How often the page asks for itself again where no script runs, in seconds.
_REFRESH_S = 20
_VARY = {"Vary": "Accept-Language"}


class Pages:
    """The tracking pages of one process."""

    def __init__(self, settings: Settings, db: Database, runtime: Runtime) -> None:
        self._settings = settings
        self._clock = runtime.clock
        self.hub = Hub(db, runtime, settings.limits, self._look, self.draw)

    def headers(self, language: str, **more: str) -> dict[str, str]:
        """Return the headers of a page in a language."""
        found = headers_of_page(script=True, frames=self._settings.pages.frame_origins)
        return {**found, **more, **_VARY, "Content-Language": language}

    def now(self) -> datetime:
        """Return the wall-clock time."""
        return self._clock.now()

    def seen(self, payout: Payout) -> Tracking:
        """Return what is shown of a payout now."""
        return tracking_of(payout, self._settings, self.now())

    def _look(self, payout: Payout) -> tuple[object, float | None]:
        """Return what is shown now, and for how many seconds it holds if nothing changes."""
        seen = self.seen(payout)
        if seen.expected_at is None:
            return seen, None
        return seen, max(0.05, (seen.expected_at - self.now()).total_seconds())

    def draw(self, payout: Payout, language: str) -> Update:
        """Return the part of the page that changes."""
        seen, words = self.seen(payout), words_of(language)
        html = render("track_live.html", **_values(seen, words, self.now()))
        return Update(tag_of(seen, language), html, seen.final)


def tag_of(seen: Tracking, language: str) -> str:
    """Return the tag of a page: another one where anything that it shows is another."""
    return hashlib.sha256(f"{RELEASE} {language} {seen!r}".encode()).hexdigest()[:20]


def _values(seen: Tracking, words: Words, now: datetime) -> dict[str, Any]:
    return {
        "p": seen,
        "t": words,
        "tag": tag_of(seen, words.language),
        "org": words.sender(seen.org),
        "Org": words.sender(seen.org, first=True),
        "amount": words.amount(seen.amount),
        "left": _left(seen.expected_at, now),
        "code_left": _left(seen.asked.expires_at if seen.asked else None, now),
        "utc": UTC,
    }


def _left(until: datetime | None, now: datetime) -> str:
    """Return how long it is until then: `2:38`, with hours where there are some."""
    seconds = 0 if until is None else max(0, int((until - now).total_seconds()))
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours}:{minutes % 60:02}:{seconds % 60:02}"
    return f"{minutes}:{seconds % 60:02}"


async def show(request: Request) -> Response:
    """`GET /track/{token}`: the page, or a page that says that there is none.

    Carries an `ETag`: a page without a stream asks again with it, and gets 304 where nothing changed.
    """
    language = accepted_language(request.headers.get("accept-language", ""))
    pages = _pages(request)
    payout = await _payout_of(request)
    if payout is None:
        return await _missing(request, language)
    seen, words = pages.seen(payout), words_of(language)
    etag = f'W/"{tag_of(seen, language)}"'
    headers = pages.headers(language, ETag=etag)
    if etag in _tags(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return page(
        "track.html",
        headers=headers,
        now_ms=pages.hub.now_ms(),
        refresh_s=_REFRESH_S,
        **_values(seen, words, pages.now()),
    )


async def stream(request: Request) -> Response:
    """`GET /track/{token}/stream`: server-sent events of the page; 503 where too many are open.

    `v`, or `Last-Event-ID` after a reconnect: the tag of the page that the client has.
    """
    language = accepted_language(request.headers.get("accept-language", ""))
    payout = await _payout_of(request)
    if payout is None:
        return await _missing(request, language)
    if request.method == "HEAD":
        return Response(media_type=Stream.media_type, headers=_VARY)
    hub = _pages(request).hub
    tag = request.headers.get("last-event-id") or request.query_params.get("v")
    host = request.client.host if request.client else None
    viewer = hub.join(payout, client_group(host), language, tag)
    if viewer is None:
        text = "Too many streams are open. The page can be asked for again instead, with its ETag."
        return Response(
            text, 503, {"Retry-After": str(NO_ROOM_S), **_VARY}, media_type="text/plain"
        )
    held = getattr(request.state, HELD, None)
    if held is not None:
        # A new connection may have its place: the page opens another stream, or asks again and again.
        held()
    return Stream(viewer, hub.now_ms)


def _tags(header: str) -> set[str]:
    return {each.strip() for each in header[:1000].split(",")}


async def _payout_of(request: Request) -> Payout | None:
    vault: Vault = request.app.state.context.vault
    payout_id = vault.payout_of_token(request.path_params["token"])
    return None if payout_id is None else await _pages(request).hub.payout(payout_id)


async def _missing(request: Request, language: str) -> Response:
    """Answer a link that is no payout's: always the same, and not too often."""
    admission = request.app.state.admission
    refused: Refused | None = admission.unknown(request)
    if refused is not None:
        refused = await admission.hold_back(request, refused)
    name, code = ("missing", 404) if refused is None else ("many", 429)
    more = {} if refused is None else refused.headers
    headers = {**_pages(request).headers(language), **more}
    root = "../" * (request.url.path.count("/") - 1)
    return page("track_missing.html", code, headers, t=words_of(language), name=name, root=root)


def _pages(request: Request) -> Pages:
    pages: Pages = request.app.state.pages
    return pages
