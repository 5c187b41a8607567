"""The only way out to addresses that customers name.

Each address is checked when it is dialled, whatever name led to it. `ipaddress.is_global` is not
the rule: it calls NAT64, 6to4 and multicast forms of inner addresses global. The table is ours.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import aiohttp

_DENIED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/96",
        "::1/128",
        "::ffff:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


class DeniedAddressError(OSError):
    """The address is not public, and the setting that allows such ones is off."""


def denied(address: str) -> bool:
    """Whether deliveries may not go to this address, unless configured."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return any(ip in network for network in _DENIED if network.version == ip.version)


def connector(*, allow_private_addresses: bool) -> aiohttp.TCPConnector:
    """Return a connector that dials public addresses only, unless told otherwise.

    The socket factory sees every concrete address, literal hosts too, which no resolver would.
    """

    def dial(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not allow_private_addresses and denied(str(address[0])):
            msg = "the address of this endpoint is not public"
            raise DeniedAddressError(msg)
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(socket_factory=dial, use_dns_cache=False, limit=0)
