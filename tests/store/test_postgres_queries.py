"""Every statement of the store is one that PostgreSQL takes, with the types that it gives its values."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from gateway.store import executions
from gateway.store.database import Query
from tests import postgres
from tests.store.test_queries import QUERIES


@pytest_asyncio.fixture
async def connection() -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with every table."""
    with postgres.fresh() as server:
        connection = await asyncpg.connect(server.url)
        yield connection
        await connection.close()


async def test_every_statement_is_prepared(connection: asyncpg.Connection) -> None:
    """None is refused: names, functions and types are there."""
    refused: dict[str, str] = {}
    for each in QUERIES:
        (query,) = each.values
        assert isinstance(query, Query)
        text, names, fixed = query.numbered()
        assert set(fixed) <= set(names)
        try:
            async with connection.transaction():
                await connection.prepare(text)
        except asyncpg.PostgresError as error:
            refused[str(each.id)] = str(error)
    assert refused == {}


async def test_a_claim_leaves_what_others_are_claiming() -> None:
    """The claim of executions, which several engines make at once, skips locked rows."""
    for name in ("_CLAIM", "_CLAIM_MOVES", "_CLAIM_LOOKS", "_CLAIM_LISTED", "_CLAIM_ONE"):
        text, _, _ = vars(executions)[name].numbered()
        assert "FOR UPDATE SKIP LOCKED" in text
