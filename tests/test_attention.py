"""The operator's list: what opens a row, what closes it, and who is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from gateway.adapter import NotSent, OutcomeUnknown, Report, SubStatus
from gateway.attention import acknowledge, tell
from gateway.config.settings import Settings
from gateway.errors import CredentialsRefused
from gateway.events import subscribes
from gateway.execution.record import Recorded
from gateway.execution.state import Job
from gateway.keys import KeyTerms, Scope, mint_key
from gateway.metrics import Metrics
from gateway.model import Attention
from gateway.store import attention as rows
from gateway.store.account_turns import acquire_account
from gateway.store.audit import Act, newest_acts
from gateway.store.database import Query, Tx
from gateway.store.executions import open_execution_of
from gateway.store.payouts import add_attention, attention_counts, attention_list, attention_of
from gateway.store.schema import deliveries, events
from gateway.story import tell as story_of
from gateway.sweeper import Sweeper
from tests.api.conftest import Api, open_api
from tests.execution.conftest import Bench, bench, empty_database
from tests.execution.script import DONE, TAKEN, Desk, raises
from tests.execution.test_engine import CAN

__all__ = ["bench", "empty_database"]

BY = Act("ann")


@pytest.fixture
def capabilities() -> Any:
    """What the custodian can do."""
    return replace(CAN, one_at_a_time=True)


def sweeper(bench: Bench, *, configured: bool = True) -> Sweeper:
    """Return what closes rows and publishes them."""
    settings = Settings(server_key=SecretStr("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="))
    return Sweeper(
        db=bench.db,
        runtime=bench.runtime,
        settings=settings.engine,
        metrics=Metrics(),
        wake=lambda _: None,
        webhooks=settings.webhooks,
        retention=settings.retention,
        recorders={"acme": bench.recorder} if configured else {},
    )


async def note(bench: Bench, payout_id: str, code: Attention, detail: str = "d") -> None:
    """Put a payout on the list."""
    now = bench.clock.moment().wall
    await bench.db.run(add_attention, payout_id, code, detail, now)


async def open_codes(bench: Bench) -> list[str]:
    """Return the codes that are open."""
    return sorted(row["code"] for row in await bench.db.read(attention_list, 100))


async def test_a_custodian_that_answers_again_closes_its_row(bench: Bench) -> None:
    """And the gauge goes down: an alert on it can resolve. If it fails again, the row opens again."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.moves = [raises(NotSent("no route to host"))], False
    await desk.turns(6, 30)
    made = sweeper(bench)
    await made.sweep()
    assert await open_codes(bench) == ["custodian_unreachable"]
    assert 'payout_gateway_attention{code="custodian_unreachable"} 1.0' in _gauges(made)
    desk.script.submits, desk.script.moves, desk.script.looks = [TAKEN], True, [TAKEN]
    await desk.turns(1, 60)
    await made.sweep()
    assert await open_codes(bench) == []
    assert 'payout_gateway_attention{code="custodian_unreachable"} 0.0' in _gauges(made)
    desk.script.looks = [raises(NotSent("no route to host"))]
    await desk.turns(6, 60)
    await made.sweep()
    assert await open_codes(bench) == ["custodian_unreachable"]
    (row,) = await bench.db.read(attention_of, desk.ids[0])
    assert (row["closed_at"], row["closed_by"]) == (None, None)


async def test_a_call_of_unknown_outcome_closes_nothing(bench: Bench) -> None:
    """The custodian may not have answered: the row stays open, and so does the count of failures."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.moves = [raises(NotSent("no route to host"))], False
    await desk.turns(6, 30)
    desk.script.submits, desk.script.moves = [raises(OutcomeUnknown("no reply"))], True
    await desk.turns(1, 60)
    assert (await desk.row())["state"] == "unknown"
    await sweeper(bench).sweep()
    assert await open_codes(bench) == ["custodian_unreachable"]


async def test_credentials_that_are_accepted_again_close_their_row_at_once(bench: Bench) -> None:
    """In the transaction that records the answer: nobody waits for the next sweep."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.moves = [raises(CredentialsRefused("HTTP 401"))], False
    await desk.turns(2, 30)
    assert await open_codes(bench) == ["credentials_refused"]
    desk.script.submits, desk.script.moves, desk.script.looks = [TAKEN], True, [TAKEN]
    await desk.turns(1, 600)
    assert await open_codes(bench) == []
    (row,) = await bench.db.read(attention_of, desk.ids[0])
    assert row["closed_by"] == "gateway"


