"""The stream of a tracking page over real sockets: what it costs, whom it holds up, how it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from gateway.adapter import SubStatus
from gateway.pages import live
from gateway.pages.track import Pages
from tests.api.conftest import RATES, Api, open_api
from tests.e2e.stack import PASSCODE, stack
from tests.pages.conftest import page_settings, path_of, tell

_MANY = 200


class Events:
    """One viewer: reads events from its own connection."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def next(self) -> tuple[str, str, str]:
        """Return the next event that is no beat: its name, id and data."""
        while True:
            fields: dict[str, str] = {}
            while (line := (await self._line()).rstrip("\n")) or not fields:
                name, _, value = line.partition(": ")
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
            if fields.get("event") != "now":
                return fields.get("event", ""), fields.get("id", ""), fields.get("data", "")

    async def beat(self) -> str:
        """Return the next line, whatever it is."""
        return (await self._line()).rstrip("\n")

    async def _line(self) -> str:
        line = await asyncio.wait_for(self._answer.content.readline(), 20)
        if not line:
            raise EOFError
        return line.decode()


@asynccontextmanager
async def viewer(http: aiohttp.ClientSession, url: str, **headers: str) -> AsyncIterator[Events]:
    """Open a stream."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.get(url, headers=sent) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield Events(answer)


async def tag_of(api: Api, path: str) -> str:
    """Return the tag of a page."""
    answer, _ = await api.send("GET", path, authorization=None)
    return str(answer.headers["etag"]).removeprefix('W/"').removesuffix('"')


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without a limit of connections."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def pages_of(api: Api) -> Pages:
    """Return the pages of the gateway under test."""
    pages: Pages = api.app.state.pages
    return pages


def waiting_bytes(api: Api) -> list[int]:
    """Return what waits to be sent, for each connection to the gateway."""
    return [each.transport.get_write_buffer_size() for each in api.server.server_state.connections]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")


def _more_than(api: Api, statements: int) -> bool:
    return api.context.db.statements > statements


async def test_many_viewers_cost_one_query_per_change(
    api: Api, http: aiohttp.ClientSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hundreds of streams and polls: the reads of the store are counted, not assumed."""
    payout = await api.pay()
    path = path_of(payout)
    tag = await tag_of(api, path)
    async with asyncio.TaskGroup() as group:
        opened = asyncio.Event()
        ready: list[Events] = []

        async def watch() -> list[str]:
            async with viewer(http, f"{api.url}{path}/stream?v={tag}") as events:
                ready.append(events)
                if len(ready) == _MANY:
                    opened.set()
                return [(await events.next())[2] for _ in range(2)]

        before = api.context.db.statements
        watching = [group.create_task(watch()) for _ in range(_MANY)]
        await opened.wait()
        joined = api.context.db.statements - before
        costs = []
        for state in (SubStatus.BROADCAST, SubStatus.DELIVERED):
            before = api.context.db.statements
            await tell(api, payout, state)
            applied = api.context.db.statements - before
            # As many as no viewer at all would cost, and one.
            await until(partial(_more_than, api, before + applied))
            for _ in range(20):
                await tag_of(api, path)
            costs.append(api.context.db.statements - before - applied)
    with capsys.disabled():
        print(f"\n  {_MANY} viewers: {joined} queries to join, {costs} per change")
    assert joined == 0
    assert costs == [1, 1]
    for each in watching:
        first, second = each.result()
        assert "On its way" in first
        assert "Delivered" in second
        assert "data-final" in second


