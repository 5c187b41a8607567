"""The pages' own stylesheet, scripts and icon, under addresses that change with their content."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import Refused

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_NAMES = ("style.css", "docs.css", "track.js", "panel.js", "icon.svg")
_YEAR_S = 31_536_000


@dataclass(frozen=True)
class _File:
    body: bytes
    #: the same, packed; it contains nothing about the client, so its length reveals nothing
    packed: bytes
    media_type: str
    #: its name with a digest of its content in it
    hashed: str


#: What people read in a file and browsers do not: comments, indents, blanks beside punctuation.
_UNREAD = {
    "css": (
        (r"/\*.*?\*/", ""),
        (r"\s+", " "),
        (r" ?([{};,>]|!important) ?", r"\1"),
        (r": ", ":"),
        (r";}", "}"),
    ),
    "js": ((r"(?m)^\s*//.*\n", ""), (r"(?m)^\s+", "")),
    "svg": (),
}


def _read(name: str) -> _File:
    text = files("gateway.pages").joinpath("static", name).read_text(encoding="utf-8")
    stem, _, kind = name.partition(".")
    for pattern, instead in _UNREAD[kind]:
        text = re.sub(pattern, instead, text, flags=re.DOTALL if kind == "css" else 0)
    body = text.encode()
    digest = hashlib.sha256(body).hexdigest()[:12]
    return _File(body, gzip.compress(body, 9, mtime=0), _TYPES[kind], f"{stem}.{digest}.{kind}")


_FILES = {name: _read(name) for name in _NAMES}
#: By name without the digest.
HASHED = {name: each.hashed for name, each in _FILES.items()}
#: Changes with every release that changes how pages look or behave.
RELEASE = hashlib.sha256("".join(HASHED.values()).encode()).hexdigest()[:8]


def content(name: str) -> bytes:
    """Return the content of a file, by its name without the digest."""
    return _FILES[name].body


def packed(name: str) -> bytes:
    """Return the same as it is sent to browsers: packed with gzip."""
    return _FILES[name].packed


async def asset(request: Request) -> Response:
    """`GET /assets/{name}`: kept by browsers for good, as other content has another address.

    A page of another release names another digest: it gets the file of this one, and keeps it not.
    """
    wanted: str = request.path_params["name"]
    stem, _, kind = wanted.partition(".")
    found = _FILES.get(f"{stem}.{kind.rpartition('.')[2]}")
    if found is None:
        raise Refused("not_found", "There is nothing at this path.")
    headers = {"Vary": "Accept-Encoding"}
    body = found.body
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        headers["Content-Encoding"], body = "gzip", found.packed
    kept = f"public, max-age={_YEAR_S}, immutable" if wanted == found.hashed else "no-store"
    headers["Cache-Control"] = kept
    return Response(body, media_type=found.media_type, headers=headers)


def _takes_gzip(accepted: str) -> bool:
    """Whether a client takes gzip; one that refuses it says so with a quality of 0. Pure."""
    for each in accepted.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name == "gzip":
            return not any(re.fullmatch(r"q=0(\.0*)?", part) for part in parameters)
    return False