async def test_a_takeover_is_no_answer(bench: Bench) -> None:
    """The worker died at the mark: nothing succeeded, and the operator's row stays open until something does."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.moves = [raises(CredentialsRefused("HTTP 401"))], False
    await desk.turns(2, 30)
    assert await open_codes(bench) == ["credentials_refused"]
    await bench.clock.advance(600)
    (job,) = await desk.claim()
    assert isinstance(job, Job)
    await desk.script.move(desk.engine.order(job))
    await bench.clock.advance(600)
    (taken,) = await desk.claim(desk.new_engine("another"))
    assert isinstance(taken, Recorded)
    assert taken.decision is not None
    assert (await desk.row())["failures"] == 2
    assert await open_codes(bench) == ["credentials_refused"]
    # What it then looks up is an answer.
    desk.script.looks = [TAKEN]
    await desk.turns(1, 60)
    assert await open_codes(bench) == []


def _gauges(made: Sweeper) -> str:
    return made._metrics.render()[0].decode()


async def test_the_end_of_a_payout_closes_what_was_about_its_progress(bench: Bench) -> None:
    """What a person has to find out stays: a mismatch, a contradiction, money that came back."""
    desk = Desk(bench)
    await desk.open(1)
    desk.script.submits, desk.script.looks = [TAKEN], [DONE]
    for code in Attention:
        await note(bench, desk.ids[0], code)
    await bench.clock.advance(1)
    await desk.turn()
    await desk.turns(1, 60)
    assert await desk.stand() == ["delivered"]
    await sweeper(bench, configured=False).sweep()
    assert await open_codes(bench) == sorted(
        {
            "unknown_word",
            "mismatch",
            "contradiction",
            "foreign_ref",
            "adapter_error",
            "early_news",
            "late_news",
            "returned",
            "return_mismatch",
        }
    )
    # A look in vain after the end is not over with it.
    await bench.clock.advance(1)
    await note(bench, desk.ids[0], Attention.CANNOT_LOOK, "later")
    await sweeper(bench).sweep()
    assert "cannot_look" in await open_codes(bench)


async def test_a_custodian_that_is_configured_again_closes_its_row(bench: Bench) -> None:
    """Only its own."""
    payout_id = await bench.accept()
    await note(bench, payout_id, Attention.CUSTODIAN_REMOVED)
    await sweeper(bench, configured=False).sweep()
    assert await open_codes(bench) == ["custodian_removed"]
    await sweeper(bench).sweep()
    assert await open_codes(bench) == []


async def test_what_is_acknowledged_stays_so(bench: Bench) -> None:
    """However often the same is noted again; anything new is open. The act is in the log."""
    payout_id = await bench.accept()
    for code in (Attention.MISMATCH, Attention.UNKNOWN_WORD):
        await note(bench, payout_id, code)
    closed = await bench.db.run(
        acknowledge, bench.runtime, payout_id, "mismatch", "the fee of the bank", BY
    )
    assert closed is not None
    assert [row["code"] for row in closed] == ["mismatch"]
    await note(bench, payout_id, Attention.MISMATCH)
    assert await open_codes(bench) == ["unknown_word"]
    await note(bench, payout_id, Attention.MISMATCH, "another amount")
    assert await open_codes(bench) == ["mismatch", "unknown_word"]
    closed = await bench.db.run(acknowledge, bench.runtime, payout_id, None, "all seen", BY)
    assert closed is not None
    assert len(closed) == 2
    assert await bench.db.run(acknowledge, bench.runtime, payout_id, None, "again", BY) == []
    assert await bench.db.run(acknowledge, bench.runtime, "pay_none", None, "x", BY) is None
    assert await bench.db.read(attention_counts) == []
    acts = [
        (row["act"], row["detail"], json.loads(row["after"])["codes"])
        for row in await bench.db.read(newest_acts, 2)
    ]
    assert acts == [
        ("attention_acknowledged", "all seen", ["mismatch", "unknown_word"]),
        ("attention_acknowledged", "the fee of the bank", ["mismatch"]),
    ]
    row = max(await bench.db.read(attention_of, payout_id), key=lambda each: each["times"])
    assert (row["times"], row["closed_by"]) == (2, "ann")


async def test_a_queued_payout_names_the_one_before_it(bench: Bench) -> None:
    """As it is now, for the operator."""
    first, second = await bench.accept(), await bench.accept()
    await bench.claim()
    story = await bench.db.read(story_of, second)
    assert story is not None
    assert story["payout"]["sub_status"] == "queued"
    assert story["queued_behind"] == first
    holder = await bench.db.read(story_of, first)
    assert holder is not None
    assert holder["queued_behind"] is None


# --- Over HTTP, and for subscribers ----------------------------------------------------------------


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A running API."""
    account = {"id": "A1", "type": "VAULT"}
    settings = Settings.model_validate(
        {
            "database": tmp_path / "api.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "custodians": {"acme_eu": {"adapter": "acme", "modes": ["live", "test"]}},
            "routes": [
                {"destination": "custodian_account", "custodian": "acme_eu", "account": account}
            ],
            "accounts": {"acme_eu": [account]},
        }
    )
    async with open_api(settings) as made:
        yield made


