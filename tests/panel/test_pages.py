"""What the panel's pages show and do, as a browser without a script gets them."""

from __future__ import annotations

import re
import secrets
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.adapter import (
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    Ref,
    SubStatus,
    Transaction,
)
from gateway.config.routes import FeeSettings
from gateway.store.audit import newest_acts
from gateway.store.payouts import add_attention
from gateway.store.rows import to_us
from gateway.users import Role
from tests.api.conftest import ADDRESS, Api, open_api
from tests.api.test_batches import create, item
from tests.pages.conftest import asks, tell
from tests.panel import sample
from tests.panel.conftest import PASSWORD, Browser, add_user, http_settings

_BASE = "/admin/acme/live"
_HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{7*7}}%s&amp;"
_HASH = "0x9a3f" + "c" * 56 + "77e1"


async def other(api: Api, browser: Browser, org: str | None, role: Role) -> Browser:
    """Sign somebody else in, in a browser of its own."""
    http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
    made = Browser(api, http)
    seen = await made.sign_in(await add_user(api, f"user-{secrets.token_hex(3)}", org, role))
    assert seen.status == 200
    return made


async def acts(api: Api, act: str) -> list[Any]:
    """Return rows of the org's audit log."""
    return await api.context.db.scan(newest_acts, 20, org="acme", act=act)


# --- All pages ---------------------------------------------------------------------------------------


async def test_every_page_refuses_parameters_that_it_does_not_know(api: Api, ada: Browser) -> None:
    """A mistyped filter must not show more than was asked for."""
    payout, hook = await api.pay(), await sample.endpoint(api)
    made = await create(api, item(1))
    pages = (
        *("", "/payouts", "/attention", "/keys", "/batches", "/webhooks", "/custodians", "/audit"),
        *(f"/payouts/{payout['id']}{each}" for each in ("", "/cancel")),
        *(f"/batches/{made['id']}{each}" for each in ("", "/report.csv", "/execute", "/cancel")),
        *("/batches/new", f"/webhooks/{hook['id']}", f"/webhooks/{hook['id']}/delete"),
    )
    for page in pages:
        assert (await ada.get(_BASE + page)).status == 200, page
        assert (await ada.get(f"{_BASE}{page}?done=asked")).status == 200, page
        for query in ("stat=failed", "done=asked&done=asked"):
            refused = await ada.get(f"{_BASE}{page}?{query}")
            assert refused.status == 422, (page, query)
    await ada.post("/admin/sign-out")
    assert (await ada.get("/admin/sign-in?form=1")).status == 422
    assert (await ada.get("/admin/sign-in?to=/admin/orgs")).status == 200


# --- Overview ----------------------------------------------------------------------------------------


async def test_an_empty_overview(ada: Browser) -> None:
    """Nothing needs anybody, and there are no charts of nothing."""
    seen = await ada.get(_BASE)
    assert "Nothing needs you." in seen.words
    assert "No payouts in this time." in seen.words
    assert "<svg" not in seen.text.split("Volume", 1)[1].split("</section>", 1)[0]


async def test_what_needs_attention(api: Api, ada: Browser) -> None:
    """Unknown outcomes, codes, failing endpoints and pauses: what, why, since when, and where to go."""
    names = await sample.fill(api, many=200)
    await ada.again()
    at = to_us(api.clock.now())
    await api.context.db.run(
        add_attention, names["delivered"], "contradiction", "account 77 of globex", at
    )
    with closing(sqlite3.connect(api.path)) as store, store:
        store.execute("UPDATE endpoints SET failing_since = ?", (at - 60_000_000,))
    await ada.get(f"{_BASE}/payouts")
    await ada.post(f"{_BASE}/payouts/pause", reason="audit of the books")
    seen = await ada.get(_BASE)
    for words in (
        "The custodian contradicts a final status",
        "Payouts are paused",
        "audit of the books",
        "Outcome unknown 4,423.00 USDC at acme_eu",
        "One payout waits for a person 165.00 USDC",
        "Webhook endpoint keeps failing",
    ):
        assert words in seen.words
    assert f"/payouts/{names['unknown']}" in seen.text
    # As many as the side bar says, there and on every other page.
    for page in (seen, await ada.get(f"{_BASE}/keys")):
        assert "Overview 5 need attention" in page.words
    assert "Needs attention 5" in seen.words
    # Worst first; and the detail, which names another org, is for operators of the gateway alone.
    assert seen.words.index("contradicts") < seen.words.index("Outcome unknown")
    assert "globex" not in seen.text


