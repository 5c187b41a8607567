"""Takes what we sent out of what came back.

Outside parties echo requests: a debugging receiver prints the headers it got, a custodian quotes the
passcode that it refused. Their answers are stored and shown, so whatever was sent in confidence is
removed first, in the spellings in which servers print it.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import aiohttp

from gateway.logs import REMOVED

#: Shorter values are removed only where they stand alone: they are parts of ordinary words.
_LEAST_ANYWHERE = 8
#: How much of a value at the very end of a text counts as its beginning that was cut off.
_LEAST_BEGINNING = 4
#: The parts of a value ("Bearer …", "v1,… v1,…") are removed by themselves if they have so many bytes.
_LEAST_PART = 8
#: Headers of a request that say nothing in confidence.
_PLAIN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "host",
        "idempotency-key",
        "transfer-encoding",
        "user-agent",
    }
)
_WORDS = re.compile("[A-Za-z0-9]+")


@dataclass(frozen=True)
class _Sent:
    """What was sent in confidence: in answers to a required action, which nothing keeps, and in headers."""

    answers: frozenset[str]
    headers: set[str]


_sent: ContextVar[_Sent | None] = ContextVar("sent", default=None)


def redact(
    body: bytes, values: Iterable[str], *, once: Iterable[str] = (), cut: bool = False
) -> bytes:
    """Return an answer without the values, nor their parts, in any usual spelling.

    Neither is a beginning of one left that has eight characters or more, wherever it stands.
    `once`: values that are not remembered, such as passcodes; the forms of the others are kept.
    `cut`: the answer was not read to its end, so that it may end in the middle of a value. Case does
    not matter. Pure.
    """
    forms = {each for value in values for each in _kept_forms(value)}
    forms.update(each for value in once for each in _forms(value))
    spans = list(_spans(body.lower(), forms, cut=cut))
    spans.sort()
    if not spans:
        return body
    pieces, at = [], 0
    for begin, end in spans:
        if begin >= at:
            pieces += [body[at:begin], REMOVED.encode()]
        at = max(at, end)
    return b"".join((*pieces, body[at:]))


def _spans(
    low: bytes, forms: Iterable[tuple[bytes, bytes]], *, cut: bool
) -> Iterator[tuple[int, int]]:
    """Yield what has to go from a text in lower case."""
    there: dict[bytes, bool] = {}

    def has(piece: bytes) -> bool:
        if piece not in there:
            there[piece] = piece in low
        return there[piece]

    for core, form in forms:
        # Most answers echo nothing: one search for what all spellings have in common is enough then.
        if has(core):
            yield from _whole(low, form)
        if len(form) >= _LEAST_ANYWHERE and has(form[:_LEAST_ANYWHERE]):
            yield from _beginnings(low, form)
        if cut:
            yield from _begun(low, form)


@contextmanager
def sending(*values: str) -> Iterator[None]:
    """Collect what this task, and the tasks it begins, send in confidence: `values` and headers.

    Inside of another one, what that one has collected counts, too.
    """
    outer = _sent.get() or _Sent(frozenset(), set())
    token = _sent.set(_Sent(outer.answers.union(values), set(outer.headers)))
    try:
        yield
    finally:
        _sent.reset(token)


def without_sent(text: str) -> str:
    """Return a text without what was sent since `sending` began."""
    sent = _sent.get()
    if sent is None or not text or not (sent.answers or sent.headers):
        return text
    # A header may have an answer in it, in whatever form: while there is one, no header is remembered either.
    kept, once = ((), sent.answers | sent.headers) if sent.answers else (sent.headers, ())
    without = redact(text.encode("utf-8", "replace"), kept, once=once)
    return without.decode("utf-8", "replace")


def texts_of(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, and every number as a text."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from texts_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts_of(each)
    elif isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        yield str(value)


def tracing() -> aiohttp.TraceConfig:
    """Return what a session needs to note the confidential headers of every request."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note)
    return trace


async def _note(
    _session: aiohttp.ClientSession,
    _context: SimpleNamespace,
    params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    sent = _sent.get()
    if sent is not None:
        sent.headers.update(
            str(value)
            for name, value in params.headers.items()
            if name.lower() not in _PLAIN_HEADERS and len(str(value)) >= _LEAST_ANYWHERE
        )


def _forms(value: str) -> frozenset[tuple[bytes, bytes]]:
    """Return a value and its parts, as they are and as they look inside JSON, HTML and URLs; lower case.

    Each with its core, which stands in every text that the form stands in.
    """
    parts = {value, value.strip()}
    # "Bearer <token>", "v1,<signature> v1a,<signature>": servers print the parts, too.
    parts |= {
        part
        for word in value.split()
        for part in (word, *word.split(","))
        if len(part) >= _LEAST_PART
    }
    parts |= set(_opened(value))
    found: set[tuple[bytes, bytes]] = set()
    for part in parts:
        inside_json = json.dumps(part)[1:-1]
        spellings = {
            part,
            inside_json,
            json.dumps(inside_json)[1:-1],
            inside_json.replace("/", "\\/"),
            html.escape(part),
            quote(part),
            quote(part, safe=""),
            quote_plus(part),
        }
        # What no spelling changes.
        core = max(_WORDS.findall(part), key=len, default="")
        found |= {(_low(core), _low(each)) for each in spellings}
        found |= {(each, each) for each in map(_low, _in_base64(part.encode()))}
    return frozenset(pair for pair in found if pair[1])


#: For credentials, which each request has.
_kept_forms = lru_cache(maxsize=256)(_forms)


def _low(text: str) -> bytes:
    return text.encode("utf-8", "replace").lower()


def _in_base64(part: bytes) -> Iterator[str]:
    """Yield how a value looks inside something that was encoded as a whole, wherever it begins in it.

    Without the characters at both ends that hold bits of what stands around it.
    """
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + part).decode()
        inner = encoded[-(-before * 8 // 6) : (before + len(part)) * 8 // 6]
        yield from {inner, inner.replace("+", "-").replace("/", "_")}


def _opened(value: str) -> Iterator[str]:
    """Yield the user name with its password, and the password, of `Basic` credentials."""
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() != "basic":
        return
    try:
        pair = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return
    yield pair
    yield pair.partition(":")[2]


def _whole(low: bytes, form: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a form stands in a text; both are in lower case."""
    at = low.find(form)
    while at >= 0:
        end = at + len(form)
        alone = not (low[at - 1 : at].isalnum() or low[end : end + 1].isalnum())
        if len(form) >= _LEAST_ANYWHERE or alone:
            yield at, end
        at = low.find(form, end)


def _beginnings(low: bytes, form: bytes) -> Iterator[tuple[int, int]]:
    """Yield where at least eight characters of the beginning of a form stand in a text."""
    beginning = form[:_LEAST_ANYWHERE]
    at = low.find(beginning)
    while at >= 0:
        pairs = zip(low[at:], form, strict=False)
        length = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
        end = min(len(low), at + len(form)) if length is None else at + length
        yield at, end
        at = low.find(beginning, end)


def _begun(low: bytes, form: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a text ends in the first few characters of a form; longer ones are `_beginnings`."""
    if len(form) < _LEAST_ANYWHERE:
        return
    for kept in range(_LEAST_BEGINNING, _LEAST_ANYWHERE):
        if low.endswith(form[:kept]):
            yield len(low) - kept, len(low)
