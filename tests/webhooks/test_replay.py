"""Endpoints that fail and heal: disabled, slowed, rotated, recovered; nothing lost on the way."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from standardwebhooks import Webhook

from gateway.adapter import Report, SubStatus
from gateway.config.settings import EngineSettings
from gateway.store import deliveries as rows
from gateway.store import endpoints as endpoint_rows
from gateway.store import events
from gateway.store.database import Query, Row, Tx
from gateway.store.rows import to_us
from gateway.webhooks.replay import NEWEST, STEP_EVENTS, Replays
from gateway.webhooks.replay_worker import ReplayWorker
from gateway.webhooks.subscriptions import EndpointChange
from tests.execution.conftest import Bench
from tests.webhooks.test_worker import delivering, endpoints_of, hook, later, subscribe, until

_DAY = 86_400.0
_STATES = Query(
    text("SELECT state, count(*) AS n FROM deliveries WHERE endpoint_id = :endpoint_id GROUP BY 1")
)
_OF_TYPE = Query(text("SELECT body FROM events WHERE type = :kind ORDER BY position"))
_COPY_EVENTS = Query(
    text("""
        WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
        INSERT INTO events (id, org, mode, type, payout_id, sequence, body, created_at)
        SELECT 'evt_' || i, e.org, e.mode, e.type, e.payout_id, i, e.body, e.created_at
        FROM n, (SELECT * FROM events ORDER BY position DESC LIMIT 1) AS e
    """)
)
_COPY_DELIVERIES = Query(
    text("""
        INSERT INTO deliveries (position, endpoint_id, state, due_at, lease_token, attempts,
            plan_from, settled_at, "trigger")
        SELECT e.position, d.endpoint_id, d.state, d.due_at, d.lease_token, d.attempts,
            d.plan_from, d.settled_at, d."trigger"
        FROM events AS e, (SELECT * FROM deliveries WHERE endpoint_id = :endpoint_id LIMIT 1) AS d
        WHERE e.position <> d.position
    """)
)


async def endpoint(bench: Bench, endpoint_id: str) -> Row:
    """Return an endpoint's row."""
    row = await bench.db.read(endpoint_rows.endpoint_row, endpoint_id)
    assert row is not None
    return row


async def states(bench: Bench, endpoint_id: str) -> dict[str, int]:
    """Return how many deliveries of an endpoint are in which state."""
    return {
        row["state"]: row["n"]
        for row in await bench.db.read(lambda tx: tx.all(_STATES, endpoint_id=endpoint_id))
    }


async def told(bench: Bench, kind: str) -> list[dict[str, Any]]:
    """Return the data of every event of a type."""
    found = await bench.db.read(lambda tx: tx.all(_OF_TYPE, kind=kind))
    return [json.loads(row["body"])["data"] for row in found]


async def wait_for(bench: Bench, endpoint_id: str, expected: dict[str, int]) -> None:
    """Wait until an endpoint's deliveries stand so."""
    async with asyncio.timeout(10):
        while (seen := await states(bench, endpoint_id)) != expected:
            await asyncio.sleep(0.01)
            assert seen is not None


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (410, {}, "gone"),
        (200, {"webhook-delivery": "disable"}, "unwanted"),
        (503, {"Webhook-Delivery": " Disable "}, "unwanted"),
    ],
)
async def test_an_endpoint_that_wants_nothing_more(
    bench: Bench, status: int, headers: dict[str, str], reason: str
) -> None:
    """Disabled at once; what waits is kept as skipped; the org's other endpoint hears of it."""
    async with hook() as ends, hook() as other, delivering(bench) as deliveries:
        ended = await subscribe(bench, ends.url)
        await subscribe(bench, other.url)
        ends.status, ends.headers = status, headers
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(other.tries) == 2)
        row = await endpoint(bench, ended.id)
        assert (row["status"], row["disabled_reason"]) == ("disabled", reason)
        (view,) = await told(bench, "webhook_endpoint.disabled")
        assert (view["id"], view["disabled_reason"], view["status"]) == (
            ended.id,
            reason,
            "disabled",
        )
        assert b"webhook_endpoint.disabled" in other.tries[1][1]
        seen = await states(bench, ended.id)
        assert set(seen) <= {"skipped", "delivered"}
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(other.tries) == 3)
        assert len(ends.tries) == 1


