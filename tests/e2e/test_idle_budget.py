"""What a gateway costs that has nothing to do, in SQL statements. Counted, in the time of a set clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from gateway.app import open_gateway
from gateway.config.settings import Settings
from gateway.runtime import Ids, Runtime
from gateway.store.database import Database
from tests.clock import SetClock
from tests.databases import make_database

#: Statements a minute with one custodian instance: beats of the registry, looks of the loops, a sweep.
MOST = 50
MINUTES = 5


async def test_an_idle_gateway_runs_few_statements(tmp_path: Path) -> None:
    """Fewer than fifty a minute: nobody pays for a gateway that waits."""
    settings = Settings.model_validate(
        {
            "database": tmp_path / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "custodians": {
                "dummy": {
                    "adapter": "dummy",
                    "base_url": "http://127.0.0.1:9/v1",
                    "api_key": "k",
                    "webhook_secret": "s",
                }
            },
        }
    )
    make_database(settings.database)
    clock = SetClock()
    died: list[BaseException] = []
    async with (
        open_gateway(settings, runtime=Runtime(clock=clock, ids=Ids(clock))) as gateway,
        gateway.workers.running(died.append),
    ):
        await _settled(gateway.db, clock)
        before = gateway.db.statements
        for _ in range(MINUTES * 60):
            await clock.advance(1)
            await _settled(gateway.db, clock)
        cost = (gateway.db.statements - before) / MINUTES
    assert not died
    # Below, or the clock was advanced without the loops.
    assert 20 < cost <= MOST


async def _settled(db: Database, clock: SetClock) -> None:
    """Wait until every loop sleeps again: nothing has happened for a few turns."""
    seen: Counter[tuple[int, int]] = Counter()
    async with asyncio.timeout(30):
        while max(seen.values(), default=0) < 5:
            await asyncio.sleep(0.001)
            seen[db.statements, clock.sleepers] += 1
