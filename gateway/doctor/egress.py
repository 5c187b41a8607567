"""The egress guard: deliveries must not reach inner addresses, tried with the client that they use."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from gateway.config.settings import WebhookSettings
from gateway.doctor.findings import Finding, failed, ok, warning
from gateway.egress import DeniedAddressError
from gateway.webhooks.sender import client_for

_CHECK = "egress guard"
_TRY_S = 3.0
#: The metadata service of most clouds.
_METADATA = "169.254.169.254"


async def check(settings: WebhookSettings) -> list[Finding]:
    """Try to deliver to an inner address of this machine, or to have the proxy do it."""
    if settings.egress_proxy is not None:
        return [await _proxy(settings.egress_proxy)]
    if settings.allow_private_addresses:
        return [
            warning(
                _CHECK,
                "webhooks.allow_private_addresses is on: the holder of an API key can make the gateway call "
                "addresses of your inner network",
                "turn it off, unless this is a development machine or a closed network",
            )
        ]
    reached = [
        host for host in ("127.0.0.1", "localhost", _METADATA) if await _reaches(settings, host)
    ]
    if reached:
        return [
            failed(
                _CHECK,
                f"deliveries are not kept from {', '.join(reached)}",
                "stop the role `sender`, and report it: this is a fault of the program",
            )
        ]
    return [ok(_CHECK, f"refuses this machine and the metadata address {_METADATA}")]


async def _reaches(settings: WebhookSettings, host: str) -> bool:
    """Whether a delivery to a listener of ours on this machine would be sent there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://{host}:{listener.getsockname()[1]}/"
        async with client_for(settings) as client:
            try:
                await client.post(url, {}, b"{}", timeout_s=_TRY_S, scope="doctor")
            except DeniedAddressError:
                return False
            except (OSError, ValueError) as error:
                return not isinstance(error.__cause__, DeniedAddressError)
    return True


async def _proxy(address: str) -> Finding:
    """Check that the proxy can be reached, and that it refuses inner addresses."""
    check, parts = "egress proxy", urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    for target in ("127.0.0.1:80", f"{_METADATA}:80"):
        try:
            async with asyncio.timeout(_TRY_S):
                status = await _tunnel(
                    parts.hostname or "", port, target, tls=parts.scheme == "https"
                )
        except (OSError, TimeoutError, ValueError) as error:
            words = str(error) or type(error).__name__
            return failed(
                check,
                f"{address} cannot be used: {words}",
                "start the proxy, or correct webhooks.egress_proxy: nothing is delivered without it",
            )
        if status < 300:  # noqa: PLR2004 - a tunnel was made
            return failed(
                check,
                f"{address} makes a connection to {target}",
                "have the proxy refuse loopback, private and link-local addresses",
            )
    return ok(check, f"{address} answers, and refuses inner addresses")


async def _tunnel(host: str, port: int, target: str, *, tls: bool) -> int:
    """Ask a proxy for a tunnel; return the status of its answer."""
    reader, writer = await asyncio.open_connection(host, port, ssl=tls or None)
    try:
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        await writer.drain()
        _, status, *_ = (await reader.readline()).split(b" ", 2)
        return int(status)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
