"""The provider's API over HTTP, with bearer tokens that are refreshed ahead of time.

Source: card-passcode protocol notes, §2 (authentication), §7 (errors).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from adapters.card_passcode.statuses import text_of
from gateway.adapter import CredentialsRefused, Misconfigured, NotSent, RateLimited

if TYPE_CHECKING:
    from gateway.adapter import Tools

#: A token is refreshed when less than this is left, or half of a shorter life.
_MARGIN_S = 300.0
#: The wait after a failed refresh while the old token is still valid.
_AGAIN_S = 30.0
#: The longest `Retry-After` that is honoured.
_MOST_WAIT_S = 3600.0


@dataclass(frozen=True)
class Prepared:
    """A request with its credentials, ready to be sent without any slow step."""

    method: str
    url: URL
    headers: dict[str, str] = field(repr=False)  #: with a token
    body: bytes = field(repr=False)  #: perhaps with a passcode


@dataclass(frozen=True)
class Answer:
    """A response of any shape."""

    status: int
    json: Any = field(repr=False)  #: None if the body is not JSON
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it is a success with a JSON object."""
        return self.status == 200 and isinstance(self.json, dict)  # noqa: PLR2004

    @property
    def detail(self) -> Any:
        """The API's own error text; None if the body is a proxy's page."""
        return self.json.get("detail") if isinstance(self.json, dict) else None

    @property
    def refused_fields(self) -> frozenset[str]:
        """The members of the body that a 422 names; empty if the body is not the API's own."""
        if self.status != 422 or not isinstance(self.detail, list):  # noqa: PLR2004
            return frozenset()
        paths = [each.get("loc") for each in self.detail if isinstance(each, dict)]
        return frozenset(
            str(path[1]) if len(path) > 1 else "(body)"
            for path in paths
            if isinstance(path, list) and path[:1] == ["body"]
        )

    @property
    def not_found(self) -> bool:
        """Whether the API itself reports that the object does not exist; a proxy's 404 says nothing."""
        return self.status == 404 and isinstance(self.detail, str)  # noqa: PLR2004

    @property
    def documented(self) -> bool:
        """Whether the body is an error of the API itself, which has a text beside 401, 403, 404, 429."""
        return isinstance(self.detail, str) and self.detail != ""

    def not_done(self, words: str) -> NotSent:
        """Return the error for a call that did nothing, with the fix if the problem is ours."""
        kinds: dict[int, type[NotSent]] = {
            401: CredentialsRefused,
            403: CredentialsRefused,
            404: Misconfigured,
            429: RateLimited,
        }
        return kinds.get(self.status, NotSent)(words, again_after_s=self.retry_after_s)

    @property
    def words(self) -> str:
        """The answer in one line for the operator, without any echo of the request."""
        if isinstance(self.detail, list):
            told = "; ".join(
                f"{'.'.join(str(part) for part in each.get('loc') or ())}: {text_of(each.get('msg'))}"
                for each in self.detail[:3]
                if isinstance(each, dict) and isinstance(each.get("loc"), list | None)
            )
        else:
            told = text_of(self.detail)
        return f"HTTP {self.status} {told}".strip()[:300]


@dataclass(frozen=True)
class _Bearer:
    token: str = field(repr=False)
    refresh_at: float  #: by the monotonic clock, because a wall clock can be changed
    ends_at: float


class Client:
    """Gets tokens and sends requests. Each adapter has one."""

    def __init__(
        self, base_url: str, client_id: str, client_secret: str, timeout_s: float, tools: Tools
    ) -> None:
        self._base = base_url.rstrip("/")
        self._credentials = {"client_id": client_id, "client_secret": client_secret}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(10, timeout_s))
        self._tools = tools
        self._bearer: _Bearer | None = None
        self._refreshing = asyncio.Lock()

    async def prepare(self, method: str, path: str, document: Any = None) -> Prepared:
        """Make a request to a path below the base URL. Raises NotSent if there is no token."""
        token = await self._token()
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        body = b""
        if document is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(document).encode()
        return Prepared(method, URL(self._base + path, encoded=True), headers, body)

    async def send(self, prepared: Prepared) -> Answer:
        """Send once. Raises aiohttp's errors and TimeoutError. A refused token is not used again."""
        answer = await self._exchange(prepared)
        if answer.status == 401:  # noqa: PLR2004
            bearer = self._bearer
            if bearer and prepared.headers["Authorization"] == f"Bearer {bearer.token}":
                self._bearer = None
        return answer

    async def ask(self, method: str, path: str, document: Any = None) -> Answer:
        """Make a call that moves no money; repeat it once with a fresh token if the old one is refused.

        Raises NotSent if no answer came.
        """
        try:
            answer = await self.send(await self.prepare(method, path, document))
            if answer.status == 401:  # noqa: PLR2004
                answer = await self.send(await self.prepare(method, path, document))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSent(f"{path}: no answer ({type(error).__name__})") from None
        return answer

    async def _token(self) -> str:
        async with self._refreshing:
            bearer, now = self._bearer, self._tools.clock.monotonic()
            if bearer is None or now >= bearer.refresh_at:
                try:
                    bearer = self._bearer = await self._obtain()
                except NotSent:
                    # The old token may still work, so an unavailable login stops nothing yet.
                    if bearer is None or now >= bearer.ends_at:
                        raise
                    bearer = self._bearer = replace(bearer, refresh_at=now + _AGAIN_S)
            return bearer.token

    async def _obtain(self) -> _Bearer:
        prepared = Prepared(
            "POST",
            URL(self._base + "/jwt/client/obtain/token", encoded=True),
            {"Content-Type": "application/json", "Accept": "application/json"},
            json.dumps(self._credentials).encode(),
        )
        asked_at = self._tools.clock.monotonic()
        try:
            answer = await self._exchange(prepared)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSent(f"token: no answer ({type(error).__name__})") from None
        told = answer.json if answer.ok else {}
        token, minutes = told.get("access_token"), told.get("expires_in")
        good = isinstance(token, str) and token.isascii() and token.isprintable()
        if (
            not good
            or not token
            or isinstance(minutes, bool)
            or not isinstance(minutes, int | Decimal)
            or not 0 < minutes <= 60 * 24 * 365
        ):
            raise answer.not_done(
                f"token: {'an answer without a token' if answer.ok else answer.words}"
            )
        life_s = float(minutes) * 60
        return _Bearer(token, asked_at + life_s - min(_MARGIN_S, life_s / 2), asked_at + life_s)

    async def _exchange(self, prepared: Prepared) -> Answer:
        async with self._tools.http.request(
            prepared.method,
            prepared.url,
            data=prepared.body or None,
            headers=prepared.headers,
            skip_auto_headers=("Content-Type",),
            allow_redirects=False,
            timeout=self._timeout,
        ) as answer:
            raw = await answer.read()
            retry_after = answer.headers.get("Retry-After", "")
        try:
            # Amounts stay exact: they must not pass through a float.
            told = json.loads(raw, parse_float=Decimal)
        except (ValueError, RecursionError):
            told = None
        digits = retry_after.isascii() and retry_after.isdigit()
        seconds = min(float(retry_after), _MOST_WAIT_S) if digits else None
        return Answer(answer.status, told, seconds)
