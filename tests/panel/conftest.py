"""A running gateway with the panel, users, and a client that keeps cookies as a browser does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import aiohttp
import pyotp
import pytest
from yarl import URL

from gateway import users
from gateway.store.audit import Act
from gateway.users import Enrolment, Role
from tests.api.conftest import Api, open_api
from tests.pages.conftest import page_settings

PASSWORD = "correct horse battery staple"
#: Hashed once: it is slow on purpose.
_HASHED: list[str] = []


def hashed() -> str:
    """Return the hash of the password."""
    if not _HASHED:
        _HASHED.append(users.hash_of(PASSWORD))
    return _HASHED[0]


async def add_user(
    api: Api, name: str = "ada", org: str | None = "acme", role: Role = Role.ADMIN
) -> Enrolment:
    """Create a user, as the command does."""
    context = api.context
    return await context.db.run(
        users.create,
        context.runtime,
        context.vault,
        name,
        org,
        role,
        hashed(),
        site=context.settings.public_url,
        act=Act("root"),
    )


@dataclass
class Seen:
    """An answer of the panel."""

    status: int
    text: str
    headers: dict[str, str]
    url: str

    @property
    def form_token(self) -> str:
        """What the forms of the page carry."""
        found = re.search(r'name="_form" value="([0-9a-f]{64})"', self.text)
        assert found is not None, self.text[:2000]
        return found[1]

    @property
    def words(self) -> str:
        """What a reader sees."""
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", self.text)).split())


@dataclass
class Browser:
    """A client that keeps cookies and follows redirects."""

    api: Api
    http: aiohttp.ClientSession
    token: str = ""
    #: what tells this drawing of the page's forms from others
    drawn: str = ""
    made: Enrolment | None = None

    async def get(self, path: str, *, follow: bool = True, **headers: str) -> Seen:
        """Open a page."""
        return await self._send("GET", path, None, follow, headers)

    async def post(
        self,
        path: str,
        members: Mapping[str, Any] | None = None,
        *,
        form_token: str | None = None,
        follow: bool = True,
        **fields: Any,
    ) -> Seen:
        """Send a form, with the token of the page that was opened last."""
        sent = {
            "_form": self.token if form_token is None else form_token,
            "_once": self.drawn,
            **(members or {}),
            **fields,
        }
        return await self._send("POST", path, sent, follow, {})

    async def _send(
        self, method: str, path: str, data: Any, follow: bool, headers: dict[str, str]
    ) -> Seen:
        async with self.http.request(
            method, self.api.url + path, data=data, headers=headers, allow_redirects=follow
        ) as answer:
            seen = Seen(
                answer.status, await answer.text(), dict(answer.headers), str(answer.url.path)
            )
        found = re.search(r'name="_form" value="([0-9a-f]{64})"', seen.text)
        if found is not None:
            self.token = found[1]
        drawn = re.search(r'name="_once" value="([A-Za-z0-9_-]{22})"', seen.text)
        if drawn is not None:
            self.drawn = drawn[1]
        return seen

    async def sign_in(self, made: Enrolment, *, password: str = PASSWORD, code: str = "") -> Seen:
        """Sign in with the code of now. The clock moves on, as no code is used twice."""
        self.made = made
        await self.api.clock.advance(31)
        await self.get("/admin/sign-in")
        code = code or pyotp.TOTP(made.secret).at(self.api.clock.now())
        return await self.post("/admin/sign-in", name=made.name, password=password, code=code)

    async def again(self) -> None:
        """Sign in again: the clock has moved on, and the session is over."""
        assert self.made is not None
        assert (await self.sign_in(self.made)).status == 200

    async def with_token(self, token: str | None) -> str:
        """Return where the overview leads to with this session's token alone."""
        headers = {"Cookie": f"panel={token}"}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
            http.get(
                self.api.url + "/admin/acme/live", headers=headers, allow_redirects=False
            ) as answer,
        ):
            return answer.headers.get("Location", "")

    def cookie(self, name: str) -> str | None:
        """Return a cookie."""
        found = self.http.cookie_jar.filter_cookies(URL(self.api.url)).get(name)
        return None if found is None else found.value


def http_settings(path: Path, **members: Any) -> Any:
    """Return a configuration whose public URL is plain HTTP, as on this machine."""
    return page_settings(path, public_url="http://127.0.0.1:8080", **members)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A running API with the panel."""
    async with open_api(http_settings(tmp_path)) as made:
        yield made


@pytest.fixture
async def browser(api: Api) -> AsyncIterator[Browser]:
    """A browser that nobody has signed in with."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield Browser(api, http)


@pytest.fixture
async def ada(api: Api, browser: Browser) -> Browser:
    """A browser in which an admin of acme is signed in."""
    seen = await browser.sign_in(await add_user(api))
    assert seen.status == 200, seen.text
    return browser