async def test_five_bad_days(bench: Bench) -> None:
    """A warning on the third day, the end on the fifth, both told to the others; enabled again."""
    plan = tuple([_DAY / 2] * 11)
    async with hook() as bad, hook() as good, delivering(bench, plan) as deliveries:
        failing = await subscribe(bench, bad.url)
        await subscribe(bench, good.url)
        bad.status = 500
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(bad.tries) == 1)
        for number in range(2, 13):
            await asyncio.sleep(0.02)
            await later(bench, deliveries, _DAY * 0.61)
            async with asyncio.timeout(10):
                while len(bad.tries) < number:
                    await asyncio.sleep(0.005)
            assert len(bad.tries) == number
            if number < 5:
                assert await told(bench, "webhook_endpoint.failing") == []
        await until(lambda: len(good.tries) == 3)
        assert [view["id"] for view in await told(bench, "webhook_endpoint.failing")] == [
            failing.id
        ]
        row = await endpoint(bench, failing.id)
        assert (row["status"], row["disabled_reason"]) == ("disabled", "failing")
        view, missed_since = await bench.db.run(
            endpoints_of(bench).update, bench.caller, failing.id, EndpointChange(status="enabled")
        )
        assert (view.status, view.disabled_reason, view.failing_since) == ("enabled", None, None)
        assert missed_since is not None
        assert missed_since <= row["disabled_at"] - int(5 * _DAY * 1e6)


async def test_a_success_ends_the_failing(bench: Bench) -> None:
    """What was counted is forgotten."""
    async with hook() as made, delivering(bench) as deliveries:
        made.status = 500
        subscribed = await subscribe(bench, made.url)
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        await asyncio.sleep(0.05)
        assert (await endpoint(bench, subscribed.id))["failing_since"] is not None
        made.status = 200
        await later(bench, deliveries, 10)
        await until(lambda: len(made.tries) == 2)
        await asyncio.sleep(0.05)
        assert (await endpoint(bench, subscribed.id))["failing_since"] is None


@pytest.mark.parametrize(
    ("status", "retry_after", "least", "most"),
    [
        (500, None, 4, 6),
        (500, "1", 4, 6),
        (500, "8", 8, 8),
        (500, "1000000", 8, 12),
        (503, None, 60, 72),
        (429, "90", 90, 90),
        (429, "100000", 120, 144),
        (502, "soon", 60, 72),
        (504, "Mon, 02 Mar 2026 10:01:30 GMT", 89, 90),
    ],
)
async def test_when_the_next_try_is(
    bench: Bench, status: int, retry_after: str | None, least: float, most: float
) -> None:
    """The plan with its jitter; a minute at least for an overload; `Retry-After` up to twice that."""
    async with hook() as made, delivering(bench) as deliveries:
        made.status = status
        made.headers = {} if retry_after is None else {"Retry-After": retry_after}
        subscribed = await subscribe(bench, made.url)
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        row = await _tried(bench, subscribed.id)
        assert least - 0.01 <= (row["next_attempt_at"] - to_us(bench.clock.now())) / 1e6 <= most


async def _tried(bench: Bench, endpoint_id: str) -> Row:
    async with asyncio.timeout(10):
        while True:
            found = await bench.db.read(
                lambda tx: rows.attempt_log(tx, endpoint_id=endpoint_id, before=NEWEST, limit=1)
            )
            if found:
                return found[0]
            await asyncio.sleep(0.01)


async def test_a_secret_is_rotated_between_two_tries(bench: Bench) -> None:
    """The retry verifies with the old secret and with the new one; later with the new one alone."""
    async with hook() as made, delivering(bench) as deliveries:
        made.status = 500
        before = await subscribe(bench, made.url)
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        after = await bench.db.run(endpoints_of(bench).rotate, bench.caller, before.id, 3600)
        assert after.secret != before.secret
        await asyncio.sleep(0.05)
        await later(bench, deliveries, 10)
        await until(lambda: len(made.tries) == 2)
        await asyncio.sleep(0.05)
        await later(bench, deliveries, 4000)
        await until(lambda: len(made.tries) == 3)
        verified = [
            [_verifies(bench, each.secret, headers, body) for each in (before, after)]
            for _, body, headers in made.tries
        ]
        assert verified == [[True, False], [True, True], [False, True]]


def _verifies(bench: Bench, secret: str, headers: dict[str, str], body: bytes) -> bool:
    # The bench's clock is set: the library is asked for the signature, not for the age.
    at = bench.clock.now().fromtimestamp(
        int(headers["webhook-timestamp"]), tz=bench.clock.now().tzinfo
    )
    wanted = Webhook(secret).sign(headers["webhook-id"], at, body.decode())
    return wanted in headers["webhook-signature"].split(" ")


