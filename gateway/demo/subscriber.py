"""The platform's side of the webhooks: a receiver that believes only what it can verify."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from rich.console import Console
from standardwebhooks import Webhook


@dataclass
class Subscriber:
    """The platform's webhook endpoint. It verifies with a library that is not ours."""

    console: Console
    secret: str = ""
    url: str = ""
    #: (payout, event type) by webhook id, so that a double is seen as one
    verified: dict[str, tuple[str, str]] = field(default_factory=dict)
    refused: int = 0

    async def receive(self, request: web.Request) -> web.Response:
        """Verify a delivery and say so."""
        body = await request.read()
        message_id = request.headers.get("webhook-id", "")
        try:
            event = Webhook(self.secret).verify(body, dict(request.headers))
        except Exception as error:  # noqa: BLE001 - the library has several
            self.refused += 1
            self.console.print(
                f"  webhook  {message_id} [red]not verified[/red]: {type(error).__name__}"
            )
            return web.Response(status=400)
        payout = event["data"]
        self.verified[message_id] = (payout["id"], event["type"])
        if event["type"].startswith("batch."):
            self.console.print(
                f"  webhook  {event['type']:<22} {payout['delivered_count']} of "
                f"{payout['item_count']} delivered  [green]signature verified[/green]",
                soft_wrap=True,
            )
            return web.Response(status=204)
        self.console.print(
            f"  webhook  {event['type']:<22} {payout['quote']['recipient_gets']:>6} "
            f"{payout['quote']['recipient_asset']}  no. {payout['sequence']}  "
            "[green]signature verified[/green]",
            soft_wrap=True,
        )
        return web.Response(status=204)

    def types(self, payout_id: str) -> set[str]:
        """Return the event types that arrived for a payout, verified."""
        return {kind for owner, kind in self.verified.values() if owner == payout_id}


@asynccontextmanager
async def listening_subscriber(console: Console) -> AsyncIterator[Subscriber]:
    """Listen on a free port of loopback."""
    subscriber = Subscriber(console)
    app = web.Application()
    app.router.add_post("/webhooks", subscriber.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        subscriber.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks"
        yield subscriber
    finally:
        await runner.cleanup()
