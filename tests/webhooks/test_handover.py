"""Deliveries that are handed to the sender with the commit: nothing lost, nothing kept, few statements."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.config.settings import WebhookSettings
from gateway.events import Event, Published, publish, publish_later
from gateway.runtime import Failpoint
from gateway.store import deliveries as stored
from gateway.store import endpoints as rows
from gateway.store.database import Tx
from gateway.store.lanes import FREE, Held, LeaseTokens, tokens_of
from gateway.webhooks import receipts
from gateway.webhooks.subscriptions import EndpointChange
from gateway.webhooks.worker import Deliveries
from tests.execution.conftest import Bench
from tests.webhooks.test_worker import delivering, hook, subscribe, until

ORG = "acme-org"


async def tell(tx: Tx, bench: Bench, count: int = 1, org: str = ORG) -> list[Published]:
    """Store function: publish so many events of an org."""
    events = [Event("payout.created", b"{}") for _ in range(count)]
    return await publish(tx, bench.runtime, org, "live", bench.clock.now(), events)


async def tell_later(tx: Tx, bench: Bench, kind: str = "payout.created", org: str = ORG) -> None:
    """Store function: publish an event together with those of other changes."""
    await publish_later(tx, bench.runtime, org, "live", bench.clock.now(), [Event(kind, b"{}")])


async def proven(bench: Bench, deliveries: Deliveries, tries: list[Any]) -> None:
    """Have the endpoint answer once: only then is anything handed to its lane."""
    await bench.db.run(tell, bench)
    await until(lambda: len(tries) == 1)
    await quiet(bench)
    # The loop has to have seen that nothing is due any more.
    deliveries.wakeup.ring()
    await asyncio.sleep(0.05)


async def quiet(bench: Bench) -> None:
    """Wait until nothing is pending."""
    async with asyncio.timeout(10):
        while _rows(bench, "SELECT 1 FROM deliveries WHERE state = 'pending'"):
            await asyncio.sleep(0.005)


def _rows(bench: Bench, query: str) -> list[Any]:
    with closing(sqlite3.connect(bench.db.path)) as connection:
        return connection.execute(query).fetchall()


async def test_few_statements_for_an_event(bench: Bench) -> None:
    """One by one: the event, its delivery, the try, the delivery again. Nothing is looked for."""
    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        before, commits = bench.db.statements, bench.db.commits
        for number in range(2, 7):
            await bench.db.run(tell, bench)
            await until(lambda count=number: len(made.tries) == count)  # type: ignore[misc]
            await quiet(bench)
            await asyncio.sleep(0.02)
            await bench.clock.advance(5)
        # What is known of the endpoint is not read again: nobody else has committed.
        assert bench.db.statements - before <= 5 * 4
        assert bench.db.commits - commits <= 5 * 2


async def test_what_another_process_changes_of_an_endpoint_is_read_again(bench: Bench) -> None:
    """At once: an event that is published after the change goes to the new address."""
    async with hook() as made, hook() as other, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        for number in range(2, 4):
            await bench.db.run(tell, bench)
            await until(lambda count=number: len(made.tries) == count)  # type: ignore[misc]
        with closing(sqlite3.connect(bench.db.path)) as connection, connection:
            connection.execute(
                "UPDATE endpoints SET url = ? WHERE id = ?", (other.url, endpoint.id)
            )
        await bench.db.run(tell, bench)
        await until(lambda: len(other.tries) + len(made.tries) == 4)
        assert len(other.tries) == 1
        assert len(made.tries) == 3


async def test_a_lower_rate_holds_for_what_is_handed_over(bench: Bench) -> None:
    """The rate is read with the endpoint: while every event has room, nothing is looked for in the store."""
    async with hook() as made, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        change = EndpointChange(rate_limit_per_second=1)
        await bench.db.run(deliveries._endpoints.update, bench.caller, endpoint.id, change)
        # With the first one the rate is read. One more is a second's worth.
        for number in (2, 3):
            await bench.db.run(tell, bench)
            await until(lambda count=number: len(made.tries) == count)  # type: ignore[misc]
            await quiet(bench)
        for _ in range(3):
            await bench.db.run(tell, bench)
            await asyncio.sleep(0.05)
        assert len(made.tries) == 3


async def test_an_old_secret_ends_with_its_time(bench: Bench) -> None:
    """Nothing is committed when it ends: an endpoint with two secrets is read again once a second."""
    async with hook() as made, delivering(bench) as deliveries:
        endpoint = await subscribe(bench, made.url)
        await bench.db.run(deliveries._endpoints.rotate, bench.caller, endpoint.id, 60)
        await proven(bench, deliveries, made.tries)
        for count, wait_s in ((2, 58), (1, 3)):
            await bench.clock.advance(wait_s)
            before = len(made.tries)
            await bench.db.run(tell, bench)
            await until(lambda before=before: len(made.tries) > before)  # type: ignore[misc]
            assert len(made.tries[-1][2]["webhook-signature"].split()) == count


async def test_an_endpoint_that_answers_again_is_known_to_be_well(bench: Bench) -> None:
    """Its health is written once, and not with every receipt from then on."""
    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        await bench.db.run(_say_failing, int(bench.clock.now().timestamp() * 1e6))
        deliveries._known.clear()
        for count in range(2, 6):
            await bench.db.run(tell, bench)
            await until(lambda count=count: len(made.tries) == count)  # type: ignore[misc]
            await quiet(bench)
            await asyncio.sleep(0.02)
            assert [each.failing for each in deliveries._known.values()] == [False] * (count > 2)
        assert _rows(bench, "SELECT failing_since FROM endpoints") == [(None,)]


async def _say_failing(tx: Tx, since: int) -> None:
    for row in await rows.subscribed_endpoints(tx, ORG, "live"):
        await rows.update_endpoint(tx, row["id"], failing_since=since)


async def test_fewer_statements_at_the_full_rate(bench: Bench) -> None:
    """Receipts are written in groups, and nothing is claimed as long as there is room."""
    async with hook() as made, delivering(bench) as deliveries:
        made_ = await subscribe(bench, made.url)
        await _rate(bench, made_.id, 5000)
        await proven(bench, deliveries, made.tries)
        before = bench.db.statements
        await asyncio.gather(*(bench.db.run(tell, bench) for _ in range(40)))
        await until(lambda: len(made.tries) == 41)
        await quiet(bench)
        # Two for each event; the receipts of four lanes, a few more groups at the ends.
        assert (bench.db.statements - before) / 40 <= 3


async def _rate(bench: Bench, endpoint_id: str, rate: int) -> None:
    async def write(tx: Tx) -> None:
        await rows.update_endpoint(tx, endpoint_id, rate_limit_per_second=rate)

    await bench.db.run(write)


async def test_a_change_that_is_undone_leaves_no_reserved_lane(bench: Bench) -> None:
    """Neither its own error nor one of its group keeps room; what goes through is sent once."""

    async def undone(tx: Tx) -> None:
        await tell(tx, bench)
        raise ZeroDivisionError

    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        queue = deliveries._queue._queues
        for _ in range(100):
            with pytest.raises(ZeroDivisionError):
                await bench.db.run(undone)
        assert [(each.reserved, len(each.claims)) for each in queue.values()] == [(0, 0)]
        assert deliveries._queue._held == 0
        # In one group: the good one is run again, alone, after the bad one was undone.
        good = asyncio.create_task(bench.db.run(tell, bench))
        bad = asyncio.create_task(bench.db.run(undone))
        (published,) = await good
        with pytest.raises(ZeroDivisionError):
            await bad
        await until(lambda: len(made.tries) == 2)
        await quiet(bench)
        assert made.tries[1][0] == published.id
        await until(lambda: deliveries._queue._held == 0)
        assert [each.reserved for each in queue.values()] == [0]


async def test_a_commit_that_fails_sends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender hears of an event only once it is durable."""
    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        writer = bench.db._writer
        execute = writer._connection.execute

        def full(text: str, values: Any = ()) -> Any:
            if text == "COMMIT":
                raise sqlite3.OperationalError("database or disk is full")
            return execute(text, values)

        monkeypatch.setattr(writer._connection, "execute", full)
        with pytest.raises(sqlite3.OperationalError):
            await bench.db.run(tell, bench)
        monkeypatch.setattr(writer._connection, "execute", execute)
        assert deliveries._queue._held == 0
        await bench.db.run(tell, bench)
        await until(lambda: len(made.tries) == 2)
        await quiet(bench)
        assert len(made.tries) == 2