async def test_ten_thousand_that_wait_for_a_disabled_endpoint(bench: Bench) -> None:
    """They are skipped in bounded batches, and come back by a recovery; none is lost."""
    subscribed = await subscribe(bench, "http://127.0.0.1:9/")
    await bench.accept()
    await bench.db.run(_copies, subscribed.id, 10_000)
    use = endpoints_of(bench)
    await bench.db.run(use.update, bench.caller, subscribed.id, EndpointChange(status="disabled"))
    now, batches = to_us(bench.clock.now()), []
    while count := await bench.db.run(rows.skip_deliveries, now, 500):
        batches.append(count)
    assert max(batches) == 500
    assert await states(bench, subscribed.id) == {"skipped": 10_000}
    await bench.clock.advance(10)
    _, missed_since = await bench.db.run(
        use.update, bench.caller, subscribed.id, EndpointChange(status="enabled")
    )
    assert missed_since is not None
    replays = Replays(bench.runtime, use)
    job = await bench.db.run(
        replays.recover,
        bench.caller,
        subscribed.id,
        bench.clock.now() - timedelta(seconds=3600),
        None,
    )
    steps = 0
    # As if the process died after every step: another process goes on where it was written.
    while (await bench.db.run(replays.recovery, bench.caller, subscribed.id, job.id)).state == (
        "running"
    ):
        await bench.db.run(Replays(bench.runtime, use).step, job.id)
        steps += 1
        if steps == 7:
            half = await bench.db.run(replays.recovery, bench.caller, subscribed.id, job.id)
            assert half.events_looked_at == 7 * STEP_EVENTS
    done = await bench.db.run(replays.recovery, bench.caller, subscribed.id, job.id)
    assert (done.events_looked_at, done.events_recovered) == (10_000, 10_000)
    assert await states(bench, subscribed.id) == {"pending": 10_000}


async def _copies(tx: Tx, endpoint_id: str, count: int) -> None:
    """Add events like the last one, with a pending delivery each, until there are so many."""
    await tx.all(_COPY_EVENTS, count=count)
    await tx.all(_COPY_DELIVERIES, endpoint_id=endpoint_id)


async def test_a_recovery_sends_what_waits_for_its_next_try(bench: Bench) -> None:
    """At once, and once; what is waiting, and since when, is told before, and nothing after."""
    async with hook() as made, delivering(bench, plan=(3600,)) as deliveries:
        subscribed = await subscribe(bench, made.url)
        made.status = 500
        since = bench.clock.now()
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        await asyncio.sleep(0.05)
        [waits] = await bench.db.read(rows.waiting_of, [subscribed.id])
        assert (waits["waiting"], waits["since"]) == (1, to_us(since))
        made.status = 200
        await bench.clock.advance(1)
        replays = Replays(bench.runtime, endpoints_of(bench))
        job = await bench.db.run(replays.recover, bench.caller, subscribed.id, since, None)
        assert await bench.db.run(replays.step, job.id) == 1
        # A second recovery finds it due, and leaves it alone.
        again = await bench.db.run(replays.recover, bench.caller, subscribed.id, since, None)
        assert await bench.db.run(replays.step, again.id) == 0
        deliveries.wakeup.ring()
        await wait_for(bench, subscribed.id, {"delivered": 1})
        assert len(made.tries) == 2
        assert made.tries[0][1] == made.tries[1][1]
        assert await bench.db.read(rows.waiting_of, [subscribed.id]) == []


async def test_the_body_of_a_webhook_has_the_id_of_its_event(bench: Bench) -> None:
    """As its first member, the same as in the header."""
    async with hook() as made, delivering(bench) as deliveries:
        await subscribe(bench, made.url)
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        _, body, headers = made.tries[0]
        members = json.loads(body)
        assert next(iter(members)) == "id"
        assert members["id"] == headers["webhook-id"]
        assert "test" not in members


async def test_a_recovery_runs_by_itself(bench: Bench) -> None:
    """What was given up arrives again with the same id and bytes; what arrived does not."""
    async with hook() as made, delivering(bench, plan=(5,)) as deliveries:
        subscribed = await subscribe(bench, made.url)
        since = bench.clock.now()
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        made.status = 500
        await later(bench, deliveries, 1)
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 2)
        await asyncio.sleep(0.05)
        await later(bench, deliveries, 10)
        await until(lambda: len(made.tries) == 3)
        await wait_for(bench, subscribed.id, {"delivered": 1, "exhausted": 1})
        made.status = 200
        replays = Replays(bench.runtime, endpoints_of(bench))
        await later(bench, deliveries, 1)
        await bench.db.run(replays.recover, bench.caller, subscribed.id, since, None)
        loop = ReplayWorker(
            db=bench.db,
            runtime=bench.runtime,
            replays=replays,
            engine=EngineSettings(idle_s=3600),
            wake=lambda _: deliveries.wakeup.ring(),
        )
        task = asyncio.create_task(loop.run())
        await until(lambda: len(made.tries) == 4)
        task.cancel()
        assert made.tries[3][:2] == made.tries[1][:2]
        await wait_for(bench, subscribed.id, {"delivered": 2})


