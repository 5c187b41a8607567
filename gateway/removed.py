"""Custodians that were taken out of the configuration while they have open payouts or batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.errors import ConfigError
from gateway.model import Attention
from gateway.runtime import Runtime
from gateway.store import removed as rows
from gateway.store.database import Database, Tx
from gateway.store.payouts import add_attention
from gateway.store.rows import to_us

#: How many payouts of each are listed; the count says how many there are.
_LISTED = 5
_PAGE = 500
PARKED = (
    "its custodian {name} is not in the configuration; configure it again, or resolve the payout"
)


@dataclass(frozen=True)
class Removed:
    """A custodian that is not configured, and what it still has."""

    name: str
    payouts: int
    batches: int
    #: some of the payouts
    some: tuple[str, ...]

    @property
    def fault(self) -> str:
        """The message at start."""
        return f"{self.detail}: configure it until they have ended, or start with --allow-removed, which parks them"

    @property
    def detail(self) -> str:
        """What is wrong, without what to do."""
        has = [
            f"{count} open {word if count == 1 else word + ('es' if word == 'batch' else 's')}"
            for count, word in ((self.payouts, "payout"), (self.batches, "batch"))
            if count
        ]
        more = ", …" if self.payouts > len(self.some) else ""
        some = f" ({', '.join(self.some)}{more})" if self.some else ""
        return (
            f"custodians.{self.name} is not configured any more and has {' and '.join(has)}{some}"
        )


async def find_removed(tx: Tx, configured: Iterable[str]) -> list[Removed]:
    """Return custodians with open payouts or batches that are not configured. A long read."""
    known = set(configured)
    payouts = {
        row["custodian"]: row["n"]
        for row in await rows.open_payouts(tx)
        if row["custodian"] not in known
    }
    batches = {
        row["custodian"]: row["n"]
        for row in await rows.open_batches(tx)
        if row["custodian"] not in known
    }
    return [
        Removed(
            name,
            payouts.get(name, 0),
            batches.get(name, 0),
            tuple(await rows.some_open(tx, name, "", _LISTED)),
        )
        for name in sorted(payouts.keys() | batches.keys())
    ]


async def refuse_removed(
    db: Database, runtime: Runtime, configured: Iterable[str], *, allowed: bool
) -> list[Removed]:
    """Refuse to start while a custodian that is not configured has something open. ConfigError lists it.

    `allowed`: its payouts are parked instead: put on the operator's list, and otherwise left as they are.
    Nothing is sent, looked up or ended for them until it is configured again or an operator resolves them.
    """
    found = await db.scan(find_removed, tuple(configured))
    if not allowed and found:
        raise ConfigError([each.fault for each in found])
    for each in found:
        after: str | None = ""
        while after is not None:
            after = await db.run(_park, runtime, each.name, after)
    return found


async def _park(tx: Tx, runtime: Runtime, name: str, after: str) -> str | None:
    """Store function: put a page of payouts on the operator's list; return where the next one begins."""
    page = await rows.some_open(tx, name, after, _PAGE)
    at = to_us(runtime.clock.now())
    for payout_id in page:
        detail = PARKED.format(name=name)
        await add_attention(tx, payout_id, Attention.CUSTODIAN_REMOVED, detail, at)
    return page[-1] if page else None
