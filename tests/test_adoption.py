"""`db adopt`: every open payout counts as handed over, and nothing is let in by itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gateway import adoption
from gateway.adapter import Capabilities
from gateway.adoption import Adoption, NotAdoptedError, accept_again, move
from gateway.config.settings import Settings
from gateway.execution.proof import NO_ACCOUNT
from gateway.payouts import Payouts
from gateway.runtime import Runtime
from gateway.store import state
from gateway.store.database import Database, Query, Tx
from gateway.store.opening import compare, open_database, state_file_of
from gateway.store.rows import to_json
from gateway.store.rules import begin_with
from gateway.store.schema import batches, quotes
from gateway.store.state_file import StateFile
from gateway.vault import Vault
from tests.clock import SetClock
from tests.databases import make_database
from tests.store.rows import add_execution, add_payout, runtime_of

US = 1_000_000
CAN = Capabilities(frozenset(), call_life_s=60, visibility_s=30, absence_looks=4)


class Acme:
    """A custodian instance."""

    def __init__(self, capabilities: Capabilities = CAN) -> None:
        self.capabilities = capabilities


class Store:
    """An open database, and what an adoption needs around it."""

    def __init__(self, db: Database, runtime: Runtime, clock: SetClock, file: StateFile) -> None:
        self.db = db
        self.runtime = runtime
        self.clock = clock
        self.state_file = file

    def adoption(
        self, capabilities: Capabilities = CAN, left: frozenset[str] = frozenset()
    ) -> Adoption:
        """Return one run of the command. `left`: custodians that payouts may have gone on from."""
        return Adoption(
            db=self.db,
            runtime=self.runtime,
            payouts=Payouts(self.runtime, Vault(bytes(32), self.runtime.ids)),
            custodians={"acme": Acme(capabilities)},
            state_file=self.state_file,
            operator="root",
            left=left,
        )

    def now(self) -> int:
        """Return the wall clock."""
        return self.clock.moment().wall

    async def rows(self, text: str) -> list[dict[str, Any]]:
        """Run a query on the file."""
        with closing(sqlite3.connect(self.db._path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(text)]

    async def sets_back(self, marks: int) -> None:
        """Make the database an older copy: its state file knows more marks."""
        self.state_file.rewrite(marks)
        assert (await compare(self.db, self.runtime, self.state_file))["frozen"] is not None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A configuration with nothing but a database."""
    return Settings.model_validate(
        {
            "database": tmp_path / "g.db",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        }
    )


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    """An open store."""
    clock = SetClock()
    runtime = runtime_of(clock)
    state_file = state_file_of(settings, runtime)
    make_database(settings.database)
    async with open_database(settings, runtime, state_file) as db:
        yield Store(db, runtime, clock, state_file)


async def add_quote(
    tx: Tx, name: str, expires_at: int, payout_id: str | None = None, created_at: int = 0
) -> None:
    """Store function: add a quote."""
    values = {
        "id": name,
        "org": "acme",
        "mode": "live",
        "external_ref": "u",
        "reference": None,
        "metadata": "{}",
        "terms": "{}",
        "account": "{}",
        "expires_at": expires_at,
        "created_at": created_at,
        "decision": None,
        "payout_id": payout_id,
    }
    await tx.all(Query(insert(quotes)), **values)


async def add_batch(
    tx: Tx, name: str, batch_state: str, items: int, executed_at: int | None
) -> None:
    """Store function: add a batch."""
    values: dict[str, object] = {
        column.name: None if column.nullable else 0 for column in batches.columns
    } | {
        "id": name,
        "org": "acme",
        "mode": "live",
        "custodian": "acme",
        "account": '{"id": "A", "type": "VAULT"}',
        "init_method": "api",
        "metadata": "{}",
        "state": batch_state,
        "items": items,
        "worked_off": -1,
        "expires_at": 2**60,
        "executed_at": executed_at,
    }
    await tx.all(Query(insert(batches)), **values)


