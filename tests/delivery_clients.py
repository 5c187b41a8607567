"""Both clients of deliveries, for tests that run against each: what one does, the other must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver

from gateway.egress import Guard, KeepAliveClient, LibraryClient, connector
from gateway.egress.lookups import Lookups

KINDS = ("keepalive", "library")
each_client = pytest.mark.parametrize("kind", KINDS)


def client(
    kind: str = "keepalive",
    *,
    private: bool = True,
    resolver: AbstractResolver | None = None,
    denied_networks: Sequence[Any] = (),
) -> KeepAliveClient | LibraryClient:
    """Return a client; use it with `async with`."""
    if kind == "library":
        return LibraryClient(
            connector(
                allow_private_addresses=private,
                resolver=resolver,
                owner=True,
                denied_networks=denied_networks,
            )
        )
    guard = Guard(allow_private_addresses=private, denied_networks=denied_networks)
    return KeepAliveClient(guard, resolver or Lookups("endpoint-names"))
