"""Idempotency keys: claimed by a row, answered once, taken over from a claimant that is gone.

A row without an answer is an open claim. Its claimant writes only while the row still has
its token; each function that writes says whether it did.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import and_, bindparam, delete, select, update

from gateway.store.database import Query, Row, Tx, upsert
from gateway.store.schema import idempotency

_SCOPE = and_(
    idempotency.c.org == bindparam("in_org"),
    idempotency.c.mode == bindparam("in_mode"),
    idempotency.c.route == bindparam("in_route"),
    idempotency.c.key == bindparam("in_key"),
)
_OPEN = and_(
    _SCOPE,
    idempotency.c.token == bindparam("held_token"),
    idempotency.c.answer.is_(None),
)
_FIND = Query(select(idempotency).where(_SCOPE))
_INSERT = upsert(idempotency)
_PARTS = ("org", "mode", "route", "key")
#: Claims a key that is new, or whose answer has expired; an open claim has no `expires_at`.
_CLAIM = Query(
    _INSERT.on_conflict_do_update(
        index_elements=_PARTS,
        set_={
            each.name: _INSERT.excluded[each.name]
            for each in idempotency.c
            if each.name not in _PARTS
        },
        where=idempotency.c.expires_at <= bindparam("now"),
    ).returning(idempotency.c.token)
)
_TAKE_OVER = Query(
    update(idempotency)
    .where(_OPEN)
    .values(token=idempotency.c.token + 1, claimant=bindparam("by"))
    .returning(idempotency.c.token)
)
#: Changes nothing, but locks the row against a takeover until the transaction ends.
_HOLD = Query(
    update(idempotency)
    .where(_OPEN)
    .values(token=idempotency.c.token)
    .returning(idempotency.c.token)
)
_NAME = Query(
    update(idempotency)
    .where(_OPEN)
    .values(created_id=bindparam("new_id"))
    .returning(idempotency.c.token)
)
_ANSWER = Query(
    update(idempotency)
    .where(_OPEN)
    .values(
        answer=bindparam("sealed"),
        created_id=bindparam("new_id"),
        expires_at=bindparam("until"),
    )
    .returning(idempotency.c.token)
)
_RELEASE = Query(delete(idempotency).where(_OPEN).returning(idempotency.c.token))
_PURGE = Query(
    delete(idempotency)
    .where(
        idempotency.c.expires_at.in_(
            select(idempotency.c.expires_at)
            .where(idempotency.c.expires_at <= bindparam("now"))
            .limit(bindparam("limit"))
        )
    )
    .returning(idempotency.c.key)
)


@dataclass(frozen=True)
class KeyScope:
    """What identifies a key: the same text is another key in another org, mode or route."""

    org: str
    mode: str
    route: str
    key: str

    @property
    def name(self) -> str:
        """The scope in one text; the answer is sealed under it."""
        return f"{self.org}|{self.mode}|{self.route}|{self.key}"


def _where(scope: KeyScope) -> dict[str, str]:
    return {
        "in_org": scope.org,
        "in_mode": scope.mode,
        "in_route": scope.route,
        "in_key": scope.key,
    }


async def find_key(tx: Tx, scope: KeyScope) -> Row | None:
    """Return the row of a key, answered or not, expired or not."""
    return await tx.one(_FIND, **_where(scope))


async def claim_key(  # noqa: PLR0913 - the columns of a claim
    tx: Tx,
    scope: KeyScope,
    *,
    fingerprint: str,
    token: int,
    claimant: str,
    now: int,
    answer: bytes | None = None,
    created_id: str | None = None,
    expires_at: int | None = None,
) -> bool:
    """Claim a key that is new or whose answer has expired at `now`; return whether it was.

    `answer` (with `created_id`, `expires_at`): claimed and answered at once.
    """
    row = await tx.one(
        _CLAIM,
        org=scope.org,
        mode=scope.mode,
        route=scope.route,
        key=scope.key,
        fingerprint=fingerprint,
        token=token,
        claimant=claimant,
        created_id=created_id,
        answer=answer,
        expires_at=expires_at,
        now=now,
    )
    return row is not None


async def take_over_key(tx: Tx, scope: KeyScope, token: int, claimant: str) -> bool:
    """Make an open claim `claimant`'s and raise its token by one, if the token is still this one."""
    row = await tx.one(_TAKE_OVER, **_where(scope), held_token=token, by=claimant)
    return row is not None


async def hold_key(tx: Tx, scope: KeyScope, token: int) -> bool:
    """Return whether a claim is open under this token; if so, it stays until the transaction ends."""
    return await tx.one(_HOLD, **_where(scope), held_token=token) is not None


async def name_created(tx: Tx, scope: KeyScope, token: int, created_id: str) -> bool:
    """Note the id of what an open claim is creating; return whether the token was still this one."""
    row = await tx.one(_NAME, **_where(scope), held_token=token, new_id=created_id)
    return row is not None


async def answer_key(  # noqa: PLR0913 - the columns of an answer
    tx: Tx,
    scope: KeyScope,
    token: int,
    *,
    answer: bytes,
    created_id: str | None,
    expires_at: int,
) -> bool:
    """Answer an open claim; return whether the token was still this one."""
    row = await tx.one(
        _ANSWER,
        **_where(scope),
        held_token=token,
        sealed=answer,
        new_id=created_id,
        until=expires_at,
    )
    return row is not None


async def release_key(tx: Tx, scope: KeyScope, token: int) -> bool:
    """Delete an open claim; return whether the token was still this one. May be called twice."""
    return await tx.one(_RELEASE, **_where(scope), held_token=token) is not None


async def purge_answers(tx: Tx, now: int, limit: int) -> int:
    """Delete expired answers, a bounded number; return how many went. Open claims stay."""
    return len(await tx.all(_PURGE, now=now, limit=limit))
