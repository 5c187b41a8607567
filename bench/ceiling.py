"""The ceilings, as one process: the same HTTP calls and the same rows, and none of the rules.

Reads one JSON object from its first argument:

- `bodies`: what is answered, by name (`quote`, `payout`, `page`);
- `source`: a database that a gateway has filled; its rows are written again into `database`, in group
  commits (`synchronous=FULL`, foreign keys not checked). Neither given: nothing is stored;
- `twin`, `receivers`: the same calls as a gateway makes of them. Not given: none is made;
- `port`: where it listens.

Prints `ready`, then one line of JSON for each line on standard input: how many payouts it has ended.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.payouts import PayoutRequest
from gateway.planning import QuoteRequest

#: One statement and its rows.
Writes = list[tuple[str, Sequence[Sequence[Any]]]]
_JSON = "application/json"
_SOON_S = 0.002
#: The tables with rows of one payout each, and how they are found.
OF_PAYOUT = {
    "payouts": "id = ?",
    "executions": "id IN (SELECT execution_id FROM execution_items WHERE payout_id = ?)",
    "execution_items": "payout_id = ?",
    "refs": "payout_id = ?",
    "payout_hashes": "payout_id = ?",
    "inbox": "payout_id = ? ORDER BY received_at",
    "events": "payout_id = ? ORDER BY position",
    "deliveries": "position IN (SELECT position FROM events WHERE payout_id = ?) ORDER BY position",
    "delivery_attempts": (
        "position IN (SELECT position FROM events WHERE payout_id = ?) ORDER BY position"
    ),
}
QUOTE_OF_PAYOUT = "payout_id = ?"
_DELIVERED = "UPDATE deliveries SET state = 'delivered' WHERE position = ? AND endpoint_id = ?"


def rows_of_payout(db: sqlite3.Connection, payout_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of a payout, by table, its quote among them."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    wanted = {"quotes": QUOTE_OF_PAYOUT, **OF_PAYOUT}
    return {
        name: db.execute(f"SELECT * FROM {name} WHERE {where}", (payout_id,)).fetchall()
        for name, where in wanted.items()
        if name in tables
    }


class GroupCommits:
    """Writes whatever was asked for meanwhile in one transaction, in a thread."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[tuple[Writes, asyncio.Future[None]]] = []
        self._running = False

    async def write(self, writes: Writes) -> None:
        """Write; when this returns, it is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((writes, done))
        if not self._running:
            self._running = True
            asyncio.create_task(self._run())  # noqa: RUF006 - ends with the queue
        await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            writes = [each for each, _ in group]
            try:
                await loop.run_in_executor(self._thread, self.commit, writes)
            except sqlite3.Error as error:
                for _, done in group:
                    done.set_exception(error)
                raise
            for _, done in group:
                done.set_result(None)
        self._running = False

    def commit(self, group: list[Writes]) -> None:
        """Write some changes in one transaction, each statement once for the rows of all of them."""
        merged: dict[str, list[Sequence[Any]]] = {}
        for writes in group:
            for text, rows in writes:
                merged.setdefault(text, []).extend(rows)
        self._db.execute("BEGIN IMMEDIATE")
        for text, rows in merged.items():
            if rows:
                self._db.executemany(text, rows)
        self._db.execute("COMMIT")


class Stored:
    """The rows of the payouts of a gateway's database, cut into what each step of a payout writes."""

    def __init__(self, source: Path, database: Path) -> None:
        with closing(sqlite3.connect(source)) as db, closing(sqlite3.connect(database)) as fresh:
            db.backup(fresh)
            ids = [each for (each,) in db.execute("SELECT id FROM payouts ORDER BY id")]
            self._rows = [rows_of_payout(db, each) for each in ids]
            for name in ("quotes", *OF_PAYOUT):
                fresh.execute(f"DELETE FROM {name}")
            self._quote_use = columns(db, "quotes").index("payout_id")
            self._document = columns(db, "payouts").index("document")
            self._notes = columns(db, "executions").index("notes")
            self._keys = db.execute("SELECT * FROM idempotency").fetchall()
            fresh.execute("DELETE FROM idempotency")
            fresh.commit()
        self.count = len(self._rows)

    def quote(self, number: int) -> Writes:
        """Return what a quote writes."""
        at = self._quote_use
        rows = [(*row[:at], None, *row[at + 1 :]) for row in self._rows[number]["quotes"]]
        return [_insert("quotes", rows), *self._key(number)]

    def _key(self, number: int) -> Writes:
        return [_insert("idempotency", [self._keys[number]])] if number < len(self._keys) else []

    def accepted(self, number: int) -> Writes:
        """Return what the acceptance of a payout writes."""
        rows = self._rows[number]
        used = [(row[self._quote_use], row[0]) for row in rows["quotes"]]
        return [
            ("UPDATE quotes SET payout_id = ? WHERE id = ?", used),
            *(_insert(name, rows[name]) for name in ("payouts", "executions", "execution_items")),
            *self._event(number, 0),
        ]

    def told(self, number: int, news: int) -> Writes:
        """Return what the first or second piece of news writes: the payout again, and an event."""
        rows = self._rows[number]
        changed = [(row[self._document], row[0]) for row in rows["payouts"]]
        noted = [(row[self._notes], row[0]) for row in rows["executions"]]
        return [
            *(_insert(name, rows[name]) for name in ("refs", "payout_hashes") if news == 0),
            _insert("inbox", rows["inbox"][news : news + 1]),
            ("UPDATE payouts SET document = ? WHERE id = ?", changed),
            ("UPDATE executions SET notes = ? WHERE id = ?", noted),
            *self._event(number, news + 1),
        ]

    def deliveries(self, number: int, event: int) -> list[tuple[str, bytes, Writes]]:
        """Return the id and body of an event, and what each receipt of it writes."""
        rows = self._rows[number]
        row = rows["events"][event]
        body = next(each for each in row if isinstance(each, bytes))
        return [
            (
                row[1],
                body,
                [
                    (_DELIVERED, [attempt[:2]]),
                    _insert("delivery_attempts", [attempt]),
                ],
            )
            for attempt in rows["delivery_attempts"]
            if attempt[0] == row[0]
        ]

    def events(self, number: int) -> int:
        """Return how many events a payout has."""
        return len(self._rows[number]["events"])

    def _event(self, number: int, event: int) -> Writes:
        rows = self._rows[number]
        row = rows["events"][event]
        own = [each for each in rows["deliveries"] if each[0] == row[0]]
        return [_insert("events", [row]), _insert("deliveries", own)]


