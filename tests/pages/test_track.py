"""The tracking page as a browser without a script gets it: words, headers, and what it never shows."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from pydantic import ValidationError

from gateway.adapter import Failure, FailureCode, FundsMoved, Returned, SubStatus, Transaction
from gateway.pages.files import HASHED, content, packed
from gateway.pages.words import LANGUAGES, accepted_language, words_of
from tests.api.conftest import ADDRESS, RATES, Api, open_api
from tests.pages.conftest import asks, page_of, page_settings, path_of, tell

_HASH = "0x9a3f" + "c" * 56 + "77e1"
_HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{7*7}}{org}%s&amp;"
_FIRST_VIEW = 30_000


class _Shape(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All texts on one line."""
        return " ".join(" ".join(self.texts).split())


def text_of(page: str) -> str:
    """Return what a reader sees, and what waits for the script."""
    return _Shape(page).text


def failure(code: FailureCode, moved: FundsMoved) -> Failure:
    """Return a failure, with a custodian's words that are for partners."""
    return Failure(code=code, message="internal words", custodian_code="E-77", funds_moved=moved)


async def test_a_whole_life_in_words(api: Api) -> None:
    """Preparing, on its way with a countdown, late, delivered: each with its step."""
    payout = await api.pay(amount="1250", reference="INV-2043")
    text = text_of(await page_of(api, payout))
    assert "Payment from Northwind Payroll 1,250.00 USDC Preparing" in text
    assert "Northwind Payroll has ordered this payment." in text
    assert "6:35 left, estimated" in text
    assert "Accepted 10:00 UTC Sent Delivered" in text
    assert "Account ending in -1" not in text
    assert "To Account ending in" in text
    assert "Network Ethereum Provider Orange Money" in text
    assert "INV-2043" in text
    assert "Started 2 Mar, 10:00 UTC" in text
    assert "Updates by itself. Last change 10:00:00 UTC ." in text
    assert "This page never asks for a password or a card number." in text

    await api.clock.advance(60)
    sent = Transaction(id="t1", tx_hash=_HASH, network="Ethereum", at=api.clock.now())
    await tell(api, payout, SubStatus.BROADCAST, transactions=(sent,))
    page = await page_of(api, payout)
    text = text_of(page)
    assert "On its way The payment has been sent to the network and is being confirmed." in text
    assert "2:38 left, estimated" in text
    assert "Sent 10:01 UTC Delivered about 10:03 UTC" in text
    assert "Transaction 0x9a3f…77e1" in text
    assert f'href="https://explorer.example/tx/{_HASH}"' in page

    await api.clock.advance(200)
    assert "This takes longer than usual." in text_of(await page_of(api, payout))
    assert "left, estimated" not in text_of(await page_of(api, payout))

    await tell(api, payout, SubStatus.DELIVERED)
    page = await page_of(api, payout)
    text = text_of(page)
    assert "Delivered on 2 Mar at 10:04 UTC , four minutes after it was started." in text
    assert "This is the final state." in text
    assert "http-equiv" not in page


@pytest.mark.parametrize("held", ["queued", "removed"])
async def test_what_waits_to_be_sent_promises_no_time(api: Api, held: str) -> None:
    """Queued, or its custodian is not configured: no countdown, and the step Sent is not the current one."""
    payout = await api.pay()
    assert "left, estimated" in text_of(await page_of(api, payout))
    if held == "queued":
        await tell(api, payout, SubStatus.QUEUED)
    else:
        del api.context.settings.custodians["acme_eu"]
    for _ in range(2):
        page = await page_of(api, payout)
        text = text_of(page)
        assert (
            "Preparing Northwind Payroll has ordered this payment. It is waiting to be sent."
            in text
        )
        assert "left, estimated" not in text
        assert "longer than usual" not in text
        assert "aria-current" not in page
        await api.clock.advance(3600)


