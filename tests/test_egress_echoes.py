"""What we sent in confidence is taken out of what comes back."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import aiohttp
import pytest
from aiohttp import web

from gateway.config import WebhookSettings
from gateway.egress import connector
from gateway.egress.echoes import redact, sending, texts_of, tracing, without_sent
from gateway.runtime import real_runtime
from gateway.signing import secret_text
from gateway.webhooks.sender import DeliveryResult, Sender, Target
from tests.webhooks.test_sender import receiver

TOKEN = 'Bearer s3cret/"<&>" +token=='
SECRETS = (bytes(range(32)), bytes(32))
SEED = bytes(reversed(range(32)))


@pytest.mark.parametrize(
    "spelling",
    [
        lambda text: text,
        str.upper,
        lambda text: json.dumps({"authorization": text}),
        lambda text: json.dumps({"body": json.dumps({"authorization": text})}),
        lambda text: json.dumps({"authorization": text}).replace("/", "\\/"),
        html.escape,
        quote,
        lambda text: quote(text, safe=""),
        quote_plus,
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: text.removeprefix("Bearer "),
    ],
)
@pytest.mark.parametrize("secret", [TOKEN, "Bearer 0123456789abcdef"])
def test_every_usual_spelling(spelling: object, secret: str) -> None:
    """As it is, in JSON, in JSON in JSON, in HTML, in a URL, in base64, and without its scheme."""
    said = f"you sent: {spelling(secret)} and more"  # type: ignore[operator]
    left = redact(said.encode(), [secret]).decode().lower()
    assert left.startswith("you sent: ")
    assert left.endswith(" and more")
    for part in (secret.lower(), "s3cret", "0123456789abcdef", said[10:-9].lower()):
        assert part not in left


def test_basic_credentials_are_opened() -> None:
    """A server that knows what they are prints user name and password."""
    value = "Basic " + base64.b64encode(b"hooks:open sesame").decode()
    assert redact(b"no such user hooks:open sesame", [value]) == b"no such user [removed]"
    assert redact(b"wrong password: open sesame", [value]) == b"wrong password: [removed]"


def test_short_values_are_removed_where_they_stand_alone() -> None:
    """And are left in the words that they are parts of."""
    assert redact(b"pin 0427 of 10427, pay payment", ["0427", "pay"]) == (
        b"pin [removed] of 10427, [removed] payment"
    )


@pytest.mark.parametrize("kept", range(4, 24))
def test_a_value_that_is_cut_off(kept: int) -> None:
    """The beginning of a value at the end of an answer that was not read to its end."""
    value = "abcdefghijklmnopqrstuvwxyz"
    said = b"echo: " + value[:kept].encode()
    assert redact(said, [value], cut=True) == b"echo: [removed]"
    assert redact(said, [value], cut=False) == said


def test_overlaps_and_repeats() -> None:
    """Values that contain or follow one another leave nothing between them."""
    both = ["secret-one", "one-secret-two", "secret-one-secret"]
    left = redact(b"<secret-one-secret-two><secret-onesecret-one>", both)
    assert left.replace(b"[removed]", b"") == b"<><>"
    assert redact(b"nothing of it", both) == b"nothing of it"


async def _deliver(said: object, target_url: str = "") -> tuple[DeliveryResult, dict[str, str]]:
    seen: dict[str, str] = {}

    async def echo(request: web.Request) -> web.Response:
        seen.update(request.headers)
        body = said(request) if callable(said) else said
        return web.Response(status=500, text=str(body))

    async with receiver(echo) as url:
        kind = connector(allow_private_addresses=True)
        async with aiohttp.ClientSession(connector=kind) as session:
            sender = Sender(session, WebhookSettings(timeout_s=5), real_runtime())
            target = Target(
                url + target_url,
                SECRETS,
                {
                    "Authorization": TOKEN,
                    "X-Pin": "42",
                    "X-Team": "pay",
                    "X-Tenant": "acme-payouts",
                },
                (SEED,),
                sensitive=frozenset({"Authorization", "X-Pin"}),
            )
            return await sender.send(target, "evt_1", b"{}"), seen


async def test_a_receiver_that_echoes_its_request() -> None:
    """The stored snippet has neither the endpoint's headers nor a signature, in whole or in part."""
    result, seen = await _deliver(lambda request: json.dumps(dict(request.headers)))
    assert result.snippet is not None
    signatures = seen["webhook-signature"].split(" ")
    assert len(signatures) == 3
    for secret in (TOKEN, "s3cret", '"42"', "acme-payouts", *signatures):
        assert secret not in result.snippet
        assert secret.rpartition(",")[2] not in result.snippet
    # What helps to find the mistake stays.
    for kept in ("webhook-signature", "X-Pin", '"pay"', "evt_1", seen["webhook-timestamp"]):
        assert kept in result.snippet


async def test_a_receiver_that_prints_its_secret() -> None:
    """As debugging code does."""
    for secret in SECRETS:
        text = secret_text(secret)
        result, _ = await _deliver(f"expected {text} or {text.removeprefix('whsec_')}")
        assert result.snippet == "expected [removed] or [removed]"


@pytest.mark.parametrize("before", [4096 - 30, 4096 - 90, 16 * 1024 - 40, 16 * 1024 - 10])
async def test_an_echo_across_the_cut(before: int) -> None:
    """Where the snippet ends, and where reading ends, no part of a value stays."""
    result, seen = await _deliver(
        lambda request: "x" * before + request.headers["webhook-signature"] + "y" * 20_000
    )
    assert result.snippet is not None
    assert len(result.snippet) <= 4096
    for entry in seen["webhook-signature"].split(" "):
        assert entry[:12] not in result.snippet


async def test_what_a_session_sends_is_noted() -> None:
    """The confidential headers of a custodian's session, and what the caller names."""

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    async with (
        receiver(take) as url,
        aiohttp.ClientSession(trace_configs=[tracing()]) as http,
    ):
        with sending(*texts_of({"passcode": "123456", "more": [7654321, True, None]})):
            sent = {"X-Api-Key": "key-of-the-day", "Idempotency-Key": "idem-00000001"}
            await (await http.post(url, headers=sent)).read()
            said = "key-of-the-day idem-00000001 123456 7654321 True"
            assert without_sent(said) == "[removed] idem-00000001 [removed] [removed] True"
        assert without_sent(said) == said
