"""Log lines: one form for all of them, and no secret in any."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import logs
from gateway.logs import REMOVED, Scrubber
from gateway.model import SubStatus
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
    yield io.StringIO()
    logs.unconfigure()


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


def test_what_tells_an_operator_nothing_is_left_out(stream: io.StringIO) -> None:
    """Alembic's plugins, named one by one at the first start; a warning of theirs is written."""
    logs.configure("json", "info", stream)
    logging.getLogger("alembic.runtime.plugins").info("setup plugin alembic.autogenerate.schemas")
    logging.getLogger("alembic.runtime.plugins").warning("a plugin is broken")
    logging.getLogger("alembic.runtime.migration").info("Running upgrade")
    assert [line["event"] for line in _lines(stream)] == ["a plugin is broken", "Running upgrade"]


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


# --- Our way of writing a line, compared with the library's ------------------------------------------

#: What secrets are made of, and what only looks like it: pieces that are joined to texts.
_PIECES = [
    *SECRETS,
    *NAMES,
    *(
        "pa\u017f\u017fword",
        "to\u212aen",
        "author\u0130zation",
        "SECRET",
        "server-key",
        "passWord",
        "ap_i_key",
    ),
    *(
        "=hunter2",
        ": hunter2",
        '":"hunter2"',
        "https://user:pw@x.example/",
        "://",
        "eyJ",
        "sk_live_",
    ),
    *(" ", "\n", "\\", '"', "'", "é", "\x7f", "\u200b", "\x1b[31m", "pay_01hzz", "pem", "bearer "),
    *("registered-value", 'registered "value" 2', "registered-ünïcode"),
]
_TEXTS = st.lists(st.sampled_from(_PIECES) | st.text(max_size=3), max_size=4).map("".join)


class _Odd:
    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


_PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(SubStatus) | _TEXTS
)
_ODD = _TEXTS.map(_Odd) | _TEXTS.map(ValueError) | st.decimals(places=2, allow_nan=False)
_BYTES = _TEXTS.map(lambda text: text.encode("utf-8", "replace"))
_VALUES = st.recursive(
    _PLAIN | _ODD | _BYTES,
    lambda each: st.lists(each, max_size=2) | st.dictionaries(_TEXTS, each, max_size=2),
    max_leaves=4,
)
_KEYS = st.sampled_from([*(each.replace("-", "_") for each in NAMES), "org", "status", "payout_id"])


def _both_ways(event: str, keys: dict[str, Any], level: int = logging.INFO) -> tuple[str, str]:
    """Return a line as it is written, and as the library alone writes it."""
    written, by_library = io.StringIO(), io.StringIO()
    clock = SetClock(datetime(2026, 3, 2, 10, 0, tzinfo=UTC))
    try:
        logs.configure("json", "info", written, clock)
        logs.get_logger("compared").log(level, event, **keys)
        logs.configure("json", "info", by_library, clock)
        structlog.stdlib.get_logger("compared").log(level, event, **keys)
    finally:
        logs.unconfigure()
    return written.getvalue(), by_library.getvalue()


@given(_TEXTS, st.dictionaries(_KEYS, _VALUES, max_size=4))
@settings(max_examples=400, deadline=None)
def test_a_line_is_the_librarys_own(event: str, keys: dict[str, Any]) -> None:
    """Byte for byte, whatever is logged: secrets, odd objects, other alphabets, control characters."""
    for secret in ("registered-value", 'registered "value" 2', "registered-ünïcode"):
        logs.SCRUBBER.register(secret)
    ours, library = _both_ways(event, keys)
    assert ours == library