async def test_the_charts(api: Api, ada: Browser) -> None:
    """Drawn by the server, with their numbers as tables; the other spans can be chosen."""
    await sample.fill(api, many=600)
    await ada.again()
    seen = await ada.get(_BASE)
    assert seen.text.count('role="img"') >= 5
    assert "USDC in" in seen.words
    assert re.search(r"9\d\.\d %", seen.words)
    assert "median of all routes" in seen.words
    assert "dfns_sol · USDC Solana" in seen.words
    assert seen.text.count("<details>") == 4
    month = await ada.get(f"{_BASE}?span=30d")
    assert month.status == 200
    assert (await ada.get(f"{_BASE}?span=1y")).status == 404


# --- Payouts -------------------------------------------------------------------------------------------


async def test_a_payout_is_found_by_every_id(api: Api, ada: Browser) -> None:
    """Ours, the partner's two, the custodian's, and the hash; another org's by none of them."""
    payout = await api.pay(reference="INV-7", external_ref="user-7")
    sent = Transaction(id="t1", tx_hash=_HASH, network="Ethereum", at=api.clock.now())
    refs = (Ref("transfer", "tr-99"),)
    await tell(api, payout, SubStatus.BROADCAST, transactions=(sent,), refs=refs)
    await api.pay(reference="INV-8")
    quote = payout["quote"]["quote_id"]
    assert quote.startswith("quo_")
    for text in (payout["id"], quote, "INV-7", "user-7", "tr-99", _HASH):
        seen = await ada.get(f"{_BASE}/payouts?q={text}")
        assert f"/payouts/{payout['id']}" in seen.text, text
        assert seen.text.count('data-name="Amount"') == 1
    globex = await other(api, ada, "globex", Role.ADMIN)
    for text in (payout["id"], quote, "INV-7", "user-7", "tr-99", _HASH):
        seen = await globex.get(f"/admin/globex/live/payouts?q={text}")
        assert "Nothing matches." in seen.words
    await globex.http.close()
    assert "Nothing matches." in (await ada.get(f"{_BASE}/payouts?q=%00%27")).words


@pytest.mark.parametrize("query", ["status=zzz", "cursor=abc", "after=x&after=y"])
@pytest.mark.parametrize("name", ["payouts", "batches", "audit"])
async def test_a_list_takes_no_other_filter(ada: Browser, name: str, query: str) -> None:
    """A mistyped one must not widen the list: refused as by the API."""
    seen = await ada.get(f"/admin/acme/live/{name}?{query}")
    assert seen.status == 422
    assert f"The parameter {query.partition('=')[0]} is " in seen.words


async def test_another_orgs_payout_is_not_there(api: Api, ada: Browser) -> None:
    """Neither to read nor to act on, and the answer is that of an id that nobody has."""
    theirs = await api.pay(org="globex")
    await ada.get(_BASE)
    unknown = f"pay_{'0' * 26}"
    for payout_id in (theirs["id"], unknown):
        page = await ada.get(f"{_BASE}/payouts/{payout_id}")
        assert "in this organisation and mode" in page.words
        assert "API key" not in page.words
        for path in ("", "/cancel", "/resolve"):
            assert (await ada.get(f"{_BASE}/payouts/{payout_id}{path}")).status in {403, 404}
        for act in ("cancel", "ask", "resend"):
            assert (
                await ada.post(f"{_BASE}/payouts/{payout_id}/{act}", event="evt_1")
            ).status == 404
    one, two = [await ada.get(f"{_BASE}/payouts/{each}") for each in (theirs["id"], unknown)]
    assert (
        one.words.replace(theirs["id"], "").split("Request")[0]
        == two.words.replace(unknown, "").split("Request")[0]
    )


async def test_the_story_of_a_payout(api: Api, ada: Browser) -> None:
    """From the quote to the delivery, oldest first, with each delivery of its events; one group alone."""
    await sample.endpoint(api)
    payout = await api.pay(amount="1250", reference="INV-2043")
    await api.clock.advance(60)
    sent = Transaction(id="t1", tx_hash=_HASH, network="Ethereum", at=api.clock.now())
    await tell(api, payout, SubStatus.BROADCAST, transactions=(sent,))
    await api.clock.advance(60)
    await tell(api, payout, SubStatus.DELIVERED)
    seen = await ada.get(f"{_BASE}/payouts/{payout['id']}")
    places = [
        seen.words.index(words)
        for words in (
            "Quote accepted",
            "Route chosen: acme_eu",
            "Payout created",
            "Execution 1 started",
        )
    ]
    assert places == sorted(places)
    assert "event 1 · payout.created Delivered to 0 of 1 endpoint." in seen.words
    assert "hooks.northwind.example" in seen.words
    assert "It is delivered: final statuses never change." in seen.words
    money = await ada.get(f"{_BASE}/payouts/{payout['id']}?show=money")
    assert "Execution 1 started" not in money.words
    assert "Payout created" in money.words


