"""Signing in to the panel: codes, sessions, forged forms, limits, headers."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pyotp
import pytest
from starlette.routing import Route

from gateway import users
from gateway.limits import Buckets
from gateway.panel import application
from gateway.panel.access import Panel, place_of
from gateway.store.audit import Act, newest_acts
from gateway.store.users import user_by_name
from gateway.users import IDLE, LIFE, Role, User, UserError, password_fault
from tests.api.conftest import Api, open_api
from tests.pages.conftest import page_settings
from tests.panel.conftest import PASSWORD, Browser, add_user, http_settings

_WRONG = "Name, password or code is wrong."


async def test_sign_in_and_out(api: Api, browser: Browser) -> None:
    """With name, password and code; the overview opens; after signing out the session is over."""
    made = await add_user(api)
    assert (await browser.get("/admin")).url == "/admin/sign-in"
    seen = await browser.sign_in(made)
    assert (seen.status, seen.url) == (200, "/admin/acme/live")
    assert "Northwind Payroll" in seen.words
    assert "Admin: ada" in seen.words
    token = browser.cookie("panel")
    assert token is not None
    assert await browser.with_token(token) == ""
    assert (await browser.post("/admin/sign-out")).url == "/admin/sign-in"
    assert "sign-in" in await browser.with_token(token)
    acts = await api.context.db.scan(newest_acts, 10, org="acme")
    assert [(row["actor"], row["act"]) for row in acts][:2] == [
        ("ada", "user_signed_out"),
        ("ada", "user_signed_in"),
    ]


@pytest.mark.parametrize(
    ("name", "password", "code"),
    [("ada", "wrong horse battery staple", ""), ("ada", PASSWORD, "000000"), ("bob", PASSWORD, "")],
    ids=["password", "code", "name"],
)
async def test_whatever_is_wrong_is_answered_alike(
    api: Api, browser: Browser, name: str, password: str, code: str
) -> None:
    """Nobody learns which part was wrong, or whether there is such a user."""
    made = await add_user(api)
    await browser.get("/admin/sign-in")
    right = pyotp.TOTP(made.secret).at(api.clock.now())
    seen = await browser.post("/admin/sign-in", name=name, password=password, code=code or right)
    assert seen.status == 401
    assert _WRONG in seen.words
    assert password not in seen.text
    assert browser.cookie("panel") is None


async def test_the_same_work_for_nobody(
    api: Api, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is no user's costs one comparison of a password and one of a code, as a user's does."""
    work: list[str] = []
    is_password, step_of = users._is_password, users._step_of

    def password(hashed: str, given: str) -> bool:
        work.append("password")
        return is_password(hashed, given)

    def step(secret: str, code: str, at: datetime) -> int | None:
        work.append("code")
        return step_of(secret, code, at)

    monkeypatch.setattr(users, "_is_password", password)
    monkeypatch.setattr(users, "_step_of", step)
    await add_user(api)
    done = []
    for name in ("ada", "nobody"):
        work.clear()
        await browser.get("/admin/sign-in")
        await browser.post("/admin/sign-in", name=name, password="wrong", code="123456")
        done.append(list(work))
    assert done == [["password", "code"], ["password", "code"]]


async def test_a_code_is_used_once(api: Api, browser: Browser) -> None:
    """Whoever reads it over a shoulder cannot sign in with it, nor with the one before."""
    made = await add_user(api)
    await browser.sign_in(made)
    used = pyotp.TOTP(made.secret).at(api.clock.now())
    before = pyotp.TOTP(made.secret).at(api.clock.now() - timedelta(seconds=30))
    await browser.post("/admin/sign-out")
    for code in (used, before):
        await browser.get("/admin/sign-in")
        seen = await browser.post("/admin/sign-in", name="ada", password=PASSWORD, code=code)
        assert seen.status == 401


async def test_a_new_token_at_sign_in(api: Api, browser: Browser) -> None:
    """Fixation: a token that somebody has put into the browser is worth nothing after signing in."""
    made = await add_user(api)
    planted = "a" * 43
    browser.http.cookie_jar.update_cookies({"panel": planted})
    await browser.sign_in(made)
    first = browser.cookie("panel")
    assert first not in {None, planted}
    # Signing in again in the same browser ends the session of before.
    await api.clock.advance(31)
    page = await browser.get("/admin/acme/live")
    code = pyotp.TOTP(made.secret).at(api.clock.now())
    browser.http.cookie_jar.update_cookies({"panel-form": "f" * 43})
    seen = await browser.post(
        "/admin/sign-in",
        form_token=users.form_token("f" * 43),
        name="ada",
        password=PASSWORD,
        code=code,
    )
    assert (page.status, seen.status) == (200, 200)
    assert browser.cookie("panel") != first
    assert "sign-in" in await browser.with_token(first)
    assert await browser.with_token(browser.cookie("panel")) == ""


