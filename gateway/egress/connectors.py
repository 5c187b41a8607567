"""Connectors, which dial endpoints that customers name and custodians."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from gateway.egress.addresses import DeniedAddressError, IPNetwork, denied, is_own
from gateway.egress.answers import BoundedHandler
from gateway.egress.lookups import Lookups

#: A call of a custodian may wait longer for a name than a delivery.
CUSTODIAN_LOOKUP_S = 15.0
CUSTODIAN_THREADS = 4


class PublicResolver(AbstractResolver):
    """Resolves names; it refuses the whole result if any address is not public."""

    def __init__(self, resolver: AbstractResolver, more: Sequence[IPNetwork] = ()) -> None:
        self._resolver = resolver
        self._more = more

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses. Raises DeniedAddressError if one of them is not public."""
        found = await self._resolver.resolve(host, port, family)
        if any(denied(each["host"], self._more) for each in found):
            msg = "the name of this endpoint has an address that is not public"
            raise DeniedAddressError(msg)
        return found

    async def close(self) -> None:
        """Close the resolver below."""
        await self._resolver.close()


class Guard:
    """Which addresses deliveries may connect to: only public ones, unless configured otherwise.

    `denied_networks` are refused like those of the table.
    """

    def __init__(
        self, *, allow_private_addresses: bool, denied_networks: Sequence[IPNetwork] = ()
    ) -> None:
        self._private = allow_private_addresses
        self._more = denied_networks

    def resolver(self, below: AbstractResolver) -> AbstractResolver:
        """Return a resolver that refuses a set of addresses in which one is not public."""
        return below if self._private else PublicResolver(below, self._more)

    def socket_for(self, info: tuple[Any, ...]) -> socket.socket:
        """Return a socket for an address that is about to be dialled. Raises DeniedAddressError.

        It sees every concrete address, literal hosts too; it also refuses the machine's own addresses,
        public ones included.
        """
        family, kind, protocol, _, address = info
        if not self._private:
            if denied(str(address[0]), self._more):
                msg = "the address of this endpoint is not public"
                raise DeniedAddressError(msg)
            if is_own(str(address[0])):
                msg = "the address of this endpoint is this machine's own"
                raise DeniedAddressError(msg)
        return socket.socket(family, kind, protocol)


class BoundedConnector(aiohttp.TCPConnector):
    """A connector whose connections bound what comes before a final status."""

    def __init__(self, resolver: AbstractResolver, *, owner: bool, **options: Any) -> None:
        super().__init__(resolver=resolver, **options)
        #: whether closing the connector closes the resolver
        self._resolver_owner = owner
        # aiohttp has no public hook for it; tests/egress/test_answers.py fails if this one moves.
        self._factory = cast("partial[ResponseHandler]", partial(BoundedHandler, self._loop))


def connector(
    *,
    allow_private_addresses: bool,
    resolver: AbstractResolver | None = None,
    owner: bool = False,
    keepalive_s: float = 3.0,
    denied_networks: Sequence[IPNetwork] = (),
) -> aiohttp.TCPConnector:
    """Return a connector that connects only to public addresses, unless configured otherwise.

    `denied_networks` are refused as those of the table are. No look-up is cached: each connection
    resolves and checks again. With `owner`, closing the connector closes the resolver. Needs a running
    loop.
    """
    guard = Guard(allow_private_addresses=allow_private_addresses, denied_networks=denied_networks)
    return BoundedConnector(
        guard.resolver(resolver or Lookups("endpoint-names")),
        owner=resolver is None or owner,
        socket_factory=guard.socket_for,
        use_dns_cache=False,
        keepalive_timeout=keepalive_s,
        limit=0,
    )


def custodian_connector(name: str = "custodian") -> aiohttp.TCPConnector:
    """Return a connector for the calls of one custodian instance. Needs a running loop.

    Its addresses come from the operator's configuration, so they are not checked. Its look-ups have
    their own threads, which neither endpoints nor other custodians can occupy.
    """
    lookups = Lookups(f"names-{name}", deadline_s=CUSTODIAN_LOOKUP_S, threads=CUSTODIAN_THREADS)
    return BoundedConnector(lookups, owner=True, limit=0)