async def test_a_failure_has_a_reason_and_a_next_step(api: Api) -> None:
    """Our words for every code, never the custodian's; what to do depends on what is proven."""
    for place, code in enumerate(FailureCode):
        moved = list(FundsMoved)[place % len(FundsMoved)]
        payout = await api.pay(reference=f"INV-{place}")
        await tell(api, payout, SubStatus.FAILED, failure=failure(code, moved))
        text = text_of(await page_of(api, payout))
        assert f"Not delivered {words_of('en').reason(code)}" in text
        assert "What to do next" in text
        kept = "No money has left Northwind Payroll." in text
        assert kept == (moved is FundsMoved.NO)
        assert ("Not sent" in text) == (moved is FundsMoved.NO)
        assert (f"Ask Northwind Payroll where the money is. Mention INV-{place} ." in text) != kept
        assert "internal words" not in text
        assert "E-77" not in text


async def test_an_unknown_outcome_is_not_drawn_as_a_failure(api: Api) -> None:
    """Calm colours, no cross, no failure's word; the reason is the operator's."""
    payout = await api.pay()
    await tell(
        api,
        payout,
        SubStatus.OUTCOME_UNKNOWN,
        detail="outcome unknown; the gateway asks the custodian (reset by 10.0.0.1)",
    )
    page = await page_of(api, payout)
    text = text_of(page)
    assert "Checking with the provider The provider has not given a clear answer yet." in text
    assert "It will not be sent twice" in text
    assert "Sent being checked" in text
    assert "10.0.0.1" not in text
    hero = page[page.index('<section class="card hero') : page.index("</section>")]
    assert '<section class="card hero chk">' in hero
    for word in ("bad", "stopped", "Not delivered", "Not sent", "fail"):
        assert word not in hero.replace("not marked as failed", "")


@pytest.mark.parametrize(("amount", "title"), [("43", "Returned"), ("40", "partly returned")])
async def test_returned_money_is_shown(api: Api, amount: str, title: str) -> None:
    """The amount that came back, and whom to ask."""
    payout = await api.pay()
    await tell(api, payout, SubStatus.DELIVERED)
    back = Returned("r1", Decimal(amount), "USDC", api.clock.now())
    await tell(api, payout, SubStatus.DELIVERED, returned=(back,))
    text = text_of(await page_of(api, payout))
    assert title in text
    assert f"delivered, and {amount}.00 USDC came back to Northwind Payroll." in text
    assert f"Returned {amount}.00 USDC" in text
    assert "Ask Northwind Payroll why it came back" in text


async def test_the_amount_that_arrived_is_the_amount(api: Api) -> None:
    """Once it is delivered, by the custodian's own figure."""
    payout = await api.pay()
    await tell(api, payout, SubStatus.DELIVERED, final_recipient_amount=Decimal("42.5"))
    assert "42.50 USDC" in text_of(await page_of(api, payout))


async def test_a_code_is_asked_for_only_by_the_script(api: Api) -> None:
    """Without a script the page says to answer in the app; no secret is in it, whatever is in the link."""
    payout = await api.pay()
    await tell(api, payout, SubStatus.REQUIRES_ACTION, action=asks(api))
    _, seen = await api.call("GET", f"/payouts/{payout['id']}")
    secret = seen["requires_action"]["client_secret"]
    page = await page_of(api, payout)
    assert secret not in page
    assert "Your code is needed" in text_of(page)
    assert '<form class="code" id="code" hidden' in page
    assert (
        "<span data-answer hidden>Enter the code that was sent to your phone ending in 41." in page
    )
    assert "<span data-app>Answer in the app of Northwind Payroll.</span>" in page
    assert "Valid for another 8:12" in text_of(page)
    assert 'autocomplete="one-time-code"' in page

    await tell(api, payout, SubStatus.REQUIRES_ACTION, action=asks(api, attempts_left=0))
    page = await page_of(api, payout)
    assert "<form" not in page
    assert "Ask Northwind Payroll for a new one." in text_of(page)


async def test_other_answers_have_no_form(api: Api) -> None:
    """A page to go to belongs to the platform's app; an approval is somebody else's."""
    for kind, words in (
        ("redirect_to_url", "Your answer is needed Answer in the app of Northwind Payroll."),
        ("await_external_approval", "Waiting for approval A person has to approve"),
    ):
        payout = await api.pay()
        await tell(api, payout, SubStatus.REQUIRES_ACTION, action=asks(api, type=kind))
        page = await page_of(api, payout)
        assert words in text_of(page)
        assert "<form" not in page


