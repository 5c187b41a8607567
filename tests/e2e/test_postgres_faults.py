"""What a running gateway does when PostgreSQL cannot be used: 503, nothing half done, and it goes on by itself."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests import postgres
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.pg_pair import Pair, pair

pytestmark = [pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]
_ROLE = "gateway"
#: More than the tables need that are empty, and little enough to be filled at once.
_SIZE = "64m"
Fault = Callable[[Pair], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def disk() -> Iterator[Path | None]:
    """A small file system for the database's tables; None where this machine lets nobody mount one."""
    user = postgres.system_user()
    with postgres.short_folder(user) as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            yield None
            return
        tables = folder / "tables"
        tables.mkdir()
        if user is not None:
            shutil.chown(tables, user)
        yield tables
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(
    tmp_path_factory: pytest.TempPathFactory, disk: Path | None
) -> AsyncIterator[tuple[Stack, Pair]]:
    """A gateway with a role of its own, on a server of its own."""
    with pair(standby=False) as servers:
        node = servers.primary
        if disk is not None:
            postgres.execute(
                node.url(),
                f"CREATE TABLESPACE small LOCATION '{disk}'",
                "ALTER DATABASE payouts SET TABLESPACE small",
            )
        postgres.execute(
            node.url(), f"CREATE ROLE {_ROLE} LOGIN", f"ALTER DATABASE payouts OWNER TO {_ROLE}"
        )
        postgres.execute(node.url("payouts"), f"ALTER SCHEMA public OWNER TO {_ROLE}")
        url = node.url("payouts").replace("//postgres@", f"//{_ROLE}@")
        folder = tmp_path_factory.mktemp("faults")
        async with stack(folder, rail=DUMMY, database=lambda: url) as made:
            await made.start_gateway("--quick")
            await subscribe(made)
            yield made, servers


def _lose_connections(servers: Pair) -> None:
    postgres.execute(
        servers.primary.url(),
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{_ROLE}'",
    )


@contextmanager
def no_connection(servers: Pair) -> Iterator[None]:
    """The role may have none."""
    postgres.execute(servers.primary.url(), f"ALTER ROLE {_ROLE} CONNECTION LIMIT 0")
    _lose_connections(servers)
    yield
    postgres.execute(servers.primary.url(), f"ALTER ROLE {_ROLE} CONNECTION LIMIT -1")


@contextmanager
def read_only(servers: Pair) -> Iterator[None]:
    """As a standby is."""
    url = servers.primary.url()
    postgres.execute(url, "ALTER DATABASE payouts SET default_transaction_read_only = on")
    _lose_connections(servers)
    yield
    postgres.execute(url, "ALTER DATABASE payouts RESET default_transaction_read_only")
    _lose_connections(servers)


@contextmanager
def no_permission(servers: Pair) -> Iterator[None]:
    """On one table that every payout needs."""
    url = servers.primary.url("payouts")
    postgres.execute(url, "ALTER TABLE quotes OWNER TO postgres")
    yield
    postgres.execute(url, f"ALTER TABLE quotes OWNER TO {_ROLE}")


@contextmanager
def gone(servers: Pair) -> Iterator[None]:
    """Killed, and started again after a while."""
    servers.primary.kill()
    yield
    servers.primary.start()


@contextmanager
def a_lock(servers: Pair) -> Iterator[None]:
    """Somebody keeps a table for longer than a statement may take: it ends in mid-change."""
    loop = asyncio.new_event_loop()
    # A loop of its own, which does not run meanwhile: the session is kept by the server.
    with ThreadPoolExecutor(1) as pool:

        def take() -> Any:
            async def work() -> Any:
                connection = await asyncpg.connect(servers.primary.url("payouts"))
                await connection.execute("BEGIN; LOCK TABLE payouts IN ACCESS EXCLUSIVE MODE")
                return connection

            return loop.run_until_complete(work())

        connection = pool.submit(take).result()
        yield
        pool.submit(lambda: loop.run_until_complete(connection.close())).result()
        loop.close()


@pytest.mark.parametrize("fault", [no_connection, read_only, no_permission, gone, a_lock])
async def test_a_fault_is_told_and_survived(made: tuple[Stack, Pair], fault: Fault) -> None:
    """503 with `Retry-After` while it lasts; afterwards each accepted payout is paid once, and no other."""
    gateway, servers = made
    quote_id = await gateway.quote()
    before = len(await gateway.ledger())
    context = fault(servers)
    await asyncio.to_thread(context.__enter__)

    async def refused() -> tuple[int, str | None, str]:
        async with gateway.http.post(
            f"{gateway.url}/payouts",
            json={"quote_id": quote_id},
            headers={"authorization": f"Bearer {gateway.key}", "idempotency-key": key},
        ) as answer:
            return answer.status, answer.headers.get("Retry-After"), (await answer.json())["code"]

    key = secrets.token_hex(8)
    try:
        status, retry_after, code = await asyncio.wait_for(refused(), 40)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
    assert (status, code) == (503, "store_unavailable")
    assert retry_after is not None
    assert gateway.gateway is not None
    assert gateway.gateway.exit_code is None

    async def accepted() -> str | None:
        status, body = await gateway.call(
            "POST", "/payouts", {"quote_id": quote_id}, idempotency_key=key
        )
        return str(body["id"]) if status == 201 else None

    # Nothing of the refused request was done: the quote is still to be used.
    payout_id = await eventually(accepted, 60)
    assert payout_id is not None
    assert (await gateway.ended(payout_id))["status"] == "delivered"
    assert len(await gateway.ledger()) == before + 1

    async def told() -> bool:
        return gateway.receiver.types(payout_id) == [
            "payout.created",
            "payout.broadcast",
            "payout.delivered",
        ]

    await eventually(told, 60)


def _stuff(disk: Path) -> Path:
    """Leave no room on it; return the file that takes it."""
    ballast = disk.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


async def test_a_full_disk_is_told_and_survived(
    made: tuple[Stack, Pair], disk: Path | None
) -> None:
    """Tables cannot grow: 503 with `Retry-After`, nothing half done, and it goes on once there is room."""
    if disk is None:
        pytest.skip("no small file system can be mounted here")
    gateway, _ = made
    # More than there is room for in the pages that the tables have.
    quotes = [await gateway.quote() for _ in range(60)]
    before = len(await gateway.ledger())
    accepted: dict[str, str] = {}

    async def pay(quote_id: str) -> int:
        async with gateway.http.post(
            f"{gateway.url}/payouts",
            json={"quote_id": quote_id},
            headers={"authorization": f"Bearer {gateway.key}", "idempotency-key": quote_id},
        ) as answer:
            body = await answer.json()
            if answer.status == 201:
                accepted[quote_id] = body["id"]
            else:
                assert (answer.status, body["code"]) == (503, "store_unavailable"), body
                assert answer.headers["Retry-After"]
            return answer.status

    ballast = await asyncio.to_thread(_stuff, disk)
    try:
        statuses = [await asyncio.wait_for(pay(each), 40) for each in quotes]
    finally:
        ballast.unlink()
    assert 503 in statuses
    refused = set(quotes) - set(accepted)

    async def is_accepted(quote_id: str) -> bool:
        return await pay(quote_id) == 201

    # Nothing of a refused request was done: its quote is still to be used.
    for each in refused:
        await eventually(lambda each=each: is_accepted(each), 60)  # type: ignore[misc]
    for payout_id in accepted.values():
        assert (await gateway.ended(payout_id, 90))["status"] == "delivered"
    assert len(await gateway.ledger()) == before + len(quotes)
