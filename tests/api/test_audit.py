"""What keys do is in the audit log: who, when, what, by which request; never a secret."""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Any

import pytest

from gateway import story
from gateway.execution.operator import Resolution, resolve
from gateway.execution.reports import unknown_report
from gateway.model import FundsMoved
from gateway.store import audit
from gateway.store.database import Tx
from tests.api.conftest import Api
from tests.api.test_batches import create, item

HOOK = "https://hooks.example/in?token=t0p-s3cret"
EVIDENCE = "console 10:15, ticket 4711, Jane Roe says: never executed"


async def rows(api: Api, org: str = "acme") -> list[dict[str, Any]]:
    """Return the chain of an org without what minted its keys; every row of it fits."""
    found = await api.context.db.scan(audit.chain_page, org, 0, 1000)
    head, wrong = audit.broken(found, audit.Head(org, 0, ""))
    assert (head.number, wrong) == (len(found), None)
    return [dict(row) for row in found if row["act"] != "key_created"]


async def key_id(api: Api) -> str:
    """Return the id of the key that the tests use."""
    await api.key()
    with sqlite3.connect(api.path) as connection:
        (found,) = connection.execute("SELECT id FROM api_keys WHERE org = 'acme'").fetchone()
    connection.close()
    return str(found)


async def endpoint(api: Api, **members: Any) -> dict[str, Any]:
    """Create an endpoint."""
    body = {"url": HOOK, "sensitive_headers": {"X-Token": "h1dden-value"}, **members}
    status, made = await api.call("POST", "/webhook-endpoints", body=body)
    assert status == 201, made
    return dict(made)


async def test_the_life_of_an_endpoint(api: Api) -> None:
    """Created, changed, rotated, revoked, deleted: a row each, with the key and the request."""
    made = await endpoint(api)
    path = f"/webhook-endpoints/{made['id']}"
    requests = []
    for method, where, body in (
        ("PATCH", path, {"status": "disabled"}),
        ("POST", f"{path}/rotate-secret", {"overlap_seconds": 60}),
        ("DELETE", f"{path}/previous-secrets", None),
        ("DELETE", path, None),
    ):
        answer, _ = await api.send(method, where, body=body)
        assert answer.status < 300
        requests.append(answer.headers["request-id"])
    found = await rows(api)
    assert [row["act"] for row in found] == [
        "endpoint_created",
        "endpoint_changed",
        "endpoint_secret_rotated",
        "endpoint_secrets_revoked",
        "endpoint_deleted",
    ]
    assert {row["subject"] for row in found} == {made["id"]}
    assert {row["actor"] for row in found} == {await key_id(api)}
    assert [row["request_id"] for row in found][1:] == requests
    assert json.loads(found[1]["before"])["status"] == "enabled"
    assert json.loads(found[1]["after"])["status"] == "disabled"
    assert found[0]["before"] is None
    assert found[4]["after"] is None


async def test_no_secret_is_in_the_log(api: Api) -> None:
    """Neither the signing secret, nor a header's value, nor the query of a URL, nor a key."""
    made = await endpoint(api, headers={"X-Plain": "pl4in-value"})
    answer, raw = await api.send("POST", f"/webhook-endpoints/{made['id']}/rotate-secret", body={})
    assert answer.status == 200
    text = json.dumps(await rows(api), ensure_ascii=False)
    for secret in (
        *(made["secret"], json.loads(raw)["secret"], await api.key()),
        *("h1dden-value", "pl4in-value", "t0p-s3cret"),
    ):
        assert secret not in text
    assert "https://hooks.example/in?…" in text


async def test_a_refused_act_leaves_no_row(api: Api) -> None:
    """Nor does a repeat under the same idempotency key."""
    made = await create(api, item(1))
    path = f"/payout-batches/{made['id']}"
    for _ in range(3):
        status, _ = await api.call("POST", f"{path}/execute", idempotency_key="once")
        assert status == 202
    assert (await api.problem("POST", f"{path}/execute"))["code"] == "batch_already_executed"
    assert (await api.problem("DELETE", "/webhook-endpoints/whe_x"))["status"] == 404
    (row,) = await rows(api)
    assert (row["act"], row["subject"]) == ("batch_executed", made["id"])
    assert json.loads(row["after"])["item_count"] == 1


