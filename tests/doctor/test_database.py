"""The database on both stores, and the gateways on it: each as it should be, and each wrong."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config.settings import Settings, load
from gateway.doctor import Finding, Level, database
from gateway.heartbeat import identity_of
from gateway.model import GATE_VERSION
from gateway.pause import PauseScope
from gateway.pausing import Wanted, pause
from gateway.resealing import note_server_key
from gateway.runtime import Ids, Moment, Runtime, SystemClock, real_runtime
from gateway.store import gateways, migrate
from gateway.store.audit import Act
from gateway.store.opening import open_database
from gateway.store.rules import activate
from gateway.store.state import freeze, set_accepting
from gateway.vault import vault_of
from tests import postgres
from tests.store.rows import add_payout

KEY = base64.b64encode(bytes(32)).decode()
OTHER = base64.b64encode(bytes([1]) * 32).decode()


@pytest.fixture
def config(store: str, tmp_path: Path) -> Iterator[Path]:
    """A configuration; its database is not there yet, or has no tables."""
    path = tmp_path / "g.toml"
    with ExitStack() as stack:
        place = "g.db"
        if store == "postgresql":
            place = stack.enter_context(postgres.fresh(prepared=False)).url
        path.write_text(f'server_key = "{KEY}"\ndatabase = "{place}"\n')
        yield path


async def found(
    settings: Settings, runtime: Runtime | None = None, *, wait: bool = False
) -> dict[str, Finding]:
    """Return what the checks find, by name; whatever is not fine says what to do."""
    runtime = runtime or real_runtime()
    every = [each async for each in database.check(settings, runtime, wait=wait)]
    assert all(each.fix for each in every if each.level in {Level.WARNING, Level.FAILED})
    assert not any(KEY in str(each) or OTHER in str(each) for each in every)
    return {each.check: each for each in every}


def bad(findings: dict[str, Finding]) -> set[str]:
    """Return the checks that failed."""
    return {name for name, each in findings.items() if each.level is Level.FAILED}


@pytest.mark.both_stores
async def test_a_database_that_is_fine(config: Path) -> None:
    """Nothing failed."""
    settings = load(config)
    async with open_database(settings):
        pass
    findings = await found(settings)
    assert {each.level for each in findings.values()} == {Level.OK}
    assert {"database", "schema", "server key", "frozen", "rules", "gateways"} <= findings.keys()
    assert ("clock of the database" in findings) == (settings.postgres is not None)


@pytest.mark.both_stores
async def test_a_removed_custodian_with_open_payouts(config: Path) -> None:
    """`serve` would refuse to start: the check fails, and the fix is named."""
    settings = load(config)
    async with open_database(settings) as db:
        payout_id = await db.run(add_payout)
    findings = await found(settings)
    assert bad(findings) == {"removed custodians"}
    removed = findings["removed custodians"]
    assert removed.detail == (
        f"custodians.acme is not configured any more and has 1 open payout ({payout_id})"
    )
    assert "--allow-removed" in (removed.fix or "")


@pytest.mark.both_stores
async def test_before_the_first_start(config: Path) -> None:
    """Nothing has failed: it says what creates the database, and does not create it by looking."""
    settings = load(config)
    findings = await found(settings)
    assert bad(findings) == set()
    assert findings["database"].level is Level.WARNING
    assert "not created yet" in findings["database"].detail
    assert "`payout-gateway serve` creates it" in findings["database"].fix
    assert {findings[name].level for name in ("schema", "frozen", "gateways")} == {Level.SKIPPED}
    if settings.postgres is None:
        assert not settings.database.exists()


async def test_a_database_that_is_gone(config: Path) -> None:
    """The state file shows that there was one: that is no first start."""
    settings = load(config)
    async with open_database(settings):
        pass
    settings.database.unlink()
    findings = await found(settings)
    assert bad(findings) == {"database"}
    assert "shows that there was one" in findings["database"].detail


@pytest.mark.both_stores
async def test_what_keeps_payouts_back(config: Path) -> None:
    """A frozen database, one that lets nothing in, other rules, a pause: each with its command."""
    settings, runtime = load(config), real_runtime()
    async with open_database(settings, runtime) as db:
        await db.run(set_accepting, accepting=False)
        await db.run(
            pause, runtime, Wanted(PauseScope.ALL), "why not", Act("ann"), keep_accepting=False
        )
        await db.run(activate, runtime.ids, 1, "another", "{}", "ann", "r")
    findings = await found(settings)
    assert bad(findings) == {"frozen", "rules"}
    assert "--accept-new" in findings["frozen"].fix
    assert "rules activate" in findings["rules"].fix
    assert findings["pauses"].level is Level.WARNING
    assert "all payouts is paused by the operator: why not" in findings["pauses"].detail
    async with open_database(settings, runtime) as db:
        await db.run(freeze, runtime.ids, 1, "an older copy")
    findings = await found(settings)
    assert "frozen: an older copy" in findings["frozen"].detail


@pytest.mark.both_stores
async def test_another_server_key(config: Path) -> None:
    """What is stored would not open."""
    settings, runtime = load(config), real_runtime()
    async with open_database(settings, runtime) as db:
        await db.run(note_server_key, runtime, vault_of(settings, runtime.ids))
    config.write_text(config.read_text().replace(KEY, OTHER))
    assert bad(await found(load(config))) == {"server key"}


async def test_another_schema(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that brings it up to date is named."""
    settings = load(config)
    async with open_database(settings):
        pass
    monkeypatch.setattr(migrate, "head_revision", lambda: "9999")
    findings = await found(settings)
    assert bad(findings) == {"schema"}
    assert "9999" in findings["schema"].detail
    assert findings["gateways"].level is Level.SKIPPED


