"""What a running gateway does when PostgreSQL cannot be used: 503, nothing half done, and it goes on by itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests import postgres
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.pg_pair import Pair, pair

pytestmark = [pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]
_ROLE = "gateway"
Fault = Callable[[Pair], AbstractContextManager[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stack, Pair]]:
    """A gateway with a role of its own, on a server of its own."""
    with pair(standby=False) as servers:
        node = servers.primary
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
