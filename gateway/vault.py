"""Keys derived from the one server key: sealing secrets at rest, tracking tokens, digests of API keys.

The server key is 32 random bytes from the environment or a file; it is never in the database. While
it is being changed the one before still opens and verifies; nothing new is made with it.
Each use has its own key (HKDF-SHA256, RFC 5869), so that no value of one use can serve another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from typeid import TypeID
from uuid_utils import UUID

from gateway.config.settings import Settings
from gateway.errors import ConfigError
from gateway.runtime import Ids, uuid_bytes_of

_KEY_BYTES = 32
_NONCE_BYTES = 12
#: The length of every MAC.
MAC_BYTES = 16
#: What a client secret begins with.
CLIENT_PREFIX = "pcs_"


class Vault:
    """Seals and opens secrets at rest, and derives tokens that are never stored."""

    def __init__(self, server_key: bytes, ids: Ids, previous: bytes | None = None) -> None:
        for name, key in (("server_key", server_key), ("previous_server_key", previous)):
            if key is not None and len(key) != _KEY_BYTES:
                raise ConfigError(
                    [
                        (
                            f"{name} has {len(key)} bytes; it needs {_KEY_BYTES}, as base64. "
                            "Make one with: head -c 32 /dev/urandom | base64"
                        )
                    ]
                )
        self._ids = ids
        self._previous = None if previous is None else Vault(previous, ids)
        self._seal = AESGCM(self._derive(server_key, b"seal"))
        self._track = self._derive(server_key, b"track")
        self._sandbox = self._derive(server_key, b"sandbox")
        self._client = self._derive(server_key, b"client")
        self._webhooks = self._derive(server_key, b"webhooks")
        self._digest = self._derive(server_key, b"digest")
        self._cursor = self._derive(server_key, b"cursor")

    def __repr__(self) -> str:
        """Show nothing of the keys."""
        return "Vault(…)"

    @staticmethod
    def _derive(server_key: bytes, use: bytes) -> bytes:
        return HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"payout-gateway/" + use).derive(
            server_key
        )

    def digest(self, text: bytes) -> str:
        """Return a keyed digest: equal for equal texts, and it reveals nothing of them."""
        return hmac.new(self._digest, text, hashlib.sha256).hexdigest()

    @property
    def digest_before(self) -> Callable[[bytes], str] | None:
        """Return what made the digests under the previous server key; None if none is set."""
        return None if self._previous is None else self._previous.digest

    def seal(self, secret: bytes, *, bound_to: str) -> bytes:
        """Encrypt a secret for the database; it opens only under the same `bound_to` name."""
        nonce = self._ids.random_bytes(_NONCE_BYTES)
        return nonce + self._seal.encrypt(nonce, secret, bound_to.encode())

    def open(self, sealed: bytes, *, bound_to: str) -> bytes:
        """Decrypt a sealed secret. ConfigError: the server key is another one than at sealing."""
        try:
            return self._seal.decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to.encode()
            )
        except (InvalidTag, ValueError):
            # A ValueError: what is stored is shorter than what anything sealed begins with.
            if self._previous is not None:
                return self._previous.open(sealed, bound_to=bound_to)
            raise ConfigError(
                [
                    (
                        "a stored secret does not open: it is damaged, or server_key is not the one that "
                        "this database was used with"
                    )
                ]
            ) from None

    def reseal(self, sealed: bytes, *, bound_to: str) -> bytes | None:
        """Seal under the present key what opens under the previous one; None: it is already.

        ConfigError if it opens under neither.
        """
        secret = self.open(sealed, bound_to=bound_to)
        try:
            self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to.encode())
        except (InvalidTag, ValueError):
            return self.seal(secret, bound_to=bound_to)
        return None

    def tracking_token(self, payout_id: str) -> str:
        """Return the unguessable token of a payout's public page; derived, never stored."""
        raw = uuid_bytes_of(payout_id)
        return base64.urlsafe_b64encode(raw + self._mac(self._track, raw)).rstrip(b"=").decode()

    def payout_of_token(self, token: str) -> str | None:
        """Return the payout id that a tracking token stands for, or None if it is not genuine."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        payout, mac = raw[:16], raw[16:]
        if len(payout) != 16 or not hmac.compare_digest(mac, self._mac(self._track, payout)):  # noqa: PLR2004
            return None if self._previous is None else self._previous.payout_of_token(token)
        return str(TypeID.from_uuid(UUID(bytes=payout), "pay"))

    def client_secret(self, payout_id: str, action: int) -> str:
        """Return the secret that allows one action of a payout to be answered; derived, never stored."""
        mac = self._mac(self._client, f"{payout_id}|{action}".encode())
        return CLIENT_PREFIX + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def is_client_secret(self, secret: str, payout_id: str, action: int) -> bool:
        """Whether a secret is that of this action of this payout; in constant time."""
        wanted = self.client_secret(payout_id, action)
        if hmac.compare_digest(secret.encode(), wanted.encode()):
            return True
        before = self._previous
        return before is not None and before.is_client_secret(secret, payout_id, action)

    def cursor_mac(self, message: bytes) -> bytes:
        """Return the MAC of a list cursor."""
        return self._mac(self._cursor, message)

    def is_cursor_mac(self, mac: bytes, message: bytes) -> bool:
        """Whether a MAC is that of a list cursor; in constant time."""
        if hmac.compare_digest(mac, self.cursor_mac(message)):
            return True
        return self._previous is not None and self._previous.is_cursor_mac(mac, message)

    def webhook_seeds(self, endpoint_id: str) -> tuple[bytes, ...]:
        """Return the Ed25519 seeds that sign for an endpoint; derived, never stored.

        Two while the server key is changed: receivers may still have the public key of before.
        """
        seed = hmac.new(self._webhooks, endpoint_id.encode(), hashlib.sha256).digest()
        before = () if self._previous is None else self._previous.webhook_seeds(endpoint_id)
        return (seed, *before)

    def sandbox_payout_id(self, org: str, quote_id: str) -> str:
        """Return the payout id of a test-mode quote: the same input gives the same answer."""
        digest = self._mac(self._sandbox, f"{org}|{quote_id}".encode())
        return str(TypeID.from_uuid(UUID(bytes=digest), "pay"))

    @staticmethod
    def _mac(key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, "sha256")[:MAC_BYTES]


def vault_of(settings: Settings, ids: Ids) -> Vault:
    """Return the vault of a configuration."""
    return Vault(settings.server_key_bytes(), ids, settings.previous_server_key_bytes())


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a high-entropy key, as stored; keys are random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()