async def test_the_story_says_why_no_other_route_was_taken(tmp_path: Path) -> None:
    """Routes that were possible, with what they would have cost, and those that were left out, with why."""
    settings = http_settings(tmp_path)
    (route, *_) = [each for each in settings.routes if each.destination == "address"]
    dearer = route.model_copy(
        update={"name": "dear", "fee": FeeSettings(flat=Decimal(3)), "priority": 200}
    )
    large = route.model_copy(update={"name": "large", "min_amount": Decimal(5000)})
    elsewhere = route.model_copy(update={"name": "elsewhere", "networks": ("Polygon",)})
    foreign = route.model_copy(update={"name": "foreign", "orgs": ("globex",)})
    settings = settings.model_copy(
        update={"routes": (*settings.routes, dearer, large, elsewhere, foreign)}
    )
    async with (
        open_api(settings) as api,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http,
    ):
        ada = Browser(api, http)
        await ada.sign_in(await add_user(api))
        address = {"type": "address", "network": "Ethereum", "address": ADDRESS}
        payout = await api.pay(amount="100", destination=address)
        words = (await ada.get(f"{_BASE}/payouts/{payout['id']}")).words
        assert "Route chosen: acme_eu policy: fixed" in words
        assert "acme_eu · dear · Ethereum possible: fee 3.00 higher" in words
        assert "acme_eu · large left out: Less than 5000 USDC is not sent this way" in words
        assert "acme_eu · elsewhere left out: pays on Polygon" in words
        assert "foreign" not in words
        root = await other(api, ada, None, Role.OPERATOR)
        assert (
            "acme_eu · foreign left out: is for other orgs"
            in (await root.get(f"{_BASE}/payouts/{payout['id']}")).words
        )
        await root.http.close()


async def test_an_unsafe_action_is_off_and_says_what_is_missing(api: Api, ada: Browser) -> None:
    """While the outcome is unknown: only asking again is on; the absence is not proven yet."""
    payout = await api.pay()
    await sample.unknown_call(api, payout, looks=2)
    root = await other(api, ada, None, Role.OPERATOR)
    seen = await root.get(f"{_BASE}/payouts/{payout['id']}")
    assert "Outcome unknown." in seen.words
    assert "Only reads. Always safe." in seen.words
    assert "Absence not proven: 2 of 3 looks did not find it" in seen.words
    assert "This custodian cannot call it back." in seen.words
    assert "Look: not known there read only Counts towards proof of absence." in seen.words
    offs = re.findall(r"<button[^>]*disabled[^>]*>([^<]+)", seen.text)
    assert offs == ["Retry", "Cancel…"]
    refused = await root.post(f"{_BASE}/payouts/{payout['id']}/retry")
    assert refused.status == 409
    assert "Nothing was changed. Not retried" in refused.words
    asked = await root.post(f"{_BASE}/payouts/{payout['id']}/ask")
    assert "The custodian is asked again at once." in asked.words
    assert api.woken[-1] == "acme_eu"
    (row,) = await acts(api, "payout_asked_again")
    assert row["actor"].startswith("user-")
    assert row["request_id"].startswith("req_")
    await root.http.close()


async def test_cancel_asks_once_more(api: Api, ada: Browser) -> None:
    """With amount and consequence; then nothing was sent, it ends, and the log names who it was."""
    payout = await api.pay(amount="43")
    seen = await ada.get(f"{_BASE}/payouts/{payout['id']}/cancel")
    assert "Cancel 43.00 USDC?" in seen.words
    assert "It cannot be undone." in seen.words
    done = await ada.post(f"{_BASE}/payouts/{payout['id']}/cancel")
    assert "The payout was canceled." in done.words
    assert "No money moved." in done.words
    (row,) = await acts(api, "payout_canceled")
    assert row["actor"] == "ada"
    again = await ada.post(f"{_BASE}/payouts/{payout['id']}/cancel")
    assert again.status == 409


