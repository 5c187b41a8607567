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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from gateway.runtime import real_runtime

GROUP = "payout_gateway.twins"
_START_S = 30
#: Calls what the entry point names, in a process of its own. What fails there is on stderr, so that the
#: author reads it above our own message.
_CALL = (
    "import sys; from importlib.metadata import EntryPoint; "
    "EntryPoint('twin', sys.argv.pop(1), 'twins').load()()"
)
_HOST = "127.0.0.1"


class TwinLine(BaseModel):
    """The line of a twin that answers. Its `credentials` are named as its adapter's settings are."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: str
    control_url: str
    credentials: dict[str, str]


@dataclass(frozen=True)
class Twin:
    """A running twin."""

    name: str
    process: asyncio.subprocess.Process
    told: TwinLine
    defaults: dict[str, Any]


class TwinFailedError(Exception):
    """A twin did not start, or ended by itself."""


def run(
    *,
    as_json: bool,
    config_out: Path | None,
    with_dummy: bool,
    step_s: float,
    only: Sequence[str] = (),
) -> int:
    """Run the twins until SIGTERM; return the exit code. `only`: these, and no others."""
    try:
        with reserved_port() as port:
            return asyncio.run(
                _run(
                    as_json=as_json,
                    config_out=config_out,
                    with_dummy=with_dummy,
                    step_s=step_s,
                    port=port,
                    only=only,
                )
            )
    except TwinFailedError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"sandbox: {error.filename or 'the twins'}: {error.strerror}\n")
        return 2


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Keep a port of loopback for the gateway, as long as the sandbox runs.

    It is below those that systems hand out by themselves: nobody's outgoing connection takes it while
    the gateway restarts. Nor does another sandbox, which asks for it without SO_REUSEADDR; the gateway
    does get it, because then both sides have set that and this one never listens.
    """
    ids = real_runtime().ids
    for _ in range(1000):
        port = 20_000 + int.from_bytes(ids.random_bytes(2)) % 10_000
        with socket.socket() as holder:
            try:
                holder.bind((_HOST, port))
            except OSError:
                continue
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            yield port
            return
    raise TwinFailedError("no port of 127.0.0.1 between 20000 and 29999 is free for the gateway")


async def _run(  # noqa: PLR0913 - the options of the command
    *,
    as_json: bool,
    config_out: Path | None,
    with_dummy: bool,
    step_s: float,
    port: int,
    only: Sequence[str],
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # SIGHUP: a terminal that is closed must not leave the twins behind.
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(sign, stop.set)
    processes: list[asyncio.subprocess.Process] = []
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(
        _start_all(processes, port, with_dummy=with_dummy, step_s=step_s, only=only)
    )
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        twins = starting.result()
        if config_out is not None:
            write_config(config_out, twins, port)
        _announce(twins, config_out, as_json=as_json)
        return await _watch(twins, stopping)
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await asyncio.gather(*(_end(process) for process in processes))


async def _start_all(
    processes: list[asyncio.subprocess.Process],
    port: int,
    *,
    with_dummy: bool,
    step_s: float,
    only: Sequence[str] = (),
) -> list[Twin]:
    """Start every twin; `processes` has each of them from its first moment, to be ended by.

    A twin that does not start is reported and left out: one broken package does not take the others
    down. TwinFailedError if it was asked for by name, or none is left.
    """
    found = sorted(entry_points(group=GROUP), key=lambda each: each.name)
    unknown = sorted(set(only) - {each.name for each in found})
    if unknown:
        known = ", ".join(each.name for each in found)
        raise TwinFailedError(
            f"there is no twin {', '.join(unknown)}; installed: {known or 'none'}"
        )
    wanted = [
        each
        for each in found
        if (each.name in only if only else each.name != "dummy" or with_dummy)
    ]
    begun = []
    for each in wanted:
        process = await _spawn(each.name, each.value, port, step_s)
        processes.append(process)
        begun.append(process)
    twins = []
    for each, process in zip(wanted, begun, strict=True):
        try:
            twins.append(await _line_of(each, process))
        except TwinFailedError as error:
            if only:
                raise
            sys.stderr.write(f"sandbox: left out: {error}\n")
    if not twins:
        raise TwinFailedError("no twin has started")
    return twins


async def _spawn(
    name: str, entry_point: str, gateway_port: int, step_s: float
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CALL, entry_point),
        *("--host", _HOST, "--port", "0", "--step-s", str(step_s)),
        *("--webhook-url", f"http://{_HOST}:{gateway_port}/custodians/{name}/webhooks"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        # Ctrl-C reaches the whole group of a terminal; the twins are ended by us, in our order.
        start_new_session=True,
    )


async def _line_of(entry: EntryPoint, process: asyncio.subprocess.Process) -> Twin:
    """Wait for a twin's line."""
    assert process.stdout is not None  # noqa: S101 - asked for in _spawn
    name, module = entry.name, entry.module
    reason: str | None = None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _START_S)
        told = TwinLine.model_validate_json(line)
    except TimeoutError:
        reason = f"it printed no line in {_START_S} s"
    except ValueError:
        reason = await _reason_of(line, process)
    if reason is not None:
        raise TwinFailedError(f"the twin of {name} ({entry.value}) did not start: {reason}")
    defaults: dict[str, Any] = {}
    fragment = files(module.rpartition(".")[0]).joinpath("sandbox.toml")
    if fragment.is_file():
        defaults = tomllib.loads(fragment.read_text(encoding="utf-8"))
    return Twin(name, process, told, defaults)


