"""What tenants and custodians wrote changes nothing on the operator's terminal."""

from __future__ import annotations

import ast
import asyncio
import base64
import io
import json
import sqlite3
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from gateway import logs
from gateway.cli import printing
from gateway.cli.batch_client import CallError, progress_columns
from gateway.cli.common import fail
from gateway.cli.main import app
from gateway.config.settings import load
from gateway.store import payouts as rows
from gateway.store.opening import open_database
from tests.store.rows import add_payout

#: Markup that Rich cannot close, markup that it takes, an emoji code, a clear-screen, a line of its own
#: that looks like another payout, a bidi override, a C1 control sequence, a zero-width space, a filler.
HOSTILE = (
    "[/b] [red]paid[/red] :warning: \x1b[2J\x1b]0;t\x07 \r\npay_fake  delivered / delivered "
    "\u202egnp.exe\u202c \x9b31m \u200b \u3164 \x00 \x7f"
)
#: What must be there still, for the operator to read.
READABLE = ("[/b]", "[red]paid[/red]", ":warning:", "\\x1b[2J", "\\u202egnp.exe")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a database."""
    path = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    path.write_text(f'server_key = "{key}"\ndatabase = "g.db"\n')
    run("db", "upgrade", "--config", path)
    return path


def run(*arguments: object, code: int = 0) -> str:
    """Run a command and return what it printed, on either stream."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def is_harmless(output: str) -> bool:
    """Whether an output has line feeds and what people can see, and nothing else."""
    return all(
        each == "\n" or unicodedata.category(each)[0] not in "CZ" or each == " " for each in output
    )


async def _hostile_payout(config: Path) -> str:
    """Store a payout of a time before the rules, each text of it hostile."""
    settings = load(config)
    async with open_database(settings) as db:
        payout_id = await db.run(add_payout, "failed")
        failure = {"code": "chain_rejected", "message": HOSTILE, "funds_moved": "unknown"}
        columns = {
            "external_ref": HOSTILE,
            "reference": HOSTILE,
            "metadata": json.dumps({"note": HOSTILE}),
            "custodian_reference": HOSTILE,
            "custodian_word": HOSTILE,
            "account": json.dumps({"id": HOSTILE, "type": "VAULT"}),
            "failure": json.dumps(failure),
        }
        await db.run(rows.update_payouts, [(payout_id, columns)])
        await db.run(rows.add_attention, payout_id, "unknown_word", HOSTILE, 1)
        return payout_id


def test_a_hostile_payout_is_shown_as_text(config: Path) -> None:
    """No crash, no escape sequence, no line that the tenant made; every character can be read."""
    payout_id = asyncio.run(_hostile_payout(config))
    for command in (("show", payout_id), ("list",), ("list", "--attention")):
        text = run("payouts", *command, "--config", config)
        assert is_harmless(text), (command, text)
        assert not [line for line in text.splitlines() if line.startswith("pay_fake")]
    story = run("payouts", "show", payout_id, "--config", config)
    for each in READABLE:
        assert each in story


def test_json_keeps_the_value(config: Path) -> None:
    """Escaped as JSON escapes, so that a script reads the very text, and a terminal nothing of it."""
    payout_id = asyncio.run(_hostile_payout(config))
    text = run("payouts", "show", payout_id, "--json", "--config", config)
    assert is_harmless(text)
    assert len(text.splitlines()) == 1
    assert json.loads(text)["payout"]["reference"] == HOSTILE


def test_an_endpoints_words_are_shown_as_text(config: Path) -> None:
    """A tenant chooses its endpoint's URL; the operator lists the endpoints of all."""
    with sqlite3.connect(config.with_name("g.db")) as db:
        db.execute(
            "INSERT INTO endpoints (id, org, mode, url, event_types, secret, status, created_at) "
            "VALUES ('whe_1', 'o', 'live', ?, '[]', X'00', 'enabled', 1)",
            ("https://[bold]x[/i]/\x1b[2J\u202e",),
        )
    db.close()
    text = run("webhooks", "list", "--config", config)
    assert is_harmless(text)
    assert "[bold]" in text


def test_errors_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """A message that contains foreign text with a line break is still one line."""
    with pytest.raises(Exception, match="1"):
        fail(f"there is no payout {HOSTILE}")
    with pytest.raises(Exception, match="2"):
        fail(CallError("invalid_batch: two faults", f"  /lines/2: {HOSTILE}").lines, 2)
    text = capsys.readouterr().err
    assert is_harmless(text)
    assert len(text.splitlines()) == 3


def test_a_progress_bar_takes_no_markup() -> None:
    """The state that a gateway answers is a text, too."""
    out = io.StringIO()
    console = printing.console()
    console.file = out
    with Progress(*progress_columns(), console=console) as progress:
        progress.add_task(printing.cell(HOSTILE).plain, total=1, failed=0)
    assert is_harmless(out.getvalue())
    assert "[/b] [red]paid[/red] :warning:" in out.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_log_lines_are_harmless(form: Any) -> None:
    """What a custodian or a tenant wrote comes into the log as text, on the line of its record."""
    out = io.StringIO()
    logs.configure(form, "info", stream=out)
    logs.get_logger("t").info("webhook_kept", dedup_key=HOSTILE, nested={"a": [HOSTILE]})
    assert is_harmless(out.getvalue())
    assert len(out.getvalue().splitlines()) == 1
    if form == "json":
        assert json.loads(out.getvalue())["dedup_key"] == HOSTILE


def test_there_is_one_way_to_print() -> None:
    """No command writes past the helper: `print`, `typer.echo`, a stream, or a console of its own."""
    past = []
    for path in sorted(Path(printing.__file__).parent.glob("*.py")):
        if path.name == "printing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                if call in {"print", "Console"} or call.endswith(
                    (".echo", ".secho", "stdout.write", "stderr.write", ".print")
                ):
                    past.append(f"{path.name}:{node.lineno} {call}")
    assert past == []