@pytest.mark.parametrize(
    ("by_keys", "left", "active"),
    [(True, (), "never"), (False, (), None), (True, ("acme",), None), (True, (), "on_refusal")],
    ids=[
        "by our keys",
        "by ids",
        "by our keys, and it may have gone on elsewhere",
        "by our keys, and it may have gone on elsewhere, as was configured then",
    ],
)
async def test_every_open_execution_gets_a_call_of_unknown_outcome(
    store: Store, left: tuple[str, ...], active: str | None, *, by_keys: bool
) -> None:
    """Made now; its worker loses the lease; it is due.

    At the account that is configured only where looks there find a call that this copy does not know
    of. Elsewhere no absence rules it out, whatever is remembered, and an operator hears of it.
    """
    finds = by_keys and not left and active != "on_refusal"
    if active is not None:
        rules = to_json({"routes": [{"custodian": "acme", "failover": active}, {"custodian": "x"}]})
        await store.db.run(begin_with, store.runtime.ids, store.now(), "then", rules)
    at = store.clock.moment()
    paying, fresh, over = [await store.db.run(add_payout) for _ in range(3)]
    sent = await store.db.run(add_execution, paying, notes='{"id": "x"}', calls=(3, 4), at=at)
    new = await store.db.run(add_execution, fresh, at=at)
    ended = await store.db.run(add_execution, over, calls=(2,), at=at)
    with closing(sqlite3.connect(store.db._path)) as connection:
        connection.execute("UPDATE store_state SET marks = 4")
        connection.execute("UPDATE executions SET ended_at = 1 WHERE id = ?", (ended,))
        connection.execute("UPDATE execution_items SET open = 0 WHERE execution_id = ?", (ended,))
        connection.execute("UPDATE payouts SET status = 'failed' WHERE id = ?", (over,))
        connection.commit()
    await store.sets_back(9)
    await store.clock.advance(3600)
    can = replace(CAN, finds_lost_calls=by_keys)
    done = await store.adoption(can, frozenset(left)).run(store.now() - 60 * US)
    attention = 0 if finds else 2
    assert (done.executions, done.without_execution, done.attention) == (2, 0, attention)
    assert done.marks == 12
    now = store.clock.moment()
    calls = await store.rows("SELECT * FROM evidence WHERE mark > 9 ORDER BY execution_id")
    expected = {sent: 3, new: 1}
    assert {call["execution_id"]: call["number"] for call in calls} == expected
    for call in calls:
        assert call["kind"] == "call"
        assert (call["answer"], call["fingerprint"], call["seen"]) == (
            None,
            "" if finds else NO_ACCOUNT,
            call["number"] - 1,
        )
        assert (call["clock_id"], call["elapsed"], call["wall"]) == (
            now.clock_id,
            now.elapsed,
            now.wall,
        )
        lives = (call["call_life"], call["visibility"], call["absence_looks"])
        assert lives == (60 * US, 30 * US, 4)
    assert len({call["mark"] for call in calls}) == 2
    for row in await store.rows("SELECT * FROM executions WHERE ended_at IS NULL"):
        # It may have ended after the copy was taken: an operator decides about another call.
        assert (row["state"], row["blocked"]) == ("unknown", "adopted")
        assert row["rows"] == expected[row["id"]]
        assert row["open_calls"] == expected[row["id"]]
        assert (row["lease_token"], row["lease_owner"], row["lease_until"]) == (4, None, 0)
        assert row["due_at"] == store.runtime.timeline.now()
    (untouched,) = await store.rows(f"SELECT rows, state FROM executions WHERE id = '{ended}'")
    assert untouched == {"rows": 1, "state": "accepted"}
    noted = await store.rows("SELECT payout_id, code FROM attention ORDER BY payout_id")
    assert noted == [
        {"payout_id": each, "code": "adopted"} for each in sorted([paying, fresh]) if not finds
    ]


@pytest.mark.parametrize("declared", [60, 7200, None])
async def test_a_lost_call_lives_as_long_as_the_longest_that_is_known(
    store: Store, declared: float | None
) -> None:
    """Calls of this custodian lived for an hour: the end of their sessions. The lost one may, too."""
    at = store.clock.moment()
    paid, open_one = [await store.db.run(add_payout) for _ in range(2)]
    known = await store.db.run(add_execution, paid, calls=(1,), at=at)
    await store.db.run(add_execution, open_one, at=at)
    with closing(sqlite3.connect(store.db._path)) as connection:
        connection.execute("UPDATE store_state SET marks = 1")
        connection.execute("UPDATE evidence SET call_life = ?", (3600 * US,))
        connection.execute("UPDATE executions SET ended_at = 1 WHERE id = ?", (known,))
        connection.execute("UPDATE execution_items SET open = 0 WHERE execution_id = ?", (known,))
        connection.execute("UPDATE payouts SET status = 'delivered' WHERE id = ?", (paid,))
        connection.commit()
    await store.adoption(replace(CAN, call_life_s=declared)).run(store.now())
    (call,) = await store.rows("SELECT call_life FROM evidence WHERE mark > 1")
    assert call["call_life"] == (None if declared is None else max(declared, 3600) * US)


