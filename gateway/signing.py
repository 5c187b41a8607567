"""Standard Webhooks 1.0.0 over `id.timestamp.body`: `v1` HMAC-SHA256, `v1a` Ed25519. Pure.

Source: the Standard Webhooks specification (webhooks protocol notes, §1).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import InvalidSignature

PREFIX = "whsec_"
PUBLIC_PREFIX = "whpk_"
SECRET_BYTES = 32  #: the specification allows 24 to 64
TOLERANCE_S = 300


def secret_text(raw: bytes) -> str:
    """Return a signing secret in its text form, `whsec_` and base64."""
    return PREFIX + base64.b64encode(raw).decode()


def secret_bytes(text: str) -> bytes:
    """Return the bytes of a secret in text form. ValueError if it is not one."""
    if not text.startswith(PREFIX):
        msg = "a webhook secret begins with whsec_"
        raise ValueError(msg)
    return base64.b64decode(text.removeprefix(PREFIX), validate=True)


def sign(secret: bytes, message_id: str, at: datetime, body: bytes) -> str:
    """Return one entry of the `webhook-signature` header for these exact bytes."""
    return "v1," + _mac(secret, message_id, str(int(at.timestamp())), body)


def sign_ed25519(seed: bytes, message_id: str, at: datetime, body: bytes) -> str:
    """Return one `v1a` entry of the `webhook-signature` header for these exact bytes."""
    content = f"{message_id}.{int(at.timestamp())}.".encode() + body
    made = Ed25519PrivateKey.from_private_bytes(seed).sign(content)
    return "v1a," + base64.b64encode(made).decode()


def public_key_text(seed: bytes) -> str:
    """Return the public key of an Ed25519 seed in its text form, `whpk_` and base64."""
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return PUBLIC_PREFIX + base64.b64encode(key.public_bytes_raw()).decode()


def headers(
    secrets: Sequence[bytes],
    message_id: str,
    at: datetime,
    body: bytes,
    seeds: Sequence[bytes] = (),
) -> dict[str, str]:
    """Return the three headers; several secrets give several signatures (rotation).

    `seeds`: of Ed25519 keys, for endpoints that want `v1a`, too.
    """
    stamp = str(int(at.timestamp()))
    entries = ["v1," + _mac(secret, message_id, stamp, body) for secret in secrets]
    entries += [sign_ed25519(seed, message_id, at, body) for seed in seeds]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(entries),
    }


def verify(
    secret: bytes,
    sent: Mapping[str, str],
    body: bytes,
    now: datetime,
    tolerance_s: int = TOLERANCE_S,
) -> None:
    """Check a delivery. Every way to be wrong is one error: InvalidSignature."""
    try:
        message_id, stamp = sent["webhook-id"], sent["webhook-timestamp"]
        entries = sent["webhook-signature"].split()
        seconds = int(stamp)
    except (KeyError, ValueError):
        raise InvalidSignature("a webhook header is missing or malformed") from None
    if abs(now.timestamp() - seconds) > tolerance_s:
        raise InvalidSignature("the webhook is too old, or from the future")
    expected = ("v1," + _mac(secret, message_id, stamp, body)).encode()
    if not any(hmac.compare_digest(entry.encode(), expected) for entry in entries):
        raise InvalidSignature("no signature of the webhook fits this secret")


def _mac(secret: bytes, message_id: str, stamp: str, body: bytes) -> str:
    content = f"{message_id}.{stamp}.".encode() + body
    return binascii.b2a_base64(hmac.digest(secret, content, "sha256"), newline=False).decode()
