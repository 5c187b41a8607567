"""A whole stack over real sockets: twin and gateway as processes, a receiver in the test's loop.

async with stack(tmp_path, rail=Rail("acme", destination={...})) as made:
await made.serve()
payout = await made.ended(await made.pay("43"))
assert len(await made.ledger()) == 1
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
import sqlite3
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import tomli_w
from aiohttp import web
from standardwebhooks import Webhook

from gateway.config.settings import Mode, load
from gateway.keys import mint_key
from gateway.runtime import Failpoint, real_runtime
from gateway.store.opening import open_database
from gateway.testing.databases import make_database, rows_of
from gateway.testing.processes import Process, command, twin_module

T = TypeVar("T")


@dataclass(frozen=True)
class Rail:
    """A custodian as the tests use it: its twin, what the configuration needs, whom it pays."""

    #: the adapter's name in the entry points, and the twin's
    name: str
    #: settings beside the twin's address and credentials, and those of its `sandbox.toml`
    settings: Mapping[str, Any]
    #: credentials of the twin that the adapter takes; None: all of them
    credentials: tuple[str, ...] | None
    destination: Mapping[str, Any]
    #: switches of the twin
    switches: Mapping[str, Any] = field(default_factory=dict)
    asset: str = "USDC"
    #: settings of the gateway beside those of the custodian
    gateway: Mapping[str, Any] = field(default_factory=dict)
    #: numbers of the adapter's modules that are waiting times, and what `--quick` makes of them
    quick: Mapping[str, float] = field(default_factory=dict)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now.

    Below the range that the system hands out by itself, so that no connection of the test takes it
    before the gateway does.
    """
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", secrets.choice(range(20_000, 30_000))))
            except OSError:
                continue
            return int(probe.getsockname()[1])


async def eventually(look: Callable[[], Awaitable[T]], seconds: float = 25) -> T:
    """Ask until the answer is truthy; fail after so many seconds with the last answer."""
    end = asyncio.get_running_loop().time() + seconds
    while not (found := await look()):
        assert asyncio.get_running_loop().time() < end, f"still {found!r} after {seconds} s"
        await asyncio.sleep(0.05)
    return found


