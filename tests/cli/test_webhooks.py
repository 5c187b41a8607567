"""`webhooks`: operators over the store, developers over the feed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook
from typer.testing import CliRunner

from gateway.caller import Caller
from gateway.cli.listen import Listener, ListenError
from gateway.cli.main import app
from gateway.config.settings import load
from gateway.events import Event, publish
from gateway.runtime import real_runtime
from gateway.store.database import Tx
from gateway.store.opening import open_database
from gateway.vault import Vault
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.subscriptions import EndpointRequest


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A fresh configuration with a database."""
    path = tmp_path / "g.toml"
    assert CliRunner().invoke(app, ["init", "--config", str(path)]).exit_code == 0
    assert CliRunner().invoke(app, ["db", "upgrade", "--config", str(path)]).exit_code == 0
    return path


def run(config: Path, *arguments: object, code: int = 0) -> str:
    """Run a command of the group; return what it printed."""
    words = ["webhooks", *map(str, arguments), "--config", str(config)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


async def told(config: Path, url: str = "https://hooks.example.com/") -> tuple[str, str]:
    """Make an endpoint and an event for it; return their ids."""
    settings, runtime = load(config), real_runtime()
    caller = Caller("acme", "live", "k")
    use = Endpoints(runtime, Vault(settings.server_key_bytes(), runtime.ids), settings)

    async def work(tx: Tx) -> tuple[str, str]:
        made = await use.create(tx, caller, EndpointRequest(url=url))
        event = Event("payout.created", b'{"type":"payout.created"}')
        (published,) = await publish(tx, runtime, "acme", "live", runtime.clock.now(), [event])
        return made.id, published.id

    async with open_database(settings) as db:
        return await db.run(work)


def test_an_operator_sees_and_heals(config: Path) -> None:
    """Listed with what is due; disabled and enabled; recovered; sent again."""
    endpoint_id, event_id = asyncio.run(told(config))
    (row,) = json.loads(run(config, "list", "--json"))["data"]
    assert (row["id"], row["org"], row["status"], row["due"]) == (
        endpoint_id,
        "acme",
        "enabled",
        1,
    )
    assert endpoint_id in run(config, "list")
    assert "is disabled" in run(config, "disable", endpoint_id)
    (row,) = json.loads(run(config, "list", "--json"))["data"]
    assert (row["status"], row["disabled_reason"]) == ("disabled", "by_you")
    log = ("audit", "list", "--json", "--subject", endpoint_id, "--config", str(config))
    (act,) = json.loads(CliRunner().invoke(app, log).stdout)["data"]
    assert (act["act"], act["before"], act["after"]) == (
        "endpoint_changed",
        {"status": "enabled"},
        {"status": "disabled"},
    )
    assert "disabled" in run(config, "resend", event_id, "--endpoint", endpoint_id, code=1)
    assert "nothing is sent" in run(config, "resend", event_id, code=1)
    assert "recovered" in run(config, "enable", endpoint_id)
    assert "is due again" in run(config, "resend", event_id)
    assert "rec_" in run(config, "recover", endpoint_id, "--since", "2026-01-01T00:00:00Z")
    jobs = json.loads(run(config, "recoveries", endpoint_id, "--json"))["data"]
    assert [job["state"] for job in jobs] == ["running", "running"]
    assert json.loads(run(config, "tries", endpoint_id, "--json")) == {"data": []}
    assert "Tries" in run(config, "tries", event_id)


@pytest.mark.parametrize(
    "words",
    [
        ("resend", "evt_none"),
        ("tries", "whe_none"),
        ("enable", "whe_none"),
        ("recover", "whe_none", "--since", "2026-01-01"),
        ("recoveries", "whe_none"),
    ],
)
def test_what_is_not_there(config: Path, words: tuple[str, ...]) -> None:
    """Said in one line."""
    assert "there is no endpoint or event" in run(config, *words, code=1)


def test_a_span_that_cannot_be(config: Path) -> None:
    """Since after now."""
    endpoint_id, _ = asyncio.run(told(config))
    assert "since must be before" in run(
        config, "recover", endpoint_id, "--since", "2999-01-01", code=1
    )


class Feed:
    """A gateway's feed and a developer's program, on one port."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answer = 200

    async def feed(self, request: web.Request) -> web.Response:
        """Serve `GET /events`; the cursor is a count."""
        self.keys.add(request.headers["authorization"])
        if self.status != 200:
            return web.Response(status=self.status)
        at = int(request.query.get("cursor", len(self.events)))
        page = self.events[at : at + 2]
        more = at + 2 < len(self.events)
        return web.json_response(
            {"data": page, "next_cursor": str(at + len(page)), "has_more": more}
        )

    async def take(self, request: web.Request) -> web.Response:
        """Be the developer's program."""
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.answer)


