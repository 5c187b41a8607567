"""Two sets of credentials while they are changed: the old ones verify webhooks, and name old calls."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from gateway.adapter import Account, Tools
from gateway.config.settings import EngineSettings
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance, Previous
from gateway.custodians.registry import Wanted, build
from gateway.errors import CannotVerify, ConfigError, InvalidSignature, NotSent, Unsupported
from gateway.metrics import Metrics
from tests.custodians.odd import Bench, Odd, OddSettings

BODY = b'{"id": "1", "transfer": {"key": "k", "id": "t"}}'
NEW, OLD = "new-webhook-secret", "old-webhook-secret"
ACCOUNT = Account(id="MAIN", type="ACCOUNT")
SETTINGS = {"base_url": "https://dummy.example/v1", "api_key": "new-key-1", "webhook_secret": NEW}


def made(tools: Tools, previous: dict[str, Any] | None, **settings: Any) -> CustodianInstance:
    """Return an instance of Dummy."""
    wanted = Wanted("dummy", "dummy", {**SETTINGS, **settings}, previous)

    def digest(key: bytes) -> Callable[[bytes], str]:
        return lambda text: hashlib.sha256(key + text).hexdigest()

    return build(
        wanted,
        tools,
        Metrics(),
        EngineSettings(),
        digest=digest(b"now"),
        digest_before=digest(b"before"),
    )


def signed(secret: str) -> dict[str, str]:
    """Return the headers of a webhook."""
    return {"dummy-signature": hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()}


async def test_both_secrets_verify_until_the_old_one_is_removed(tools: Tools) -> None:
    """And no third one ever does."""
    instance = made(tools, {"webhook_secret": OLD})
    for secret in (NEW, OLD):
        await instance.verify(signed(secret), BODY)
    with pytest.raises(InvalidSignature):
        await instance.verify(signed("another-secret"), BODY)
    instance = made(tools, None)
    await instance.verify(signed(NEW), BODY)
    with pytest.raises(InvalidSignature):
        await instance.verify(signed(OLD), BODY)


async def test_a_webhook_is_refused_only_if_both_say_so(bench: Bench, tools: Tools) -> None:
    """Where the keys of one are out of reach, it may be authentic: the sender tries again."""
    yes, no, unreachable = None, InvalidSignature("no"), CannotVerify("keys")
    for present, previous, outcome in (
        (yes, no, None),
        (no, yes, None),
        (unreachable, yes, None),
        (no, no, InvalidSignature),
        (unreachable, no, CannotVerify),
        (no, unreachable, CannotVerify),
        (unreachable, unreachable, CannotVerify),
    ):
        instance = _both(bench, tools, present, previous)
        if outcome is None:
            await instance.verify({}, b"")
        else:
            with pytest.raises(outcome):
                await instance.verify({}, b"")


async def test_a_verified_webhook_has_a_line_only_by_the_previous_credentials(
    bench: Bench, tools: Tools
) -> None:
    """Operators wait for that line to come no more; the others say nothing that `parse` does not."""
    await _both(bench, tools, None, None).verify({}, b"")
    assert bench.stream.getvalue() == ""
    await _both(bench, tools, InvalidSignature("no"), None).verify({}, b"")
    line = bench.line()
    assert (line["verb"], line["outcome"], line["by_previous"]) == ("verify", "ok", True)
    assert bench.count("verify", "ok") == 2


def _both(bench: Bench, tools: Tools, *outcomes: Exception | None) -> CustodianInstance:
    adapters = []
    for outcome in outcomes:
        adapter = Odd(OddSettings(api_key=SecretStr("a-long-secret")), tools)

        async def act(said: Exception | None = outcome) -> None:
            if said is not None:
                raise said

        adapter.act = act
        adapters.append(adapter)
    return CustodianInstance(
        "odd_eu",
        "odd",
        adapters[0],
        tools,
        bench.metrics,
        0.2,
        fingerprints=("/".join,),
        dates=Dates(tools.clock),
        previous=Previous(adapters[1], ("/".join,)),
    )


async def test_only_what_says_whose_account_it_is_changes_its_name(tools: Tools) -> None:
    """Another webhook secret is no other account; another API key may be."""
    same = made(tools, {"webhook_secret": OLD})
    assert same.fingerprint_before(ACCOUNT, livemode=True) == same.fingerprint(
        ACCOUNT, livemode=True
    )
    other = made(tools, {"api_key": "old-key-1"})
    before = other.fingerprint_before(ACCOUNT, livemode=True)
    assert before != other.fingerprint(ACCOUNT, livemode=True)
    # What the configuration of before made is what the rows of before carry.
    assert before == made(tools, None, api_key="old-key-1").fingerprint(ACCOUNT, livemode=True)
    assert made(tools, None).fingerprint_before(ACCOUNT, livemode=True) is None


async def test_names_under_the_previous_server_key_are_known(tools: Tools) -> None:
    """Of the present credentials, and of the previous ones."""
    plain = made(tools, None)
    ((before, now),) = plain.fingerprints_of_keys(ACCOUNT, livemode=True)
    assert now == plain.fingerprint(ACCOUNT, livemode=True) != before
    both = made(tools, {"api_key": "old-key-1"})
    pairs = both.fingerprints_of_keys(ACCOUNT, livemode=True)
    assert [now for _, now in pairs] == [
        both.fingerprint(ACCOUNT, livemode=True),
        both.fingerprint_before(ACCOUNT, livemode=True),
    ]
    assert len({name for pair in pairs for name in pair}) == 4


@pytest.mark.parametrize(
    ("previous", "words"),
    [
        ({"webhook_secret": NEW}, "changes nothing"),
        ({"api_kye": "x"}, r"custodians\.dummy\.previous\.api_kye"),
        ({"base_url": "not a url"}, r"custodians\.dummy\.previous\.base_url"),
    ],
)
async def test_previous_settings_that_cannot_be(
    tools: Tools, previous: dict[str, Any], words: str
) -> None:
    """Named with their place, and without their value."""
    with pytest.raises(ConfigError, match=words):
        made(tools, previous)


async def test_both_credentials_read_the_custodians_own_id(tools: Tools) -> None:
    """Each with its own; where one is not accepted, nothing is known."""
    accounts = {"Bearer new-key-1": "acc-1", "Bearer old-key-1": "acc-1", "Bearer other": "acc-2"}

    async def account(request: web.Request) -> web.Response:
        found = accounts.get(request.headers["Authorization"])
        return web.json_response({"id": found}, status=200 if found else 401)

    app = web.Application()
    app.router.add_get("/v1/account", account)
    async with TestServer(app) as server:
        base = str(server.make_url("/v1"))
        for key, expected in (("old-key-1", ("acc-1", "acc-1")), ("other", ("acc-2", "acc-1"))):
            instance = made(tools, {"api_key": key}, base_url=base)
            assert await instance.identities() == expected
        with pytest.raises(NotSent, match=r"previous credentials: .*401"):
            await made(tools, {"api_key": "revoked"}, base_url=base).identities()
        with pytest.raises(Unsupported):
            await made(tools, None, base_url=base).identities()