async def test_events_of_many_changes_are_written_together(bench: Bench) -> None:
    """By one statement for sixteen, in the order of the changes; each is sent once, with the commit."""
    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        connection = bench.db._writer._connection
        before = connection.statements
        # Those of other orgs in between are written by themselves, and cost these nothing.
        told = [(f"payout.k{n}", org) for n in range(5) for org in (ORG, "other-org")]
        await asyncio.gather(*(bench.db.run(tell_later, bench, kind, org) for kind, org in told))
        assert connection.statements - before == 4
        await until(lambda: len(made.tries) == 6)
        await quiet(bench)
        kinds = _rows(bench, f"SELECT type FROM events WHERE org = '{ORG}' ORDER BY position")
        assert [kind for (kind,) in kinds][-5:] == [f"payout.k{n}" for n in range(5)]
        assert len(made.tries) == 6


async def test_a_change_that_fails_publishes_nothing_later(bench: Bench) -> None:
    """The room that its group had is free again, and the events of the others arrive."""

    async def fails(tx: Tx) -> None:
        await tell_later(tx, bench, "payout.never")
        raise ZeroDivisionError

    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await proven(bench, deliveries, made.tries)
        done = await asyncio.gather(
            bench.db.run(tell_later, bench), bench.db.run(fails), return_exceptions=True
        )
        assert [type(each) for each in done] == [type(None), ZeroDivisionError]
        await until(lambda: len(made.tries) == 2)
        await quiet(bench)
        assert len(_rows(bench, "SELECT 1 FROM events")) == len(made.tries) == 2
        assert deliveries._queue._held == 0


