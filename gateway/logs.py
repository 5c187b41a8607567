"""Structured logs: one line per decision, the same keys everywhere, no secret ever.

Keys: `event`, `level`, `at`, and where they apply `payout_id`, `custodian`, `adapter`,
`custodian_reference`, `attempt`, `request_id`, `org`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from enum import StrEnum
from typing import Any, Literal, TextIO
from urllib.parse import quote, quote_plus

import structlog

from gateway.runtime import Clock, SystemClock
from gateway.text import escaped, escaped_json

#: Libraries' loggers whose lines below a warning tell an operator nothing: Alembic's names each of its plugins.
_NOISY = ("alembic.runtime.plugins",)
#: What stands where a secret stood.
REMOVED = "[removed]"
_NAMES = (
    r"password|passphrase|passcode|secret|token|authorization|private[_-]?key|api[_-]?key"
    r"|server_key|pem"
)
_SECRET_NAMES = re.compile(rf"(?:^|_)(?:{_NAMES})(?:$|_)", re.IGNORECASE)
_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET_FORMS = re.compile(
    r"sk_(?:live|test)_[A-Za-z0-9_-]{20,}"
    r"|whs[eck]c?_[A-Za-z0-9+/=_-]{16,}"
    r"|[Bb]earer\s+[^\s\"',;]{8,}"
    r"|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
#: A member within a text: of JSON (also JSON in JSON), of a repr, of a query, of a header. A name that
#: is not quoted needs a `=`, or a `:` after a header's name: "the token: expired" is plain English.
#: Bounded, and begun at the edge of a word only: a custodian's answer must not stop the process.
_SECRET_MEMBERS = re.compile(
    rf"""(?P<head>
        (?<!\\)(?P<quote>\\{{0,8}}["'])(?:[\w-]{{0,64}}[_-])?(?:{_NAMES})(?P=quote)\s*[:=]\s*
        | (?<![\w-])(?:[\w-]{{0,64}}[_-])?(?:{_NAMES})=
        | \b(?:(?:proxy-)?authorization|x-api-key):\s*(?:(?:basic|digest|bearer)\s+)?
    )
    (?!\[removed\]) (?P<value> (?P<open>\\*["']).*?(?:(?P=open)|$) | [^\s,;&}})\]"']+ )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_USER_OF_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
#: Shorter values would blot out ordinary words.
_LEAST_SECRET = 8
_LEAST_LINE = 16
#: Values nested deeper than this are written as a text; no record of ours is.
_DEEPEST = 12
#: A line without any of these, in lower case, has nothing that a pattern above would find: each pattern
#: and each secret name needs one of them. For lines of ASCII characters only.
_SIGNS = (
    *("password", "passphrase", "passcode", "secret", "token", "authorization"),
    *("private_key", "private-key", "privatekey", "api_key", "api-key", "apikey"),
    *("server_key", "server-key", "serverkey", "pem"),
    *("sk_live_", "sk_test_", "whs", "bearer", "eyj", "-----begin", "://"),
)
#: Types that JSON has: only a text among them can hold a secret.
_PLAIN = frozenset({str, int, float, bool, type(None)})
_ENCODER = json.JSONEncoder(ensure_ascii=False)
#: How long a line may wait for others, where lines are buffered.
_FLUSH_S = 0.01


class Scrubber:
    """Removes secrets from whatever is about to be written: by value, by form, and by name."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._known: re.Pattern[str] | None = None
        #: the registered values as JSON writes them
        self._in_json: tuple[str, ...] = ()
        #: rises when another value was registered: what was found to hold no secret may hold one now
        self.version = 0

    def register(self, value: str) -> None:
        """Remove this very value from now on, wherever it turns up. May be called twice."""
        whole = value.strip()
        lines = [line.strip() for line in whole.splitlines()]
        parts = {value, whole, *(line for line in lines if _is_secret_line(line))}
        for part in list(parts):
            # As it looks inside of JSON, of a repr, and of a URL.
            parts |= {
                json.dumps(part)[1:-1],
                repr(part)[1:-1],
                quote(part, safe=""),
                quote_plus(part),
            }
        self._values |= {part for part in parts if len(part) >= _LEAST_SECRET}
        if self._values:
            # The longest first: a secret may contain another one.
            ordered = sorted(self._values, key=len, reverse=True)
            self._known = re.compile("|".join(map(re.escape, ordered)))
            self._in_json = _shortest({_ENCODER.encode(each)[1:-1] for each in ordered})
        # Last: what was kept under the version before is scrubbed again with all of the above.
        self.version += 1

    def may_hold_secret(self, line: str) -> bool:
        """Whether scrubbing the values of a line of JSON might change one. False is certain.

        A fraction of the cost of scrubbing: it only looks for what every secret would have in it.
        """
        if not line.isascii():
            # The patterns ignore case, and there are letters of other alphabets that they take for ours.
            return True
        lowered = line.lower()
        for sign in _SIGNS:
            if sign in lowered:
                return True
        return any(value in line for value in self._in_json)

    def scrub(self, value: Any) -> Any:
        """Return the value without secrets, made of what JSON has; containers are searched."""
        return self._scrub(value, 0)

    def _scrub(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._scrub_text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, bytes | bytearray):
            return self._scrub_text(value.decode("utf-8", "replace"))
        if depth < _DEEPEST and isinstance(value, Mapping):
            return {
                self._scrub_text(str(key)): REMOVED
                if _names_secret(key) and each
                else self._scrub(each, depth + 1)
                for key, each in value.items()
            }
        if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
            return [self._scrub(each, depth + 1) for each in value]
        # Made a text here: the renderer would do it after the scrubbing.
        return self._scrub_text(_text_of(value))

    def _scrub_text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REMOVED, text)
        text = _SECRET_FORMS.sub(REMOVED, text)
        text = _USER_OF_URL.sub(REMOVED, text)
        return _SECRET_MEMBERS.sub(rf"\g<head>{REMOVED}", text)

    def __call__(
        self, _: Any, __: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Act as a structlog processor; what begins with `_` is structlog's own, never written."""
        return {
            key: each
            if key.startswith("_")
            else REMOVED
            if _names_secret(key) and each
            else self.scrub(each)
            for key, each in event.items()
        }


def _shortest(values: set[str]) -> tuple[str, ...]:
    """Return the values that contain no other one: whatever contains any value contains one of them."""
    return tuple(
        each for each in values if not any(other in each for other in values if other != each)
    )


def _names_secret(key: Any) -> bool:
    if not isinstance(key, str):
        return False
    return _SECRET_NAMES.search(_WORD_BREAK.sub("_", key).replace("-", "_")) is not None


def _is_secret_line(line: str) -> bool:
    """Whether a line of a longer secret gives it away by itself."""
    return len(line) >= _LEAST_LINE and not line.startswith("-----")


def _text_of(value: object) -> str:
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, Exception) else str(value)
    except Exception as error:  # noqa: BLE001 - a broken repr must not take the log line down
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


#: The one scrubber of the process: a secret registered anywhere is removed everywhere.
SCRUBBER = Scrubber()


def scrub(text: str) -> str:
    """Return the text without secrets."""
    cleaned: str = SCRUBBER.scrub(text)
    return cleaned


class _Stamp:
    """Adds the time of a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def text(self) -> str:
        """Return the time now."""
        return self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def __call__(
        self, _: Any, __: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["at"] = self.text()
        return event


class _Output:
    """Where lines go. With `buffered` they wait for each other on the event loop.

    A warning or an error is written at once, together with what waits. Lines that still wait when the
    process is killed are lost; the audit log is in the database and is never buffered.
    """

    def __init__(self, stream: TextIO, *, buffered: bool) -> None:
        self._stream = stream
        self._buffered = buffered
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()

    def write(self, line: str, *, urgent: bool) -> None:
        """Write a line, now or a moment later. From any thread."""
        self._waiting.append(line)
        if urgent or not self._buffered:
            self.flush()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.flush)
            except RuntimeError:
                # In a thread without a loop.
                self.flush()

    def flush(self) -> None:
        """Write what waits. May be called twice."""
        self._timer = None
        with self._lock:
            lines, self._waiting = self._waiting, []
            if lines:
                # A log that cannot be written (a closed pipe, a full disk) stops nobody.
                with suppress(OSError, ValueError):
                    self._stream.write("\n".join(lines) + "\n")
                    self._stream.flush()

    def unbuffer(self) -> None:
        """Write what waits, and from now on every line at once."""
        self._buffered = False
        self.flush()


class _Lines:
    """Writes lines of JSON without the library: the same text, at a tenth of the cost.

    See `docs/decisions/0021-hot-path-without-libraries.md`. What is not plain, or might have a secret
    in it, goes the library's way of scrubbing, value by value.
    """

    def __init__(self, output: _Output, stamp: _Stamp) -> None:
        self._output = output
        self._stamp = stamp

    def write(self, level: int, logger: str, event: str, keys: dict[str, Any]) -> None:
        """Write one line."""
        record: MutableMapping[str, Any] = keys
        record["event"] = event
        record = structlog.contextvars.merge_contextvars(None, "", record)
        record["logger"] = logger
        record["level"] = _LEVELS[level]
        self._stamp(None, "", record)
        self._output.write(_line_of(record), urgent=level >= logging.WARNING)

    def write_joined(self, begin: str, end: str) -> None:
        """Write a line of parts that are JSON and hold no secret: the time goes between them and the brace."""
        self._output.write(f'{begin}{end}"at": "{self._stamp.text()}"}}', urgent=False)


def _line_of(record: MutableMapping[str, Any]) -> str:
    values = record.values()
    # Nearly all lines pass the first look, which costs a fifth of the second.
    plain = _PLAIN.issuperset(map(type, values)) or all(map(_is_plain, values))
    if plain and "exc_info" not in record:
        line = _ENCODER.encode(record)
        if line.isprintable() and not SCRUBBER.may_hold_secret(line):
            return line
    record = structlog.processors.format_exc_info(None, "", record)
    return _json(SCRUBBER(None, "", record))


def _is_plain(value: Any) -> bool:
    # An enumeration's text is written as any other: outcomes and sub-statuses are such.
    return type(value) in _PLAIN or isinstance(value, StrEnum)


#: Set while lines are written as JSON: the library's way is for people, and for tests.
_lines: _Lines | None = None
_output: _Output | None = None
#: the root logger's handlers and level before the first `configure`
_before: tuple[list[logging.Handler], int] | None = None
_LEVELS = {
    each: logging.getLevelName(each).lower()
    for each in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
}


class Logger:
    """Writes lines that are made of an event word and keys."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._standard = logging.getLogger(name)
        self._library = structlog.stdlib.get_logger(name)

    def debug(self, event: str, **keys: Any) -> None:
        """Write a line for developers."""
        self.log(logging.DEBUG, event, **keys)

    def info(self, event: str, **keys: Any) -> None:
        """Write what happened."""
        self.log(logging.INFO, event, **keys)

    def warning(self, event: str, **keys: Any) -> None:
        """Write what an operator may want to look at."""
        self.log(logging.WARNING, event, **keys)

    def error(self, event: str, **keys: Any) -> None:
        """Write what an operator should look at. `exc_info`: the error whose traceback is written."""
        self.log(logging.ERROR, event, **keys)

    def shows(self, level: int) -> bool:
        """Return whether a line of a level may be written: for callers on a hot path."""
        return _lines is None or self._standard.isEnabledFor(level)

    def log(self, level: int, event: str, **keys: Any) -> None:
        """Write a line of a level, unless it is below the least one that is shown."""
        if _lines is None:
            self._library.log(level, event, **keys)
        elif self._standard.isEnabledFor(level):
            _lines.write(level, self._name, event, keys)


class RequestLines:
    """Writes the line of each request: the same text as `Logger.info`, of parts that are kept as JSON.

    They are what repeats: org, method, route and status. Nothing is bound to the context around a request.
    """

    #: How many combinations are kept; above so many all are dropped.
    MOST = 1024

    def __init__(self, name: str) -> None:
        self._logger = Logger(name)
        self._end = f', "event": "request", "logger": {_ENCODER.encode(name)}, "level": "info", '
        self._kept: dict[tuple[str | None, str, str, int], str] = {}
        self._version = SCRUBBER.version

    def write(  # noqa: PLR0913 - what the line says
        self,
        request_id: str,
        org: str | None,
        method: str,
        route: str,
        status: int,
        duration_ms: float,
        left_out: int = 0,
    ) -> None:
        """Write the line of one request. `request_id`: as `Ids` makes it; `left_out`: lines before it."""
        if not left_out and _lines is not None and self._logger.shows(logging.INFO):
            if self._version != SCRUBBER.version:
                self._kept.clear()
                self._version = SCRUBBER.version
            part = self._kept.get((org, method, route, status))
            if part is None:
                part = self._keep(org, method, route, status)
            if part:
                begin = f'{{"request_id": "{request_id}", {part}, "duration_ms": {duration_ms}'
                _lines.write_joined(begin, self._end)
                return
        self._logger.info(
            "request",
            request_id=request_id,
            org=org,
            method=method,
            route=route,
            status=status,
            duration_ms=duration_ms,
            **({"left_out": left_out} if left_out else {}),
        )

    def _keep(self, org: str | None, method: str, route: str, status: int) -> str:
        """Return a part of lines, kept from now on; empty: such a line is scrubbed value by value."""
        text = _ENCODER.encode({"org": org, "method": method, "route": route, "status": status})
        plain = text.isprintable() and not SCRUBBER.may_hold_secret(text)
        if len(self._kept) >= self.MOST:
            self._kept.clear()
        part = self._kept[org, method, route, status] = text[1:-1] if plain else ""
        return part


def configure(
    form: Literal["json", "console"] = "json",
    level: str = "info",
    stream: TextIO | None = None,
    clock: Clock | None = None,
    *,
    buffered: bool = False,
) -> None:
    """Send every log line, also those of libraries, to one place in one form. May be called twice.

    Lines go to stderr and carry the machine's time, unless `stream` and `clock` say otherwise. With
    `buffered` they may wait for 10 ms, until `unbuffer` is called; warnings and errors never wait.
    """
    global _lines, _output, _before  # noqa: PLW0603 - as the logging of a process is
    out = sys.stderr if stream is None else stream
    stamp = _Stamp(clock or SystemClock())
    unbuffer()
    _output = _Output(out, buffered=buffered)
    _lines = _Lines(_output, stamp) if form == "json" else None
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        stamp,
        structlog.processors.format_exc_info,
        SCRUBBER,
    ]
    renderers: list[Any] = (
        [structlog.processors.JSONRenderer(serializer=_json)]
        if form == "json"
        # A traceback is a text by now, because it was scrubbed.
        else [
            _escape,
            structlog.dev.ConsoleRenderer(colors=out.isatty(), timestamp_key="at"),
        ]
    )
    handler = _Handler(_output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    _before = _before or (list(root.handlers), root.level)
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def unconfigure() -> None:
    """Undo `configure`, for tests: lines go where they went before. May be called twice."""
    global _lines, _output, _before  # noqa: PLW0603
    unbuffer()
    if _before is not None:
        handlers, level = _before
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    _lines = _output = _before = None
    structlog.reset_defaults()


def unbuffer() -> None:
    """Write the lines that wait, and let none wait from now on. May be called twice."""
    if _output is not None:
        _output.unbuffer()


class _Handler(logging.Handler):
    """Writes the lines of libraries, in turn with ours."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.write(self.format(record), urgent=record.levelno >= logging.WARNING)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - a line that cannot be written must not stop the program
            self.handleError(record)


def _json(record: Any, **options: Any) -> str:
    """Return a record as one line of JSON that changes nothing on a terminal."""
    return escaped_json(json.dumps(record, ensure_ascii=False, **options))


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Act as a structlog processor: let no text of others steer the terminal that shows the line."""
    return {
        key: "\n".join(map(escaped, each.split("\n")))
        if key == "exception" and isinstance(each, str)
        else _escaped(each)
        for key, each in event.items()
    }


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    # Containers are shown as their repr, which escapes what is in them.
    return value


def get_logger(name: str) -> Logger:
    """Return a logger; lines are made of an event word and keys."""
    return Logger(name)