async def test_what_a_recipient_is_not_shown(api: Api) -> None:
    """Not the partner's own data, no whole address, no names of the gateway's configuration."""
    payout = await api.pay(
        org="rival",
        external_ref="private-user",
        metadata={"k": "private-data"},
        destination={"type": "address", "network": "Ethereum", "address": ADDRESS},
    )
    page = await page_of(api, payout)
    for hidden in ("private", "rival", "acme", ADDRESS, "A1", "VAULT"):
        assert hidden not in page
    assert f"{ADDRESS[:6]}…{ADDRESS[-4:]}" in page
    text = text_of(page)
    # This org has no name in the configuration.
    assert "Payment 43.00 USDC Preparing The sender has ordered this payment." in text
    # Without a reference of the partner's the payout's id is what to mention.
    assert payout["id"] in text


async def test_test_mode_is_named(api: Api) -> None:
    """On every page of it."""
    assert "> Test" in re.sub(r"<svg.*?</svg>", " ", await page_of(api, await api.pay(mode="test")))


async def test_every_free_text_is_escaped(tmp_path: Path) -> None:
    """What partners, custodians and the configuration write never becomes markup, a link or a format."""
    shown = {
        "orgs": {"acme": {"display_name": _HOSTILE[:80]}},
        "custodians": {
            "acme_eu": {"adapter": "acme", "modes": ["live"], "display_name": _HOSTILE[:80]}
        },
    }
    async with open_api(page_settings(tmp_path, **shown)) as api:
        payout = await api.pay(reference=_HOSTILE)
        plain = await api.pay()
        await tell(
            api,
            payout,
            SubStatus.BROADCAST,
            transactions=(
                Transaction(
                    id="t1",
                    tx_hash=_HOSTILE,
                    network=_HOSTILE[:60],
                    explorer_url="javascript:alert(1)",
                    at=api.clock.now(),
                ),
            ),
        )
        pages = [await page_of(api, payout)]
        hostile = asks(api, channel=_HOSTILE, masked_target=_HOSTILE)
        asked = await api.pay()
        await tell(api, asked, SubStatus.REQUIRES_ACTION, action=hostile, detail=_HOSTILE)
        pages.append(await page_of(api, asked))
        await tell(
            api,
            payout,
            SubStatus.FAILED,
            failure=Failure(
                code=FailureCode.UNKNOWN_REASON,
                message=_HOSTILE,
                custodian_code=_HOSTILE,
                funds_moved=FundsMoved.UNKNOWN,
            ),
        )
        pages.append(await page_of(api, payout))
        wanted = _Shape(await page_of(api, plain))
        for page in pages:
            shape = _Shape(page)
            assert shape.tags.count("script") == wanted.tags.count("script") == 1
            assert "img" not in shape.tags
            assert not [name for name, _ in shape.attributes if name.startswith("on")]
            assert not [value for _, value in shape.attributes if value.startswith("javascript:")]
            assert "style" not in [name for name, _ in shape.attributes]
            assert "49" not in shape.text
        # As it was written, and not as a template's field or a second time escaped.
        assert _HOSTILE in _Shape(pages[0]).text


async def test_a_word_of_300_characters_is_cut(api: Api) -> None:
    """Of whatever a custodian may send; the layout's own test is in a browser."""
    payout = await api.pay()
    word = "W" * 300
    await tell(api, payout, SubStatus.REQUIRES_ACTION, action=asks(api, masked_target=word))
    assert word not in await page_of(api, payout)
    assert "W" * 100 in await page_of(api, payout)


