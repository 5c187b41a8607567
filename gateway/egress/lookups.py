"""Resolves names off the event loop, with a deadline for each look-up and a bound for each scope.

The system's resolver (`getaddrinfo`) blocks and cannot be cancelled: if a name server never answers, it
holds its thread for half a minute or more. Look-ups therefore run on threads of their own, never on
those that sign requests or read files, and a scope (an organisation, a custodian instance) may hold
only a few of them. Decision 0017 says why this is not a DNS client of our own.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

#: The total number of threads. With four per scope, sixteen scopes have to hang before others wait.
MOST_THREADS = 64
#: The system's resolver tries its second name server after 5 s.
DEADLINE_S = 8.0
PER_SCOPE = 4
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_scope: ContextVar[str] = ContextVar("scope", default="")
Found = list[tuple[Any, Any, int, str, Any]]
_Key = tuple[str, str, int, int]


@dataclass
class _LookUp:
    """A look-up in progress, and the number of callers that wait for it."""

    task: asyncio.Task[list[ResolveResult]] | None = None
    waiting: int = 0
    on_thread: bool = False


class LookupTimeoutError(OSError):
    """The name did not resolve in time. Nothing was dialled."""


@contextmanager
def looking_up_for(scope: str) -> Iterator[None]:
    """Count the look-ups of this task, and of the tasks that it begins, for a scope."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def system_lookup(host: str, port: int, family: int) -> Found:
    """Ask the system's resolver. Blocks."""
    return socket.getaddrinfo(
        host, port, family, socket.SOCK_STREAM, flags=getattr(socket, "AI_ADDRCONFIG", 0)
    )


class Lookups(AbstractResolver):
    """A resolver for aiohttp. Needs a running loop; serves that loop only."""

    def __init__(
        self,
        name: str,
        *,
        deadline_s: float = DEADLINE_S,
        per_scope: int = PER_SCOPE,
        threads: int = MOST_THREADS,
        lookup: Callable[[str, int, int], Found] = system_lookup,
    ) -> None:
        self._name = name
        self._deadline_s = deadline_s
        self._per_scope = per_scope
        self._lookup = lookup
        self._loop = asyncio.get_running_loop()
        self._threads = asyncio.Semaphore(threads)
        #: Scopes that wait or hold threads, with the number of their look-ups.
        self._scopes: dict[str, tuple[asyncio.Semaphore, int]] = {}
        self._under_way: dict[_Key, _LookUp] = {}

    @property
    def under_way(self) -> int:
        """How many look-ups wait for a thread or hold one."""
        return len(self._under_way)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises LookupTimeoutError after the deadline, OSError if there are none.

        A look-up past its deadline keeps its thread, because nothing can end it. A caller that asks for
        the same name in the same scope meanwhile waits for that look-up, and takes no further thread.
        """
        key = (_scope.get(), host, port, int(family))
        each = self._under_way.get(key)
        if each is None:
            each = self._under_way[key] = _LookUp()
            each.task = self._loop.create_task(self._run(each, *key), name=f"{self._name}-lookup")
            each.task.add_done_callback(lambda done: self._ended(key, done))
        task = each.task
        assert task is not None  # noqa: S101 - set where it was made
        each.waiting += 1
        try:
            # `wait` does not cancel the look-up if this caller gives up or is cancelled.
            await asyncio.wait({task}, timeout=self._deadline_s)
        finally:
            each.waiting -= 1
            if not each.waiting and not each.on_thread:
                # Nobody needs it any more, so other look-ups of its scope need not wait for it.
                task.cancel()
                self._forget(key, task)
        if not task.done() or task.cancelled():
            msg = f"the name did not resolve within {self._deadline_s:g} s"
            raise LookupTimeoutError(msg)
        return list(task.result())

    async def close(self) -> None:
        """Cancel look-ups that wait for a thread. May be called twice."""
        waiting = [each.task for each in self._under_way.values() if each.task is not None]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _ended(self, key: _Key, task: asyncio.Task[list[ResolveResult]]) -> None:
        self._forget(key, task)
        if not task.cancelled():
            # Perhaps nobody waits any more; an error that nobody fetches would be logged.
            task.exception()

    def _forget(self, key: _Key, task: asyncio.Task[list[ResolveResult]]) -> None:
        each = self._under_way.get(key)
        if each is not None and each.task is task:
            del self._under_way[key]

    async def _run(
        self, each: _LookUp, scope: str, host: str, port: int, family: int
    ) -> list[ResolveResult]:
        turns, users = self._scopes.get(scope, (asyncio.Semaphore(self._per_scope), 0))
        self._scopes[scope] = turns, users + 1
        try:
            # Take the scope's slot first, so that its waiting look-ups take no place from others.
            async with turns, self._threads:
                each.on_thread = True
                found = await self._on_a_thread(host, port, family)
        finally:
            turns, users = self._scopes.pop(scope)
            if users > 1:
                self._scopes[scope] = turns, users - 1
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=protocol,
                flags=_NUMERIC,
            )
            for kind, _, protocol, _, (address, *_) in found
        ]

    async def _on_a_thread(self, host: str, port: int, family: int) -> Found:
        done: asyncio.Future[Found] = self._loop.create_future()

        def settle(found: Found | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None or found is None:
                done.set_exception(error or OSError("no address"))
            else:
                done.set_result(found)

        def work() -> None:
            found, error = None, None
            try:
                found = _numeric(self._lookup(host, port, family))
            except Exception as failed:  # noqa: BLE001 - passed to the waiting callers
                error = failed
            try:
                self._loop.call_soon_threadsafe(settle, found, error)
            except RuntimeError:
                # The loop has closed meanwhile.
                return

        # Use a daemon thread, because a hanging look-up must not keep the process from ending, as an
        # executor's would.
        threading.Thread(target=work, name=self._name, daemon=True).start()
        return await done


def _numeric(found: Found) -> Found:
    """Return the addresses in the form for dialling; a link-local one includes its interface."""
    numeric: Found = []
    for family, kind, protocol, name, address in found:
        if family == socket.AF_INET6 and len(address) < 4:  # noqa: PLR2004
            # Python was built without IPv6.
            continue
        host = address[0]
        if family == socket.AF_INET6 and address[3] and "%" not in host:
            host = f"{host}%{address[3]}"
        numeric.append((family, kind, protocol, name, (host, *address[1:])))
    return numeric
