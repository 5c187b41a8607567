"""The tracking page in a browser: live, without a script, on every width, in the dark, for everybody."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapter import Failure, FailureCode, FundsMoved, SubStatus, Transaction
from tests.api.conftest import ADDRESS, RATES, Api, open_api
from tests.e2e.stack import PASSCODE, stack
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
from tests.pages.conftest import asks, page_settings, path_of, tell

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = chrome.marks(180)
__all__ = ["browser"]
_HASH = "0x9a3f" + "c" * 56 + "77e1"
_WORD = "W" * 300


def sent(api: Api, **members: Any) -> Transaction:
    """Return a transaction on the network."""
    wanted: dict[str, Any] = {
        "id": "t1",
        "tx_hash": _HASH,
        "network": "Ethereum",
        "at": api.clock.now(),
    }
    return Transaction(**(wanted | members))


async def bring(api: Api, state: str, **members: Any) -> dict[str, Any]:
    """Return a payout in a state of the page."""
    payout = await api.pay(**({"amount": "1250", "reference": "INV-2043"} | members))
    await api.clock.advance(60)
    sent_away = {"transactions": (sent(api),)}
    kept = Failure(code=FailureCode.DESTINATION_REJECTED, message="m", funds_moved=FundsMoved.NO)
    told: dict[str, tuple[SubStatus, dict[str, Any]]] = {
        "broadcast": (SubStatus.BROADCAST, sent_away),
        "delivered": (SubStatus.DELIVERED, sent_away),
        "unknown": (SubStatus.OUTCOME_UNKNOWN, {}),
        "failed": (SubStatus.FAILED, {"failure": kept}),
        "code": (SubStatus.REQUIRES_ACTION, {"action": asks(api)}),
    }
    if state in told:
        sub_status, more = told[state]
        await tell(api, payout, sub_status, **more)
    return payout


async def seen(page: Page, selector: str, text: str, state: Any = "visible") -> None:
    """Wait until an element has a text. Not by a function: the page's policy forbids to evaluate one."""
    await page.wait_for_selector(f"{selector}:has-text('{text}')", timeout=60_000, state=state)


async def test_a_whole_life_live(api: Api, browser: Browser) -> None:
    """Without a reload: each state as it comes, by the stream, with a countdown that runs."""
    payout = await api.pay(amount="1250", reference="INV-2043")
    async with opened(browser, api.url + path_of(payout)) as page:
        loads: list[str] = []
        page.on("load", lambda _: loads.append("load"))
        state, say = page.locator("#state"), page.locator("#say")
        await page.wait_for_selector(".js")
        assert (await state.inner_text()).strip() == "Preparing"
        # 10:00 UTC in Paris.
        assert "11:00" in await page.locator(".steps li").first.inner_text()

        await api.clock.advance(60)
        await tell(api, payout, SubStatus.BROADCAST, transactions=(sent(api),))
        await page.wait_for_selector("[data-state=broadcast]")
        left = page.locator(".count b")
        first = await left.inner_text()
        assert re.fullmatch(r"2:3\d", first)
        await page.wait_for_selector(f".count b:not(:text-is('{first}'))")
        assert await page.get_by_role("link", name="0x9a3f").get_attribute("href") == (
            f"https://explorer.example/tx/{_HASH}"
        )
        assert "On its way" in await page.locator("#said").inner_text()
        await tell(api, payout, SubStatus.OUTCOME_UNKNOWN)
        await page.wait_for_selector("[data-state=unknown]")
        assert "has not given a clear answer yet" in await say.inner_text()
        await api.clock.advance(60)
        await tell(api, payout, SubStatus.DELIVERED)
        await page.wait_for_selector("[data-state=delivered]")
        assert "two minutes after it was started." in await say.inner_text()
        assert "This is the final state." in await page.locator("#pulse").inner_text()
        assert await page.title() == "Delivered: 1,250.00 USDC"
        assert loads == []


