"""Partitions of events, deliveries and tries: where rows go, what is dropped and what is not."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import insert, update

from gateway.config.settings import Settings
from gateway.runtime import Ids
from gateway.store import migrate
from gateway.store.database import Database, Query, Tx
from gateway.store.deliveries import attempts_of_payout, deliver_again, old_events
from gateway.store.endpoints import add_recovery
from gateway.store.events import add_events, events_of, feed
from gateway.store.months import FIRST_END, Left, Month, Span
from gateway.store.opening import open_database, state_file_of
from gateway.store.postgres import partitions as under_test
from gateway.store.postgres import schema
from gateway.store.postgres.connection import Server
from gateway.store.postgres.move import move
from gateway.store.postgres.partition_tables import of_month
from gateway.store.schema import deliveries, delivery_attempts, endpoints, payouts, recoveries
from tests import postgres
from tests.clock import SetClock
from tests.store.rows import add_payout, runtime_of
from tests.store.test_months import us
from tests.store.test_postgres_opening import KEY, settings_of
from tests.store.test_postgres_upgrade import _FIRST, _shape

_NUMBERS = itertools.count(1)
NOVEMBER, DECEMBER = Month.at(us(2026, 11)), Month.at(us(2026, 12))
FIRST = Span(0, FIRST_END)
ONLY_FIRST = Left([FIRST], [FIRST])
#: What is older is not kept, long after both months.
LATER = us(2027, 6)
_PARTITIONS = "SELECT inhrelid::regclass::text AS name FROM pg_inherits ORDER BY 1"
_PLACES = "SELECT tableoid::regclass::text AS place, position FROM events ORDER BY position"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_PAUSE_S", 0.05)


@pytest.fixture
def server() -> Iterator[Server]:
    """A database of its own: tests leave other tables behind."""
    with postgres.fresh(prepared=False) as server:
        postgres.in_thread(schema.prepare(server))
        yield server


def months_of(server: Server) -> set[str]:
    """Return the months that have partitions; each has all three of them."""
    names = {row["name"] for row in postgres.execute(server.url, _PARTITIONS)}
    names = {name.removeprefix('"').removesuffix('"') for name in names if "_20" in name}
    months = {name.removeprefix("events_") for name in names if name.startswith("events_2")}
    tables = ("events", "deliveries", "delivery_attempts")
    assert {name for name in names if not name.endswith(("_pkey",))} >= {
        f"{table}_{month}" for table in tables for month in months
    }
    return months


async def tell(tx: Tx, /, payout_id: str | None, at: int, **columns: Any) -> int:
    """Store function: add an event; return its position."""
    row = {
        "id": f"evt_{next(_NUMBERS):06}",
        "org": "acme",
        "mode": "live",
        "type": "payout.created",
        "payout_id": payout_id,
        "sequence": next(_NUMBERS) if payout_id else None,
        "body": b"{}",
        "created_at": at,
    }
    (position,) = await add_events(tx, [{**row, **columns}])
    return position


async def add_endpoint(tx: Tx) -> str:
    """Store function: add an endpoint; return its id."""
    values: dict[str, Any] = {
        column.name: None if column.nullable else 0 for column in endpoints.columns
    } | {
        "id": f"whe_{next(_NUMBERS)}",
        "org": "acme",
        "mode": "live",
        "url": "https://example.com",
        "event_types": "[]",
        "headers": "{}",
        "secret": b"",
        "status": "enabled",
    }
    await tx.all(Query(insert(endpoints)), **values)
    return str(values["id"])


async def deliver(tx: Tx, position: int, endpoint_id: str, state: str, tried_at: int) -> None:
    """Store function: add a delivery with one try."""
    row = {"position": position, "endpoint_id": endpoint_id, "trigger": "scheduled"}
    delivery = {"state": state, "attempts": 1, "due_at": 0, "lease_token": 0, "plan_from": 0}
    settled = None if state == "pending" else tried_at
    await tx.all(Query(insert(deliveries)), **row, **delivery, settled_at=settled)
    attempt = {"attempt": 1, "outcome": "delivered", "http_status": 200, "response_snippet": None}
    times = {"started_at": tried_at, "duration_ms": 1, "next_attempt_at": None}
    await tx.all(Query(insert(delivery_attempts)), **row, **attempt, **times)


async def recover(tx: Tx, endpoint_id: str) -> None:
    """Store function: begin to send again what an endpoint missed since November."""
    times = {"since": us(2026, 11, 1), "until": LATER, "created_at": LATER}
    scope = {"org": "acme", "mode": "live", "endpoint_id": endpoint_id}
    await add_recovery(tx, id="rec_1", **scope, **times)


async def end(tx: Tx, payout_id: str) -> None:
    """Store function: end a payout."""
    query = Query(update(payouts).where(payouts.c.id == payout_id).values(status="delivered"))
    await tx.all(query)


async def sweep(db: Database, now: int, before: int = 0, tries_before: int = 0) -> Left:
    """Sweep the partitions at a time."""
    assert db.months is not None
    return await db.months.sweep(now, before, tries_before)


async def an_old_event(db: Database) -> tuple[str, int, str]:
    """Leave a delivered event of an ended payout in November, and begin December."""
    await sweep(db, us(2026, 11))
    payout_id = await db.run(add_payout, "delivered")
    endpoint_id = await db.run(add_endpoint)
    position = await db.run(tell, payout_id, us(2026, 11, 5))
    await db.run(deliver, position, endpoint_id, "delivered", us(2026, 11, 6))
    await sweep(db, us(2026, 12))
    return payout_id, position, endpoint_id


async def test_events_over_the_border_of_months(server: Server) -> None:
    """Positions rise, each month's rows lie in its partition, and a reader of the feed sees each."""
    async with open_database(settings_of(server)) as db:
        before = await db.run(tell, None, us(2026, 11, 1))
        told = []
        for at in (us(2026, 11, 30), us(2026, 12) - 1, us(2026, 12), us(2027, 1, 7)):
            await sweep(db, at)
            told.append(await db.run(tell, None, at))
        assert [before, *told] == [
            1,
            NOVEMBER.first,
            NOVEMBER.first + 1,
            DECEMBER.first,
            DECEMBER.end,
        ]
        rows, _ = await db.read(feed, "acme", "live", 0, 10, {})
        assert [row["position"] for row in rows] == [before, *told]
    places = [row["place"] for row in postgres.execute(server.url, _PLACES)]
    assert places == [
        "events_first",
        "events_2026_11",
        "events_2026_11",
        "events_2026_12",
        "events_2027_01",
    ]
    assert months_of(server) == {"2026_11", "2026_12", "2027_01", "2027_02", "2027_03"}


