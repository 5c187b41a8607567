"""Checks who may call the Dfns twin: bearer token, rate limit, and user actions signed with a key.

Source: dfns protocol notes, §1 (headers), §4 (errors and limits), §6 (user action signing). Challenges
and tokens are judged by the shared time, without the offset of the twin's clock.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from adapters.dfns.twin.requests import BadRequest, InitAction, SignAction, read_json
from adapters.twin.base import Refusal

CHALLENGE_LIFE_S = 15 * 60
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class _Action:
    """The call that a challenge or a token is bound to."""

    method: str
    path: str
    payload: str
    until: float


class UserActions:
    """Challenges and user action tokens: single use, bound to method, path and payload."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._keys: dict[str, Any] = {}
        self.token_life_s = 900.0
        self.payload_check = "bytes"
        self.used_token_status = 400
        self.clear()

    def clear(self) -> None:
        """Forget challenges and tokens; keys stay."""
        self._challenges: dict[str, tuple[str, _Action]] = {}
        self._tokens: dict[str, _Action] = {}
        self._used: set[str] = set()

    def register(self, credential_id: str, public_pem: str) -> None:
        """Register a public key (PEM, SPKI) under a credential id."""
        self._keys[credential_id] = serialization.load_pem_public_key(public_pem.encode())

    def init(self, wanted: InitAction) -> dict[str, Any]:
        """Return a challenge for a call."""
        challenge = _base64url(secrets.token_bytes(32))
        identifier = ".".join(_base64url(secrets.token_bytes(n)) for n in (18, 48, 32))
        self._challenges[identifier] = (
            challenge,
            _Action(
                wanted.user_action_http_method,
                wanted.user_action_http_path,
                wanted.user_action_payload,
                self._now() + CHALLENGE_LIFE_S,
            ),
        )
        return {
            "supportedCredentialKinds": [
                {"kind": "Key", "factor": "first", "requiresSecondFactor": False}
            ],
            "challenge": challenge,
            "challengeIdentifier": identifier,
            "externalAuthenticationUrl": "",
            "allowCredentials": {
                "key": [{"type": "public-key", "id": each} for each in self._keys],
                "webauthn": [],
            },
            "attestation": "none",
            "userVerification": "required",
            "rp": {"id": "sandbox", "name": "sandbox"},
        }

    def expire_challenges(self) -> None:
        """Expire every challenge that waits for its signature."""
        self._challenges.clear()

    def sign(self, wanted: SignAction) -> dict[str, str]:
        """Check a signed challenge, use it up, and return the user action token."""
        challenge, action = self._challenges.pop(wanted.challenge_identifier, ("", None))
        if action is None or action.until <= self._now():
            raise BadRequest("challenge is unknown, used or expired", 401)
        assertion = wanted.first_factor.credential_assertion
        key = self._keys.get(assertion.cred_id)
        if key is None:
            raise BadRequest("credential is not registered", 401)
        data = _unbase64url(assertion.client_data)
        _verify(key, _unbase64url(assertion.signature), data)
        told = read_json(data)
        if not isinstance(told, dict) or told.get("type") != "key.get":
            raise BadRequest("clientData: type is not key.get", 401)
        if told.get("challenge") != challenge:
            raise BadRequest("clientData: not the challenge that was given", 401)
        token = _base64url(secrets.token_bytes(48))
        self._tokens[token] = _Action(
            action.method, action.path, action.payload, self._now() + self.token_life_s
        )
        return {"userAction": token}

    def check(self, request: web.Request, body: bytes) -> str:
        """Return the token of a call. Raises BadRequest if it does not allow the call."""
        token = request.headers.get("X-DFNS-USERACTION")
        if token is None:
            raise BadRequest("X-DFNS-USERACTION is missing", 403)
        if token in self._used:
            raise BadRequest("user action token was already used", self.used_token_status)
        action = self._tokens.get(token)
        if action is None or action.until <= self._now():
            raise BadRequest("user action token is unknown or expired", 403)
        if (action.method, action.path) != (request.method, request.raw_path):
            raise BadRequest("user action token was signed for another call", 403)
        if not self._same_payload(action.payload, body):
            raise BadRequest("user action token was signed for another payload", 403)
        return token

    def spend(self, token: str) -> None:
        """Use a token up."""
        self._used.add(token)

    def _same_payload(self, payload: str, body: bytes) -> bool:
        # The vendor's Python client signs "" for an empty object.
        if payload.encode() == body or (payload == "" and body in {b"", b"{}"}):
            return True
        if self.payload_check == "bytes":
            return False
        try:
            return bool(json.loads(payload) == json.loads(body))
        except ValueError:
            return False


class Door:
    """The bearer token and the rate of the organisation."""

    def __init__(self, now: Callable[[], float], token: str) -> None:
        self._now = now
        self._token = token
        self._recent: deque[float] = deque()
        self.per_minute = 1000

    def clear(self) -> None:
        """Forget the requests of the last minute."""
        self._recent.clear()

    def admit(self, request: web.Request, refuse: Callable[[int, str], web.Response]) -> None:
        """Raise Refusal with 401 or 429."""
        now = self._now()
        while self._recent and self._recent[0] <= now - 60:
            self._recent.popleft()
        if len(self._recent) >= self.per_minute:
            limited = refuse(429, "Too many requests")
            limited.headers["Retry-After"] = str(int(self._recent[0] + 60 - now) + 1)
            raise Refusal(limited)
        self._recent.append(now)
        told = request.headers.get("Authorization", "")
        if not secrets.compare_digest(told.encode(), f"Bearer {self._token}".encode()):
            raise Refusal(refuse(401, "Token is missing, malformed or expired"))
        if request.method != "GET" and request.content_type != "application/json":
            raise Refusal(refuse(400, "Content-Type is not application/json"))
        if not request.headers.get("User-Agent"):
            raise Refusal(refuse(400, "User-Agent is missing"))


def make_key() -> ed25519.Ed25519PrivateKey:
    """Return a fresh Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


def private_pem(key: PrivateKey) -> str:
    """Return a private key as PEM, PKCS#8."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def public_pem(key: PrivateKey) -> str:
    """Return its public key as PEM, SPKI."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def credential_id(public: str) -> str:
    """Return a credential id as the vendor's look like."""
    digest = hashlib.sha256(public.encode()).hexdigest()
    return f"cr-{digest[:5]}-{digest[5:10]}-{digest[10:26]}"


def _verify(key: Any, signature: bytes, data: bytes) -> None:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError):
        raise BadRequest("signature does not verify", 401) from None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64url(text: str) -> bytes:
    if "=" in text:
        raise BadRequest("base64url is sent without padding", 401)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise BadRequest("not base64url", 401) from None
