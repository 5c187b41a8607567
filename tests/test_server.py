"""The process that serves."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway import server
from gateway.config.settings import Settings


@pytest.fixture
def as_before() -> Iterator[None]:
    """Leave the interpreter as it was: `run` is for a process of its own."""
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    gc.unfreeze()


@pytest.mark.usefixtures("as_before")
def test_what_exists_once_it_serves_is_set_aside_by_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anybody is told that it serves: a full collection would stop it for tens of milliseconds."""

    async def serve(
        _: Settings, *, port: int | None, ready: Callable[[str], None], **_others: Any
    ) -> int:
        assert gc.get_freeze_count() == 0
        ready(f"http://127.0.0.1:{port}")
        return 0

    told: list[Any] = []
    monkeypatch.setattr(server, "serve", serve)
    settings = Settings.model_construct()
    code = server.run(
        settings, port=7, ready=lambda url: told.append((url, gc.get_freeze_count() > 10_000))
    )
    assert (code, told) == (0, [("http://127.0.0.1:7", True)])
