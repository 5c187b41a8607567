"""The clock that stands still until it is told to move; authors of adapters get it with the kit."""

from __future__ import annotations

from gateway.testing.clock import SetClock

__all__ = ["SetClock"]