async def test_without_a_sweep_events_go_on_in_the_last_month(server: Server) -> None:
    """No insert needs a partition that is not there; a time that goes back changes nothing."""
    async with open_database(settings_of(server)) as db:
        assert await db.run(tell, None, us(2030, 1)) == 1
        await sweep(db, us(2026, 12))
        assert await db.run(tell, None, us(2030, 1)) == DECEMBER.first
        await sweep(db, us(2026, 11))
        assert await db.run(tell, None, us(2030, 1)) == DECEMBER.first + 1


async def test_an_event_is_unique_in_all_months(server: Server) -> None:
    """Neither an id nor a number of a payout's events comes a second time, whatever was dropped."""
    async with open_database(settings_of(server)) as db:
        payout_id = await db.run(add_payout, "delivered")
        await sweep(db, us(2026, 11))
        await db.run(tell, payout_id, us(2026, 11, 5), id="evt_a", sequence=1)
        await db.run(tell, payout_id, us(2026, 11, 5), id="evt_b", sequence=2)
        for _ in range(2):
            for clash in ({"id": "evt_a", "sequence": 3}, {"id": "evt_c", "sequence": 2}):
                with pytest.raises(sqlite3.IntegrityError):
                    await db.run(tell, payout_id, us(2026, 12, 5), **clash)
            await sweep(db, us(2026, 12))
        await sweep(db, us(2026, 12), LATER)
        assert months_of(server) == {"2026_12", "2027_01", "2027_02"}
        for sequence in (1, 2):
            with pytest.raises(sqlite3.IntegrityError):
                await db.run(tell, payout_id, us(2026, 12, 5), sequence=sequence)
        await db.run(tell, payout_id, us(2026, 12, 5), sequence=3)


