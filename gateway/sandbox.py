"""The custodians' twins on loopback, each a process of its own, and a configuration to use them.

Twins are found by the entry point group `payout_gateway.twins`. A twin prints one line of JSON
(`url`, `control_url`, `credentials`) once it answers; its credentials are named as its adapter's
settings are. What else a configuration needs stands in `sandbox.toml` beside the twin.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w

from gateway.seams import real_seams

GROUP = "payout_gateway.twins"
_START_S = 30
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Twin:
    """A running twin."""

    name: str
    process: asyncio.subprocess.Process
    told: dict[str, Any]
    defaults: dict[str, Any]


class TwinFailedError(Exception):
    """A twin did not start, or ended by itself."""


def run(*, as_json: bool, config_out: Path | None, with_dummy: bool, step_s: float) -> int:
    """Run the twins until SIGTERM; return the exit code."""
    try:
        return asyncio.run(
            _run(as_json=as_json, config_out=config_out, with_dummy=with_dummy, step_s=step_s)
        )
    except TwinFailedError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 1


def free_port() -> int:
    """Return a port of loopback that is free now, below those that systems hand out by themselves.

    A port from that range could be taken by somebody's outgoing connection while the gateway restarts.
    """
    ids = real_seams().ids
    while True:
        port = 20_000 + int.from_bytes(ids.random_bytes(2)) % 10_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_HOST, port))
            return port


async def _run(*, as_json: bool, config_out: Path | None, with_dummy: bool, step_s: float) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    port = free_port()
    twins: list[Twin] = []
    try:
        found = sorted(entry_points(group=GROUP), key=lambda each: each.name)
        for entry in (each for each in found if each.name != "dummy" or with_dummy):
            twin = await _start(entry.name, entry.module, port, step_s)
            twins.append(twin)
        if config_out is not None:
            write_config(config_out, twins, port)
        _announce(twins, config_out, as_json=as_json)
        return await _watch(twins, stop)
    finally:
        await asyncio.gather(*(_end(twin.process) for twin in twins))


async def _start(name: str, module: str, gateway_port: int, step_s: float) -> Twin:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--host", _HOST, "--port", "0", "--step-s", str(step_s)),
        *("--webhook-url", f"http://{_HOST}:{gateway_port}/custodians/{name}/webhooks"),
        stdout=asyncio.subprocess.PIPE,
        # Ctrl-C reaches the whole group of a terminal; the twins are ended by us, in our order.
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _START_S)
        told = json.loads(line)
    except (TimeoutError, ValueError):
        await _end(process)
        message = f"the twin of {name} ({module}) did not start; its words are above"
        raise TwinFailedError(message) from None
    defaults: dict[str, Any] = {}
    fragment = files(module.rpartition(".")[0]).joinpath("sandbox.toml")
    if fragment.is_file():
        defaults = tomllib.loads(fragment.read_text(encoding="utf-8"))
    return Twin(name, process, told, defaults)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _watch(twins: list[Twin], stop: asyncio.Event) -> int:
    """Wait for the signal to stop, or for a twin that ends by itself."""
    stopping = asyncio.create_task(stop.wait())
    ends = {asyncio.create_task(twin.process.wait()): twin.name for twin in twins}
    done, _ = await asyncio.wait({stopping, *ends}, return_when=asyncio.FIRST_COMPLETED)
    for task in (stopping, *ends):
        task.cancel()
    if stopping in done:
        return 0
    names = ", ".join(ends[task] for task in done if task in ends)
    message = f"the twin of {names} ended by itself; the others are stopped"
    raise TwinFailedError(message)


def write_config(path: Path, twins: list[Twin], port: int) -> None:
    """Write a complete configuration and the secrets beside it, readable by their owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = path.with_name(path.stem + ".server-key")
    _write_private(key, base64.b64encode(real_seams().ids.random_bytes(32)).decode())
    custodians: dict[str, Any] = {}
    routes: list[dict[str, Any]] = []
    accounts: dict[str, Any] = {}
    for twin in twins:
        settings = dict(twin.defaults.get("settings", {}))
        settings |= {"adapter": twin.name, "modes": ["live", "test"], "base_url": twin.told["url"]}
        for name, value in twin.told["credentials"].items():
            if "\n" in value:
                secret = path.with_name(f"{path.stem}.{twin.name}.{name}")
                _write_private(secret, value)
                settings[name + "_file"] = secret.name
            else:
                settings[name] = value
        custodians[twin.name] = settings
        routes += [{**route, "custodian": twin.name} for route in twin.defaults.get("routes", ())]
        if "accounts" in twin.defaults:
            accounts[twin.name] = twin.defaults["accounts"]
    document = {
        "database": path.stem + ".db",
        "public_url": f"http://{_HOST}:{port}",
        "server_key_file": key.name,
        "listen": {"host": _HOST, "port": port},
        "webhooks": {"allow_private_addresses": True},
        "custodians": custodians,
        "accounts": accounts,
        "routes": routes,
    }
    head = "# Written by `payout-gateway sandbox`: for the twins that run now, and for nothing else.\n\n"
    _write_private(path, head + tomli_w.dumps(document))


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
    path.chmod(0o600)


def _announce(twins: list[Twin], config_out: Path | None, *, as_json: bool) -> None:
    if as_json:
        known = ("url", "control_url", "credentials")
        told = {twin.name: {name: twin.told[name] for name in known} for twin in twins}
        sys.stdout.write(json.dumps({"twins": told}) + "\n")
    else:
        for twin in twins:
            sys.stdout.write(f"{twin.name}: {twin.told['url']}\n")
            sys.stdout.write(f"  what it paid: curl {twin.told['control_url']}/_twin/ledger\n")
        if config_out is not None:
            sys.stdout.write(f"\nserve with: payout-gateway serve --config {config_out}\n")
        sys.stdout.write("Ctrl-C ends it.\n")
    sys.stdout.flush()