async def test_the_database_has_no_token(api: Api, ada: Browser) -> None:
    """Of a session there is a digest, of a password a hash, and the secret of codes is sealed."""
    token = ada.cookie("panel") or ""
    for path in api.path.parent.glob(api.path.name + "*"):
        raw = path.read_bytes()
        assert token.encode() not in raw
        assert PASSWORD.encode() not in raw
    row = await api.context.db.read(user_by_name, "ada")
    assert row is not None
    assert row["password"].startswith("$argon2id$")


async def test_sessions_end(api: Api, ada: Browser) -> None:
    """After half an hour without a request, and after half a day with them."""
    await api.clock.advance(IDLE.total_seconds() - 60)
    assert (await ada.get("/admin/acme/live")).url == "/admin/acme/live"
    await api.clock.advance(IDLE.total_seconds() + 1)
    assert (await ada.get("/admin/acme/live")).url == "/admin/sign-in"
    await ada.sign_in(await add_user(api, "eve"))
    for _ in range(int(LIFE / IDLE) * 2):
        await api.clock.advance(IDLE.total_seconds() / 2)
        seen = await ada.get("/admin/acme/live")
    assert seen.url == "/admin/sign-in"


async def test_a_removed_user_is_out_at_once(api: Api, ada: Browser) -> None:
    """While signed in: the next request is refused. A reset ends sessions, too."""
    await add_user(api, "eve")
    context = api.context
    await context.db.run(users.remove, context.runtime, "ada", Act("root"))
    assert (await ada.get("/admin/acme/live")).url == "/admin/sign-in"
    made = await add_user(api, "bob")
    await ada.sign_in(made)
    renewed = await context.db.run(
        users.reset,
        context.runtime,
        context.vault,
        "bob",
        users.hash_of("another horse with staples"),
        site="http://h",
        act=Act("root"),
    )
    assert (await ada.get("/admin/acme/live")).url == "/admin/sign-in"
    assert (await ada.sign_in(made)).status == 401
    seen = await ada.sign_in(renewed, password="another horse with staples")
    assert seen.url == "/admin/acme/live"


async def test_guesses_are_limited(api: Api, browser: Browser) -> None:
    """After twenty of them even the right password has to wait; a minute later it is taken again."""
    made = await add_user(api)
    codes = []
    for _ in range(22):
        await browser.get("/admin/sign-in")
        seen = await browser.post("/admin/sign-in", name="ada", password="x", code="1")
        codes.append(seen.status)
    assert codes[:20] == [401] * 20
    assert codes[20:] == [429, 429]
    assert int(seen.headers["Retry-After"]) > 0
    await api.clock.advance(120)
    assert (await browser.sign_in(made)).status == 200


async def _held(api: Api, ask: Any) -> None:
    """Check that of the refusals of a client two are sent at once, three are held back, and one closes."""
    assert [await ask() for _ in range(2)] == [(429, None)] * 2
    held = [asyncio.create_task(ask()) for _ in range(3)]
    while api.clock.sleepers < 3 and not any(each.done() for each in held):
        await asyncio.sleep(0.001)
    assert not any(each.done() for each in held)
    assert await ask() == (429, "close")
    await api.clock.advance(3)
    assert await asyncio.gather(*held) == [(429, None)] * 3


_HELD: dict[str, Any] = {"refusals_burst": 2, "refusals_per_s": 1, "refusals_held_s": 3}


async def test_guesses_of_a_client_that_goes_on_are_held_back(tmp_path: Path) -> None:
    """Its refusals are pages, and are paced like those of the API."""
    async with (
        open_api(http_settings(tmp_path, limits=_HELD)) as api,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http,
    ):
        panel_of_app(api).clients = Buckets("sign_in", api.clock, 1 / 100, 1)
        browser = Browser(api, http)
        await browser.get("/admin/sign-in")

        async def ask() -> tuple[int, str | None]:
            seen = await browser.post("/admin/sign-in", name="ada", password="x", code="1")
            assert "Retry-After" in seen.headers or seen.status == 401
            return seen.status, seen.headers.get("Connection")

        assert await ask() == (401, None)
        await _held(api, ask)


