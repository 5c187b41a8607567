"""The listener: the API on a socket and the loops beside it, from the ready line to the signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
import uvloop

from gateway import __version__, logs
from gateway.accepting import Acceptor
from gateway.api.application import create_api, create_metrics_api
from gateway.app import ALL_ROLES, Role, open_gateway
from gateway.collecting import collecting
from gateway.config.settings import Settings
from gateway.connections import Connections, Limits, most_connections
from gateway.errors import ConfigError, SchemaMismatch
from gateway.panel.application import add_panel
from gateway.removed import refuse_removed
from gateway.runtime import Runtime

#: Connections to the listener for metrics and probes.
_INNER_CONNECTIONS = 64
#: How long a thread that computes keeps the interpreter from the event loop, each time that this waited for
#: the network. The default of 5 ms is longer than most requests take.
SWITCH_S = 0.0005
#: Of the time to stop: the part of requests, and what is kept for closing the store.
_FOR_REQUESTS, _FOR_CLOSING = 0.5, 0.1
#: New objects, collections of them, and collections of these, after which the collector comes by itself. A
#: collection of everything takes as long as a request: it is made between requests, see `gateway.collecting`.
COLLECTED_AFTER = (5000, 10, 1000)
#: How to name another port, by the section of the settings.
_OTHER = {"listen": "with --port", "metrics": "as metrics.port"}
_log = logs.get_logger("app")


async def serve(  # noqa: PLR0913 - the options of the command
    settings: Settings,
    *,
    port: int | None = None,
    runtime: Runtime | None = None,
    ready: Callable[[str], None] | None = None,
    roles: frozenset[Role] = ALL_ROLES,
    allow_removed: bool = False,
    part: Part | None = None,
    late: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. `ready` is called with the base URL.

    A process without the role `api` has no listener but that for metrics and probes; its URL is empty.
    ConfigError where a custodian that is not configured has something open, unless `allow_removed`.
    `part`: what a worker was given by the process that started it. `late`: called where stopping takes
    longer than it may.

    2: the database's schema was changed by another program version meanwhile. 1: a loop died.
    """
    logs.configure(settings.log.format, settings.log.level, buffered=True)
    try:
        return await _serve(
            settings,
            port,
            runtime,
            ready,
            roles=roles,
            allow_removed=allow_removed,
            part=part,
            late=late,
        )
    finally:
        logs.unbuffer()


async def _serve(  # noqa: C901, PLR0913 - as above; one listener, loop and server after the other
    settings: Settings,
    port: int | None,
    runtime: Runtime | None,
    ready: Callable[[str], None] | None,
    *,
    roles: frozenset[Role],
    allow_removed: bool,
    part: Part | None,
    late: Callable[[], None],
) -> int:
    stopping = _Stopping(settings.process.stop_within_s, late)
    broken: list[BaseException] = []

    def fail(error: BaseException) -> None:
        # A loop never ends by itself: rather stop, and be started again, than serve without it.
        if isinstance(error, SchemaMismatch):
            _log.error("schema_changed", detail=str(error))
        else:
            _log.error("loop_died", exc_info=error)
        broken.append(error)
        stopping.set()

    most = most_connections(settings)
    with contextlib.ExitStack() as listeners:
        listeners.callback(stopping.stopped)
        public = None
        if Role.API in roles:
            port = settings.listen.port if port is None else port
            public = listeners.enter_context(
                listen("listen", settings.listen.host, port) if part is None else part.listener()
            )
        inner = None
        if settings.metrics.port is not None:
            shift = part.number if part is not None and settings.metrics.port else 0
            inner = listeners.enter_context(
                listen("metrics", settings.metrics.host, settings.metrics.port + shift)
            )
        async with open_gateway(
            settings,
            runtime=runtime,
            ready=lambda: not stopping.is_set(),
            broken=lambda: bool(broken),
            roles=roles,
        ) as gateway:
            context = gateway.context
            removed = await refuse_removed(
                gateway.db, context.runtime, settings.custodians, allowed=allow_removed
            )
            for each in removed:
                _log.warning("custodian_removed", custodian=each.name, payouts=each.payouts)
            loop = asyncio.get_running_loop()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, stopping.set)
            if part is not None:
                # The process that started it is gone: nothing would stop it.
                loop.add_reader(part.parent, stopping.set)
                listeners.callback(loop.remove_reader, part.parent)
            async with (
                gateway.workers.running(fail, stopping.left_for_work),
                contextlib.AsyncExitStack() as servers,
            ):
                if inner is not None:
                    limits = Limits.of(settings.listen, _INNER_CONNECTIONS)
                    await servers.enter_async_context(
                        _serving(
                            create_metrics_api(context),
                            inner,
                            Connections(limits),
                            fail,
                            grace_s=stopping.for_requests,
                        )
                    )
                    _log.info("metrics_ready", url=address_of(inner) + "/metrics")
                ends: set[asyncio.Task[Any]] = {asyncio.create_task(stopping.wait())}
                if public is not None:
                    connections = Connections(Limits.of(settings.listen, most), context.metrics)
                    api = add_panel(create_api(context))
                    ends.add(
                        await servers.enter_async_context(
                            _serving(
                                api,
                                public,
                                connections,
                                fail,
                                grace_s=stopping.for_requests,
                                proxies=settings.listen.trusted_proxies,
                                busy=context.calling.anybody_now,
                            )
                        )
                    )
                    # Before the listener waits for open requests: a stream would hold it up.
                    servers.callback(api.state.pages.hub.close)
                address = "" if public is None else address_of(public)
                _log.info(
                    "ready",
                    version=__version__,
                    url=address,
                    roles=sorted(roles),
                    custodians=sorted(settings.custodians),
                )
                if ready is not None:
                    ready(address)
                if part is not None:
                    part.tell_ready()
                await servers.enter_async_context(
                    collecting(context.runtime.clock, context.calling)
                )
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                stopping.set()
    if any(isinstance(each, SchemaMismatch) for each in broken):
        return 2
    return 1 if broken else 0


