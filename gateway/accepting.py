"""Accepting connections: cheaply, a few at a time, and in turn by the clients' addresses.

A client that keeps more connections than it may opens those that are closed again and again. Each of
them would get a transport and a parser before it is closed, and everybody else would wait behind them.
So connections are accepted as bare sockets first. Those of an address that is at its limit, or of a
listener that is, wait in a short queue: the oldest of them is closed for a new one, which costs next to
nothing. The others become connections of the API a few in each turn of the event loop, one address after
the other. While a request is in progress there are fewer in each turn, because it waits for one at each of
its steps.

A connection of an address at its limit ends another one of that address, and brings the work of both: a
parser, a request that is mostly refused, an end. One of an address whose refusals are held back mostly
brings one more. So these are made at a rate, and at a lower one while a request is in progress or a burst
arrives.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from gateway.connections import Closed, Connections
from gateway.limits import client_group
from gateway.logs import get_logger

_BACKLOG = 2048
#: Sockets that are accepted, and connections that are made of them, in one turn of the loop.
ACCEPTED_AT_ONCE = 64
ADMITTED_AT_ONCE = 4
#: The same while a request is in progress.
ACCEPTED_BESIDE = 12
ADMITTED_BESIDE = 1
#: How far apart connections of addresses are made that are at their limit or refused, in seconds; and while a
#: request is in progress or more arrive than are accepted in a turn.
LATER_EVERY_S = 0.001
LATER_BESIDE_S = 0.005
#: Sockets of an address that wait although it is at its limit; of all where the listener is.
WAITING_BEYOND = 8
_ALL_WAITING_BEYOND = 64
#: How long nothing is accepted after the system had no room for a connection.
_PAUSE_S = 0.2
_log = get_logger("connections")


class Acceptor:
    """Accepts the connections of a listener. `close` it before the listener."""

    def __init__(
        self,
        listener: socket.socket,
        connections: Connections,
        protocol: Callable[[], asyncio.Protocol],
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`busy` returns whether a request is in progress."""
        self._listener = listener
        self._connections = connections
        self._protocol = protocol
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        #: accepted sockets by address, the address whose turn it is first
        self._waiting: OrderedDict[str, deque[socket.socket]] = OrderedDict()
        self._count = 0
        #: of the addresses that have connected, those of configured proxies: they have no limit of their own
        self._proxies: set[str] = set()
        #: whether the last look did not accept all that had arrived
        self._burst = False
        #: when a connection of an address was made last that is at its limit or refused
        self._later_at = float("-inf")
        self._turn: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._making: set[asyncio.Task[Any]] = set()
        self._open = True

    def start(self) -> None:
        """Begin to accept."""
        self._listener.listen(_BACKLOG)
        self._listener.settimeout(0)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more, and close what waits. May be called twice."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._listener.fileno())
        for handle in (self._turn, self._pause):
            if handle is not None:
                handle.cancel()
        for queue in self._waiting.values():
            for each in queue:
                each.close()
        self._waiting.clear()

    def _accept(self) -> None:
        self._burst = True
        for _ in range(ACCEPTED_BESIDE if self._busy() else ACCEPTED_AT_ONCE):
            try:
                new, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                self._burst = False
                break
            except ConnectionError:
                # It was given up while it waited in the system's queue.
                continue
            except OSError as error:
                # No file or no memory is left: the system would say so again at once.
                _log.error("cannot_accept", error=str(error))
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(_PAUSE_S, self._resume)
                break
            self._take(new, str(address[0]))
        self._admit_soon()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _take(self, new: socket.socket, host: str) -> None:
        """Have an accepted socket wait for its turn, perhaps in the place of an older one."""
        group, table = client_group(host), self._connections
        queue = self._waiting.setdefault(group, deque())
        queue.append(new)
        self._count += 1
        if table.limits.trusts(host):
            self._proxies.add(group)
        beyond = table.of(group) + len(queue) - table.limits.most_per_address
        if beyond > WAITING_BEYOND and group not in self._proxies:
            self._drop(group)
        elif len(table) + self._count - table.limits.most > _ALL_WAITING_BEYOND:
            self._drop(max(self._waiting, key=lambda each: len(self._waiting[each])))

    def _drop(self, group: str) -> None:
        self._next_of(group).close()
        self._connections.count(Closed.REPLACED)

    def _next_of(self, group: str) -> socket.socket:
        queue = self._waiting[group]
        found = queue.popleft()
        self._count -= 1
        if not queue:
            del self._waiting[group]
        return found

    def _admit_soon(self, wait_s: float = 0.0) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._waiting and self._open:
            soon = self._loop.call_soon
            self._turn = self._loop.call_later(wait_s, self._admit) if wait_s else soon(self._admit)

    def _admit(self) -> None:
        """Make connections of a few sockets, one address after the other."""
        self._turn = None
        busy = self._busy()
        apart_s = LATER_BESIDE_S if busy or self._burst else LATER_EVERY_S
        now = self._loop.time()
        # In whole milliseconds, as the loop counts: a timer for the rest of one would come at once, too early.
        early_s = round(self._later_at + apart_s - now, 3)
        for _ in range(min(ADMITTED_BESIDE if busy else ADMITTED_AT_ONCE, self._count)):
            group = next(
                (
                    each
                    for each in self._waiting
                    if early_s <= 0 or not self._comes_later(each, now)
                ),
                None,
            )
            if group is None:
                self._admit_soon(early_s)
                return
            if self._comes_later(group, now):
                self._later_at, early_s = now, apart_s
            self._waiting.move_to_end(group)
            made = self._next_of(group)
            made.settimeout(0)
            task = self._loop.create_task(self._make(made))
            self._making.add(task)
            task.add_done_callback(self._making.discard)
        self._admit_soon()

    def _comes_later(self, group: str, now: float) -> bool:
        """Whether a new connection of an address most likely brings nothing but work."""
        table = self._connections
        full = table.of(group) >= table.limits.most_per_address
        return (full or table.is_refused(group, now)) and group not in self._proxies

    async def _make(self, made: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, made)
        except OSError:
            # The client has gone meanwhile.
            made.close()