@given(_TEXTS, st.dictionaries(_KEYS, _PLAIN, max_size=3))
@settings(max_examples=400, deadline=None)
def test_what_is_not_scrubbed_has_no_secret(event: str, keys: dict[str, Any]) -> None:
    """The cheap look at a whole line overlooks nothing that scrubbing each value would remove."""
    scrubber = Scrubber()
    for secret in ("registered-value", 'registered "value" 2', "registered-ünïcode"):
        scrubber.register(secret)
    record = {**keys, "event": event}
    line = json.dumps(record, ensure_ascii=False)
    if not scrubber.may_hold_secret(line):
        assert json.dumps(scrubber(None, "", record), ensure_ascii=False) == line


#: Every secret name, also in letters that the patterns take for ours, and every form of a secret.
_ODD_NAMES = [
    "pa\u017f\u017fword",
    "to\u212aen",
    "author\u0130zation",
    "server-key",
    "pem",
    "SECRET",
]


@pytest.mark.parametrize(
    "name", [*NAMES, *_ODD_NAMES, "passphrase", "server_key", "serverKey", "private-key", "api-key"]
)
def test_the_cheap_look_knows_every_secret_name(name: str) -> None:
    """As a key of the line, and within a text of it."""
    scrubber = Scrubber()
    cases = [{name: "hunter2"}, {"text": f"{name}=hunter2"}]
    secret = [each for each in cases if scrubber(None, "", each) != each]
    assert secret, "no case is a secret"
    for each in secret:
        assert scrubber.may_hold_secret(json.dumps(each, ensure_ascii=False))


@pytest.mark.parametrize(
    "text", [*SECRETS, "https://user:pw@x.example/", "bearer abc.def-ghi", "registered-value"]
)
def test_the_cheap_look_knows_every_secret_form(text: str) -> None:
    """Forms that are secrets by themselves, and registered values."""
    scrubber = Scrubber()
    scrubber.register("registered-value")
    assert scrubber.scrub(text) != text, "the case is no secret"
    assert scrubber.may_hold_secret(json.dumps({"text": text}))


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
def test_a_line_with_an_error_or_a_context_is_the_librarys_own(level: int) -> None:
    """Tracebacks, and what a context binds."""
    try:
        int(f"sent with Bearer {JWT}")
    except ValueError as error:
        with structlog.contextvars.bound_contextvars(request_id="req_1", org="bound"):
            ours, library = _both_ways("crashed", {"exc_info": error, "org": "own"}, level)
    assert ours == library
    assert json.loads(ours)["request_id"] == "req_1"
    assert "eyJ" not in ours


def test_usual_lines_are_not_scrubbed_value_by_value(stream: io.StringIO) -> None:
    """The lines of every request and every call take the short way: it is there for them."""
    logs.configure("json", "info", stream)
    usual: dict[str, Any] = {"request_id": "req_01hzz", "org": "acme", "duration_ms": 1.5}
    with mock.patch.object(Scrubber, "scrub", side_effect=AssertionError("scrubbed")):
        logs.get_logger("api").info(
            "request", **usual, method="GET", route="/payouts/{payout_id}", status=200
        )
        logs.get_logger("custodians").info("custodian_call", verb="submit", outcome="report")
        logs.get_logger("custodians").info("custodian_call", outcome=SubStatus.SUBMITTED)
    assert [each.get("outcome") for each in _lines(stream)] == [None, "report", "submitted"]


def _request_both_ways(lines: logs.RequestLines, *told: Any) -> tuple[str, str]:
    """Return the line of a request as it is written, and as the library alone writes it."""
    written, by_library = io.StringIO(), io.StringIO()
    names = ("request_id", "org", "method", "route", "status", "duration_ms", "left_out")
    clock = SetClock(datetime(2026, 3, 2, 10, 0, tzinfo=UTC))
    try:
        logs.configure("json", "info", written, clock)
        lines.write(*told)
        logs.configure("json", "info", by_library, clock)
        structlog.stdlib.get_logger("api").info("request", **dict(zip(names, told, strict=False)))
    finally:
        logs.unconfigure()
    return written.getvalue(), by_library.getvalue()


