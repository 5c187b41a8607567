"""A headless Chromium for the tests of pages, where there is one; otherwise they are skipped, and say why."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

#: Widths that no page may overflow, with the height of a screen of that width.
WIDTHS = {320: 640, 390: 844, 1280: 860}
#: Where the accessibility checker is, if `make e2e-pages` has fetched it.
AXE = Path("build/axe/package/axe.min.js")
#: Screenshots are written only when asked for: they are part of the documentation.
PICTURES = Path("docs/images") if os.environ.get("PICTURES") else None


def chromium() -> str | None:
    """Return the path of Debian's Chromium."""
    return shutil.which("chromium")


def why_not() -> str | None:
    """Return why the tests with a browser cannot run here; None where they can."""
    if chromium() is None:
        return "there is no chromium; `make e2e-pages` installs it"
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed; `make e2e-pages` installs it"
    return None


def marks(timeout_s: int) -> list[pytest.MarkDecorator]:
    """Return the marks of a module of tests with a browser."""
    reason = why_not()
    return [
        pytest.mark.browser,
        pytest.mark.timeout(timeout_s),
        pytest.mark.skipif(reason is not None, reason=str(reason)),
    ]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A browser."""
    async with launched() as started:
        yield started


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Run a browser. As root it has no sandbox of its own; it opens only pages of the tests."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - may be absent

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser, url: str, width: int = 390, **options: Any
) -> AsyncIterator[Page]:
    """Open a page in a context of its own. Fails on any error that the page reports by then or later.

    That includes what the content security policy blocks.
    """
    wanted = {"viewport": {"width": width, "height": WIDTHS[width]}, "timezone_id": "Europe/Paris"}
    context = await browser.new_context(**(wanted | options))
    problems: list[str] = []
    hosts: set[str] = set()
    page = await context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None,
    )
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    try:
        await page.goto(url)
        yield page
    finally:
        await context.close()
    assert problems == []
    assert len(hosts) == 1, f"requests to others: {hosts}"


async def overflow(page: Page) -> int:
    """Return how many pixels the page is wider than its window."""
    wide: int = await page.evaluate(
        "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - innerWidth"
    )
    return wide


async def enlarge(page: Page) -> None:
    """Double every text where it stands, as a browser's setting for text alone does."""
    await page.evaluate(
        """
        for (const [each, size] of [...document.querySelectorAll('main *, .side *, .bar *')].map(
          (each) => [each, parseFloat(getComputedStyle(each).fontSize)])) {
          each.style.fontSize = `${size * 2}px`; each.style.lineHeight = '1.3';
        }
        """
    )


async def violations(page: Page) -> list[str] | None:
    """Return what axe-core finds, each with its targets; None where it is not here."""
    if not AXE.exists():
        return None
    # Evaluated by the browser's debugger, so that the page's policy does not matter.
    await page.evaluate(AXE.read_text(encoding="utf-8"))
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in found["violations"]
    ]


async def picture(page: Page, name: str) -> None:
    """Keep a screenshot for the documentation, if asked for."""
    if PICTURES is not None:
        PICTURES.mkdir(exist_ok=True)
        await page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
