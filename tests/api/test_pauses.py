"""Pausing over HTTP: who may stop what, what is refused meanwhile, and what is shown of it."""

from __future__ import annotations

import json
import secrets
from typing import Any

from gateway.keys import KeyTerms, Scope, mint_key
from gateway.store.audit import newest_acts
from tests.api.conftest import WALLET, Api
from tests.api.test_batches import SOURCE, create, item

REASON = {"reason": "something odd"}


async def operator(api: Api, *, mode: Any = "live") -> str:
    """Return the header of a key of the operator."""
    terms = KeyTerms(scopes=(Scope.PAYOUTS_OPERATE,))
    minted = await api.context.db.run(mint_key, api.context.runtime, None, mode, terms)
    return f"Bearer {minted.key}"


async def stop(api: Api, authorization: str | None = None, **body: Any) -> dict[str, Any]:
    """Pause."""
    headers = {} if authorization is None else {"authorization": authorization}
    status, made = await api.call("POST", "/pauses", body={**REASON, **body}, **headers)
    assert status == 201, made
    return dict(made)


async def quote(api: Api, **options: Any) -> tuple[int, Any]:
    """Ask for a quote."""
    body = {"external_ref": "u-1", "destination": WALLET, "asset": "USDC", "amount": "43"}
    key = secrets.token_hex(8)
    return await api.call("POST", "/payouts/quote", body=body, idempotency_key=key, **options)


async def test_the_emergency_stop(api: Api) -> None:
    """New quotes are refused with `paused`, nobody else can resume, and it is all in the log."""
    by = await operator(api)
    made = await stop(api, by, scope="all")
    assert (made["scope"], made["by"], made["mode"], made["reason"]) == (
        "all",
        "operator",
        None,
        "something odd",
    )
    status, problem = await quote(api)
    assert (status, problem["code"], problem["retryable"]) == (409, "paused", True)
    assert "odd" not in json.dumps(problem)
    assert (await quote(api, mode="test"))[0] == 409
    path = f"/pauses/{made['id']}/resume"
    assert (await api.problem("POST", path, body=REASON))["code"] == "pause_not_found"
    status, left = await api.call("POST", path, body=REASON, authorization=by)
    assert (status, left["data"]) == (200, [])
    assert (await quote(api))[0] == 200
    assert api.woken[-1] == "acme_eu"
    log = await api.context.db.read(newest_acts, 9)
    acts = [(row["act"], row["subject"]) for row in log if row["act"] != "key_created"]
    assert acts == [("resumed", "all payouts"), ("paused", "all payouts")]
    assert (await api.problem("POST", path, body=REASON, authorization=by))["status"] == 404


async def test_what_is_accepted_meanwhile_waits(api: Api) -> None:
    """With `keep_accepting`; the payout stays pending and is counted with its time."""
    by = await operator(api)
    await stop(api, by, scope="custodian", custodian="acme_eu", keep_accepting=True)
    payout = await api.pay()
    assert payout["status"] == "pending"
    made = await stop(api, by, scope="custodian", custodian="acme_eu", keep_accepting=True)
    assert made["waiting"]["payouts"] == 1
    assert made["waiting"]["first_expiry"] == made["waiting"]["last_expiry"] is not None


async def test_the_widest_pause_is_named(api: Api) -> None:
    """Not the oldest one: an org that has paused itself hears so, whatever the operator paused before."""
    await stop(api, await operator(api), scope="custodian", custodian="acme_eu")
    assert (await quote(api))[1]["detail"].startswith("Paused by the operator: custodian acme_eu.")
    await stop(api)
    assert (await quote(api))[1]["detail"].startswith("Paused by your org: org acme.")


async def test_an_org_pauses_itself_and_nobody_else(api: Api) -> None:
    """In the mode of its key; the other org, the other mode and the operator are not touched."""
    made = await stop(api)
    assert (made["scope"], made["org"], made["mode"], made["by"]) == ("org", "acme", "live", "org")
    assert (await quote(api))[1]["code"] == "paused"
    assert (await quote(api, mode="test"))[0] == 200
    assert (await quote(api, org="other"))[0] == 200
    for body in (
        {"scope": "all"},
        {"scope": "org", "org": "other"},
        {"scope": "custodian", "custodian": "acme_eu"},
        {"scope": "asset", "asset": "USDC"},
    ):
        problem = await api.problem("POST", "/pauses", body={**REASON, **body})
        assert (problem["status"], problem["code"]) == (403, "operator_key_required")
    path = f"/pauses/{made['id']}/resume"
    assert (await api.problem("POST", path, body=REASON, org="other"))["status"] == 404
    assert (await api.problem("POST", path, body=REASON, mode="test"))["status"] == 404
    by = await operator(api)
    assert (await api.problem("POST", path, body=REASON, authorization=by))["status"] == 404
    assert (await api.call("POST", path, body=REASON))[0] == 200
    assert (await quote(api))[0] == 200


