"""`payouts resolve`: asked before, recorded with a name, and not shown to the partner."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.common import operator_name
from gateway.cli.main import app
from gateway.config.settings import load
from gateway.runtime import real_runtime
from gateway.store.opening import open_database
from tests.cli.test_commands import config, run
from tests.store.rows import add_execution, add_payout

__all__ = ["config"]


def open_payout(config: Path) -> str:
    """Add a payout that may have been sent, of a custodian that is not configured any more."""

    async def work() -> str:
        runtime = real_runtime()
        async with open_database(load(config), runtime) as db:
            payout_id = await db.run(add_payout)
            execution = await db.run(
                add_execution, payout_id, calls=(1,), at=runtime.clock.moment()
            )
            assert execution
            return payout_id

    return asyncio.run(work())


def resolve(config: Path, payout_id: str, *more: str, answer: str = "", code: int = 0) -> str:
    """Resolve it as failed, and answer what is asked."""
    words = ["payouts", "resolve", payout_id, "--as", "failed", "--evidence", "console: nothing"]
    result = CliRunner().invoke(app, [*words, "--config", str(config), *more], input=answer)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def status_of(config: Path, payout_id: str) -> str:
    """Return a payout's status."""
    rows: list[dict[str, Any]] = json.loads(run("payouts", "list", "--json", "--config", config))[
        "data"
    ]
    (status,) = [row["status"] for row in rows if row["payout_id"] == payout_id]
    return str(status)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row has a lease of a worker; nobody works here."""
    monkeypatch.setattr("gateway.execution.operator._not_leased", lambda *_: None)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("answer", ["", "n\n", "\n", "yess\n"])
def test_it_is_asked_before(config: Path, answer: str) -> None:
    """Whatever is no yes changes nothing, and so does a script that cannot answer."""
    payout_id = open_payout(config)
    said = resolve(config, payout_id, answer=answer, code=1)
    assert f"{payout_id}: 5 USDC of acme, by acme" in said
    assert "now: pending / created" in said
    assert "as failed, funds moved: unknown; the partner must not pay it again" in said
    assert "not confirmed: nothing was changed" in said
    assert status_of(config, payout_id) == "pending"


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("words", [("--yes",), ()])
def test_who_confirmed_is_recorded(config: Path, words: tuple[str, ...]) -> None:
    """By name and by the system user: a name alone could be anybody's."""
    payout_id = open_payout(config)
    said = resolve(config, payout_id, *words, "--operator", "Ann Lee", "--json", answer="y\n")
    by = f"Ann Lee (system user {operator_name()})"
    told = json.loads(said.splitlines()[-1])
    assert told == {
        "payout_id": payout_id,
        "status": "failed",
        "funds_moved": "unknown",
        "operator": by,
    }
    log = json.loads(run("audit", "list", "--json", "--config", config))["data"]
    assert (log[0]["actor"], log[0]["detail"]) == (by, "console: nothing")
    assert status_of(config, payout_id) == "failed"


@pytest.mark.usefixtures("free")
def test_the_name_may_come_from_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every act in the audit log, and it is no setting of the gateway."""
    monkeypatch.setenv("PAYOUT_GATEWAY_OPERATOR", "night shift")
    run("db", "upgrade", "--config", config)
    run("pause", "all", "--reason", "r", "--config", config)
    log = json.loads(run("audit", "list", "--json", "--config", config))["data"]
    assert log[0]["actor"].startswith("night shift (system user ")


@pytest.mark.parametrize("name", [" ", "a\nb", "x" * 101])
def test_what_is_no_name(config: Path, name: str) -> None:
    """Refused before anything is asked or changed."""
    payout_id = open_payout(config)
    assert "--operator is a name" in resolve(config, payout_id, "--operator", name, code=2)
