"""API keys: mint, list, revoke, recognise. A key is shown once and stored as a digest."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import datetime

from gateway.config import Mode
from gateway.errors import Refused
from gateway.runtime import Runtime
from gateway.store import keys as rows
from gateway.store.database import Tx
from gateway.store.rows import from_us, maybe_from_us, to_us
from gateway.vault import digest_of

_ORG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_FORM = re.compile(r"sk_(live|test)_[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True)
class Caller:
    """Who asks: an org in a mode. Every look and every change is scoped by it."""

    org: str
    mode: Mode
    key_id: str


@dataclass(frozen=True)
class MintedKey:
    """A new key. `key` exists here and nowhere else."""

    id: str
    key: str
    org: str
    mode: Mode


@dataclass(frozen=True)
class KeyInfo:
    """What is known of a key afterwards."""

    id: str
    org: str
    mode: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None


async def mint_key(tx: Tx, runtime: Runtime, org: str, mode: Mode) -> MintedKey:
    """Mint a key. ValueError where the org's name is not usable."""
    if not _ORG.fullmatch(org):
        msg = "an org's name has 1 to 63 letters, digits, dots, dashes or underscores"
        raise ValueError(msg)
    secret = base64.urlsafe_b64encode(runtime.ids.random_bytes(32)).rstrip(b"=").decode()
    key = f"sk_{mode}_{secret}"
    key_id = runtime.ids.new("key")
    await rows.insert_key(
        tx,
        key_id=key_id,
        org=org,
        mode=mode,
        digest=digest_of(key),
        hint=f"sk_{mode}_…{key[-4:]}",
        at=to_us(runtime.clock.now()),
    )
    return MintedKey(id=key_id, key=key, org=org, mode=mode)


async def list_keys(tx: Tx) -> list[KeyInfo]:
    """Return all keys, oldest first."""
    return [
        KeyInfo(
            id=row["id"],
            org=row["org"],
            mode=row["mode"],
            hint=row["hint"],
            created_at=from_us(row["created_at"]),
            revoked_at=maybe_from_us(row["revoked_at"]),
        )
        for row in await rows.all_keys(tx)
    ]


async def revoke_key(tx: Tx, runtime: Runtime, key_id: str) -> bool:
    """Revoke a key; False where there is none of that id, or it is revoked."""
    return await rows.revoke_key(tx, key_id, to_us(runtime.clock.now()))


async def recognise(tx: Tx, key: str) -> Caller:
    """Return whose key it is. Refused: `invalid_api_key`, `api_key_revoked`."""
    row = await rows.key_by_digest(tx, digest_of(key)) if _FORM.fullmatch(key) else None
    if row is None:
        raise Refused(
            "invalid_api_key",
            "This API key is not known. Mint one with: payout-gateway keys create",
        )
    if row["revoked_at"] is not None:
        raise Refused("api_key_revoked", f"The API key {row['hint']} was revoked. Use another one.")
    return Caller(org=row["org"], mode=row["mode"], key_id=row["id"])
