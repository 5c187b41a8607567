"""What is in deploy/: its command lines start the processes that they say, on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.settings import load
from tests.e2e.stack import DUMMY, stack
from tests.postgres import place_of

_DEPLOY = Path("deploy")
pytestmark = pytest.mark.timeout(120)


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())
    return loaded


def _unit() -> dict[str, str]:
    text = (_DEPLOY / "systemd" / "payout-gateway@.service").read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def _commands() -> Iterator[list[str]]:
    """Each command line of both, without the program."""
    for name, service in _compose()["services"].items():
        if name != "database":
            yield service["command"]
    for role in ("api", "engine", "sender"):
        yield shlex.split(_unit()["ExecStart"].replace("%i", role))[1:]


def test_two_processes_of_each_role() -> None:
    """They have the database, the configuration and time to stop; all that they name is declared."""
    compose = _compose()
    gateways = {n: each for n, each in compose["services"].items() if n != "database"}
    assert set(gateways) == {"api", "engine", "sender"}
    for each in gateways.values():
        assert each["deploy"]["replicas"] == 2
        assert int(each["stop_grace_period"].removesuffix("s")) > 20
        assert set(each["secrets"]) <= set(compose["secrets"])
        assert each["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert _unit()["Restart"] == "always"


def test_the_url_of_a_file_goes_before_the_path_of_the_image(tmp_path: Path) -> None:
    """The image names a SQLite file in its environment; the compose file names a file with a URL."""
    (tmp_path / "url").write_text("postgresql://u:p@database:5432/payouts\n")
    (tmp_path / "g.toml").write_text("")
    key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    environ = {
        "PAYOUT_GATEWAY_DATABASE": "/var/lib/payout-gateway/payout-gateway.db",
        "PAYOUT_GATEWAY_DATABASE_FILE": str(tmp_path / "url"),
        "PAYOUT_GATEWAY_SERVER_KEY": key,
    }
    found = load(tmp_path / "g.toml", environ).postgres
    assert found is not None
    assert found.label == "postgresql:database:5432/payouts"
    assert found.password == "p"


async def test_the_command_lines_start(tmp_path: Path) -> None:
    """Each becomes ready in its role, beside the others, and ends with 0 on SIGTERM."""
    async with stack(tmp_path, rail=DUMMY, database=place_of("postgresql")) as made:
        commands = [list(each) for each in {tuple(each): None for each in _commands()}]
        assert len(commands) == 3
        environ = {**os.environ, "PAYOUT_GATEWAY_CONFIG": str(made.config)}
        running = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "ignore", "-m", "gateway", *command),
                env=environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            for command in commands
        ]
        try:
            for command, process in zip(commands, running, strict=True):
                assert process.stdout is not None
                line = b""
                while b"ready" not in line or b"roles" not in line:
                    line = await process.stdout.readline()
                    assert line, f"{command} ended"
                assert command[-1].encode() in line
        finally:
            for process in running:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
            ended = [await process.wait() for process in running]
        assert ended == [0, 0, 0]
