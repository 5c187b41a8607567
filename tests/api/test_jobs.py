"""Reports, checks and creations of batches: few at once, and a few lines at a time."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from gateway.api import batch_reports
from gateway.api.jobs import GIVES_WAY_S, LINES, PAUSES, PAUSES_BESIDE_OTHERS, STEP_S, Jobs
from gateway.batches import items
from gateway.calling import Calling
from gateway.config.rates import LimitSettings
from gateway.config.settings import Settings
from gateway.metrics import Metrics
from tests.api.conftest import Api, open_api
from tests.api.test_batches import QUERY, create, item, upload
from tests.clock import SetClock

HEADER = "external_ref,asset,amount,destination_type,network,address\n"
LINE = "u,USDC,1,address,Ethereum,0x52908400098527886E0F7030069857D2E4169EE7\n"


@asynccontextmanager
async def limited(settings: Settings, **limits: int) -> AsyncIterator[Api]:
    """Run an API with some limits."""
    changed = settings.model_dump() | {"limits": settings.limits.model_dump() | limits}
    changed["server_key"] = settings.server_key.get_secret_value()
    async with open_api(Settings.model_validate(changed)) as api:
        yield api


class Longest:
    """Counts calls of a function, and the most between two turns of the event loop."""

    def __init__(self) -> None:
        self.calls = self.most = 0
        self._in_turn = 0
        self._going = True

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, counted."""

        def call(*arguments: Any) -> Any:
            self.calls += 1
            self._in_turn += 1
            self.most = max(self.most, self._in_turn)
            return function(*arguments)

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the turns of the loop."""
        loop = asyncio.get_running_loop()

        def turn() -> None:
            self._in_turn = 0
            if self._going:
                loop.call_soon(turn)

        turn()
        try:
            yield
        finally:
            self._going = False


@asynccontextmanager
async def uploading(api: Api, org: str) -> AsyncIterator[None]:
    """Keep an upload under way."""
    host, _, port = api.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /payout-batches{QUERY} HTTP/1.1\r\nhost: x\r\ncontent-type: text/csv\r\n"
        f"authorization: Bearer {await api.key(org)}\r\nidempotency-key: {secrets.token_hex(8)}\r\n"
        "content-length: 100000\r\n\r\n"
    )
    writer.write(head.encode() + b"external_ref")
    await writer.drain()
    await asyncio.sleep(0.1)
    try:
        yield
    finally:
        writer.transport.abort()
        await asyncio.sleep(0.1)


async def test_an_org_has_few_jobs_at_once(settings: Settings) -> None:
    """More get 429 before their body is read; another org and other requests are served."""
    async with limited(settings, batch_jobs_per_org=1) as api:
        made = await create(api, item(0))
        report = f"/payout-batches/{made['id']}/report"
        key = secrets.token_hex(8)
        async with uploading(api, "acme"):
            for path in (".csv", ".json"):
                answer, _ = await api.send("GET", report + path)
                assert answer.status == 429
                assert int(answer.headers["retry-after"]) > 0
                assert answer.headers.getall("ratelimit") == ['"batch_jobs";r=0;t=5']
                policy = '"batch_jobs";q=1;qu="concurrent-requests"'
                assert answer.headers.getall("ratelimit-policy") == [policy]
            status, told = await upload(api, HEADER + LINE, QUERY, key)
            assert (status, told["code"]) == (429, "rate_limited")
            assert (await api.call("GET", f"/payout-batches/{made['id']}"))[0] == 200
            problem = await api.problem("GET", report + ".csv", org="rival")
            assert problem["code"] == "batch_not_found"
        # The key was not used, and the upload that was given up holds no place.
        assert (await upload(api, HEADER + LINE, QUERY, key))[0] == 201
        assert (await api.send("GET", report + ".csv"))[0].status == 200


async def test_all_orgs_together_have_a_limit(settings: Settings) -> None:
    """Two jobs of two orgs; a third org has to wait."""
    async with limited(settings, batch_jobs=2) as api:
        await api.key("third")
        async with uploading(api, "acme"), uploading(api, "rival"):
            made = await api.problem(
                "POST",
                "/payout-batches" + QUERY,
                data=(HEADER + LINE).encode(),
                content_type="text/csv",
                org="third",
                idempotency_key="k",
            )
            assert made["code"] == "rate_limited"
        assert (await upload(api, HEADER + LINE))[0] == 201


async def test_reports_are_built_in_short_steps(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many run at once, only a few rows between two turns of the loop."""
    made = await create(api, *(item(number) for number in range(205)))
    longest = Longest()
    monkeypatch.setattr(batch_reports, "_row", longest.counted(batch_reports._row))
    path = f"/payout-batches/{made['id']}/report"
    with longest.watching():
        answers = await asyncio.gather(
            *(api.send("GET", path + kind) for kind in (".csv", ".json", ".csv"))
        )
    assert [answer.status for answer, _ in answers] == [200] * 3
    assert answers[0][1].count(b"\r\n") == 206
    assert longest.calls == 3 * 205
    assert longest.most <= LINES