async def test_headers(api: Api) -> None:
    """Nothing from elsewhere, no inline script, no frame, no index, no referrer; not kept."""
    payout = await api.pay()
    answer, raw = await api.send("GET", path_of(payout), authorization=None)
    policy = dict(
        each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "script-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-robots-tag"] == "noindex"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Accept-Language"
    page = raw.decode()
    assert "http://" not in page
    assert "https://" not in page
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]
    assert "<style" not in page
    assert " style=" not in page
    refresh = re.findall(r'<noscript><meta http-equiv="refresh" content="(\d+)"></noscript>', page)
    assert [int(each) >= 15 for each in refresh] == [True]
    assert page.count("http-equiv") == 1


async def test_only_configured_origins_may_embed_it(tmp_path: Path) -> None:
    """And nothing that would be more than an origin gets into the policy."""
    pages = {"frame_origins": ["https://app.example"]}
    async with open_api(page_settings(tmp_path, pages=pages)) as api:
        answer, _ = await api.send("GET", path_of(await api.pay()), authorization=None)
        assert "frame-ancestors https://app.example" in answer.headers["content-security-policy"]
        assert "x-frame-options" not in answer.headers
        answer, _ = await api.send("GET", "/docs/problems", authorization=None)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    for origin in ("https://a.example; script-src *", "https://*", "'self'", "https://a.example/x"):
        with pytest.raises(ValidationError):
            page_settings(tmp_path, pages={"frame_origins": [origin]})


async def test_links_that_are_none_have_one_answer(api: Api) -> None:
    """Byte for byte, for the page and for its stream; they differ in where their links begin."""
    token = path_of(await api.pay()).removeprefix("/track/")
    for end in ("", "/stream"):
        seen = set()
        for wrong in ("nope", "%00", token[:-4] + "AAAA", "A" * 43, token + "A"):
            path = f"/track/{wrong}{end}"
            answer, raw = await api.send("GET", path, authorization=None)
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name not in {"date", "request-id", "ratelimit"}
            }
            seen.add((answer.status, raw, str(sorted(kept.items()))))
        assert len(seen) == 1
        status, raw, _ = seen.pop()
        assert status == 404
        assert "This link does not work Ask the sender for a new one." in text_of(raw.decode())


async def test_guessed_tokens_are_limited(tmp_path: Path) -> None:
    """After a few of them even the look-up is refused, with the time to wait; a right link is answered."""
    limits = {f"{name}_burst": 100_000 for name in RATES} | {"unknown_burst": 5}
    async with open_api(page_settings(tmp_path, limits=limits)) as api:
        payout = await api.pay()
        answers = [
            (await api.send("GET", f"/track/{secrets.token_urlsafe(24)}", authorization=None))[0]
            for _ in range(8)
        ]
        assert [each.status for each in answers] == [404] * 5 + [429] * 3
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert "Preparing" in await page_of(api, payout)


async def test_a_poll_costs_nothing_where_nothing_changed(api: Api) -> None:
    """304 by the tag, in its own language; another state is another tag."""
    payout = await api.pay()
    answer, _ = await api.send("GET", path_of(payout), authorization=None)
    tag = answer.headers["etag"]

    async def poll(**headers: Any) -> tuple[int, bytes]:
        answer, raw = await api.send(
            "GET", path_of(payout), authorization=None, if_none_match=tag, **headers
        )
        return answer.status, raw

    before = api.context.db.statements
    assert await poll() == (304, b"")
    assert api.context.db.statements == before
    assert (await poll(accept_language="fr"))[0] == 200
    await tell(api, payout, SubStatus.BROADCAST)
    assert (await poll())[0] == 200


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("fr-CA,en;q=0.8", "fr"),
        ("en-GB,en;q=0.9,fr;q=0.8", "en"),
        ("de, fr;q=0.5, en;q=0.4", "fr"),
        ("de", "en"),
        ("fr;q=0, en;q=0.1", "en"),
        ("*", "en"),
        ("fr;q=nonsense", "en"),
        (";;;,,q=1,\x00", "en"),
    ],
)
def test_languages(header: str, language: str) -> None:
    """By quality, then by place; what cannot be read counts as not said."""
    assert accepted_language(header) == language


