"""Accepting connections in turn: what a burst of one address costs, and who is dropped."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from gateway import accepting
from gateway.accepting import (
    ACCEPTED_AT_ONCE,
    ACCEPTED_BESIDE,
    ADMITTED_AT_ONCE,
    ADMITTED_BESIDE,
    LATER_EVERY_S,
    Acceptor,
)
from gateway.config.settings import ListenSettings
from gateway.connections import Closed, Connections, Limits
from tests.connections.test_limits import Told, until

MANY, OTHER = "127.0.0.2", "127.0.0.3"
LIMITS = replace(Limits.of(ListenSettings(), 1000), most_per_address=20)


class Listener:
    """A listener whose acceptor has not begun, and the connections that are made."""

    def __init__(self, limits: Limits) -> None:
        self.told = Told()
        self.table = Connections(limits, self.told)  # type: ignore[arg-type]
        self.made: list[Made] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        #: whether a request is in progress
        self.busy = False
        self.acceptor = Acceptor(
            self._socket, self.table, lambda: Made(self), busy=lambda: self.busy
        )
        self._clients: list[socket.socket] = []

    def connect(self, host: str, count: int = 1) -> list[socket.socket]:
        """Connect from an address; the system has them wait until they are accepted."""
        found = []
        for _ in range(count):
            client = socket.socket()
            client.bind((host, 0))
            client.connect(self._socket.getsockname())
            client.settimeout(0)
            found.append(client)
        self._clients += found
        return found

    def hosts(self) -> Counter[str]:
        """Return how many connections were made of each address so far."""
        return Counter(each.group for each in self.made)

    def close(self) -> None:
        """Close everything."""
        self.acceptor.close()
        self.acceptor.close()
        for each in self.made:
            each.transport.abort()
        for client in (*self._clients, self._socket):
            client.close()


class Made(asyncio.Protocol):
    """A connection that was made; only what the table asks of it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.group = ""
        self.trusted = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note it, and wait for a request in the table."""
        self.transport = cast("asyncio.Transport", transport)
        self.group = transport.get_extra_info("peername")[0]
        self.trusted = self._table.limits.trusts(self.group)
        self._listener.made.append(self)
        assert self._listener.table.admit(self)  # type: ignore[arg-type]

    def cut(self, why: Closed) -> None:
        """Close the connection."""
        self._table.count(why)
        self.transport.abort()

    def check(self, now: float) -> None:
        """Nothing on it is ever late."""

    @property
    def _table(self) -> Connections:
        return self._listener.table

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the table."""
        assert exc is None or isinstance(exc, OSError)
        self._listener.table.forget(self)  # type: ignore[arg-type]


@asynccontextmanager
async def listening(limits: Limits = LIMITS) -> AsyncIterator[Listener]:
    """Have a listener."""
    made = Listener(limits)
    try:
        yield made
    finally:
        made.close()
        # What is under way ends, and what is closed lets go of its socket.
        await asyncio.sleep(0.05)


def is_closed(client: socket.socket) -> bool:
    """Whether the other side has closed a connection."""
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_a_burst_of_one_address_is_dropped_before_it_costs_anything() -> None:
    """Few of a thousand become connections, and the one that comes after them does not wait for them."""
    async with listening() as made:
        many = made.connect(MANY, 1000)
        other = made.connect(OTHER)
        made.acceptor.start()
        await until(lambda: OTHER in made.hosts())
        # Up to the limit and what was under way then, and one in each of the turns in which the others were accepted.
        turns = 1000 // ACCEPTED_AT_ONCE + 1
        assert made.hosts()[MANY] <= 20 + 3 * ADMITTED_AT_ONCE + turns
        await until(lambda: sum(map(is_closed, many)) == 980)
        assert made.table.of(MANY) == 20
        assert made.told.closed == {"replaced": 980}
        # The newest ones stay, as where one comes after the other.
        assert not any(map(is_closed, many[-8:]))
        assert not is_closed(other[0])


async def test_fewer_are_accepted_in_a_turn_while_a_request_is_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of its steps waits for a turn of the loop; without it, more are taken at once."""
    taken: list[int] = []
    take = Acceptor._take

    def noted(acceptor: Acceptor, *arguments: Any) -> None:
        taken[-1] += 1
        take(acceptor, *arguments)

    monkeypatch.setattr(Acceptor, "_take", noted)
    async with listening(replace(LIMITS, most_per_address=1000)) as made:
        made.connect(MANY, 500)
        turns: list[tuple[int, int]] = []
        made.busy = True
        taken.append(0)
        made.acceptor.start()
        while sum(taken) < 300:
            before = len(made.made)
            await asyncio.sleep(0)
            turns.append((taken[-1], len(made.made) - before))
            taken.append(0)
        # A turn of the loop may have a few more callbacks than one turn of this task.
        assert 0 < max(accepted for accepted, _ in turns) <= 2 * ACCEPTED_BESIDE
        assert max(admitted for _, admitted in turns) <= 2 * ADMITTED_BESIDE
        made.busy = False
        while sum(taken) < 500:
            taken.append(0)
            await asyncio.sleep(0)
        assert max(taken) == ACCEPTED_AT_ONCE
        await until(lambda: len(made.made) == 500)


async def test_an_address_at_its_limit_waits_while_a_request_is_in_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each new connection of it costs the request a parser, a refusal and an end; others do not wait."""
    monkeypatch.setattr(accepting, "LATER_BESIDE_S", 3600.0)
    async with listening() as made:
        made.acceptor.start()
        made.connect(MANY, 20)
        await until(lambda: len(made.made) == 20)
        made.busy = True
        made.connect(MANY, 6)
        await until(lambda: len(made.made) == 21)
        made.connect(OTHER, 2)
        await until(lambda: made.hosts()[OTHER] == 2)
        assert made.hosts()[MANY] == 21
        # All of them once it is answered, though each of them ends another one.
        made.busy = False
        made.connect(MANY)
        await until(lambda: made.hosts()[MANY] == 27)
        assert made.told.closed == {"replaced": 7}


