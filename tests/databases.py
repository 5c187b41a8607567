"""Fresh databases for tests; authors of adapters get them with the kit."""

from __future__ import annotations

from gateway.testing.databases import make_database

__all__ = ["make_database"]
