"""Who may call a route: declared at the route, checked here and nowhere else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admission import GIVES_WAY
from gateway.api.context import ApiContext
from gateway.api.requests import authenticated, authorization_of, caller_of
from gateway.caller import Caller
from gateway.calling import Calling
from gateway.errors import Refused
from gateway.keys import USE_NOTED_US, Scope, note_use, refuse_without
from gateway.vault import CLIENT_PREFIX

#: How long a request of a key that has used up most of its rate waits for requests of other orgs, in s.
GIVES_WAY_S = 0.05
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Guarded:
    """A handler, and who may call it."""

    handler: Handler
    #: None: everybody
    scope: Scope | None
    #: a client secret serves instead of a key
    by_secret: bool = False
    #: only keys of the operator; else only keys of an org
    operator: bool = False
    #: a key of the operator may call as well, with this scope
    operator_scope: Scope | None = None

    async def __call__(self, request: Request) -> Response:
        """Admit the request, and handle it."""
        request.scope["state"]["access"] = self
        if self.scope is not None and not (self.by_secret and _has_no_key(request)):
            caller = await caller_of(request)
            if not caller.operator:
                calling: Calling = request.app.state.context.calling
                if request.scope["state"].get(GIVES_WAY):
                    await calling.quiet(caller.org, GIVES_WAY_S)
                with calling.request(caller.org):
                    return await self.handler(request)
        return await self.handler(request)

    async def admit(self, request: Request) -> Caller:
        """Return whose key was sent. Refused if it may not do this."""
        caller = await authenticated(request)
        if caller.operator and not self.operator and self.operator_scope is None:
            raise Refused("org_key_required", "This key belongs to no org.")
        if self.operator and not caller.operator:
            raise Refused("operator_key_required", "This key belongs to an org.")
        scope = self.scope
        if caller.operator and self.operator_scope is not None:
            scope = self.operator_scope
        if scope is not None:
            refuse_without(scope, caller)
        uses: Uses = request.app.state.uses
        uses.note(caller)
        return caller


def public(handler: Handler) -> Guarded:
    """Let everybody call."""
    return Guarded(handler, None)


def needs(scope: Scope, handler: Handler) -> Guarded:
    """Allow keys of an org with this scope."""
    return Guarded(handler, scope)


def needs_or_secret(scope: Scope, handler: Handler) -> Guarded:
    """Allow keys of an org with this scope, and anyone who has the payout's client secret.

    The handler checks the secret: it calls `caller_of` only if a key was sent.
    """
    return Guarded(handler, scope, by_secret=True)


def needs_operator(scope: Scope, handler: Handler) -> Guarded:
    """Let keys of the operator with this scope call."""
    return Guarded(handler, scope, operator=True)


def needs_either(scope: Scope, operator_scope: Scope, handler: Handler) -> Guarded:
    """Let keys of an org call with one scope, and keys of the operator with the other."""
    return Guarded(handler, scope, operator_scope=operator_scope)


class Uses:
    """Writes when keys were used, beside the requests: a request never waits for it."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._writing: dict[str, asyncio.Task[None]] = {}

    def note(self, caller: Caller) -> None:
        """Have the use written, unless one of the last minute is, or is being written."""
        now = self._context.runtime.clock.moment().wall
        fresh = caller.used_at is not None and now - caller.used_at < USE_NOTED_US
        if fresh or caller.key_id in self._writing:
            return
        self._writing[caller.key_id] = asyncio.create_task(self._write(caller.key_id, now))

    async def _write(self, key_id: str, at: int) -> None:
        try:
            # A full disk: it is written with a later request. A store that is closing takes no more.
            with suppress(sqlite3.Error, RuntimeError):
                await self._context.db.run(note_use, key_id, at)
        finally:
            del self._writing[key_id]


def _has_no_key(request: Request) -> bool:
    """Whether the request brings a client secret, as its bearer or in its body, and no key."""
    scheme, _, bearer = authorization_of(request).partition(" ")
    return not scheme or (scheme.lower() == "bearer" and bearer.strip().startswith(CLIENT_PREFIX))
