"""The server key and the database belong together; commands that read change no file."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gateway.caller import Caller
from gateway.config.settings import load
from gateway.errors import ConfigError
from gateway.runtime import real_runtime
from gateway.server import serve
from gateway.store.opening import open_database
from gateway.vault import vault_of
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.subscriptions import EndpointRequest
from tests.cli.test_commands import config, create, run

__all__ = ["config"]
OTHER = base64.b64encode(bytes(range(32, 64))).decode()
FOREIGN = "server_key is not the one that this database was used with"


def endpoint(config: Path, org: str = "acme") -> str:
    """Store an endpoint, whose secret is sealed."""
    settings, runtime = load(config), real_runtime()
    use = Endpoints(runtime, vault_of(settings, runtime.ids), settings)

    async def work() -> str:
        async with open_database(settings) as db:
            request = EndpointRequest(url="https://hooks.example.com/")
            return (await db.run(use.create, Caller(org, "live", "k"), request)).id

    return asyncio.run(work())


def change(config: Path, statement: str) -> None:
    """Change the database as nobody should."""
    with sqlite3.connect(config.with_name("g.db")) as connection:
        connection.execute(statement)
    connection.close()


def flip(config: Path, endpoint_id: str) -> None:
    """Change one bit of an endpoint's secret."""
    with sqlite3.connect(config.with_name("g.db")) as connection:
        at = ("SELECT secret FROM endpoints WHERE id = ?", (endpoint_id,))
        secret = bytearray(connection.execute(*at).fetchone()[0])
        secret[-1] ^= 1
        connection.execute(
            "UPDATE endpoints SET secret = ? WHERE id = ?", (bytes(secret), endpoint_id)
        )
    connection.close()


def with_key(config: Path, key: str) -> Path:
    """Return a configuration with another server key."""
    other = config.with_name("other.toml")
    other.write_text(
        re.sub(r"server_key = .*", f'server_key = "{key}"', config.read_text(), count=1)
    )
    return other


async def started(config: Path) -> None:
    """Start the gateway, and stop it once it is ready."""
    running: asyncio.Future[int]
    ready = asyncio.Event()
    running = asyncio.ensure_future(serve(load(config), port=0, ready=lambda _: ready.set()))
    waiting = asyncio.ensure_future(ready.wait())
    await asyncio.wait({running, waiting}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not running.done():
        running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    if not running.cancelled() and (error := running.exception()) is not None:
        raise error


@pytest.mark.parametrize("noted", [True, False])
def test_a_foreign_server_key_is_refused(config: Path, noted: bool) -> None:
    """By commands and at start, with one line that names what to do; nothing is written."""
    create(config)
    endpoint(config)
    if not noted:
        # As in a database from before the key was noted.
        change(config, "DELETE FROM account_declarations")
    other = with_key(config, OTHER)
    for command in (
        ("keys", "create", "--org", "a", "--mode", "live"),
        ("webhooks", "list"),
        ("db", "reseal"),
        ("serve", "--port", "0"),
    ):
        said = run(*command, "--config", other, code=2)
        assert FOREIGN in said, command
        assert "previous_server_key" in said
        # The log of `serve` goes to the same place.
        lines = [line for line in said.splitlines() if not line.startswith("{")]
        assert len(lines) == 1
    with pytest.raises(ConfigError, match=FOREIGN):
        asyncio.run(started(other))
    asyncio.run(started(config))
    assert len(json.loads(run("keys", "list", "--json", "--config", config))["data"]) == 1


def test_a_key_is_refused_where_nothing_is_sealed(config: Path) -> None:
    """Tracking links and names of accounts hang on it as well."""
    create(config)
    assert FOREIGN in run("db", "reseal", "--config", with_key(config, OTHER), code=2)


def test_a_damaged_secret_is_not_a_foreign_key(config: Path) -> None:
    """The gateway starts, and the operator's list names the endpoint alone."""
    run("db", "upgrade", "--config", config)
    broken, whole = endpoint(config), endpoint(config, "beta")
    flip(config, broken)
    asyncio.run(started(config))
    rows = json.loads(run("webhooks", "list", "--json", "--config", config))["data"]
    faults = {row["id"]: row["fault"] for row in rows}
    assert faults[whole] is None
    assert "does not open" in faults[broken]
    assert "fault" in run("webhooks", "list", "--config", config)


def _files(folder: Path) -> dict[str, str]:
    return {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest()
        for each in folder.iterdir()
        if each.name.startswith("g.db") and not each.name.endswith("-shm")
    }


READING: tuple[tuple[str, ...], ...] = (
    ("audit", "verify"),
    ("audit", "list"),
    ("audit", "export"),
    ("keys", "list"),
    ("payouts", "list"),
    ("payouts", "list", "--attention"),
    ("payouts", "collisions"),
    ("webhooks", "list"),
)


@pytest.mark.parametrize("log", [False, True], ids=["alone", "with-log"])
def test_commands_that_read_change_no_file(config: Path, tmp_path: Path, log: bool) -> None:
    """A copy without its state file keeps every byte, and nothing is made beside it."""
    create(config)
    endpoint(config)
    change(config, "UPDATE store_state SET marks = 3, witnessed = 1")
    folder = tmp_path / "copy"
    folder.mkdir()
    with sqlite3.connect(config.with_name("g.db")) as living:
        living.execute("UPDATE api_keys SET name = 'in the log'")
        living.commit()
        shutil.copy(config.with_name("g.db"), folder / "g.db")
        if log:
            shutil.copy(config.with_name("g.db-wal"), folder / "g.db-wal")
    living.close()
    copied = shutil.copy(config, folder / "g.toml")
    before = _files(folder)
    for command in READING:
        run(*command, "--config", copied)
        assert _files(folder) == before, command
    assert ("in the log" in run("keys", "list", "--json", "--config", copied)) is log
    for command in (("payouts", "show", "pay_x"), ("webhooks", "tries", "whe_x")):
        run(*command, "--config", copied, code=1)
        assert _files(folder) == before, command


def test_a_missing_database_is_an_error(config: Path) -> None:
    """Exit 2, with its path; none is made."""
    commands: tuple[tuple[Any, ...], ...] = (
        *READING,
        ("payouts", "show", "pay_x"),
        ("payouts", "retry", "pay_x"),
        ("payouts", "erase", "pay_x"),
        ("webhooks", "enable", "whe_x"),
        ("keys", "revoke", "key_x"),
        ("db", "reseal"),
        ("db", "moved"),
        ("db", "adopt", "--accept-new"),
    )
    for command in commands:
        assert "there is no database" in run(*command, "--config", config, code=2), command
        assert not config.with_name("g.db").exists(), command


def test_an_old_schema_is_not_upgraded_by_reading(config: Path) -> None:
    """Exit 2, saying what to run; the file stays as it is."""
    create(config)
    change(config, "UPDATE alembic_version SET version_num = '0001'")
    before = _files(config.parent)
    assert "db upgrade" in run("audit", "verify", "--config", config, code=2)
    assert _files(config.parent) == before