async def test_pages_that_there_are_not_count_for_the_client(tmp_path: Path) -> None:
    """As unknown paths of the API do; its refusals are held back."""
    limits = {**_HELD, "unknown_per_s": 0.01, "unknown_burst": 1}
    async with (
        open_api(http_settings(tmp_path, limits=limits)) as api,
        aiohttp.ClientSession() as http,
    ):

        async def ask() -> tuple[int, str | None]:
            seen = await Browser(api, http).get(f"/admin/x/{secrets.token_hex(8)}/y/z/w")
            return seen.status, seen.headers.get("Connection")

        assert await ask() == (404, None)
        await _held(api, ask)


async def test_a_slash_at_the_end(ada: Browser) -> None:
    """It leads to the page without it."""
    assert (await ada.get("/admin/")).url == "/admin/acme/live"
    seen = await ada.get("/admin/acme/live/payouts/")
    assert (seen.status, seen.url) == (200, "/admin/acme/live/payouts")


async def test_one_address_locks_nobody_out_elsewhere(api: Api) -> None:
    """It uses up its own attempts at a name; those of all addresses together are limited as well."""
    made, panel = await add_user(api), panel_of_app(api)
    panel.names = Buckets("sign_in", api.clock, 1 / 12, 30)

    async def guesses(host: str, many: int) -> list[int]:
        async with session_from(host) as http:
            browser, codes = Browser(api, http), []
            for _ in range(many):
                await browser.get("/admin/sign-in")
                seen = await browser.post("/admin/sign-in", name="ada", password="x", code="1")
                codes.append(seen.status)
            return codes

    assert await guesses("127.0.0.2", 40) == [401] * 20 + [429] * 20
    async with session_from("127.0.0.3") as http:
        # The clock moves on by 31 s, in which two more attempts at the name are allowed.
        assert (await Browser(api, http).sign_in(made)).status == 200
    assert await guesses("127.0.0.4", 12) == [401] * 11 + [429]
    assert await guesses("127.0.0.5", 1) == [429]


def session_from(host: str) -> aiohttp.ClientSession:
    """Return a client that connects from an address of this machine and keeps cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(local_addr=(host, 0)),
        cookie_jar=aiohttp.CookieJar(unsafe=True),
    )


def panel_of_app(api: Api) -> Panel:
    """Return what the pages of the running gateway share."""
    panel: Panel = api.app.state.panel
    return panel


async def test_failed_attempts_are_in_the_audit_log(api: Api, browser: Browser) -> None:
    """Of a user in the org's chain, of nobody in the installation's, without what was typed; bounded."""
    await add_user(api)

    async def noted(org: str) -> list[Any]:
        rows = await api.context.db.scan(newest_acts, 100, org=org, act="user_sign_in_failed")
        return [(row["actor"], row["subject"]) for row in rows]

    for name in ("ada", "swordfish-typed-here"):
        await browser.get("/admin/sign-in")
        seen = await browser.post("/admin/sign-in", name=name, password="hunter2 x", code="1")
        assert seen.status == 401
        async with asyncio.timeout(10):
            while not await noted("acme" if name == "ada" else ""):
                await asyncio.sleep(0.01)
    assert await noted("acme") == [("gateway", "ada")]
    assert await noted("") == [("gateway", "unknown name")]
    with closing(sqlite3.connect(api.context.settings.database)) as store:
        rows = store.execute("SELECT subject, detail, after FROM audit_log").fetchall()
    assert not any("swordfish" in str(row) or "hunter2" in str(row) for row in rows)
    for _ in range(50):
        await api.clock.advance(10)
        await browser.get("/admin/sign-in")
        await browser.post("/admin/sign-in", name=secrets.token_hex(4), password="x", code="1")
    async with asyncio.timeout(10):
        while len(await noted("")) < 18:
            await asyncio.sleep(0.01)
    # Ten at once, and one for each of the eight minutes.
    assert len(await noted("")) in {18, 19}


async def test_forged_forms(api: Api, ada: Browser, browser: Browser) -> None:
    """Without the session's own token, or from another site, nothing is done."""
    old = ada.token
    for token in ("", "0" * 64):
        seen = await ada.post("/admin/sign-out", form_token=token)
        assert seen.status == 403
        assert "Nothing was done." in seen.words
    async with ada.http.post(
        api.url + "/admin/sign-out",
        data={"_form": old},
        headers={"Sec-Fetch-Site": "cross-site"},
    ) as answer:
        assert answer.status == 403
    # A page of an earlier session.
    await ada.post("/admin/sign-out", form_token=old)
    await ada.sign_in(await add_user(api, "eve"))
    assert (await ada.post("/admin/sign-out", form_token=old)).status == 403
    # Signing somebody in under another name is forged, too.
    fresh = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
    async with fresh as http:
        seen = await Browser(api, http).post("/admin/sign-in", form_token=old, name="ada")
        assert seen.status == 403


