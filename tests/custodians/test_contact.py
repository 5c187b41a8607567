"""Whether a custodian answers and takes our credentials, as its own server's answers tell it."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from gateway.custodians.contact import Contact
from gateway.egress.traces import joined
from tests.e2e.stack import free_port


async def test_answers_tell_whether_a_custodian_works() -> None:
    """Three bad ones in a row do; one good one is enough; a port where nobody listens is seen, too."""
    contact, other, statuses = Contact(), Contact(), [200]

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=statuses[0])

    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        traces = joined(contact.tracing(), other.tracing())
        async with aiohttp.ClientSession(trace_configs=[traces]) as http:

            async def ask(status: int, times: int) -> str | None:
                statuses[0] = status
                for _ in range(times):
                    async with http.get(url):
                        pass
                return contact.degraded

            assert await ask(200, 1) is None
            assert await ask(401, 2) is None
            assert await ask(401, 1) == "refuses_credentials"
            # It looked at the request: that is an answer.
            assert await ask(404, 1) is None
            assert await ask(503, 3) == "failing"
            assert await ask(429, 1) is None
            url = f"http://127.0.0.1:{free_port()}/"
            for _ in range(3):
                with pytest.raises(aiohttp.ClientConnectorError):
                    await ask(200, 1)
            assert contact.degraded == "unreachable"
            # Traces that are joined all hear of every request.
            assert other.degraded == "unreachable"
    finally:
        await runner.cleanup()
