"""Which addresses deliveries may go to.

There are three checks: of the URL when it is configured, of every address that its name resolves to,
and of the concrete address when it is dialled (a resolver never sees a literal host, and names may
change between the look-up and the call). `ipaddress.is_global` is not enough, because it calls NAT64,
6to4 and multicast forms of inner addresses global; this module has its own table. Of IPv6, only global
unicast (2000::/3) without the networks of the table is allowed.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

#: Networks to which no delivery goes, each with its description. Each row has a test.
DENIED: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by carriers"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "metadata and DNS of Azure, under a public address"),
    ("169.254.0.0/16", "link-local, also cloud metadata"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "6to4 relays"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarks"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved, also broadcast"),
    ("::/96", "unspecified, loopback, IPv4-compatible"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
    ("64:ff9b::/96", "NAT64"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("100::/64", "discard"),
    ("2001::/23", "protocol assignments, also Teredo"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("3ffe::/16", "the former 6bone"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "unique local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_NETWORKS: tuple[IPNetwork, ...] = tuple(ipaddress.ip_network(text) for text, _ in DENIED)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: The upper half of an ISATAP interface id (RFC 5214), under any prefix; the lower half is an IPv4 address.
_ISATAP = 0x0000_5EFE
#: The mask that ignores the bits "universal" and "group".
_ISATAP_MASK = 0xFCFF_FFFF
MAX_URL = 2048
PORTS = frozenset({443, 8443})
#: Texts that libraries accept as an address: digits, dots, hexadecimal and octal forms.
LITERAL = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)
_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}", re.IGNORECASE)
#: Names that denote this machine or this network, whatever they resolve to.
_INNER_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".onion")


class DeniedAddressError(OSError):
    """The address is not public, and the setting that allows such ones is off."""


def denied(address: str, more: Sequence[IPNetwork] = ()) -> bool:
    """Whether deliveries may not go to this address, unless configured. Pure.

    `more` has further denied networks.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _GLOBAL_UNICAST or _is_isatap(ip)):
        return True
    return any(ip in network for network in (*_NETWORKS, *more) if network.version == ip.version)


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's interfaces, now. Sends nothing.

    It asks the kernel which source address it would use: for one of its own addresses, that is the same
    address. Unlike a list of interfaces, this needs no privilege and is never out of date.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6  # noqa: PLR2004
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # For a datagram socket, this only sets the peer. Any port except 0 will do.
            probe.connect((str(ip), 9))
            source = probe.getsockname()[0]
    except OSError:
        # There is no route, so the address cannot be dialled either.
        return False
    return ipaddress.ip_address(source.partition("%")[0]) == ip


def _is_isatap(ip: ipaddress.IPv6Address) -> bool:
    return (int(ip) >> 32) & _ISATAP_MASK == _ISATAP


#: Letters of a host, a literal address, and a port.
_AUTHORITY = re.compile(r"[A-Za-z0-9._:%\[\]-]+")


def url_fault(url: str, *, live: bool, allow_private: bool) -> str | None:  # noqa: PLR0911 - one per rule
    """Return why events can never be posted to a URL ("must be https"), or None. Pure; no look-up."""
    if len(url) > MAX_URL:
        return f"has {len(url)} characters; {MAX_URL} are allowed"
    if not url.isascii() or any(each <= " " or each in "\\\x7f" for each in url):
        return "has characters that no URL has; encode them (a name in punycode)"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    named = parts.hostname and _AUTHORITY.fullmatch(parts.netloc.rpartition("@")[2])
    if parts.scheme not in {"http", "https"} or not named:
        return "must be an absolute https:// URL"
    if parts.username is not None or parts.password is not None:
        return "must not carry a user name or password"
    if "#" in url:
        return "must not carry a fragment"
    if allow_private:
        return None
    if parts.scheme == "http" and live:
        return "must be https in live mode"
    if port is not None and port not in PORTS and not (port == 80 and not live):  # noqa: PLR2004
        return "must use port 443 or 8443"
    return _host_fault(parts)


def _host_fault(parts: SplitResult) -> str | None:
    host = (parts.hostname or "").rstrip(".")
    if ":" in host or LITERAL.fullmatch(host):
        return "must name its host; an address is not taken"
    if not _NAME.fullmatch(host):
        return "must name its host in full, as in hooks.example.com"
    if ("." + host.lower()).endswith(_INNER_NAMES):
        return "names a host of an inner network"
    return None
