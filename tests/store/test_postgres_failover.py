"""What is concluded from a promoted standby: pure rules, and who vouches for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.runtime import Runtime
from gateway.store import gateways
from gateway.store.database import Database
from gateway.store.gateways import Identity
from gateway.store.postgres import failover
from gateway.store.postgres.failover import Place, may_be_complete, waits_for
from gateway.store.state import freeze, frozen
from gateway.store.state_file import PROMOTED
from tests import postgres
from tests.clock import SetClock
from tests.store.rows import add_payout, runtime_of
from tests.store.test_postgres_opening import opened

OLD = Place("7/00000002/16384", "b", "b=sync")
NEW = Place("7/00000003/16384", "", None, "b")


@pytest.mark.parametrize(
    ("setting", "name", "waits"),
    [
        ("b", "b", True),
        ('"B"', "b", True),
        ("FIRST 1 (b)", "b", True),
        ("ANY 2 (a, b)", "b", True),
        ("2 (a, b)", "b", True),
        ("first 2 (a,b)", "a", True),
        ("", "b", False),
        ("a", "b", False),
        ("*", "b", False),
        ("a, b", "b", False),
        ("FIRST 1 (a, b)", "b", False),
        ("FIRST 1 (a, b)", "a", False),
        ("ANY 1 (a, b)", "b", False),
        ("ANY 2 (a, b, c)", "b", False),
        ("ANY 2 (a, *)", "a", False),
        ("b", "", False),
    ],
)
def test_which_standby_is_waited_for(setting: str, name: str, waits: bool) -> None:
    """Only one without which no commit is acknowledged."""
    assert waits_for(setting, name) is waits


@pytest.mark.parametrize(
    ("known", "here", "remembered", "complete"),
    [
        (OLD, NEW, "b", True),
        (OLD, NEW, None, True),
        # This process saw that the standby was detached; its rows do not know it.
        (OLD, NEW, "", False),
        (Place(OLD.identity, "", None), NEW, "b", False),
        (OLD, Place("8/00000003/16384", "", None, "b"), "b", False),
        (OLD, Place("7/00000003/16385", "", None, "b"), "b", False),
        (OLD, Place("7/00000002/16384", "", None, "b"), "b", False),
        (OLD, Place("7/00000001/16384", "", None, "b"), "b", False),
        (OLD, Place("7/00000003/16384", "", None, "c"), "b", False),
    ],
)
def test_which_server_can_be_complete(
    known: Place, here: Place, remembered: str | None, complete: bool
) -> None:
    """The same cluster and database, later, and one that the old primary waited for, by every witness."""
    assert may_be_complete(known, here, remembered) is complete


@pytest.fixture
def runtime() -> Runtime:
    """A runtime on a clock that stands still."""
    return runtime_of(SetClock())


@pytest.fixture
async def promoted(runtime: Runtime) -> AsyncIterator[Database]:
    """A database that says of itself that it was promoted, with two gateways from before."""
    with postgres.fresh() as server:
        async with opened(server, runtime) as db:
            await db.run(add_payout)
            for name in ("gwy_1", "gwy_2"):
                identity = Identity(name, "h", 1, "v", "d", "0021", "0021", 2)
                await db.run(gateways.register, identity, runtime.clock.moment(), 0)
            _, here = await db.read(failover.look)
            before = here.identity.replace(f"/{here.parts[1]:08X}/", "/00000000/")
            postgres.execute(
                server.url,
                f"UPDATE store_cluster SET identity = '{before}', standbys = 'b'",
            )
            await db.run(freeze, runtime.ids, 0, PROMOTED)
            yield db


async def _thaw(db: Database, runtime: Runtime, *gone: str) -> set[str]:
    return await db.run(failover.thaw, runtime.ids, 0, set(gone))


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the server for the standby b: a test's server has no name."""
    monkeypatch.setattr(failover, "waits_for", lambda standbys, _: standbys == "b")


@pytest.mark.usefixtures("named")
async def test_it_goes_on_when_all_have_vouched(promoted: Database, runtime: Runtime) -> None:
    """Not before; and somebody has to remember the old primary."""
    assert await _thaw(promoted, runtime) == {"gwy_1", "gwy_2", ""}
    await promoted.run(failover.vouch, "gwy_1", remembers=False)
    await promoted.run(failover.vouch, "gwy_2", remembers=False)
    assert await _thaw(promoted, runtime) == {""}
    await promoted.run(failover.vouch, "gwy_2", remembers=True)
    assert await _thaw(promoted, runtime) == set()
    assert await promoted.read(frozen) is None
    known, here = await promoted.read(failover.look)
    assert known is not None
    assert known.identity == here.identity


@pytest.mark.usefixtures("named")
async def test_one_that_is_gone_is_not_waited_for(promoted: Database, runtime: Runtime) -> None:
    """But it vouches for nothing."""
    await promoted.run(failover.vouch, "gwy_1", remembers=True)
    assert await _thaw(promoted, runtime) == {"gwy_2"}
    assert await _thaw(promoted, runtime, "gwy_2") == set()
    assert await promoted.read(frozen) is None


async def test_a_standby_that_was_not_waited_for_stays_frozen(
    promoted: Database, runtime: Runtime
) -> None:
    """Whoever vouches for it: this server has no name that the old primary could have waited for."""
    for name in ("gwy_1", "gwy_2"):
        await promoted.run(failover.vouch, name, remembers=True)
    assert await _thaw(promoted, runtime) == {""}
    assert await promoted.read(frozen) == PROMOTED


async def test_certainty_replaces_the_doubt(promoted: Database, runtime: Runtime) -> None:
    """A gateway that misses a mark freezes it for good; nobody thaws that."""
    assert not await promoted.run(freeze, runtime.ids, 0, PROMOTED)
    assert await promoted.run(freeze, runtime.ids, 0, "a mark is missing")
    assert not await promoted.run(freeze, runtime.ids, 0, PROMOTED)
    assert await promoted.read(frozen) == "a mark is missing"
    assert await _thaw(promoted, runtime) == set()
    assert await promoted.read(frozen) == "a mark is missing"