async def test_what_has_no_room_is_claimed(bench: Bench) -> None:
    """More events than a lane takes, in one change and in many: each arrives once."""
    async with hook() as made, delivering(bench) as deliveries:
        made_ = await subscribe(bench, made.url)
        await _rate(bench, made_.id, 5000)
        await proven(bench, deliveries, made.tries)
        await bench.db.run(tell, bench, 200)
        await asyncio.gather(*(bench.db.run(tell, bench) for _ in range(200)))
        await until(lambda: len(made.tries) >= 401)
        await quiet(bench)
        assert set(Counter(each[0] for each in made.tries).values()) == {1}
        assert len(made.tries) == 401


async def test_the_lane_is_free_only_after_the_receipt_is_durable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many are sent as lanes hold, while no receipt can be written."""
    async with hook() as made, delivering(bench) as deliveries:
        made_ = await subscribe(bench, made.url)
        await _rate(bench, made_.id, 5000)
        await proven(bench, deliveries, made.tries)
        may, write = asyncio.Event(), deliveries._receipts.settle

        async def held(tried: Any, **how: Any) -> Any:
            await may.wait()
            return await write(tried, **how)

        monkeypatch.setattr(deliveries._receipts, "settle", held)
        for _ in range(12):
            await bench.db.run(tell, bench)
        await until(lambda: len(made.tries) == 5)
        await asyncio.sleep(0.1)
        assert len(made.tries) == 5
        may.set()
        await until(lambda: len(made.tries) == 13)
        await quiet(bench)


async def test_a_place_that_is_needed_does_not_wait_for_receipts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts wait for others only while nobody needs their places, and never longer than a stop."""
    monkeypatch.setattr(receipts, "GATHER_S", 3600.0)
    monkeypatch.setattr(receipts, "MOST_WAITING", 1000)
    async with hook() as made, delivering(bench) as deliveries:
        made_ = await subscribe(bench, made.url)
        await _rate(bench, made_.id, 5000)
        await proven(bench, deliveries, made.tries)
        commits = bench.db.commits
        for count in range(2, 14):
            await bench.db.run(tell, bench)
            await until(lambda count=count: len(made.tries) == count)  # type: ignore[misc]
        # Twelve events; four places were needed again twice.
        assert bench.db.commits - commits <= 12 + 3
        assert _rows(bench, "SELECT 1 FROM deliveries WHERE state = 'pending'")
        await deliveries.finish(5)
        assert _rows(bench, "SELECT 1 FROM deliveries WHERE state = 'pending'") == []
        assert len(made.tries) == 13