async def test_without_room_for_a_stream_the_page_polls(tmp_path: Path, browser: Browser) -> None:
    """It is refused a stream, asks again with its tag, and shows what changed."""
    limits = {f"{name}_burst": 100_000 for name in RATES} | {"streams": 0}
    async with open_api(page_settings(tmp_path, limits=limits)) as api:
        payout = await api.pay()
        async with opened(browser, api.url + path_of(payout)) as page:
            answers: list[tuple[str, int]] = []
            page.on(
                "response",
                lambda each: answers.append((each.url.rsplit("/", 1)[-1][:6], each.status)),
            )
            await seen(page, "#pulse", "every few seconds")
            await tell(api, payout, SubStatus.BROADCAST)
            await page.wait_for_selector("[data-state=broadcast]", timeout=60_000)
            assert ("stream", 503) in answers


async def test_without_a_script(api: Api, browser: Browser) -> None:
    """Complete: state, times in UTC, no form, and it asks again by itself."""
    for state, words in (
        ("broadcast", "left, estimated"),
        ("delivered", "one minute after it was started"),
        ("failed", "No money has left Northwind Payroll."),
        ("code", "Answer in the app of Northwind Payroll."),
    ):
        payout = await bring(api, state)
        url = api.url + path_of(payout) + "#cs=pcs_something"
        async with opened(browser, url, java_script_enabled=False) as page:
            assert words in await page.inner_text("main")
            assert "UTC" in await page.inner_text("main")
            assert not await page.locator("#code").is_visible()
            assert not await page.locator(".copy").first.is_visible()
            refresh = page.locator("meta[http-equiv=refresh]")
            assert await refresh.count() == (0 if state in {"delivered", "failed"} else 1)


@pytest.mark.parametrize("width", list(WIDTHS))
async def test_nothing_overflows(api: Api, browser: Browser, width: int) -> None:
    """Every state, and words of 300 characters, at text of 100 and of 200 percent."""
    long = {"amount": "123456789012345.123456", "reference": "R" * 255}
    payouts = {state: await bring(api, state) for state in ("pending", "broadcast", "failed")}
    payouts["code"] = await bring(api, "code", **long)
    await tell(
        api, payouts["code"], SubStatus.REQUIRES_ACTION, action=asks(api, masked_target=_WORD)
    )
    payouts["long"] = await bring(api, "pending", **long)
    await tell(
        api,
        payouts["long"],
        SubStatus.BROADCAST,
        transactions=(sent(api, tx_hash=_WORD, network=_WORD[:60]),),
    )
    for state, payout in payouts.items():
        for scheme in ("light", "dark"):
            url = api.url + path_of(payout) + "#cs=pcs_x"
            async with opened(browser, url, width, color_scheme=scheme) as page:
                assert await overflow(page) <= 0, state
                # As a person does who needs large text: everything twice as big, in the same window.
                await enlarge(page)
                assert await overflow(page) <= 0, f"{state}, large text"


_READ = (
    "/docs",
    "/docs/payouts",
    "/docs/models",
    "/docs/webhooks",
    "/docs/problems",
    "/guide",
    "/guide/quickstart",
    "/guide/how-to/verify-webhooks",
    "/guide/reference/settings",
    "/guide/explanation/never-twice",
)


