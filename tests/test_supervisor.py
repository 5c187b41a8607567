"""The supervisor: when it starts a worker again, and when not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from gateway.config.settings import Settings
from gateway.supervisor import Supervisor, pause_after

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_a_worker_that_dies_again_and_again_waits_longer() -> None:
    """Half a second, then twice as long each time, up to half a minute."""
    pauses, pause = [], 0.0
    for _ in range(9):
        pause = pause_after(pause, 0.1)
        pauses.append(pause)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_that_has_served_for_a_while_begins_anew() -> None:
    """Its death is news."""
    assert pause_after(30, 3600) == 0.5


def _supervisor(program: str, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    monkeypatch.setattr("gateway.supervisor._MARGIN_S", 0.1)
    settings = Settings.model_validate({"server_key": KEY, "process": {"stop_within_s": 2}})
    command = [sys.executable, "-c", f"import sys, time, os, signal\n{program}"]
    return Supervisor(settings, command, 2, listens=False, port=None)


async def test_a_wrong_set_up_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a worker has served nothing is tried again."""
    async with asyncio.timeout(20):
        assert await _supervisor("sys.exit(2)", monkeypatch).run() == 2


async def test_a_worker_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code says that one had to be."""
    program = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.write(int(sys.argv[2].split(',')[1]), b'r')\ntime.sleep(60)"
    )
    ready: list[str] = []

    def stop(url: str) -> None:
        ready.append(url)
        os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.timeout(30):
        assert await _supervisor(program, monkeypatch).run(stop) == 1
    assert ready == [""]
