"""The rules that guard money: a gateway that goes by others sets no marks until they are activated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.api.health import _ready
from gateway.app import open_gateway
from gateway.config.settings import Settings
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.state import Verb
from gateway.rules import OTHER_RULES, OwnRules, changes, rules_document
from gateway.store.audit import newest_acts
from gateway.store.rules import activate, active_rules, begin_with
from gateway.store.state import state_row
from tests.cli.test_commands import run
from tests.databases import make_database
from tests.execution.conftest import Bench, bench, capabilities, empty_database
from tests.execution.script import DONE, TAKEN, Desk

__all__ = ["bench", "capabilities", "empty_database"]

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
DUMMY = {
    "adapter": "dummy",
    "base_url": "http://127.0.0.1:1",
    "api_key": "SECRET-KEY",
    "webhook_secret": "SECRET-HOOK",
}
ROUTE = {"destination": "address", "custodian": "dummy", "account": {"id": "A", "type": "ACCOUNT"}}


def settings(database: Path = Path("g.db"), **changed: Any) -> Settings:
    """Return a configuration."""
    whole = {
        "database": database,
        "server_key": KEY,
        "custodians": {"dummy": DUMMY},
        "routes": [ROUTE],
    }
    return Settings.model_validate({**whole, **changed})


def test_what_the_digest_is_made_of() -> None:
    """Limits, prices, routes in their order, accounts, modes; not credentials, addresses or rates."""
    plain = OwnRules(settings())
    other = {"id": "B", "type": "ACCOUNT"}
    second = {**ROUTE, "account": other}
    different: tuple[dict[str, Any], ...] = (
        {"spending": {"payout_cap_usd": "5"}},
        {"prices": {"usd": {"ETH": "3000"}}},
        {"routes": [second]},
        {"routes": [second, ROUTE]},
        {"accounts": {"dummy": [other]}},
        {"custodians": {"dummy": {**DUMMY, "modes": ["live", "test"]}}},
        {"engine": {"submit_within_s": 60}},
    )
    for changed in different:
        assert OwnRules(settings(**changed)).digest != plain.digest, changed
    both = [OwnRules(settings(routes=each)).digest for each in ([ROUTE, second], [second, ROUTE])]
    assert both[0] != both[1]
    alike: tuple[dict[str, Any], ...] = (
        {"custodians": {"dummy": {**DUMMY, "api_key": "other", "base_url": "http://other:1"}}},
        {"limits": {"reads_per_s": 5}},
        {"public_url": "https://other.example"},
    )
    for same in alike:
        assert OwnRules(settings(**same)).digest == plain.digest, same
    assert "SECRET" not in plain.text
    assert KEY not in plain.text


def test_what_differs_is_named() -> None:
    """A line per value."""
    before = rules_document(settings())
    after = rules_document(settings(spending={"payout_cap_usd": "5"}, routes=[ROUTE, ROUTE]))
    lines = changes(before, after)
    assert 'spending.payout_cap_usd: "100000" -> "5"' in lines
    assert any(line.startswith("routes.1: nothing -> ") for line in lines)
    assert changes(before, before) == []


def test_routes_are_compared_by_content() -> None:
    """A route that is removed changes none of the others; a name tells which one differs."""
    one, two, three = ({"name": each, "custodian": each} for each in ("one", "two", "three"))
    every = {"routes": [one, two, three]}
    (removed,) = changes(every, {"routes": [two, three]})
    assert removed.startswith("routes.one: {")
    assert removed.endswith(" -> nothing")
    (added,) = changes({"routes": [two, three]}, every)
    assert added.startswith("routes.one: nothing -> ")
    changed = {**three, "custodian": "red"}
    lines = changes(every, {"routes": [two, changed]})
    assert lines[1:] == ['routes.three.custodian: "three" -> "red"']
    assert lines[0].startswith("routes.one: {")
    assert changes(every, {"routes": [changed, one, two]}) == [
        "routes: in another order",
        'routes.three.custodian: "three" -> "red"',
    ]
    plain = [{"custodian": each} for each in ("red", "blue", "green")]
    assert changes({"routes": plain}, {"routes": plain[1:]}) == [
        'routes.0: {"custodian": "red"} -> nothing'
    ]
    edited = [plain[0], {"custodian": "grey"}, plain[2]]
    assert changes({"routes": plain}, {"routes": edited}) == [
        'routes.1.custodian: "blue" -> "grey"'
    ]


@pytest.fixture
async def desk(bench: Bench) -> Desk:
    """A payout, and a gateway whose rules are the active ones."""
    made = Desk(bench)
    await made.open(1)
    made.script.submits, made.script.looks = [TAKEN], [DONE]
    return made


async def make_active(bench: Bench, rules: OwnRules) -> None:
    """Activate rules."""
    at = bench.clock.moment().wall
    await bench.db.run(activate, bench.runtime.ids, at, rules.digest, rules.text, "ann", "why")


async def test_a_mark_by_other_rules_is_refused(desk: Desk) -> None:
    """The gate looks in its own transaction, whatever the process believes."""
    bench, own, other = desk.bench, OwnRules(settings()), OwnRules(settings(routes=[]))
    job = await bench.begin()
    order = bench.order(job)
    order._rules = own.digest
    await make_active(bench, other)
    with pytest.raises(MarkRefused) as refused:
        await order.moving()
    assert refused.value.refusal is Refusal.RULES
    await bench.record(job, Verb.SUBMIT, refused.value, order=order)
    row = await bench.execution(desk.ids[0])
    assert (row["failures"], row["state"]) == (0, "prepared")
    await make_active(bench, own)
    await bench.clock.advance(60)
    order = bench.order(await bench.begin())
    order._rules = own.digest
    await order.moving()


async def test_a_gateway_with_other_rules_only_looks(desk: Desk) -> None:
    """It leaves what is to be sent to a gateway that has them, and follows what was sent."""
    bench, own = desk.bench, OwnRules(settings())
    stale = desk.new_engine("stale")
    stale._rules = own
    own.note("another digest")
    assert not await desk.turn(stale)
    assert await desk.turn()
    await bench.clock.advance(60)
    assert await desk.turn(stale)
    assert await desk.stand() == ["delivered"]


async def test_the_first_gateway_needs_no_command(bench: Bench) -> None:
    """Later ones with other rules do not change what is active."""
    own, other = OwnRules(settings()), OwnRules(settings(routes=[]))
    at = bench.clock.moment().wall
    for rules in (own, other, own):
        names = at, rules.digest, rules.text
        assert await bench.db.run(begin_with, bench.runtime.ids, *names) == own.digest
    acts = await bench.db.read(newest_acts, 9)
    assert [(row["act"], row["actor"]) for row in acts] == [("rules_activated", "gateway")]
    row = await bench.db.read(active_rules)
    assert row is not None
    assert json.loads(row["document"]) == rules_document(settings())


async def test_two_gateways_with_different_rules(tmp_path: Path) -> None:
    """The second says so in `/readyz` and sets no marks, until its rules are activated; then the first."""
    database = make_database(tmp_path / "g.db")
    plain, changed = settings(database), settings(database, spending={"payout_cap_usd": "5"})
    async with open_gateway(plain) as first, open_gateway(changed) as second:

        async def says(gateway: Any) -> Any:
            return _ready(gateway.context, await gateway.db.read(state_row))

        def moves(gateway: Any) -> bool:
            return bool(gateway.workers.engines["dummy"]._moves)

        assert (await says(first))["marks"] is True
        body = await says(second)
        assert (body["marks"], body["status"]) == (OTHER_RULES, "ready")
        assert not moves(second)
        rules, runtime = second.context.rules, second.context.runtime
        assert rules is not None
        names = 0, rules.digest, rules.text, "ann", "a lower cap"
        assert await second.db.run(activate, runtime.ids, *names)
        assert not await second.db.run(activate, runtime.ids, *names)
        assert (await says(second))["marks"] is True
        assert (await says(first))["marks"] == OTHER_RULES
        for each in (first, second):
            await each.workers.heartbeat.start()
        assert moves(second)
        assert not moves(first)
        metrics = first.context.metrics.render()[0].decode()
        assert "payout_gateway_marks_allowed 0.0" in metrics


def test_the_command(tmp_path: Path) -> None:
    """`rules show` names what differs, `rules activate` makes it so and writes it to the log."""
    config = tmp_path / "g.toml"
    text = f'server_key = "{KEY}"\ndatabase = "g.db"\n'
    config.write_text(text)
    run("db", "upgrade", "--config", config)
    assert "none so far" in run("rules", "show", "--config", config)
    why = ("--reason", "first", "--config", config)
    assert "is active" in run("rules", "activate", *why)
    assert "is active already" in run("rules", "activate", *why)
    config.write_text(text + '[spending]\npayout_cap_usd = "5"\n')
    said = run("rules", "show", "--config", config)
    assert 'spending.payout_cap_usd: "100000" -> "5"' in said
    told = json.loads(run("rules", "activate", "--reason", "less", "--json", "--config", config))
    assert told["activated"]
    assert told["own"] != told["active"]
    assert "(the same)" in run("rules", "show", "--config", config)
    assert run("audit", "list", "--config", config, "--json").count("rules_activated") == 2
    run("rules", "activate", "--reason", " ", "--config", config, code=2)
