"""From schema 0003 to 0004: what was being paid becomes executions, and the old engine is fenced off.

The rows are written by SQL, as the version before left them. Its statements stand here as text.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.util.exc import CommandError
from typer.testing import CliRunner

from gateway.cli.main import app
from gateway.execution.gate import may_reopen
from gateway.execution.history import evidence_of, others_of
from gateway.execution.proof import (
    Answer,
    Evidence,
    Finding,
    History,
    Kind,
    Source,
    calls,
    closed,
    open_calls,
    proof,
)
from gateway.model import FundsMoved
from gateway.runtime import SystemClock
from gateway.store import migrate, upgrading
from gateway.store.database import Database

#: How the version before claims payouts and sets, and how it sets its marks: the lease is prolonged
#: and the attempt written in one transaction.
OLD_CLAIM = """
UPDATE work SET due_at=:until, lease_token=(work.lease_token + 1), lease_owner=:owner,
lease_until=:until WHERE work.payout_id IN (SELECT work.payout_id FROM work
WHERE work.custodian = :custodian AND work.due_at <= :now AND work.lease_until <= :now
ORDER BY work.rank, work.due_at LIMIT :limit OFFSET 0) RETURNING payout_id, lease_token, due_at
"""
OLD_CLAIM_ONE = """
UPDATE work SET due_at=:until, lease_token=(work.lease_token + 1), lease_owner=:owner,
lease_until=:until WHERE work.payout_id = :held_id AND work.lease_until <= :now
RETURNING payout_id, lease_token, due_at
"""
OLD_EXTEND = """
UPDATE work SET lease_until=:until WHERE work.payout_id = :held_id
AND work.lease_token = :held_token AND work.lease_until > :now RETURNING payout_id
"""
OLD_MARK = """
UPDATE attempts SET state='moving', moving_at=:now, last_call_at=:now, moves=:moves
WHERE attempts.payout_id = :held_id AND attempts.number = :number
"""
OLD_CLAIM_SETS = """
UPDATE batch_sets SET due_at=:until, lease_token=(batch_sets.lease_token + 1), lease_owner=:owner,
lease_until=:until WHERE batch_sets.id IN (SELECT batch_sets.id FROM batch_sets
WHERE batch_sets.custodian = :custodian AND batch_sets.due_at <= :now
AND batch_sets.lease_until <= :now AND batch_sets.ended_at IS NULL ORDER BY batch_sets.due_at
LIMIT :limit OFFSET 0) RETURNING id, lease_token, due_at
"""
OLD_EXTEND_SET = """
UPDATE batch_sets SET lease_until=:until WHERE batch_sets.id = :held_id
AND batch_sets.lease_token = :held_token AND batch_sets.ended_at IS NULL
AND batch_sets.lease_until > :now RETURNING id
"""
OLD_MARK_SET = """
UPDATE batch_sets SET state='moving', moves=:moves, last_call_at=:now WHERE batch_sets.id = :held_id
"""
ACCOUNT = '{"id":"A","type":"VAULT"}'
STATES = ("prepared", "parked", "moving", "unknown", "accepted", "ended")
#: What each state becomes, by whether something was sent and whether its outcome was ever unknown:
#: state, answers of its calls. Never sent is what no mark was set for.
BECOMES: dict[tuple[str, int, int], tuple[str, list[str | None]]] = {
    ("prepared", 0, 0): ("prepared", []),
    ("prepared", 1, 0): ("prepared", []),
    ("prepared", 1, 1): ("unknown", ["unknown"]),
    ("parked", 0, 0): ("parked", []),
    ("parked", 1, 0): ("parked", []),
    ("parked", 1, 1): ("parked", ["unknown"]),
    ("moving", 1, 0): ("moving", [None]),
    ("moving", 2, 1): ("moving", ["unknown", None]),
    ("unknown", 1, 1): ("unknown", [None]),
    ("accepted", 1, 0): ("accepted", ["accepted"]),
    ("accepted", 2, 1): ("accepted", ["unknown", "accepted"]),
    ("ended", 0, 0): ("closed", []),
    ("ended", 1, 0): ("closed", []),
    ("ended", 1, 1): ("closed", ["unknown"]),
}


def now_us() -> int:
    """Return the wall clock as the version before stored it."""
    return time.time_ns() // 1000


class Old:
    """A database of schema 0003 and the rows that a test writes into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA foreign_keys=ON")

    def insert(self, table: str, **columns: object) -> None:
        """Write one row."""
        names = ", ".join(columns)
        marks = ", ".join(f":{name}" for name in columns)
        self.db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", columns)

    def payout(self, payout_id: str, **columns: object) -> None:
        """Write a payout."""
        plain: dict[str, object] = {
            "org": "o",
            "mode": "live",
            "quote_id": None,
            "status": "pending",
            "sub_status": "created",
            "external_ref": "u",
            "metadata": "{}",
            "terms": "{}",
            "custodian": "acme",
            "account": ACCOUNT,
            "sequence": 1,
            "created_at": 1,
            "updated_at": 1,
        }
        self.insert("payouts", id=payout_id, **{**plain, **columns})

    def work(self, payout_id: str, **columns: object) -> None:
        """Write a row of the engine's queue."""
        plain: dict[str, object] = {
            "custodian": "acme",
            "due_at": now_us(),
            "lease_token": 1,
            "lease_owner": "old",
            "lease_until": 0,
            "rank": 0,
        }
        self.insert("work", payout_id=payout_id, **{**plain, **columns})

    def attempt(self, payout_id: str, state: str, **columns: object) -> None:
        """Write an attempt."""
        self.insert(
            "attempts",
            payout_id=payout_id,
            **{
                "number": 1,
                "custodian": "acme",
                **_facts(state),
                "ended_at": 5 if state == "ended" else None,
                **columns,
            },
        )

    def batch(self, batch_id: str = "bat_1", *, items: int = 3) -> list[str]:
        """Write a batch with its items; return their ids."""
        self.insert(
            "batches",
            id=batch_id,
            org="o",
            mode="live",
            custodian="acme",
            account=ACCOUNT,
            native=1,
            init_method="api",
            metadata="{}",
            state="executing",
            items=items,
            worked_off=items - 1,
            created_at=1,
            updated_at=1,
            expires_at=1,
            executed_at=1,
        )
        ids = [f"pay_{batch_id}_{number}" for number in range(items)]
        for position, each in enumerate(ids):
            self.payout(each, batch_id=batch_id, batch_position=position)
        return ids

    def set(self, set_id: str, state: str, **columns: object) -> None:
        """Write a set of a batch."""
        self.insert(
            "batch_sets",
            id=set_id,
            **{
                "batch_id": "bat_1",
                "number": 1,
                "custodian": "acme",
                "account": ACCOUNT,
                "first_position": 0,
                "last_position": 2,
                "left_out": "[]",
                **_facts(state),
                "ended_at": 5 if state == "ended" else None,
                "due_at": now_us(),
                "lease_token": 1,
                "lease_owner": "old",
                "lease_until": 0,
                **columns,
            },
        )

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Read."""
        return [dict(row) for row in self.db.execute(query, values)]

    def content(self) -> dict[str, list[dict[str, Any]]]:
        """Return everything in the database."""
        names = self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {each["name"]: self.rows(f"SELECT * FROM {each['name']}") for each in names}

    def upgrade(self, revision: str = "0004") -> None:
        """Bring it to schema 0004, or to a later one."""
        command.upgrade(upgrading.config(self.path), revision)
        assert self.rows("PRAGMA foreign_key_check") == []

    def execution(self, payout_id: str) -> dict[str, Any]:
        """Return the one execution of a payout."""
        (row,) = self.rows(
            "SELECT executions.* FROM executions JOIN execution_items ON execution_id = id "
            "WHERE payout_id = ?",
            payout_id,
        )
        return row

    def evidence(self, execution_id: str) -> History:
        """Return the rows of evidence of an execution, as the engine reads them."""
        found = self.db.execute(
            "SELECT * FROM evidence WHERE execution_id = ? ORDER BY number", [execution_id]
        )
        return History(tuple(evidence_of(row) for row in found))


def _facts(state: str) -> dict[str, object]:
    return {
        "state": state,
        "notes": '{"payout_id": "there"}',
        "moves": 0,
        "ever_unknown": 0,
        "absences": 0,
        "looks": 7,
        "failures": 2,
        "created_at": 1,
    }


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the schema before."""
    path = tmp_path_factory.mktemp("0003") / "store.db"
    command.upgrade(upgrading.config(path), "0003")
    return path


