"""Removes what was sent from what came back.

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

#: Shorter values are removed only as whole words, because they also occur inside ordinary words.
_LEAST_ANYWHERE = 8
#: The length at the very end of a text from which the beginning of a value counts as a cut-off value.
_LEAST_BEGINNING = 4
#: The parts of a value ("Bearer …", "v1,… v1,…") are also removed on their own from this length on.
_LEAST_PART = 8
#: Request headers that are not confidential.
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
    """Confidential values that were sent, in headers and in answers to a required action, which are never stored."""

    answers: frozenset[str]
    headers: set[str]


_sent: ContextVar[_Sent | None] = ContextVar("sent", default=None)


def redact(
    body: bytes, values: Iterable[str], *, once: Iterable[str] = (), cut: bool = False
) -> bytes:
    """Return an answer without the values and their parts, in any usual spelling.

    A beginning of a value with eight or more characters is removed as well, wherever it stands. `once`
    has values that are not remembered, such as passcodes; the forms of the others are cached. `cut`
    means that the answer was not read to its end and may stop in the middle of a value. Case does not
    matter. Pure.
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
    """Yield the spans to remove from a text in lower case."""
    there: dict[bytes, bool] = {}

    def has(piece: bytes) -> bool:
        if piece not in there:
            there[piece] = piece in low
        return there[piece]

    for core, form in forms:
        # Most answers echo nothing, and then one search for the common core of all spellings is enough.
        if has(core):
            yield from _whole(low, form)
        if len(form) >= _LEAST_ANYWHERE and has(form[:_LEAST_ANYWHERE]):
            yield from _beginnings(low, form)
        if cut:
            yield from _begun(low, form)


@contextmanager
def sending(*values: str) -> Iterator[None]:
    """Collect the confidential `values` and headers that this task and the tasks it starts send.

    Inside another such context, the values of the outer one count as well.
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
    # A header may contain an answer in some form, so no header is remembered either while there is one.
    kept, once = ((), sent.answers | sent.headers) if sent.answers else (sent.headers, ())
    without = redact(text.encode("utf-8", "replace"), kept, once=once)
    return without.decode("utf-8", "replace")


def texts_of(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, and every number as text."""
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

    Each comes with its core, which occurs in every text that contains the form.
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
        # The characters that no spelling changes.
        core = max(_WORDS.findall(part), key=len, default="")
        found |= {(_low(core), _low(each)) for each in spellings}
        found |= {(each, each) for each in map(_low, _in_base64(part.encode()))}
    return frozenset(pair for pair in found if pair[1])


#: A cache for credentials, which every request has.
_kept_forms = lru_cache(maxsize=256)(_forms)


def _low(text: str) -> bytes:
    return text.encode("utf-8", "replace").lower()


def _in_base64(part: bytes) -> Iterator[str]:
    """Yield the forms of a value inside a text that was encoded as a whole, at any offset.

    The characters at both ends are left out, because they also encode the surrounding text.
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
    """Yield the positions of a form in a text; both are in lower case."""
    at = low.find(form)
    while at >= 0:
        end = at + len(form)
        alone = not (low[at - 1 : at].isalnum() or low[end : end + 1].isalnum())
        if len(form) >= _LEAST_ANYWHERE or alone:
            yield at, end
        at = low.find(form, end)


def _beginnings(low: bytes, form: bytes) -> Iterator[tuple[int, int]]:
    """Yield the spans of a text that match at least the first eight characters of a form."""
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