async def test_a_stop_leaves_no_lease(bench: Bench) -> None:
    """What was in progress is due at once for the next gateway."""
    stop = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await stop.wait()
        return web.Response()

    async with hook() as made:
        app = web.Application()
        app.router.add_post("/", hang)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        slow = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with delivering(bench) as deliveries:
            endpoint = await subscribe(bench, made.url)
            await proven(bench, deliveries, made.tries)

            moved = EndpointChange(url=slow)
            await bench.db.run(deliveries._endpoints.update, bench.caller, endpoint.id, moved)
            await bench.clock.advance(5)
            for _ in range(8):
                await bench.db.run(tell, bench)
            leased = "SELECT 1 FROM deliveries WHERE state = 'pending' AND lease_token > 0"
            await until(lambda: len(_rows(bench, leased)) == 8)
            await deliveries.finish(0)
            assert _rows(bench, leased) == []
            assert len(_rows(bench, "SELECT 1 FROM deliveries WHERE state = 'pending'")) == 8
        stop.set()
        await runner.cleanup()


def test_tokens_say_whose_they_are() -> None:
    """Each is new, is in the range of its gateway only, and fits a signed column."""
    one, other = LeaseTokens("gw_one"), LeaseTokens("gw_other")
    given = [one.new() for _ in range(100)]
    assert len(set(given)) == 100
    first, last = tokens_of("gw_one")
    assert all(first <= each <= last < 2**63 for each in given)
    assert not first <= other.new() <= last
    assert first > FREE
    others = Held.by_others("gw_one")
    assert others.first <= other.new() <= others.last
    assert (others.own_first, others.own_last) == (first, last)


@pytest.mark.parametrize("case", ["the first one", "taken for dead"])
async def test_what_a_gateway_leases_meanwhile_is_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Two are started at once, or one only seems to be dead: what it leased before is freed.

    Were it to free what the other one leases from then on, both would be busy with that for ever.
    """
    tokens, life = LeaseTokens("gw_other"), 4 * 1_000_000 * round(WebhookSettings().timeout_s)

    async def claim(tx: Tx) -> int:
        now = bench.runtime.timeline.now()
        wanted = [(endpoint.id, 1)]
        claimed = await stored.claim_deliveries(tx, wanted, now, now + life, tokens.new())
        return len(claimed)

    free, freed = stored.free_deliveries, list[int]()

    async def free_and_claim(tx: Tx, *args: Any) -> int:
        freed.append(await free(tx, *args))
        assert await claim(tx) == 1
        return freed[-1]

    async with hook() as made:
        endpoint = await subscribe(bench, made.url)
        await bench.db.run(tell, bench)
        assert await bench.db.run(claim) == 1
        await bench.clock.advance(1)
        monkeypatch.setattr(stored, "free_deliveries", free_and_claim)
        monkeypatch.setattr(bench.db, "_alone", case == "the first one")
        async with delivering(bench) as deliveries:
            await until(lambda: bench.db.lanes is not None)
            if case == "taken for dead":
                await asyncio.wait_for(deliveries.free_leases("gw_other"), 5)
        # Earlier leases are freed: their holder may be gone.
        assert freed == [1]
        first, last = tokens_of("gw_other")
        ((token,),) = _rows(bench, "SELECT lease_token FROM deliveries")
        assert first <= token <= last


class Paused:
    """The pulse of a process that goes on after a long pause: what it did since, in order."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.fresh = False
        self.leased: list[int] = []

    def is_fresh(self) -> bool:
        """Whether it has given a sign of life since the pause."""
        return self.fresh

    async def refresh(self) -> None:
        """Note how many deliveries are leased when it gives one."""
        if not self.fresh:
            self.leased.append(_leased(self._bench))
            self.fresh = True


def _leased(bench: Bench) -> int:
    query = f"SELECT count(*) FROM deliveries WHERE state = 'pending' AND lease_token <> {FREE}"
    ((leased,),) = _rows(bench, query)
    return int(leased)


async def test_after_a_long_pause_nothing_is_leased_before_a_sign_of_life(bench: Bench) -> None:
    """Others have freed the leases of a gateway that seemed dead, and would not look a second time."""
    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await until(lambda: bench.db.lanes is not None)
        await bench.db.run(tell, bench)
        await until(lambda: len(made.tries) == 1)
        await until(lambda: _leased(bench) == 0)
        # From now on its deliveries would be leased with the commit.
        pulse = deliveries.pulse = Paused(bench)
        await bench.db.run(tell, bench)
        await until(lambda: len(made.tries) == 2)
    assert pulse.leased == [0]


# With real processes.


