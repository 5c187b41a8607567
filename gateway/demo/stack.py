"""Twins and gateway as processes of their own, in a folder of their own, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import tomli_w

from gateway.config.settings import load

_START_S = 30
_STOP_S = 15
_TAIL_LINES = 15


class DemoFailedError(Exception):
    """Something did not come out as promised."""


#: The custodians that the demo pays at.
TWINS = ("card_passcode", "dfns", "fireblocks")


@dataclass(frozen=True)
class Stack:
    """What runs."""

    config: Path
    url: str
    twins: dict[str, Any]
    key: str
    http: aiohttp.ClientSession
    #: the gateway's process
    pid: int

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Call the partner API; DemoFailedError with its problem where it refuses."""
        sent = {"Authorization": f"Bearer {self.key}", **headers}
        async with self.http.request(method, self.url + path, json=body, headers=sent) as answer:
            told = await answer.json(content_type=None)
            if answer.status >= 300:  # noqa: PLR2004 - every call of the demo succeeds
                raise DemoFailedError(f"{method} {path} answered {answer.status}: {told}")
            return told

    async def steer(self, custodian: str, method: str, path: str, body: Any) -> None:
        """Call the control API of a twin; DemoFailedError if it refuses."""
        url = f"{self.twins[custodian]['control_url']}/_twin/{path}"
        async with self.http.request(method, url, json=body) as answer:
            if answer.status >= 300:  # noqa: PLR2004
                raise DemoFailedError(f"{custodian} {path}: {await answer.text()}")

    async def ledger(self, custodian: str) -> list[dict[str, Any]]:
        """Return what a custodian's own ledger says was paid."""
        url = f"{self.twins[custodian]['control_url']}/_twin/ledger"
        async with self.http.get(url) as answer:
            return list((await answer.json())["transfers"])

    async def transfers(self) -> list[dict[str, Any]]:
        """Return what the custodians' own ledgers say was paid."""
        return [each for name in self.twins for each in await self.ledger(name)]

    async def newest_code(self, custodian: str) -> str:
        """Return the one-time code that a custodian sent last."""
        control_url = self.twins[custodian]["control_url"]
        async with self.http.get(control_url + "/_twin/inbox") as answer:
            return str((await answer.json())["messages"][-1]["code"])


@asynccontextmanager
async def running_stack(
    folder: Path,
    twins: Sequence[str] = TWINS,
    change: Callable[[dict[str, Any]], None] | None = None,
) -> AsyncIterator[Stack]:
    """Start everything; end it, whatever happens. Each process logs to a file in the folder.

    `change` changes the configuration before the gateway reads it.
    """
    config = folder / "gateway.toml"
    processes: list[asyncio.subprocess.Process] = []
    try:
        # By name: the demo pays at each of them, and nobody else's twin stands in its way.
        only = [word for name in twins for word in ("--only", name)]
        words = ("sandbox", "--json", "--config-out", str(config), *only)
        sandbox = await _start(processes, folder, *words)
        assert sandbox.stdout is not None  # noqa: S101 - a pipe, see _start
        line = await asyncio.wait_for(sandbox.stdout.readline(), _START_S)
        if not line:
            raise DemoFailedError("the sandbox did not start")
        if change is not None:
            settings = tomllib.loads(config.read_text(encoding="utf-8"))
            change(settings)
            config.write_text(tomli_w.dumps(settings), encoding="utf-8")
        gateway = await _start(processes, folder, "serve", "--config", str(config))
        url = load(config, {}).public_url
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(trust_env=False, timeout=timeout) as http:
            await _ready(http, url, gateway)
            key = await _mint(processes, folder, config)
            yield Stack(config, url, json.loads(line)["twins"], key, http, gateway.pid)
    finally:
        await asyncio.gather(*(_end(process) for process in reversed(processes)))


def log_tails(folder: Path) -> str:
    """Return the last lines of every process's log."""
    return "\n".join(
        f"--- the end of {log.name}\n"
        + "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        for log in sorted(folder.glob("*.log"))
        if log.stat().st_size
    )


async def _start(
    processes: list[asyncio.subprocess.Process], folder: Path, *arguments: str
) -> asyncio.subprocess.Process:
    with (folder / f"{arguments[0]}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            # What the caller's environment sets for another gateway is not for this one.
            env={
                key: value
                for key, value in os.environ.items()
                if not key.startswith("PAYOUT_GATEWAY_")
            },
            # Ctrl-C reaches the whole group of a terminal; these are ended by us, in our order.
            start_new_session=True,
        )
    processes.append(process)
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _mint(processes: list[asyncio.subprocess.Process], folder: Path, config: Path) -> str:
    """Mint a live key as an operator does, by the command line."""
    process = await _start(
        processes,
        folder,
        *("keys", "create", "--org", "acme", "--mode", "live", "--json", "--config", str(config)),
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise DemoFailedError("no key was minted")
    return str(json.loads(out)["key"])


async def _ready(
    http: aiohttp.ClientSession, url: str, gateway: asyncio.subprocess.Process
) -> None:
    try:
        async with asyncio.timeout(_START_S):
            while gateway.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(url + "/readyz") as answer:
                        if answer.status == 200:  # noqa: PLR2004
                            return
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise DemoFailedError(f"the gateway was not ready after {_START_S} s") from None
    raise DemoFailedError(f"the gateway ended with code {gateway.returncode}")