async def test_numbers_of_before_the_guard_are_known(server: Server) -> None:
    """A payout of before the upgrade has no row there; its events say which numbers are taken."""
    async with open_database(settings_of(server)) as db:
        await db.run(tell, "pay_old", 1, sequence=1)
        postgres.execute(server.url, "DELETE FROM store_event_sequences")
        await sweep(db, us(2026, 12))
        with pytest.raises(sqlite3.IntegrityError):
            await db.run(tell, "pay_old", 1, sequence=1)
        await db.run(tell, "pay_old", 1, sequence=2)


async def test_a_month_that_is_over_is_dropped(server: Server) -> None:
    """With its deliveries and tries, and no row of another month."""
    async with open_database(settings_of(server)) as db:
        payout_id, _, _ = await an_old_event(db)
        await db.run(tell, payout_id, us(2026, 12, 5))
        assert await sweep(db, us(2027, 4), us(2026, 11, 5), 0) == ONLY_FIRST
        assert "2026_11" in months_of(server)
        # Kept by the month, and not by the row: it is all of a month or nothing.
        await sweep(db, us(2027, 4), us(2026, 11, 5) + 1)
        assert "2026_11" not in months_of(server)
        assert [row["created_at"] for row in await db.read(events_of, payout_id)] == [
            us(2026, 12, 5)
        ]
        assert await db.read(attempts_of_payout, payout_id) == []


@pytest.mark.parametrize("why", ["open payout", "undelivered", "resent", "replayed", "young"])
async def test_what_still_needs_a_month_keeps_it(server: Server, why: str) -> None:
    """One row is enough. The months beside it go, and it goes once nothing needs it any more."""
    async with open_database(settings_of(server)) as db:
        payout_id, position, endpoint_id = await an_old_event(db)
        before = LATER
        await db.run(tell, None, us(2026, 12, 5))
        if why == "open payout":
            query = Query(update(payouts).values(status="broadcast"))
            await db.run(_run, query)
        elif why == "undelivered":
            await db.run(_run, Query(update(deliveries).values(state="pending")))
        elif why == "resent":
            await db.run(deliver_again, [(position, endpoint_id)], 0, "manual")
        elif why == "replayed":
            await db.run(recover, endpoint_id)
        else:
            before = us(2026, 11, 5)
        await sweep(db, us(2027, 6))
        left = await sweep(db, us(2027, 6), before, LATER)
        kept = [NOVEMBER, DECEMBER] if why in {"young", "replayed"} else [NOVEMBER]
        assert months_of(server) & {"2026_11", "2026_12"} == {each.name for each in kept}
        # What nobody needs of it goes row by row.
        wanted = [] if why == "young" else [Span(each.first, each.end) for each in kept]
        assert left.events[1:] == wanted
        pending = why in {"undelivered", "resent"}
        assert left.tries[1:] == (wanted if pending else [])
        assert len(await db.read(attempts_of_payout, payout_id)) == pending
        await db.run(end, payout_id)
        await db.run(_run, Query(update(deliveries).values(state="delivered")))
        await db.run(_run, Query(update(recoveries).values(state="finished")))
        assert await sweep(db, us(2027, 6), LATER) == ONLY_FIRST
        assert "2026_11" not in months_of(server)


async def _run(tx: Tx, query: Query) -> None:
    await tx.all(query)


