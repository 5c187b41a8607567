"""Opaque cursors, bound to the filters they were made with."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping

from starlette.requests import Request

from gateway.errors import Refused

MAX_LIMIT = 200
DEFAULT_LIMIT = 50


def limit_of(request: Request) -> int:
    """Return the page size, 1 to 200. Refused: `invalid_request`."""
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise query_fault("limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def query_fault(name: str, detail: str) -> Refused:
    """Return the refusal of a query parameter."""
    fault = {"pointer": f"?{name}", "code": "invalid_parameter", "detail": f"{name} {detail}"}
    return Refused("invalid_request", f"The parameter {name} {detail}.", errors=[fault])


def check_names(request: Request, known: frozenset[str]) -> None:
    """Refuse unknown and doubled query parameters: a mistyped filter must not widen a list."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise query_fault(name[:50], f"is not known here; known: {', '.join(sorted(known))}")
        if names.count(name) > 1:
            raise query_fault(name, "is given twice")


def encode(position: list[int | str], filters: Mapping[str, str]) -> str:
    """Return the cursor of a position under these filters."""
    raw = json.dumps([*position, _digest(filters)], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(cursor: str, filters: Mapping[str, str], kinds: tuple[type, ...]) -> list[int | str]:
    """Return the position of a cursor. Refused: `invalid_cursor`, also where the filters changed."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        *position, digest = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        raise Refused("invalid_cursor", "This is not a cursor of this list.") from None
    if digest != _digest(filters):
        raise Refused(
            "invalid_cursor", "This cursor was made with other filters: start again without it."
        )
    if len(position) != len(kinds) or not all(map(_fits, position, kinds)):
        raise Refused("invalid_cursor", "This is not a cursor of this list.")
    found: list[int | str] = position
    return found


def _fits(value: object, kind: type) -> bool:
    """Whether a part of a cursor is of its kind and within what the store can compare."""
    return type(value) is kind and (not isinstance(value, int) or 0 <= value < 2**62)


def _digest(filters: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(filters.items())).encode()).hexdigest()[:16]