async def test_the_database_goes_on_but_accepts_nothing(store: Store) -> None:
    """Not frozen any more, above every mark that is known, and the state file agrees."""
    await store.db.run(add_payout)
    await store.sets_back(7)
    done = await store.adoption().run(store.now())
    assert await store.db.read(state.frozen) is None
    recorded = store.state_file.read()
    assert recorded is not None
    assert recorded.marks == done.marks > 7
    (row,) = await store.rows("SELECT * FROM store_state")
    assert (row["marks"], row["accepting"], row["witnessed"]) == (done.marks, 0, 1)
    assert await store.db.run(state.advance) == done.marks + 1
    assert (await compare(store.db, store.runtime, store.state_file))["frozen"] is None
    audit = await store.rows("SELECT actor, act, detail FROM audit_log ORDER BY rowid")
    assert [(each["actor"], each["act"]) for each in audit] == [
        ("gateway", "database_frozen"),
        ("root", "database_adopted"),
    ]
    assert json.loads(audit[1]["detail"])["marks"] == done.marks


async def test_unused_quotes_end_for_good(store: Store) -> None:
    """No clock that is set back brings one back; used ones stay what they are."""
    payout = await store.db.run(add_payout)
    for name, used in (("quo_1", None), ("quo_2", payout)):
        await store.db.run(add_quote, name, store.now() + 60 * US, used)
    done = await store.adoption().run(store.now())
    assert done.quotes == 1
    assert await store.rows("SELECT id, expires_at > 0 AS live FROM quotes ORDER BY id") == [
        {"id": "quo_1", "live": 0},
        {"id": "quo_2", "live": 1},
    ]


async def test_items_that_wait_in_a_batch_may_have_been_paid(store: Store) -> None:
    """Also those of a batch that this copy never executed. Each becomes known to its partner first."""
    for name, executed in (("bat_1", None), ("bat_2", 1), ("bat_3", 1)):
        kind = {"bat_1": "requested", "bat_2": "verifying", "bat_3": "loading"}[name]
        await store.db.run(add_batch, name, kind, 2, executed)
        for _ in range(2):
            await store.db.run(add_payout, "pending", name)
    done = await store.adoption().run(store.now())
    assert (done.without_execution, done.attention, done.batches) == (4, 4, 2)
    found = await store.rows(
        "SELECT p.batch_id, p.sequence, p.sub_status, e.state, e.open_calls FROM executions e "
        "JOIN execution_items i ON i.execution_id = e.id JOIN payouts p ON p.id = i.payout_id "
        "WHERE i.open = 1 ORDER BY p.batch_id"
    )
    assert [row["batch_id"] for row in found] == ["bat_1", "bat_1", "bat_2", "bat_2"]
    assert {(row["sequence"], row["state"], row["open_calls"]) for row in found} == {
        (1, "unknown", 1)
    }
    assert {row["sub_status"] for row in found} == {"outcome_unknown"}
    # No look is at this account: that nothing is found under a new reference proves nothing.
    accounts = await store.rows("SELECT DISTINCT fingerprint FROM evidence")
    assert accounts == [{"fingerprint": "adopted"}]
    events = await store.rows("SELECT type, count(*) AS n FROM events GROUP BY type")
    assert events == [{"type": "payout.created", "n": 4}]
    told = await store.rows("SELECT id, state, worked_off, executed_at FROM batches ORDER BY id")
    assert [(row["id"], row["state"], row["worked_off"]) for row in told] == [
        ("bat_1", "executing", 1),
        ("bat_2", "executing", 1),
        ("bat_3", "loading", -1),
    ]
    assert told[0]["executed_at"] == store.now()


async def test_more_than_one_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every execution and payout, once, with marks that are all different."""
    monkeypatch.setattr(adoption, "_AT_ONCE", 3)
    at = store.clock.moment()
    for number in range(11):
        payout = await store.db.run(add_payout)
        if number % 2:
            await store.db.run(add_execution, payout, at=at)
    done = await store.adoption().run(store.now())
    assert (done.executions, done.without_execution) == (5, 6)
    marks = [row["mark"] for row in await store.rows("SELECT mark FROM evidence")]
    assert len(set(marks)) == len(marks) == 11
    assert max(marks) == done.marks


async def test_it_may_be_interrupted_and_run_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database stays frozen until all is done, also where it was not frozen before."""
    monkeypatch.setattr(adoption, "_AT_ONCE", 1)
    for _ in range(3):
        await store.db.run(add_payout)
    with monkeypatch.context() as patched:

        def stop(_: int) -> None:
            raise KeyboardInterrupt

        patched.setattr(store.state_file, "rewrite", stop)
        with pytest.raises(KeyboardInterrupt):
            await store.adoption().run(store.now())
    assert await store.db.read(state.frozen) is not None
    done = await store.adoption().run(store.now())
    assert (done.executions, done.without_execution) == (3, 0)
    assert await store.db.read(state.frozen) is None