async def test_resolve_needs_role_evidence_and_password(api: Api, ada: Browser) -> None:
    """An org's user may not; without evidence or with a wrong password nothing is done."""
    payout = await api.pay()
    await sample.unknown_call(api, payout)
    path = f"{_BASE}/payouts/{payout['id']}/resolve"
    await ada.get(_BASE)
    assert (await ada.post(path, {"as": "unknown"}, evidence="e", password=PASSWORD)).status == 403
    root = await other(api, ada, None, Role.OPERATOR)
    await root.get(path)
    wanted = {"as": "unknown", "evidence": "console, 10:00: not there", "password": PASSWORD}
    for change, code in (
        ({"evidence": " "}, 400),
        ({"as": "perhaps"}, 400),
        ({"password": "wrong horse battery staple"}, 403),
        ({"as": "no"}, 409),
    ):
        refused = await root.post(path, wanted | change)
        assert refused.status == code, refused.words
        assert PASSWORD not in refused.text
    assert "a call of this payout may still arrive" in refused.words
    done = await root.post(path, wanted)
    assert "The payout was resolved." in done.words
    (row,) = await acts(api, "payout_resolved")
    assert row["detail"] == "console, 10:00: not there"
    # The partner's own people see that it was resolved, and neither the evidence nor by whom.
    seen = await ada.get(f"{_BASE}/payouts/{payout['id']}")
    assert "Payout resolved" in seen.words
    log = await ada.get(f"{_BASE}/audit")
    for page in (seen, log):
        assert "console, 10:00" not in page.text
        assert row["actor"] not in page.text
    await root.http.close()