async def test_so_does_an_address_whose_refusals_are_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Far from its limit: those that are refused are closed, and it connects again and again."""
    monkeypatch.setattr(accepting, "LATER_BESIDE_S", 3600.0)
    async with listening() as made:
        made.acceptor.start()
        made.busy = True
        now = asyncio.get_running_loop().time
        made.table.note_refused(MANY, now())
        made.connect(MANY, 5)
        await until(lambda: made.hosts()[MANY] == 1)
        made.connect(OTHER, 2)
        await until(lambda: made.hosts()[OTHER] == 2)
        assert made.hosts()[MANY] == 1
        # A second later it counts no more, and nothing is remembered of it.
        made.table.sweep(now() + 0.5)
        assert made.table.is_refused(MANY, now())
        made.table.sweep(now() + 1.5)
        assert not made.table.is_refused(MANY, now())
        made.connect(MANY)
        await until(lambda: made.hosts()[MANY] == 6)


class StandingLoop:
    """The running loop, at a time of its own."""

    def __init__(self, now: float) -> None:
        self.time = lambda: now
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        """Return what the loop has."""
        return getattr(self._loop, name)


async def test_a_timer_is_not_set_again_and_again_for_the_last_moment() -> None:
    """1 ms after 12127.004 s is a little more than 12127.005 s to a computer, and no timer is so short."""
    made_at, due_at = 12127.004, 12127.005
    assert made_at + LATER_EVERY_S > due_at
    async with listening() as made:
        made.acceptor.start()
        made.connect(MANY, 20)
        await until(lambda: len(made.made) == 20)
        made.acceptor._later_at = made_at
        made.acceptor._loop = cast("asyncio.AbstractEventLoop", StandingLoop(due_at))
        made.connect(MANY)
        await until(lambda: len(made.made) == 21)


async def test_a_proxy_is_no_address_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections are those of many clients, and end no others."""
    monkeypatch.setattr(accepting, "LATER_BESIDE_S", 3600.0)
    trusting = Limits.of(ListenSettings(trusted_proxies=(f"{MANY}/32",)), 1000)
    async with listening(replace(trusting, most_per_address=20)) as made:
        made.busy = True
        made.table.note_refused(MANY, asyncio.get_running_loop().time())
        made.acceptor.start()
        made.connect(MANY, 60)
        await until(lambda: made.hosts()[MANY] == 60)


async def test_an_address_within_its_limit_loses_nothing() -> None:
    """All of its connections at once; addresses take turns."""
    async with listening(replace(LIMITS, most_per_address=200)) as made:
        clients = made.connect(MANY, 190) + made.connect(OTHER, 8)
        made.acceptor.start()
        await until(lambda: made.hosts()[OTHER] == 8)
        # The other address came last, and waited for none of those that were accepted before it.
        turns = 198 // ACCEPTED_AT_ONCE + 1
        last = max(number for number, each in enumerate(made.made) if each.group == OTHER)
        assert last < ADMITTED_AT_ONCE * (turns + 1) + 2 * 8
        await until(lambda: len(made.made) == 198)
        await asyncio.sleep(0.05)
        assert not any(map(is_closed, clients))
        assert not made.told.closed
        raw = made.made[0].transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_the_listener_has_a_limit_for_all() -> None:
    """The address of which most wait loses; a trusted proxy has no limit of its own."""
    trusting = Limits.of(ListenSettings(trusted_proxies=(f"{MANY}/32",)), 100)
    async with listening(replace(trusting, most_per_address=20)) as made:
        many = made.connect(MANY, 500)
        made.connect(OTHER)
        made.acceptor.start()
        await until(lambda: sum(map(is_closed, many)) >= 400)
        await asyncio.sleep(0.05)
        assert made.hosts()[OTHER] == 1
        assert made.table.of(MANY) >= 99
        assert len(made.table) == 100


async def test_without_free_files_it_waits_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener is not polled again at once; waiting clients are served later."""
    monkeypatch.setattr(accepting, "_PAUSE_S", 0.3)
    async with listening() as made:
        made.connect(MANY, 3)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        made.acceptor.start()
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            begun = asyncio.get_running_loop().time()
            await until(lambda: made.acceptor._pause is not None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not made.made
        await until(lambda: len(made.made) == 3)
        assert asyncio.get_running_loop().time() - begun >= 0.25


async def test_what_waits_is_closed_with_the_listener() -> None:
    """No client is left hanging, and no socket open."""
    async with listening() as made:
        clients = made.connect(MANY, 10)
        made.acceptor.start()
        made.acceptor._accept()
        assert len(made.acceptor._waiting[MANY]) == 10
        made.acceptor.close()
        await until(lambda: all(map(is_closed, clients)))
        assert not made.made
