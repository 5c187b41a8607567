"""Reading a request: who asks, what the body says, whether it was asked before."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.problems import JSON_TYPE, PROBLEMS, problem_body
from gateway.errors import Refused
from gateway.keys import Caller, recognise
from gateway.runtime import Failpoint
from gateway.store import idempotency
from gateway.store.database import Tx
from gateway.store.rows import to_us

MAX_BODY = 64 * 1024
KEY_LIFE = timedelta(hours=24)
#: How much of a body that is too large is thrown away before the connection is closed on it.
_DRAIN_BYTES = 32 * 1024 * 1024
_BODY_S = 30
_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
#: Deeper nesting than any request has; the parser itself would give up at about a thousand.
_MAX_DEPTH = 32
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Answer:
    """What is answered, and kept for a repeat."""

    status: int
    body: bytes
    location: str | None = None
    media_type: str = "application/json"

    def response(self, *, replayed: bool = False) -> Response:
        """Return the HTTP answer."""
        headers = {"Location": self.location} if self.location else {}
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        return Response(self.body, self.status, headers, media_type=self.media_type)

    def pack(self) -> bytes:
        """Return the answer as bytes, to be sealed."""
        head = json.dumps([self.status, self.location, self.media_type]).encode()
        return head + b"\n" + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> Answer:
        """Return the answer of its bytes."""
        head, _, body = packed.partition(b"\n")
        status, location, media_type = json.loads(head)
        return cls(status, body, location, media_type)


def context_of(request: Request) -> ApiContext:
    """Return the context that the application was built with."""
    context: ApiContext = request.app.state.context
    return context


async def caller_of(request: Request) -> Caller:
    """Return whose key was sent. Refused: `missing_api_key`, `invalid_api_key`, `api_key_revoked`."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Refused(
            "missing_api_key", "Send your API key: Authorization: Bearer sk_live_… or sk_test_…."
        )
    caller = await context_of(request).db.read(recognise, key.strip())
    request.state.org = caller.org
    return caller


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Return the body. Refused: `payload_too_large`, `request_timeout`.

    What is over the limit is read on for a bounded while and thrown away: a sender that is cut off
    in the middle would see a broken connection instead of the answer.
    """
    chunks: list[bytes] = []
    size = 0
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > _DRAIN_BYTES:
        detail = f"The body may have {limit} bytes."
        raise Refused("payload_too_large", detail, headers={"Connection": "close"})
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    chunks.append(chunk)
                elif size > _DRAIN_BYTES:
                    break
    except (ClientDisconnect, TimeoutError):
        raise Refused("request_timeout", "The body did not arrive in time.") from None
    if size > limit:
        detail = f"The body may have {limit} bytes."
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
        _check_depth(parsed, _MAX_DEPTH)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Refused("invalid_json", "The body has half of a surrogate pair.") from None
    except UnicodeDecodeError:
        raise Refused("invalid_json", "The body is not UTF-8.") from None
    except RecursionError:
        raise Refused("invalid_json", "The body is nested too deeply.") from None
    except ValueError as error:
        raise Refused("invalid_json", f"The body is not valid JSON: {error}") from None
    return parsed


def _no_constant(word: str) -> Any:
    msg = f"{word} is not JSON"
    raise ValueError(msg)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "a member is given twice"
        raise ValueError(msg)
    return members


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        msg = "nested too deeply"
        raise ValueError(msg)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        _check_depth(each, left - 1)


def validate(model: type[M], members: Any) -> M:
    """Return the request of its members. Refused: `invalid_request`, with a pointer per fault."""
    try:
        # Through JSON mode, so that strict models read what JSON can say and nothing else.
        return model.model_validate_json(json.dumps(members))
    except ValidationError as error:
        raise Refused(
            "invalid_request", "The request is not valid; see errors.", errors=faults_of(error)
        ) from None


def faults_of(error: ValidationError) -> list[dict[str, str]]:
    """Return one entry per fault: where, which, why; never the value that was sent."""
    faults = []
    for each in error.errors(include_input=False, include_url=False, include_context=False):
        # Discriminators and union branches are no part of the sender's document.
        parts = [part for part in each["loc"] if not (isinstance(part, str) and part in _BRANCHES)]
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
        faults.append({"pointer": pointer, "code": each["type"], "detail": each["msg"]})
    return faults


_BRANCHES = frozenset(
    {
        "address",
        "custodian_account",
        "payout_account",
        "bank_account",
        "constrained-str",
        "str",
        "tagged-union[AddressDestination,CustodianAccountDestination,PayoutAccountDestination,BankAccountDestination]",
    }
)


def idempotency_key(request: Request, *, required: bool) -> str | None:
    """Return the key, one pair of quotes stripped. Refused: `…_required`, `invalid_idempotency_key`."""
    raw = request.headers.get("idempotency-key")
    if raw is None:
        if required:
            raise Refused("idempotency_key_required", "This call needs an Idempotency-Key header.")
        return None
    if len(raw) >= 2 and raw[0] == raw[-1] == '"':  # noqa: PLR2004 - a pair
        raw = raw[1:-1]
    if not _VISIBLE.fullmatch(raw):
        raise Refused(
            "invalid_idempotency_key", "An Idempotency-Key has 1 to 255 visible ASCII characters."
        )
    return raw


class Kept:
    """The kept answer of one idempotency key, for work that cannot run inside a transaction."""

    def __init__(
        self, context: ApiContext, running: tuple[str, str, str, str], fingerprint: str
    ) -> None:
        self._context = context
        self._running = running
        self._fingerprint = fingerprint

    @contextmanager
    def running(self, in_progress: set[tuple[str, ...]]) -> Iterator[None]:
        """Be the only request with this key in this process. Refused: `idempotency_in_progress`."""
        if self._running in in_progress:
            raise Refused(
                "idempotency_in_progress",
                "The first request with this key still runs.",
                headers={"Retry-After": "1"},
            )
        in_progress.add(self._running)
        try:
            yield
        finally:
            in_progress.discard(self._running)

    async def answer(self) -> Answer | None:
        """Return the kept answer. Refused: `idempotency_key_reused`."""
        org, mode, route, key = self._running
        now = to_us(self._context.runtime.clock.now())
        kept = await self._context.db.read(
            idempotency.kept_answer, org=org, mode=mode, route=route, key=key, now=now
        )
        if kept is None:
            return None
        if kept["fingerprint"] != self._fingerprint:
            raise Refused(
                "idempotency_key_reused", "This Idempotency-Key was used with another body."
            )
        bound_to = "|".join(self._running)
        return Answer.unpack(self._context.vault.open(kept["answer"], bound_to=bound_to))

    async def keep(self, answer: Answer) -> None:
        """Keep an answer for 24 hours, sealed."""
        bound_to = "|".join(self._running)
        await self._context.db.run(
            self._keep, self._context.vault.seal(answer.pack(), bound_to=bound_to)
        )

    async def keep_in(self, tx: Tx, answer: Answer) -> None:
        """Keep an answer in the transaction of the change that it tells of."""
        bound_to = "|".join(self._running)
        await self._keep(tx, self._context.vault.seal(answer.pack(), bound_to=bound_to))

    async def _keep(self, tx: Tx, sealed: bytes) -> None:
        org, mode, route, key = self._running
        await idempotency.keep_answer(
            tx,
            org=org,
            mode=mode,
            route=route,
            key=key,
            fingerprint=self._fingerprint,
            answer=sealed,
            expires_at=to_us(self._context.runtime.clock.now() + KEY_LIFE),
        )


def kept_of(request: Request, caller: Caller, key: str, members: Any) -> Kept:
    """Return the kept answer of a request with a key; `members` is what the key is bound to."""
    route = f"{request.method} {request.scope['route'].path}"
    document = json.dumps(members, sort_keys=True, separators=(",", ":"))
    print_ = hashlib.sha256(document.encode()).hexdigest()
    return Kept(context_of(request), (caller.org, caller.mode, route, key), print_)


async def once(
    request: Request,
    caller: Caller,
    key: str | None,
    members: Any,
    work: Callable[[Tx], Awaitable[Answer]],
) -> Response:
    """Run a change once per idempotency key, in the transaction that also keeps its answer.

    A business refusal by `work` is an answer, too, and kept. What failed before anything was executed
    (a faulty request, a wrong key, a full disk, a frozen database) is not kept: it may be repeated.
    Refused: `idempotency_in_progress`, `idempotency_key_reused`.
    """
    context = context_of(request)
    if key is None:
        return (await _change(context, work)).response()
    route = f"{request.method} {request.scope['route'].path}"
    running = (caller.org, caller.mode, route, key)
    in_progress: set[tuple[str, ...]] = request.app.state.in_progress
    if running in in_progress:
        raise Refused(
            "idempotency_in_progress",
            "The first request with this key still runs.",
            headers={"Retry-After": "1"},
        )
    in_progress.add(running)
    try:
        answer, replayed = await _change(
            context, lambda tx: _once(tx, request, running, members, work)
        )
    finally:
        in_progress.discard(running)
    return answer.response(replayed=replayed)


T = TypeVar("T")


async def _change(context: ApiContext, work: Callable[[Tx], Awaitable[T]]) -> T:
    context.runtime.failpoint(Failpoint.ACCEPT_BEGUN)
    done = await context.db.run(work)
    context.runtime.failpoint(Failpoint.ACCEPT_COMMITTED)
    return done


async def _once(
    tx: Tx,
    request: Request,
    running: tuple[str, str, str, str],
    members: Any,
    work: Callable[[Tx], Awaitable[Answer]],
) -> tuple[Answer, bool]:
    """Store function: replay, refuse, or run and keep."""
    context = context_of(request)
    org, mode, route, key = running
    now = context.runtime.clock.now()
    print_ = hashlib.sha256(
        json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
    bound_to = "|".join(running)
    kept = await idempotency.kept_answer(
        tx, org=org, mode=mode, route=route, key=key, now=to_us(now)
    )
    if kept is not None:
        if kept["fingerprint"] != print_:
            raise Refused(
                "idempotency_key_reused", "This Idempotency-Key was used with another body."
            )
        return Answer.unpack(context.vault.open(kept["answer"], bound_to=bound_to)), True
    try:
        answer = await work(tx)
    except Refused as refused:
        if PROBLEMS[refused.code].retryable:
            raise
        answer = _refusal(context, refused, request.state.request_id)
    await idempotency.keep_answer(
        tx,
        org=org,
        mode=mode,
        route=route,
        key=key,
        fingerprint=print_,
        answer=context.vault.seal(answer.pack(), bound_to=bound_to),
        expires_at=to_us(now + KEY_LIFE),
    )
    return answer, False


def _refusal(context: ApiContext, refused: Refused, request_id: str) -> Answer:
    body = problem_body(
        refused.code,
        refused.detail,
        public_url=context.settings.public_url,
        request_id=request_id,
        errors=refused.errors,
        members=refused.members,
    )
    return Answer(PROBLEMS[refused.code].status, body, media_type=JSON_TYPE)