async def test_an_org_does_not_end_the_operators_pause(api: Api) -> None:
    """It sees that it is paused, and not why."""
    by = await operator(api)
    made = await stop(api, by, scope="org", org="acme")
    path = f"/pauses/{made['id']}/resume"
    assert (await api.problem("POST", path, body=REASON))["status"] == 404
    own = await stop(api)
    assert (await api.call("POST", f"/pauses/{own['id']}/resume", body=REASON))[0] == 200
    status, found = await api.call("GET", "/pauses")
    assert (status, [(each["id"], each["reason"]) for each in found["data"]]) == (
        200,
        [(made["id"], None)],
    )
    assert (await quote(api))[1]["code"] == "paused"
    assert (await api.call("GET", "/pauses", org="other"))[1]["data"] == []


async def test_a_test_key_of_the_operator_stops_test_mode(api: Api) -> None:
    """And ends no pause of live payouts."""
    live, test = await operator(api), await operator(api, mode="test")
    wide = await stop(api, live, scope="all")
    path = f"/pauses/{wide['id']}/resume"
    assert (await api.problem("POST", path, body=REASON, authorization=test))["status"] == 404
    assert (await api.call("POST", path, body=REASON, authorization=live))[0] == 200
    narrow = await stop(api, test, scope="all")
    assert narrow["mode"] == "test"
    assert (await quote(api))[0] == 200
    assert (await quote(api, mode="test"))[0] == 409


async def test_what_cannot_be_paused_is_named(api: Api) -> None:
    """A misspelt name would stop nothing: it is refused."""
    by = await operator(api)
    for body, pointer in (
        ({"scope": "custodian", "custodian": "acme"}, "/custodian"),
        ({"scope": "custodian"}, "/custodian"),
        ({"scope": "asset", "asset": "USCD"}, "/asset"),
        ({"scope": "org"}, "/org"),
        ({"scope": "org", "org": "a b"}, "/org"),
        ({"scope": "all", "asset": "USDC"}, "/asset"),
        (
            {"scope": "account", "custodian": "acme_eu", "account": {"id": "A9", "type": "VAULT"}},
            "/account",
        ),
    ):
        problem = await api.problem("POST", "/pauses", body={**REASON, **body}, authorization=by)
        assert problem["code"] == "invalid_request"
        assert [each["pointer"] for each in problem["errors"]] == [pointer], body


async def test_batches_are_refused_while_paused(api: Api) -> None:
    """New ones and the execution of one that was made before; nothing of it is lost."""
    made = await create(api, item(1), item(2))
    by = await operator(api)
    pause = await stop(api, by, scope="asset", asset="USDC")
    body = {"source": SOURCE, "payouts": [item(3)]}
    key = secrets.token_hex(8)
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key=key)
    assert problem["code"] == "paused"
    wide = await stop(api, by, scope="custodian", custodian="acme_eu")
    problem = await api.problem("POST", f"/payout-batches/{made['id']}/execute")
    assert problem["code"] == "paused"
    for each in (pause, wide):
        await api.call("POST", f"/pauses/{each['id']}/resume", body=REASON, authorization=by)
    assert (await api.call("POST", f"/payout-batches/{made['id']}/execute"))[0] == 202
    # The key was not used up by the refusal.
    assert (await api.call("POST", "/payout-batches", body=body, idempotency_key=key))[0] == 201


async def test_what_is_paused_is_shown_at_the_custodian(api: Api) -> None:
    """As far as it concerns the org that asks."""
    by = await operator(api)

    async def shown(org: str = "acme") -> tuple[Any, Any, Any]:
        (one,) = (await api.call("GET", "/custodians", org=org))[1]["data"]
        return one["paused"], one["paused_accounts"], one["paused_assets"]

    assert await shown() == (False, [], [])
    account = {"id": "A1", "type": "VAULT"}
    await stop(api, by, scope="account", custodian="acme_eu", account=account)
    await stop(api, by, scope="asset", asset="usdc")  # in any case of letters
    await stop(api, by, scope="org", org="acme")
    assert await shown() == (True, [account], ["USDC"])
    assert (await shown("other"))[0] is False
