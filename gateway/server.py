"""The listener: the API on a socket and the loops beside it, from the ready line to the signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
import uvloop

from gateway import __version__, logs
from gateway.api.application import create_api
from gateway.app import GRACE_S, open_gateway
from gateway.config import Settings
from gateway.errors import ConfigError, SchemaMismatch
from gateway.runtime import Runtime

_log = logs.get_logger("app")


async def serve(
    settings: Settings,
    *,
    port: int | None = None,
    runtime: Runtime | None = None,
    ready: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. `ready` is called with the base URL.

    2: the database's schema was changed by another program version meanwhile. 1: a loop died.
    """
    logs.configure(settings.log.format, settings.log.level)
    stopping = asyncio.Event()
    broken: list[BaseException] = []

    def fail(error: BaseException) -> None:
        # A loop never ends by itself: rather stop, and be started again, than serve without it.
        if isinstance(error, SchemaMismatch):
            _log.error("schema_changed", detail=str(error))
        else:
            _log.error("loop_died", exc_info=error)
        broken.append(error)
        stopping.set()

    with _listen(settings.listen.host, settings.listen.port if port is None else port) as listener:
        async with open_gateway(
            settings, runtime=runtime, ready=lambda: not stopping.is_set()
        ) as gateway:
            server = _Server(
                uvicorn.Config(
                    create_api(gateway.context),
                    log_config=None,
                    access_log=False,
                    lifespan="off",
                    server_header=False,
                    timeout_graceful_shutdown=GRACE_S,
                )
            )
            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, stopping.set)
            async with gateway.workers.running(fail):
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                await server.listening()
                address = _address(listener)
                _log.info(
                    "ready",
                    version=__version__,
                    url=address,
                    custodians=sorted(settings.custodians),
                )
                if ready is not None:
                    ready(address)
                stop = asyncio.create_task(stopping.wait())
                await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
                stop.cancel()
                server.should_exit = True
                await serving
    if any(isinstance(each, SchemaMismatch) for each in broken):
        return 2
    return 1 if broken else 0


def run(
    settings: Settings, *, port: int | None = None, ready: Callable[[str], None] | None = None
) -> int:
    """Serve on an event loop of its own; for the command line."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings, port=port, ready=ready))


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the gateway stops API and loops together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def listening(self) -> None:
        """Wait until requests are taken."""
        while not self.started:  # noqa: ASYNC110 - uvicorn sets a flag, and no event
            await asyncio.sleep(0.005)


def _listen(host: str, port: int) -> socket.socket:
    """Return the listening socket. ConfigError where the address cannot be used."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            [f"listen: {host}:{port} cannot be used ({error.strerror}); name another with --port"]
        ) from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
