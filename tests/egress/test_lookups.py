"""Names that never resolve hold a bounded number of threads, and nobody else's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.config.settings import WebhookSettings
from gateway.egress import custodian_connector
from gateway.egress.lookups import Lookups, LookupTimeoutError, looking_up_for
from gateway.runtime import offload, real_runtime
from gateway.webhooks.sender import DeliveryOutcome, DeliveryResult, Sender, Target, client_for
from tests.webhooks.test_sender import receiver


class Names:
    """A system's resolver: names under `.dead` wait until they are let go, the others are loopback."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let_go = threading.Event()
        self.hanging = 0
        self._lock = threading.Lock()

    def lookup(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        """Resolve, as `socket.getaddrinfo` does."""
        with self._lock:
            self.asked.append(host)
            self.hanging += host.endswith(".dead")
        if host.endswith(".dead"):
            self.let_go.wait(30)
        if host.endswith(".none"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def names() -> Iterator[Names]:
    """Let everything go at the end."""
    made = Names()
    yield made
    made.let_go.set()


async def ask(lookups: Lookups, scope: str, host: str) -> str:
    """Resolve a name for a scope; return the address, or what went wrong."""
    try:
        with looking_up_for(scope):
            found = await lookups.resolve(host, 443)
    except OSError as error:
        return type(error).__name__
    return found[0]["host"]


async def test_a_scope_holds_a_bounded_number_of_threads(names: Names) -> None:
    """Forty names of one org hang: four threads. Another org's names resolve meanwhile."""
    lookups = Lookups("test", deadline_s=0.3, per_scope=4, threads=8, lookup=names.lookup)
    bad = [asyncio.create_task(ask(lookups, "bad", f"{n}.dead")) for n in range(40)]
    good = [await ask(lookups, "good", f"{n}.alive") for n in range(20)]
    assert good == ["127.0.0.1"] * 20
    assert set(await asyncio.gather(*bad)) == {"LookupTimeoutError"}
    assert names.hanging == 4
    # What waited for its turn is given up, what holds a thread is not.
    assert lookups.under_way == 4
    assert await ask(lookups, "good", "again.alive") == "127.0.0.1"
    assert await ask(lookups, "bad", "own.alive") == "LookupTimeoutError"
    names.let_go.set()
    async with asyncio.timeout(10):
        while lookups.under_way:
            await asyncio.sleep(0.01)
    assert await ask(lookups, "bad", "own.alive") == "127.0.0.1"
    await lookups.close()


async def test_one_name_holds_one_thread(names: Names) -> None:
    """However often it is requested, even after a deadline; waiting callers still get the answer."""
    lookups = Lookups("test", deadline_s=0.1, lookup=names.lookup)
    for _ in range(3):
        assert await ask(lookups, "bad", "one.dead") == "LookupTimeoutError"
    assert names.asked == ["one.dead"]
    patient = asyncio.create_task(ask(lookups, "bad", "one.dead"))
    await asyncio.sleep(0)
    names.let_go.set()
    assert await patient == "127.0.0.1"
    # Not cached: the next connection resolves again.
    assert await ask(lookups, "bad", "one.dead") == "127.0.0.1"
    assert names.asked == ["one.dead"] * 2
    await lookups.close()


async def test_who_gives_up_stops_nobody_else(names: Names) -> None:
    """A caller that is cancelled leaves the look-up to the others that wait for it."""
    lookups = Lookups("test", lookup=names.lookup)
    first, second = (asyncio.create_task(ask(lookups, "o", "same.dead")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    names.let_go.set()
    assert await second == "127.0.0.1"
    await lookups.close()


async def test_a_name_that_does_not_exist(names: Names) -> None:
    """Is the resolver's own error, at once."""
    lookups = Lookups("test", lookup=names.lookup)
    assert await ask(lookups, "o", "name.none") == "gaierror"
    await lookups.close()


async def test_the_systems_resolver_is_asked() -> None:
    """By default, with the addresses in the form in which they are dialled."""
    lookups = Lookups("test")
    found = await lookups.resolve("localhost", 80, socket.AF_INET)
    assert [(each["host"], each["port"], each["family"]) for each in found] == [
        ("127.0.0.1", 80, socket.AF_INET)
    ]
    await lookups.close()
    await lookups.close()


async def test_closing_gives_up_what_hangs(names: Names) -> None:
    """Without waiting for it, and without a thread that keeps the process from ending."""
    lookups = Lookups("test-closing", lookup=names.lookup)
    waiting = asyncio.create_task(ask(lookups, "o", "x.dead"))
    async with asyncio.timeout(10):
        while not names.hanging:
            await asyncio.sleep(0.01)
    await lookups.close()
    assert await waiting == "LookupTimeoutError"
    assert [each.daemon for each in threading.enumerate() if each.name == "test-closing"] == [True]


async def test_dead_names_of_one_tenant_stop_nobody(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tenants' deliveries, custodians' calls and computations off the loop go on."""
    monkeypatch.setattr(socket, "getaddrinfo", names.lookup)
    settings = WebhookSettings(
        timeout_s=5, allow_private_addresses=True, lookup_timeout_s=4, lookups_per_org=4
    )

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    async with (
        receiver(take) as url,
        client_for(settings) as http,
        aiohttp.ClientSession(connector=custodian_connector("acme")) as custodian,
    ):
        port = url.rpartition(":")[2]
        sender = Sender(http, settings, real_runtime())

        async def deliver(org: str, host: str) -> DeliveryResult:
            target = Target(f"http://{host}:{port}/", (bytes(32),), org=org)
            return await sender.send(target, "evt_1", b"{}")

        bad = [asyncio.create_task(deliver("bad", f"{n}.dead")) for n in range(60)]
        async with asyncio.timeout(3):
            for n in range(20):
                assert (await deliver("good", f"{n}.alive")).ok
                async with custodian.get(f"http://custodian-{n}.alive:{port}/") as answer:
                    assert answer.status == 200
                assert await offload(lambda: 1) == 1
        assert not any(each.done() for each in bad)
        results = await asyncio.gather(*bad)
    assert names.hanging == 4
    assert {each.outcome for each in results} == {DeliveryOutcome.TIMEOUT}


async def test_a_custodians_dead_name_stops_no_other_custodian(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each instance has threads of its own."""
    monkeypatch.setattr(socket, "getaddrinfo", names.lookup)

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    async with (
        receiver(take) as url,
        aiohttp.ClientSession(connector=custodian_connector("dead")) as dead,
        aiohttp.ClientSession(connector=custodian_connector("alive")) as alive,
    ):
        port = url.rpartition(":")[2]
        calls = [asyncio.create_task(dead.get(f"http://{n}.dead/")) for n in range(20)]
        async with asyncio.timeout(3), alive.get(f"http://api.alive:{port}/") as answer:
            assert answer.status == 200
        assert names.hanging <= 4
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_a_look_up_past_its_deadline_was_not_sent(names: Names) -> None:
    """There was no connection, says aiohttp then, so that a custodian's call counts as not sent."""
    lookups = Lookups("test", deadline_s=0.05, lookup=names.lookup)
    connector = aiohttp.TCPConnector(resolver=lookups)
    async with aiohttp.ClientSession(connector=connector) as http:
        with pytest.raises(aiohttp.ClientConnectorError) as raised:
            await http.get("http://never.dead/")
    assert isinstance(raised.value.os_error, LookupTimeoutError)
    await lookups.close()
