"""Verifies Fireblocks' webhooks over the raw bytes, then reads them.

v2 has a detached JWS (RS512) with keys from a JWKS; v1 has a bare RSA signature with one configured
key. Source: fireblocks protocol notes, §9.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
from cryptography.exceptions import InvalidSignature as BadRsa
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from adapters.fireblocks.statuses import TRANSACTION_WORDS, clean
from gateway.adapter import (
    CannotVerify,
    InvalidSignature,
    Notice,
    Ref,
    Report,
    SubStatus,
    Transaction,
)

if TYPE_CHECKING:
    from gateway.adapter import Tools

#: `Cache-Control: max-age` of the vendor's key hosts.
_KEYS_LIFE_S = 3600
#: The least time between fetches after an unknown key id or a failed fetch.
_LEAST_BETWEEN_S = 5
_UNKNOWN = "the key id is not among the custodian's keys"
_TIMEOUT = aiohttp.ClientTimeout(total=10)
#: What a transaction's webhook may report about a payout: its progress, never its end.
_NEWS = frozenset({SubStatus.BROADCAST, SubStatus.CONFIRMING, SubStatus.SETTLING})


def load_public_key(pem: str) -> RSAPublicKey:
    """Return the RSA key of v1. A ValueError says what is wrong."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        msg = "is not a PEM public key"
        raise ValueError(msg) from None
    if not isinstance(key, RSAPublicKey):
        msg = "is not an RSA public key"
        raise ValueError(msg)
    return key


class Verifier:
    """Checks that a webhook is Fireblocks'."""

    def __init__(
        self,
        jwks_url: str | None,
        v1_key: RSAPublicKey | None,
        tools: Tools,
        workspace_id: str | None = None,
    ) -> None:
        self._jwks_url = jwks_url
        self._v1_key = v1_key
        self._workspace_id = workspace_id
        self._tools = tools
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        #: whether the last fetch brought keys
        self._reached = False
        self._fetching = asyncio.Lock()

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise InvalidSignature or CannotVerify, or return.

        Fireblocks signs the webhooks of all its workspaces with the same keys. If our workspace is
        configured, a genuine webhook of another one is therefore refused as well.
        """
        detached = headers.get("fireblocks-webhook-signature")
        bare = headers.get("fireblocks-signature")
        if detached is not None and self._jwks_url is not None:
            await self._verify_v2(detached, body)
        elif bare is not None and self._v1_key is not None:
            _check(self._v1_key, _bytes(bare, urlsafe=False), body)
        else:
            msg = "no signature that this instance is configured to verify"
            raise InvalidSignature(msg)
        # The body is read only after verification, because a stranger may have written it.
        if self._workspace_id is not None and not is_of_workspace(body, self._workspace_id):
            msg = "the webhook is of another workspace than workspace_id"
            raise InvalidSignature(msg)

    async def _verify_v2(self, detached: str, body: bytes) -> None:
        protected, _, signature = detached.partition("..")
        try:
            header = json.loads(_bytes(protected))
            algorithm, kid = header["alg"], header["kid"]
        except (ValueError, KeyError, TypeError, RecursionError):
            msg = "the signature header is malformed"
            raise InvalidSignature(msg) from None
        # The algorithm is pinned: a sender that could choose it could choose `none`, or HMAC with a
        # public key.
        if algorithm != "RS512" or not isinstance(kid, str):
            msg = "the signature is not RS512"
            raise InvalidSignature(msg)
        # RFC 7515, 4.1.11: an extension that is marked critical and not understood must be refused. No
        # extension is understood here, and an empty list of them is not allowed either.
        if "crit" in header:
            msg = "the signature has critical header extensions, and none is understood"
            raise InvalidSignature(msg)
        payload = base64.urlsafe_b64encode(body).rstrip(b"=")
        _check(await self._key(kid), _bytes(signature), protected.encode() + b"." + payload)

    async def _key(self, kid: str) -> RSAPublicKey:
        """Return a key; if it is unknown or old, fetch the keys, one fetch at a time."""
        if not self._is_fresh(kid):
            async with self._fetching:
                if not self._is_fresh(kid):
                    await self._refresh(kid)
        return self._keys[kid]

    def _is_fresh(self, kid: str) -> bool:
        if self._fetched_at is None or kid not in self._keys:
            return False
        return self._tools.clock.monotonic() - self._fetched_at < _KEYS_LIFE_S

    async def _refresh(self, kid: str) -> None:
        """Fetch the keys. A key that is merely old stays in use while the host is unavailable."""
        known, now = kid in self._keys, self._tools.clock.monotonic()
        if self._tried_at is not None and now - self._tried_at < _LEAST_BETWEEN_S:
            if known:
                return
            # Anybody can invent a key id. If keys that were fetched a moment ago do not have it, it
            # counts as forged; a key that Fireblocks has introduced since then is found when the
            # refused webhook is delivered again.
            if self._reached:
                raise InvalidSignature(_UNKNOWN)
            msg = "an unknown key id, and the keys could not be fetched a moment ago"
            raise CannotVerify(msg)
        self._tried_at, self._reached = now, False
        try:
            self._keys = await self._fetch()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            # A webhook that waited behind a hanging host must not wait for it again.
            self._tried_at = self._tools.clock.monotonic()
            if known:
                return
            raise CannotVerify(type(error).__name__) from None
        self._fetched_at, self._reached = now, True
        if kid not in self._keys:
            raise InvalidSignature(_UNKNOWN)

    async def _fetch(self) -> dict[str, RSAPublicKey]:
        assert self._jwks_url is not None  # noqa: S101 - checked by the caller
        async with self._tools.http.get(
            self._jwks_url, timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            if answer.status != 200:  # noqa: PLR2004
                msg = f"the key host answered {answer.status}"
                raise ValueError(msg)
            told = json.loads(await answer.read())
        listed = told.get("keys") if isinstance(told, dict) else None
        keys = dict(_read_keys(listed if isinstance(listed, list) else ()))
        if not keys:
            msg = "the key host gave no keys"
            raise ValueError(msg)
        return keys


def _read_keys(listed: Sequence[object]) -> Iterator[tuple[str, RSAPublicKey]]:
    """Yield the keys that can verify; a key that cannot be read does not affect the others."""
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
            continue
        if entry.get("kty") != "RSA" or entry.get("use", "sig") != "sig":
            continue
        if entry.get("alg", "RS512") != "RS512":
            continue
        try:
            key = jwt.PyJWK(entry, algorithm="RS512").key
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
        if isinstance(key, RSAPublicKey):
            yield entry["kid"], key


def is_of_workspace(body: bytes, workspace_id: str) -> bool:
    """Return whether a verified webhook names a workspace: v2 as `workspaceId`, v1 as `tenantId`."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return False
    named = told.get("workspaceId", told.get("tenantId")) if isinstance(told, dict) else None
    return isinstance(named, str) and named.strip().lower() == workspace_id.lower()


