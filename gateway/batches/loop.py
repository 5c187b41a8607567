"""Goes on with batches: a step per transaction, in turn, so that no batch holds up another."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from gateway.batches.runner import BatchSteps
from gateway.runtime import Runtime
from gateway.store import batches as rows
from gateway.store.database import Database
from gateway.store.rows import to_us
from gateway.wakeup import Wakeup

#: Batches that are looked at in one round: those that wait at one account must not hide others.
_AT_ONCE = 500
#: How often an open batch is looked at where nothing rings.
_LOOK_S = 1.0
#: However often it rings.
_PAUSE_S = 0.1
#: A batch whose loading was not finished by then is taken for given up: by the wall clock, which may be
#: another one than that of the process that loads it, and at least so long since this process saw it first.
#: The first includes the check of a large file, which goes on while its items are stored: 28 lines a second are
#: enough for the largest one.
_LOAD_S = 3600.0
_SEEN_S = 600.0


class BatchLoop:
    """The loop of batches."""

    def __init__(
        self,
        *,
        db: Database,
        runtime: Runtime,
        steps: BatchSteps,
        idle_s: float,
        wake: Callable[[str], None],
    ) -> None:
        self._db = db
        self._runtime = runtime
        self._steps = steps
        self._idle_s = idle_s
        self._wake = wake
        self._judged_at = float("-inf")
        #: a batch whose loading may have been given up, and when this process saw it first
        self._stale: str | None = None
        self._stale_since = 0.0
        self.wakeup = Wakeup(runtime.clock)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            now = self._runtime.clock.now()
            await self.forget(to_us(now - timedelta(seconds=_LOAD_S)))
            todo = await self._db.read(rows.batches_to_do, to_us(now), _AT_ONCE)
            more = False
            at = self._runtime.clock.monotonic()
            judged = at - self._judged_at >= _LOOK_S
            self._judged_at = at if judged else self._judged_at
            for batch_id in todo:
                stepped = await self._db.run(self._steps.step, batch_id, judged=judged)
                for name in stepped.wake:
                    self._wake(name)
                more = more or stepped.more
            if not more:
                if todo:
                    await self._runtime.clock.sleep(_PAUSE_S)
                await self.wakeup.sleep(_LOOK_S if todo else self._idle_s)

    async def forget(self, before: int) -> None:
        """Delete a batch whose loading was given up, a page at a time: it was begun before, in microseconds.

        May be called at any time; the first calls that find it leave it (`_SEEN_S`).
        """
        stale = await self._db.read(rows.stale_load, before)
        at = self._runtime.clock.monotonic()
        if stale != self._stale:
            self._stale, self._stale_since = stale, at
        if stale is None or at - self._stale_since < _SEEN_S:
            return
        while await self._db.run(rows.drop_loaded, stale, 500) == 500:  # noqa: PLR2004
            pass
