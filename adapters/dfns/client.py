"""The Dfns API over HTTP. Only this module knows its headers, its error shape and its rate limit.

Source: dfns protocol notes, §1 (headers), §4 (errors, rate limits).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import aiohttp
from yarl import URL

from adapters.dfns.signing import PrivateKey, SignedCall, UserActionSigner
from gateway.adapter import CredentialsRefused, Misconfigured, NotSent, RateLimited, Tools

_MOST_CHARS = 200
_MOST_WAIT_S = 600.0
_MOST_BYTES = 2 * 1024 * 1024
#: The messages about an old page and a used token, because the vendor has no code for them.
_USED = re.compile(r"already\s+(been\s+)?(used|consumed)", re.IGNORECASE)
_USER_ACTION = re.compile(r"user\s*action|challenge", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A response of any shape."""

    status: int
    json: Any  #: None if the body is not JSON
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it is a success with a JSON object; a 202 waits for a policy."""
        return self.status in {200, 202} and isinstance(self.json, dict)

    @property
    def message(self) -> str:
        """The error's message; empty if the body is not the API's own."""
        error = self.json.get("error") if isinstance(self.json, dict) else None
        told = error.get("message") if isinstance(error, dict) else None
        if told is None and isinstance(self.json, dict):
            told = self.json.get("message")
        return told[:_MOST_CHARS] if isinstance(told, str) else ""

    @property
    def used_token(self) -> bool:
        """Whether the user action token was used before: an earlier call has arrived."""
        return self.status in {400, 403} and _USED.search(self.message) is not None

    @property
    def refusal(self) -> bool:
        """Whether the API itself refused the request, so that the refusal is final.

        A proxy's page, missing rights, a 404 (of another organisation, or a wrong address) and a
        problem with the user action do not count, because a wrong configuration must not fail a payout.
        """
        if not self.message or _USER_ACTION.search(self.message):
            return False
        return self.status in {400, 422}

    @property
    def not_found(self) -> bool:
        """Whether the API itself reports that the object does not exist; a proxy's 404 says nothing."""
        return self.status == 404 and bool(self.message)  # noqa: PLR2004

    @property
    def at_the_door(self) -> bool:
        """Whether the API itself refused the call because of our credentials, plan, address or rate.

        Such a call was not processed. A proxy's page says nothing.
        """
        known = self.status in {401, 402, 403, 404, 429} and bool(self.message)
        return known and not self.used_token

    def not_done(self, words: str) -> NotSent:
        """Return the error for a call that did nothing, with the fix if the problem is ours."""
        kinds: dict[int, type[NotSent]] = {
            401: CredentialsRefused,
            402: Misconfigured,
            403: CredentialsRefused,
            404: Misconfigured,
            429: RateLimited,
        }
        return kinds.get(self.status, NotSent)(words, again_after_s=self.retry_after_s)

    def words(self) -> str:
        """Return one line for the operator."""
        hint = {
            401: "the service account's token is not accepted: renew auth_token",
            402: "this feature is not in the organisation's plan",
            403: "a permission or the user action is missing",
        }.get(self.status, "")
        return " ".join(each for each in (f"HTTP {self.status}", self.message, hint) if each)


class Client:
    """Sends requests. Each adapter has one."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        base_url: str,
        auth_token: str,
        credential_id: str,
        key: PrivateKey,
        timeout_s: float,
        tools: Tools,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._token = auth_token
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(5, timeout_s))
        self._tools = tools
        self._signer = UserActionSigner(credential_id, key, self._post_signing, tools.offload)

    async def get(self, path: str) -> Answer:
        """Read an object. The path is already percent-encoded. Raises NotSent if no answer came."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: bytes) -> Answer:
        """Make a call that needs no user action (a quote). Raises NotSent if no answer came."""
        return await self._ask("POST", path, body)

    async def sign(self, path: str, body: bytes) -> SignedCall:
        """Return a state-changing call, signed. Raises NotSent."""
        return await self._signer.sign(path, body)

    async def send(self, call: SignedCall) -> Answer:
        """Send a signed call. If it is sent twice, at most one is accepted, because its token works only once.

        Raises aiohttp's errors and TimeoutError.
        """
        return await self._request("POST", call.path, call.body, call.token)

    async def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        try:
            return await self._request(method, path, body, None)
        except (aiohttp.ClientError, TimeoutError) as error:
            # This call cannot move money.
            raise NotSent(f"{path}: no answer ({type(error).__name__})") from None

    async def _post_signing(self, path: str, body: bytes) -> dict[str, Any]:
        answer = await self._ask("POST", path, body)
        if answer.status != 200 or not isinstance(answer.json, dict):  # noqa: PLR2004
            raise answer.not_done(f"user action: {answer.words()}")
        return answer.json

    async def _request(
        self, method: str, path: str, body: bytes | None, user_action: str | None
    ) -> Answer:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        if user_action is not None:
            headers["X-DFNS-USERACTION"] = user_action
        async with self._tools.http.request(
            method,
            URL(self._base + path, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=self._timeout,
        ) as answer:
            raw = b""
            async for chunk in answer.content.iter_chunked(65_536):
                raw += chunk
                if len(raw) > _MOST_BYTES:
                    raise aiohttp.ClientPayloadError("the answer is too long")
            retry_after = answer.headers.get("Retry-After", "")
        digits = retry_after.isascii() and retry_after.isdigit()
        seconds = min(float(retry_after), _MOST_WAIT_S) if digits else None
        return Answer(answer.status, _loads(raw), seconds)


def _loads(raw: bytes) -> Any:
    try:
        # Parse numbers exactly, because the vendor writes amounts of quotes as JSON numbers.
        return json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError):
        return None