@given(
    st.none() | _TEXTS,
    st.sampled_from(["GET", "POST"]) | _TEXTS,
    st.sampled_from(["/payouts/{payout_id}", "/track/{token}", "unmatched"]) | _TEXTS,
    st.integers(100, 599),
    st.floats(0, 1e9).map(lambda each: round(each, 1)),
)
@settings(max_examples=300, deadline=None)
def test_the_line_of_a_request_is_the_librarys_own(
    org: str | None, method: str, route: str, status: int, duration_ms: float
) -> None:
    """Byte for byte, the first time and from the parts that were kept."""
    logs.SCRUBBER.register("registered-value")
    lines = logs.RequestLines("api")
    request_id = f"req_{'01hzz' * 5}0"
    for each in (duration_ms, 0.0):
        ours, library = _request_both_ways(lines, request_id, org, method, route, status, each)
        assert ours == library


def test_the_lines_of_requests_say_what_was_left_out() -> None:
    """For callers of whom many lines are left out."""
    told = "req_1", None, "GET", "unmatched", 429, 0.1, 7
    ours, library = _request_both_ways(logs.RequestLines("api"), *told)
    assert ours == library
    assert json.loads(ours)["left_out"] == 7


def test_a_part_is_kept_until_another_value_is_a_secret(stream: io.StringIO) -> None:
    """The first two lines are not scrubbed; after the org's name was registered, each of them is."""
    lines = logs.RequestLines("api")
    told = "req_1", "org-of-a-later-secret", "GET", "/payouts", 200, 0.1
    logs.configure("json", "info", stream)
    with mock.patch.object(Scrubber, "may_hold_secret", return_value=False) as look:
        lines.write(*told)
        lines.write(*told)
    assert look.call_count == 1
    with mock.patch.object(logs, "SCRUBBER", Scrubber()) as scrubber:
        lines.write(*told)
        scrubber.register("org-of-a-later-secret")
        lines.write(*told)
        lines.write(*told)
    assert [each["org"] for each in _lines(stream)] == [told[1]] * 3 + [logs.REMOVED] * 2


def test_the_lines_of_requests_obey_the_level(stream: io.StringIO) -> None:
    """As all others do."""
    logs.configure("json", "warning", stream)
    logs.RequestLines("api").write("req_1", None, "GET", "/healthz", 200, 0.1)
    assert stream.getvalue() == ""


async def test_buffered_lines_are_written_together_and_in_order(stream: io.StringIO) -> None:
    """Ours and those of libraries wait for each other; an error does not wait, nor do those before it."""
    logs.configure("json", "info", stream, buffered=True)
    logs.get_logger("a").info("first")
    logging.getLogger("b").info("second")
    assert stream.getvalue() == ""
    logs.get_logger("a").error("third")
    assert [each["event"] for each in _lines(stream)] == ["first", "second", "third"]
    logs.get_logger("a").info("fourth")
    async with asyncio.timeout(5):
        while len(_lines(stream)) < 4:
            await asyncio.sleep(0.001)


async def test_the_end_of_buffering_writes_what_waits(stream: io.StringIO) -> None:
    """A process that stops loses no line."""
    logs.configure("json", "info", stream, buffered=True)
    logs.get_logger("a").info("waits")
    logs.unbuffer()
    logs.get_logger("a").info("does not wait")
    assert [each["event"] for each in _lines(stream)] == ["waits", "does not wait"]


def test_a_line_from_a_thread_without_a_loop_is_written_at_once(stream: io.StringIO) -> None:
    """The commit thread logs, too."""
    logs.configure("json", "info", stream, buffered=True)
    thread = threading.Thread(target=lambda: logs.get_logger("a").info("from a thread"))
    thread.start()
    thread.join()
    assert len(_lines(stream)) == 1


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """Nobody reads the pipe any more: the request goes on."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    logs.configure("json", "info", Gone())
    try:
        logs.get_logger("a").info("unheard")
    finally:
        logs.unconfigure()
