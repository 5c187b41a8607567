"""Gateway processes on a database that others copy, restore, upgrade, or serve as well."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.testing.processes import Process, command
from tests.e2e.stack import eventually, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(120)]
QUOTE = {
    "external_ref": "u",
    "asset": "USDC",
    "amount": "5",
    "destination": {"type": "custodian_account", "account_type": "X", "id": "p"},
}
CONFIG = """
server_key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
database = "g.db"
[custodians.dummy]
adapter = "dummy"
base_url = "http://127.0.0.1:1/v1"
api_key = "k"
webhook_secret = "secret"
[[routes]]
destination = "custodian_account"
custodian = "dummy"
account = { id = "A", type = "VAULT" }
networks = ["Ethereum"]
"""


class Place:
    """A folder with a configuration, the processes on it, and a client."""

    def __init__(self, folder: Path, http: aiohttp.ClientSession) -> None:
        self.config = folder / "g.toml"
        self.database = folder / "g.db"
        self.http = http
        self.processes: list[Process] = []
        self.key = ""

    async def serve(self) -> Process:
        """Start a gateway on a free port; its line is its address."""
        process = await Process.start(
            self.config.with_name(f"gateway-{len(self.processes)}.log"),
            *("gateway.testing.serving", "--config", str(self.config)),
            *("--port", str(free_port())),
        )
        self.processes.append(process)
        return process

    async def run(self, *arguments: object) -> tuple[int, str]:
        """Run a command; return its exit code and what it printed."""
        words = (*map(str, arguments), "--config", str(self.config))
        code, out, err = await command(self.config.parent, *words)
        return code, out + err

    async def call(
        self, process: Process, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Call the API of a gateway."""
        sent = {"authorization": f"Bearer {self.key}", **headers}
        if method == "POST":
            sent |= {"idempotency-key": os.urandom(8).hex(), "content-type": "application/json"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = process.line.strip() + path
        async with self.http.request(method, url, data=data, headers=sent) as answer:
            return answer.status, json.loads(await answer.text())

    def rows(self, text: str) -> list[Any]:
        """Run a query on the database file."""
        with closing(sqlite3.connect(self.database, timeout=10)) as connection:
            return connection.execute(text).fetchall()

    def change(self, *texts: str) -> None:
        """Change the database behind the gateway's back."""
        with closing(sqlite3.connect(self.database, timeout=10)) as connection:
            for text in texts:
                connection.execute(text)
            connection.commit()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A place where nothing runs yet."""
    async with aiohttp.ClientSession() as http:
        made = Place(tmp_path, http)
        made.config.write_text(CONFIG)
        code, out = await made.run("keys", "create", "--org", "o", "--mode", "live", "--json")
        assert code == 0, out
        made.key = json.loads(out)["key"]
        yield made
        for process in made.processes:
            await process.stop()


async def test_a_restored_copy_under_a_newer_state_file(  # noqa: PLR0915 - one story
    place: Place,
) -> None:
    """Served, read, told by custodians; but nothing new, until it is adopted and lets new ones in."""
    gateway = await place.serve()
    status, quote = await place.call(gateway, "POST", "/payouts/quote", QUOTE)
    assert status == 200, quote
    status, payout = await place.call(gateway, "POST", "/payouts", {"quote_id": quote["quote_id"]})
    assert status == 201, payout
    assert await gateway.stop() == 0
    shutil.copyfile(place.database, place.database.with_name("copy"))
    place.change("UPDATE store_state SET marks = marks + 1")
    assert (await place.run("db", "upgrade"))[0] == 0
    shutil.copyfile(place.database.with_name("copy"), place.database)

    gateway = await place.serve()
    status, ready = await place.call(gateway, "GET", "/readyz")
    assert (status, ready["accepting"]) == (200, False)
    assert "older copy" in ready["marks"]
    assert ready["reason"] == ready["marks"]
    assert (await place.call(gateway, "GET", "/readyz?require=marks"))[0] == 503
    asked: list[tuple[str, Any]] = [
        ("/payouts/quote", QUOTE),
        ("/payouts", {"quote_id": quote["quote_id"]}),
    ]
    for path, wanted in asked:
        status, problem = await place.call(gateway, "POST", path, wanted)
        assert (status, problem["code"]) == (503, "database_frozen")
    assert (await place.call(gateway, "GET", f"/payouts/{payout['id']}"))[0] == 200
    body = b'{"id": "n-1", "transfer": {"key": "k-1", "id": "t-1"}}'
    signature = hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    headers = {"dummy-signature": signature}
    path = "/custodians/dummy/webhooks"
    assert (await place.call(gateway, "POST", path, body, **headers))[0] == 200

    async def noted() -> bool:
        return bool(place.rows("SELECT 1 FROM audit_log WHERE act = 'unmatched_reference'"))

    await eventually(noted)
    assert place.rows("SELECT body FROM inbox") == [(body,)]

    adopted = ("db", "adopt", "--last-mark-at", datetime.now(UTC).isoformat())
    code, out = await place.run(*adopted)
    assert code == 1
    assert f"stop every gateway on it first: process {gateway.pid} on" in out
    assert await gateway.stop() == 0
    code, out = await place.run(*adopted)
    assert code == 0, out
    gateway = await place.serve()
    status, problem = await place.call(gateway, "POST", "/payouts/quote", QUOTE)
    assert (status, problem["code"]) == (503, "not_accepting")
    code, out = await place.run("db", "adopt", "--accept-new")
    assert code == 1
    assert "dummy key k-1" in out
    assert (await place.run("db", "adopt", "--accept-new", "--yes"))[0] == 0
    assert (await place.call(gateway, "POST", "/payouts/quote", QUOTE))[0] == 200
    status, problem = await place.call(gateway, "POST", "/payouts", {"quote_id": quote["quote_id"]})
    assert (status, problem["code"]) == (409, "quote_already_used")
    # The beats of a gateway that runs meanwhile do not freeze it again.
    (before,) = place.rows("SELECT counter FROM gateways WHERE stopped_at IS NULL")

    async def beaten() -> bool:
        (after,) = place.rows("SELECT counter FROM gateways WHERE stopped_at IS NULL")
        return bool(after[0] > before[0] + 1)

    await eventually(beaten)
    ready = {"status": "ready", "marks": True, "accepting": True}
    status, told = await place.call(gateway, "GET", "/readyz")
    # The custodian of this test is not there.
    assert told.pop("degraded", None) in (None, {"dummy": "unreachable"})
    assert (status, told) == (200, ready)


async def test_an_upgrade_beside_a_running_gateway(place: Place, tmp_path: Path) -> None:
    """Refused while its counter moves, and so is a restore; done once the gateway was killed."""
    gateway = await place.serve()
    assert (await place.run("db", "backup", tmp_path / "b.db"))[0] == 0
    commands = (("upgrade",), ("restore", tmp_path / "b.db", "--force"))
    answers = await asyncio.gather(*(place.run("db", *each) for each in commands))
    for code, out in answers:
        assert code in {1, 2}
        assert f"process {gateway.pid} on" in out
        assert "stop every gateway" in out
    os.kill(gateway.pid, signal.SIGKILL)
    await gateway.died()
    code, out = await place.run("db", "upgrade")
    assert code == 0, out
    assert "up to date" in out


async def test_a_schema_that_is_changed_under_a_running_gateway(place: Place) -> None:
    """It stops by itself, before it writes anything more, with 2 and the reason in its log."""
    gateway = await place.serve()
    place.change(
        "UPDATE alembic_version SET version_num = '9999'",
        "UPDATE store_schema SET works_from = '9999'",
        "CREATE TABLE newer (id INTEGER)",
    )
    (before,) = place.rows("SELECT counter FROM gateways")
    assert await gateway.died() == 2
    assert place.rows("SELECT counter, stopped_at FROM gateways") == [(*before, None)]
    assert "schema_changed" in gateway.log.read_text()
    assert "9999" in gateway.log.read_text()


async def test_two_gateways_on_one_database(place: Place) -> None:
    """Each has its row, they agree about the time, and sign off when they are stopped."""
    for _ in range(2):
        await place.serve()
    found = place.rows("SELECT pid, stopped_at FROM gateways")
    assert sorted(found) == sorted((each.pid, None) for each in place.processes)
    assert place.rows("SELECT count(DISTINCT clock_id) FROM gateways") == [(1,)]
    assert [await each.stop() for each in place.processes] == [0, 0]
    assert place.rows("SELECT count(*) FROM gateways WHERE stopped_at IS NULL") == [(0,)]
    assert place.rows("SELECT count(*) FROM heartbeats") == [(2,)]