async def _reason_of(line: bytes, process: asyncio.subprocess.Process) -> str:
    """Return why what a twin printed first is not its line."""
    if line:
        return "its first line must be JSON with url, control_url and credentials"
    try:
        code = await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        return "it closed its output without a line"
    if code == 0:
        return "it ended at once, without an error and without its line of JSON"
    return f"it ended with exit code {code}; its error is above"


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _watch(twins: list[Twin], stopping: asyncio.Task[Any]) -> int:
    """Wait for the signal to stop, or for a twin that ends by itself."""
    ends = {asyncio.create_task(twin.process.wait()): twin.name for twin in twins}
    done, _ = await asyncio.wait({stopping, *ends}, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    if stopping in done:
        return 0
    names = ", ".join(ends[task] for task in done if task in ends)
    raise TwinFailedError(f"the twin of {names} ended by itself; the others are stopped")


def write_config(path: Path, twins: list[Twin], port: int) -> None:
    """Write a complete configuration and the secrets beside it, readable by their owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = path.with_name(path.stem + ".server-key")
    if not key.exists():
        # Kept otherwise: what an earlier run sealed in the database beside it stays readable.
        _write_private(key, base64.b64encode(real_runtime().ids.random_bytes(32)).decode() + "\n")
    custodians: dict[str, Any] = {}
    routes: list[dict[str, Any]] = []
    accounts: dict[str, Any] = {}
    for twin in twins:
        settings = dict(twin.defaults.get("settings", {}))
        settings |= {"adapter": twin.name, "modes": ["live", "test"], "base_url": twin.told.url}
        for name, value in twin.told.credentials.items():
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
        # Play money: one payout may send all that an account of the twins has.
        "spending": {"payout_cap_usd": "1000000"},
        "prices": {"usd": {"ETH": "3000", "EURC": "1.08", "SOL": "150"}},
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
        told = {twin.name: twin.told.model_dump() for twin in twins}
        sys.stdout.write(json.dumps({"twins": told}) + "\n")
        sys.stdout.flush()
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    table = Table(title="Simulated custodians", title_justify="left")
    for column in ("custodian", "base_url", "control_url"):
        table.add_column(column, overflow="fold")
    for twin in twins:
        table.add_row(twin.name, twin.told.url, twin.told.control_url)
    console.print(table)
    for twin in twins:
        console.print(
            _STEER.format(name=twin.name, control_url=twin.told.control_url),
            markup=False,
            soft_wrap=True,
        )
    words = "Ctrl-C ends it."
    if config_out is not None:
        words = f"Serve with: payout-gateway serve --config {config_out}\n{words}"
    console.print(words, markup=False, soft_wrap=True)
    sys.stdout.flush()


_STEER = """
Steer {name}:
  what it paid:         curl -s {control_url}/_twin/ledger
  what can go wrong:    curl -s {control_url}/_twin/faults
  move its clock:       curl -s {control_url}/_twin/clock -H 'Content-Type: application/json' -d '{{"advance_s": 3600}}'
  as at the beginning:  curl -s -X POST {control_url}/_twin/reset
"""