@pytest.fixture
def old(empty: Path, tmp_path: Path) -> Iterator[Old]:
    """A database of the schema before, for one test."""
    built = Old(Path(shutil.copy(empty, tmp_path / "store.db")))
    with closing(built.db):
        yield built


@pytest.mark.parametrize(("before", "after"), BECOMES.items())
def test_a_payout_in_every_state(
    old: Old, before: tuple[str, int, int], after: tuple[str, list[str | None]]
) -> None:
    """What was sent is an open call that never dies; what was not sent has no call.

    How long the version before let it live is not known (Dfns' setting goes up to a day, a session of
    the card rail is as long as its provider says). So no look ever proves its absence.
    A permission to repeat that was computed before the upgrade is not carried over.
    """
    state, moves, unknown = before
    final = {"status": "delivered", "sub_status": "delivered"} if state == "ended" else {}
    old.payout("pay_1", **final)
    old.attempt("pay_1", state, moves=moves, ever_unknown=unknown)
    if state != "ended":
        old.work("pay_1", due_at=now_us() + 3_600_000_000)
    clock = SystemClock().moment()
    old.upgrade()
    row = old.execution("pay_1")
    history = old.evidence(row["id"])
    assert (row["state"], [each.answer for each in calls(history)]) == after
    assert row["open_calls"] == len(open_calls(history)) == row["rows"]
    assert (row["ended_at"] is not None) == (state == "ended")
    assert row["key_seed"] == "pay_1/1"
    assert json.loads(row["notes"]) == {"payout_id": "there"}
    assert (row["lease_owner"], row["lease_until"], row["blocked"]) == (None, 0, None)
    (item,) = old.rows("SELECT * FROM execution_items")
    assert (item["payout_id"], item["open"]) == ("pay_1", int(state != "ended"))
    for each in open_calls(history):
        assert each.at.clock_id == clock.clock_id
        assert each.at.elapsed >= clock.elapsed
        assert each.call_life is None
        assert each.absence_looks >= 3
        assert each.mark > 0
    assert closed(history, "pay_1") == (after[1] == [])
    assert proof(history) == (after[1] == [])
    for call in open_calls(history):
        assert not proof(looked_at(history, call, 10 * call.absence_looks, 30 * 86_400_000_000))