class Receiver:
    """A receiver that counts each event, and never answers under /hang."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        """Take an event."""
        await request.read()
        self.seen[request.headers["webhook-id"]] += 1
        if request.path == "/hang":
            await asyncio.sleep(3600)
        return web.Response(status=204)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Run a receiver."""
    made = Receiver()
    app = web.Application()
    app.router.add_post("/{any}", made.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


class Gateway:
    """A gateway's process; see `tests/webhooks/process.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, **asked: Any) -> str:
        """Have it do something; '' where it died of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        return (await asyncio.wait_for(self.process.stdout.readline(), 30)).decode().strip()

    async def died(self) -> int:
        """Wait until it has died."""
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def gateway(database: Path, **wanted: Any) -> AsyncIterator[Gateway]:
    """Run a gateway until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.webhooks.process", json.dumps({"database": str(database), **wanted})),
        cwd=Path(__file__).parents[2],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    made = Gateway(process)
    try:
        await made.ask(id=True)
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def arrived(receiver: Receiver, *events: str) -> None:
    """Wait until events have arrived: much shorter than a lease, which is 120 s."""
    async with asyncio.timeout(30):
        while not receiver.seen.keys() >= set(events):
            await asyncio.sleep(0.02)


def durable(database: Path) -> list[str]:
    """Return the ids of all events that are in the database."""
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM events ORDER BY position")]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("at", "times"),
    [
        (Failpoint.DELIVERY_COMMITTED, 1),
        (Failpoint.DELIVERY_SENT, 2),
        (Failpoint.DELIVERY_SETTLED, 1),
    ],
)
async def test_a_kill_during_each_handover(
    tmp_path: Path, receiver: Receiver, at: Failpoint, times: int
) -> None:
    """Nothing is lost, and it is sent again only where its receipt was not durable. No lease is waited out.

    The first event is claimed, the second one handed over.
    """
    database = tmp_path / "g.db"
    occurrence = 1 if at is Failpoint.DELIVERY_COMMITTED else 2
    async with gateway(database, at=at, occurrence=occurrence) as dying:
        await dying.ask(subscribe=[ORG, receiver.url + "/ok"])
        first = await dying.ask(publish=ORG)
        await arrived(receiver, first)
        await _settled(database)
        await dying.ask(publish=ORG)
        assert await dying.died() == -signal.SIGKILL
    second = durable(database)[1]
    # What the first gateway sent, if anything, is all that was sent of it.
    assert receiver.seen[second] == (0 if at is Failpoint.DELIVERY_COMMITTED else 1)
    async with gateway(database) as next_:
        third = await next_.ask(publish=ORG)
        await arrived(receiver, second, third)
        await _settled(database)
    assert receiver.seen == {first: 1, second: times, third: 1}


async def _settled(database: Path, but: int = 0) -> None:
    """Wait until nothing is pending, except so many deliveries."""
    async with asyncio.timeout(30):
        while True:
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                query = "SELECT count(*) FROM deliveries WHERE state = 'pending'"
                if connection.execute(query).fetchone() == (but,):
                    return
            await asyncio.sleep(0.02)


@pytest.mark.timeout(180)
async def test_a_restart_frees_the_leases_of_the_dead_only(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Beside a gateway that lives: the dead one's counter stands still, and its events go out.

    What the living one has under way stays its own, and is sent once.
    """
    database = tmp_path / "g.db"
    async with gateway(database) as living:
        await living.ask(subscribe=["slow", receiver.url + "/hang"])
        await living.ask(subscribe=[ORG, receiver.url + "/ok"])
        waiting = await living.ask(publish="slow")
        await arrived(receiver, waiting)
        first, last = tokens_of(await living.ask(id=True))
        assert all(first <= each <= last for each in _held(database))
        async with gateway(database, at=Failpoint.DELIVERY_COMMITTED) as dying:
            dead = tokens_of(await dying.ask(id=True))
            proving = await dying.ask(publish=ORG)
            await arrived(receiver, proving)
            await _settled(database, but=1)
            await dying.ask(publish=ORG)
            assert await dying.died() == -signal.SIGKILL
        lost = durable(database)[-1]
        assert any(dead[0] <= each <= dead[1] for each in _held(database))
        async with gateway(database):
            await arrived(receiver, lost)
            held = _held(database)
            assert [each for each in held if first <= each <= last]
            assert not [each for each in held if dead[0] <= each <= dead[1]]
    assert receiver.seen[waiting] == 1
    assert receiver.seen[lost] == 1


def _held(database: Path) -> list[int]:
    query = "SELECT lease_token FROM deliveries WHERE state = 'pending' AND lease_token > 0"
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        return [row[0] for row in connection.execute(query)]