async def _note(api: Api, payout: dict[str, Any], code: str, detail: str) -> None:
    await api.context.db.run(add_attention, payout["id"], code, detail, 1_000_000)


async def test_an_org_sees_its_own_without_details(api: Api) -> None:
    """The operator sees all of the mode of the key; closed rows only where they are asked for."""
    mine, theirs = await api.pay(), await api.pay(org="other")
    await _note(api, mine, "mismatch", f"id 7 already belongs to {theirs['id']}")
    await _note(api, theirs, "unknown_word", "LATER")
    status, found = await api.call("GET", "/attention")
    assert (status, [(each["payout_id"], each["detail"]) for each in found["data"]]) == (
        200,
        [(mine["id"], None)],
    )
    terms = KeyTerms(scopes=(Scope.PAYOUTS_OPERATE,))
    minted = await api.context.db.run(mint_key, api.context.runtime, None, "live", terms)
    by = f"Bearer {minted.key}"
    first = (await api.call("GET", "/attention?limit=1", authorization=by))[1]
    assert first["has_more"]
    path = f"/attention?limit=1&cursor={first['next_cursor']}"
    second = (await api.call("GET", path, authorization=by))[1]
    both = [*first["data"], *second["data"]]
    assert {each["payout_id"] for each in both} == {mine["id"], theirs["id"]}
    assert all(each["detail"] for each in both)
    assert not second["has_more"]
    path = "/attention?code=unknown_word"
    assert len((await api.call("GET", path, authorization=by))[1]["data"]) == 1
    await api.context.db.run(acknowledge, api.context.runtime, mine["id"], None, "seen", BY)
    assert (await api.call("GET", "/attention"))[1]["data"] == []
    (closed,) = (await api.call("GET", "/attention?state=all"))[1]["data"]
    assert (closed["closed_by"], closed["closed_at"] is not None) == ("operator", True)
    for path in ("/attention?code=none", "/attention?state=closed", "/attention?org=other"):
        assert (await api.problem("GET", path))["code"] == "invalid_request"