@pytest.mark.parametrize("moves", [2, 3])
@pytest.mark.parametrize("state", ["unknown", "accepted", "ended"])
def test_every_call_of_before_is_one(old: Old, state: str, moves: int) -> None:
    """Calls under different references: that one of them failed says nothing of the others.

    The version before noted how many there were, and the references of the card rail; a word about
    its calls names none.
    """
    old.payout(
        "pay_1", **({"status": "failed", "sub_status": "failed"} if state == "ended" else {})
    )
    notes = '{"sent": "ref-2", "earlier_references": ["ref-1"]}'
    old.attempt("pay_1", state, moves=moves, ever_unknown=1, notes=notes)
    if state != "ended":
        old.work("pay_1")
    old.upgrade()
    row = old.execution("pay_1")
    history = old.evidence(row["id"])
    assert len(calls(history)) == len(open_calls(history)) == moves == row["rows"]
    assert row["open_calls"] == moves
    assert len({each.mark for each in calls(history)}) == moves
    last = calls(history)[-1]
    failed = Evidence(
        number=last.number + 1,
        kind=Kind.WORD,
        seen=last.number,
        at=replace(last.at, elapsed=last.at.elapsed + 1_000_000),
        fingerprint="acme/A",
        answer=FundsMoved.NO,
        item="pay_1",
        source=Source.LOOK,
    )
    assert not closed(history.having(failed), "pay_1")


def looked_at(history: History, call: Evidence, count: int, after: int) -> History:
    """Return the history with so many absent looks, so long after a call."""
    first = history.last_number + 1
    looks = (
        Evidence(
            number=number,
            kind=Kind.LOOK,
            seen=number - 1,
            at=replace(call.at, elapsed=call.at.elapsed + after),
            fingerprint="acme/A",
            answer=Finding.ABSENT,
        )
        for number in range(first, first + count)
    )
    return history.having(*looks)


