"""Executions, the evidence about them, and the registry of gateways. Needs a full stop.

The engine of the revision before has no registry row. It is fenced by the schema: the tables that it
claims from are renamed in the transaction that creates `executions`, so that a gateway that still runs
can claim nothing and set no mark. A lease that has not ended refuses the upgrade. What a call of unknown
outcome was before is an unknown call now, whose life starts anew.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util.exc import CommandError

from gateway.runtime import SystemClock

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "account_declarations",
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("same_as", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("custodian", "fingerprint", name=op.f("pk_account_declarations")),
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    with op.batch_alter_table("audit_log", schema=None) as batch_op:
        batch_op.create_index("ix_audit_log_subject", ["subject", "id"], unique=False)

    op.create_table(
        "clocks",
        sa.Column("clock_id", sa.Text(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("clock_id", name=op.f("pk_clocks")),
    )
    op.create_table(
        "gateways",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("clock_id", sa.Text(), nullable=False),
        sa.Column("elapsed", sa.BigInteger(), nullable=False),
        sa.Column("wall", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("config_digest", sa.Text(), nullable=False),
        sa.Column("schema_from", sa.Text(), nullable=False),
        sa.Column("schema_to", sa.Text(), nullable=False),
        sa.Column("gate_version", sa.Integer(), nullable=False),
        sa.Column("marks", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateways")),
    )
    op.create_table(
        "heartbeats",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("gateway_id", sa.Text(), nullable=False),
        sa.Column("clock_id", sa.Text(), nullable=False),
        sa.Column("elapsed", sa.BigInteger(), nullable=False),
        sa.Column("wall", sa.BigInteger(), nullable=False),
        sa.Column("marks", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_heartbeats")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("heartbeats", schema=None) as batch_op:
        batch_op.create_index("ix_heartbeats_marks", ["marks", "clock_id"], unique=False)

    op.create_table(
        "store_state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("marks", sa.BigInteger(), nullable=False),
        sa.Column("gate_version", sa.Integer(), nullable=False),
        sa.Column("frozen", sa.Text(), nullable=True),
        sa.Column("accepting", sa.Integer(), nullable=False),
        sa.Column("witnessed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_store_state")),
    )
    op.create_table(
        "executions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key_seed", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("open_calls", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("earlier", sa.Integer(), nullable=False),
        sa.Column("repeat_is_safe", sa.Integer(), nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("blocked", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("waiting_since", sa.BigInteger(), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_clock_id", sa.Text(), nullable=False),
        sa.Column("created_elapsed", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_executions_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executions")),
    )
    with op.batch_alter_table("executions", schema=None) as batch_op:
        batch_op.create_index("ix_executions_batch", ["batch_id", "number"], unique=False)
        batch_op.create_index(
            "ix_executions_due",
            ["custodian", "due_at"],
            unique=False,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        )

    op.create_table(
        "evidence",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("seen", sa.Integer(), nullable=False),
        sa.Column("clock_id", sa.Text(), nullable=False),
        sa.Column("elapsed", sa.BigInteger(), nullable=False),
        sa.Column("wall", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("item", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.Column("call_life", sa.BigInteger(), nullable=True),
        sa.Column("visibility", sa.BigInteger(), nullable=False),
        sa.Column("absence_looks", sa.Integer(), nullable=False),
        sa.Column("key_life", sa.BigInteger(), nullable=True),
        sa.Column("one_key", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_evidence_execution_id")
        ),
        sa.PrimaryKeyConstraint("execution_id", "number", name=op.f("pk_evidence")),
    )
    op.create_table(
        "execution_items",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("payout_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("open", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_execution_items_execution_id")
        ),
        sa.ForeignKeyConstraint(
            ["payout_id"], ["payouts.id"], name=op.f("fk_execution_items_payout_id")
        ),
        sa.PrimaryKeyConstraint("execution_id", "payout_id", name=op.f("pk_execution_items")),
    )
    with op.batch_alter_table("execution_items", schema=None) as batch_op:
        batch_op.create_index("ix_execution_items_payout", ["payout_id"], unique=False)
        batch_op.create_index(
            "uq_execution_items_open",
            ["payout_id"],
            unique=True,
            sqlite_where=sa.text("open = 1"),
            postgresql_where=sa.text("open = 1"),
        )
    op.execute(
        "INSERT INTO store_state (id, marks, gate_version, frozen, accepting, witnessed) "
        "VALUES (1, 0, 1, NULL, 1, 0)"
    )
    connection = op.get_bind()
    _refuse_leases(connection)
    _convert(connection)
    for name in ("work", "attempts", "batch_sets"):
        op.rename_table(name, f"old_{name}")
    locks = connection.execute(sa.text("SELECT * FROM account_locks")).all()
    op.drop_table("account_locks")
    op.create_table(
        "account_locks",
        sa.Column("custodian", sa.Text(), nullable=False),
        sa.Column("account_type", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "custodian", "account_type", "account_id", name=op.f("pk_account_locks")
        ),
    )
    op.create_index("ix_account_locks_execution", "account_locks", ["execution_id"])
    for lock in locks:
        _keep_turn(connection, lock)


def _keep_turn(connection: Any, lock: Any) -> None:
    """Hand the turn at an account to the execution of the payout or set that held it."""
    held = connection.execute(
        sa.text(
            "SELECT e.id FROM executions e JOIN execution_items i ON i.execution_id = e.id "
            "WHERE e.ended_at IS NULL AND (i.payout_id = :holder OR e.key_seed = :seed) LIMIT 1"
        ),
        {"holder": lock.payout_id, "seed": f"{lock.payout_id}/1"},
    ).scalar()
    if held is not None:
        connection.execute(
            sa.text("INSERT INTO account_locks VALUES (:custodian, :type, :id, :execution, :at)"),
            {
                "custodian": lock.custodian,
                "type": lock.account_type,
                "id": lock.account_id,
                "execution": held,
                "at": lock.taken_at,
            },
        )


def _refuse_leases(connection: Any) -> None:
    """Refuse while a lease has not ended: a worker of the version before may be in a call."""
    now = time.time_ns() // 1000
    for table in ("work", "batch_sets"):
        row = connection.execute(
            sa.text(f"SELECT lease_owner, lease_until FROM {table} WHERE lease_until > :now"),  # noqa: S608
            {"now": now},
        ).first()
        if row is not None:
            left = (row.lease_until - now) / 1e6
            raise CommandError(
                f"a gateway ({row.lease_owner}) still works on payments: stop every gateway on this "
                f"database; a lease of one that died ends in {left:.0f} s"
            )


_STATES = {
    "prepared": "prepared",
    "parked": "parked",
    # The worker that takes it over says that its outcome is unknown.
    "moving": "moving",
    "unknown": "unknown",
    "accepted": "accepted",
    "ended": "closed",
}
#: The version before stored no lives with its calls. How long one can still be accepted is not known: a
#: setting said it, or the custodian of each session. So it never ends, absence is never proven, and an
#: operator decides where the custodian does not say what became of a call.
_CALL_LIFE = None
_VISIBILITY = 60_000_000
_ABSENCE_LOOKS = 3


def _convert(connection: Any) -> None:
    """Make an execution of each attempt and each set, and evidence of what was sent."""
    clock = SystemClock()
    offset = clock.moment().wall - clock.moment().elapsed
    queue = {row.payout_id: row for row in connection.execute(sa.text("SELECT * FROM work"))}
    attempts = connection.execute(
        sa.text(
            "SELECT a.*, p.account, p.status, p.batch_id AS of_batch FROM attempts a "
            "JOIN payouts p ON p.id = a.payout_id ORDER BY a.payout_id, a.number"
        )
    ).all()
    newest = {row.payout_id: row.number for row in attempts}
    for row in attempts:
        work = queue.get(row.payout_id) if newest[row.payout_id] == row.number else None
        ended = row.ended_at if row.state == "ended" or work is None else None
        if work is None and ended is None:
            ended = row.created_at
        _add(
            connection,
            clock,
            offset,
            id=_id("exe", f"{row.payout_id}/{row.number}"),
            seed=f"{row.payout_id}/{row.number}",
            row=row,
            batch_id=row.of_batch,
            items=[row.payout_id],
            rank=work.rank if work is not None else 0,
            due_at=work.due_at if work is not None else 0,
            waiting_since=None,
            ended=ended,
        )
    for payout_id, work in queue.items():
        if payout_id in newest:
            continue
        payout = connection.execute(
            sa.text("SELECT account, created_at, batch_id FROM payouts WHERE id = :id"),
            {"id": payout_id},
        ).one()
        _add(
            connection,
            clock,
            offset,
            id=_id("exe", f"{payout_id}/1"),
            seed=f"{payout_id}/1",
            row=_Fresh(work.custodian, payout.account, payout.created_at),
            batch_id=payout.batch_id,
            items=[payout_id],
            rank=work.rank,
            due_at=work.due_at,
            waiting_since=None,
            ended=None,
        )
    for row in connection.execute(sa.text("SELECT * FROM batch_sets ORDER BY id")).all():
        left_out = set(json.loads(row.left_out))
        items = connection.execute(
            sa.text(
                "SELECT id FROM payouts WHERE batch_id = :batch AND batch_position BETWEEN :first AND :last "
                "ORDER BY batch_position"
            ),
            {"batch": row.batch_id, "first": row.first_position, "last": row.last_position},
        ).scalars()
        _add(
            connection,
            clock,
            offset,
            id=_id("exe", row.id),
            seed=f"{row.id}/1",
            row=row,
            batch_id=row.batch_id,
            items=[each for each in items if each not in left_out],
            rank=1,
            due_at=row.due_at,
            waiting_since=row.waiting_since,
            ended=row.ended_at,
        )


class _Fresh:
    """A payout that was accepted and not worked on yet, in the form of an attempt's row."""

    def __init__(self, custodian: str, account: str, created_at: int) -> None:
        self.custodian, self.account, self.created_at = custodian, account, created_at
        self.number, self.state, self.notes, self.outcome = 1, "prepared", "{}", None
        self.moves = self.ever_unknown = self.looks = self.failures = 0


