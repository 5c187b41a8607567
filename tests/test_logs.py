"""Log lines: one form for all of them, and no secret in any."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import structlog

from gateway import logs
from gateway.logs import REMOVED, Scrubber
from tests.clock import SetClock

PEM = (
    "-----BEGIN PRIVATE KEY-----\n"
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"
    "-----END PRIVATE KEY-----\n"
)
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
#: One of each form that is known as a secret by itself.
SECRETS = [
    "sk_live_4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
    "sk_test_4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
    "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
    "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
    "Bearer abc.def-ghi",
    JWT,
    PEM.strip(),
]
#: Names whose value is a secret, whatever it looks like.
NAMES = [
    "password",
    "passcode",
    "secret",
    "token",
    "client_secret",
    "authorization",
    "Authorization",
    "private_key",
    "privateKey",
    "api_key",
    "apiKey",
    "X-API-Key",
    "webhook_secret",
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where lines go; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_known_keys(stream: io.StringIO) -> None:
    """Event, level, time of the clock that was handed in, and what was given."""
    clock = SetClock(datetime(2026, 3, 2, 10, 0, tzinfo=UTC))
    logs.configure("json", "info", stream, clock)
    logs.get_logger("engine").info("claimed", payout_id="pay_1", attempt=1)
    assert _lines(stream) == [
        {
            "event": "claimed",
            "level": "info",
            "at": "2026-03-02T10:00:00.000Z",
            "logger": "engine",
            "payout_id": "pay_1",
            "attempt": 1,
        }
    ]


def test_what_a_request_binds_is_in_every_line(stream: io.StringIO) -> None:
    """The request's id and org are bound once, by context."""
    logs.configure("json", "info", stream)
    with structlog.contextvars.bound_contextvars(request_id="req_1", org="acme"):
        logs.get_logger("api").info("quoted")
    logs.get_logger("api").info("afterwards")
    inside, after = _lines(stream)
    assert (inside["request_id"], inside["org"]) == ("req_1", "acme")
    assert "request_id" not in after


@pytest.mark.parametrize("name", ["uvicorn.error", "aiohttp.server", "alembic.runtime", "anything"])
def test_libraries_log_in_the_same_form(stream: io.StringIO, name: str) -> None:
    """Standard logging comes out as the same JSON, scrubbed, with level and name."""
    logs.configure("json", "info", stream)
    logging.getLogger(name).warning("token of %s is %s", "x", JWT)
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["logger"]) == (
        f"token of x is {REMOVED}",
        "warning",
        name,
    )
    assert set(line) == {"event", "level", "at", "logger"}


def test_the_level_is_a_floor(stream: io.StringIO) -> None:
    """What is below it is not written, of ours or of libraries."""
    logs.configure("json", "warning", stream)
    logs.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    logs.get_logger("a").warning("loud")
    assert [line["event"] for line in _lines(stream)] == ["loud"]


def test_configuring_twice_writes_each_line_once(stream: io.StringIO) -> None:
    """The second call replaces the first."""
    logs.configure("json", "info", io.StringIO())
    logs.configure("json", "info", stream)
    logs.get_logger("a").info("once")
    assert len(_lines(stream)) == 1


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_is_scrubbed(stream: io.StringIO, form: Any) -> None:
    """Also in the console's form, with causes, of ours and of libraries; and without a warning."""
    logs.configure(form, "info", stream)
    try:
        try:
            raise ValueError(f"bad key {PEM}")  # noqa: TRY301 - a cause is wanted
        except ValueError as inner:
            raise RuntimeError(f"sent with Bearer {JWT}") from inner
    except RuntimeError as error:
        logs.get_logger("a").error("crashed", exc_info=error)
        logging.getLogger("b").exception("crashed, too")
    written = stream.getvalue()
    assert written.count("RuntimeError: sent") == 2
    assert written.count("ValueError: bad") == 2
    assert written.count(REMOVED) >= 4
    assert "MIIEvQ" not in written
    assert "eyJ" not in written


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_form_is_removed_wherever_it_stands(
    stream: io.StringIO, form: Any, secret: str
) -> None:
    """In the event, in values, nested, in keys, in bytes, in exceptions and odd objects."""

    class Odd:
        def __repr__(self) -> str:
            return f"<Odd {secret}>"

    logs.configure(form, "info", stream)
    logs.get_logger("a").info(
        f"event {secret}",
        text=f"before {secret} after",
        nested={"list": [{"deep": (secret,)}], secret: 1},
        raw=f"x {secret}".encode(),
        error=ValueError(f"refused {secret}"),
        odd=Odd(),
    )
    written = stream.getvalue()
    assert secret not in written
    assert json.dumps(secret)[1:-1] not in written
    assert "before " in written