async def test_an_event_that_is_resent_at_the_last_moment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lock: it is seen under the lock, and the month stays."""
    async with open_database(settings_of(server)) as db:
        _, position, endpoint_id = await an_old_event(db)
        locked = under_test.Partitions._drop_locked

        async def resent(self: Any, *given: Any) -> Any:
            await db.run(deliver_again, [(position, endpoint_id)], 0, "manual")
            return await locked(self, *given)

        monkeypatch.setattr(under_test.Partitions, "_drop_locked", resent)
        await sweep(db, us(2026, 12), LATER)
        assert "2026_11" in months_of(server)


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
async def test_the_last_look_is_new_at_every_level(
    server: Server, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """A database may have another isolation level by default: an older snapshot would not see the event."""
    name = postgres.name_of(server.url)
    postgres.execute(
        server.url, f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"
    )
    async with open_database(settings_of(server)) as db:
        _, position, endpoint_id = await an_old_event(db)
        check, locked = under_test.Partitions._check, under_test.Partitions._drop_locked
        dropping: list[str] = []

        async def checked(self: Any, connection: Any) -> None:
            await check(self, connection)
            if dropping:
                dropping.clear()
                # After the transaction has begun, and before it has its lock.
                await db.run(deliver_again, [(position, endpoint_id)], 0, "manual")

        async def drop(self: Any, *given: Any) -> Any:
            dropping.append("a month")
            return await locked(self, *given)

        monkeypatch.setattr(under_test.Partitions, "_check", checked)
        monkeypatch.setattr(under_test.Partitions, "_drop_locked", drop)
        await sweep(db, us(2026, 12), LATER)
        assert "2026_11" in months_of(server)


async def test_a_long_read_keeps_a_month_and_nobody_waits(server: Server) -> None:
    """The lock is given up soon: changes come through, and the next sweep drops the month."""
    async with open_database(settings_of(server)) as db:
        payout_id, _, _ = await an_old_event(db)
        long = await asyncpg.connect(server.url)
        try:
            async with long.transaction():
                await long.fetch("SELECT * FROM events")
                sweeping = asyncio.create_task(sweep(db, us(2026, 12), LATER))
                while not sweeping.done():
                    await asyncio.wait_for(db.run(tell, payout_id, us(2026, 12)), 4)
                assert "2026_11" in months_of(server)
        finally:
            await long.close()
        await sweep(db, us(2026, 12), LATER)
        assert "2026_11" not in months_of(server)


async def test_tries_go_before_their_events(server: Server) -> None:
    """By their own age, with the rest of the month kept; an event can be sent again afterwards."""
    async with open_database(settings_of(server)) as db:
        payout_id, position, endpoint_id = await an_old_event(db)
        await sweep(db, us(2026, 12), 0, us(2026, 11, 6))
        assert len(await db.read(attempts_of_payout, payout_id)) == 1
        await sweep(db, us(2026, 12), 0, us(2026, 11, 6) + 1)
        assert await db.read(attempts_of_payout, payout_id) == []
        assert len(await db.read(events_of, payout_id)) == 1
        again = await db.run(add_endpoint)
        await db.run(deliver, position, again, "delivered", us(2026, 12, 20))
        assert len(await db.read(attempts_of_payout, payout_id)) == 1
        await db.run(deliver_again, [(position, endpoint_id)], 0, "manual")
        await sweep(db, us(2027, 6), 0, LATER)
        assert len(await db.read(attempts_of_payout, payout_id)) == 1


async def test_two_sweepers_at_once(server: Server) -> None:
    """Of one database: months are made and dropped once, and neither has an error."""
    async with open_database(settings_of(server)) as one, open_database(settings_of(server)) as two:
        await asyncio.gather(*(sweep(each, us(2026, 11)) for each in (one, two) * 3))
        assert months_of(server) == {"2026_11", "2026_12", "2027_01"}
        await an_old_event(one)
        await asyncio.gather(*(sweep(each, us(2027, 1), LATER) for each in (one, two) * 3))
        assert months_of(server) == {"2027_01", "2027_02", "2027_03"}
        assert await two.run(tell, None, us(2027, 1)) == DECEMBER.end


async def test_a_frozen_database_keeps_its_months(server: Server) -> None:
    """It may be evidence."""
    async with open_database(settings_of(server)) as db:
        await an_old_event(db)
        postgres.execute(server.url, "UPDATE store_state SET frozen = 'a test'")
        await sweep(db, us(2027, 6), LATER)
        assert "2026_11" in months_of(server)


async def test_a_role_that_may_make_no_tables(server: Server) -> None:
    """The rest of the sweep goes on, and so do events."""
    async with open_database(settings_of(server)) as db:

        def refuse(text: str) -> None:
            if text.startswith("CREATE TABLE"):
                raise sqlite3.OperationalError("refused")

        assert isinstance(db.months, under_test.Partitions)
        db.months._fault = refuse
        assert await sweep(db, us(2026, 12)) == ONLY_FIRST
        assert await db.run(tell, None, us(2026, 12)) == 1
        assert await db.scan(old_events, LATER, 10, FIRST) == [1]


async def test_an_upgrade_under_a_running_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the release before, with rows: it goes on writing, loses nothing, and its rows keep their place."""
    older = tmp_path / "versions"
    newer = shutil.ignore_patterns("0022*", "002[3-9]*", "__pycache__")
    shutil.copytree(migrate.FOLDERS[0], older, ignore=newer)
    told: list[int] = []
    async with AsyncExitStack() as stack:
        old = stack.enter_context(postgres.fresh(prepared=False))
        postgres.execute(old.url, *(each for each in _FIRST.split(";\n\n") if each.strip()))
        with monkeypatch.context() as before:
            before.setattr(migrate, "FOLDERS", [older])
            assert (await schema.upgrade(old))[1] == "0021"
            db = await stack.enter_async_context(open_database(settings_of(old)))
        payout_id = await db.run(add_payout)
        endpoint_id = await db.run(add_endpoint)

        async def work() -> None:
            while True:
                position = await db.run(tell, payout_id, us(2026, 12))
                told.append(position)
                await db.run(deliver, position, endpoint_id, "pending", us(2026, 12))

        async def worked(working: asyncio.Task[None], count: int) -> None:
            count += len(told)
            while len(told) < count and not working.done():
                await asyncio.sleep(0.01)

        working = asyncio.create_task(work())
        await worked(working, 20)
        assert await schema.may_run_beside(old)
        assert await schema.upgrade(old) == ("0021", migrate.head_revision())
        await worked(working, 20)
        assert not working.done()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        async with open_database(settings_of(old)) as new:
            await sweep(new, us(2026, 12))
            assert await new.run(tell, payout_id, us(2026, 12)) == DECEMBER.first
        # The older program sees it, too, and goes on in the month.
        told.append(DECEMBER.first)
        assert await db.run(tell, payout_id, us(2026, 12)) == DECEMBER.first + 1
        rows = [row["position"] for row in await db.read(events_of, payout_id)]
        assert set(told) <= set(rows)
        assert rows == sorted(rows)
        places = [row["place"] for row in postgres.execute(old.url, _PLACES)]
        assert set(places[:-2]) == {"events_first"}
        assert places[-2:] == ["events_2026_12"] * 2


