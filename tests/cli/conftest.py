"""Commands configure logging for their process; here they share one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway import logs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Put logging back as it was."""
    yield
    logs.unconfigure()
