"""Batches in the panel: a file is checked, created once, executed, canceled."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.custodians.breaker import Breaker
from gateway.routing.durations import Durations
from gateway.routing.facts import KnownFacts
from gateway.store.audit import newest_acts
from tests.api.conftest import Api, open_api
from tests.panel.conftest import Browser, add_user, http_settings

_BASE = "/admin/acme/live"
_HEAD = "external_ref,destination_type,account_type,id,asset,amount,reference,name\n"


def lines(many: int, **changed: str) -> bytes:
    """Return a CSV file."""
    rows = "".join(
        f"user-{n},custodian_account,EXTERNAL_WALLET,w-{n},USDC,{changed.get(str(n), '12.50')},ref-{n},Name {n}\n"
        for n in range(1, many + 1)
    )
    return (_HEAD + rows).encode()


async def upload(browser: Browser, body: bytes, name: str = "november.csv", **fields: str) -> Any:
    """Upload a file to be checked."""
    form = aiohttp.FormData()
    sent = {
        "_form": browser.token,
        "account": "acme_eu\tVAULT\tA1",
        "reference": "November payroll",
    }
    for field, value in (sent | fields).items():
        form.add_field(field, value)
    form.add_field("file", io.BytesIO(body), filename=name, content_type="text/csv")
    return await browser._send("POST", f"{_BASE}/batches/check", form, True, {})


async def test_a_file_is_checked_created_and_executed(api: Api, ada: Browser) -> None:
    """Checked: totals and lines. Created once, however often the form is sent. Then executed."""
    await ada.get(f"{_BASE}/batches/new")
    seen = await upload(ada, lines(30))
    assert "Every line is ready." in seen.words
    assert "Create batch of 30" in seen.words
    assert "375.00 USDC" in seen.words
    fields = dict(re.findall(r'name="(file|account|reference|key)" value="([^"]*)"', seen.text))
    done = await ada.post(f"{_BASE}/batches/create", fields)
    assert "Nothing is paid yet." in done.words
    assert "0 of 30 delivered" in done.words
    again = await ada.post(f"{_BASE}/batches/create", fields)
    assert again.url == done.url
    batch_id = done.url.rsplit("/", 1)[1]
    asked = await ada.get(f"{_BASE}/batches/{batch_id}/execute")
    assert "Pay 30 payouts?" in asked.words
    done = await ada.post(f"{_BASE}/batches/{batch_id}/execute")
    assert "The batch is being executed." in done.words
    assert api.woken[-1] == "batches"
    once = await ada.post(f"{_BASE}/batches/{batch_id}/execute")
    assert once.status == 409
    assert (await ada.get(f"{_BASE}/batches")).words.count("November payroll") == 1
    report = await ada.get(f"{_BASE}/batches/{batch_id}/report.csv")
    assert report.headers["Content-Type"].startswith("text/csv")
    assert report.text.count("ref-") == 30
    stopped = await ada.post(f"{_BASE}/batches/{batch_id}/cancel")
    assert "Unsent payouts are being canceled." in stopped.words
    assert [row["act"] for row in await api.context.db.scan(newest_acts, 3, org="acme")] == [
        "batch_canceled",
        "batch_executed",
        "batch_created",
    ]


async def test_every_account_that_the_org_may_use_is_offered(tmp_path: Path) -> None:
    """Those of `[accounts]` too, as `POST /payout-batches` takes them; none of another org."""
    accounts = [
        {"id": "A1", "type": "VAULT", "orgs": ["acme"]},
        {"id": "7", "type": "VAULT_ACCOUNT", "orgs": ["acme"]},
        {"id": "8", "type": "VAULT_ACCOUNT", "orgs": ["other"]},
    ]
    settings = http_settings(tmp_path, accounts={"acme_eu": accounts})
    async with open_api(settings) as api:
        for org in ("acme", None):
            jar = aiohttp.CookieJar(unsafe=True)
            async with aiohttp.ClientSession(cookie_jar=jar) as http:
                browser = Browser(api, http)
                await browser.sign_in(await add_user(api, f"of-{org or 'all'}".lower(), org))
                seen = await browser.get(f"{_BASE}/batches/new")
                assert re.findall(r'<option value="([^"]+)"', seen.text)[-2:] == [
                    "acme_eu\tVAULT\tA1",
                    "acme_eu\tVAULT_ACCOUNT\t7",
                ]
                seen = await upload(browser, lines(2), account="acme_eu\tVAULT_ACCOUNT\t7")
                assert "Every line is ready." in seen.words


async def test_a_custodian_that_does_not_answer_is_no_fault_of_the_file(
    api: Api, ada: Browser
) -> None:
    """While its breaker is open: the page says that nothing was checked, and names no line."""
    breaker = Breaker(api.clock, faults=1)
    api.context.quotes._facts = KnownFacts({"acme_eu": breaker}, Durations())
    breaker.fault("unreachable")
    await ada.get(f"{_BASE}/batches/new")
    seen = await upload(ada, lines(3))
    assert "Nothing is said to be wrong with the file: it was not checked." in seen.words
    assert "does not answer" in seen.words
    assert "correction" not in seen.words
    await api.clock.advance(31)
    breaker.answered()
    assert "Every line is ready." in (await upload(ada, lines(3))).words


async def test_faulty_lines_come_first(api: Api, ada: Browser) -> None:
    """Each with its own sentence; nothing is created, and the button is off."""
    await ada.get(f"{_BASE}/batches/new")
    body = (
        lines(25, **{"7": "1,2O0"})
        + b"user-x,custodian_account,EXTERNAL_WALLET,w-x,USDC,5,ref-3,Double\n"
    )
    seen = await upload(ada, body)
    assert "2 of 26 lines need a correction." in seen.words
    assert "Create batch of 26" in re.findall(r"<button[^>]*disabled[^>]*>([^<]+)", seen.text)
    assert seen.words.index("Line 8") < seen.words.index("Line 2 ")
    assert (await ada.get(f"{_BASE}/batches")).words.count("No batches yet.") == 1


@pytest.mark.parametrize(
    ("body", "fields", "words"),
    [
        (b"", {}, "Choose a CSV file."),
        (b"a,b\n1,2\n", {}, "correction"),
        (b"\xff\xfe\x00", {}, "correction"),
        (_HEAD.encode(), {}, "correction"),
        (lines(2).replace(b",", b";"), {}, "separated by semicolons, and commas are needed"),
        (lines(2).replace(b",", b"\t"), {}, "separated by tabs"),
        (lines(2).decode().encode("utf-16"), {}, "the file is UTF-16, and UTF-8 is needed"),
        (lines(2).decode().encode("utf-16-be"), {}, "the file is UTF-16"),
        (lines(2) + b'u,"EXTERNAL', {}, "a quoted cell is not closed before the end of the file"),
        (lines(2) + b'u,"a"b,c\n', {}, "a closing quote is followed by text"),
        (lines(2), {"account": "acme_eu\tVAULT\tA9"}, "Choose the account that pays."),
        (lines(2), {"_form": "0" * 64}, "Nothing was done."),
        (b"x" * (3 * 1024 * 1024), {}, "payout-gateway batches create"),
    ],
    ids=[
        "none",
        "columns",
        "bytes",
        "empty",
        "semicolons",
        "tabs",
        "utf-16",
        "utf-16-be",
        "open quote",
        "stray quote",
        "account",
        "forged",
        "large",
    ],
)
async def test_files_that_cannot_be(
    ada: Browser, body: bytes, fields: dict[str, str], words: str
) -> None:
    """A sentence that says what to do; nothing is created."""
    await ada.get(f"{_BASE}/batches/new")
    try:
        seen = await upload(ada, body, **fields)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        # The connection of a body that is too large may be closed before all of it was sent.
        assert len(body) > 1_000_000
        return
    assert words in seen.words
    assert (await ada.get(f"{_BASE}/batches")).words.count("No batches yet.") == 1