@pytest.mark.parametrize("name", NAMES)
def test_a_member_with_a_secret_name_is_removed(name: str) -> None:
    """By its name in a mapping, in quoted JSON inside a text, and as a parameter."""
    scrub = Scrubber().scrub
    assert scrub({"outer": [{name: "hunter2"}]}) == {"outer": [{name: REMOVED}]}
    assert scrub({name: 123456}) == {name: REMOVED}
    for text in (
        json.dumps({name: "hunter2"}),
        json.dumps(json.dumps({name: "hunter2"})),
        repr({name: "hunter2"}),
        f"GET /x?{name}=hunter2&page=2",
        f"Settings({name}='hunter2', other=1)",
        json.dumps({name: "hunter2 and more"})[:-4],
    ):
        cleaned = scrub(text)
        assert "hunter2" not in cleaned, text
        assert REMOVED in cleaned
        assert scrub(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "the token is expired",
        "secret: none configured",
        "no such key: kid twin-1",
        "pay_01hzz0000000000000000000001 quo_1 whe_1",
        "https://hooks.example/in?page=2",
        "bearer of bad news",
        "a@b.example wrote http://x.example/y",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    """A log that is all holes helps nobody."""
    assert Scrubber().scrub(text) == text


def test_plain_values_stay_what_they_are() -> None:
    """Numbers and truth values are not turned into text; an unset secret shows as unset."""
    scrub = Scrubber().scrub
    assert scrub({"n": 1, "f": 1.5, "b": True, "none": None}) == {
        "n": 1,
        "f": 1.5,
        "b": True,
        "none": None,
    }
    assert scrub({"api_key": None}) == {"api_key": None}
    assert scrub(Decimal("1.50")) == "1.50"


def test_a_registered_value_is_removed_everywhere() -> None:
    """As it is, stripped, inside of a URL, inside of JSON, and line by line."""
    scrubber = Scrubber()
    odd = 'p@ss/w"rd\\+1 2'
    scrubber.register(odd + "\n")
    scrubber.register("line-one-is-long-enough\nline-two-is-long-enough")
    for text in (
        f"sent {odd}!",
        json.dumps({"body": odd}),
        "https://x.example/?k=p%40ss%2Fw%22rd%5C%2B1+2",
        "https://x.example/?k=p%40ss%2Fw%22rd%5C%2B1%202",
        "got line-two-is-long-enough",
    ):
        cleaned = scrubber.scrub(text)
        assert REMOVED in cleaned, text
        assert "rd" not in cleaned, text


def test_the_longest_registered_value_wins() -> None:
    """A secret that contains another one leaves no rest."""
    scrubber = Scrubber()
    scrubber.register("abcdefgh")
    scrubber.register("abcdefgh-and-the-rest")
    assert scrubber.scrub("x abcdefgh-and-the-rest y") == f"x {REMOVED} y"


def test_a_short_value_is_not_registered() -> None:
    """It would blot out ordinary words."""
    scrubber = Scrubber()
    scrubber.register("live")
    assert scrubber.scrub("live mode") == "live mode"


@pytest.mark.parametrize(
    "piece",
    [
        "a-",
        "a",
        "token ",
        '"x',
        "eyJ",
        "eyJaaaaaaaa.",
        '"token":"',
        "://",
        "://a:",
        "\\",
        "token=",
        "sk_",
        " ",
    ],
)
def test_a_hostile_text_takes_no_time(piece: str) -> None:
    """Custodians' words are scrubbed, too: 100 kB of anything is done in a moment."""
    text = piece * (100_000 // len(piece))
    begun = time.perf_counter()
    Scrubber().scrub(text)
    assert time.perf_counter() - begun < 2


def test_what_refers_to_itself_is_written_all_the_same() -> None:
    """A value that contains itself must not take the log line down."""
    loop: list[Any] = ["Bearer abc.def-ghi"]
    loop.append(loop)
    written = json.dumps(Scrubber().scrub(loop))
    assert "abc.def" not in written


def test_scrub_uses_the_registered_values_of_the_process() -> None:
    """The module's own scrubber is what adapters' settings are registered with."""
    logs.SCRUBBER.register("registered-for-the-process")
    assert logs.scrub("x registered-for-the-process") == f"x {REMOVED}"