async def test_a_payout_of_a_removed_custodian_is_resolved(
    api: Api, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rules and with the audit trail of any other; nothing else can be done to it."""
    payout = await api.pay()
    await sample.unknown_call(api, payout)
    monkeypatch.delitem(api.context.custodians, "acme_eu")
    path = f"{_BASE}/payouts/{payout['id']}/resolve"
    root = await other(api, ada, None, Role.OPERATOR)
    assert "custodian is not configured" in (await root.get(path)).words
    wanted = {"evidence": "console, 10:00: not there", "password": PASSWORD}
    refused = await root.post(path, wanted | {"as": "no"})
    assert refused.status == 409
    assert "a call of this payout may still arrive" in refused.words
    done = await root.post(path, wanted | {"as": "unknown"})
    assert "The payout was resolved." in done.words
    (row,) = await acts(api, "payout_resolved")
    assert (row["subject"], row["detail"]) == (payout["id"], wanted["evidence"])
    assert row["actor"].startswith("user-")
    await root.http.close()


async def test_a_payout_of_a_removed_custodian_is_shown_with_caution(
    api: Api, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its console shows may lag: "not paid" can be said later than at one that declares no lag."""
    root = await other(api, ada, None, Role.OPERATOR)
    payout = await api.pay()
    await sample.unknown_call(api, payout)
    can = Capabilities(frozenset(), cancel=True, console_lags=False)
    monkeypatch.setattr(type(api.context.custodians["acme_eu"]), "capabilities", can)
    for page in ("", "/resolve"):
        words = (await root.get(f"{_BASE}/payouts/{payout['id']}{page}")).words
        assert "That no money moved can be said in 2 min at" in words
        assert ("The custodian is asked, and decides." in words) == (page == "")
    monkeypatch.delitem(api.context.custodians, "acme_eu")
    for page in ("", "/resolve"):
        words = (await root.get(f"{_BASE}/payouts/{payout['id']}{page}")).words
        assert "That no money moved can be said in 3 min at" in words
        assert "The custodian is asked, and decides." not in words
    await root.http.close()


async def test_events_are_sent_again(api: Api, ada: Browser) -> None:
    """From the story, and from the list of tries."""
    hook = await sample.endpoint(api)
    payout = await api.pay()
    seen = await ada.get(f"{_BASE}/payouts/{payout['id']}")
    event = re.search(r'name="event" value="(evt_[^"]+)"', seen.text)
    assert event is not None
    done = await ada.post(f"{_BASE}/payouts/{payout['id']}/resend", event=event[1])
    assert "The event is being sent again." in done.words
    done = await ada.post(f"{_BASE}/webhooks/{hook['id']}/resend", event=event[1])
    assert "The event is being sent again." in done.words
    assert [row["subject"] for row in await acts(api, "event_resent")] == [event[1]] * 2
    assert (await ada.post(f"{_BASE}/payouts/{payout['id']}/resend", event="evt_x")).status == 404


async def test_acknowledge(api: Api, ada: Browser) -> None:
    """For operators of the gateway; it goes off the list and stays with the closed ones."""
    payout = await api.pay()
    at = to_us(api.clock.now())
    await api.context.db.run(add_attention, payout["id"], "unknown_word", "the word FOO", at)
    await ada.get(_BASE)
    assert (await ada.post(f"{_BASE}/payouts/{payout['id']}/acknowledge")).status == 403
    root = await other(api, ada, None, Role.OPERATOR)
    assert "the word FOO" in (await root.get(f"{_BASE}/payouts/{payout['id']}")).words
    await root.post(f"{_BASE}/payouts/{payout['id']}/acknowledge")
    assert "unknown word" not in (await root.get(_BASE)).words
    assert "Acknowledged" in (await root.get(f"{_BASE}/attention")).words
    await root.http.close()


# --- Roles -------------------------------------------------------------------------------------------

_OPERATES = ("payouts/pause", "payouts/{p}/cancel", "payouts/{p}/ask", "batches/check")
_ADMINISTERS = ("keys", "keys/{k}/revoke", "keys/{k}/rotate", "webhooks", "webhooks/{w}/delete")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_roles(api: Api, ada: Browser, role: Role) -> None:
    """What a role may not do is neither shown nor done."""
    payout, hook = await api.pay(), await sample.endpoint(api)
    key = (await api.context.db.scan(newest_acts, 1, act="key_created"))[0]["subject"]
    names = {"p": payout["id"], "k": key, "w": hook["id"]}
    somebody = await other(api, ada, "acme", role)
    await somebody.get(_BASE)
    refused = (*_ADMINISTERS, *(_OPERATES if role is Role.VIEWER else ()))
    for path in refused:
        seen = await somebody.post(
            f"{_BASE}/{path.format(**names)}", reason="r", url="https://x.example"
        )
        assert seen.status == 403, path
        assert "Nothing was done." in seen.words
    assert "Make live key" not in (await somebody.get(f"{_BASE}/keys")).words
    assert (await somebody.get(f"{_BASE}/keys/{key}")).status == 403
    shown = (await somebody.get(f"{_BASE}/payouts/{payout['id']}")).words
    assert ("Ask the custodian again" in shown) == (role is Role.OPERATOR)
    assert (await somebody.get(f"{_BASE}/audit")).status == (403 if role is Role.VIEWER else 200)
    assert (await somebody.post(f"{_BASE}/payouts/{payout['id']}/retry")).status == 403
    status, now = await api.call("GET", f"/payouts/{payout['id']}")
    assert (status, now["status"]) == (200, "pending")
    await somebody.http.close()


# --- Keys --------------------------------------------------------------------------------------------


def key_in(text: str) -> str:
    """Return the key that a page shows."""
    found = re.search(r"sk_live_[A-Za-z0-9_-]{43}", text)
    assert found is not None, text
    return found[0]


async def test_a_key_is_shown_once_and_pays(api: Api, ada: Browser) -> None:
    """Minted with the scopes that were chosen; the list has a hint; it works until it is revoked."""
    await ada.get(f"{_BASE}/keys")
    seen = await ada.post(f"{_BASE}/keys", name="payroll-live", read="on", ends="365")
    key = key_in(seen.text)
    assert "payroll-live is ready. Copy it now: it is shown only this once." in seen.words
    assert key not in (await ada.get(f"{_BASE}/keys")).text
    bearer = f"Bearer {key}"
    assert (await api.send("GET", "/payouts", authorization=bearer))[0].status == 200
    answer, _ = await api.send("POST", "/payouts/quote", body={}, authorization=bearer)
    assert answer.status == 403
    (row,) = [each for each in await acts(api, "key_created") if each["actor"] == "ada"]
    page = await ada.get(f"{_BASE}/keys/{row['subject']}")
    assert "Revoke payroll-live" in page.words
    assert "The key was revoked." in (await ada.post(f"{_BASE}/keys/{row['subject']}/revoke")).words
    assert (await api.send("GET", "/payouts", authorization=bearer))[0].status == 401


async def test_rotation_with_an_overlap(api: Api, ada: Browser) -> None:
    """Both keys work for the hours that were chosen, and then the new one alone."""
    await ada.get(f"{_BASE}/keys")
    old = key_in((await ada.post(f"{_BASE}/keys", name="ledger", read="on", ends="")).text)
    (row,) = [each for each in await acts(api, "key_created") if each["actor"] == "ada"]
    new = key_in((await ada.post(f"{_BASE}/keys/{row['subject']}/rotate", overlap="1")).text)

    async def works(key: str) -> bool:
        answer, _ = await api.send("GET", "/payouts", authorization=f"Bearer {key}")
        return answer.status == 200

    assert (await works(old), await works(new)) == (True, True)
    assert "Ends in 1 h" in (await ada.get(f"{_BASE}/keys")).words
    await api.clock.advance(3601)
    assert (await works(old), await works(new)) == (False, True)
    assert [each["subject"] for each in await acts(api, "key_ends_sooner")] == [row["subject"]]
    refused = await ada.post(f"{_BASE}/keys/{row['subject']}/rotate", overlap="9999")
    assert refused.status in {400, 303, 200, 409}


async def test_a_form_that_is_sent_twice_makes_one_key(api: Api, ada: Browser) -> None:
    """A reload of the answer, or an impatient click: the key is in the list, and is not shown again."""
    await ada.get(f"{_BASE}/keys")
    fields = {"name": "payroll-live", "read": "on", "ends": "365", "_once": ada.drawn}
    key = key_in((await ada.post(f"{_BASE}/keys", fields)).text)
    again = await ada.post(f"{_BASE}/keys", fields)
    assert again.status == 409
    assert "This form was sent before" in again.words
    assert key not in again.text
    made = [each for each in await acts(api, "key_created") if each["actor"] == "ada"]
    assert len(made) == 1
    with closing(sqlite3.connect(api.context.settings.database)) as store:
        assert not any(
            key.encode() in bytes(row[0] or b"")
            for row in store.execute("SELECT answer FROM idempotency")
        )
    # Gone back to, and filled in differently: another form.
    other_name = await ada.post(f"{_BASE}/keys", {**fields, "name": "ledger"})
    assert key_in(other_name.text) != key
    path = f"{_BASE}/keys/{made[0]['subject']}"
    await ada.get(path)
    fields = {"overlap": "1", "_once": ada.drawn}
    assert (await ada.post(f"{path}/rotate", fields)).status == 200
    assert (await ada.post(f"{path}/rotate", fields)).status == 409
    assert len(await acts(api, "key_rotated")) == 1
    assert (await ada.post(f"{_BASE}/keys", {**fields, "_once": "x"})).status == 400


async def test_keys_that_cannot_be(api: Api, ada: Browser) -> None:
    """The form comes back with what was typed and one sentence; another org's or mode's key is not there."""
    await ada.get(f"{_BASE}/keys")
    for fields, words in (
        ({"name": "n", "ends": "365"}, "Choose what the key may do."),
        ({"name": "n", "ends": "7", "read": "on"}, "Choose when the key ends."),
        ({"name": "", "ends": "30", "read": "on"}, "name has 1 to 100 printable characters"),
        ({"name": "n", "ends": "30", "read": "on", "networks": "here"}, "is not a network"),
    ):
        seen = await ada.post(f"{_BASE}/keys", fields)
        assert seen.status == 400
        assert words in seen.words
    assert 'value="here"' in seen.text
    await api.key("globex")
    await api.key("acme", "test")
    for row in await api.context.db.scan(newest_acts, 5, act="key_created"):
        for act in ("revoke", "rotate"):
            seen = await ada.post(f"{_BASE}/keys/{row['subject']}/{act}", overlap="0")
            assert seen.status == 404


# --- Webhooks ----------------------------------------------------------------------------------------


async def test_an_endpoint_from_creation_to_deletion(api: Api, ada: Browser) -> None:
    """Its secrets are shown once; disabled, enabled, recovered, rotated, deleted; each in the log."""
    await ada.get(f"{_BASE}/webhooks")
    seen = await ada.post(
        f"{_BASE}/webhooks", url="https://hooks.example/x?token=t0psecret", event_types="payout.*"
    )
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", seen.text)
    assert secret is not None
    endpoint = re.search(r"whe_[a-z0-9]{26}", seen.text)
    assert endpoint is not None
    path = f"{_BASE}/webhooks/{endpoint[0]}"
    assert secret[0] not in (await ada.get(path)).text
    rotated = await ada.post(f"{path}/rotate", overlap="86400")
    fresh = re.search(r"whsec_[A-Za-z0-9+/=]+", rotated.text)
    assert fresh is not None
    assert fresh[0] != secret[0]
    assert "Only the newest secret signs now." in (await ada.post(f"{path}/end-secrets")).words
    assert "The endpoint is disabled." in (await ada.post(f"{path}/disable")).words
    assert "The endpoint is disabled." in (await ada.post(f"{path}/test")).words
    assert (await ada.post(f"{path}/recover", hours="24")).status == 409
    assert "The endpoint is enabled" in (await ada.post(f"{path}/enable")).words
    assert "Missed events are sent again." in (await ada.post(f"{path}/recover", hours="24")).words
    asked = await ada.get(f"{path}/delete")
    assert "Delete this endpoint?" in asked.words
    assert "It cannot be undone" in asked.words
    assert (await ada.get(path)).status == 200
    assert f"{endpoint[0]}/delete" in (await ada.get(path)).text
    assert (
        f'action="../../../../admin/acme/live/webhooks/{endpoint[0]}/delete"'
        not in (await ada.get(path)).text
    )
    await ada.get(f"{path}/delete")
    assert "The endpoint was deleted." in (await ada.post(f"{path}/delete")).words
    assert (await ada.get(path)).status == 404
    done = [row["act"] for row in await api.context.db.scan(newest_acts, 20, org="acme")]
    assert done[:3] == ["endpoint_deleted", "recovery_started", "endpoint_changed"]
    log = (await ada.get(f"{_BASE}/audit")).text
    assert "t0psecret" not in log


async def test_a_form_that_is_sent_twice_makes_one_endpoint(api: Api, ada: Browser) -> None:
    """Nor are two secrets made by one click."""
    await ada.get(f"{_BASE}/webhooks")
    fields = {"url": "https://hooks.example/x", "_once": ada.drawn}
    seen = await ada.post(f"{_BASE}/webhooks", fields)
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", seen.text)
    assert secret is not None
    again = await ada.post(f"{_BASE}/webhooks", fields)
    assert (again.status, secret[0] in again.text) == (409, False)
    assert len(await acts(api, "endpoint_created")) == 1
    endpoint = re.search(r"whe_[a-z0-9]{26}", seen.text)
    assert endpoint is not None
    path = f"{_BASE}/webhooks/{endpoint[0]}"
    await ada.get(path)
    fields = {"overlap": "86400", "_once": ada.drawn}
    assert (await ada.post(f"{path}/rotate", fields)).status == 200
    assert (await ada.post(f"{path}/rotate", fields)).status == 409
    assert len(await acts(api, "endpoint_secret_rotated")) == 1


async def test_the_audit_log_links_what_there_is(api: Api, ada: Browser) -> None:
    """Each row leads to the page in the mode of what was acted on; what was deleted has no link."""
    for mode in ("live", "test"):
        await ada.get(f"/admin/acme/{mode}/keys")
        await ada.post(f"/admin/acme/{mode}/keys", name=f"{mode}-key", read="on", ends="30")
        await ada.get(f"/admin/acme/{mode}/webhooks")
        await ada.post(f"/admin/acme/{mode}/webhooks", url=f"https://{mode}.example/x")
    _, gone = await acts(api, "endpoint_created")
    await ada.get(f"{_BASE}/webhooks/{gone['subject']}/delete")
    await ada.post(f"{_BASE}/webhooks/{gone['subject']}/delete")
    for mode in ("live", "test"):
        log = await ada.get(f"/admin/acme/{mode}/audit")
        links = re.findall(r'<a href="\.\./\.\./\.\./(admin/acme/[^"]+/[a-z]{3}_[^"]+)"', log.text)
        assert {each.split("/")[2] for each in links} == {"live", "test"}
        for link in links:
            assert (await ada.get("/" + link)).status == 200, link
        assert not any(gone["subject"] in each for each in links)
        assert ("test mode" if mode == "live" else "live mode") in log.words


async def test_tries_are_shown_as_they_ended(api: Api, ada: Browser) -> None:
    """What arrived has a tick, and only what did not has a cross."""
    names = await sample.fill(api) | await sample.more(api)
    await ada.again()
    page = await ada.get(f"{_BASE}/webhooks/{names['hook']}")
    pills = re.findall(r'<span class="pill (ok|bad)"><svg.*?</svg>(\d{3})</span>', page.text)
    assert set(pills) == {("ok", "204"), ("bad", "503")}


async def test_endpoints_that_cannot_be(ada: Browser) -> None:
    """The URL and the types are judged by the API's own rules."""
    await ada.get(f"{_BASE}/webhooks")
    for fields, words in (
        ({"url": "http://hooks.example/x"}, "https"),
        ({"url": "https://hooks.example/x", "event_types": "nothing.*"}, "matches no event type"),
    ):
        seen = await ada.post(f"{_BASE}/webhooks", fields)
        assert seen.status == 400
        assert words in seen.words


# --- Pauses ------------------------------------------------------------------------------------------


async def test_pause_and_resume(api: Api, ada: Browser) -> None:
    """The org's own payouts in this mode, as with a key of the org."""
    await ada.get(f"{_BASE}/payouts")
    assert (await ada.post(f"{_BASE}/payouts/pause", reason="")).status in {400, 422}
    await ada.post(f"{_BASE}/payouts/pause", reason="end of month")
    problem = await api.problem("POST", "/payouts/quote", body=dict(_QUOTE), idempotency_key="k1")
    assert problem["code"] == "paused"
    assert "ada paused them" in (await ada.get(f"{_BASE}/payouts")).words
    await ada.post(f"{_BASE}/payouts/resume")
    assert (await api.quote())["quote_id"]
    assert [row["actor"] for row in await acts(api, "paused")] == ["ada"]


_QUOTE = {
    "external_ref": "u-1",
    "destination": {"type": "custodian_account", "account_type": "EXTERNAL_WALLET", "id": "w-1"},
    "asset": "USDC",
    "amount": "43",
}


# --- Whatever partners and custodians write ----------------------------------------------------------


async def test_no_text_becomes_markup(api: Api, ada: Browser) -> None:
    """Texts of partners, custodians, receivers and users, on every page, also where they are 300 long."""
    context = api.context
    long = _HOSTILE + "W" * (255 - len(_HOSTILE))
    payout = await api.pay(reference=long, external_ref=long, metadata={"k": long})
    failed = Failure(
        code=FailureCode.CUSTODIAN_ERROR,
        message=_HOSTILE + "W" * 300,
        custodian_code=_HOSTILE,
        funds_moved=FundsMoved.UNKNOWN,
    )
    await tell(api, payout, SubStatus.REQUIRES_ACTION, action=asks(api, masked_target=_HOSTILE))
    await tell(
        api,
        payout,
        SubStatus.SUBMITTED,
        detail=_HOSTILE,
        refs=(Ref("transfer", _HOSTILE),),
        custodian_reference=_HOSTILE,
    )
    sent = Transaction(id=_HOSTILE, tx_hash=_HOSTILE, network=_HOSTILE[:60], at=api.clock.now())
    await tell(api, payout, SubStatus.BROADCAST, transactions=(sent,))
    await tell(api, payout, SubStatus.FAILED, failure=failed)
    at = to_us(api.clock.now())
    await context.db.run(add_attention, payout["id"], "mismatch", _HOSTILE, at)
    status, hook = await api.call(
        "POST",
        "/webhook-endpoints",
        body={"url": "https://h.example/%22%3E", "description": _HOSTILE, "headers": {"x-a": "v"}},
    )
    assert status == 201
    root = await other(api, ada, None, Role.ADMIN)
    await root.get(f"{_BASE}/keys")
    await root.post(f"{_BASE}/keys", name=_HOSTILE[:90], read="on", ends="30")
    await root.post(f"{_BASE}/payouts/pause", reason=_HOSTILE)
    pages = [
        "",
        "/attention",
        "/payouts",
        f"/payouts?q={payout['id']}",
        f"/payouts/{payout['id']}",
        "/webhooks",
        f"/webhooks/{hook['id']}",
        "/keys",
        "/audit",
        "/custodians",
        "/batches",
    ]
    for path in pages:
        seen = await root.get(_BASE + path)
        assert seen.status == 200, path
        assert "<script>alert" not in seen.text, path
        assert "<img" not in seen.text, path
    searched = await root.get(f"{_BASE}/payouts?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in searched.text
    await root.http.close()


# --- Many payouts ------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_hundred_thousand_payouts(api: Api, ada: Browser) -> None:
    """A page of the list takes as many statements as with ten, none of them counts, and all use an index."""
    like = await api.pay()
    await api.clock.advance(90_000)
    await ada.again()
    counted = []
    for many, seed in ((10, 1), (100_000, 2)):
        if many > 10:
            with closing(sqlite3.connect(api.path)) as store, store:
                store.execute("DELETE FROM payouts WHERE id LIKE 'pay_000000%'")
        sample.copies(api, like["id"], many, seed=seed)
        before = api.context.db.statements
        seen = await ada.get(f"{_BASE}/payouts")
        counted.append(api.context.db.statements - before)
    assert counted[0] == counted[1]
    assert seen.text.count('data-name="Amount"') == 50
    pages, path = 1, ""
    while pages < 4:
        found = re.search(r'href="([^"]*after=[^"]+)">Older', seen.text)
        assert found is not None
        path = "/admin/" + found[1].replace("&amp;", "&").split("admin/", 1)[1]
        nxt = await ada.get(path)
        assert not set(re.findall(r"/payouts/(pay_\w+)", nxt.text)) & set(
            re.findall(r"/payouts/(pay_\w+)", seen.text)
        )
        seen, pages = nxt, pages + 1
    forged = await ada.get(path.replace("after=", "after=x"))
    assert forged.status == 400
    with closing(sqlite3.connect(api.path)) as store:
        for where in (
            "org = 'acme' AND mode = 'live'",
            "org = 'acme' AND mode = 'live' AND (created_at < 5 OR (created_at = 5 AND id < 'x'))",
        ):
            plan = store.execute(
                f"EXPLAIN QUERY PLAN SELECT * FROM payouts WHERE {where} "
                "ORDER BY created_at DESC, id DESC LIMIT 51"
            ).fetchall()
            assert "ix_payouts_org_mode_created" in str(plan)
            assert "TEMP B-TREE" not in str(plan)
    assert (await ada.get(_BASE)).status == 200
