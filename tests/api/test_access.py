"""What a key may do: each route declares its scope, and is refused without it, in one place."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.access import Guarded, needs_operator
from gateway.api.admission import Admission
from gateway.api.application import ROUTES, GuardedRoute
from gateway.api.openapi import document
from gateway.errors import Refused
from gateway.keys import USUAL, KeyTerms, Scope, list_keys, mint_key, rotate_key
from tests.api.conftest import Api

#: For everybody, or for a sender that can sign as the custodian.
PUBLIC = {
    ("POST", "/custodians/{name}/webhooks"),
    *(("GET", path) for path in ("/.well-known/webhook-keys.json", "/track/{token}")),
    *(("GET", path) for path in ("/track/{token}/stream", "/assets/{name}")),
    *(("GET", path) for path in ("/healthz", "/readyz", "/metrics", "/openapi.json")),
    *(("GET", path) for path in ("/docs", "/docs/problems", "/docs/style.css")),
    *(("GET", path) for path in ("/docs/{section}", "/guide", "/guide/{path:path}")),
}


def guards() -> list[tuple[str, str, Guarded]]:
    """Return every method of every route, with who may call it."""
    found = []
    for route in ROUTES:
        assert isinstance(route, GuardedRoute), route.path
        methods = (route.methods or set()) - {"HEAD"}
        assert set(route.guards) == methods, route.path
        found += [(method, route.path, route.guards[method]) for method in sorted(methods)]
    return found


GUARDED = [each for each in guards() if each[2].scope is not None]


async def mint(api: Api, *scopes: Scope, org: str | None = "acme", **terms: Any) -> str:
    """Return the header of a new key."""
    wanted = KeyTerms(scopes=scopes, **terms)
    minted = await api.context.db.run(mint_key, api.context.runtime, org, "live", wanted)
    return f"Bearer {minted.key}"


def sample(path: str) -> str:
    """Return a path with something in the place of each parameter."""
    return re.sub(r"\{(\w+)\}", "none", path)


def test_every_route_declares_who_may_call_it() -> None:
    """Those that need no key are listed here; a new route cannot be open by mistake."""
    assert {(method, path) for method, path, guard in guards() if guard.scope is None} == PUBLIC
    assert {guard.scope for _, _, guard in GUARDED} == set(USUAL)
    assert not any(guard.operator for _, _, guard in GUARDED)


def _name(each: object) -> str:
    """Name a case; an address in memory would differ between the processes of a test run."""
    return each.scope.value if isinstance(each, Guarded) and each.scope else str(each)


@pytest.mark.parametrize(("method", "path", "guard"), GUARDED, ids=_name)
def test_the_document_names_the_scope(method: str, path: str, guard: Guarded) -> None:
    """As the route declares it."""
    call = document("https://pay.example")["paths"][path][method.lower()]
    assert guard.scope is not None
    assert call["security"][0] == {"apiKey": [guard.scope.value]}
    operators = [] if guard.operator_scope is None else [{"apiKey": [guard.operator_scope.value]}]
    assert [each for each in call["security"][1:] if each] == operators
    assert "insufficient_scope" in call["responses"]["403"]["description"]


async def test_a_key_without_the_scope_is_refused_everywhere(api: Api) -> None:
    """403 naming the scope, before anything else of the request is looked at; with it, never 403."""
    for scope in USUAL:
        others = [each for each in Scope if each not in {scope, Scope.PAYOUTS_OPERATE}]
        without = await mint(api, *others)
        only = await mint(api, scope)
        for method, path, guard in GUARDED:
            body: Any = {} if method in {"POST", "PATCH"} else None
            wrong, right = (without, only) if guard.scope is scope else (only, without)
            problem = await api.problem(method, sample(path), body=body, authorization=wrong)
            assert (problem["status"], problem["code"]) == (403, "insufficient_scope"), path
            assert problem["scope"] == guard.scope
            assert str(guard.scope) in problem["detail"]
            answer, _ = await api.send(method, sample(path), body=body, authorization=right)
            assert answer.status not in {401, 403}, path


async def test_a_scope_is_checked_before_a_key_is_bound_or_a_quote_used(api: Api) -> None:
    """The refused call leaves nothing: the same idempotency key and quote work with the right key."""
    quote = await api.quote()
    reader = await mint(api, Scope.PAYOUTS_READ)
    body = {"quote_id": quote["quote_id"]}
    refused, _ = await api.send(
        "POST", "/payouts", body=body, authorization=reader, idempotency_key="k-1"
    )
    assert refused.status == 403
    assert (await api.call("POST", "/payouts", body=body, idempotency_key="k-1"))[0] == 201


async def test_a_confirm_needs_no_scope_of_a_browser_and_one_of_a_key(api: Api) -> None:
    """A client secret serves instead of a key; a key is not helped by one."""
    payout = await api.pay()
    path = f"/payouts/{payout['id']}/confirm"
    body = {"client_secret": "pcs_wrong"}
    assert (await api.problem("POST", path, body=body, authorization=None))["status"] == 404
    reader = await mint(api, Scope.PAYOUTS_READ)
    problem = await api.problem("POST", path, body=body, authorization=reader)
    assert problem["code"] == "insufficient_scope"
    problem = await api.problem("POST", path, body=body, authorization="Bearer pcs_wrong")
    assert problem["code"] == "invalid_api_key"


async def test_a_key_ends(api: Api) -> None:
    """At its time, and says so."""
    key = await mint(api, Scope.PAYOUTS_READ, life=timedelta(days=1))
    await api.clock.advance(86_399)
    assert (await api.send("GET", "/payouts", authorization=key))[0].status == 200
    await api.clock.advance(1)
    problem = await api.problem("GET", "/payouts", authorization=key)
    assert (problem["status"], problem["code"]) == (401, "api_key_expired")


@pytest.mark.parametrize(
    ("networks", "allowed"),
    [
        (("127.0.0.0/8",), True),
        (("203.0.113.0/24", "127.0.0.1"), True),
        (("203.0.113.0/24",), False),
        (("::/0",), False),
        (("0.0.0.0/0",), True),
    ],
)
async def test_a_key_is_bound_to_networks(
    api: Api, networks: tuple[str, ...], allowed: bool
) -> None:
    """By the address of the client."""
    key = await mint(api, Scope.PAYOUTS_READ, networks=networks)
    if allowed:
        assert (await api.send("GET", "/payouts", authorization=key))[0].status == 200
    else:
        problem = await api.problem("GET", "/payouts", authorization=key)
        assert (problem["status"], problem["code"]) == (403, "client_network_not_allowed")
        assert "127.0.0.1" in problem["detail"]


async def test_a_key_of_the_operator_belongs_to_no_org(api: Api) -> None:
    """It reads and starts nothing of an org, whatever its scopes."""
    await api.pay()
    theirs = [each for each in Scope if each not in USUAL]
    key = await mint(api, *theirs, org=None)
    without = await mint(api, *(each for each in theirs if each != Scope.PAYOUTS_OPERATE), org=None)
    for method, path, guard in GUARDED:
        body: Any = {} if method in {"POST", "PATCH"} else None
        if guard.operator_scope is not None:
            # What an org does for itself, the operator does for everybody, with another scope.
            assert guard.operator_scope == Scope.PAYOUTS_OPERATE
            answer, _ = await api.send(method, sample(path), body=body, authorization=key)
            assert answer.status not in {401, 403}, path
            problem = await api.problem(method, sample(path), body=body, authorization=without)
            assert (problem["code"], problem["scope"]) == ("insufficient_scope", "payouts:operate")
            continue
        problem = await api.problem(method, sample(path), body=body, authorization=key)
        assert (problem["status"], problem["code"]) == (403, "org_key_required"), path


async def test_a_route_of_the_operator_takes_no_key_of_an_org(api: Api) -> None:
    """Not with every scope there is; and a key of the operator needs the scope, too."""
    callers = []

    async def act(request: Request) -> Response:
        callers.append(request.state.caller)
        return Response()

    guard = needs_operator(Scope.PAYOUTS_OPERATE, act)

    async def ask(header: str) -> str:
        class App:
            class state:  # noqa: N801
                context, uses = api.context, _Uses()
                admission = Admission(
                    context.settings.limits, context.runtime.clock, context.metrics
                )

        scope = {
            "type": "http",
            "app": App,
            "method": "POST",
            "path": "/admin",
            "route": Route("/admin", act),
            "headers": [(b"authorization", header.encode())],
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        try:
            await guard(Request(scope))
        except Refused as refused:
            return refused.code
        return "done"

    ours = [each for each in Scope if each is not Scope.PAYOUTS_OPERATE]
    assert await ask(await mint(api, *ours)) == "operator_key_required"
    limited = await mint(api, Scope.KEYS_WRITE, org=None)
    assert await ask(limited) == "insufficient_scope"
    assert await ask(await mint(api, Scope.PAYOUTS_OPERATE, org=None)) == "done"
    assert [(each.org, each.operator) for each in callers] == [("", True)]


class _Uses:
    def note(self, _: object) -> None:
        """Write nothing."""


async def test_the_last_use_is_written_at_most_once_a_minute(api: Api) -> None:
    """And never in the way of the request."""
    await api.key()
    key = await mint(api, Scope.PAYOUTS_READ, org="beta")

    def written() -> int | None:
        connection = sqlite3.connect(api.path)
        (found,) = connection.execute(
            "SELECT last_used_at FROM api_keys WHERE org = 'beta'"
        ).fetchone()
        connection.close()
        return None if found is None else int(found)

    async def use(times: int) -> int:
        """Use it so often; return how many commits that cost."""
        before = api.context.db.commits
        for _ in range(times):
            assert (await api.send("GET", "/payouts", authorization=key))[0].status == 200
        await asyncio.sleep(0.1)
        return api.context.db.commits - before

    assert written() is None
    assert await use(20) == 1
    first = written()
    assert first == api.clock.moment().wall
    await api.clock.advance(59)
    assert await use(20) == 0
    assert written() == first
    await api.clock.advance(1)
    assert await use(20) == 1
    assert written() == api.clock.moment().wall


async def test_twenty_at_once_write_one_use(api: Api) -> None:
    """While one is being written no other one is begun."""
    await api.key()
    key = await mint(api, Scope.PAYOUTS_READ)
    before = api.context.db.commits
    await asyncio.gather(*(api.send("GET", "/payouts", authorization=key) for _ in range(20)))
    await asyncio.sleep(0.1)
    assert api.context.db.commits - before == 1


async def test_a_rotated_key_has_what_the_old_one_has(api: Api) -> None:
    """Scopes, networks, name, owner, and the same lifetime, counted from now."""
    terms = KeyTerms(
        scopes=(Scope.EVENTS_READ,),
        name="reader",
        owner="ann",
        networks=("127.0.0.0/8",),
        life=timedelta(days=10),
    )
    runtime = api.context.runtime
    old = await api.context.db.run(mint_key, runtime, "acme", "live", terms)
    await api.clock.advance(86_400)
    new = await api.context.db.run(rotate_key, runtime, old.id, {}, actor="ann")
    assert new is not None
    assert new.terms == terms
    assert new.expires_at is not None
    assert old.expires_at is not None
    assert new.expires_at - old.expires_at == timedelta(days=1)
    assert (await api.send("GET", "/events", authorization=f"Bearer {new.key}"))[0].status == 200
    assert (await api.send("GET", "/events", authorization=f"Bearer {old.key}"))[0].status == 200
    narrowed = await api.context.db.run(
        rotate_key, runtime, new.id, {"scopes": (Scope.PAYOUTS_READ,), "life": None}, actor="ann"
    )
    assert narrowed is not None
    assert narrowed.expires_at is None
    problem = await api.problem("GET", "/events", authorization=f"Bearer {narrowed.key}")
    assert problem["scope"] == "events:read"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (KeyTerms(scopes=()), "needs a scope"),
        (KeyTerms(name="a\x1b[31m"), "printable"),
        (KeyTerms(owner=" "), "printable"),
        (KeyTerms(name="a" * 101), "1 to 100"),
        (KeyTerms(networks=("10.0.0.1/8",)), "is not a network"),
        (KeyTerms(networks=("nonsense",)), "is not a network"),
        (KeyTerms(life=timedelta(0)), "expire"),
    ],
)
async def test_terms_that_cannot_be(api: Api, terms: KeyTerms, words: str) -> None:
    """Refused in words, and nothing is minted."""
    with pytest.raises(ValueError, match=words):
        await api.context.db.run(mint_key, api.context.runtime, "acme", "live", terms)
    assert await api.context.db.scan(list_keys) == []
