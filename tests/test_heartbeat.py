"""A gateway's sign of life, and what it finds out about its database on the way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.config.settings import Settings
from gateway.heartbeat import WENT_BACK, Heartbeat, config_digest, identity_of
from gateway.metrics import Metrics
from gateway.runtime import Runtime, real_runtime
from gateway.store import gateways
from gateway.store.database import Database
from gateway.store.gateways import BEAT_S, STALE_S
from gateway.store.opening import open_database, state_file_of
from gateway.store.pinned import AWAY, FileReplaced
from gateway.store.state import advance, frozen
from gateway.store.state_file import StateFile
from tests.clock import SetClock
from tests.databases import make_database
from tests.store.rows import add_payout, runtime_of

SETTINGS: dict[str, Any] = {
    "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "custodians": {"acme": {"adapter": "dummy", "api_key": "hush"}},
}


class Process:
    """What one gateway process has."""

    def __init__(self, db: Database, runtime: Runtime, settings: Settings, file: StateFile) -> None:
        self.db = db
        self.state_file = file
        self.metrics = Metrics()
        self.heartbeat = Heartbeat(
            db=db,
            runtime=runtime,
            identity=identity_of(settings, runtime),
            state_file=file,
            metrics=self.metrics,
            wake_all=lambda: self.woken.append(None),
            gone=self.free,
        )
        #: an entry for each time that all loops were woken
        self.woken: list[None] = []
        #: the gateways whose leases were freed
        self.freed: list[str] = []

    async def free(self, gateway_id: str) -> None:
        self.freed.append(gateway_id)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The configuration."""
    return Settings.model_validate({"database": tmp_path / "g.db", **SETTINGS})


@pytest.fixture
def clock() -> SetClock:
    """The clock of the machine."""
    return SetClock()


@pytest.fixture
async def process(settings: Settings, clock: SetClock) -> AsyncIterator[Process]:
    """A gateway process that has registered."""
    runtime = runtime_of(clock)
    state_file = state_file_of(settings, runtime)
    make_database(settings.database)
    async with open_database(settings, runtime, state_file) as db:
        made = Process(db, runtime, settings, state_file)
        await made.heartbeat.start()
        yield made


def rows(settings: Settings, text: str) -> list[tuple[Any, ...]]:
    """Run a query on the database file."""
    with closing(sqlite3.connect(settings.database)) as connection:
        return connection.execute(text).fetchall()


async def asleep(clock: SetClock) -> None:
    """Wait until the loop has done its beat and sleeps."""
    await asyncio.sleep(0)
    while not clock._moved._waiters:
        await asyncio.sleep(0.001)


async def test_two_gateways_are_registered(
    settings: Settings, clock: SetClock, process: Process
) -> None:
    """Each with a row of its own, one timeline for both; the one that stops signs off."""
    runtime = runtime_of(clock)
    async with open_database(settings, runtime) as db:
        state_file = state_file_of(settings, runtime)
        other = Process(db, runtime, settings, state_file)
        await other.heartbeat.start()
        found = await db.read(gateways.running_gateways)
        assert {row["id"] for row in found} == {process.heartbeat.id, other.heartbeat.id}
        assert len({row["config_digest"] for row in found}) == 1
        assert {row["clock_id"] for row in found} == {clock.moment().clock_id}
        await other.heartbeat.stop()
    (left,) = await process.db.read(gateways.running_gateways)
    assert left["id"] == process.heartbeat.id


async def test_it_beats_every_few_seconds_and_writes_a_row_a_minute(
    settings: Settings, clock: SetClock, process: Process
) -> None:
    """Whatever the wall clock is set to meanwhile. Each row has the marks that were committed before."""
    await process.db.run(advance)
    running = asyncio.create_task(process.heartbeat.run())
    for beat in range(24):
        await asleep(clock)
        clock.step((-3600, 3600)[beat % 2])
        await clock.advance(BEAT_S)
    await asleep(clock)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert rows(settings, "SELECT counter FROM gateways") == [(25,)]
    found = rows(settings, "SELECT marks, elapsed FROM heartbeats ORDER BY id")
    assert found == [(0, 0), (1, 60 * 10**6), (1, 120 * 10**6)]
    assert await process.db.read(frozen) is None


