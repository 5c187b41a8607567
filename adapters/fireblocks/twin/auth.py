"""Checks who may call the twin, with a full check of the JWT of the Fireblocks API.

Source: fireblocks protocol notes, sections 5 and 7. Tokens are judged by the shared time, without
the offset of the twin's clock: a client's own clock does not move when the twin's is advanced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.twin.base import Refusal

#: Longest `exp - iat`: both official clients send 55 s.
LONGEST_LIFE_S = 55

BAD_SIGNATURE = -1
NO_API_KEY = -2
NO_TOKEN = -3
OTHER_URI = -4
BAD_TOKEN = -5
OTHER_USER = -6
NOT_ACCEPTED = -7
EXPIRED = -10
ISSUED_IN_FUTURE = -12


class ApiUser:
    """The one API user of the workspace: its key id and its RSA key."""

    def __init__(self, api_key: str, private_key: rsa.RSAPrivateKey) -> None:
        self.api_key = api_key
        self._private_key = private_key

    def __repr__(self) -> str:
        """Return no part of the key."""
        return "ApiUser(…)"

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        """Return the public half of the key, which the custodian holds."""
        return self._private_key.public_key()

    def private_pem(self) -> str:
        """Return the private half of the key, which the client holds, as PEM, PKCS#8."""
        return self._private_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()


def make_key() -> rsa.RSAPrivateKey:
    """Return a fresh RSA key of 2048 bits."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class _NotAdmitted(Exception):
    """A request is refused, with a code of the gateway's list."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Gate:
    """Admits requests, or refuses them with 401, in the gateway's shape or in the documented one."""

    def __init__(self, user: ApiUser, shared_time: Callable[[], float]) -> None:
        self._user = user
        self._shared_time = shared_time
        self._nonces: dict[str, str] = {}
        self.skew_s = 0.0
        self.shape = "gateway"

    def forget_nonces(self) -> None:
        """Forget every nonce seen."""
        self._nonces.clear()

    def admit(self, request: web.Request, body: bytes) -> None:
        """Raise Refusal unless the token is this user's, fresh, and made for this request."""
        try:
            self._check(request, body)
        except _NotAdmitted as no:
            document: dict[str, Any] = {"message": no.message, "code": no.code}
            if self.shape == "documented":
                document = {"error": {"type": "AUTHENTICATION", "message": no.message}}
            raise Refusal(web.json_response(document, status=401)) from None

    def _check(self, request: web.Request, body: bytes) -> None:
        """Raise _NotAdmitted if any part of a token is wrong.

        A nonce is valid once. Only a GET may be repeated with the same token: the official client
        repeats GETs, but never a POST, after a lost connection or a 429.
        """
        claims = self._read_token(request)
        if "sub" not in claims:
            raise _refuse(NO_API_KEY, "API key is missing in the JWT")
        if claims["sub"] != request.headers["X-API-Key"]:
            raise _refuse(OTHER_USER, "JWT was made by another user")
        if claims.get("uri") != request.raw_path:
            raise _refuse(OTHER_URI, "URL in the JWT differs from the URL of the request")
        self._check_times(claims)
        if claims.get("bodyHash") != hashlib.sha256(body).hexdigest():
            raise _refuse(NOT_ACCEPTED, "bodyHash in the JWT differs from the body's")
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not nonce:
            raise _refuse(BAD_TOKEN, "nonce is missing in the JWT")
        use = f"{request.method} {request.raw_path}"
        seen = self._nonces.get(nonce)
        if seen is not None and not (request.method == "GET" and seen == use):
            raise _refuse(NOT_ACCEPTED, "nonce was used before")
        self._nonces[nonce] = use

    def _read_token(self, request: web.Request) -> dict[str, Any]:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _refuse(NO_TOKEN, "JWT is missing")
        api_key = request.headers.get("X-API-Key")
        if api_key is None:
            raise _refuse(NOT_ACCEPTED, "X-API-Key is missing")
        try:
            header = jwt.get_unverified_header(token.strip())
            if header.get("alg") != "RS256" or header.get("typ", "JWT") != "JWT":
                raise _refuse(BAD_TOKEN, "JWT must be signed with RS256")
        except jwt.InvalidTokenError:
            raise _refuse(BAD_TOKEN, "JWT is malformed") from None
        if api_key != self._user.api_key:
            raise _refuse(NOT_ACCEPTED, "API key is not accepted")
        try:
            claims: dict[str, Any] = jwt.decode(
                token.strip(),
                self._user.public_key,
                algorithms=["RS256"],
                # Times are checked below, against our own clock and with the vendor's codes.
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False,
                         "verify_sub": False, "verify_aud": False},
            )  # fmt: skip
        except jwt.InvalidSignatureError:
            raise _refuse(BAD_SIGNATURE, "JWT signature is invalid") from None
        except jwt.InvalidTokenError:
            raise _refuse(BAD_TOKEN, "JWT is malformed") from None
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
        now = self._shared_time()
        if issued > now + self.skew_s:
            raise _refuse(ISSUED_IN_FUTURE, "iat lies in the future")
        if expires <= now - self.skew_s:
            raise _refuse(EXPIRED, "JWT has expired")
        if not 0 < expires - issued <= LONGEST_LIFE_S:
            raise _refuse(EXPIRED, f"exp must lie within {LONGEST_LIFE_S} s of iat")


def _seconds(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse(BAD_TOKEN, f"{name} must be a number")
    return value


def _refuse(code: int, message: str) -> _NotAdmitted:
    return _NotAdmitted(code, message)
