"""No delivery goes to an address that is not public: every row, every odd spelling, every detour."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config.settings import WebhookSettings
from gateway.egress import DENIED, DeniedAddressError, connectors, denied, url_fault
from gateway.egress.addresses import IPNetwork, is_own
from gateway.egress.posting import Answer, NotConnectedError
from tests.delivery_clients import client, each_client


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


async def post(
    kind: str,
    url: str,
    resolver: AbstractResolver | None = None,
    *,
    private: bool = False,
    denied_networks: Sequence[IPNetwork] = (),
) -> Answer:
    """Post once, by a client of its own."""
    async with client(
        kind, private=private, resolver=resolver, denied_networks=denied_networks
    ) as http:
        return await http.post(url, {}, b"x", timeout_s=5, scope="")


def _samples(network: str) -> list[str]:
    net = ipaddress.ip_network(network)
    return [str(net[0]), str(net[net.num_addresses // 2]), str(net[-1])]


@pytest.mark.parametrize("network", [text for text, _ in DENIED])
@each_client
async def test_every_row_is_refused_when_it_is_dialled(network: str, kind: str) -> None:
    """The first, a middle and the last address of the row, by a name and as a literal host."""
    async with tripwire() as wire:
        for address in _samples(network):
            assert denied(address)
            host = f"[{address}]" if ":" in address else address
            for url, resolver in (
                (f"http://{host}:{wire.port}/", None),
                (f"http://hooks.example.com:{wire.port}/", SetResolver([[address]])),
            ):
                with pytest.raises(DeniedAddressError):
                    await post(kind, url, resolver)
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
        "168.63.129.16",
        # IPv4 inside IPv6: translated (SIIT), local NAT64, ISATAP under a public prefix.
        "::ffff:0:7f00:1",
        "64:ff9b:1::a00:1",
        "2606:4700::5efe:7f00:1",
        "2606:4700::200:5efe:10.0.0.1",
        "2606:4700:1:2:0:5efe:808:808",
        # Outside of what is allocated as global unicast.
        "1::1",
        "200::1",
        "400::1",
        "1fff:ffff::1",
        "4000::1",
        "8000::1",
        "fe00::1",
    ],
)
def test_known_traps_are_denied(address: str) -> None:
    """Forms that `is_global` calls global, or that hide an inner address."""
    assert denied(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "2606:4700::1111",
        "100.128.0.1",
        "168.63.129.15",
        "2000::1",
        "3eff:ffff::1",
        "2606:4700::5eff:7f00:1",
    ],
)
def test_public_addresses_are_not(address: str) -> None:
    """The table is not a wall."""
    assert not denied(address)


@given(st.integers(0, 2**128 - 1))
def test_of_ipv6_only_global_unicast_is_left(number: int) -> None:
    """Whatever the other bits are."""
    address = ipaddress.IPv6Address(number)
    if number >> 125 != 0b001:
        assert denied(str(address))
    inside = ipaddress.IPv6Address(number & (2**125 - 1) | 1 << 125)
    isatap = ipaddress.IPv6Address(int(inside) & ~(0xFFFFFFFF << 32) | 0x02005EFE << 32)
    assert denied(str(isatap))


@pytest.mark.parametrize("network", ["93.184.216.0/24", "2606:4700::/32"])
@each_client
async def test_networks_that_the_operator_denies(network: str, kind: str) -> None:
    """By name and as a literal host; addresses beside them are not denied."""
    more = WebhookSettings.model_validate({"denied_networks": [network]}).denied_networks
    for address in _samples(network):
        host = f"[{address}]" if ":" in address else address
        assert not denied(address)
        for url in (f"http://{host}:9/", "http://hooks.example.com:9/"):
            with pytest.raises(DeniedAddressError):
                await post(kind, url, SetResolver([[address]]), denied_networks=more)
    assert not denied("1.1.1.1", more)
    assert not denied("2a00::1", more)


def test_a_network_that_is_none_is_refused_at_start() -> None:
    """With the setting's name."""
    with pytest.raises(ValidationError, match="denied_networks"):
        WebhookSettings.model_validate({"denied_networks": ["93.184.216.34/24"]})


def test_own_addresses_are_known() -> None:
    """As the kernel says. tests/egress/test_tripwire.py has more of them."""
    assert is_own("127.0.0.1")


@each_client
async def test_the_own_public_address_is_not_dialled(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """At the seam of the socket: an address that is public, and this machine's."""
    monkeypatch.setattr(connectors, "is_own", lambda address: address == "93.184.216.34")
    for url in ("http://93.184.216.34:9/", "http://hooks.example.com:9/"):
        with pytest.raises(DeniedAddressError, match="own"):
            await post(kind, url, SetResolver([["93.184.216.34"]]))


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
@each_client
async def test_a_set_with_an_inner_address_is_refused(sets: list[list[str]], kind: str) -> None:
    """As a whole: which of them would be dialled is chance."""
    async with tripwire() as wire:
        with pytest.raises(DeniedAddressError):
            await post(kind, f"http://hooks.example.com:{wire.port}/", SetResolver(sets))
        assert wire.touched == 0


@each_client
async def test_a_name_that_changes_between_calls_is_resolved_and_checked_each_time(
    kind: str,
) -> None:
    """Rebinding: a public answer first, an inner one for the next call."""
    async with tripwire() as wire:
        resolver = SetResolver([["192.0.2.1"], ["127.0.0.1"]])
        async with client(kind, private=False, resolver=resolver) as http:
            url = f"http://rebind.example.com:{wire.port}/"
            for _ in range(3):
                with pytest.raises(DeniedAddressError):
                    await http.post(url, {}, b"x", timeout_s=5, scope="")
        assert len(resolver.asked) == 3
        assert wire.touched == 0


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "localhost"]
)
@each_client
async def test_odd_spellings_are_refused_when_dialled(host: str, kind: str) -> None:
    """Whatever the platform's resolver makes of them."""
    async with tripwire() as wire:
        with pytest.raises((DeniedAddressError, NotConnectedError, ValueError)):
            await post(kind, f"http://{host}:{wire.port}/")
        assert wire.touched == 0


@each_client
async def test_loopback_is_reached_where_it_is_configured(kind: str) -> None:
    """For development; the tripwire itself works."""
    async with tripwire() as wire:
        answer = await post(kind, f"http://127.0.0.1:{wire.port}/", private=True)
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


@pytest.mark.parametrize("url", ['https://"><script>', "https://a<b.example/", "https://a|b/"])
def test_a_host_of_letters_that_no_name_has(url: str) -> None:
    """Refused where private addresses are allowed, too."""
    assert url_fault(url, live=True, allow_private=True) == "must be an absolute https:// URL"