async def test_headers(api: Api, ada: Browser) -> None:
    """Nothing is loaded from elsewhere, no script stands in the page, nobody may frame it."""
    for path in ("/admin/sign-in", "/admin/acme/live", "/admin/nothing-here"):
        seen = await ada.get(path)
        policy = seen.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert "unsafe" not in policy
        assert seen.headers["X-Frame-Options"] == "DENY"
        assert seen.headers["Referrer-Policy"] == "no-referrer"
        assert seen.headers["Cache-Control"] == "no-store"
        assert "<script>" not in seen.text
        assert "style=" not in seen.text


async def test_cookies(tmp_path: Path, api: Api, browser: Browser) -> None:
    """Strict, invisible to scripts, and under HTTPS bound to the host."""
    made = await add_user(api)
    await browser.get("/admin/sign-in")
    await api.clock.advance(31)
    code = pyotp.TOTP(made.secret).at(api.clock.now())
    seen = await browser.post(
        "/admin/sign-in", follow=False, name="ada", password=PASSWORD, code=code
    )
    cookie = seen.headers["Set-Cookie"].lower()
    assert cookie.startswith("panel=")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    (tmp_path / "https").mkdir()
    async with (
        open_api(page_settings(tmp_path / "https")) as secure,
        secure.http.get(secure.url + "/admin/sign-in") as answer,
    ):
        cookie = answer.headers["Set-Cookie"].lower()
    assert cookie.startswith("__host-panel-form=")
    assert "secure" in cookie


async def test_only_the_own_org(api: Api, ada: Browser) -> None:
    """Another org's pages are not there, for reading and for writing; nor is the choice of orgs."""
    for path in ("/admin/globex/live", "/admin/globex/test", "/admin/orgs", "/admin/acme/other"):
        assert (await ada.get(path)).status == 404
    await ada.post("/admin/sign-out")
    everywhere = await add_user(api, "root-user", None, Role.VIEWER)
    await api.key("globex")
    seen = await ada.sign_in(everywhere)
    assert seen.url == "/admin/orgs"
    assert "globex" in seen.words
    assert (await ada.get("/admin/globex/live")).status == 200


async def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """Then there is nothing under its paths."""
    settings = page_settings(tmp_path, panel={"enabled": False})
    async with open_api(settings) as off:
        problem = await off.problem("GET", "/admin/sign-in")
    assert problem["code"] == "not_found"


def test_every_form_names_the_role_it_needs() -> None:
    """Every route but those of signing in goes through the guard."""
    for route in application.routes():
        assert isinstance(route, Route)
        if route.path in {"/admin/sign-in", "/admin/{rest:path}"}:
            continue
        assert "signed_in" in route.endpoint.__qualname__, route.path


@pytest.mark.parametrize(
    "text",
    ["//evil.example", "/admin/../x", "https://evil.example/admin", "/admin//evil", "/payouts", ""],
)
def test_no_way_to_another_site(text: str) -> None:
    """After signing in nobody is sent anywhere but into the panel."""
    assert place_of(text) == "/admin" or ".." in text


@pytest.mark.parametrize(
    ("password", "fault"),
    [("short", "characters"), ("a" * 20, "guess"), ("my name is ada 123", "guess"), (PASSWORD, "")],
)
def test_passwords(password: str, fault: str) -> None:
    """Long enough, and not the name or one letter."""
    found = password_fault("ada", password)
    assert (found is None) if not fault else (found is not None and fault in found)


async def test_names(api: Api) -> None:
    """A name is one that the audit log can tell from everybody else, and is never used again."""
    for name in ("gateway", "key_1", "Ada", "x", "a b"):
        with pytest.raises(UserError, match="name"):
            await add_user(api, name)
    await add_user(api)
    with pytest.raises(UserError, match="there is, or was"):
        await add_user(api)
    await api.context.db.run(users.remove, api.context.runtime, "ada", Act("root"))
    with pytest.raises(UserError, match="there is, or was"):
        await add_user(api)
    with pytest.raises(UserError, match="there is no user"):
        await api.context.db.run(users.remove, api.context.runtime, "ada", Act("root"))


def test_roles_include_those_before() -> None:
    """A viewer may act nowhere; an admin may do everything."""
    assert Role.ADMIN.includes(Role.VIEWER)
    assert Role.OPERATOR.includes(Role.OPERATOR)
    assert not Role.VIEWER.includes(Role.OPERATOR)
    assert User("u", "n", None, Role.VIEWER, "s", 0).everywhere
