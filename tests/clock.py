"""The clock that stands still until a test moves it; authors of adapters get it with the kit."""

from __future__ import annotations

from gateway.testing.clock import SetClock

__all__ = ["SetClock"]
