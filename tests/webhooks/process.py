"""A gateway without custodians as a process of its own, which publishes what it is told. Run by its tests.

Its argument is a JSON object: `database`, `at` (a failpoint at which it kills itself) and `occurrence`.
On standard input, one JSON value a line: `{"subscribe": [org, url]}`, `{"publish": org}`, `{"id": true}`.
Each is answered by a line: the endpoint's id, the event's id, the gateway's id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import replace
from typing import Any

import structlog

from gateway.app import Gateway, open_gateway
from gateway.caller import Caller
from gateway.config.settings import Settings
from gateway.events import Event, publish
from gateway.runtime import Failpoint, real_runtime
from gateway.webhooks.subscriptions import EndpointRequest


async def answer(gateway: Gateway, asked: dict[str, Any]) -> str:
    """Do what is asked."""
    context = gateway.context
    if "subscribe" in asked:
        org, url = asked["subscribe"]
        request = EndpointRequest(url=url, rate_limit_per_second=5000)
        caller = Caller(org, "live", "test")
        return (await gateway.db.run(context.endpoints.create, caller, request)).id
    if "publish" in asked:
        event = Event("payout.created", b'{"type":"payout.created"}')
        now = context.runtime.clock.now()
        org = asked["publish"]
        (made,) = await gateway.db.run(publish, context.runtime, org, "live", now, [event])
        return made.id
    return context.gateway_id


async def run(wanted: dict[str, Any]) -> None:
    """Serve until standard input ends."""
    left = wanted.get("occurrence", 1)

    def failpoint(here: Failpoint) -> None:
        nonlocal left
        if here == wanted.get("at"):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    def fail(error: BaseException) -> None:
        sys.stderr.write(f"a loop died: {error!r}\n")
        os._exit(3)

    # Standard output is for the answers.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = Settings.model_validate(
        {
            "database": wanted["database"],
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "webhooks": {"allow_private_addresses": True, "timeout_s": 30},
        }
    )
    runtime = replace(real_runtime(), failpoint=failpoint)
    async with open_gateway(settings, runtime=runtime) as gateway, gateway.workers.running(fail):
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(await answer(gateway, json.loads(line)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
