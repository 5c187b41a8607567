"""Structured logs: one line per decision, the same keys everywhere, no secret ever.

Keys: `event`, `level`, `at`, and where they apply `payout_id`, `custodian`, `adapter`,
`custodian_reference`, `attempt`, `request_id`, `org`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog

#: What stands where a secret stood.
REMOVED = "[removed]"
_SECRET_NAMES = re.compile(
    r"(?:^|_)(?:password|passcode|secret|token|authorization|private_key|api_key|server_key|pem)(?:$|_)",
    re.IGNORECASE,
)
_SECRET_FORMS = re.compile(
    r"sk_(?:live|test)_[A-Za-z0-9_-]{20,}"
    r"|whs[eck]c?_[A-Za-z0-9+/=_-]{16,}"
    r"|[Bb]earer\s+[^\s\"',;]+"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
#: Shorter values would blot out ordinary words.
_LEAST_SECRET = 8


class Scrubber:
    """Removes secrets from whatever is about to be written: by value, by form, and by name."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def register(self, value: str) -> None:
        """Remove this very value from now on, wherever it turns up."""
        for part in {value, value.strip()}:
            if len(part) >= _LEAST_SECRET:
                self._values.add(part)

    def scrub(self, value: Any) -> Any:
        """Return the value without secrets; containers are searched."""
        if isinstance(value, str):
            for secret in self._values:
                value = value.replace(secret, REMOVED)
            return _SECRET_FORMS.sub(REMOVED, value)
        if isinstance(value, dict):
            return {
                key: REMOVED if _names_secret(key) and each else self.scrub(each)
                for key, each in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [self.scrub(each) for each in value]
        if isinstance(value, bytes):
            return self.scrub(value.decode("utf-8", "replace"))
        return value

    def __call__(
        self, _: Any, __: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Act as a structlog processor."""
        return {
            key: REMOVED if _names_secret(key) and each else self.scrub(each)
            for key, each in event.items()
        }


def _names_secret(key: Any) -> bool:
    return isinstance(key, str) and _SECRET_NAMES.search(key) is not None


#: The one scrubber of the process: a secret registered anywhere is removed everywhere.
SCRUBBER = Scrubber()


def scrub(text: str) -> str:
    """Return the text without secrets."""
    cleaned: str = SCRUBBER.scrub(text)
    return cleaned


def _stamp(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Log lines carry the machine's time, also where the gateway's own clock is set by a test.
    event["at"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    _stamp,
    structlog.processors.format_exc_info,
    SCRUBBER,
]


def configure(
    form: Literal["json", "console"] = "json", level: str = "info", stream: TextIO | None = None
) -> None:
    """Send every log line, also those of libraries, through the same renderer. May be called twice."""
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> Any:
    """Return a logger; lines are made of an event word and keys."""
    return structlog.stdlib.get_logger(name)
