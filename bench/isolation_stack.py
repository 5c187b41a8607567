"""What the isolation benchmark runs on: twin, gateway, the victim's receiver and a name server, on loopback.

Where the machine allows it, everything runs in namespaces of its own (user, mount, network): no packet
can leave, and `/etc/resolv.conf` names a server of ours, which answers for `*.answers.example` and for
nothing else. Elsewhere the attacks by names are left out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import fcntl
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import tomli_w
from harness import end_with_parent

from gateway.config.settings import load
from gateway.keys import mint_key
from gateway.runtime import real_runtime
from gateway.store import migrate
from gateway.store.opening import open_database

_HERE = Path(__file__).parent
#: The gateway's limit on open files: what many systems give a service.
FILES = 1024
VICTIM, ATTACKER = "victim", "attacker"
#: A limit per key is not what the victim is measured by: it takes its keys in turn.
VICTIM_KEYS = 16
_START_S = 30.0
_STOP_S = 5.0
_ANSWERED = ".answers.example"
#: Set in the environment of the process that runs inside the namespaces.
INSIDE = "PAYOUT_BENCH_ISOLATED"
_IFF_UP = 1
_SIOCSIFFLAGS = 0x8914
_MS_BIND = 4096


def enter_namespaces() -> None:
    """Start this program again in namespaces of its own, if that is possible; return otherwise."""
    unshare = shutil.which("unshare")
    command = [str(unshare), "--user", "--map-root-user", "--mount", "--net"]
    if INSIDE in os.environ or unshare is None:
        return
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execv(unshare, [*command, sys.executable, *sys.argv])  # noqa: S606 - this very program


def set_up_names(folder: Path) -> bool:
    """Bring loopback up and make our name server the only one; return whether there is one."""
    if INSIDE not in os.environ:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    file = folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n", encoding="ascii")
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.path.realpath("/etc/resolv.conf").encode()
    return not libc.mount(str(file).encode(), target, None, _MS_BIND, None)


class NameServer(asyncio.DatagramProtocol):
    """Answers 127.0.0.1 for names of ours; is silent about all others."""

    def __init__(self) -> None:
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Begin."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer a question, or not."""
        labels, at = [], 12
        while at < len(data) and data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]])
            at += 1 + data[at]
        if not (b"." + b".".join(labels).lower()).endswith(_ANSWERED.encode()):
            return
        question = data[12 : at + 5]
        is_a = question[-4:-2] == b"\0\1"
        head = data[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if is_a else b""
        self.transport.sendto(head + question + answer, addr)


class Child:
    """A process of ours. It ends with `stop`, whatever state it is in."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, log: Path, *arguments: str, files: int | None = None) -> Child:
        """Start a Python program; its stderr goes to a log."""

        def limit() -> None:
            end_with_parent()
            if files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                limit=2**26,
                preexec_fn=limit,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def line(self, seconds: float = _START_S) -> str:
        """Return its next line; empty where none comes in time."""
        assert self._process.stdout is not None
        with contextlib.suppress(TimeoutError):
            raw = await asyncio.wait_for(self._process.stdout.readline(), seconds)
            return raw.decode().strip()
        return ""

    async def ask(self, word: str) -> Any:
        """Say a word to it; return its answer, one line of JSON."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        return json.loads(await self.line())

    async def stop(self) -> str:
        """End it: asked first, then killed. Return the last line that it printed meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            out, _ = await asyncio.wait_for(self._process.communicate(), _STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            out, _ = await self._process.communicate()
        return (out.decode().strip().splitlines() or [""])[-1]

    def memory_mb(self) -> float:
        """Return its memory now and that of processes that it has started, in MB; 0 where it has ended."""
        total_kb = 0
        for pid in (self.pid, *self._children()):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmRSS"):
                        total_kb += int(line.split()[1])
        return total_kb / 1024

    def _children(self) -> list[int]:
        """Return the ids of the processes that it has started."""
        found: list[int] = []
        for each in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in each.read_text().split()]
        return found

    def cpu_ms(self) -> float:
        """Return the processor time that its threads have used, in ms."""
        used_ns = 0
        for each in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                used_ns += int(each.read_text().split()[0])
        return used_ns / 1e6


@dataclass
class Stack:
    """What runs."""

    folder: Path
    gateway: Child
    receiver: Child
    port: int
    victim_keys: list[str]
    attacker_key: str

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    async def received(self) -> dict[str, int]:
        """Return when the victim's receiver got each event first, by its id (monotonic time in ns)."""
        return {event_id: at for event_id, _, at, _ in await self.receiver.ask("tell")}

    def events(self, kind: str) -> dict[str, str]:
        """Return the event of a type of each of the victim's payouts, as the database has it."""
        path = self.folder / "gateway.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
            found = db.execute(
                "SELECT payout_id, id FROM events WHERE org = ? AND type = ?", (VICTIM, kind)
            ).fetchall()
        return dict(found)


def free_port() -> int:
    """Return a port that is free now, below those that the system hands out by itself."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", secrets.choice(range(20_000, 30_000))))
            return int(probe.getsockname()[1])


@asynccontextmanager
async def running_stacks(count: int, *, names: bool) -> AsyncIterator[list[Stack]]:
    """Start several of them at once, as `_running_stack` does."""
    async with contextlib.AsyncExitStack() as running:
        async with asyncio.TaskGroup() as starting:
            made = [
                starting.create_task(running.enter_async_context(_running_stack(names=names)))
                for _ in range(count)
            ]
        yield [each.result() for each in made]


@asynccontextmanager
async def _running_stack(*, names: bool) -> AsyncIterator[Stack]:
    """Start everything on a fresh database; end it, whatever happens.

    `names`: the custodian and the victim's receiver are called by name, and not by address; the receiver
    closes each connection, so that every delivery needs a look-up.
    """
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="payout-gateway-bench-isolation-") as name:
        folder, port = Path(name), free_port()
        try:
            twin = await Child.start(
                folder / "twin.log",
                *("-m", "adapters.dummy.twin.app", "--port", "0", "--step-s", "0.2"),
                *("--webhook-url", f"http://127.0.0.1:{port}/custodians/dummy/webhooks"),
            )
            children.append(twin)
            receiver = await Child.start(
                folder / "receiver.log", str(_HERE / "webhook_receiver.py")
            )
            children.append(receiver)
            config = _write_config(folder, port, json.loads(await twin.line()), names=names)
            keys = await _mint(config)
            gateway = await Child.start(
                folder / "gateway.log",
                *("-m", "gateway", "serve", "--config", str(config)),
                files=FILES,
            )
            children.append(gateway)
            stack = Stack(folder, gateway, receiver, port, keys[1:], keys[0])
            await _ready(stack)
            host = f"hooks{_ANSWERED}" if names else "127.0.0.1"
            await _subscribe(
                stack, f"http://{host}:{int(await receiver.line())}/{'close' if names else 'ok'}"
            )
            yield stack
        finally:
            await asyncio.gather(*(child.stop() for child in children))


def _write_config(folder: Path, port: int, told: dict[str, Any], *, names: bool) -> Path:
    base_url = str(told["url"])
    if names:
        base_url = base_url.replace("127.0.0.1", f"custodian{_ANSWERED}")
    path = folder / "gateway.toml"
    document = {
        "database": "gateway.db",
        "server_key": base64.b64encode(secrets.token_bytes(32)).decode(),
        "listen": {"port": port},
        "log": {"level": "warning"},
        # Receivers are on loopback here.
        "webhooks": {"allow_private_addresses": True},
        "custodians": {"dummy": {"adapter": "dummy", "base_url": base_url, **told["credentials"]}},
        "routes": [
            {
                "destination": "address",
                "custodian": "dummy",
                "account": {"id": "MAIN", "type": "ACCOUNT"},
                "assets": ["USDC"],
            }
        ],
    }
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return path


async def _mint(config: Path) -> list[str]:
    """Mint the attacker's key and those of the victim, before the gateway runs."""
    settings, runtime = load(config, {}), real_runtime()
    migrate.prepare(settings.database)
    async with open_database(settings, runtime) as db:
        orgs = [ATTACKER, *([VICTIM] * VICTIM_KEYS)]
        return [(await db.run(mint_key, runtime, org, "live")).key for org in orgs]


async def _ready(stack: Stack) -> None:
    end = time.monotonic() + _START_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while time.monotonic() < end and not stack.gateway.ended:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(stack.url + "/readyz") as answer:
                    if answer.status == 200:  # noqa: PLR2004 - ready
                        return
            await asyncio.sleep(0.05)
    raise SystemExit(
        "the gateway did not start:\n" + (stack.folder / "gateway.log").read_text(encoding="utf-8")
    )


async def _subscribe(stack: Stack, url: str) -> None:
    headers = {"Authorization": f"Bearer {stack.victim_keys[0]}"}
    body = {"url": url, "rate_limit_per_second": 5000}
    async with (
        aiohttp.ClientSession() as http,
        http.post(stack.url + "/webhook-endpoints", json=body, headers=headers) as answer,
    ):
        assert answer.status == 201, await answer.text()  # noqa: PLR2004 - created