def columns(db: sqlite3.Connection, table: str) -> list[str]:
    """Return the names of a table's columns."""
    return [each[1] for each in db.execute(f"PRAGMA table_info({table})")]


def _insert(table: str, rows: Sequence[Sequence[Any]]) -> tuple[str, Sequence[Sequence[Any]]]:
    marks = ",".join("?" * len(rows[0])) if rows else ""
    return f"INSERT INTO {table} VALUES ({marks})", rows


class Ceiling:
    """The application."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._bodies = {name: each.encode() for name, each in wanted["bodies"].items()}
        self._stored: Stored | None = None
        if wanted.get("source"):
            self._stored = Stored(Path(wanted["source"]), Path(wanted["database"]))
            self._commits = GroupCommits(Path(wanted["database"]))
        self._twin: Mapping[str, Any] | None = wanted.get("twin")
        self._receivers: Sequence[str] = wanted.get("receivers", ())
        self._http: aiohttp.ClientSession
        self._quoted = self._accepted = self.ended = 0
        self._numbers: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def app(self) -> Starlette:
        """Return the routes."""
        return Starlette(
            routes=[
                Route("/payouts/quote", self._quote, methods=["POST"]),
                Route("/payouts", self._accept, methods=["POST"]),
                Route("/payouts", self._page, methods=["GET"]),
                Route("/payouts/{payout_id}", self._payout, methods=["GET"]),
                Route("/custodians/dummy/webhooks", self._webhook, methods=["POST"]),
                Route("/readyz", self._payout, methods=["GET"]),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> Any:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._http:
            yield

    async def _quote(self, request: Request) -> Response:
        QuoteRequest.model_validate_json(await request.body())
        number, self._quoted = self._quoted, self._quoted + 1
        if self._stored is not None:
            await self._commits.write(self._stored.quote(number % self._stored.count))
        body = self._bodies["quote"].replace(b"NUMBER", str(number).encode())
        return Response(body, media_type=_JSON)

    async def _accept(self, request: Request) -> Response:
        PayoutRequest.model_validate_json(await request.body())
        number, self._accepted = self._accepted, self._accepted + 1
        if self._stored is not None:
            await self._commits.write(self._stored.accepted(number))
        if self._twin is not None:
            self._do(self._submit(number))
            self._do(self._deliver(number, 0))
        return Response(self._bodies["payout"], 201, media_type=_JSON)

    async def _page(self, _: Request) -> Response:
        return Response(self._bodies["page"], media_type=_JSON)

    async def _payout(self, _: Request) -> Response:
        return Response(self._bodies["payout"], media_type=_JSON)

    async def _webhook(self, request: Request) -> Response:
        told = json.loads(await request.body())["transfer"]
        # News may overtake the answer that has the id.
        while (number := self._numbers.get(told["id"])) is None:  # noqa: ASYNC110 - it comes soon
            await asyncio.sleep(_SOON_S)
        self._do(self._look(number, 1 if told["state"] == "DONE" else 0))
        return Response(b"", 200)

    async def _submit(self, number: int) -> None:
        assert self._twin is not None
        body = {
            "key": f"key-{number}",
            "source": "MAIN",
            "destination": "0x52908400098527886E0F7030069857D2E4169EE7",
            "asset": "USDC",
            "amount": "1.25",
        }
        told = json.loads(await self._call("POST", "/transfers", json.dumps(body).encode()))
        self._numbers[told["id"]] = number

    async def _look(self, number: int, news: int) -> None:
        assert self._stored is not None
        json.loads(await self._call("GET", f"/transfers/key-{number}"))
        await self._commits.write(self._stored.told(number, news))
        await self._deliver(number, news + 1)

    async def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        assert self._twin is not None
        fields = {"Authorization": f"Bearer {self._twin['credentials']['api_key']}"}
        async with self._http.request(
            method, self._twin["url"] + path, data=body, headers=fields
        ) as answer:
            return await answer.read()

    async def _deliver(self, number: int, event: int) -> None:
        assert self._stored is not None
        found = self._stored.deliveries(number, event)
        await asyncio.gather(
            *(self._post(url, *each) for url, each in zip(self._receivers, found, strict=True))
        )
        if event == self._stored.events(number) - 1:
            self.ended += 1

    async def _post(self, url: str, event_id: str, body: bytes, receipt: Writes) -> None:
        fields = {"webhook-id": event_id, "content-type": _JSON}
        async with self._http.post(url, data=body, headers=fields) as answer:
            await answer.read()
        await self._commits.write(receipt)

    def _do(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def main() -> None:
    """Serve until it is stopped."""
    wanted = json.loads(sys.argv[1])
    ceiling = Ceiling(wanted)

    def answer() -> None:
        for _ in sys.stdin:
            sys.stdout.write(json.dumps(ceiling.ended) + "\n")
            sys.stdout.flush()

    threading.Thread(target=answer, daemon=True).start()
    config = uvicorn.Config(
        ceiling.app(),
        port=wanted["port"],
        log_level="warning",
        access_log=False,
        ws="none",
        server_header=False,
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