async def test_a_payout_that_comes_up_meanwhile(store: Store) -> None:
    """The last step looks again: a gateway runs, and a webhook may have changed something."""
    await store.db.run(add_payout)
    once = store.adoption()
    finish = once._finish
    late: list[str] = []

    async def add_then_finish(tx: Tx, *args: Any) -> Any:
        if not late:
            late.append(await add_payout(tx))
        return await finish(tx, *args)

    once._finish = add_then_finish  # type: ignore[method-assign, assignment]
    done = await once.run(store.now())
    assert done.without_execution == 2
    assert len(await store.rows("SELECT * FROM evidence")) == 2


async def test_the_window_is_told_and_checked(store: Store) -> None:
    """From the newest mark of the database to the time given, which is neither older nor to come."""
    begin = store.clock.moment()
    payout = await store.db.run(add_payout)
    await store.db.run(add_execution, payout, calls=(1,), at=begin)
    await store.clock.advance(600)
    for until in (begin.wall - 1, store.now() + 1):
        with pytest.raises(NotAdoptedError):
            await store.adoption().run(until)
    assert await store.db.read(state.frozen) is None
    told = (await store.adoption().run(store.now())).as_json()
    assert told["missing_from"] == "2026-03-02T10:00:00.000Z"
    assert told["missing_until"] == "2026-03-02T10:10:00.000Z"


async def test_the_time_is_not_before_what_the_copy_itself_has(store: Store) -> None:
    """Without a mark, too: the copy was in use when its newest payout or quote was created."""
    await store.db.run(add_payout)
    used = store.now() - 60 * US
    await store.db.run(add_quote, "quo_1", store.now(), created_at=used)
    with pytest.raises(NotAdoptedError, match="was in use at"):
        await store.adoption().run(used - 1)
    assert await store.db.read(state.frozen) is None
    told = (await store.adoption().run(used)).as_json()
    assert told["missing_from"] == told["missing_until"]


async def test_an_unknown_custodian_is_never_proven_absent(store: Store) -> None:
    """Nobody says how long its calls live."""
    payout = await store.db.run(add_payout)
    await store.db.run(add_execution, payout, at=store.clock.moment())
    once = store.adoption()
    once._custodians = {}
    await once.run(store.now())
    assert await store.rows("SELECT call_life FROM evidence") == [{"call_life": None}]


async def test_new_ones_are_let_in_by_hand(store: Store) -> None:
    """References without a payout are shown, and stop it until an operator has looked."""
    await store.db.run(add_payout)
    await store.sets_back(3)

    async def again(*, checked: bool) -> list[str]:
        return await store.db.run(accept_again, store.runtime, "root", checked=checked)

    with pytest.raises(NotAdoptedError, match="adopt it first"):
        await again(checked=True)
    await store.adoption().run(store.now())
    await store.db.run(state.note_unmatched, store.runtime.ids, 1, "acme", "transfer", "t-9")
    assert await again(checked=False) == ["acme transfer t-9"]
    assert (await store.db.read(state.state_row))["accepting"] == 0
    assert await again(checked=True) == ["acme transfer t-9"]
    assert (await store.db.read(state.state_row))["accepting"] == 1
    assert await again(checked=False) == []
    acts = [row["act"] for row in await store.rows("SELECT act FROM audit_log ORDER BY rowid")]
    assert acts[-3:] == ["reference_checked", "accepting_again", "accepting_again"]


async def test_a_database_that_was_moved(settings: Settings) -> None:
    """As it was: it goes on by the operator's word. An older one does not."""

    async def opened(work: Any) -> Any:
        runtime = runtime_of(SetClock())
        state_file = state_file_of(settings, runtime)
        async with open_database(settings, runtime, state_file) as db:
            return await work(db, runtime, state_file)

    async def use(db: Database, *_: Any) -> str | None:
        await db.run(add_payout)
        return await db.read(state.frozen)

    async def moved(db: Database, runtime: Runtime, file: StateFile) -> str | None:
        return await move(db, runtime, file, "root")

    assert await opened(use) is None
    assert await opened(moved) == "the database is not frozen"
    content = settings.database.read_bytes()
    settings.database.rename(settings.database.with_name("old"))
    settings.database.write_bytes(content)
    assert await opened(use) is not None
    assert await opened(moved) is None
    assert await opened(use) is None
    away = settings.state_path.read_bytes()
    settings.state_path.unlink()
    assert await opened(use) is not None
    lost = str(await opened(moved))
    assert "there is no state file" in lost
    assert lost.endswith("payout-gateway db adopt")
    settings.state_path.write_bytes(away)
    assert await opened(moved) is None
    settings.state_path.write_bytes(away.replace(b'"marks": 0', b'"marks": 4'))
    older = str(await opened(moved))
    assert "older copy" in older
    assert older.endswith("payout-gateway db adopt")
    assert "older copy" in str(await opened(use))
