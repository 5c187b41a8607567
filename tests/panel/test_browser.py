"""The panel in a browser: a whole day's work, every width, the dark, without a script, for everybody."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyotp
import pytest

from gateway.pages.files import content, packed
from tests.api.conftest import Api
from tests.e2e.stack import DUMMY, EVM_PAYEE, Stack, stack
from tests.pages import browser as chrome
from tests.pages.browser import (
    WIDTHS,
    browser,
    enlarge,
    opened,
    overflow,
    picture,
    violations,
)
from tests.panel import sample
from tests.panel.conftest import PASSWORD, add_user

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Browser, Page

pytestmark = chrome.marks(240)
__all__ = ["browser"]
_BASE = "/admin/acme/live"
#: Every page, by what it is called in pictures and messages.
_PAGES = {
    "home": "",
    "month": "?span=30d",
    "attention": "/attention",
    "payouts": "/payouts",
    "found": "/payouts?q=INV-2044",
    "none": "/payouts?q=nothing",
    "payout": "/payouts/{unknown}",
    "failed": "/payouts/{failed}",
    "code": "/payouts/{code}",
    "cancel": "/payouts/{code}/cancel",
    "resolve": "/payouts/{unknown}/resolve",
    "batches": "/batches",
    "batch-new": "/batches/new",
    "batch": "/batches/{batch}",
    "batch-pay": "/batches/{batch}/execute",
    "webhooks": "/webhooks",
    "webhook": "/webhooks/{hook}",
    "webhook-delete": "/webhooks/{hook}/delete",
    "custodians": "/custodians",
    "keys": "/keys",
    "key": "/keys/{key}",
    "audit": "/audit",
    "missing": "/payouts/pay_nothing",
}


async def sign_in(page: Page, secret: str, at: datetime, name: str = "ada") -> None:
    """Fill in the form, as a person does."""
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_label("One-time code").fill(pyotp.TOTP(secret).at(at))
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(re.compile(r"/admin/(orgs|[a-z]+/live)$"))


class Signed:
    """A gateway with sample data, and pages of it for somebody who is signed in."""

    def __init__(self, api: Api, browser: Browser, secret: str, names: dict[str, str]) -> None:
        self.api = api
        self.browser = browser
        self.secret = secret
        self.names = names
        self.state: Any = None

    def url(self, name: str) -> str:
        """Return the address of a page."""
        return self.api.url + _BASE + _PAGES[name].format(**self.names)

    @asynccontextmanager
    async def page(self, name: str, width: int = 1280, **options: Any) -> AsyncIterator[Page]:
        """Open a page in a browser in which the user has signed in before."""
        if self.state is None:
            await self.api.clock.advance(31)
            async with opened(self.browser, self.api.url + "/admin/sign-in", 1280) as page:
                await sign_in(page, self.secret, self.api.clock.now())
                self.state = await page.context.storage_state()
        wanted = {"storage_state": self.state, "timezone_id": "UTC"}
        async with opened(self.browser, self.url(name), width, **(wanted | options)) as page:
            yield page


@pytest.fixture
async def signed(api: Api, browser: Browser) -> Signed:
    """A day of payouts, a batch, keys, and an operator of the whole gateway."""
    made = await add_user(api, "ada", None)
    names = await sample.fill(api)
    names |= await sample.more(api)
    return Signed(api, browser, made.secret, names)


async def create_user(made: Stack) -> str:
    """Run `users create` beside the running gateway; return the secret of the codes."""
    arguments = ("users", "create", "ada", "--org", "acme", "--role", "admin", "--password-stdin")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments, "--json", "--config", str(made.config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(PASSWORD.encode() + b"\n")
    assert process.returncode == 0
    return str(json.loads(out)["totp_secret"])


async def test_a_days_work(tmp_path: Path, browser: Browser) -> None:  # noqa: PLR0915 - a day
    """Sign in with a code, mint a key and pay with it, upload a batch and watch it; paid once each.

    With the whole gateway and the custodian's twin. The key is in no page that is opened later.
    """
    async with stack(tmp_path, rail=DUMMY) as made:
        await made.serve()
        secret = await create_user(made)
        options: dict[str, Any] = {"permissions": ["clipboard-read", "clipboard-write"]}
        async with opened(browser, made.url + "/admin", 1280, **options) as page:
            await sign_in(page, secret, datetime.now(UTC))
            assert "Nothing needs you." in await page.inner_text("main")

            await page.get_by_role("link", name="Keys").click()
            await page.get_by_label("Name").fill("payroll-live")
            await page.get_by_role("button", name="Make live key").click()
            await page.get_by_role("button", name="Copy key").click()
            await page.wait_for_selector("#said:has-text('Copied')", state="attached")
            key = await page.evaluate("navigator.clipboard.readText()")
            assert re.fullmatch(r"sk_live_[A-Za-z0-9_-]{43}", key)
            await page.get_by_role("link", name="I have stored it").click()
            assert key not in await page.content()
            made.key = key
            payout_id = await made.pay("43")
            await made.reaches(payout_id, "delivered")

            await page.get_by_role("link", name="Payouts", exact=True).click()
            await page.get_by_label("Find a payout by any id").fill(payout_id)
            await page.get_by_role("button", name="Find").click()
            await page.get_by_role("link", name="user-1").click()
            assert "Delivered" in await page.inner_text("h1")
            story = await page.inner_text(".story")
            assert story.index("Quote accepted") < story.index("Moving call accepted")
            assert story.index("Moving call accepted") < story.index("Delivered")

            await page.get_by_role("link", name="Batches").click()
            await page.get_by_role("link", name="New batch from a file").click()
            rows = "".join(
                f"u-{n},{EVM_PAYEE},EthereumSepolia,USDC,1{n},ref-{n}\n" for n in range(5)
            )
            file = tmp_path / "november.csv"
            file.write_text("external_ref,destination,network_hint,asset,amount,reference\n" + rows)
            await page.get_by_label("CSV file").set_input_files(file)
            await page.get_by_label("Name of the batch").fill("November payroll")
            await page.get_by_role("button", name="Check the file").click()
            assert "Every line is ready." in await page.inner_text("main")
            await page.get_by_role("button", name="Create batch of 5").click()
            assert "Nothing is paid yet." in await page.inner_text("main")
            await page.get_by_role("link", name="Pay 5 payouts").click()
            loads: list[str] = []
            await page.get_by_role("button", name="Pay 5 payouts").click()
            await page.wait_for_url("**/batches/bat_*")
            page.on("load", lambda _: loads.append("load"))
            # By itself, without a reload.
            await page.wait_for_selector(":text('5 of 5 delivered')", timeout=90_000)
            await page.wait_for_selector("h1:has-text('Finished')", timeout=30_000)
            assert loads == []
        assert sorted(entry["amount"] for entry in await made.ledger()) == [
            "10",
            "11",
            "12",
            "13",
            "14",
            "43",
        ]
        acts = json.loads(await made.run("audit", "list", "--org", "acme", "--json"))["data"]
        by_ada = [each["act"] for each in acts if each["actor"] == "ada"]
        assert by_ada == ["batch_executed", "batch_created", "key_created", "user_signed_in"]


@pytest.mark.parametrize("width", list(WIDTHS))
async def test_nothing_overflows(signed: Signed, width: int) -> None:
    """Every page, at text of 100 and of 200 percent."""
    for name in _PAGES:
        async with signed.page(name, width) as page:
            assert await overflow(page) <= 0, name
            await enlarge(page)
            assert await overflow(page) <= 0, f"{name}, large text"


async def test_axe_finds_nothing(signed: Signed) -> None:
    """Every page, by light and in the dark, and the page to sign in."""
    if not chrome.AXE.exists():
        pytest.skip("axe-core is not here; `make e2e-pages` fetches it")
    for scheme in ("light", "dark"):
        for name in _PAGES:
            width = 390 if scheme == "dark" and name in {"home", "payout", "keys"} else 1280
            async with signed.page(name, width, color_scheme=scheme) as page:
                assert await violations(page) == [], f"{name}, {scheme}"
        url = signed.api.url + "/admin/sign-in"
        async with opened(signed.browser, url, 390, color_scheme=scheme) as page:
            assert await violations(page) == []


async def test_without_a_script(signed: Signed) -> None:
    """Signing in, minting a key, the menu of a phone, rows that are folded: all of it."""
    api = signed.api
    await api.clock.advance(31)
    options: dict[str, Any] = {"java_script_enabled": False}
    async with opened(signed.browser, api.url + "/admin/sign-in", 390, **options) as page:
        await page.get_by_label("Name").fill("ada")
        await page.get_by_label("Password").fill(PASSWORD)
        code = pyotp.TOTP(signed.secret).at(api.clock.now())
        await page.get_by_label("One-time code").fill(code)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("link", name="Northwind Payroll").click()
        assert not await page.get_by_role("link", name="Keys").is_visible()
        await page.get_by_role("link", name="Menu").click()
        await page.get_by_role("link", name="Keys").click()
        await page.get_by_label("Name").fill("by hand")
        await page.get_by_role("button", name="Make live key").click()
        assert "by hand is ready." in await page.inner_text("main")
        assert not await page.get_by_role("button", name="Copy key").is_visible()


async def test_times_are_the_viewers(signed: Signed) -> None:
    """With a script they are of the viewer's zone, and the whole time is in the title."""
    async with signed.page("payout", timezone_id="Asia/Tokyo") as page:
        first = page.locator(".story time").first
        await page.wait_for_selector(".js")
        # 11:10 UTC.
        assert (await first.inner_text()).startswith("20:10:00")
        assert "2026" in (await first.get_attribute("title") or "")


