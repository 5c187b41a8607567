"""Structured logs: one line per decision, the same keys everywhere, no secret ever.

Keys: `event`, `level`, `at`, and where they apply `payout_id`, `custodian`, `adapter`,
`custodian_reference`, `attempt`, `request_id`, `org`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO
from urllib.parse import quote, quote_plus

import structlog

from gateway.runtime import Clock, SystemClock
from gateway.text import escaped, escaped_json

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


class Scrubber:
    """Removes secrets from whatever is about to be written: by value, by form, and by name."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._known: re.Pattern[str] | None = None

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

    def __call__(
        self, _: Any, __: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        at = self._clock.now().isoformat(timespec="milliseconds")
        event["at"] = at.replace("+00:00", "Z")
        return event


def configure(
    form: Literal["json", "console"] = "json",
    level: str = "info",
    stream: TextIO | None = None,
    clock: Clock | None = None,
) -> None:
    """Send every log line, also those of libraries, through the same renderer. May be called twice.

    Lines go to stderr and carry the machine's time, unless `stream` and `clock` say otherwise.
    """
    out = sys.stderr if stream is None else stream
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _Stamp(clock or SystemClock()),
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
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
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


def get_logger(name: str) -> Any:
    """Return a logger; lines are made of an event word and keys."""
    return structlog.stdlib.get_logger(name)