async def test_files_are_checked_in_short_steps(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few lines are read between two turns of the loop."""
    longest = Longest()
    monkeypatch.setattr(items._Columns, "line", longest.counted(items._Columns.line))
    with longest.watching():
        told = await asyncio.gather(
            *(upload(api, HEADER + LINE * 203, QUERY + "&validate=true") for _ in range(3))
        )
    assert [(status, body["item_count"]) for status, body in told] == [(200, 203)] * 3
    assert longest.calls == 3 * 203
    assert longest.most <= LINES


class Worker:
    """Jobs on a clock that only work and pauses advance, and what they used of it."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.pauses: list[float] = []
        self.jobs = Jobs(LimitSettings(), Metrics(), self.clock, pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self.clock.advance(seconds)

    async def steps(self, lines: int, line_s: float) -> list[int]:
        """Do so many lines that take so long each; return how many each step had."""
        loop_clock = self.clock

        def work(number: int) -> int:
            loop_clock._elapsed += timedelta(seconds=line_s)
            return number

        done = [step async for step in self.jobs.steps("acme", range(lines), work)]
        assert [number for step in done for number in step] == list(range(lines))
        return [len(step) for step in done]


async def test_a_step_ends_after_a_time() -> None:
    """A line that takes long is a step of its own; quick ones are bounded by their number."""
    assert await Worker().steps(3, 2 * STEP_S) == [1, 1, 1]
    assert await Worker().steps(9, STEP_S / 4) == [4, 4, 1]
    assert await Worker().steps(LINES + 1, 0) == [LINES, 1]


async def test_nothing_is_paused_for_after_the_last_line() -> None:
    """A step that finds the end is the last one; what follows pauses anyway."""
    worker = Worker()
    assert await worker.steps(3, STEP_S / 9) == [3]
    assert await worker.steps(0, 0) == []
    assert worker.pauses == pytest.approx([PAUSES * STEP_S] * 2)


async def test_a_pause_that_is_too_long_counts_for_the_next_one() -> None:
    """Alone a job has its half of the time, however coarse the timer. Not beside requests, and once only."""
    worker = Worker()
    late = 0.0

    async def pause(seconds: float) -> None:
        worker.pauses.append(seconds)
        await worker.clock.advance(seconds + late)

    worker.jobs = Jobs(LimitSettings(), Metrics(), worker.clock, pause=pause)
    late = STEP_S / 2
    await worker.jobs.turn("acme")
    late = 0.0
    await worker.jobs.turn("acme")
    await worker.jobs.turn("acme")
    assert worker.pauses == pytest.approx([STEP_S, STEP_S / 2, STEP_S])
    late = 100 * STEP_S
    await worker.jobs.turn("acme")
    late = 0.0
    await worker.jobs.turn("acme")
    await worker.jobs.turn("acme")
    # However late it was: one pause is left out, the next one is whole.
    assert worker.pauses[3:] == pytest.approx([STEP_S, 0.0, STEP_S])
    late = STEP_S
    await worker.jobs.turn("acme")
    worker.jobs.request()
    late = 0.0
    await worker.jobs.turn("acme")
    assert worker.pauses[-1] == pytest.approx(PAUSES_BESIDE_OTHERS * STEP_S)


async def test_jobs_leave_more_to_requests_that_come_in() -> None:
    """Half of the time without other requests, a fifth with them."""
    alone = Worker()
    await alone.steps(4, 3 * STEP_S)
    assert alone.pauses == pytest.approx([PAUSES * STEP_S] + [PAUSES * 3 * STEP_S] * 4)
    beside = Worker()
    beside.jobs.request()
    await beside.steps(1000, 3 * STEP_S)
    share = PAUSES_BESIDE_OTHERS * 3 * STEP_S
    assert beside.pauses[1:20] == pytest.approx([share] * 19)
    # Nobody has called for half a second.
    assert beside.pauses[-1] == pytest.approx(PAUSES * 3 * STEP_S)
    assert beside.pauses.count(beside.pauses[1]) < 50


async def test_a_job_is_no_request_beside_itself() -> None:
    """Its own request alone slows nothing down; one that came in before or after it does."""
    for others, times in (
        ((), PAUSES),
        (("before",), PAUSES_BESIDE_OTHERS),
        (("after",), PAUSES_BESIDE_OTHERS),
    ):
        worker = Worker()
        if "before" in others:
            worker.jobs.request()
        number = worker.jobs.request()
        if "after" in others:
            worker.jobs.request()
        with worker.jobs.running("acme", number):
            await worker.steps(1, STEP_S)
        assert worker.pauses[0] == pytest.approx(times * STEP_S), others


async def test_every_request_is_one_beside_the_jobs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends it, and whatever becomes of it."""
    seen: list[None] = []
    monkeypatch.setattr(Jobs, "request", lambda _: seen.append(None))
    for number, path in enumerate(("/payouts", "/healthz", "/nothing"), 1):
        await api.send("GET", path)
        assert len(seen) == number


async def test_a_step_gives_way_to_requests_of_other_orgs() -> None:
    """Each step asks for its own org, after its pause."""
    worker = Worker()
    asked: list[tuple[str, float, int]] = []

    class Noted(Calling):
        async def quiet(self, org: str, most_s: float) -> None:
            asked.append((org, most_s, len(worker.pauses)))

    worker.jobs = Jobs(
        LimitSettings(), Metrics(), worker.clock, Noted(worker.clock), pause=worker._pause
    )
    assert await worker.steps(3, STEP_S) == [1, 1, 1]
    # The last one finds that nothing is left.
    assert asked == [("acme", GIVES_WAY_S, number) for number in (1, 2, 3, 4)]
