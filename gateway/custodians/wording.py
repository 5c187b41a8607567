"""Turns what an adapter or its library says about a failed call into words for an operator. Pure."""

from __future__ import annotations

import re

#: The words for each error name that adapters and the gateway put into their messages.
_ERRORS = {
    "ClientConnectorDNSError": "the host name cannot be resolved",
    "ClientConnectorCertificateError": "the certificate of the server is not trusted",
    "ClientConnectorSSLError": "no TLS connection can be made",
    "ClientSSLError": "no TLS connection can be made",
    "ClientConnectorError": "the server does not accept the connection",
    "ClientProxyConnectionError": "the proxy does not accept the connection",
    "ClientConnectionResetError": "the connection was reset",
    "ClientConnectionError": "the connection failed",
    "ClientOSError": "the connection was reset",
    "ClientPayloadError": "the answer broke off",
    "ConnectionTimeoutError": "connecting took too long",
    "ConnectionResetError": "the connection was reset",
    "InvalidURL": "the address is not valid",
    "ServerDisconnectedError": "the connection was closed",
    "ServerTimeoutError": "the answer took too long",
    "SocketTimeoutError": "the answer took too long",
    "TimeoutError": "the answer took too long",
    "JSONDecodeError": "the answer is not JSON",
}
_NAMES = re.compile(rf"\b({'|'.join(_ERRORS)})\b")
#: The library's own message about a connection that could not be made.
_CONNECT = re.compile(r"Cannot connect to host (\S+) ssl:\S+ \[(.*)\]")
_DISCONNECTED = re.compile(r"(ServerDisconnectedError: )?Server disconnected")
_CALL_FAILED = re.compile(r"(Multiple exceptions: )?(\[Errno \d+\] )?Connect call failed .*")


def plain(text: str) -> str:
    """Return a message in which plain words replace error names and library messages."""
    text = _DISCONNECTED.sub(_ERRORS["ServerDisconnectedError"], _CONNECT.sub(_connection, text))
    return _NAMES.sub(lambda found: _ERRORS[found[1]], text)


def _connection(found: re.Match[str]) -> str:
    reason = _CALL_FAILED.sub(_ERRORS["ClientConnectorError"], found[2])
    return f"no connection to {found[1]}: {reason}"
