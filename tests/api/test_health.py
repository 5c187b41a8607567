"""Probes: what makes a process be restarted, what takes it out of service, and what is only told."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest

from gateway.api.context import ApiContext
from gateway.store.database import Database, Tx
from tests.api.conftest import Api

READY = {"status": "ready", "marks": True, "accepting": True}


async def probe(api: Api, path: str) -> tuple[int, Any]:
    """Ask as a probe does: without a key."""
    return await api.call("GET", path, authorization=None)


def change(context: ApiContext, **members: Any) -> None:
    """Put something else into the running application."""
    for name, value in members.items():
        object.__setattr__(context, name, value)


def failing_with(code: int) -> Callable[[str], None]:
    """Return what makes every commit fail as SQLite does by a code."""

    def fault(text: str) -> None:
        if text == "COMMIT":
            error = sqlite3.OperationalError("it is told by its code")
            error.sqlite_errorcode = code
            raise error

    return fault


async def write(api: Api) -> int:
    """Change something; return the status."""
    body = {"url": "https://a.example"}
    return (await api.call("POST", "/webhook-endpoints", body=body))[0]


async def test_all_is_well(api: Api) -> None:
    """Both answer 200, without a key, also where marks are required."""
    assert await probe(api, "/healthz") == (200, {"status": "ok"})
    assert await probe(api, "/readyz") == (200, READY)
    assert await probe(api, "/readyz?require=marks") == (200, READY)
    status, problem = await probe(api, "/readyz?require=everything")
    assert (status, problem["code"]) == (422, "invalid_request")


async def test_a_dead_loop_is_fatal(api: Api) -> None:
    """The process does not do its work any more, although it answers."""
    change(api.context, broken=lambda: True)
    status, body = await probe(api, "/healthz")
    assert (status, body["status"]) == (503, "failing")
    assert (await probe(api, "/readyz"))[0] == 503


async def test_a_process_that_stops_is_alive_and_not_ready(api: Api) -> None:
    """No new requests; nobody needs to kill it."""
    change(api.context, ready=lambda: False)
    assert (await probe(api, "/healthz"))[0] == 200
    assert await probe(api, "/readyz") == (503, {"status": "stopping"})


@pytest.mark.parametrize("name", ["read", "scan"])
async def test_a_database_that_cannot_be_read(
    api: Api, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Reads failed while /healthz said 200, for as long as the process ran."""

    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("cannot start a transaction within a transaction")

    monkeypatch.setattr(Database, name, fail)
    assert (await probe(api, "/healthz"))[0] == 503
    status, body = await probe(api, "/readyz")
    assert (status, body["status"]) == (503, "store_unavailable")


async def test_long_reports_take_nobody_out_of_service(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All readers are busy: one org's reports must not make every gateway unready."""
    monkeypatch.setattr("gateway.api.health._READER_S", 0.1)
    release = threading.Event()

    async def report(_: Tx) -> None:
        release.wait(20)

    reports = [asyncio.create_task(api.context.db.scan(report)) for _ in range(8)]
    await asyncio.sleep(0)
    try:
        assert (await probe(api, "/healthz"))[0] == 200
        assert await probe(api, "/readyz") == (200, READY)
    finally:
        release.set()
        await asyncio.gather(*reports)


async def test_a_full_disk_is_told(api: Api) -> None:
    """Reads are served, nothing is handed to custodians: 200 with the reason, 503 where it matters."""
    await api.key()
    connection = api.context.db._write_connection
    connection._fault = failing_with(sqlite3.SQLITE_FULL)
    assert await write(api) == 503
    body = {**READY, "marks": "the disk is full", "reason": "the disk is full"}
    assert await probe(api, "/readyz") == (200, body)
    assert await probe(api, "/readyz?require=marks") == (503, {**body, "status": "no_marks"})
    assert (await probe(api, "/healthz"))[0] == 200
    connection._fault = None
    assert await write(api) == 201
    assert await probe(api, "/readyz") == (200, READY)


@pytest.mark.parametrize(
    "code",
    [
        sqlite3.SQLITE_IOERR | (3 << 8),
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
    ],
)
async def test_a_database_that_cannot_be_written(api: Api, code: int) -> None:
    """Custodians' webhooks cannot be stored: another process has to take them."""
    await api.key()
    connection = api.context.db._write_connection
    connection._fault = failing_with(code)
    assert await write(api) == 503
    status, body = await probe(api, "/readyz")
    assert (status, body["status"]) == (503, "store_unavailable")
    connection._fault = None
    assert await write(api) == 201
    assert (await probe(api, "/readyz"))[0] == 200


async def test_an_error_of_one_statement_is_nobody_elses(api: Api) -> None:
    """What is wrong with a request does not take the process out of service."""
    await api.key()

    def fault(text: str) -> None:
        if text == "COMMIT":
            raise sqlite3.OperationalError("no such function")

    api.context.db._write_connection._fault = fault
    assert await write(api) == 503
    assert await probe(api, "/readyz") == (200, READY)


async def test_no_custodian_is_no_service(api: Api) -> None:
    """A process without any can do nothing for a partner."""
    change(api.context, custodians={})
    status, body = await probe(api, "/readyz")
    assert (status, body["status"]) == (503, "no_custodian")
    assert (await probe(api, "/healthz"))[0] == 200


async def test_a_custodian_in_trouble_is_told(api: Api) -> None:
    """The other custodians are served: 200, also where marks are required."""
    degraded = {"acme_eu": "refuses_credentials"}
    change(api.context, degraded=lambda: degraded)
    body = {**READY, "degraded": degraded}
    assert await probe(api, "/readyz") == (200, body)
    assert await probe(api, "/readyz?require=marks") == (200, body)