@asynccontextmanager
async def listening(
    feed: Feed, lines: list[str], events: str = "*"
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a listener between both."""
    server = web.Application()
    server.router.add_get("/events", feed.feed)
    server.router.add_post("/hook", feed.take)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    listener = Listener(
        gateway=base,
        api_key="pg_live_k",
        forward_to=base + "/hook",
        secret="",
        events=events,
        every_s=0.1,
        tell=lines.append,
    )
    task = asyncio.create_task(listener.run())
    try:
        async with asyncio.timeout(10):
            while not any("secret" in line for line in lines) and not task.done():
                await asyncio.sleep(0.01)
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ListenError):
            await task
        await runner.cleanup()


def event(number: int, kind: str = "payout.delivered") -> dict[str, Any]:
    """Return an event of the feed."""
    return {
        "id": f"evt_{number}",
        "type": kind,
        "timestamp": "2026-03-02T10:00:00.000Z",
        "api_version": "1",
        "data": {"id": "pay_1", "note": "Zoë", "amount": "1.50"},
    }


async def _until(feed: Feed, count: int) -> None:
    async with asyncio.timeout(10):
        while len(feed.got) < count:
            await asyncio.sleep(0.01)


async def test_events_of_now_and_later_are_forwarded() -> None:
    """Each once, in order, signed as a webhook is; two libraries of others verify it."""
    feed, lines = Feed(), list[str]()
    feed.events = [event(0)]
    async with listening(feed, lines):
        feed.events += [event(n) for n in range(1, 6)]
        await _until(feed, 5)
    assert feed.keys == {"Bearer pg_live_k"}
    assert [headers["webhook-id"] for headers, _ in feed.got] == [f"evt_{n}" for n in range(1, 6)]
    secret = next(re.findall(r"whsec_\S+", line)[0] for line in lines if "whsec_" in line)
    for headers, body in feed.got:
        assert Webhook(secret).verify(body, headers)["data"]["note"] == "Zoë"
        SvixWebhook(secret).verify(body, headers)
        told = {**event(0), "id": headers["webhook-id"]}
        assert body.decode() == json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    assert sum("-> 200" in line for line in lines) == 5


async def test_a_program_that_fails_is_told_of() -> None:
    """And the next event comes all the same; types are filtered."""
    feed, lines = Feed(), list[str]()
    feed.answer = 500
    async with listening(feed, lines, "payout.f*"):
        feed.events += [event(1), event(2, "payout.failed"), event(3, "payout.failed")]
        await _until(feed, 2)
        await asyncio.sleep(0.05)
    assert sum("-> 500" in line for line in lines) == 2


async def test_a_gateway_that_restarts_is_waited_for() -> None:
    """Nothing is missed: the cursor stands."""
    feed, lines = Feed(), list[str]()
    async with listening(feed, lines):
        feed.status = 503
        await asyncio.sleep(0.3)
        feed.events += [event(1)]
        feed.status = 200
        await _until(feed, 1)
    assert sum("trying on" in line for line in lines) == 1
    assert sum("nothing was missed" in line for line in lines) == 1


async def test_a_wrong_key_ends_it() -> None:
    """With what to check."""
    feed, lines = Feed(), list[str]()
    feed.status = 401
    async with listening(feed, lines) as task:
        with pytest.raises(ListenError, match="API key"):
            await task


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--forward-to", "localhost:3000"], "http://"),
        (["--forward-to", "http://127.0.0.1:9", "--secret", "abc"], "whsec_"),
        (["--forward-to", "http://127.0.0.1:9", "--gateway", "x"], "--gateway"),
    ],
)
def test_options_that_cannot_be(words: list[str], said: str) -> None:
    """Said before anything is asked."""
    result = CliRunner().invoke(
        app, ["webhooks", "listen", *words], env={"PAYOUT_GATEWAY_API_KEY": "k"}
    )
    assert result.exit_code == 2
    assert said in result.output
    result = CliRunner().invoke(app, ["webhooks", "listen", "--forward-to", "http://127.0.0.1:9"])
    assert result.exit_code == 2
    assert "PAYOUT_GATEWAY_API_KEY" in result.output
