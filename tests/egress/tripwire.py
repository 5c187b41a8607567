"""Two networks of our own, with listeners on addresses that no delivery may reach. Run by its test.

`near` is where the gateway runs: it has a public address of its own. `far` is everything else: public
receivers, and whatever hides behind addresses that only look public. Both listen on every address.
Needs the rights to make network namespaces (`unshare --user --map-root-user --net`).
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys

import aiohttp
from aiohttp import web

from gateway.config.settings import WebhookSettings
from gateway.runtime import real_runtime
from gateway.webhooks.sender import Sender, Target
from tests.delivery_clients import KINDS, client
from tests.egress.test_guard import SetResolver

PORT = 8443
#: This machine's own public addresses.
OWN = ("93.184.216.1", "2606:4700:10::1", "8.8.8.8")
#: Receivers that deliveries may go to.
PUBLIC = ("93.184.216.34", "2606:4700:10::34")
#: What must not be reached, though it is there and has a route.
TRAPS = (
    "10.0.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.168.0.1",
    "198.18.0.1",
    "::a00:1",
    "::ffff:0:a00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "200::1",
    "2001::1",
    "2002:a00:1::1",
    "2606:4700:20::5efe:a00:1",
    "2606:4700:20::200:5efe:a00:1",
    "4000::1",
    "fd00:ec2::254",
    "fec0::1",
)


def ip(*words: str) -> None:
    """Configure the network."""
    subprocess.run(["ip", *words], check=True)


def add(address: str, link: str, length: int | None = None) -> None:
    """Give a link an address."""
    six = ":" in address
    length = length or (128 if six else 32)
    nodad = ("nodad",) if six else ()
    ip("addr", "add", f"{address}/{length}", "dev", link, *nodad)


async def listen() -> list[str]:
    """Listen on every address; return whatever is told of visitors."""
    visits: list[str] = []

    async def take(request: web.Request) -> web.Response:
        if request.path == "/visits":
            return web.json_response(visits)
        visits.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", PORT).start()
    await web.TCPSite(runner, "::", PORT).start()
    return visits


async def far() -> None:
    """Be the other network, until the input ends."""
    print("made", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    ip("link", "set", "lo", "up")
    ip("link", "set", "far0", "up")
    add("93.184.216.34", "far0", 24)
    add("2606:4700:10::34", "far0", 64)
    for address in TRAPS:
        add(address, "lo")
    await listen()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def near() -> None:
    """Be the gateway's network: deliver to every address, and print what came of it."""
    command = ["unshare", "--net", sys.executable, "-m", "tests.egress.tripwire", "far"]
    other = subprocess.Popen(  # noqa: ASYNC220
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "made\n"
        ip("link", "set", "lo", "up")
        ip("link", "add", "near0", "type", "veth", "peer", "name", "far0")
        ip("link", "set", "far0", "netns", str(other.pid))
        ip("link", "set", "near0", "up")
        add("93.184.216.1", "near0", 24)
        add("2606:4700:10::1", "near0", 64)
        add("8.8.8.8", "lo")
        other.stdin.write("go\n")
        other.stdin.flush()
        assert other.stdout.readline() == "ready\n"
        ip("route", "add", "default", "via", "93.184.216.34")
        ip("-6", "route", "add", "default", "via", "2606:4700:10::34")
        visits = await listen()
        found = {
            "guarded": {each: await deliver(each, private=False) for each in (*OWN, *TRAPS)},
            "public": {each: await deliver(each, private=False) for each in PUBLIC},
        }
        found["visits"] = {"near": list(visits), "far": await visits_of("93.184.216.34")}
        # The control: without the guard every one of them is reached.
        found["unguarded"] = {each: await deliver(each, private=True) for each in (*OWN, *TRAPS)}
        print(json.dumps(found))
    finally:
        other.stdin.close()
        other.wait(10)


async def visits_of(host: str) -> list[str]:
    """Ask the other network who has been there."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{host}:{PORT}/visits") as answer,
    ):
        listed: list[str] = await answer.json()
    return listed


async def deliver(address: str, *, private: bool) -> list[str]:
    """Deliver to an address, by a name and as a literal host, by each client; return the outcomes."""
    host = f"[{address}]" if ":" in address else address
    path = f"/{address}"
    outcomes = []
    settings = WebhookSettings(timeout_s=5)
    for url in (f"http://hooks.example.com:{PORT}{path}", f"http://{host}:{PORT}{path}"):
        for kind in KINDS:
            resolver = SetResolver([[address]])
            async with client(kind, private=private, resolver=resolver) as http:
                sender = Sender(http, settings, real_runtime())
                result = await sender.send(Target(url, (bytes(32),)), "evt_1", b"{}")
            outcomes.append(str(result.outcome))
    return outcomes


if __name__ == "__main__":
    socket.setdefaulttimeout(10)
    asyncio.run(far() if sys.argv[1:] == ["far"] else near())
