"""The Fireblocks API over HTTP, with requests signed as the official clients sign them.

Source: fireblocks protocol notes, §5 (errors), §7 (request authentication), §11 (official client).
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from yarl import URL

if TYPE_CHECKING:
    from gateway.adapter import Tools

#: The value that both official clients send; the vendor's support names the same number.
TOKEN_LIFE_S = 55
#: The longest text of the custodian that is stored and shown; a whole page helps nobody.
_MOST_CHARS = 300
#: The longest `Retry-After` that is honoured.
_MOST_WAIT_S = 3600.0
#: Error types that concern us or them and never the request, whatever the status.
_NOT_THE_REQUEST = frozenset({"INTERNAL", "AUTHENTICATION", "AUTHORIZATION", "FORBIDDEN"})
_BURNT = re.compile(r"idempoten|re-?used?\b|internal error", re.IGNORECASE)
_LOCKED = re.compile(r"\block|in progress|active payout|another payout", re.IGNORECASE)
_EXECUTED_BEFORE = re.compile(r"\balready (?:been )?executed\b", re.IGNORECASE)
_DONE_BEFORE = re.compile(r"\b(?:already|twice|(?:was|been) executed)\b", re.IGNORECASE)


def load_private_key(pem: str) -> RSAPrivateKey:
    """Return the RSA key of the API user. A ValueError says what is wrong, without the key."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        msg = "is not an unencrypted PEM private key"
        raise ValueError(msg) from None
    if not isinstance(key, RSAPrivateKey):
        msg = "is not an RSA key; Fireblocks signs with RS256"
        raise ValueError(msg)  # noqa: TRY004 - pydantic reads ValueError
    return key


@dataclass(frozen=True)
class Prepared:
    """A request with its credentials, ready to be sent without any slow step."""

    method: str
    url: URL
    headers: dict[str, str] = field(repr=False)  #: with the API key and a token
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """A response of any shape."""

    status: int
    json: Any  #: None if the body is not JSON
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it is a success with a JSON object; another 2xx does not count (notes, §11)."""
        return self.status == 200 and isinstance(self.json, dict)  # noqa: PLR2004

    @property
    def message(self) -> str:
        """The error's message, in any of the three shapes; empty if the body is not JSON."""
        if not isinstance(self.json, dict):
            return ""
        error = self.json.get("error")
        told = error.get("message") if isinstance(error, dict) else self.json.get("message")
        return told[:_MOST_CHARS] if isinstance(told, str) else ""

    @property
    def kind(self) -> str:
        """The error's type (new APIs) or number (classic), as a word; else the HTTP status."""
        if isinstance(self.json, dict):
            error = self.json.get("error")
            if isinstance(error, dict) and isinstance(error.get("type"), str):
                return str(error["type"])
            if "code" in self.json:
                return str(self.json["code"])
        return str(self.status)

    @property
    def burnt(self) -> bool:
        """Whether an earlier failure on their side used up the key."""
        return self.status == 400 and _BURNT.search(self.message) is not None  # noqa: PLR2004

    @property
    def refusal(self) -> bool:
        """Whether the API itself refused the request, so that the refusal is final.

        A proxy's page, a path that nobody serves, a used-up key and missing rights do not count,
        because a wrong configuration must not fail a payout. A 404 does not count either: create and
        execute document none, so it is about the requested address.
        """
        if self.burnt or not self.message or self.kind in _NOT_THE_REQUEST:
            return False
        return self.status in {400, 422}

    @property
    def documented(self) -> bool:
        """Whether the body is an error of the API itself, in one of its documented shapes."""
        return isinstance(self.json, dict) and self.message != "" and self.kind != str(self.status)

    @property
    def not_found(self) -> bool:
        """Whether the API itself reports that the object does not exist; a proxy's 404 says nothing."""
        known = isinstance(self.json, dict) and ("code" in self.json or self.kind == "NOT_FOUND")
        return self.status == 404 and known  # noqa: PLR2004

    @property
    def locked(self) -> bool:
        """Whether another payout of the same account blocks this one."""
        return _LOCKED.search(self.message) is not None

    @property
    def executed_before(self) -> bool:
        """Whether the API reports that this payout was already executed: an earlier call arrived."""
        known = 400 <= self.status < 500 and not self.locked  # noqa: PLR2004
        return known and _EXECUTED_BEFORE.search(self.message) is not None

    @property
    def done_before(self) -> bool:
        """Whether it may mean that an earlier call arrived."""
        return _DONE_BEFORE.search(self.message) is not None


class Client:
    """Signs and sends requests. Each adapter has one."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        private_key: RSAPrivateKey,
        timeout_s: float,
        tools: Tools,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._api_key = api_key
        self._private_key = private_key
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(10, timeout_s))
        self._tools = tools

    async def prepare(
        self, method: str, path: str, body: bytes = b"", key: str | None = None
    ) -> Prepared:
        """Sign a request to a path below the base URL; the path is already percent-encoded."""
        url = URL(self._base + path, encoded=True)
        now = int(self._tools.clock.now().timestamp())
        claims = {
            "uri": url.raw_path_qs,
            "nonce": str(uuid.UUID(bytes=self._tools.ids.random_bytes(16), version=4)),
            "iat": now,
            "exp": now + TOKEN_LIFE_S,
            "sub": self._api_key,
            "bodyHash": hashlib.sha256(body).hexdigest(),
        }
        sign = partial(jwt.encode, claims, self._private_key, algorithm="RS256")
        token = await self._tools.offload(sign)
        headers = {
            "X-API-Key": self._api_key,
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
        }
        if body:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        return Prepared(method, url, headers, body)

    async def send(self, prepared: Prepared) -> Answer:
        """Send once. Raises aiohttp's errors and TimeoutError."""
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
            told = json.loads(raw)
        except (ValueError, RecursionError):
            told = None
        digits = retry_after.isascii() and retry_after.isdigit()
        seconds = min(float(retry_after), _MOST_WAIT_S) if digits else None
        return Answer(answer.status, told, seconds)

    async def get(self, path: str) -> Answer:
        """Sign and send a GET."""
        return await self.send(await self.prepare("GET", path))
