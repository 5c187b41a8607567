"""Opaque cursors, bound to the list, the org and the filters they were made for by a MAC.

Nobody can make one or change one: what comes back is a position that the gateway gave out.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

from starlette.requests import Request

from gateway.api.requests import context_of
from gateway.errors import Refused
from gateway.vault import MAC_BYTES

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
            listed = (
                f"known: {', '.join(sorted(known))}" if known else "this list has no parameters"
            )
            raise query_fault(name[:50], f"is not known here; {listed}")
        if names.count(name) > 1:
            raise query_fault(name, "is given twice")


def encode(request: Request, position: list[int | str], filters: Mapping[str, str]) -> str:
    """Return the cursor of a position in this list, for this caller under these filters."""
    raw = json.dumps(position, separators=(",", ":")).encode()
    mac = context_of(request).vault.cursor_mac(_bound(request, filters, raw))
    return base64.urlsafe_b64encode(mac + raw).rstrip(b"=").decode()


def decode(
    request: Request, cursor: str, filters: Mapping[str, str], kinds: tuple[type, ...]
) -> list[int | str]:
    """Return the position of a cursor that this list gave out.

    Refused: `invalid_cursor`, also where the filters changed or another caller got it.
    """
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        packed = b""
    mac, raw = packed[:MAC_BYTES], packed[MAC_BYTES:]
    if not context_of(request).vault.is_cursor_mac(mac, _bound(request, filters, raw)):
        detail = "This cursor was not made by this list with these filters: start again without a cursor."
        raise Refused("invalid_cursor", detail)
    position: list[int | str] = json.loads(raw)
    if len(position) != len(kinds) or not all(map(_fits, position, kinds)):
        raise Refused("invalid_cursor", "This is not a cursor of this list.")
    return position


def _fits(value: object, kind: type) -> bool:
    """Whether a part of a cursor is of its kind and within what the store can compare."""
    return type(value) is kind and (not isinstance(value, int) or 0 <= value < 2**62)


def _bound(request: Request, filters: Mapping[str, str], raw: bytes) -> bytes:
    """Return what the MAC of a cursor covers: the list, the org and mode, the filters and the position."""
    state = request.state
    told = [request.scope["route"].path, state.org, state.mode, sorted(filters.items())]
    return json.dumps(told).encode() + b"\n" + raw