async def test_dark_and_light(signed: Signed) -> None:
    """By the device's setting; the surfaces are those of the design."""
    for scheme, surface in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 27)")):
        async with signed.page("home", color_scheme=scheme) as page:
            color = await page.eval_on_selector(
                ".card", "(card) => getComputedStyle(card).backgroundColor"
            )
            assert color == surface


async def test_page_weights(signed: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    """No page is heavy: its HTML with stylesheet, script and icon, as they are sent."""
    shared = sum(len(content(name)) for name in ("style.css", "panel.js", "icon.svg"))
    weights = {}
    async with signed.page("home") as page:
        for name in _PAGES:
            await page.goto(signed.url(name))
            answer = await page.request.get(signed.url(name))
            weights[name] = len(await answer.body())
    with capsys.disabled():
        sent = sum(len(packed(name)) for name in ("style.css", "panel.js", "icon.svg"))
        print(f"\n  shared by all pages: {shared} bytes, {sent} as sent; HTML: {weights}")
    assert max(weights.values()) < 60_000
    assert shared < 21_000


async def test_pictures_for_the_documentation(signed: Signed) -> None:
    """Screenshots of what the documentation shows."""
    for name, of, width, scheme in (
        ("panel-home-light", "home", 1280, "light"),
        ("panel-home-dark", "home", 1280, "dark"),
        ("panel-payout", "payout", 1280, "light"),
        ("panel-keys", "keys", 1280, "light"),
        ("panel-batch", "batch", 1280, "dark"),
        ("panel-webhook", "webhook", 1280, "light"),
        ("panel-phone-home", "home", 390, "dark"),
        ("panel-phone-payout", "payout", 390, "dark"),
    ):
        async with signed.page(of, width, color_scheme=scheme) as page:
            await page.wait_for_selector(".js")
            if of == "keys":
                await page.get_by_label("Name").fill("payroll-live")
                await page.get_by_role("button", name="Make live key").click()
                await page.wait_for_selector(".once")
            await picture(page, name)
