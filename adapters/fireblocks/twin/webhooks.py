"""Webhooks of the Fireblocks twin: envelopes, signatures, keys and the retry plan.

Source: fireblocks protocol notes, section 9. v2 is signed by a detached JWS (RS512) whose key is
found in the JWKS by `kid`; v1 by a bare RSA signature under one fixed key.
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any, Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from adapters.fireblocks.twin.auth import make_key
from adapters.twin.clock import TwinClock
from adapters.twin.outbox import Message

#: The waits between the ten attempts.
RETRY_DELAYS_S = (10, 30, 120, 300, 900, 1800, 3600, 7200, 14_400)

V2_HEADER = "Fireblocks-Webhook-Signature"
V1_HEADER = "Fireblocks-Signature"
_V1_TYPES = {
    "transaction.created": "TRANSACTION_CREATED",
    "transaction.status.updated": "TRANSACTION_STATUS_UPDATED",
}


def is_retried(status: int | None) -> bool:
    """Return whether a delivery with this answer is retried: a 4XX is not, except 408 and 429."""
    return status is None or status >= 500 or status in (408, 429)


class WebhookSigner:
    """The custodian's webhook keys, and the requests signed with them."""

    def __init__(self, clock: TwinClock, key: rsa.RSAPrivateKey, v1_key: rsa.RSAPrivateKey) -> None:
        self._clock = clock
        self._keys = {self._new_kid(): key}
        self._v1_key = v1_key
        self.workspace_id = str(uuid.uuid4())
        self.webhook_id = str(uuid.uuid4())
        self.format: Literal["v2", "v2_and_v1_header", "v1"] = "v2"

    def jwks(self) -> dict[str, Any]:
        """Return the public keys as the JWKS endpoint shows them."""
        return {"keys": [_jwk(kid, key) for kid, key in self._keys.items()]}

    def v1_public_pem(self) -> str:
        """Return the public key of the legacy signature."""
        return (
            self._v1_key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def rotate(self, *, keep_old: bool) -> str:
        """Sign with a new key from now on; return its `kid`."""
        kid, key = self._new_kid(), make_key()
        self._keys = {**(self._keys if keep_old else {}), kid: key}
        return kid

    def message(self, event: str, details: dict[str, Any]) -> Message:
        """Return the signed request for an event about a transaction."""
        now_ms = int(self._clock.now() * 1000)
        if self.format == "v1":
            body = _dump(
                {
                    "type": _V1_TYPES[event],
                    "tenantId": self.workspace_id,
                    "timestamp": now_ms,
                    "data": details,
                }
            )
            return _request(body, {V1_HEADER: self._sign_v1(body)})
        body = _dump(
            {
                "id": str(uuid.uuid4()),
                "eventType": event,
                "resourceId": details["id"],
                "workspaceId": self.workspace_id,
                "webhookId": self.webhook_id,
                "createdAt": now_ms,
                "data": details,
            }
        )
        headers = {V2_HEADER: self._sign_v2(body)}
        if self.format == "v2_and_v1_header":
            headers[V1_HEADER] = self._sign_v1(body)
        return _request(body, headers)

    def forge(self, message: Message, how: str) -> Message:
        """Return a request as a stranger would send it: it claims a completed transaction."""
        document = json.loads(message.body)
        document["data"].update(status="COMPLETED", subStatus="CONFIRMED", txHash="0x" + "f" * 64)
        document["id"] = str(uuid.uuid4())
        body = _dump(document)
        if how == "unsigned":
            return _request(body, {})
        if how == "changed_body":
            kept = {k: v for k, v in message.headers.items() if k in (V1_HEADER, V2_HEADER)}
            return _request(body, kept)
        stranger, kid = make_key(), list(self._keys)[-1]
        if V2_HEADER in message.headers:
            return _request(body, {V2_HEADER: _detached_jws(kid, stranger, body)})
        return _request(body, {V1_HEADER: _rs512(stranger, body)})

    def _sign_v2(self, body: bytes) -> str:
        kid = list(self._keys)[-1]
        return _detached_jws(kid, self._keys[kid], body)

    def _sign_v1(self, body: bytes) -> str:
        return _rs512(self._v1_key, body)

    @staticmethod
    def _new_kid() -> str:
        return f"twin-{uuid.uuid4().hex[:12]}"


def _request(body: bytes, headers: dict[str, str]) -> Message:
    return Message({"Content-Type": "application/json", **headers}, body)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _detached_jws(kid: str, key: rsa.RSAPrivateKey, body: bytes) -> str:
    protected = _base64url(_dump({"alg": "RS512", "kid": kid}))
    signature = key.sign(
        f"{protected}.{_base64url(body)}".encode(), padding.PKCS1v15(), hashes.SHA512()
    )
    return f"{protected}..{_base64url(signature)}"


def _rs512(key: rsa.RSAPrivateKey, body: bytes) -> str:
    return base64.b64encode(key.sign(body, padding.PKCS1v15(), hashes.SHA512())).decode()


def _jwk(kid: str, key: rsa.RSAPrivateKey) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": "RS512",
        "kid": kid,
        "n": _base64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)),
        "e": _base64url(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8)),
    }