async def test_a_page_in_a_language_is_drawn_once(
    api: Api, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many watch it in that language."""
    payout = await api.pay()
    drawn: list[str] = []
    render = Pages.draw

    def counting(pages: Pages, *args: object) -> object:
        drawn.append(str(args[1]))
        return render(pages, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(pages_of(api).hub, "_draw", counting.__get__(pages_of(api)))
    url = f"{api.url}{path_of(payout)}/stream"
    async with (
        viewer(http, url, accept_language="fr") as one,
        viewer(http, url, accept_language="fr") as two,
        viewer(http, url) as three,
    ):
        for each in (one, two, three):
            await each.next()
        await tell(api, payout, SubStatus.BROADCAST)
        texts = [(await each.next())[2] for each in (one, two, three)]
    assert sorted(drawn) == ["en", "en", "fr", "fr"]
    assert ["En route" in each for each in texts] == [True, True, False]


async def test_what_another_process_changes_is_found(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """By the shared look, some seconds later: one query for all viewers."""
    settings = page_settings(tmp_path)
    async with open_api(settings) as here, open_api(settings, clock=here.clock) as there:
        payout = await here.pay()
        path = path_of(payout)
        tag = await tag_of(here, path)
        async with (
            viewer(http, f"{here.url}{path}/stream?v={tag}") as one,
            viewer(http, f"{here.url}{path}/stream?v={tag}") as two,
        ):
            await until(lambda: pages_of(here).hub.streams == 2)
            before = here.context.db.statements
            await tell(there, payout, SubStatus.BROADCAST)
            await here.clock.advance(live.LOOK_S)
            assert "On its way" in (await one.next())[2]
            assert "On its way" in (await two.next())[2]
            assert here.context.db.statements - before == 1


async def test_it_turns_late_without_a_change(api: Api, http: aiohttp.ClientSession) -> None:
    """When the estimate is over, though the payout says nothing new."""
    payout = await api.pay()
    await tell(api, payout, SubStatus.BROADCAST)
    path = path_of(payout)
    async with viewer(http, f"{api.url}{path}/stream?v={await tag_of(api, path)}") as events:
        for _ in range(80):
            await asyncio.sleep(0)
            await api.clock.advance(live.LOOK_S)
        assert "longer than usual" in (await events.next())[2]


async def test_who_comes_back_is_told_what_it_missed(api: Api, http: aiohttp.ClientSession) -> None:
    """By `Last-Event-ID`; and nothing where nothing was missed."""
    payout = await api.pay()
    url = f"{api.url}{path_of(payout)}/stream"
    async with viewer(http, url) as events:
        _, tag, _ = await events.next()
    await tell(api, payout, SubStatus.BROADCAST)
    async with viewer(http, url, last_event_id=tag) as events:
        name, tag, html = await events.next()
        assert (name, "On its way" in html) == ("state", True)
    async with viewer(http, url, last_event_id=tag) as events:
        assert await events.beat() == "retry: 3000"
        assert [(await events.beat())[:10] for _ in range(3)] == ["event: now", "data: 1772", ""]
        await tell(api, payout, SubStatus.DELIVERED)
        assert "Delivered" in (await events.next())[2]
        assert await events.next() == ("end", "", "")
        with pytest.raises(EOFError):
            await events.next()


async def test_a_long_tag_is_an_unknown_one(api: Api, http: aiohttp.ClientSession) -> None:
    """The listener bounds headers (tests/connections); below its bound a tag costs one comparison."""
    payout = await api.pay()
    url = f"{api.url}{path_of(payout)}/stream"
    for length in (4_000, 7_000):
        async with viewer(http, url, last_event_id="x" * length) as events:
            assert (await events.next())[0] == "state"


async def test_a_silent_stream_beats_and_ends(
    api: Api, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that proxies keep it, and none stays for ever."""
    monkeypatch.setattr(live, "_MOST_BEATS", 2)
    payout = await api.pay()
    path = path_of(payout)
    tag = await tag_of(api, path)
    async with viewer(http, f"{api.url}{path}/stream?v={tag}") as events:
        assert await events.beat() == "retry: 3000"
        for _ in range(3):
            assert await events.beat() == "event: now"
            assert await events.beat() == f"data: {pages_of(api).hub.now_ms()}"
            assert await events.beat() == ""
            # The viewer's own sleep, and that of the look at its payout.
            await until(lambda: api.clock.sleepers == 2 or pages_of(api).hub.streams == 0)
            await api.clock.advance(live.BEAT_S)
        with pytest.raises(EOFError):
            await events.beat()
    await until(lambda: pages_of(api).hub.streams == 0)


async def test_a_viewer_that_goes_leaves_nothing(api: Api, http: aiohttp.ClientSession) -> None:
    """Neither a place that it took, nor a look at its payout."""
    payout = await api.pay()
    url = f"{api.url}{path_of(payout)}/stream"
    async with viewer(http, url) as events:
        await events.next()
        assert pages_of(api).hub.streams == 1
    await until(lambda: pages_of(api).hub.streams == 0)
    await until(lambda: api.clock.sleepers == 0)
    before = api.context.db.statements
    await tell(api, payout, SubStatus.BROADCAST)
    applied = api.context.db.statements - before
    await asyncio.sleep(0.05)
    assert api.context.db.statements - before == applied


async def test_a_slow_viewer_holds_nobody_up(api: Api, http: aiohttp.ClientSession) -> None:
    """It reads nothing; what waits for it is bounded, and the others hear of every change."""
    payout = await api.pay()
    path = path_of(payout)
    host, port = api.url.removeprefix("http://").split(":")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    slow.connect((host, int(port)))
    slow.sendall(f"GET {path}/stream HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        async with viewer(http, f"{api.url}{path}/stream") as events:
            await events.next()
            await until(lambda: pages_of(api).hub.streams == 2)
            for turn in range(60):
                state = (SubStatus.OUTCOME_UNKNOWN, SubStatus.SUBMITTED)[turn % 2]
                await tell(api, payout, state)
                name, _, html = await events.next()
                assert name == "state"
                assert ("Checking" in html) == (turn % 2 == 0)
        waiting = waiting_bytes(api)
        assert max(waiting, default=0) < 128 * 1024
    finally:
        slow.close()
    await until(lambda: pages_of(api).hub.streams == 0)


@pytest.mark.parametrize("limits", [{"streams": 2}, {"streams_per_address": 2}, {"streams": 0}])
async def test_over_the_cap_a_page_polls(
    tmp_path: Path, http: aiohttp.ClientSession, limits: dict[str, int]
) -> None:
    """503 with the time to wait; the page itself is served; a place that is free is given again."""
    settings = page_settings(tmp_path)
    wanted = {f"{name}_burst": 100_000 for name in RATES} | limits
    settings = page_settings(tmp_path, limits=wanted)
    async with open_api(settings) as api:
        path = path_of(await api.pay())

        async def refused() -> bool:
            answer, raw = await api.send("GET", f"{path}/stream", authorization=None)
            assert (answer.status, answer.headers["retry-after"]) == (503, "30")
            assert b"ETag" in raw
            answer, _ = await api.send("GET", path, authorization=None)
            return answer.status == 200

        if not limits.get("streams", 2):
            assert await refused()
            return
        async with viewer(http, f"{api.url}{path}/stream") as one:
            await one.next()
            async with viewer(http, f"{api.url}{path}/stream") as two:
                await two.next()
                assert await refused()
            await until(lambda: pages_of(api).hub.streams == 1)
            async with viewer(http, f"{api.url}{path}/stream") as three:
                assert (await three.next())[0] == "state"


async def test_streams_end_when_the_process_stops(api: Api, http: aiohttp.ClientSession) -> None:
    """At once, and no new one begins: an open stream would hold the shutdown up."""
    path = path_of(await api.pay())
    async with viewer(http, f"{api.url}{path}/stream") as events:
        await events.next()
        pages_of(api).hub.close()
        with pytest.raises(EOFError):
            await events.next()
    answer, _ = await api.send("GET", f"{path}/stream", authorization=None)
    assert answer.status == 503


async def test_head_opens_no_stream(api: Api) -> None:
    """It is answered, and over."""
    path = path_of(await api.pay())
    answer, raw = await api.send("HEAD", f"{path}/stream", authorization=None)
    assert (answer.status, raw) == (200, b"")
    assert pages_of(api).hub.streams == 0


@pytest.mark.e2e
@pytest.mark.timeout(120)
async def test_streams_keep_neither_clients_nor_a_shutdown_waiting(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """The whole gateway: as many streams as there are connections, and a request gets in all the same.

    A stream makes room for it; the others end with the process, which stops as it does without them.
    """
    async with stack(tmp_path, rail=PASSCODE) as made:
        few = made.config.read_text().replace("[listen]\n", "[listen]\nmax_connections = 16\n")
        made.config.write_text(few)
        await made.start_gateway("--quick")
        payout_id = await made.execute(await made.quote("75", payout_account_id="18"))
        payout = await made.reaches(payout_id, "requires_action")
        url = made.url + "/track/" + payout["tracking_url"].rpartition("/")[2] + "/stream"
        answers = [await http.get(url) for _ in range(24)]
        viewers = [Events(each) for each in answers]
        assert {each.status for each in answers} == {200}
        assert (await made.call("GET", f"/payouts/{payout_id}"))[0] == 200
        assert made.gateway is not None
        await made.stop_gateways()
        ends = [await ended(each) for each in viewers]
    # Those that made room were cut; those that were open at the end ended as answers do.
    assert set(ends) == {"cut", "complete"}
    assert ends.count("complete") >= 8


async def ended(events: Events) -> str:
    """Read a stream to its end, and return how it ended."""
    try:
        while True:
            await events.beat()
    except EOFError:
        return "complete"
    except aiohttp.ClientError:
        return "cut"
