"""Telling the viewers of a page what changes, at the cost of one query per change.

However many look at a payout, this process reads it once: a change that is made here rings a bell, and
one shared look every few seconds finds what other processes change. Each viewer has a queue of one: the
newest state. Who is slow misses states in between and holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.config.rates import LimitSettings
from gateway.logs import get_logger
from gateway.model import Payout
from gateway.store.payouts import find_payout
from gateway.wakeup import Wakeup

if TYPE_CHECKING:
    from gateway.runtime import Runtime
    from gateway.store.database import Database

#: How often a payout with viewers is read for what other processes change.
LOOK_S = 3.0
#: How long a payout that was read for one viewer serves the others who ask for the page.
FRESH_S = 1.0
#: Payouts that are remembered for so long.
_MOST_KEPT = 1000
#: A stream says this often that it lives; proxies close silent ones after half a minute or more.
BEAT_S = 15.0
#: A stream ends after so many beats, and the page opens another one.
_MOST_BEATS = 40
#: How long a browser waits before it opens a stream again that was cut, in milliseconds.
_AGAIN_MS = 3000
#: When a page that found no room for a stream may ask again, in seconds.
NO_ROOM_S = 30
_log = get_logger("pages")


@dataclass(frozen=True)
class Update:
    """What a viewer is shown: two with the same tag are the same page."""

    tag: str
    html: str
    #: no other state follows
    final: bool


#: Makes what is shown of a payout in a language.
Draw = Callable[[Payout, str], Update]
#: Returns what the page of a payout is drawn from, and how many seconds that holds without a change.
Look = Callable[[Payout], tuple[object, float | None]]


@dataclass(eq=False)
class _Watched:
    """A payout with viewers."""

    payout: Payout
    #: what its page is drawn from
    seen: object
    bell: Wakeup
    viewers: set[Viewer] = field(default_factory=set)
    drawn: dict[str, Update] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Viewer:
    """One open stream. Hand it back with `close`."""

    def __init__(
        self, hub: Hub, watched: _Watched, group: str, language: str, tag: str | None
    ) -> None:
        self._hub = hub
        self._watched = watched
        self.group = group
        self.language = language
        self._tag = tag
        self.bell = hub.bell()
        self._beats = 0

    async def next(self) -> Update | None:
        """Return the newest state once it has changed; None if the page should only get a heartbeat."""
        update = self._hub.draw(self._watched, self.language)
        if update.tag == self._tag:
            await self.bell.sleep(BEAT_S)
            update = self._hub.draw(self._watched, self.language)
        if update.tag == self._tag:
            self._beats += 1
            return None
        self._tag = update.tag
        return update

    @property
    def over(self) -> bool:
        """Whether the stream has to end: it is old, or the process stops."""
        return self._hub.closed or self._beats >= _MOST_BEATS

    def close(self) -> None:
        """End the stream. May be called twice."""
        self._hub.leave(self._watched, self)


class Hub:
    """The viewers of this process."""

    def __init__(
        self, db: Database, runtime: Runtime, limits: LimitSettings, look: Look, draw: Draw
    ) -> None:
        self._db = db
        self._clock = runtime.clock
        self._limits = limits
        self._look = look
        self._draw = draw
        self._watched: dict[str, _Watched] = {}
        self._viewers_of: Counter[str] = Counter()
        #: payouts that were read a moment ago, and when
        self._kept: OrderedDict[str, tuple[Payout | None, float]] = OrderedDict()
        #: payouts that are being read now, unless they have changed since the read began
        self._reading: dict[str, asyncio.Task[Payout | None]] = {}
        self.closed = False

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._viewers_of.total()

    def bell(self) -> Wakeup:
        """Return a bell that a watcher waits for."""
        return Wakeup(self._clock)

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds, by which pages count down."""
        return self._clock.moment().wall // 1000

    def changed(self, payout_id: str) -> None:
        """Note that this process has changed a payout. Costs nothing where nobody looks."""
        self._kept.pop(payout_id, None)
        self._reading.pop(payout_id, None)
        watched = self._watched.get(payout_id)
        if watched is not None:
            watched.bell.ring()

    async def payout(self, payout_id: str) -> Payout | None:
        """Return a payout as it was a moment ago at most, shared by all callers."""
        kept = self._kept.get(payout_id)
        if kept is not None and self._clock.monotonic() - kept[1] < FRESH_S:
            return kept[0]
        reading = self._reading.get(payout_id)
        if reading is None:
            reading = self._reading[payout_id] = asyncio.ensure_future(self._read(payout_id))
        # One of those who wait may go; the others still want it.
        return await asyncio.shield(reading)

    async def _read(self, payout_id: str) -> Payout | None:
        """Read a payout for all who ask at this moment; keep it unless it has changed meanwhile."""
        own = asyncio.current_task()
        try:
            payout = await self._db.read(find_payout, payout_id)
            if self._reading.get(payout_id) is own:
                self._keep(payout_id, payout)
        finally:
            if self._reading.get(payout_id) is own:
                del self._reading[payout_id]
        return payout

    def _keep(self, payout_id: str, payout: Payout | None) -> None:
        self._kept[payout_id] = payout, self._clock.monotonic()
        self._kept.move_to_end(payout_id)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    def join(self, payout: Payout, group: str, language: str, tag: str | None) -> Viewer | None:
        """Take in a viewer that has the page with a tag; None if there is no room for another one."""
        if (
            self.closed
            or self.streams >= self._limits.streams
            or self._viewers_of[group] >= self._limits.streams_per_address
        ):
            return None
        watched = self._watched.get(payout.id)
        if watched is None:
            seen, _ = self._look(payout)
            watched = self._watched[payout.id] = _Watched(payout, seen, self.bell())
            if payout.id not in self._kept:
                # It has changed since it was read.
                watched.bell.ring()
            watched.task = asyncio.create_task(self._follow(watched))
        viewer = Viewer(self, watched, group, language, tag)
        watched.viewers.add(viewer)
        self._viewers_of[group] += 1
        return viewer

    def leave(self, watched: _Watched, viewer: Viewer) -> None:
        """Let a viewer go. May be called twice."""
        if viewer not in watched.viewers:
            return
        watched.viewers.remove(viewer)
        self._viewers_of[viewer.group] -= 1
        if not self._viewers_of[viewer.group]:
            del self._viewers_of[viewer.group]
        if not watched.viewers:
            del self._watched[watched.payout.id]
            if watched.task is not None:
                watched.task.cancel()

    def draw(self, watched: _Watched, language: str) -> Update:
        """Return what is shown in a language: drawn once for all who read it."""
        update = watched.drawn.get(language)
        if update is None:
            update = watched.drawn[language] = self._draw(watched.payout, language)
        return update

    def close(self) -> None:
        """End every stream: the process stops."""
        self.closed = True
        for watched in self._watched.values():
            for viewer in watched.viewers:
                viewer.bell.ring()

    async def _follow(self, watched: _Watched) -> None:
        """Look at a payout as long as it has viewers, and tell them all of what has changed."""
        while True:
            _, holds_s = self._look(watched.payout)
            await watched.bell.sleep(LOOK_S if holds_s is None else min(LOOK_S, holds_s))
            try:
                payout = await self.payout(watched.payout.id)
            except Exception as error:  # noqa: BLE001 - the page shows what was known; the next look reads again
                _log.warning("page_not_read", payout=watched.payout.id, exc_info=error)
            else:
                watched.payout = payout or watched.payout
            seen, _ = self._look(watched.payout)
            if seen != watched.seen:
                watched.seen = seen
                watched.drawn.clear()
                for viewer in watched.viewers:
                    viewer.bell.ring()