@pytest.mark.parametrize(("before", "after"), BECOMES.items())
def test_a_set_in_every_state(
    old: Old, before: tuple[str, int, int], after: tuple[str, list[str | None]]
) -> None:
    """The same for a set: one execution with its items in their order, but for those left out."""
    state, moves, unknown = before
    ids = old.batch(items=3)
    left_out = json.dumps([ids[1]])
    old.set("set_1", state, moves=moves, ever_unknown=unknown, left_out=left_out)
    old.upgrade()
    (row,) = old.rows("SELECT * FROM executions")
    history = old.evidence(row["id"])
    assert (row["state"], [each.answer for each in calls(history)]) == after
    assert row["open_calls"] == len(open_calls(history))
    assert (row["key_seed"], row["batch_id"], row["rank"]) == ("set_1/1", "bat_1", 1)
    items = old.rows("SELECT * FROM execution_items ORDER BY position")
    assert [each["payout_id"] for each in items] == [ids[0], ids[2]]
    assert {each["open"] for each in items} == {int(state != "ended")}
    assert row["size"] == 2


def test_a_payout_that_nobody_had_begun(old: Old) -> None:
    """Accepted and never claimed: a fresh execution, due at once."""
    old.payout("pay_1")
    old.work("pay_1", lease_token=0, lease_owner=None)
    old.upgrade()
    row = old.execution("pay_1")
    assert (row["state"], row["number"], row["rows"], row["earlier"]) == ("prepared", 1, 0, 0)


def test_what_is_due_later_is_due_soon(old: Old) -> None:
    """A next look that was planned by the wall clock is not waited for on the new timeline."""
    old.payout("pay_1")
    old.attempt("pay_1", "unknown", moves=1, ever_unknown=1)
    old.work("pay_1", due_at=now_us() + 7 * 86_400_000_000)
    old.upgrade()
    row = old.execution("pay_1")
    assert row["due_at"] <= now_us() + 60_000_000


async def test_a_second_attempt_asks_for_the_first(old: Old) -> None:
    """A first attempt that ended with a call of unknown outcome still forbids a mark of the second.

    Where the first one had sent nothing, the second one is free.
    """
    for name, unknown in (("pay_free", 0), ("pay_kept", 1)):
        old.payout(name)
        old.attempt(name, "ended", moves=unknown, ever_unknown=unknown)
        old.attempt(name, "prepared", number=2)
        old.work(name)
    old.upgrade()
    query = (
        "SELECT e.* FROM executions e JOIN execution_items i ON i.execution_id = e.id "
        "WHERE i.payout_id = ? ORDER BY e.number"
    )
    old.upgrade("head")
    async with Database(old.path) as db:
        for name, free in (("pay_free", True), ("pay_kept", False)):
            first, second = old.rows(query, name)
            assert (first["state"], second["state"]) == ("closed", "prepared")
            assert (first["earlier"], second["earlier"]) == (0, 1)
            now = SystemClock().moment()
            others = await db.read(others_of, second["id"], [name], now)
            assert may_reopen(History(), name, others) == free


def test_turns_at_accounts_go_to_the_executions(old: Old) -> None:
    """Who holds an account that pays one at a time goes on to hold it, a set as well as a payout."""
    ids = old.batch()
    old.set("set_1", "accepted", moves=1)
    old.insert(
        "account_locks",
        custodian="acme",
        account_type="VAULT",
        account_id="A",
        payout_id="set_1",
        taken_at=9,
    )
    old.payout("pay_1", account='{"id":"B","type":"VAULT"}')
    old.attempt("pay_1", "accepted", moves=1)
    old.work("pay_1")
    old.insert(
        "account_locks",
        custodian="acme",
        account_type="VAULT",
        account_id="B",
        payout_id="pay_1",
        taken_at=8,
    )
    old.insert(
        "account_locks",
        custodian="acme",
        account_type="VAULT",
        account_id="C",
        payout_id="pay_ended",
        taken_at=7,
    )
    old.upgrade()
    locks = old.rows("SELECT account_id, execution_id, taken_at FROM account_locks")
    assert sorted(each["account_id"] for each in locks) == ["A", "B"]
    held = {each["account_id"]: each["execution_id"] for each in locks}
    assert held["A"] == old.execution(ids[0])["id"]
    assert held["B"] == old.execution("pay_1")["id"]


