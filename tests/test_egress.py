"""No delivery goes to an address that is not public: every row, every odd spelling, every detour."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.egress import DENIED, DeniedAddressError, connector, denied, url_fault


@dataclass
class Tripwire:
    """A listener on loopback that nothing may reach."""

    port: int = 0
    touched: int = 0

    async def touch(self, _: web.Request) -> web.Response:
        """Count a visitor."""
        self.touched += 1
        return web.Response()


@asynccontextmanager
async def tripwire() -> AsyncIterator[Tripwire]:
    """Listen on every address of loopback that this machine has."""
    wire = Tripwire()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", wire.touch)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        wire.port = int(runner.addresses[0][1])
        yield wire
    finally:
        await runner.cleanup()


@dataclass
class SetResolver(AbstractResolver):
    """Answers as told, one set of addresses per look-up; the last one repeats."""

    sets: list[list[str]]
    asked: list[str] = field(default_factory=list)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the next set."""
        self.asked.append(host)
        told = self.sets.pop(0) if len(self.sets) > 1 else self.sets[0]
        return [
            ResolveResult(
                hostname=host,
                host=each,
                port=port,
                family=socket.AF_INET6 if ":" in each else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for each in told
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _samples(network: str) -> list[str]:
    net = ipaddress.ip_network(network)
    return [str(net[0]), str(net[net.num_addresses // 2]), str(net[-1])]


@pytest.mark.parametrize("network", [text for text, _ in DENIED])
async def test_every_row_is_refused_when_it_is_dialled(network: str) -> None:
    """The first, a middle and the last address of the row, by a name and as a literal host."""
    async with tripwire() as wire:
        for address in _samples(network):
            assert denied(address)
            host = f"[{address}]" if ":" in address else address
            for url, resolver in (
                (f"http://{host}:{wire.port}/", None),
                (f"http://hooks.example.com:{wire.port}/", SetResolver([[address]])),
            ):
                kind = connector(allow_private_addresses=False, resolver=resolver)
                async with aiohttp.ClientSession(connector=kind) as http:
                    with pytest.raises((DeniedAddressError, aiohttp.ClientError)) as refused:
                        await http.post(url, data=b"x")
                cause = getattr(refused.value, "os_error", refused.value)
                assert isinstance(cause, DeniedAddressError), refused.value
        assert wire.touched == 0


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:127.0.0.1",
        "::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001::1",
        "fe80::1%eth0",
        "255.255.255.255",
        "::",
        "0.0.0.0",
    ],
)
def test_known_traps_are_denied(address: str) -> None:
    """Forms that `is_global` calls global, or that hide an inner address."""
    assert denied(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "100.128.0.1"])
def test_public_addresses_are_not(address: str) -> None:
    """The table is not a wall."""
    assert not denied(address)


@pytest.mark.parametrize(
    "sets",
    [
        [["93.184.216.34", "127.0.0.1"]],
        [["2606:4700::1111", "10.0.0.7"]],
        [["fd00::1"]],
        [["169.254.169.254"]],
    ],
    ids=["mixed", "mixed families", "only AAAA, inner", "metadata, as by a CNAME"],
)
async def test_a_set_with_an_inner_address_is_refused(sets: list[list[str]]) -> None:
    """As a whole: which of them would be dialled is chance."""
    async with tripwire() as wire:
        kind = connector(allow_private_addresses=False, resolver=SetResolver(sets))
        async with aiohttp.ClientSession(connector=kind) as http:
            with pytest.raises((DeniedAddressError, aiohttp.ClientError)):
                await http.post(f"http://hooks.example.com:{wire.port}/", data=b"x")
        assert wire.touched == 0


async def test_a_name_that_changes_between_calls_is_resolved_and_checked_each_time() -> None:
    """Rebinding: a public answer first, an inner one for the next call."""
    async with tripwire() as wire:
        resolver = SetResolver([["192.0.2.1"], ["127.0.0.1"]])
        kind = connector(allow_private_addresses=False, resolver=resolver)
        async with aiohttp.ClientSession(connector=kind) as http:
            for _ in range(3):
                with pytest.raises((DeniedAddressError, aiohttp.ClientError)):
                    await http.post(f"http://rebind.example.com:{wire.port}/", data=b"x")
        assert len(resolver.asked) == 3
        assert wire.touched == 0


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "localhost"]
)
async def test_odd_spellings_are_refused_when_dialled(host: str) -> None:
    """Whatever the platform's resolver makes of them."""
    async with tripwire() as wire:
        kind = connector(allow_private_addresses=False)
        async with aiohttp.ClientSession(connector=kind) as http:
            with pytest.raises((DeniedAddressError, aiohttp.ClientError)):
                await http.post(f"http://{host}:{wire.port}/", data=b"x")
        assert wire.touched == 0


async def test_loopback_is_reached_where_it_is_configured() -> None:
    """For development; the tripwire itself works."""
    async with tripwire() as wire:
        kind = connector(allow_private_addresses=True)
        async with (
            aiohttp.ClientSession(connector=kind) as http,
            http.post(f"http://127.0.0.1:{wire.port}/", data=b"x") as answer,
        ):
            assert answer.status == 200
        assert wire.touched == 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.com/", "https"),
        ("ftp://hooks.example.com/", "absolute https"),
        ("//hooks.example.com/", "absolute https"),
        ("https:///x", "absolute https"),
        ("https://user:pw@hooks.example.com/", "user name"),
        ("https://user@hooks.example.com/", "user name"),
        ("https://hooks.example.com/#x", "fragment"),
        ("https://hooks.example.com/#", "fragment"),
        ("https://127.0.0.1/", "address"),
        ("https://[::1]/", "address"),
        ("https://[2606:4700::1111]/", "address"),
        ("https://93.184.216.34/", "address"),
        ("https://127.1/", "address"),
        ("https://0x7f000001/", "address"),
        ("https://2130706433/", "address"),
        ("https://0177.0.0.1./", "address"),
        ("https://localhost/", "in full"),
        ("https://intranet/", "in full"),
        ("https://db.internal/", "inner network"),
        ("https://printer.local./", "inner network"),
        ("https://x.localhost/", "inner network"),
        ("https://hooks.example.com:8080/", "port"),
        ("https://hooks.example.com:99999/", "not a URL"),
        ("https://hooks.example.com/" + "a" * 3000, "characters"),
        ("https://hööks.example.com/", "punycode"),
        ("https://hooks.example.com/a b", "encode"),
        ("https://hooks.example.com\\@evil.example/", "encode"),
        ("https://[::1/", "not a URL"),
    ],
)
def test_urls_that_are_refused_at_once(url: str, why: str) -> None:
    """With what is wrong."""
    assert why in str(url_fault(url, live=True, allow_private=False))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/",
        "https://hooks.example.com:8443/a?b=c",
        "https://xn--hks-sna.example.com/",
        "HTTPS://Hooks.Example.Com",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    """Public names over TLS."""
    assert url_fault(url, live=True, allow_private=False) is None


def test_test_mode_and_closed_networks_may_do_more() -> None:
    """Plain http in test mode; anything but credentials and fragments where it is configured."""
    assert url_fault("http://hooks.example.com/", live=False, allow_private=False) is None
    assert url_fault("http://hooks.example.com:80/", live=False, allow_private=False) is None
    assert url_fault("http://127.0.0.1:9/", live=True, allow_private=True) is None
    assert url_fault("http://a:b@127.0.0.1:9/", live=True, allow_private=True) is not None