class Receiver:
    """A subscriber's endpoint: keeps what verifies with the independent library, counts the rest.

    `any_age`: it does not mind how old the signature says that it is; `age_s` of what is kept says it.
    `answer` is the status of its answers, `headers` are their fields.
    """

    def __init__(self) -> None:
        self.secret = ""
        self.any_age = False
        self.answer = 204
        self.headers: dict[str, str] = {}
        self.received: list[dict[str, Any]] = []
        self.unverified = 0
        self.tries = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Take one delivery."""
        body = await request.read()
        self.tries += 1
        try:
            event = self._verified(body, dict(request.headers))
        except Exception:  # noqa: BLE001 - whatever it is, it did not verify
            self.unverified += 1
            return web.Response(status=400)
        if self.answer == 204:
            age_s = time.time() - int(request.headers["webhook-timestamp"])
            kept = {"id": request.headers["webhook-id"], "body": body, "age_s": age_s}
            self.received.append({**kept, **event})
        return web.Response(status=self.answer, headers=self.headers)

    def _verified(self, body: bytes, headers: dict[str, str]) -> Any:
        webhook = Webhook(self.secret)
        if not self.any_age:
            return webhook.verify(body, headers)
        sent_at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        expected = webhook.sign(headers["webhook-id"], sent_at, body.decode())
        if expected not in headers["webhook-signature"].split(" "):
            raise ValueError("the signature does not fit")
        return json.loads(body)

    def forget(self) -> None:
        """Start again; the secret stays."""
        self.received.clear()
        self.any_age, self.answer, self.unverified, self.tries = False, 204, 0, 0
        self.headers.clear()

    def types(self, payout_id: str) -> list[str]:
        """Return the event types received for a payout, in the order of their sequence, once each."""
        events = {each["id"]: each for each in self.received if each["data"]["id"] == payout_id}
        return [
            each["type"]
            for each in sorted(events.values(), key=lambda each: each["data"]["sequence"])
        ]


class Stack:
    """Twin, gateway, receiver and an API client."""

    def __init__(self, folder: Path, http: aiohttp.ClientSession, rail: Rail) -> None:
        self.folder = folder
        self.rail = rail
        self.http = http
        self.receiver = Receiver()
        self.gateway: Process | None = None
        self.gateways: list[Process] = []
        self.twin: Process | None = None
        self.control = ""
        self.credentials: dict[str, str] = {}
        self.url = ""
        self.own_url = ""
        self.key = ""

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "g.toml"

    async def start_gateway(self, *arguments: str) -> Process:
        """Start the gateway, perhaps one that stops itself somewhere."""
        quick = [f"{name}={value}" for name, value in self.rail.quick.items()]
        self.gateway = await Process.start(
            self.folder / "gateway.log",
            "gateway.testing.serving",
            "--config",
            str(self.config),
            *(part for each in quick for part in ("--quick-number", each)),
            *arguments,
        )
        self.gateways.append(self.gateway)
        return self.gateway

    async def serve(self, *arguments: str) -> Process:
        """Start the gateway with short waiting times; the rules stay the same. Return when it serves."""
        return await self.start_gateway("--quick", *arguments)

    async def kill_at(self, failpoint: Failpoint | str, occurrence: int = 1) -> Process:
        """Start a gateway that kills itself the so-manieth time it comes to a failpoint.

        Await `died()` of what is returned, then `serve()` again.
        """
        at = ("--at", str(failpoint), "--occurrence", str(occurrence))
        return await self.serve(*at)

    async def kill(self) -> None:
        """Kill the gateway as a power cut would (SIGKILL), and wait until it is gone."""
        assert self.gateway is not None, "no gateway was started"
        self.gateway.kill()
        await self.gateway.died()

    async def start_second(self, *arguments: str) -> Process:
        """Start another gateway on the same database, on a port of its own; calls go there now."""
        second = await self.start_gateway("--port", "0", *arguments)
        self.url = second.line.strip()
        return second

    async def stop_gateways(self) -> None:
        """Stop every gateway that still runs, each by its id."""
        running, self.gateways, self.gateway = self.gateways, [], None
        self.url = self.own_url
        ended = await asyncio.gather(*(each.stop() for each in running), return_exceptions=True)
        for each in ended:
            if isinstance(each, BaseException):
                raise each

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command of the gateway; return its exit code, stdout and stderr."""
        return await command(self.folder, *arguments, "--config", str(self.config))

    async def run(self, *arguments: str) -> str:
        """Run a command of the gateway that succeeds, and return what it printed."""
        code, out, err = await self.command(*arguments)
        assert code == 0, f"{arguments} ended with {code}: {err}"
        return out

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Read the database as it is now, past every gateway."""
        settings = load(self.config, {})
        if settings.postgres is not None:
            return rows_of(settings.postgres.url, query, values)
        uri = f"file:{settings.database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=20)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, values)]

    async def call(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """Call the partner API; return status and JSON."""
        async with self.http.request(
            method,
            self.url + path,
            json=body,
            headers={
                "authorization": f"Bearer {self.key}",
                **{k.replace("_", "-"): v for k, v in headers.items()},
            },
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def quote(self, amount: str = "43", **destination: Any) -> str:
        """Ask for a quote to the rail's payee, or one that differs in some members; return its id."""
        status, quote = await self.call(
            "POST",
            "/payouts/quote",
            {
                "external_ref": "user-1",
                "asset": self.rail.asset,
                "amount": amount,
                "destination": {**self.rail.destination, **destination},
            },
            idempotency_key=secrets.token_hex(8),
        )
        assert status == 200, quote
        return str(quote["quote_id"])

    async def pay(self, amount: str = "43") -> str:
        """Quote and pay; return the payout id."""
        return await self.execute(await self.quote(amount))

    async def execute(self, quote_id: str) -> str:
        """Turn a quote into a payout, whatever happens to the gateway meanwhile; return its id."""
        status, payout = await self.call("POST", "/payouts", {"quote_id": quote_id})
        assert status in {201, 409}, payout
        return str(payout["id"] if status == 201 else payout["payout_id"])

    async def payout(self, payout_id: str) -> dict[str, Any]:
        """Return a payout."""
        status, payout = await self.call("GET", f"/payouts/{payout_id}")
        assert status == 200, payout
        return dict(payout)

    async def reaches(self, payout_id: str, *words: str, seconds: float = 25) -> dict[str, Any]:
        """Wait until the payout's status or sub-status is one of the words."""

        async def look() -> dict[str, Any] | None:
            payout = await self.payout(payout_id)
            return payout if {payout["status"], payout["sub_status"]} & set(words) else None

        try:
            return await eventually(look, seconds)  # type: ignore[arg-type]
        except AssertionError:
            raise AssertionError(await self.run("payouts", "show", payout_id)) from None

    async def ended(self, payout_id: str, seconds: float = 40) -> dict[str, Any]:
        """Wait until a payout is delivered or has failed; return it."""
        return await self.reaches(payout_id, "delivered", "failed", seconds=seconds)

    async def fault(self, call: str, fault: str, **more: Any) -> None:
        """Let something go wrong at the custodian, at the next call of that name."""
        await self.steer("POST", "faults", {"call": call, "fault": fault, **more})

    async def ledger(self) -> list[dict[str, Any]]:
        """Return every transfer that the custodian made: the witness that money moved once."""
        async with self.http.get(self.control + "/_twin/ledger") as answer:
            return list((await answer.json())["transfers"])

    async def calls(self, *names: str) -> list[str]:
        """Return the calls that the twin has received, in order; only those of some names."""
        told = (await self.steer("GET", "calls"))["calls"]
        return [each["call"] for each in told if not names or each["call"] in names]

    async def steer(self, method: str, what: str, body: Any = None) -> Any:
        """Use the twin's control API."""
        async with self.http.request(method, f"{self.control}/_twin/{what}", json=body) as answer:
            text = await answer.text()
            assert answer.status < 300, text
            return json.loads(text) if text else None


