"""What libraries say of failed calls, in words for operators."""

from __future__ import annotations

import builtins
import json

import aiohttp
import pytest
from aiohttp import client_exceptions

from gateway.custodians import wording
from gateway.custodians.wording import plain
from gateway.testing.stack import free_port


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "no connection (ClientConnectorDNSError)",
            "no connection (the host name cannot be resolved)",
        ),
        ("create: no answer (SocketTimeoutError)", "create: no answer (the answer took too long)"),
        ("ServerDisconnectedError: Server disconnected", "the connection was closed"),
        ("balances of V 7: Server disconnected", "balances of V 7: the connection was closed"),
        (
            "Cannot connect to host 127.0.0.1:1 ssl:default [Connect call failed ('127.0.0.1', 1)]",
            "no connection to 127.0.0.1:1: the server does not accept the connection",
        ),
        (
            "Cannot connect to host x.example:443 ssl:default [Name or service not known]",
            "no connection to x.example:443: Name or service not known",
        ),
        ("HTTP 409", "HTTP 409"),
        ("MyTimeoutError", "MyTimeoutError"),
    ],
)
def test_words(text: str, words: str) -> None:
    """Names of errors and the library's own sentences are replaced, and nothing else."""
    assert plain(text) == words


def test_every_name_is_one_of_an_error() -> None:
    """None is left over from an older library."""
    known = {*dir(client_exceptions), *dir(aiohttp), *dir(builtins), *dir(json)}
    assert wording._ERRORS.keys() <= known


async def test_a_refused_connection_in_words() -> None:
    """As the library words it now."""
    port = free_port()
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError) as raised:
            await http.get(f"http://127.0.0.1:{port}/")
    assert plain(str(raised.value)) == (
        f"no connection to 127.0.0.1:{port}: the server does not accept the connection"
    )
