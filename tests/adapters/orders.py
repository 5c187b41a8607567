"""Orders for adapter tests; authors of adapters get them with the kit."""

from __future__ import annotations

from gateway.testing.orders import ELAPSED, Elapsed, ItemForTest, Mark, OrderForTest, step_key

__all__ = ["ELAPSED", "Elapsed", "ItemForTest", "Mark", "OrderForTest", "step_key"]