async def test_only_endpoints_that_name_it_are_told(api: Api) -> None:
    """Once per row, with the payout's next number; nothing of the detail. Without one: no event."""
    payout = await api.pay()
    await _note(api, payout, "mismatch", "secret words")

    async def told() -> bool:
        return await api.context.db.run(
            tell, api.context.runtime, payout["id"], "mismatch", "secret words"
        )

    for types in ([], ["payout.*"], ["*"]):
        body = {"url": "https://hooks.example.com/a", "event_types": types}
        await api.call(
            "POST", "/webhook-endpoints", body=body, idempotency_key=str(types)[:9] + "k"
        )
    assert not await told()
    await api.context.db.run(add_attention, payout["id"], "unknown_word", "secret words", 2_000_000)
    body = {
        "url": "https://hooks.example.com/b",
        "event_types": ["payout.attention", "payout.failed"],
    }
    status, asked = await api.call("POST", "/webhook-endpoints", body=body, idempotency_key="b")
    assert status == 201
    (row,) = await api.context.db.read(rows.untold, 10)
    names = row["payout_id"], row["code"], row["detail"]
    assert await api.context.db.run(tell, api.context.runtime, *names)
    assert not await api.context.db.run(tell, api.context.runtime, *names)
    (event,) = [
        each
        for each in (await api.call("GET", "/events?limit=50"))[1]["data"]
        if each["type"] == "payout.attention"
    ]
    assert (event["data"]["sequence"], event["data"]["attention"]["code"]) == (2, "unknown_word")
    assert "secret words" not in json.dumps(event)
    assert event["data"]["previous_status"] == event["data"]["status"] == "pending"
    attempts = await api.call("GET", f"/events/{event['id']}/attempts")
    assert attempts[0] == 200
    async with api.http.get(api.url + "/healthz"):
        pass
    found = await api.context.db.read(_deliveries)
    assert [each["endpoint_id"] for each in found if each["type"] == "payout.attention"] == [
        asked["id"]
    ]


async def _deliveries(tx: Tx) -> list[Any]:
    wanted = select(events.c.type, deliveries.c.endpoint_id).join(
        events, events.c.position == deliveries.c.position
    )
    return list(await tx.all(Query(wanted)))


def test_who_asks_for_it() -> None:
    """By its name alone."""
    assert subscribes(["payout.attention"], "payout.attention")
    for patterns in ([], ["*"], ["payout.*"]):
        assert not subscribes(patterns, "payout.attention")
        assert subscribes(patterns, "payout.failed")


async def test_payouts_by_sub_status(api: Api) -> None:
    """A filter of the list, with its words; a queued payout names the one before it, of the same org."""
    await api.pay()
    assert len((await api.call("GET", "/payouts?sub_status=created"))[1]["data"]) == 1
    assert (await api.call("GET", "/payouts?sub_status=queued"))[1]["data"] == []
    problem = await api.problem("GET", "/payouts?sub_status=waiting")
    assert "is one of" in problem["detail"]


@pytest.mark.parametrize("org", ["acme", "other"])
async def test_a_queued_payout_over_http(api: Api, org: str) -> None:
    """Another org's payout is not named."""
    holder, mine = await api.pay(org=org), await api.pay()
    db = api.context.db
    execution = await db.read(open_execution_of, holder["id"])
    assert execution is not None
    await db.run(acquire_account, "acme_eu", "VAULT", "A1", execution["id"], 1)
    queued = Report(SubStatus.QUEUED, "")
    await db.run(api.context.payouts.apply, mine["id"], queued)
    shown = (await api.call("GET", f"/payouts/{mine['id']}"))[1]
    assert shown["queued_behind"] == (holder["id"] if org == "acme" else None)


@pytest.mark.both_stores
async def test_open_payouts_are_gauges(bench: Bench) -> None:
    """By state, with the age of the oldest; what has ended, and a state that nobody is in, is gone."""
    desk = Desk(bench)
    await desk.open(3)
    made = sweeper(bench)
    await made.sweep()
    gauge = 'payout_gateway_open_payouts{custodian="acme",mode="live",status="pending"'
    first = [line for line in _gauges(made).splitlines() if line.startswith(gauge)]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in first) == 3.0
    desk.script.submits, desk.script.looks = [TAKEN], [DONE]
    await desk.turns(12, 30)
    await made.sweep()
    left = [line for line in _gauges(made).splitlines() if line.startswith(gauge)]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in left) < 3.0
    oldest = gauge.replace("open_payouts", "open_payouts_oldest_seconds")
    ages = [line for line in _gauges(made).splitlines() if line.startswith(oldest)]
    assert len(ages) == len(left)
    assert all(float(line.rsplit(" ", 1)[1]) > 300 for line in ages)
    measured = float(
        _gauges(made).split("\npayout_gateway_measured_timestamp_seconds ")[1].split("\n")[0]
    )
    assert abs(measured - bench.runtime.clock.now().timestamp()) < 1