def run(  # noqa: PLR0913 - the options of the command
    settings: Settings,
    *,
    port: int | None = None,
    ready: Callable[[str], None] | None = None,
    roles: frozenset[Role] = ALL_ROLES,
    allow_removed: bool = False,
    part: Part | None = None,
) -> int:
    """Serve on an event loop of its own; for the command line. The process may end in here."""

    def settled(address: str) -> None:
        # What exists by now stays until the end: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTED_AFTER)
        if ready is not None:
            ready(address)

    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(
            serve(
                settings,
                port=port,
                ready=settled,
                roles=roles,
                allow_removed=allow_removed,
                part=part,
                late=_leave,
            )
        )


def _leave() -> None:
    """End the process as a crash would. Nothing that was acknowledged is lost by one."""
    _log.error("stopped_late")
    logs.unbuffer()
    os._exit(1)


class _Stopping:
    """The signal to stop, and the time since then."""

    def __init__(self, within_s: float, late: Callable[[], None]) -> None:
        self._within_s = within_s
        self._late = late
        self._event = asyncio.Event()
        self._until: float | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def set(self) -> None:
        """Stop. May be called twice."""
        if self._until is None:
            loop = asyncio.get_running_loop()
            self._until = loop.time() + self._within_s
            self._alarm = loop.call_later(self._within_s, self._late)
            self._event.set()

    def stopped(self) -> None:
        """Say that everything has ended."""
        if self._alarm is not None:
            self._alarm.cancel()

    def is_set(self) -> bool:
        """Whether the process is stopping."""
        return self._until is not None

    async def wait(self) -> None:
        """Wait for the signal."""
        await self._event.wait()

    @property
    def for_requests(self) -> float:
        """How long requests may take from then on."""
        return self._within_s * _FOR_REQUESTS

    def left_for_work(self) -> float:
        """Return how long work under way may still take."""
        if self._until is None:
            return self._within_s
        left = self._until - asyncio.get_running_loop().time()
        return max(left - self._within_s * _FOR_CLOSING, 0.1)


@dataclass(frozen=True)
class Part:
    """What a worker is given by the process that has started it."""

    number: int
    #: the listener of all workers; none without the role `api`
    listens_on: int | None
    #: a socket to the parent: it ends with the parent, and a byte on it says that this worker serves
    parent: int

    @classmethod
    def of(cls, told: str) -> Part:
        """Return what the parent tells on the command line: number, socket, listener."""
        number, parent, *listener = map(int, told.split(","))
        return cls(number, listener[0] if listener else None, parent)

    def listener(self) -> socket.socket:
        """Return the listener."""
        assert self.listens_on is not None  # noqa: S101 - given with the role
        return socket.socket(fileno=self.listens_on)

    def tell_ready(self) -> None:
        """Tell the parent that this worker serves."""
        with contextlib.suppress(OSError):
            os.write(self.parent, b"r")


@contextlib.asynccontextmanager
async def _serving(  # noqa: PLR0913 - called in two places
    app: Any,
    listener: socket.socket,
    connections: Connections,
    failed: Callable[[BaseException], None],
    *,
    grace_s: float,
    proxies: Sequence[str] = (),
    busy: Callable[[], bool] = lambda: False,
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve an application on a listener within the limits of its connections; let requests finish."""
    server = _Server(
        uvicorn.Config(
            app,
            http=connections.protocol(),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            # From anyone else `X-Forwarded-For` is ignored: it would be the client's own word.
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            timeout_graceful_shutdown=max(1, round(grace_s)),
        ),
        connections,
        busy,
    )
    watching = asyncio.create_task(connections.watch())
    watching.add_done_callback(
        lambda done: (
            None if done.cancelled() else failed(done.exception() or RuntimeError("connections"))
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.listening()
        yield serving
    finally:
        server.should_exit = True
        await serving
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, and with connections that are accepted in turn.

    The gateway stops API and loops together.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(config)
        self._connections = connections
        self._busy = busy
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept. As uvicorn's own, for sockets that are given and no other."""
        await self.lifespan.startup()

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                _loop=None,
            )
            return made

        self.servers = []
        for each in sockets or ():
            acceptor = Acceptor(each, self._connections, protocol, self._busy)
            acceptor.start()
            self._acceptors.append(acceptor)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let requests finish."""
        for each in self._acceptors:
            each.close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def listening(self) -> None:
        """Wait until requests are taken."""
        while not self.started:  # noqa: ASYNC110 - uvicorn sets a flag, and no event
            await asyncio.sleep(0.005)


def listen(section: str, host: str, port: int) -> socket.socket:
    """Return a listening socket. ConfigError if the address cannot be used."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            [
                f"{section}: {host}:{port} cannot be used ({error.strerror}); name another {_OTHER[section]}"
            ]
        ) from None
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the base URL of a listener."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