async def test_the_row_and_the_act_are_one_transaction(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the row cannot be written, nothing was done."""
    made = await endpoint(api)
    path = f"/webhook-endpoints/{made['id']}"
    before = await rows(api)

    async def fails(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("disk full")

    for module in ("endpoints", "batches", "actions"):
        monkeypatch.setattr(f"gateway.api.{module}.note_act", fails)
    payout, batch = await api.pay(), await create(api, item(2))
    for method, where, body in (
        ("PATCH", path, {"status": "disabled"}),
        ("POST", f"{path}/rotate-secret", {}),
        ("DELETE", path, None),
        ("POST", "/webhook-endpoints", {"url": HOOK}),
        ("POST", f"/payout-batches/{batch['id']}/execute", None),
        ("POST", f"/payout-batches/{batch['id']}/cancel", None),
        ("POST", f"/payouts/{payout['id']}/cancel", None),
    ):
        answer, _ = await api.send(method, where, body=body, idempotency_key=secrets.token_hex(8))
        assert answer.status == 503, where
    monkeypatch.undo()
    assert await rows(api) == before
    _, page = await api.call("GET", "/webhook-endpoints")
    assert [(each["id"], each["status"]) for each in page["data"]] == [(made["id"], "enabled")]
    assert (await api.call("GET", f"/payouts/{payout['id']}"))[1]["status"] == "pending"
    assert (await api.call("GET", f"/payout-batches/{batch['id']}"))[1]["executed_at"] is None


async def test_a_cancel_says_who(api: Api) -> None:
    """In the transaction that ends the payout."""
    payout = await api.pay()
    answer, _ = await api.send("POST", f"/payouts/{payout['id']}/cancel")
    assert answer.status == 202
    (row,) = await rows(api)
    assert (row["actor"], row["act"], row["subject"], row["request_id"]) == (
        await key_id(api),
        "payout_canceled",
        payout["id"],
        answer.headers["request-id"],
    )
    assert json.loads(row["before"])["status"] == "pending"


async def test_each_org_has_its_own_chain(api: Api) -> None:
    """Acts of one org are no part of the other's, and change nothing in it."""
    payouts = {org: await api.pay(org=org) for org in ("acme", "beta")}
    for org, payout in payouts.items():
        await api.send("POST", f"/payouts/{payout['id']}/cancel", org=org)
    for org, payout in payouts.items():
        assert [row["subject"] for row in await rows(api, org)] == [payout["id"]]
    assert await api.context.db.scan(audit.chains) == ["acme", "beta"]


@pytest.mark.parametrize("delivered", [True, False])
async def test_evidence_stays_with_the_operator(api: Api, delivered: bool) -> None:
    """No answer, event, report or page shows it; the audit log has it, with who gave it."""
    await endpoint(api)
    payout = await api.pay()
    transfer = "t-1" if delivered else None
    found = Resolution(delivered, EVIDENCE, FundsMoved.NO, transfer)
    context = api.context
    await context.db.run(
        resolve, api.engine.recorder, context.runtime, payout["id"], found, by="ann"
    )
    _, told = await api.call("GET", f"/payouts/{payout['id']}")
    assert told["status"] == ("delivered" if delivered else "failed")
    assert told["timeline"][-1]["detail"] == "resolved by an operator"
    paths = [
        f"/payouts/{payout['id']}",
        *("/payouts", "/events", f"/events?payout_id={payout['id']}", "/attention?state=all"),
        told["tracking_url"].removeprefix("https://pay.example/base"),
    ]
    _, feed = await api.call("GET", "/events")
    paths += [f"/events/{each['id']}" for each in feed["data"]]
    assert len(feed["data"]) >= 2
    for path in paths:
        answer, raw = await api.send("GET", path)
        assert answer.status == 200, path
        assert b"4711" not in raw, path
        assert b"Jane" not in raw, path
    (_, row) = await rows(api)
    assert (row["actor"], row["act"], row["detail"]) == ("ann", "payout_resolved", EVIDENCE)
    assert json.loads(row["after"])["as"] == ("delivered" if delivered else "failed")


async def test_evidence_of_an_earlier_release_is_not_shown_either(api: Api) -> None:
    """It is stored in the payout's row, which stays as it is."""
    payout = await api.pay()

    async def nothing(_: Tx) -> None:
        """Let the gateway see the change below."""

    with sqlite3.connect(api.path) as connection:
        old = f"resolved by an operator: {EVIDENCE}"
        failure = {"code": "operator_decision", "message": old, "funds_moved": "no"}
        connection.execute(
            "UPDATE payouts SET status = 'failed', sub_status = 'failed', failure = ?, "
            "document = json_set(document, '$.timeline[#-1].detail', ?)",
            (json.dumps(failure), old),
        )
    connection.close()
    await api.context.db.run(nothing)
    answer, raw = await api.send("GET", f"/payouts/{payout['id']}")
    told = json.loads(raw)
    assert answer.status == 200
    assert b"4711" not in raw
    assert told["failure"]["message"] == "resolved by an operator"
    assert b"4711" not in (await api.send("GET", "/payouts"))[1]


async def test_the_reason_of_an_unknown_outcome_is_the_operators(api: Api) -> None:
    """It is an adapter's or a custodian's error message; events, answers and pages leave it out."""
    payout = await api.pay()
    reason = "OutcomeUnknown: HTTP 500 from 10.0.0.7 about Jane"
    payouts = api.engine.recorder._payouts

    async def apply(tx: Tx) -> None:
        await payouts.apply(tx, payout["id"], unknown_report(reason))

    await api.context.db.run(apply)
    for path in (f"/payouts/{payout['id']}", "/payouts", "/events"):
        answer, raw = await api.send("GET", path)
        assert answer.status == 200
        assert b"Jane" not in raw, path
    _, told = await api.call("GET", f"/payouts/{payout['id']}")
    assert told["timeline"][-1]["detail"] == "outcome unknown; the gateway asks the custodian"
    whole = await api.context.db.read(story.tell, payout["id"])
    assert reason in json.dumps(whole, default=str)
