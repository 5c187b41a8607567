"""`payouts export`: exact, complete, the same every time, and harmless in a spreadsheet."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from gateway.cli.main import app
from gateway.config.settings import load
from gateway.export import COLUMNS, PAGE
from gateway.runtime import real_runtime
from gateway.store.database import Query, Tx
from gateway.store.opening import open_database
from gateway.store.schema import payout_returns, payouts
from tests.cli.test_commands import RUNNER, run
from tests.store.rows import _TERMS, add_execution, add_payout

DAY_US = 86_400_000_000
#: 2026-03-02, midnight UTC
MONDAY = 1_772_409_600_000_000


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration without custodians."""
    path = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    path.write_text(f'server_key = "{key}"\ndatabase = "g.db"\n')
    run("db", "upgrade", "--config", path)
    return path


def fill(config: Path, *rows: dict[str, Any]) -> list[str]:
    """Add payouts with an execution each; return their ids."""

    async def add(tx: Tx) -> list[str]:
        ids = []
        for number, row in enumerate(rows):
            payout_id = await add_payout(tx)
            at = real_runtime().clock.moment()
            calls = (number + 1,) if row.get("status") == "delivered" else ()
            await add_execution(tx, payout_id, calls=calls, at=at)
            await tx.all(Query(update(payouts).where(payouts.c.id == payout_id).values(row)))
            ids.append(payout_id)
        return ids

    async def work() -> list[str]:
        async with open_database(load(config), real_runtime()) as db:
            return await db.run(add)

    return asyncio.run(work())


def exported(config: Path, *options: object) -> list[dict[str, str]]:
    """Return the rows of the CSV file."""
    out = config.with_name("out.csv")
    out.unlink(missing_ok=True)
    run("payouts", "export", *options, "--output", out, "--config", config)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    text = out.read_bytes().decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_what_is_exported(config: Path) -> None:
    """By the time of acceptance, the end not included; amounts exact, fee and executions with them."""
    terms = json.loads(_TERMS) | {
        "user_sends": "10.000001",
        "amount": "10.000001",
        "recipient_gets": "9.9",
        "fee_total_usd": "0.100001",
    }
    late = {"created_at": MONDAY + DAY_US, "updated_at": 1}
    ids = fill(
        config,
        {
            "created_at": MONDAY,
            "terms": json.dumps(terms),
            "status": "delivered",
            "reference": "=cmd|' /C calc'!A0",
            "returned_amount": "0.5",
        },
        {"created_at": MONDAY + DAY_US - 1, "org": "other"},
        late,
    )
    rows = exported(config, "--from", "2026-03-02", "--to", "2026-03-03")
    assert [row["payout_id"] for row in rows] == ids[:2]
    first = rows[0]
    assert tuple(first) == COLUMNS
    assert (first["user_sends"], first["recipient_gets"], first["fee"]) == (
        "10.000001",
        "9.9",
        "0.100001",
    )
    assert Decimal(first["user_sends"]) == Decimal(first["recipient_gets"]) + Decimal(first["fee"])
    assert (first["fee_total_usd"], first["returned_amount"]) == ("0.100001", "0.5")
    assert first["created_at"] == "2026-03-02T00:00:00.000Z"
    assert first["executions"] == "1:acme:accepted"
    assert first["reference"].startswith("'=")
    only = exported(config, "--from", "2026-03-02", "--to", "2026-03-03", "--org", "other")
    assert [row["payout_id"] for row in only] == ids[1:2]
    zoned = exported(config, "--from", "2026-03-03T01:00:00+01:00", "--to", "2026-03-04")
    assert [row["payout_id"] for row in zoned] == ids[2:]


def test_json_lines_have_everything(config: Path) -> None:
    """Executions with their calls, and what came back."""
    (payout_id,) = fill(config, {"created_at": MONDAY, "status": "delivered"})

    async def give_back() -> None:
        async with open_database(load(config), real_runtime()) as db:
            await db.run(_add_return, payout_id)

    asyncio.run(give_back())
    out = run(
        *("payouts", "export", "--from", "2026-03-02", "--to", "2026-03-03"),
        *("--format", "jsonl", "--config", config),
    )
    record = json.loads(out.splitlines()[0])
    assert set(COLUMNS) <= record.keys()
    (execution,) = record["executions"]
    assert (execution["custodian"], execution["calls"], execution["number"]) == ("acme", 1, 1)
    assert record["returns"][0]["amount"] == "0.5"
    assert "1 payout exported" in out


async def _add_return(tx: Tx, payout_id: str) -> None:
    await tx.all(
        Query(insert(payout_returns)),
        id="ret_1",
        payout_id=payout_id,
        custodian="acme",
        custodian_id="r",
        amount="0.5",
        asset="USDC",
        returned_at=MONDAY,
        word=None,
        recorded_at=MONDAY,
    )


def test_many_payouts_of_one_moment(config: Path) -> None:
    """Each once, over the edges of pages."""
    ids = fill(config, *({"created_at": MONDAY} for _ in range(2 * PAGE + 1)))
    rows = exported(config, "--from", "2026-03-02", "--to", "2026-03-03")
    assert sorted(row["payout_id"] for row in rows) == sorted(ids)


def test_what_cannot_be_exported(config: Path) -> None:
    """A range that is none, a time without a zone, a file that is there."""
    why = ("--config", config)
    for begin, end in (("2026-03-02", "2026-03-02"), ("2026-03-02T10:00:00", "2026-03-03")):
        run("payouts", "export", "--from", begin, "--to", end, *why, code=2)
    there = config.with_name("there.csv")
    there.write_text("kept")
    named = ("--from", "2026-03-02", "--to", "2026-03-03", "--output", there)
    assert "cannot be written" in run("payouts", "export", *named, *why, code=2)
    assert there.read_text() == "kept"
    assert RUNNER.invoke(app, ["payouts", "export", "--help"]).exit_code == 0
