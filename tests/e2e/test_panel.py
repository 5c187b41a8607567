"""The panel of a whole gateway, on SQLite and on PostgreSQL: every page, and what is done on them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pyotp
import pytest

from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.panel.conftest import PASSWORD
from tests.postgres import place_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
_PAGES = (
    "",
    "?span=30d",
    "/attention",
    "/payouts",
    "/payouts?state=pending",
    "/payouts?state=failed",
)
_MORE = ("/payouts?state=unknown", "/batches", "/batches/new", "/webhooks", "/custodians", "/keys")


class Panel:
    """A browser without a script, in which a user of the whole gateway is signed in."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url
        self.token = self.drawn = ""

    async def get(self, path: str) -> str:
        """Open a page that is there."""
        async with self.http.get(f"{self.url}/admin/{path}") as answer:
            return await self._page(answer, path)

    async def post(self, path: str, **fields: str) -> str:
        """Send a form of the page that was opened last."""
        data = {"_form": self.token, "_once": self.drawn, **fields}
        async with self.http.post(f"{self.url}/admin/{path}", data=data) as answer:
            return await self._page(answer, path)

    async def _page(self, answer: aiohttp.ClientResponse, path: str) -> str:
        text = await answer.text()
        assert answer.status == 200, (path, answer.status, re.sub(r"<[^>]+>", " ", text)[:500])
        found = re.search(r'name="_form" value="([0-9a-f]{64})"', text)
        self.token = found[1] if found else self.token
        drawn = re.search(r'name="_once" value="([A-Za-z0-9_-]{22})"', text)
        self.drawn = drawn[1] if drawn else self.drawn
        return text


async def create_user(made: Stack) -> str:
    """Run `users create` beside the running gateway; return the secret of the codes."""
    arguments = (
        "users",
        "create",
        "root-user",
        "--all-orgs",
        "--role",
        "admin",
        "--password-stdin",
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments, "--json", "--config", str(made.config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(PASSWORD.encode() + b"\n")
    assert process.returncode == 0
    return str(json.loads(out)["totp_secret"])


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_every_page_and_act(tmp_path: Path, store: str) -> None:
    """Sign in, find a payout by the custodian's id, mint, rotate, pause, resend, cancel a batch, sign out."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        stack(tmp_path, rail=DUMMY, database=place_of(store)) as made,
        aiohttp.ClientSession(cookie_jar=jar) as http,
    ):
        await made.serve()
        await subscribe(made)
        payout_id = await made.pay("43")
        payout = await made.ended(payout_id)
        secret = await create_user(made)
        panel = Panel(http, made.url)
        await panel.get("sign-in")
        code = pyotp.TOTP(secret).at(datetime.now(UTC))
        text = await panel.post("sign-in", name="root-user", password=PASSWORD, code=code)
        assert "Choose an organisation" in text
        base = "acme/live"
        assert f"admin/{base}" in text
        for path in (*_PAGES, *_MORE, "/audit"):
            await panel.get(base + path)
        assert "Balance" in await panel.get(f"{base}/custodians")
        for wanted in (payout_id, str(payout["custodian_reference"]), "user-1"):
            assert payout_id in await panel.get(f"{base}/payouts?q={wanted}")

        async def told() -> str | None:
            story = await panel.get(f"{base}/payouts/{payout_id}")
            return story if "Delivered to 1 of 1 endpoint." in story else None

        story = str(await eventually(told))
        assert "Moving call accepted" in story
        event = re.search(r'name="event" value="(evt_[^"]+)"', story)
        assert event is not None
        assert "The event is being sent again." in await panel.post(
            f"{base}/payouts/{payout_id}/resend", event=event[1]
        )
        await panel.get(f"{base}/keys")
        minted = await panel.post(f"{base}/keys", name="n", read="on", ends="30")
        key_id = re.search(r"/keys/(key_[a-z0-9]+)\"", minted)
        assert key_id is not None
        await panel.get(f"{base}/keys/{key_id[1]}")
        assert "sk_live_" in await panel.post(f"{base}/keys/{key_id[1]}/rotate", overlap="24")
        assert "Payouts are paused." in await panel.post(f"{base}/payouts/pause", reason="r")
        waits = await made.call("POST", "/payouts/quote", {}, idempotency_key="k")
        assert waits[0] in {400, 409, 422}
        await panel.post(f"{base}/payouts/resume")
        hook = re.search(r"webhooks/(whe_[a-z0-9]+)\"", await panel.get(f"{base}/webhooks"))
        assert hook is not None
        await panel.get(f"{base}/webhooks/{hook[1]}")
        await panel.post(f"{base}/webhooks/{hook[1]}/recover", hours="24")
        await panel.post(f"{base}/webhooks/{hook[1]}/disable")
        await panel.post(f"{base}/webhooks/{hook[1]}/enable")
        assert "Sign in" in await panel.post("sign-out")
        acts = json.loads(await made.run("audit", "list", "--json"))["data"]
        mine = {each["act"] for each in acts if each["actor"] == "root-user"}
        assert {"user_signed_in", "key_created", "key_rotated", "paused", "event_resent"} <= mine
        await made.run("audit", "verify")
