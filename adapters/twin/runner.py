"""Runs a twin on a port: `python -m adapters.<name>.twin.app --port 0 …`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from adapters.twin.base import Twin
from adapters.twin.control import make_app

#: How long the process waits at its end for requests that hang on purpose.
_SHUTDOWN_S = 1.0


@dataclass(frozen=True)
class TwinOptions:
    """The options of the command line."""

    host: str
    port: int
    webhook_url: str | None
    step_s: float


def parse_options(name: str, arguments: Sequence[str] | None = None) -> TwinOptions:
    """Read the command line; ends the process with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m adapters.{name}.twin.app")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--webhook-url", default=None, help="where webhooks are sent")
    parser.add_argument("--step-s", type=float, default=0.2, help="seconds per life-cycle step")
    given = parser.parse_args(arguments)
    if given.step_s < 0:
        parser.error("--step-s must not be negative")
    return TwinOptions(given.host, given.port, given.webhook_url, given.step_s)


async def serve_twin(twin: Twin, options: TwinOptions, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets one JSON line once the twin answers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    twin.outbox.url = options.webhook_url
    runner = web.AppRunner(make_app(twin), shutdown_timeout=_SHUTDOWN_S, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, options.host, options.port).start()
        host, port = runner.addresses[0][:2]
        root = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        announce(
            json.dumps(
                {
                    "url": root + twin.api_prefix,
                    "control_url": root,
                    "credentials": twin.credentials(root),
                }
            )
        )
        await stop.wait()
    finally:
        await runner.cleanup()


def run_twin(name: str, build: Callable[[TwinOptions], Twin]) -> None:
    """Run a twin from the command line until SIGTERM."""
    options = parse_options(name)
    asyncio.run(serve_twin(build(options), options, lambda line: print(line, flush=True)))