def _add(  # noqa: PLR0913 - the parts of an execution
    connection: Any,
    clock: SystemClock,
    offset: int,
    *,
    id: str,  # noqa: A002 - a column
    seed: str,
    row: Any,
    batch_id: str | None,
    items: list[str],
    rank: int,
    due_at: int,
    waiting_since: int | None,
    ended: int | None,
) -> None:
    now = clock.moment()
    state = _STATES[row.state]
    if state == "prepared" and row.moves and row.ever_unknown:
        # A permission to repeat that was computed before is not carried over: it is looked up again.
        state = "unknown"
    calls: list[str | None] = []
    if row.moves and (row.ever_unknown or row.state in {"moving", "unknown", "accepted"}):
        accepted = row.state in {"accepted", "ended"} and not row.ever_unknown
        calls = [None if row.state in {"moving", "unknown"} else "unknown"]
        if accepted or row.state == "accepted":
            calls = ["accepted"]
        # What became of each of those before was not noted. One word must not speak of all of them.
        calls = [*["unknown"] * (row.moves - 1), *calls]
    connection.execute(
        sa.text(
            "INSERT INTO executions (id, custodian, account, batch_id, number, key_seed, state, notes, rows, "
            "open_calls, size, earlier, repeat_is_safe, looks, failures, blocked, outcome, refusal, "
            "waiting_since, rank, due_at, lease_token, lease_owner, lease_until, created_at, "
            "created_clock_id, created_elapsed, ended_at) VALUES (:id, :custodian, :account, :batch_id, "
            ":number, :seed, :state, :notes, :rows, :open_calls, :size, :earlier, NULL, 0, :failures, NULL, "
            ":outcome, NULL, :waiting_since, :rank, :due_at, 0, NULL, 0, :created_at, :clock_id, :elapsed, "
            ":ended_at)"
        ),
        {
            "id": id,
            "custodian": row.custodian,
            "account": row.account,
            "batch_id": batch_id,
            "number": row.number,
            "seed": seed,
            "state": "closed" if ended is not None else state,
            "notes": row.notes,
            "rows": len(calls),
            "open_calls": len(calls),
            "size": len(items),
            "earlier": int(row.number > 1),
            "failures": row.failures,
            "outcome": row.outcome,
            "waiting_since": waiting_since,
            "rank": rank,
            "due_at": min(due_at, now.elapsed + offset),
            "created_at": row.created_at,
            "clock_id": now.clock_id,
            "elapsed": now.elapsed,
            "ended_at": ended,
        },
    )
    for position, item in enumerate(items):
        connection.execute(
            sa.text(
                "INSERT INTO execution_items (execution_id, payout_id, position, open) "
                "VALUES (:id, :item, :position, :open)"
            ),
            {"id": id, "item": item, "position": position, "open": int(ended is None)},
        )
    for number, answer in enumerate(calls, 1):
        mark = connection.execute(
            sa.text("UPDATE store_state SET marks = marks + 1 WHERE id = 1 RETURNING marks")
        ).scalar_one()
        connection.execute(
            sa.text(
                "INSERT INTO evidence (execution_id, number, kind, seen, clock_id, elapsed, wall, fingerprint, "
                "answer, source, mark, call_life, visibility, absence_looks, one_key, detail) VALUES (:id, :number, "
                "'call', :seen, :clock_id, :elapsed, :wall, '', :answer, 'reply', :mark, :life, :visibility, "
                ":looks, 0, 'made before the upgrade')"
            ),
            {
                "id": id,
                "number": number,
                "seen": number - 1,
                "clock_id": now.clock_id,
                "elapsed": now.elapsed,
                "wall": now.wall,
                "answer": answer,
                "mark": mark,
                "life": _CALL_LIFE,
                "visibility": _VISIBILITY,
                "looks": _ABSENCE_LOOKS,
            },
        )


def _id(prefix: str, seed: str) -> str:
    """Return an id that is the same whenever the migration runs."""
    return f"{prefix}_{hashlib.sha256(seed.encode()).hexdigest()[:26]}"