async def test_a_moved_database(server: Server, tmp_path: Path) -> None:
    """Its events lie in the first partition, numbers go on, and the next month begins after them."""
    path = tmp_path / "store.db"
    settings = Settings.model_validate({"database": path, "server_key": KEY})
    async with open_database(settings) as db:
        payout_id = await db.run(add_payout, "delivered")
        for _ in range(3):
            last = await db.run(tell, payout_id, us(2026, 11))
    clock = SetClock()
    state_file = state_file_of(settings, runtime_of(clock))
    await move(path, server, state_file, operator="me", ids=Ids(clock), at=0)
    async with open_database(settings_of(server)) as db:
        assert await db.run(tell, payout_id, us(2026, 11)) == last + 1
        with pytest.raises(sqlite3.IntegrityError):
            await db.run(tell, payout_id, us(2026, 11), sequence=1)
        await sweep(db, us(2026, 12))
        assert await db.run(tell, payout_id, us(2026, 12)) == DECEMBER.first
        assert len(await db.read(events_of, payout_id)) == 5
    places = [row["place"] for row in postgres.execute(server.url, _PLACES)]
    assert places == ["events_first"] * 4 + ["events_2026_12"]


def test_a_month_has_what_the_first_partition_has(server: Server) -> None:
    """Columns, indexes and constraints are the same but for the names, and the bound of the first one."""
    postgres.execute(server.url, *of_month(DECEMBER))
    columns, indexes, constraints = _shape(server)

    def of(name: str) -> list[set[tuple[Any, ...]]]:
        found = []
        for rows in (columns, indexes, constraints):
            texts = {
                tuple(map(str, row)) for row in rows if any(str(x).endswith(name) for x in row[:1])
            }
            found.append(
                {
                    tuple(part.replace(name, "NAME") for part in row)
                    for row in texts
                    if not row[-1].startswith("CHECK")
                }
            )
        return found

    assert of("_first") == of("_2026_12")
    assert len(of("_first")[1]) == 9
