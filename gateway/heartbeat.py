"""A gateway's sign of life: its row in the registry, a counter that it raises, and a row per minute.

The rows per minute prove how much time has passed since a call, where the clock that the call was
dated by is gone. Beside that, every beat compares the database with its state file and with what this
process remembers of it: an older copy that was put in place while it runs is recognised.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from gateway import __version__
from gateway.config.settings import Settings
from gateway.errors import SchemaMismatch, StateFileError
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import GATE_VERSION
from gateway.rules import OwnRules
from gateway.runtime import Ids, Moment, Runtime
from gateway.store import gateways, migrate
from gateway.store.database import Database, Row, Tx
from gateway.store.gateways import BEAT_S, Identity, Watch
from gateway.store.opening import compare
from gateway.store.pauses import active_pauses
from gateway.store.postgres import failover
from gateway.store.postgres.cluster import Cluster
from gateway.store.state import freeze, marks_refused, state_row
from gateway.store.state_file import PROMOTED, StateFile
from gateway.store.unusable import told
from gateway.vault import vault_of

#: A heartbeat row every so many beats: once a minute.
_BEATS_PER_ROW = 12
#: Old rows are deleted every so many beats: once an hour.
_BEATS_PER_PURGE = 720
_DAY_US = 86_400_000_000
#: So long after a beat no other gateway can have seen the counter stand still for `STALE_S`.
_FRESH_US = round(2 * BEAT_S * 1_000_000)
#: How long rows of gateways that are gone are kept.
_KEPT_DAYS = 30
WENT_BACK = "the database was replaced by an older copy while a gateway ran on it"
_log = get_logger("heartbeat")


async def _nothing(_: str) -> None:
    """Do nothing about a gateway that is gone."""


def identity_of(settings: Settings, runtime: Runtime) -> Identity:
    """Return what this process reports about itself."""
    first, last = migrate.schema_range()
    return Identity(
        id=runtime.ids.new("gwy"),
        host=socket.gethostname(),
        pid=os.getpid(),
        version=__version__,
        config_digest=config_digest(settings, runtime.ids),
        schema_from=first,
        schema_to=last,
        gate_version=GATE_VERSION,
    )


def config_digest(settings: Settings, ids: Ids) -> str:
    """Return what tells configurations apart: a keyed digest of every value, by the server key.

    Secrets count as well: a gateway with other credentials is another gateway. Without the server key,
    which is not in the database, nothing can be guessed from it. The password of the database is not in it.
    """
    told: dict[str, Any] = settings.model_dump(
        mode="json", exclude={"server_key", "previous_server_key"}
    )
    told["previous"] = settings.previous_server_key is not None
    document = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return vault_of(settings, ids).digest(b"configuration|" + document.encode())[:16]


class Heartbeat:
    """The registry row of this process."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        identity: Identity,
        state_file: StateFile,
        metrics: Metrics,
        gone: Callable[[str], Awaitable[None]] = _nothing,
        wake_all: Callable[[], None] = lambda: None,
        rules: OwnRules | None = None,
    ) -> None:
        self._rules = rules
        self._db = db
        self._runtime = runtime
        self._identity = identity
        self._state_file = state_file
        self._metrics = metrics
        #: what is done about a gateway whose counter stands still
        self._gone = gone
        #: rings the bell of every loop
        self._wake_all = wake_all
        self._foreign_commits = 0
        #: whether the last look showed another gateway that is not known to be gone
        self._others = False
        #: whether there was a pause at the last look
        self._paused = False
        #: counters since a promoted standby was found
        self._promoted: Watch | None = None
        self._counter = 0
        self._beats = 0
        self._beating = asyncio.Lock()
        #: elapsed time of the last beat
        self._beat_at: int | None = None
        self._refused: str | None = None
        self._stale: set[str] = set()
        self.watch = Watch()

    @property
    def id(self) -> str:
        """This gateway's id."""
        return self._identity.id

    async def start(self) -> None:
        """Register, and write the first heartbeat. StoreUnusable where the database cannot be written."""
        moment = self._runtime.clock.moment()
        with told(self._db.path):
            await self._db.run(
                gateways.register, self._identity, moment, self._runtime.timeline.now()
            )
            await self.beat()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self._runtime.clock.sleep(BEAT_S)
            try:
                await self.beat()
            except sqlite3.OperationalError:
                fault = self._db.write_fault
                self._told("the database cannot be written" if fault is None else fault.words)
                raise

    async def stop(self) -> None:
        """Sign off. A database that cannot be written any more is left as it is."""
        with suppress(sqlite3.Error, SchemaMismatch):
            await self._db.run(gateways.mark_stopped, self.id, self._runtime.timeline.now())

    def is_fresh(self) -> bool:
        """Whether this gateway has beaten so recently that none can have reported it as gone since."""
        if self._beat_at is None:
            # It is not registered yet: nobody watches it.
            return True
        return self._runtime.clock.moment().elapsed - self._beat_at < _FRESH_US

    async def refresh(self) -> None:
        """Beat now, if the last beat is too long ago: for what a gateway that is gone must not hold."""
        if not self.is_fresh():
            await self.beat()

    async def beat(self) -> None:
        """Raise the counter, compare the database with what is known of it, and write what is due."""
        async with self._beating:
            await self._beat()

    async def _beat(self) -> None:
        moment = self._runtime.clock.moment()
        froze, self._counter, marks = await self._db.run(self._raise, moment)
        self._beat_at = moment.elapsed
        self._state_file.seen.note(marks)
        row = await compare(self._db, self._runtime, self._state_file)
        if row["frozen"] == PROMOTED and isinstance(self._state_file, Cluster):
            row = await self._vouch(self._state_file, moment)
        else:
            self._promoted = None
        if self._state_file.failing is not None:
            # Only a write shows that it works again.
            with suppress(StateFileError):
                await self._runtime.offload(lambda: self._state_file.record(marks))
        if froze is not None:
            _log.error("database_frozen", reason=froze)
        await self._report_changes(moment, row)
        if self._beats % _BEATS_PER_ROW == 0:
            await self._add_row()
        if self._beats % _BEATS_PER_PURGE == _BEATS_PER_PURGE - 1:
            await self._purge(moment.clock_id)
        self._beats += 1

    async def _vouch(self, cluster: Cluster, moment: Moment) -> Row:
        """Say that this gateway misses nothing on a promoted standby, and go on once all have said so.

        Called after a heartbeat that has found its own last one, and no mark missing.
        """
        if self._promoted is None:
            # Nobody could beat while there was no primary: who stands still is judged from now on.
            self._promoted = Watch()
            _log.warning("standby_promoted", reason=PROMOTED)
        await self._db.run(failover.vouch, self.id, remembers=cluster.remembers)
        running = await self._db.read(gateways.running_gateways)
        self._promoted.look({each["id"]: each["counter"] for each in running}, moment.elapsed)
        gone = self._promoted.stale(moment.elapsed)
        missing = await self._db.run(failover.thaw, self._runtime.ids, moment.wall, gone)
        if missing:
            _log.warning("standby_not_confirmed", missing=sorted(missing))
        return await compare(self._db, self._runtime, cluster)

    async def _raise(self, tx: Tx, moment: Moment) -> tuple[str | None, int, int]:
        """Store function: raise the counter; freeze the database if it went back.

        Return why it was frozen just now, the counter, and the newest mark.
        """
        raised = await gateways.raise_counter(tx, self.id, moment)
        if raised is None:
            counter, marks = 0, int((await state_row(tx))["marks"])
            await gateways.register(tx, self._identity, moment, self._runtime.timeline.now())
        else:
            counter, marks = int(raised["counter"]), int(raised["marks"])
        reason = self._state_file.seen.check(marks)
        if raised is None or counter <= self._counter:
            reason = WENT_BACK
        froze = reason is not None and await freeze(tx, self._runtime.ids, moment.wall, reason)
        return (reason if froze else None), counter, marks

    async def _report_changes(self, moment: Moment, row: Row) -> None:
        """Tell what changed since the beat before: whether marks are set, what other processes did."""
        own = None if self._rules is None else self._rules.digest
        if self._rules is not None:
            self._rules.note(row["rules_digest"])
        self._told(marks_refused(row, self._state_file.failing, rules=own))
        if row["pauses"] or self._paused:
            pauses = await self._db.read(active_pauses)
            self._metrics.paused((each.scope.value, each.target) for each in pauses)
        self._paused = bool(row["pauses"])
        foreign_commits = self._db.foreign_commits
        if foreign_commits != self._foreign_commits:
            # They may have left work for us, and cannot ring a bell here. The loops look by themselves,
            # too, but seldom.
            self._wake_all()
        elif not self._others:
            # Nobody else is there, and nobody has come.
            return
        self._foreign_commits = foreign_commits
        running = await self._db.read(gateways.running_gateways)
        self.watch.look({each["id"]: each["counter"] for each in running}, moment.elapsed)
        stale = self.watch.stale(moment.elapsed)
        for each in running:
            reported = each["gone_counter"] == each["counter"]
            if each["id"] in stale - self._stale and not reported:
                await self._report_gone(each["id"], each["counter"])
        self._stale = stale
        self._others = any(each["id"] not in {self.id, *stale} for each in running)

    async def _report_gone(self, gateway_id: str, counter: int) -> None:
        """Do what is done about a gateway that is gone; one of those that see it logs it.

        Done before it is noted: where this process dies in between, the next one does it again.
        """
        await self._gone(gateway_id)
        if await self._db.run(gateways.report_gone, gateway_id, counter):
            _log.warning("gateway_gone", gateway=gateway_id)

    def _told(self, refused: str | None) -> None:
        """Log why no marks are set, if that has changed, and set the gauge."""
        if refused != self._refused:
            if refused is not None:
                _log.error("marks_refused", reason=refused)
            else:
                _log.info("marks_allowed")
        self._refused = refused
        self._metrics.marks(allowed=refused is None)

    async def _purge(self, clock_id: str) -> None:
        oldest = await self._db.read(gateways.oldest_call)
        now = self._runtime.timeline.now()
        await self._db.run(
            gateways.purge, oldest, clock_id, now - _DAY_US, now - _KEPT_DAYS * _DAY_US
        )

    async def _add_row(self) -> None:
        # Read, then dated, then written: every mark up to this number was committed before the date.
        marks = (await self._db.read(state_row))["marks"]
        moment = self._runtime.clock.moment()
        await self._db.run(gateways.add_heartbeat, self.id, moment, marks)