def sandbox_of(name: str) -> dict[str, Any]:
    """Return the `sandbox.toml` beside a twin: what a configuration needs to use it."""
    package = twin_module(name).rpartition(".")[0]
    return tomllib.loads(files(package).joinpath("sandbox.toml").read_text(encoding="utf-8"))


def configuration(
    rail: Rail, told: Any, port: int, base_url: str, database: Path | str
) -> dict[str, Any]:
    """Return the gateway's configuration for a twin; what it needs else stands beside the twin."""
    names = told["credentials"] if rail.credentials is None else rail.credentials
    credentials = {name: told["credentials"][name] for name in names}
    fragment = sandbox_of(rail.name)
    settings = {**fragment.get("settings", {}), **rail.settings, **credentials}
    return {
        "database": str(database),
        "public_url": f"http://127.0.0.1:{port}",
        "server_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "listen": {"port": port},
        "webhooks": {
            "allow_private_addresses": True,
            "timeout_s": 1,
            "retry_plan_s": [0.3, 0.5, 1, 1, 1, *[2] * 14],
            "slow_down_s": 0.3,
        },
        "engine": {"lease_s": 1.5, "idle_s": 0.5, "sweep_s": 1},
        "custodians": {
            rail.name: {
                **settings,
                "adapter": rail.name,
                "modes": ["live", "test"],
                "base_url": base_url,
            }
        },
        "routes": [{**route, "custodian": rail.name} for route in fragment["routes"]],
        **rail.gateway,
    }