class Stream(Response):
    """Server-sent events (`text/event-stream`) to one viewer, until either side has enough.

    `now`: the server's clock in milliseconds. `state`: the part of the page that changes, with its tag as
    the id. `end`: no other state follows.
    """

    media_type = "text/event-stream"

    def __init__(self, viewer: Viewer, now_ms: Callable[[], int]) -> None:
        super().__init__()
        self._viewer = viewer
        self._now_ms = now_ms
        del self.headers["content-length"]
        # Some proxies buffer a response before they pass it on, unless this header forbids it.
        self.headers["X-Accel-Buffering"] = "no"
        self.headers["X-Robots-Tag"] = "noindex"
        self.headers["Referrer-Policy"] = "no-referrer"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the viewer goes, the stream is old, or the process stops."""
        del scope
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._viewer.close()
            for each in (sending, gone):
                each.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await self._event(send, f"retry: {_AGAIN_MS}\n{self._now()}")
        while not self._viewer.over:
            update = await self._viewer.next()
            if update is None:
                await self._event(send, self._now())
                continue
            lines = "".join(f"data: {line}\n" for line in update.html.splitlines() if line.strip())
            # With the time: the page counts down from it.
            await self._event(send, f"{self._now()}event: state\nid: {update.tag}\n{lines}\n")
            if update.final:
                await self._event(send, "event: end\ndata:\n\n")
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _now(self) -> str:
        return f"event: now\ndata: {self._now_ms()}\n\n"

    @staticmethod
    async def _event(send: Callable[..., Awaitable[None]], text: str) -> None:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _gone(receive: Receive) -> None:
    """Wait until the viewer has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