async def test_a_state_file_that_cannot_be_read(config: Path) -> None:
    """It is what recognises an older copy."""
    settings = load(config)
    async with open_database(settings):
        pass
    settings.state_path.write_bytes(b"rubbish")
    findings = await found(settings)
    assert findings["state file"].level is Level.FAILED


@pytest.mark.both_stores
async def test_gateways_of_other_versions_and_rules(config: Path) -> None:
    """Each gateway is compared with the database and with this program; one that has gone is not."""
    settings, runtime = load(config), real_runtime()
    own = identity_of(settings, runtime)
    others = {
        "gwy_same": own,
        "gwy_config": replace(own, config_digest="other"),
        "gwy_version": replace(own, version="0.0.1"),
        "gwy_schema": replace(own, schema_from="0001", schema_to="0002"),
        "gwy_gate": replace(own, gate_version=GATE_VERSION - 1),
    }
    async with open_database(settings, runtime) as db:
        for name, each in others.items():
            identity = replace(each, id=name)
            await db.run(gateways.register, identity, runtime.clock.moment(), 0)
    every = [each async for each in database.check(settings, runtime, wait=False)]
    told = {
        each.detail.split(" ")[0]: each.level for each in every if each.detail.startswith("gwy_")
    }
    assert told == {
        "gwy_same": Level.OK,
        "gwy_config": Level.WARNING,
        "gwy_version": Level.WARNING,
        "gwy_schema": Level.FAILED,
        "gwy_gate": Level.FAILED,
    }


class Hurried(SystemClock):
    """The machine's clock, on which nobody waits: a sleep moves it on."""

    def __init__(self) -> None:
        super().__init__()
        self.slept = 0.0

    def moment(self) -> Moment:
        """Return this moment with what was slept."""
        now = super().moment()
        return replace(now, elapsed=now.elapsed + round(self.slept * 1e6))

    async def sleep(self, seconds: float) -> None:
        """Sleep no real time."""
        self.slept += seconds


async def test_gateways_that_died(config: Path) -> None:
    """Their counters stand still, so they are no fault of now; the watch ends by itself."""
    settings, runtime = load(config), real_runtime()
    async with open_database(settings, runtime) as db:
        identity = replace(identity_of(settings, runtime), version="0.0.1")
        await db.run(gateways.register, identity, runtime.clock.moment(), 0)
    clock = Hurried()
    findings = await found(settings, Runtime(clock=clock, ids=Ids(clock)), wait=True)
    assert findings["gateways"].level is Level.OK
    assert "1 ended without signing off" in findings["gateways"].detail


@pytest.mark.both_stores
async def test_a_clock_beside_that_of_the_database(config: Path, store: str) -> None:
    """PostgreSQL has a clock of its own."""
    settings = load(config)
    async with open_database(settings):
        pass

    class Off(SystemClock):
        def moment(self) -> Moment:
            now = super().moment()
            return replace(now, wall=now.wall + 90_000_000)

    clock = Off()
    findings = await found(settings, Runtime(clock=clock, ids=Ids(clock)))
    if store == "postgresql":
        assert findings["clock of the database"].level is Level.WARNING
        assert "+9" in findings["clock of the database"].detail