async def test_marks_are_read_before_the_heartbeat_is_dated(
    settings: Settings, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that is committed in between is not claimed to be older than the heartbeat."""
    read = process.db.read

    async def read_then_mark(fn: Any, *args: Any, **kwargs: Any) -> Any:
        found = await read(fn, *args, **kwargs)
        await process.db.run(advance)
        return found

    monkeypatch.setattr(process.db, "read", read_then_mark)
    await process.heartbeat._add_row()
    assert rows(settings, "SELECT marks FROM heartbeats ORDER BY id") == [(0,), (0,)]
    assert rows(settings, "SELECT marks FROM store_state") == [(1,)]


async def test_an_older_copy_under_a_running_gateway(settings: Settings, process: Process) -> None:
    """Its own counter went back: frozen, though no mark was set since the copy."""
    await process.db.run(add_payout)
    copy = rows(settings, "SELECT counter FROM gateways")
    await process.heartbeat.beat()
    with closing(sqlite3.connect(settings.database)) as other:
        other.execute("UPDATE gateways SET counter = ?", copy[0])
        other.execute("UPDATE gateways SET counter = counter - 1")
        other.commit()
    await process.heartbeat.beat()
    assert await process.db.read(frozen) == WENT_BACK
    await process.heartbeat.beat()
    assert rows(settings, "SELECT act FROM audit_log") == [("database_frozen",)]


async def test_a_copy_from_before_the_gateway_was_registered(
    settings: Settings, process: Process
) -> None:
    """The row is gone: frozen, and registered again."""
    with closing(sqlite3.connect(settings.database)) as other:
        other.execute("DELETE FROM gateways")
        other.commit()
    await process.heartbeat.beat()
    assert await process.db.read(frozen) == WENT_BACK
    await process.heartbeat.beat()
    assert rows(settings, "SELECT id, counter FROM gateways") == [(process.heartbeat.id, 1)]


async def test_marks_that_this_process_has_seen(settings: Settings, process: Process) -> None:
    """Are missing from the database: frozen, also where the state file was put back with it."""
    await process.db.run(advance)
    await process.db.run(advance)
    await process.heartbeat.beat()
    with closing(sqlite3.connect(settings.database)) as other:
        other.execute("UPDATE store_state SET marks = 1")
        other.commit()
    settings.state_path.unlink()
    process.state_file.rewrite(1)
    await process.heartbeat.beat()
    reason = await process.db.read(frozen)
    assert reason is not None
    assert "this process has seen 2" in reason


async def test_a_file_that_took_the_databases_place(settings: Settings, process: Process) -> None:
    """Nothing is written to the old file any more, and no mark set; put back, all is as before."""
    await process.db.run(add_payout)
    kept = settings.database.with_name("kept")
    kept.hardlink_to(settings.database)
    shutil.copyfile(settings.database, settings.database.with_name("copy"))
    settings.database.with_name("copy").replace(settings.database)
    with pytest.raises(FileReplaced):
        await process.heartbeat.beat()
    assert AWAY in str(process.state_file.failing)
    assert await process.db.read(frozen) is None
    kept.replace(settings.database)
    await process.heartbeat.beat()
    assert AWAY not in str(process.state_file.failing)
    assert await process.db.run(advance) == 1


async def test_marks_go_on_once_the_state_file_can_be_written(
    settings: Settings, process: Process
) -> None:
    """A full disk or a lost permission is no reason to freeze; every beat tries again."""
    lock = settings.state_path.with_name(settings.state_path.name + ".lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(Exception, match="state file"):
        await process.db.run(advance)
    await process.heartbeat.beat()
    assert "cannot be written" in str(process.state_file.failing)
    lock.rmdir()
    await process.heartbeat.beat()
    assert "cannot be written" not in str(process.state_file.failing)
    assert await process.db.run(advance) == 2
    assert await process.db.read(frozen) is None


async def test_gateways_that_are_gone(
    settings: Settings, clock: SetClock, process: Process
) -> None:
    """Each gateway watches the others; a counter that stands still is reported."""
    runtime = runtime_of(clock)
    async with open_database(settings, runtime) as db:
        other = Process(db, runtime, settings, state_file_of(settings, runtime))
        await other.heartbeat.start()
        for _ in range(4):
            await process.heartbeat.beat()
            assert process.heartbeat.watch.stale(clock.moment().elapsed) == set()
            await clock.advance(BEAT_S)
            await other.heartbeat.beat()
        for _ in range(4):
            await process.heartbeat.beat()
            await clock.advance(BEAT_S)
        assert process.heartbeat.watch.stale(clock.moment().elapsed) == {other.heartbeat.id}


async def test_a_gateway_that_is_gone_is_reported_once(
    settings: Settings, clock: SetClock, process: Process
) -> None:
    """By one of those that see it, and not by those that start in the weeks that its row is kept.

    One that was only stopped for a while raises its counter, and is reported when it stops again.
    """
    runtime = runtime_of(clock)

    async def watched(*watching: Process) -> list[str]:
        with structlog.testing.capture_logs() as logs:
            for _ in range(4):
                await asyncio.gather(*(each.heartbeat.beat() for each in watching))
                await clock.advance(BEAT_S)
        return [each["gateway"] for each in logs if each["event"] == "gateway_gone"]

    async with AsyncExitStack() as stack:

        async def started() -> Process:
            db = await stack.enter_async_context(open_database(settings, runtime))
            made = Process(db, runtime, settings, state_file_of(settings, runtime))
            await made.heartbeat.start()
            return made

        gone, beside = await started(), await started()
        both = asyncio.Barrier(2)

        async def together(_: str) -> None:
            # Both have seen it, and neither has noted it.
            await both.wait()

        for each in (process, beside):
            each.heartbeat._gone = together
        assert await watched(process, beside) == [gone.heartbeat.id]
        for each in (process, beside):
            each.heartbeat._gone = each.free
        later = await started()
        assert await watched(process, beside, later) == []
        assert process.freed == beside.freed == later.freed == []
        await gone.heartbeat.beat()
        assert await watched(process, beside, later) == [gone.heartbeat.id]
        assert gone.heartbeat.id in process.freed + beside.freed + later.freed


async def test_a_gateway_beats_again_before_others_can_have_reported_it(
    clock: SetClock, process: Process
) -> None:
    """While its last beat is recent nothing is written; after a pause it beats, and is reported anew."""

    async def counter() -> int:
        row = await process.db.read(gateways.gateway_pulse, process.heartbeat.id)
        assert row is not None
        return int(row["counter"])

    first = await counter()
    await clock.advance(BEAT_S)
    assert process.heartbeat.is_fresh()
    await process.heartbeat.refresh()
    assert await counter() == first
    await clock.advance(BEAT_S)
    # Just before a counter that stands still shows that its gateway is gone.
    assert STALE_S > 2 * BEAT_S
    assert not process.heartbeat.is_fresh()
    await asyncio.gather(process.heartbeat.refresh(), process.heartbeat.beat())
    assert await counter() > first
    assert process.heartbeat.is_fresh()


async def test_a_gateway_is_not_noted_as_gone_before_its_leases_are_freed(
    settings: Settings, clock: SetClock, process: Process
) -> None:
    """Where that fails, the next process that watches does it."""
    runtime = runtime_of(clock)
    async with open_database(settings, runtime) as db:
        other = Process(db, runtime, settings, state_file_of(settings, runtime))
        await other.heartbeat.start()

        async def fails(_: str) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        process.heartbeat._gone = fails
        for _ in range(3):
            await process.heartbeat.beat()
            await clock.advance(BEAT_S)
        with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
            await process.heartbeat.beat()
        found = await db.read(gateways.running_gateways)
        assert [row["gone_counter"] for row in found] == [None, None]


async def test_what_another_process_commits_wakes_every_loop(
    settings: Settings, process: Process
) -> None:
    """At the next beat, once: another process cannot ring a bell here. Own commits ring none."""
    await process.heartbeat.beat()
    process.woken.clear()
    await process.db.run(add_payout)
    await process.heartbeat.beat()
    assert process.woken == []
    with closing(sqlite3.connect(settings.database)) as other:
        other.execute("UPDATE payouts SET external_ref = 'changed'")
        other.commit()
    await process.heartbeat.beat()
    await process.heartbeat.beat()
    assert process.woken == [None]


async def test_a_beat_alone_costs_two_statements(process: Process) -> None:
    """A process that does nothing beats twelve times a minute."""
    await process.heartbeat.beat()
    before = process.db.statements
    await process.heartbeat.beat()
    assert process.db.statements - before == 2


def test_the_digest_tells_configurations_apart_and_holds_no_secret(settings: Settings) -> None:
    """Every value counts, also that of a custodian's secret; without the server key it says nothing."""
    ids = real_runtime().ids
    own = config_digest(settings, ids)
    assert config_digest(settings.model_copy(), ids) == own

    def digest(**members: Any) -> str:
        base = {"database": settings.database, **SETTINGS}
        return config_digest(Settings.model_validate({**base, **members}), ids)

    assert digest() == own
    custodian = SETTINGS["custodians"]["acme"]
    others = {
        digest(public_url="https://pay.example"),
        digest(custodians={}),
        digest(custodians={"acme": {**custodian, "api_key": "other"}}),
        digest(custodians={"acme": {**custodian, "base_url": "https://other.example"}}),
        digest(custodians={"acme": {**custodian, "display_name": "Acme"}}),
        digest(server_key=base64.b64encode(bytes(32)).decode()),
    }
    assert len(others | {own}) == 7
    document = settings.model_dump(mode="json", exclude={"server_key", "previous_server_key"})
    text = json.dumps({**document, "previous": False}, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] != own


def _samples(metrics: Metrics) -> tuple[float | None, float | None]:
    """Return whether marks are allowed, and how many rows the operator's list has for it."""
    get = metrics.registry.get_sample_value
    code = {"code": "marks_refused"}
    return get("payout_gateway_marks_allowed"), get("payout_gateway_attention", code)


async def test_a_full_disk_is_on_the_operators_list(clock: SetClock, process: Process) -> None:
    """The beat itself cannot be written then: the gauge says so all the same, until one is."""
    assert _samples(process.metrics) == (1, 0)
    connection = process.db._write_connection

    def full(text: str) -> None:
        if text == "COMMIT":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    connection._fault = full
    running = asyncio.create_task(process.heartbeat.run())
    await asleep(clock)
    await clock.advance(BEAT_S)
    with pytest.raises(sqlite3.OperationalError):
        await running
    assert _samples(process.metrics) == (0, 1)
    connection._fault = None
    await process.heartbeat.beat()
    assert _samples(process.metrics) == (1, 0)
