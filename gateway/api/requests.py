"""Reading a request: who asks, and what the body says."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request

from gateway.api.admission import admission_of
from gateway.api.context import ApiContext
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.faults import names_at, plain_faults, words_of
from gateway.keys import recognise
from gateway.limits import ARRIVED

MAX_BODY = 64 * 1024
#: How much of a body that is too large is thrown away before the connection is closed on it.
_DRAIN_BYTES = 32 * 1024 * 1024
#: Deeper nesting than any request has; the parser itself would give up at about a thousand.
_MAX_DEPTH = 32
M = TypeVar("M", bound=BaseModel)


class Access(Protocol):
    """What a route declares: who may call it."""

    async def admit(self, request: Request) -> Caller:
        """Return whose key was sent, or raise Refused."""


def context_of(request: Request) -> ApiContext:
    """Return the context that the application was built with."""
    context: ApiContext = request.app.state.context
    return context


def client_address(request: Request) -> str | None:
    """Return the address of the client, or None if it is not known."""
    client: tuple[str, int] | None = request.scope.get("client")
    return client[0] if client else None


def request_id_of(request: Request) -> str:
    """Return the id that the request was given."""
    return str(request.state.request_id)


def authorization_of(request: Request) -> str:
    """Return the header `Authorization`; empty if there is none. It is read with every request."""
    for name, value in request.scope["headers"]:
        if name == b"authorization":
            text: str = value.decode("latin-1")
            return text
    return ""


async def caller_of(request: Request) -> Caller:
    """Return whose key was sent, with the scope that the route declares.

    Refused: `missing_api_key`, `invalid_api_key`, `api_key_revoked`, `api_key_expired`,
    `client_network_not_allowed`, `org_key_required`, `operator_key_required`, `insufficient_scope`, and
    `rate_limited` before anything else of the request is read.
    """
    state = request.scope["state"]
    known: Caller | None = state.get("caller")
    if known is None:
        access: Access = state["access"]
        known = state["caller"] = await access.admit(request)
    return known


async def authenticated(request: Request) -> Caller:
    """Return whose key was sent, whatever it may do. For `Access`, which knows what is needed."""
    scheme, _, key = authorization_of(request).partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Refused(
            "missing_api_key", "Send your API key: Authorization: Bearer sk_live_… or sk_test_…."
        )
    context = context_of(request)
    address = client_address(request)
    caller = await context.db.read(recognise, context.runtime, key.strip(), address)
    request.scope["state"] |= {"org": caller.org, "mode": caller.mode}
    admission_of(request).admit(request, caller.key_id)
    return caller


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Return the body. Refused: `payload_too_large`, `request_timeout`, `rate_limited`.

    Bytes over the limit are read for a bounded time and discarded: a sender that is cut off
    in the middle would see a broken connection instead of the answer.
    """
    chunks: list[bytes] = []
    size = 0
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > _DRAIN_BYTES:
        detail = f"The body must have at most {limit} bytes."
        raise Refused("payload_too_large", detail, headers={"Connection": "close"})
    try:
        arrived = request.scope["state"].get(ARRIVED, False)
        seconds = None if arrived else context_of(request).settings.listen.body_s
        with admission_of(request).receiving(request):
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= limit:
                        chunks.append(chunk)
                    elif size > _DRAIN_BYTES:
                        break
    except (ClientDisconnect, TimeoutError):
        raise Refused("request_timeout", "The body did not arrive in time.") from None
    if size > limit:
        detail = f"The body must have at most {limit} bytes."
        raise Refused("payload_too_large", detail, headers={"Connection": "close"})
    return b"".join(chunks)


async def read_json(request: Request, limit: int = MAX_BODY) -> Any:
    """Return the JSON body. Refused: `unsupported_media_type`, `payload_too_large`, `invalid_json`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refused(
            "unsupported_media_type", "Send the body with Content-Type: application/json."
        )
    return parse_json(await read_body(request, limit))


def parse_json(raw: bytes) -> Any:
    """Return strict JSON: UTF-8, no NaN, no doubled members, bounded depth. Refused: `invalid_json`."""
    try:
        parsed = json.loads(
            raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_doubles
        )
        if raw.count(b"[") + raw.count(b"{") >= _MAX_DEPTH:
            _check_depth(parsed, _MAX_DEPTH)
        if b"\\u" in raw:
            # Only an escape can be half of a pair: what is not escaped has been decoded.
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(
            "invalid_json", "The body contains half of a surrogate pair (\\ud800 to \\udfff)."
        ) from None
    except UnicodeDecodeError:
        raise Refused("invalid_json", "The body is not UTF-8.") from None
    except RecursionError:
        raise Refused("invalid_json", "The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refused("invalid_json", f"The body is not valid JSON; see {place}.") from None
    except _NotStrictError as error:
        raise Refused("invalid_json", f"The body is not valid JSON: {error}.") from None
    except ValueError:
        # Python reads no integer of more than 4300 digits, and its message names its own settings.
        raise Refused("invalid_json", "The body contains a number with too many digits.") from None
    return parsed


class _NotStrictError(ValueError):
    """What the parser takes, and strict JSON does not allow."""


def _no_constant(word: str) -> Any:
    msg = f"{word} is not JSON"
    raise _NotStrictError(msg)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "an object has the same member twice"
        raise _NotStrictError(msg)
    return members


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        msg = "nested too deeply"
        raise _NotStrictError(msg)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        _check_depth(each, left - 1)


def validate(model: type[M], members: Any) -> M:
    """Return the request of its members. Refused: `invalid_request`, with a pointer per fault."""
    try:
        # Through JSON mode, so that strict models read what JSON can say and nothing else.
        return model.model_validate_json(to_json(members))
    except ValidationError as error:
        raise Refused(
            "invalid_request",
            "The request is not valid; errors lists what to fix.",
            errors=faults_of(error, model),
        ) from None


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[dict[str, str]]:
    """Return one entry per fault: where, which, why; never the value that was sent."""
    faults = []
    for each in plain_faults(error):
        parts = [part for before, part in pairwise(("", *each["loc"])) if not _branch(before, part)]
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
        faults.append(
            {
                "pointer": pointer,
                "code": each["type"],
                "detail": words_of(each, names_at(model, each["loc"])),
            }
        )
    return faults


def _branch(before: int | str, part: int | str) -> bool:
    """Whether a part names a union, one of its branches, or a tag: no part of the sender's document."""
    return str(before).startswith(_UNION) or str(part).startswith(_UNION) or part in _STRINGS


_UNION = "tagged-union["
_STRINGS = frozenset({"constrained-str", "str"})
