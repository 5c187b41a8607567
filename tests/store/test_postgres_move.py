"""`db move`: a SQLite database becomes a PostgreSQL one, and is not used any more."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config.settings import Settings
from gateway.runtime import Ids
from gateway.store.database import Tx
from gateway.store.events import add_events, newest_position
from gateway.store.opening import open_database, state_file_of
from gateway.store.postgres.connection import Server
from gateway.store.postgres.move import Moved, NotMovedError, move
from gateway.store.state import frozen, state_row
from gateway.store.state_file import StateFile
from tests import postgres
from tests.clock import SetClock
from tests.store.faulty import add, names
from tests.store.rows import add_execution, add_payout, runtime_of

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def server() -> Iterator[Server]:
    """An empty database."""
    with postgres.fresh(prepared=False) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A configuration on a file."""
    return Settings.model_validate({"database": tmp_path / "g.db", "server_key": KEY})


async def fill(tx: Tx) -> None:
    """Store function: rows of several tables."""
    moment = SetClock().moment()
    await add(tx, "key-ä")
    for _ in range(3):
        await add_execution(tx, await add_payout(tx), calls=(1, 2), at=moment)
    row = {"org": "acme", "mode": "live", "type": "payout.created", "payout_id": None}
    more = {"sequence": None, "body": b"\x00{}", "created_at": 5}
    await add_events(tx, [{"id": f"evt_{n}", **row, **more} for n in range(5)])


async def run(settings: Settings, server: Server) -> list[Moved]:
    """Move it."""
    clock = SetClock()
    state_file = state_file_of(settings, runtime_of(clock))
    return await move(
        settings.database, server, state_file, operator="me", ids=Ids(clock), at=clock.moment().wall
    )


def tables_of(server: Server) -> list[object]:
    """Return the tables of a target."""
    return postgres.execute(
        server.url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )


async def test_every_row_is_moved(settings: Settings, server: Server) -> None:
    """The target has all of it and goes on with the numbers; the file is frozen, for everybody."""
    async with open_database(settings) as db:
        await db.run(fill)
    with closing(sqlite3.connect(settings.database)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("DELETE FROM events WHERE id = 'evt_4'")
        connection.commit()
    done = {each.table: each.rows for each in await run(settings, server)}
    assert (done["payouts"], done["evidence"], done["events"]) == (3, 6, 4)
    target = Settings.model_validate({"database": server.url, "server_key": KEY})
    async with open_database(target) as db:
        assert await db.read(names) == ["key-ä"]
        state = await db.read(state_row)
        assert (state["frozen"], state["used"]) == (None, True)
        row = {"org": "acme", "mode": "live", "type": "payout.created", "payout_id": None}
        more = {"sequence": None, "body": b"{}", "created_at": 5}
        await db.run(add_events, [{"id": "evt_new", **row, **more}])
        # Not the number of the row that is gone: a subscriber may have it as its cursor.
        assert await db.read(newest_position, "acme", "live") == 6
    async with open_database(settings) as db:
        assert "was moved to" in str(await db.read(frozen))


async def test_a_move_that_fails_is_begun_again(
    settings: Settings, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between the freeze and the commit: the target is empty, and the next try does it all."""
    async with open_database(settings) as db:
        await db.run(fill)
    with monkeypatch.context() as patch:

        def dies(*_: object, **__: object) -> None:
            raise OSError("power cut")

        patch.setattr(StateFile, "rewrite", dies)
        with pytest.raises(NotMovedError, match="power cut"):
            await run(settings, server)
    (row,) = postgres.execute(server.url, "SELECT count(*) AS n FROM payouts")
    assert row["n"] == 0
    async with open_database(settings) as db:
        assert "is being moved to" in str(await db.read(frozen))
    done = {each.table: each.rows for each in await run(settings, server)}
    assert done["payouts"] == 3
    target = Settings.model_validate({"database": server.url, "server_key": KEY})
    async with open_database(target) as db:
        assert await db.read(frozen) is None


async def test_an_older_copy_is_not_moved(settings: Settings, server: Server) -> None:
    """Its state file knows of newer marks: the target would make those calls again."""
    async with open_database(settings) as db:
        await db.run(fill)
    state_file_of(settings, runtime_of(SetClock())).rewrite(99)
    with pytest.raises(NotMovedError, match=r"older copy.*db adopt"):
        await run(settings, server)
    assert tables_of(server) == []
    async with open_database(settings) as db:
        assert "older copy" in str(await db.read(frozen))
    with pytest.raises(NotMovedError, match="older copy"):
        await run(settings, server)


@pytest.mark.parametrize("away", ["copied", "without its state file"])
async def test_a_copied_file_is_not_moved(settings: Settings, server: Server, away: str) -> None:
    """Nobody knows what it lacks, before a gateway has opened it as well."""
    async with open_database(settings) as db:
        await db.run(fill)
    if away == "copied":
        shutil.copy(settings.database, settings.database.with_suffix(".copy"))
        settings.database.with_suffix(".copy").replace(settings.database)
    else:
        state_file_of(settings, runtime_of(SetClock())).path.unlink()
    with pytest.raises(NotMovedError, match="is frozen: the state file"):
        await run(settings, server)
    assert tables_of(server) == []


async def test_what_was_moved_is_not_moved_again(settings: Settings, server: Server) -> None:
    """The target was used, and is another empty database now: the file knows nothing of that use."""
    async with open_database(settings) as db:
        await db.run(fill)
    await run(settings, server)
    with postgres.fresh(prepared=False) as other:
        with pytest.raises(NotMovedError, match="was moved to"):
            await run(settings, replace(other, label=server.label))
        assert tables_of(other) == []


async def test_what_is_not_empty_is_not_written_to(settings: Settings, server: Server) -> None:
    """A target with rows, and a target that a gateway uses."""
    async with open_database(settings) as db:
        await db.run(fill)
    target = Settings.model_validate({"database": server.url, "server_key": KEY})
    async with open_database(target) as db:
        with pytest.raises(NotMovedError, match="in use"):
            await run(settings, server)
        await db.run(add, "a")
    with pytest.raises(NotMovedError, match="has rows in"):
        await run(settings, server)
    async with open_database(settings) as db:
        assert await db.read(frozen) is None


async def test_a_text_that_postgresql_does_not_store(settings: Settings, server: Server) -> None:
    """The row is named; nothing is moved, and the file goes on."""
    async with open_database(settings) as db:
        await db.run(fill)
    with closing(sqlite3.connect(settings.database)) as connection:
        connection.execute("UPDATE api_keys SET hint = 'a' || char(0)")
        connection.commit()
    with pytest.raises(NotMovedError, match=r"NUL character.*key-ä"):
        await run(settings, server)
    async with open_database(settings) as db:
        assert await db.read(frozen) is None
