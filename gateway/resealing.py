"""The change of the server key: what is sealed under the previous one, sealed under the present one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.store.database import Tx
from gateway.store.sealed import Sealed, sealed_page, write_sealed
from gateway.vault import Vault


@dataclass(frozen=True)
class Resealed:
    """What a step did. `last`: where the next one goes on; None where there is nothing more."""

    seen: int
    changed: int
    last: Mapping[str, str] | None


async def reseal_some(
    tx: Tx, vault: Vault, what: Sealed, after: Mapping[str, str] | None, limit: int
) -> Resealed:
    """Seal a bounded number of values anew. Store function; may be called again from anywhere.

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