async def test_the_reference_and_the_guide_fit_every_screen(
    api: Api, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    """No page is wider than its window, none loads from elsewhere, and axe-core finds nothing."""
    found = {}
    for path in _READ:
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                async with opened(browser, api.url + path, width, color_scheme=scheme) as page:
                    assert await overflow(page) <= 0, f"{path} at {width}"
                    if width != 320:
                        found[f"{path}, {width}, {scheme}"] = await violations(page)
    with capsys.disabled():
        print(f"\n  axe-core: {len(found)} pages of the documentation")
    assert {name: each for name, each in found.items() if each} == {}


async def test_examples_are_chosen_by_language_without_a_script(api: Api, browser: Browser) -> None:
    """With the mouse and with the keyboard."""
    async with opened(browser, api.url + "/docs/payouts", 1280, java_script_enabled=True) as page:
        call = page.locator("#createQuote .tabs")
        assert (
            await call.locator("pre:visible").inner_text()
            == await call.locator("pre").first.inner_text()
        )
        await call.get_by_text("Python", exact=True).click()
        assert "import requests" in await call.locator("pre:visible").inner_text()
        await page.keyboard.press("ArrowRight")
        assert "await fetch" in await call.locator("pre:visible").inner_text()
        assert await call.locator("pre:visible").count() == 1
    async with opened(browser, api.url + "/docs/payouts", 1280) as page:
        await picture(page, "api-reference")


async def test_dark_and_light(api: Api, browser: Browser) -> None:
    """By the device's setting; the surfaces are those of the design."""
    payout = await bring(api, "broadcast")
    seen = {}
    for scheme in ("light", "dark"):
        async with opened(browser, api.url + path_of(payout), color_scheme=scheme) as page:
            seen[scheme] = await page.evaluate(
                "[document.body, document.querySelector('.card')]"
                ".map((each) => getComputedStyle(each).backgroundColor)"
            )
    assert seen == {
        "light": ["rgb(246, 247, 248)", "rgb(255, 255, 255)"],
        "dark": ["rgb(13, 15, 17)", "rgb(21, 24, 27)"],
    }


async def test_everybody_can_use_it(
    api: Api, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    """axe-core finds nothing in any state; each state is kept as a picture where asked for."""
    if not chrome.AXE.exists():
        pytest.skip("axe-core is not here; `make e2e-pages` fetches it from npm")
    found = {}
    for state in ("pending", "broadcast", "delivered", "failed", "unknown", "code"):
        url = api.url + path_of(await bring(api, state)) + "#cs=pcs_x"
        for scheme in ("light", "dark"):
            for width in (390, 1280):
                async with opened(browser, url, width, color_scheme=scheme) as page:
                    found[f"{state}, {scheme}, {width}"] = await violations(page)
    for path in ("/docs/problems", "/track/nothing"):
        async with opened(browser, api.url + path) as page:
            found[path] = await violations(page)
    with capsys.disabled():
        print(
            f"\n  axe-core: {len(found)} pages, {sum(map(len, filter(None, found.values())))} violations"
        )
    assert {name: each for name, each in found.items() if each} == {}


async def test_pictures(api: Api, browser: Browser) -> None:
    """The states on a phone and on a desk, written to the documentation when `PICTURES` is set."""
    if chrome.PICTURES is None:
        pytest.skip("PICTURES is not set; `make e2e-pages PICTURES=1` writes them")
    for name, state, width, scheme in (
        ("track-phone-light", "broadcast", 390, "light"),
        ("track-phone-code", "code", 390, "light"),
        ("track-phone-unknown", "unknown", 390, "dark"),
        ("track-desktop-failed", "failed", 1280, "light"),
        ("track-desktop-dark", "broadcast", 1280, "dark"),
        ("track-phone-delivered", "delivered", 390, "dark"),
    ):
        address = {"type": "address", "network": "Ethereum", "address": ADDRESS}
        url = api.url + path_of(await bring(api, state, destination=address)) + "#cs=pcs_x"
        async with opened(browser, url, width, color_scheme=scheme) as page:
            await page.wait_for_selector(".js")
            await picture(page, name)


async def test_a_reference_is_copied(api: Api, browser: Browser) -> None:
    """The whole of it, and it is said."""
    payout = await bring(api, "broadcast")
    options: dict[str, Any] = {"permissions": ["clipboard-read", "clipboard-write"]}
    async with opened(browser, api.url + path_of(payout), **options) as page:
        await page.get_by_role("button", name="Copy Reference").click()
        await seen(page, "#said", "Copied", state="attached")
        assert await page.evaluate("navigator.clipboard.readText()") == "INV-2043"


async def test_a_recipient_enters_a_one_time_code(tmp_path: Path, browser: Browser) -> None:
    """With the whole gateway and the provider's twin: a wrong code, the right one, delivered, paid once.

    The secret is in the link's fragment alone: no request carries it before the code is sent.
    """
    named = {"orgs": {"acme": {"display_name": "Northwind Payroll"}}}
    rail = replace(PASSCODE, gateway={**PASSCODE.gateway, **named})
    async with stack(tmp_path, rail=rail) as made:
        await made.start_gateway("--quick")
        quote = await made.quote("75", payout_account_id="19")
        payout_id = await made.execute(quote)
        payout = await made.reaches(payout_id, "requires_action")
        secret = payout["requires_action"]["client_secret"]
        link = made.url + "/track/" + payout["tracking_url"].rpartition("/")[2]
        async with opened(browser, link) as page:
            await page.wait_for_selector(".js")
            assert not await page.locator("#code").is_visible()
            assert "Answer in the app of" in await page.inner_text("#say")
        async with opened(browser, f"{link}#cs={secret}") as page:
            requests: list[str] = []
            page.on("request", lambda each: requests.append(f"{each.method} {each.url}"))
            (message,) = (await made.steer("GET", "inbox"))["messages"]
            code = message["code"]
            assert "Enter the code that was sent to" in await page.inner_text("#say")
            assert secret not in await page.content()
            field = page.get_by_label("One-time code")
            await field.fill("WRONG000")
            await page.get_by_role("button", name="Confirm payment").click()
            await page.wait_for_selector("#told.bad")
            assert "That code was not accepted." in await page.inner_text("#told")
            assert await field.input_value() == ""
            # As people type it: in small letters, with a blank.
            await field.fill(f"{code[:4].lower()} {code[4:].lower()}")
            await field.press("Enter")
            await page.wait_for_selector("[data-state=delivered]", timeout=60_000)
            assert await page.locator("#code").count() == 0
            assert [each for each in requests if secret in each] == []
        (entry,) = await made.ledger()
        assert (entry["destination"], entry["amount"]) == ("19", "75")


async def enter(page: Page, code: str) -> str:
    """Fill in a code and send it; return what the page says of it."""
    await page.get_by_label("One-time code").fill(code)
    await page.get_by_role("button", name="Confirm payment").click()
    await page.wait_for_selector("#told.bad")
    text: str = await page.inner_text("#told")
    return text


async def test_a_link_with_a_wrong_secret(api: Api, browser: Browser) -> None:
    """The form is there, as nobody but the gateway can tell; the answer is that the link is of no use.

    No request but the one with the code carries the secret, and that one in its body.
    """
    payout = await bring(api, "code")
    async with opened(browser, f"{api.url}{path_of(payout)}#cs=pcs_guessed") as page:
        sent: list[tuple[str, str]] = []
        page.on("request", lambda each: sent.append((each.url, each.post_data or "")))
        words = await enter(page, "K7Q2 M9XA")
        assert words == "This code cannot be used any more. Ask Northwind Payroll for a new link."
        assert await page.get_by_label("One-time code").input_value() == ""
        assert not [url for url, _ in sent if "pcs_guessed" in url]
        assert [url for url, body in sent if "pcs_guessed" in body] == [
            f"{api.url}/payouts/{payout['id']}/confirm"
        ]
    status, now = await api.call("GET", f"/payouts/{payout['id']}")
    assert (status, now["sub_status"]) == (200, "requires_action")


async def test_a_code_that_comes_too_late(api: Api, browser: Browser) -> None:
    """With the right secret, after the end of the action: it is refused, and nothing is sent."""
    payout = await bring(api, "code")
    _, now = await api.call("GET", f"/payouts/{payout['id']}")
    secret = now["requires_action"]["client_secret"]
    async with opened(browser, f"{api.url}{path_of(payout)}#cs={secret}") as page:
        assert await page.locator("#code").is_visible()
        assert re.fullmatch(r"8:\d\d", await page.locator("#hint b").inner_text())
        await api.clock.advance(8 * 60 + 13)
        words = await enter(page, "K7Q2M9XA")
        assert words == "This code cannot be used any more. Ask Northwind Payroll for a new link."
