"""What we sent in confidence is taken out of what comes back."""

from __future__ import annotations

import base64
import html
import json
from typing import Any
from urllib.parse import quote, quote_plus

import aiohttp
import pytest
from aiohttp import web

from gateway.config.settings import WebhookSettings
from gateway.egress import echoes
from gateway.egress.echoes import redact, sending, texts_of, tracing, without_sent
from gateway.logs import REMOVED
from gateway.runtime import real_runtime
from gateway.signing import secret_text
from gateway.webhooks.sender import DeliveryResult, Sender, Target
from tests.delivery_clients import client
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
    # Eight characters are no accident, wherever they stand; fewer are, in an answer that is whole.
    assert redact(said, [value], cut=False) == (said if kept < 8 else b"echo: [removed]")


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

    async with receiver(echo) as url, client() as http:
        sender = Sender(http, WebhookSettings(timeout_s=5), real_runtime())
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


def test_a_word_is_what_is_left_by_the_values_of_its_own_call() -> None:
    """What is remembered of a word is by what was sent with it, and not by the word alone."""
    for values, left in (
        (("acme-key-1",), REMOVED),
        ((), "acme-key-1"),
        (("other",), "acme-key-1"),
    ):
        for _ in range(2):
            with sending(*values):
                assert without_sent("acme-key-1") == left


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


def test_an_answer_is_not_remembered() -> None:
    """A passcode is in memory for its call only; the forms of credentials are kept."""
    before = echoes._kept_forms.cache_info()
    with sending("passcode-90210-xyz"):
        assert without_sent("it says passcode-90210-xyz") == "it says [removed]"
        with sending():
            assert without_sent("it says passcode-90210-xyz") == "it says [removed]"
    assert echoes._kept_forms.cache_info() == before


async def test_nor_is_a_header_that_has_it() -> None:
    """An adapter may send an answer in a header, by itself or within another value."""

    async def take(_: web.Request) -> web.Response:
        return web.Response()

    async with (
        receiver(take) as url,
        aiohttp.ClientSession(trace_configs=[tracing()]) as http,
    ):
        before = echoes._kept_forms.cache_info()
        with sending("passcode-90210-xyz"), sending():
            encoded = base64.b64encode(b"device-1:passcode-90210-xyz").decode()
            sent = {"X-Passcode": "passcode-90210-xyz", "X-Answer": f"Basic {encoded}"}
            await (await http.post(url, headers=sent)).read()
            said = without_sent(f"it says passcode-90210-xyz, {encoded}")
        assert said == "it says [removed], [removed]"
        assert echoes._kept_forms.cache_info() == before


SIGNATURE = (
    "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H+o4w= v1,3Ab+sdf/UVu1EsfQmfVNQhnkZ2pj9o9NDN/H6o4w="
)


@pytest.mark.parametrize("gone", [1, 3, 12])
@pytest.mark.parametrize("value", ["sekrit-header-value-9911", "Bearer hunter2hunter2", SIGNATURE])
def test_an_echo_that_lacks_its_end(value: str, gone: int) -> None:
    """A receiver cuts each line a little shorter: in the middle of an answer, too."""
    left = redact(f"got {value[:-gone]}\nand more".encode(), [value]).decode()
    assert left == "got [removed]\nand more"


@pytest.mark.parametrize("word", ["hunter2hunter2", "sekrit-header-value-9911"])
def test_fewer_than_eight_characters_are_left(word: str) -> None:
    """They are the beginning of too many other words."""
    text = f"it says {word[:7]} and more".encode()
    assert redact(text, [word]) == text
    assert redact(f"it says {word[:8]} and more".encode(), [word]) == b"it says [removed] and more"


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("value", [SIGNATURE, "sekrit-header-value-9911", "Bearer hunter2hunter2"])
def test_base64_of_more_than_the_value(before: int, encode: Any, value: str) -> None:
    """The whole request encoded at once: at every alignment nothing can be read of the value."""
    head = b"x" * before + b": " + value.encode() + b"\r\nHost: example.com\r\n"
    left = redact(encode(head), [value])
    assert b"[removed]" in left
    # What is left of the runs around it, read at any alignment.
    for run in left.split(b"[removed]"):
        for skip in range(4):
            piece = run[skip:]
            opened = base64.urlsafe_b64decode(
                piece.replace(b"+", b"-").replace(b"/", b"_")[: len(piece) // 4 * 4]
            )
            for at in range(len(value) - 4):
                assert value[at : at + 4].encode() not in opened


@pytest.mark.parametrize("how", ["part", "base64"])
async def test_a_receiver_that_echoes_in_pieces(how: str) -> None:
    """On the wire: headers without their last characters, and the whole head in base64."""

    async def echo(request: web.Request) -> web.Response:
        lines = [f"{name}: {value}".encode() for name, value in request.headers.items()]
        if how == "part":
            return web.Response(status=500, body=b"\n".join(each[:-3] for each in lines))
        return web.Response(status=500, body=base64.b64encode(b"\r\n".join(lines)))

    signed: list[str] = []

    async def take(request: web.Request) -> web.Response:
        signed.append(request.headers["webhook-signature"])
        return await echo(request)

    settings = WebhookSettings(allow_private_addresses=True)
    async with (
        receiver(take) as url,
        client() as http,
    ):
        sender = Sender(http, settings, real_runtime())
        target = Target(
            url, SECRETS, {"X-Tok": "sekrit-header-value-9911"}, (), sensitive=("X-Tok",)
        )
        result = await sender.send(target, "evt_1", b"{}")
    snippet = result.snippet or ""
    assert "[removed]" in snippet
    pieces = [signed[0][at : at + 10] for at in range(len(signed[0]) - 10)]
    for piece in ("sekrit-h", *pieces):
        assert piece not in snippet
        inner = base64.b64encode(piece.encode()).decode()[:12]
        assert inner not in snippet