@asynccontextmanager
async def stack(
    folder: Path,
    *,
    twin_webhooks: bool = True,
    mode: Mode = "live",
    rail: Rail,
    through: Callable[[str], Awaitable[str]] | None = None,
    database: Path | Callable[[], str] = Path("gateway.db"),
) -> AsyncIterator[Stack]:
    """Start twin and receiver, write the configuration, mint a key. The gateway is started by the test.

    `database`: a file, or what makes an empty PostgreSQL database and returns its URL. `through` may put something between gateway and twin: given the twin's address, it returns its own.
    """
    port = free_port()
    webhook_url = f"http://127.0.0.1:{port}/custodians/{rail.name}/webhooks"
    arguments = [twin_module(rail.name), "--port", "0", "--step-s", "0.1"]
    arguments += ["--webhook-url", webhook_url] if twin_webhooks else []
    async with aiohttp.ClientSession() as http:
        made = Stack(folder, http, rail)
        made.url = made.own_url = f"http://127.0.0.1:{port}"
        application = web.Application()
        application.router.add_post("/hook", made.receiver.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            made.twin = await Process.start(folder / "twin.log", *arguments)
            told = json.loads(made.twin.line)
            made.control, made.credentials = told["control_url"], told["credentials"]
            if rail.switches:
                await made.steer("PUT", "settings", dict(rail.switches))
            base_url = told["url"] if through is None else await through(told["url"])
            place = database if isinstance(database, Path) else database()
            document = configuration(rail, told, port, base_url, place)
            made.config.write_text(tomli_w.dumps(document))
            # Not by the command, which has tests of its own: a process more for each test.
            settings = load(made.config, {})
            if settings.postgres is None:
                make_database(settings.database)
            async with open_database(settings) as db:
                made.key = (await db.run(mint_key, real_runtime(), "acme", mode)).key
            yield made
        finally:
            try:
                await made.stop_gateways()
            finally:
                if made.twin is not None:
                    await made.twin.stop()
                await runner.cleanup()


_OPEN_WORK = """
SELECT id FROM executions WHERE ended_at IS NULL
UNION ALL SELECT id FROM batches WHERE state NOT IN ('finalized', 'failed', 'canceled')
UNION ALL SELECT dedup_key FROM inbox WHERE state = 'new'
UNION ALL SELECT endpoint_id FROM deliveries WHERE state = 'pending'
"""
#: How long the gateways of a test may take to do what is left to do after it, which nobody waits for.
_LEFT_S = 1.5


class SharedStacks:
    """One stack for the tests of a module: twin, receiver and database go on, gateways do not.

    A test is lent a stack on which nothing is left to be done, and a twin in its seeded world. If it
    leaves something open, the next one is lent a new stack. A test that stops no gateway may be lent one
    that goes on, too.
    """

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        self._new_folder = new_folder
        self._kept: dict[str, tuple[Stack, AsyncExitStack]] = {}

    @asynccontextmanager
    async def lend(
        self, key: str, rail: Rail, *, gateway: tuple[str, ...] | None = None, **options: Any
    ) -> AsyncIterator[Stack]:
        """Lend the stack of a key; one key always stands for the same rail and options.

        `gateway`: the arguments of a gateway that runs already and goes on after the test.
        """
        if key not in self._kept:
            opened = AsyncExitStack()
            made = await opened.enter_async_context(stack(self._new_folder(), rail=rail, **options))
            self._kept[key] = made, opened
        made, _ = self._kept[key]
        as_new = False
        try:
            if gateway is not None and not made.gateways:
                await made.start_gateway(*gateway)
                await subscribe(made)
            yield made
            as_new = await self._renew(made, goes_on=gateway is not None)
        finally:
            if not as_new:
                await self._drop(key)

    async def _renew(self, made: Stack, *, goes_on: bool) -> bool:
        """Make a stack as good as new; False if the last test has left something to be done."""

        async def nothing_open() -> bool:
            return not made.rows(_OPEN_WORK)

        if any(each.exit_code is None for each in made.gateways):
            with suppress(AssertionError):
                await eventually(nothing_open, _LEFT_S)
        if not goes_on or any(each.exit_code is not None for each in made.gateways):
            await made.stop_gateways()
        if not await nothing_open():
            return False
        made.receiver.forget()
        await made.steer("POST", "reset", {})
        if made.rail.switches:
            await made.steer("PUT", "settings", dict(made.rail.switches))
        return True

    async def _drop(self, key: str) -> None:
        _, opened = self._kept.pop(key)
        await opened.aclose()

    async def close(self) -> None:
        """Stop everything."""
        for key in list(self._kept):
            await self._drop(key)


async def subscribe(made: Stack, **members: Any) -> None:
    """Register the receiver for every event, once; `members` are further ones of the endpoint."""
    if made.receiver.secret:
        return
    status, endpoint = await made.call(
        "POST", "/webhook-endpoints", {"url": made.receiver.url, "event_types": [], **members}
    )
    assert status == 201, endpoint
    made.receiver.secret = endpoint["secret"]
