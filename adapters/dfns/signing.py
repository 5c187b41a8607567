"""User-action signing: init, challenge, signed client data, token; then the call with the same bytes.

Source: dfns protocol notes, §6. A token is for one call: it is bound to method, path and bytes, works
once, and is never logged or stored. Every retry runs the whole flow again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.adapter import NotSent, Offload

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_CURVES = frozenset({"secp256r1", "secp256k1"})
_LEAST_RSA_BITS = 2048
#: Posts JSON below the base URL and returns the JSON object of a success; it raises NotSent otherwise.
Post = Callable[[str, bytes], Awaitable[Mapping[str, Any]]]


def load_private_key(pem: str) -> PrivateKey:
    """Return the key that signs user actions. A ValueError says what is wrong, without the key."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        msg = "is not an unencrypted PEM private key"
        raise ValueError(msg) from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return key
    msg = "is not an Ed25519, P-256, secp256k1 or RSA (2048 bits or more) key"
    raise ValueError(msg)


def sign_client_data(key: PrivateKey, challenge: str) -> tuple[bytes, bytes]:
    """Return client data and signature: raw for Ed25519, DER for ECDSA, PKCS#1 v1.5 for RSA."""
    data = json.dumps({"type": "key.get", "challenge": challenge}, separators=(",", ":")).encode()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return data, key.sign(data)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return data, key.sign(data, ec.ECDSA(hashes.SHA256()))
    return data, key.sign(data, padding.PKCS1v15(), hashes.SHA256())


@dataclass(frozen=True)
class SignedCall:
    """A state-changing call that is ready to be sent, with a token for exactly these bytes."""

    path: str
    body: bytes = field(repr=False)
    token: str = field(repr=False)


class UserActionSigner:
    """Makes user actions with one key."""

    def __init__(
        self, credential_id: str, key: PrivateKey, post: Post, run_elsewhere: Offload
    ) -> None:
        self._credential_id = credential_id
        self._key = key
        self._post = post
        self._offload = run_elsewhere

    async def sign(self, path: str, body: bytes) -> SignedCall:
        """Return the signed POST. It makes two requests, which cannot move money and may be repeated.

        Raises NotSent.
        """
        asked = await self._post(
            "/auth/action/init",
            dump(
                {
                    "userActionPayload": body.decode(),
                    "userActionHttpMethod": "POST",
                    "userActionHttpPath": path,
                    "userActionServerKind": "Api",
                }
            ),
        )
        challenge, identifier = asked.get("challenge"), asked.get("challengeIdentifier")
        if not (isinstance(challenge, str) and isinstance(identifier, str)):
            raise NotSent("user action: an answer to init that is not understood")
        if not self._allowed(asked):
            raise NotSent(
                "user action: this credential id is not registered for the service account; "
                "check credential_id and private_key"
            )
        data, signature = await self._offload(partial(sign_client_data, self._key, challenge))
        assertion = {
            "credId": self._credential_id,
            "clientData": base64url(data),
            "signature": base64url(signature),
        }
        given = await self._post(
            "/auth/action",
            dump(
                {
                    "challengeIdentifier": identifier,
                    "firstFactor": {"kind": "Key", "credentialAssertion": assertion},
                }
            ),
        )
        token = given.get("userAction")
        if not isinstance(token, str) or not token:
            raise NotSent("user action: no token was given")
        return SignedCall(path, body, token)

    def _allowed(self, asked: Mapping[str, Any]) -> bool:
        """Whether our credential is among those that may sign; a missing list allows all."""
        allowed = asked.get("allowCredentials")
        keys = allowed.get("key") if isinstance(allowed, dict) else None
        if not isinstance(keys, list):
            return True
        return any(
            isinstance(each, dict) and each.get("id") == self._credential_id for each in keys
        )


def dump(document: Mapping[str, Any]) -> bytes:
    """Return compact JSON in ASCII, so that payload text and body bytes are the same."""
    return json.dumps(document, separators=(",", ":")).encode()


def base64url(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
