"""Carries out recoveries: a step per transaction, fairly shared, resumed where they stopped."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.settings import EngineSettings
from gateway.runtime import Runtime
from gateway.store.database import Database
from gateway.wakeup import Wakeup
from gateway.webhooks.replay import Replays


class ReplayWorker:
    """The loop of recoveries."""

    def __init__(
        self,
        *,
        db: Database,
        runtime: Runtime,
        replays: Replays,
        engine: EngineSettings,
        wake: Callable[[str], None],
    ) -> None:
        self._db = db
        self._replays = replays
        self._idle_s = engine.idle_s
        self._wake = wake
        self.wakeup = Wakeup(runtime.clock)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            running = await self._db.read(self._replays.running)
            # One step of each: a long recovery does not hold up a short one.
            for recovery_id in running:
                if await self._db.run(self._replays.step, recovery_id):
                    self._wake("deliveries")
            if not running:
                await self.wakeup.sleep(self._idle_s)
