"""Idempotency keys: what a request with a key does is done once, at whichever gateway it arrives.

`once` is for work that is one transaction: key, work and answer are committed together.
`claimed` is for work that lies between transactions, such as a network call or many pages of rows:

    claim ──▶ work ──▶ answer     the last transaction also makes visible what the work made
      │         └────▶ release    the work raised: the key is free again
      └──────────────▶ takeover   the claimant is gone: another gateway raises the token and works

While a claim is open, another request with its key gets 409, or 422 if its body differs.
A claimant is gone when its counter in `gateways` stands still for `STILL_S` of the observer's own
elapsed time, or has not been raised for so long by the clock of the machine that both run on. That may be
wrong (the claimant may be slow), so every write of a claimant names its token: after a takeover the old
claimant writes nothing that anybody sees.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.problems import JSON_TYPE, PROBLEMS, may_succeed_later, problem_body
from gateway.api.requests import context_of
from gateway.caller import Caller
from gateway.errors import ClaimLost, Refused
from gateway.logs import get_logger
from gateway.runtime import Clock, Failpoint
from gateway.store import idempotency as rows
from gateway.store.database import Tx
from gateway.store.gateways import gateway_pulse
from gateway.store.idempotency import KeyScope
from gateway.store.rows import to_us

#: How long an answer is kept.
KEY_LIFE = timedelta(hours=24)
#: How long a claimant must have stood still, in this process's eyes, before its claim is taken over.
STILL_S = 60.0
#: Open claims of other gateways that are remembered; the one seen longest ago is forgotten first.
_MOST_WATCHED = 10_000
_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_log = get_logger("idempotency")
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What is answered, and kept for a repeat."""

    status: int
    body: bytes
    location: str | None = None
    media_type: str = "application/json"
    #: the id of what the request created; kept beside the answer, not in it
    created_id: str | None = None

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


@dataclass(frozen=True)
class Drafted:
    """An answer that is known before anything is written, and what is written where it is given."""

    answer: Answer
    write: Callable[[Tx], Awaitable[None]]


@dataclass(frozen=True)
class KeyedRequest:
    """A request with a key: the key's scope, and a digest of what the key is bound to."""

    scope: KeyScope
    fingerprint: str
    request_id: str


@dataclass(frozen=True)
class OpenClaim:
    """Another request's claim, without an answer."""

    token: int
    claimant: str
    created_id: str | None


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