def test_every_language_says_everything() -> None:
    """The same names with the same fields, and a reason for every failure code."""
    fields = {
        language: {
            name: sorted(set(re.findall(r"\{(\w+)\}", text))) for name, text in texts.items()
        }
        for language, texts in LANGUAGES.items()
    }
    same = [{**each, "pending_text": None} for each in fields.values()]
    assert same[0] == same[1]
    for texts in LANGUAGES.values():
        assert {f"why_{code}" for code in FailureCode} <= texts.keys()


async def test_in_french(api: Api) -> None:
    """Words, numbers, and the page's language."""
    payout = await api.pay(amount="1250.5")
    page = await page_of(api, payout, accept_language="fr-FR,fr;q=0.9")
    assert '<html lang="fr"' in page
    assert "Paiement de Northwind Payroll 1 250,50 USDC En préparation" in text_of(page)
    await api.clock.advance(200)
    await tell(api, payout, SubStatus.DELIVERED)
    page = await page_of(api, payout, accept_language="fr")
    assert "le 2 mars à 10:03 UTC , trois minutes après le début." in text_of(page)


def test_amounts_and_durations() -> None:
    """Exact, with two decimals at least; the largest unit."""
    words = words_of("en")
    assert words.amount(Decimal("1234567.000000000000000001")) == "1,234,567.000000000000000001"
    assert words.amount(Decimal(0)) == "0.00"
    assert [words.duration(timedelta(seconds=each)) for each in (59, 60, 3599, 3600, 172_800)] == [
        "less than a minute",
        "one minute",
        "59 minutes",
        "one hour",
        "two days",
    ]


@pytest.mark.parametrize("path", ["/track/abc", "/track/abc/stream"])
async def test_the_page_of_a_missing_payout_has_its_style(api: Api, path: str) -> None:
    """Its links lead to files that there are, wherever the page is."""
    answer, raw = await api.send("GET", path, authorization=None)
    assert answer.status == 404
    links = re.findall(r'href="([^"]+)"', raw.decode())
    assert len(links) == 2
    for link in links:
        answer, _ = await api.send("GET", urljoin(path, link), authorization=None)
        assert answer.status == 200


async def test_files_are_kept_for_good(api: Api) -> None:
    """Under an address with their digest; another release's address gets this one's, not kept."""
    for name, kind in (
        ("style.css", "text/css"),
        ("track.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        answer, raw = await api.send("GET", f"/assets/{HASHED[name]}", authorization=None)
        assert raw == content(name)
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert (answer.headers["content-encoding"], answer.headers["vary"]) == (
            "gzip",
            "Accept-Encoding",
        )
        for accepted in ("identity", "gzip;q=0, br"):
            answer, raw = await api.send(
                "GET", f"/assets/{HASHED[name]}", authorization=None, accept_encoding=accepted
            )
            assert ("content-encoding" in answer.headers, raw) == (False, content(name))
        stem, _, suffix = name.partition(".")
        answer, raw = await api.send("GET", f"/assets/{stem}.0000.{suffix}", authorization=None)
        assert (answer.status, raw) == (200, content(name))
        assert answer.headers["cache-control"] == "no-store"
    for wrong in ("style", "..%2Fconfig.py", "style.css.map", "track.html"):
        assert (await api.problem("GET", f"/assets/{wrong}", authorization=None))["status"] == 404


async def test_the_first_view_is_small(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Page, stylesheet, script and icon together, as they are sent, in the heaviest state."""
    payout = await api.pay(reference="R" * 255)
    sent = Transaction(id="t1", tx_hash=_HASH, network="Ethereum", at=api.clock.now())
    await tell(api, payout, SubStatus.REQUIRES_ACTION, action=asks(api), transactions=(sent,))
    page = len((await page_of(api, payout)).encode())
    parts = [name for name in HASHED if name not in {"panel.js", "docs.css"}]
    weights = {"page": page, **{name: len(content(name)) for name in parts}}
    with capsys.disabled():
        print(f"\n  first view: {sum(weights.values())} bytes {weights}")
        print(f"  as sent to browsers: {page + sum(len(packed(name)) for name in parts)} bytes")
    assert sum(weights.values()) < _FIRST_VIEW
    assert weights["style.css"] < 18_000
