"""The server key and the database: whether they belong together, and how the key is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import ConfigError
from gateway.runtime import Runtime
from gateway.store.database import Database, Tx
from gateway.store.sealed import SEALED, Sealed, note_key, noted_key, sealed_page, write_sealed
from gateway.vault import Vault

#: What the noted digest is made of.
_CHECK = b"the server key of this database"
#: How many values of each column are tried where the digest does not decide.
_TRIED = 20
FOREIGN = (
    "what is stored does not open: server_key is not the one that this database was used with. Set it to that "
    "one; where the key is being changed, set previous_server_key to the one before"
)


async def refuse_foreign_key(tx: Tx, vault: Vault) -> bool:
    """Raise ConfigError if the database was used with another server key. Store function; reads.

    A stored secret that is damaged is no reason: it alone does not open. Returns whether the digest of
    the key has to be noted.
    """
    noted = await noted_key(tx)
    before = vault.digest_before
    if noted == vault.digest(_CHECK) or (before is not None and noted == before(_CHECK)):
        return False
    opened = damaged = 0
    for what in SEALED:
        for row in await sealed_page(tx, what, None, _TRIED):
            try:
                vault.open(row["sealed"], bound_to=what.bound_to(row))
            except ConfigError:
                damaged += 1
            else:
                opened += 1
    # With a digest of another key: the noted one is damaged only if everything else opens.
    if (damaged or not opened) if noted is not None else (damaged and not opened):
        raise ConfigError([FOREIGN])
    return True


async def note_server_key(tx: Tx, runtime: Runtime, vault: Vault) -> None:
    """Note which server key the database is used with. Store function; may be called again."""
    await note_key(tx, vault.digest(_CHECK), runtime.clock.moment().wall)


async def compare_server_key(db: Database, runtime: Runtime, vault: Vault) -> None:
    """Compare the server key with the database, and note it in a new one. ConfigError: a foreign key."""
    if await db.read(refuse_foreign_key, vault):
        await db.run(note_server_key, runtime, vault)


@dataclass(frozen=True)
class Resealed:
    """What a step did. `last`: where the next one goes on; None if there is nothing more."""

    seen: int
    changed: int
    last: Mapping[str, str] | None


async def reseal_some(
    tx: Tx, vault: Vault, what: Sealed, after: Mapping[str, str] | None, limit: int
) -> Resealed:
    """Reseal a bounded number of values. Store function; may be called again from anywhere.

    ConfigError where a value opens under neither key; nothing of its step is changed then.
    """
    rows = await sealed_page(tx, what, after, limit)
    changed = 0
    for row in rows:
        anew = vault.reseal(row["sealed"], bound_to=what.bound_to(row))
        if anew is not None:
            await write_sealed(tx, what, row, anew)
            changed += 1
    more = len(rows) == limit
    last = {each.name: rows[-1][each.name] for each in what.keys} if more else None
    return Resealed(len(rows), changed, last)