@pytest.mark.parametrize("kind", ["payout", "set"])
def test_a_lease_that_has_not_ended_refuses_the_upgrade(old: Old, kind: str) -> None:
    """A worker of the version before may be in a call: nothing is changed, and it is said why."""
    if kind == "payout":
        old.payout("pay_1")
        old.attempt("pay_1", "moving", moves=1)
        old.work("pay_1", lease_until=now_us() + 40_000_000, lease_owner="host-7")
    else:
        old.batch()
        old.set("set_1", "moving", moves=1, lease_until=now_us() + 40_000_000, lease_owner="host-7")
    before = old.content()
    config = old.path.with_name("g.toml")
    config.write_text(f'database = "{old.path}"\nserver_key = "{"A" * 43}="\n')
    result = CliRunner().invoke(app, ["db", "upgrade", "--config", str(config)])
    assert result.exit_code == 2, result.output
    assert "was not changed" in result.output
    assert "host-7" in result.output
    assert "stop every gateway" in result.output
    assert "Traceback" not in result.output
    assert old.content() == before
    assert migrate.current_revision(old.path) == "0003"
    old.db.execute("UPDATE work SET lease_until = 1")
    old.db.execute("UPDATE batch_sets SET lease_until = 1")
    old.upgrade()


def test_the_old_engine_can_do_nothing_any_more(old: Old) -> None:
    """A gateway of the version before that still runs claims nothing and sets no mark.

    Each of its statements fails, before the call that it is made for, and changes nothing.
    """
    old.payout("pay_1")
    old.attempt("pay_1", "prepared")
    old.work("pay_1", due_at=1)
    old.batch()
    old.set("set_1", "prepared", due_at=1)
    values = {
        "now": now_us(),
        "until": now_us() + 60_000_000,
        "owner": "old",
        "custodian": "acme",
        "limit": 10,
        "held_token": 1,
        "moves": 1,
        "number": 1,
    }
    # They are what they claim to be: on its own schema each of them finds its rows.
    old.db.execute("BEGIN")
    for statement, held in (
        (OLD_CLAIM, "pay_1"),
        (OLD_CLAIM_SETS, "set_1"),
    ):
        assert old.db.execute(statement, {**values, "held_id": held}).fetchall()
    for statement, held in ((OLD_EXTEND, "pay_1"), (OLD_EXTEND_SET, "set_1")):
        assert old.db.execute(statement, {**values, "held_id": held, "held_token": 2}).fetchall()
    for statement, held in ((OLD_MARK, "pay_1"), (OLD_MARK_SET, "set_1")):
        assert old.db.execute(statement, {**values, "held_id": held}).rowcount == 1
    old.db.execute("ROLLBACK")
    old.upgrade()
    before = old.content()
    for statement, held in (
        (OLD_CLAIM, "pay_1"),
        (OLD_CLAIM_ONE, "pay_1"),
        (OLD_EXTEND, "pay_1"),
        (OLD_MARK, "pay_1"),
        (OLD_CLAIM_SETS, "set_1"),
        (OLD_EXTEND_SET, "set_1"),
        (OLD_MARK_SET, "set_1"),
    ):
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            old.db.execute(statement, {**values, "held_id": held})
    assert old.content() == before


def test_a_claim_that_is_being_committed_is_waited_for(old: Old) -> None:
    """The upgrade takes the write lock before it looks at leases: none is committed behind its back."""
    old.payout("pay_1")
    old.attempt("pay_1", "prepared")
    old.work("pay_1", due_at=1)
    values = {
        "now": now_us(),
        "until": now_us() + 60_000_000,
        "owner": "old",
        "custodian": "acme",
        "limit": 10,
    }
    old.db.execute("BEGIN IMMEDIATE")
    assert old.db.execute(OLD_CLAIM, values).fetchall()
    with ThreadPoolExecutor(1) as threads:
        upgrading = threads.submit(migrate.upgrade, old.path)
        wait([upgrading], timeout=0.5)
        old.db.execute("COMMIT")
        with pytest.raises(CommandError, match="still works on payments"):
            upgrading.result()
    assert migrate.current_revision(old.path) == "0003"


def test_every_old_state_is_covered() -> None:
    """The table above names every state of the version before."""
    assert {state for state, _, _ in BECOMES} == set(STATES)
    assert {answer for _, answers in BECOMES.values() for answer in answers} <= {None, *Answer}