def keyed_request(  # noqa: PLR0913 - the parts of a key, and what it is bound to
    request: Request, org: str, mode: str, key: str, members: Any, *, audience: str = ""
) -> KeyedRequest:
    """Return a request with its key; `members` (JSON) is what the key is bound to.

    `audience` tells apart who may see the answer: the same text is another key for another audience.
    Empty for the holders of the org's API keys.
    """
    route = f"{request.method} {request.scope['route'].path}"
    if audience:
        # In the part of the scope that no client can write.
        route = f"{route} for {audience}"
    document = json.dumps(members, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(document.encode()).hexdigest()
    return KeyedRequest(KeyScope(org, mode, route, key), fingerprint, request.state.request_id)


async def once(  # noqa: PLR0913 - the request and what it does
    request: Request,
    caller: Caller,
    key: str | None,
    members: Any,
    work: Callable[[Tx], Awaitable[Answer]],
    *,
    draft: Callable[[Tx], Awaitable[Drafted]] | None = None,
) -> Response:
    """Run a store function once per key, in the transaction that claims the key and keeps the answer.

    A business refusal by `work` is an answer, too, and kept, unless its problem is retryable. What
    failed before anything was executed (an invalid request, a wrong API key, a full disk) is not kept:
    the corrected request may use the same key. Without a key the function simply runs.
    `draft`: the same work in two parts, of which the first one writes nothing: then the row of the key is
    written once, with its answer. Refused: `idempotency_in_progress`, `idempotency_key_reused`.
    """
    context = context_of(request)
    if key is None:
        return (await _change(context, work)).response()
    keys = _keys_of(request)
    claim = keys.new_claim(keyed_request(request, caller.org, caller.mode, key, members))

    async def all_in_one(tx: Tx) -> tuple[Answer, bool] | OpenClaim:
        if draft is not None and (made := await claim.answer_drafted(tx, draft)) is not None:
            return made
        found = await claim.enter(tx)
        if isinstance(found, OpenClaim):
            return found
        if found is not None:
            return found, True
        # Claimed in this very transaction: nobody can have taken it over.
        return await claim.answer_held(tx, work, keep_refusals=True), False

    done = await _change(context, all_in_one)
    if not isinstance(done, OpenClaim):
        answer, replayed = done
        return answer.response(replayed=replayed)
    # A gateway whose configuration needed several transactions for this request left it unanswered.
    taken = await keys.take_over(claim.keyed, done)
    return await keys.carry_out(taken, lambda claim: claim.finish(work, keep_refusals=True))


async def claimed(
    request: Request, keyed: KeyedRequest, work: Callable[[Claim], Awaitable[Answer]]
) -> Response:
    """Run work of several transactions once per key: claimed first, answered in the last of them.

    `work` returns what `Claim.finish` returned. Each of its transactions that others depend on calls
    `Claim.hold`. If it raises, the key is released, and whatever it stored before must be invisible.
    Refused: `idempotency_in_progress`, `idempotency_key_reused`.
    """
    keys = _keys_of(request)
    begun = await keys.begin(keyed)
    if isinstance(begun, Answer):
        return begun.response(replayed=True)
    return await keys.carry_out(begun, work)


class Claim:
    """A claim of this gateway on a key. What is done under it is written only while it is held."""

    def __init__(
        self, context: ApiContext, keyed: KeyedRequest, token: int, created_id: str | None = None
    ) -> None:
        self.keyed = keyed
        self.token = token
        #: what an earlier claimant had begun to create, where the claim was taken over
        self.created_id = created_id
        self._context = context

    @property
    def identity(self) -> tuple[KeyScope, int]:
        """What tells this claim from every other one."""
        return self.keyed.scope, self.token

    async def enter(self, tx: Tx) -> Answer | OpenClaim | None:
        """Store function: claim the key (None), or return its answer or the claim that is open.

        Refused: `idempotency_key_reused`.
        """
        return None if await self._claim(tx) else await find(tx, self._context, self.keyed)

    async def take(self, tx: Tx) -> None:
        """Store function: take over the claim with the token before this one. Refused: it has changed."""
        scope, gateway_id = self.keyed.scope, self._context.gateway_id
        if not await rows.take_over_key(tx, scope, self.token - 1, gateway_id):
            raise _in_progress()

    async def hold(self, tx: Tx) -> None:
        """Store function: keep the claim until the transaction ends. ClaimLost: another gateway took it over."""
        if not await rows.hold_key(tx, *self.identity):
            raise ClaimLost

    async def creating(self, tx: Tx, created_id: str) -> None:
        """Store function: note what is being created, so that a takeover can remove it. ClaimLost."""
        if not await rows.name_created(tx, *self.identity, created_id):
            raise ClaimLost

    async def finish(
        self, work: Callable[[Tx], Awaitable[Answer]], *, keep_refusals: bool = False
    ) -> Answer:
        """Run the last store function of the work; commit it together with its answer.

        ClaimLost: another gateway took the claim over, and nothing is written. With `keep_refusals` a
        refusal by `work` is kept as the answer, as in `once`.
        """
        return await self._context.db.run(self.answer, work, keep_refusals=keep_refusals)

    async def answer_drafted(
        self, tx: Tx, draft: Callable[[Tx], Awaitable[Drafted]]
    ) -> tuple[Answer, bool] | OpenClaim | None:
        """Store function: claim the key with its answer, and write what was drafted.

        Returns the answer and whether it is an earlier one, or the claim that is open. A draft whose key
        was used before counts for nothing. None: the draft is refused or fails, and nothing is written;
        the key may have an answer all the same. Refused: `idempotency_key_reused`.
        """
        try:
            drafted = await draft(tx)
        except Exception:  # noqa: BLE001 - whatever it is, the work says it again where the key is new
            return None
        if await self._claim(tx, drafted.answer):
            await drafted.write(tx)
            return drafted.answer, False
        found = await find(tx, self._context, self.keyed)
        return found if isinstance(found, OpenClaim) else (found, True)

    async def _claim(self, tx: Tx, answer: Answer | None = None) -> bool:
        """Claim the key where it is new, with its answer if that is known; whether it was new."""
        context, scope = self._context, self.keyed.scope
        answered: dict[str, Any] = {} if answer is None else _answered(context, scope, answer)
        return await rows.claim_key(
            tx,
            scope,
            fingerprint=self.keyed.fingerprint,
            token=self.token,
            claimant=context.gateway_id,
            now=to_us(context.runtime.clock.now()),
            **answered,
        )

    async def answer(
        self, tx: Tx, work: Callable[[Tx], Awaitable[Answer]], *, keep_refusals: bool
    ) -> Answer:
        """Store function: as `finish`."""
        # First, so that work which another gateway has done since is not refused as a duplicate of it.
        await self.hold(tx)
        return await self.answer_held(tx, work, keep_refusals=keep_refusals)

    async def answer_held(
        self, tx: Tx, work: Callable[[Tx], Awaitable[Answer]], *, keep_refusals: bool
    ) -> Answer:
        """Store function: as `answer`, where this transaction holds the claim already."""
        context, scope = self._context, self.keyed.scope
        try:
            answer = await work(tx)
        except Refused as refused:
            if not keep_refusals or may_succeed_later(refused):
                raise
            answer = _refusal(context, refused, self.keyed.request_id)
        answered = _answered(context, scope, answer)
        written = await rows.answer_key(tx, *self.identity, **answered)
        if not written:
            raise ClaimLost
        return answer


def _answered(context: ApiContext, scope: KeyScope, answer: Answer) -> dict[str, Any]:
    """Return the columns of an answered key."""
    return {
        "answer": context.vault.seal(answer.pack(), bound_to=scope.name),
        "created_id": answer.created_id,
        "expires_at": to_us(context.runtime.clock.now() + KEY_LIFE),
    }


class _Release(Enum):
    """What became of a claim that was to be released."""

    FREED = auto()
    LOST = auto()  #: it is no longer ours, or was answered
    FAILED = auto()  #: the store could not be written


class Watch:
    """How long claimants have stood still, as this process has seen it. In memory only.

    Elapsed time of one process is the only clock that two looks certainly share; the wall clocks of
    two gateways may differ by any amount.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: the counter that was seen (None: the gateway is not registered, or has stopped), since when
        self._seen: OrderedDict[tuple[KeyScope, int], tuple[int | None, float]] = OrderedDict()

    def still_s(self, claim: tuple[KeyScope, int], counter: int | None) -> float:
        """Note a claimant's counter; return for how many seconds it has been the same."""
        now = self._clock.monotonic()
        last = self._seen.pop(claim, None)
        seen = (counter, now) if last is None or last[0] != counter else last
        self._seen[claim] = seen
        if len(self._seen) > _MOST_WATCHED:
            self._seen.popitem(last=False)
        return now - seen[1]


class Keys:
    """The idempotency keys as one gateway process works with them."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._watch = Watch(context.runtime.clock)
        #: the claims whose work runs in this process
        self._running: set[tuple[KeyScope, int]] = set()

    def new_claim(self, keyed: KeyedRequest) -> Claim:
        """Return a claim that is not made yet.

        Its token begins at a random number and rises with takeovers: a key that was released and
        claimed again never has a token that an old claimant still holds.
        """
        return Claim(
            self._context, keyed, int.from_bytes(self._context.runtime.ids.random_bytes(6))
        )

    async def begin(self, keyed: KeyedRequest) -> Claim | Answer:
        """Claim a key, or return its answer.

        Refused: `idempotency_in_progress`, `idempotency_key_reused`.
        """
        claim = self.new_claim(keyed)
        found = await self._open(claim, claim.enter)
        if found is None:
            return claim
        return found if isinstance(found, Answer) else await self.take_over(keyed, found)

    async def take_over(self, keyed: KeyedRequest, found: OpenClaim) -> Claim:
        """Take over an open claim whose claimant is gone. Refused: `idempotency_in_progress`."""
        if not await self._is_gone(keyed.scope, found):
            raise _in_progress()
        claim = Claim(self._context, keyed, found.token + 1, found.created_id)
        await self._open(claim, claim.take)
        _log.warning("claim_taken_over", route=keyed.scope.route, claimant=found.claimant)
        return claim

    async def carry_out(self, claim: Claim, work: Callable[[Claim], Awaitable[Answer]]) -> Response:
        """Do the work of a claim. Work that raises frees the key, and its error is the answer.

        Where the claim was taken over meanwhile, whatever the work returned or raised counts for
        nothing: the answer is that of the gateway that took over.
        """
        try:
            return (await work(claim)).response()
        except Exception:
            if await self._release(claim) is not _Release.LOST:
                raise
            return (await self._answer_of_another(claim)).response(replayed=True)
        except BaseException:
            await self._release(claim)
            raise
        finally:
            self._running.discard(claim.identity)

    async def _open(self, claim: Claim, change: Callable[[Tx], Awaitable[T]]) -> T:
        """Run the transaction that opens a claim; return what it found instead, if anything.

        The claim counts as running from before the commit: no request may see it and take it for one
        whose work has ended.
        """
        self._running.add(claim.identity)
        opened = False
        try:
            found = await self._context.db.run(change)
            opened = found is None
        except Refused:
            raise
        except BaseException:
            # A cancelled request: the change that it has handed in may still be committed.
            await self._release(claim)
            raise
        finally:
            if not opened:
                self._running.discard(claim.identity)
        return found

    async def _is_gone(self, scope: KeyScope, found: OpenClaim) -> bool:
        """Whether the work of an open claim has ended without an answer, as far as can be known."""
        claim = scope, found.token
        if found.claimant == self._context.gateway_id:
            # Not running, and not released: the store could not be written when its work failed.
            return claim not in self._running
        pulse = await self._context.db.read(gateway_pulse, found.claimant)
        now = self._context.runtime.clock.moment()
        if (
            pulse is not None
            and pulse["clock_id"] == now.clock_id
            and now.elapsed - pulse["elapsed"] >= STILL_S * 1e6
        ):
            # By the clock that both go by: also where no process has run for so long.
            return True
        if pulse is None or pulse["stopped_at"] is not None:
            counter = None
        else:
            counter = int(pulse["counter"])
        return self._watch.still_s(claim, counter) >= STILL_S

    async def _answer_of_another(self, claim: Claim) -> Answer:
        """Return what the gateway answered that took the claim over. Refused: it still works."""
        found = await self._context.db.read(find, self._context, claim.keyed)
        if not isinstance(found, Answer):
            raise _in_progress()
        return found

    async def _release(self, claim: Claim) -> _Release:
        """Free the key, unless it was answered or taken over."""
        try:
            freed = await self._context.db.run(rows.release_key, *claim.identity)
        except Exception as error:  # noqa: BLE001 - the error of the work itself is the one to report
            # The next request with this key at this gateway takes the claim over.
            _log.error("claim_not_released", route=claim.keyed.scope.route, exc_info=error)
            return _Release.FAILED
        return _Release.FREED if freed else _Release.LOST


async def find(tx: Tx, context: ApiContext, keyed: KeyedRequest) -> Answer | OpenClaim:
    """Store function: return the answer of a key, or its open claim.

    Refused: `idempotency_key_reused`; `idempotency_in_progress` where it was released just now.
    """
    row = await rows.find_key(tx, keyed.scope)
    if row is None:
        raise _in_progress()
    if row["fingerprint"] != keyed.fingerprint:
        raise Refused("idempotency_key_reused", "This Idempotency-Key was used with another body.")
    if row["answer"] is None:
        return OpenClaim(row["token"], row["claimant"], row["created_id"])
    return Answer.unpack(context.vault.open(row["answer"], bound_to=keyed.scope.name))


def _keys_of(request: Request) -> Keys:
    keys: Keys = request.app.state.keys
    return keys


async def _change(context: ApiContext, work: Callable[[Tx], Awaitable[T]]) -> T:
    context.runtime.failpoint(Failpoint.ACCEPT_BEGUN)
    done = await context.db.run(work)
    context.runtime.failpoint(Failpoint.ACCEPT_COMMITTED)
    return done


def _in_progress() -> Refused:
    return Refused(
        "idempotency_in_progress",
        "The first request with this key is still in progress.",
        headers={"Retry-After": "1"},
    )


def _refusal(context: ApiContext, refused: Refused, request_id: str) -> Answer:
    body = problem_body(
        refused.code,
        refused.detail,
        public_url=context.settings.public_url,
        request_id=request_id,
        errors=refused.errors,
        members=refused.members,
        retryable=refused.retryable,
    )
    return Answer(PROBLEMS[refused.code].status, body, media_type=JSON_TYPE)