async def test_a_resend_begins_the_plan_anew(bench: Bench) -> None:
    """Also of what arrived. Its success ends the tries; the log says why there was one."""
    async with hook() as made, delivering(bench, plan=(5,)) as deliveries:
        subscribed = await subscribe(bench, made.url)
        payout_id = await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        await wait_for(bench, subscribed.id, {"delivered": 1})
        (event,) = await bench.db.read(events.events_of, payout_id)
        replays = Replays(bench.runtime, endpoints_of(bench))
        made.status = 500
        resent = await bench.db.run(replays.resend, bench.caller, event["id"], None)
        assert resent.endpoint_ids == [subscribed.id]
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 2)
        await wait_for(bench, subscribed.id, {"pending": 1})
        made.status = 200
        await asyncio.sleep(0.05)
        await later(bench, deliveries, 10)
        await until(lambda: len(made.tries) == 3)
        await wait_for(bench, subscribed.id, {"delivered": 1})
        log = await bench.db.read(
            lambda tx: rows.attempt_log(tx, endpoint_id=subscribed.id, before=NEWEST, limit=9)
        )
        assert [(row["trigger"], row["attempt"]) for row in reversed(log)] == [
            ("scheduled", 1),
            ("manual", 2),
            ("scheduled", 3),
        ]


@pytest.mark.parametrize("hours", [1, -1, 24 * 365])
async def test_the_wall_clock_is_set(bench: Bench, hours: int) -> None:
    """Forward or back: no try comes early, none is stalled. Only what is signed and shown changes."""
    async with hook() as made, delivering(bench, plan=(300, 300, 300)) as deliveries:
        made.status = 500
        subscribed = await subscribe(bench, made.url)
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        await _tried(bench, subscribed.id)
        bench.clock.step(hours * 3600)
        await later(bench, deliveries, 200)
        await asyncio.sleep(0.05)
        assert len(made.tries) == 1
        made.status = 200
        await later(bench, deliveries, 200)
        await until(lambda: len(made.tries) == 2)
        await wait_for(bench, subscribed.id, {"delivered": 1})
        signed = [int(headers["webhook-timestamp"]) for _, _, headers in made.tries]
        assert signed[1] - signed[0] == hours * 3600 + 400


async def test_old_events_go_and_unresolved_ones_stay(bench: Bench) -> None:
    """Of a payout that has ended, with nothing pending; in bounded batches."""
    async with hook() as made, delivering(bench, plan=(5,)) as deliveries:
        subscribed = await subscribe(bench, made.url)
        done, open_ = await bench.accept(), await bench.accept()
        await bench.db.run(bench.payouts.apply, done, Report(SubStatus.DELIVERED, "COMPLETED"))
        deliveries.wakeup.ring()
        await wait_for(bench, subscribed.id, {"delivered": 4})
        made.status = 500
        waiting = await bench.accept()
        await bench.db.run(bench.payouts.apply, waiting, Report(SubStatus.DELIVERED, "COMPLETED"))
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) >= 5)
        await wait_for(bench, subscribed.id, {"delivered": 4, "pending": 3})
    later_on = to_us(bench.clock.now() + timedelta(days=365))
    found = await bench.db.scan(rows.old_events, later_on, 100)
    assert await bench.db.run(rows.purge_events, found[:1], later_on) == 1
    assert await bench.db.run(rows.purge_events, found, later_on) == 2
    assert await bench.db.scan(rows.old_events, later_on, 100) == []
    assert await bench.events(done) == []
    assert len(await bench.events(open_)) == 1
    assert len(await bench.events(waiting)) == 3
    tried = await bench.db.scan(rows.old_attempts, later_on, 100)
    assert len(tried) == 1
    await bench.db.run(rows.purge_attempts, tried, later_on)
    assert await bench.db.scan(rows.old_attempts, later_on, 100) == []


async def test_a_disabled_endpoint_is_not_tried_by_a_claim_of_before(bench: Bench) -> None:
    """It is looked at again before each try, within a second."""
    async with hook() as made, delivering(bench) as deliveries:
        made.status = 500
        subscribed = await subscribe(bench, made.url)
        await bench.accept()
        deliveries.wakeup.ring()
        await until(lambda: len(made.tries) == 1)
        await bench.db.run(
            endpoints_of(bench).update,
            bench.caller,
            subscribed.id,
            EndpointChange(status="disabled"),
        )
        await asyncio.sleep(0.05)
        await later(bench, deliveries, 10)
        await asyncio.sleep(0.1)
        assert len(made.tries) == 1