def parse(
    body: bytes,
    network_of: Callable[[str], str | None],
    *,
    believed_for_s: float | None = None,
) -> list[Notice]:
    """Read a v2 or v1 envelope. Raises ValueError if it is neither. Pure."""
    told = json.loads(body)
    if not isinstance(told, dict) or not isinstance(told.get("data", {}), dict):
        msg = "not an envelope"
        raise ValueError(msg)
    data: dict[str, Any] = told.get("data") or {}
    event = told.get("eventType") or told.get("type")
    if not isinstance(event, str):
        msg = "no event type"
        raise ValueError(msg)
    if isinstance(told.get("id"), str) and told["id"]:
        dedup_key = told["id"]
    else:
        # v1 has no notification id, so the same event with the same time is the same notification.
        parts = [
            event,
            data.get("id"),
            data.get("status"),
            data.get("subStatus"),
            told.get("timestamp"),
        ]
        dedup_key = "v1:" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    transaction_id = data.get("id") or told.get("resourceId")
    if not event.lower().startswith("transaction") or not isinstance(transaction_id, str):
        return [Notice((), dedup_key)]
    at = read_time(told.get("createdAt") or told.get("timestamp")) or datetime.fromtimestamp(0, UTC)
    report = _report(transaction_id, data, at, network_of)
    refs = (Ref("transaction", transaction_id),)
    return [Notice(refs, dedup_key, at, report, believed_for_s=believed_for_s)]


def _report(
    transaction_id: str, data: dict[str, Any], at: datetime, network_of: Callable[[str], str | None]
) -> Report | None:
    status = clean(data.get("status"))
    news = TRANSACTION_WORDS.get(status)
    if news not in _NEWS:
        return None
    transaction = Transaction(
        id=transaction_id,
        tx_hash=clean(data.get("txHash")) or None,
        network=network_of(clean(data.get("assetId"))),
        status=status,
        at=at,
    )
    return Report(news, status, transactions=(transaction,), observed_at=at)


def read_time(value: Any) -> datetime | None:
    """Return a time, in seconds or milliseconds; the vendor's prose and samples differ."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 10**14:
        return datetime.fromtimestamp(value / 1000 if value > 10**11 else value, UTC)
    return None


def _bytes(text: str, *, urlsafe: bool = True) -> bytes:
    try:
        return base64.b64decode(
            text.strip() + "=" * (-len(text.strip()) % 4),
            altchars=b"-_" if urlsafe else None,
            validate=True,
        )
    except ValueError:
        msg = "the signature is not base64"
        raise InvalidSignature(msg) from None


def _check(key: RSAPublicKey, signature: bytes, content: bytes) -> None:
    try:
        key.verify(signature, content, PKCS1v15(), SHA512())
    except BadRsa:
        msg = "the signature does not fit"
        raise InvalidSignature(msg) from None
