"""A frozen database, and one that does not accept yet: what is answered, and what goes on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from gateway.store import payouts, state
from gateway.store.database import Tx
from tests.api.conftest import WALLET, Api

QUOTE = {"external_ref": "u", "destination": WALLET, "asset": "USDC", "amount": "43"}
BATCH = {
    "source": {"custodian": "acme_eu", "account": {"id": "A1", "type": "VAULT"}},
    "payouts": [
        {
            "external_ref": "u",
            "reference": "r-1",
            "destination": WALLET,
            "asset": "USDC",
            "amount": "1",
        }
    ],
}


async def freeze(api: Api) -> None:
    """Freeze the database."""
    await api.context.db.run(state.freeze, api.context.runtime.ids, 0, "it is a copy")


async def thaw(api: Api, *, accepting: bool = True) -> None:
    """Let marks be set again; perhaps not yet new payouts."""

    async def change(tx: Tx) -> None:
        await state.unfreeze(tx)
        await state.set_accepting(tx, accepting=accepting)

    await api.context.db.run(change)


async def batch(api: Api) -> str:
    """Create a batch; return its id."""
    status, made = await api.call("POST", "/payout-batches", body=BATCH, idempotency_key="batch-0")
    assert status == 201, made
    return str(made["id"])


async def test_nothing_new_while_frozen(api: Api) -> None:
    """Quotes, payouts, batches, and whatever ends a payout: 503, nothing written, to be repeated."""
    quote, payout, batch_id = await api.quote(), await api.pay(), await batch(api)
    await freeze(api)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/payouts/quote", {"body": QUOTE, "idempotency_key": "k-1"}),
        ("/payouts", {"body": {"quote_id": quote["quote_id"]}}),
        (f"/payouts/{payout['id']}/cancel", {}),
        ("/payout-batches", {"body": BATCH, "idempotency_key": "k-2"}),
        (f"/payout-batches/{batch_id}/execute", {}),
        (f"/payout-batches/{batch_id}/cancel", {}),
    ]
    before = _rows(api)
    for path, options in calls:
        problem = await api.problem("POST", path, **options)
        assert (problem["code"], problem["status"]) == ("database_frozen", 503), path
        assert problem["retryable"] is True
        assert "copy" not in str(problem)
    assert _rows(api) == before


async def test_reads_and_webhooks_go_on(api: Api) -> None:
    """A frozen database is read, and keeps what custodians tell."""
    payout, batch_id = await api.pay(), await batch(api)
    await freeze(api)
    for path in (f"/payouts/{payout['id']}", "/payouts", "/events", f"/payout-batches/{batch_id}"):
        assert (await api.call("GET", path))[0] == 200
    body = b'{"id": "n-1", "transfer": "t-1"}'
    signed = {"data": body, "x_signature": api.custodian.sign(body)}
    assert (await api.call("POST", "/custodians/acme_eu/webhooks", **signed))[0] == 200
    with closing(sqlite3.connect(api.path)) as connection:
        assert connection.execute("SELECT body FROM inbox").fetchall() == [(body,)]


async def test_readiness_says_whether_marks_are_set(api: Api) -> None:
    """Always 200: requests are served. The body says the rest."""
    told = []
    await freeze(api)
    told.append(await api.call("GET", "/readyz", authorization=None))
    await thaw(api, accepting=False)
    told.append(await api.call("GET", "/readyz", authorization=None))
    await thaw(api)
    told.append(await api.call("GET", "/readyz", authorization=None))
    api.context.state_file.failing = "the state file cannot be written: disk full"
    told.append(await api.call("GET", "/readyz", authorization=None))
    api.context.state_file.failing = None
    with closing(sqlite3.connect(api.path)) as connection:
        connection.execute("UPDATE store_state SET gate_version = 99")
        connection.commit()
    told.append(await api.call("GET", "/readyz", authorization=None))
    assert [status for status, _ in told] == [200] * 5
    bodies = [(body["marks"], body["accepting"], body.get("reason")) for _, body in told]
    copy = "it is a copy. Next: stop every gateway, and then: payout-gateway db adopt"
    adopted = "the database was adopted, and new payouts are not let in yet"
    disk, old = "the state file cannot be written: disk full", told[4][1]["marks"]
    assert bodies == [
        (copy, False, copy),
        (True, False, adopted),
        (True, True, None),
        (disk, True, disk),
        (old, True, old),
    ]
    assert "99" in old
    status, body = await api.call("GET", "/readyz?require=marks", authorization=None)
    assert (status, body) == (503, {**told[4][1], "status": "no_marks"})


@pytest.mark.parametrize("mode", ["live", "test"])
async def test_a_refusal_is_not_kept_for_the_repeat(api: Api, mode: Any) -> None:
    """The same key works once the database is not frozen any more."""
    quote = await api.quote(mode=mode)
    await freeze(api)
    pay = {"body": {"quote_id": quote["quote_id"]}, "idempotency_key": "pay-1", "mode": mode}
    ask = {"body": QUOTE, "idempotency_key": "quote-1", "mode": mode}
    for path, options in (("/payouts", pay), ("/payouts/quote", ask)):
        assert (await api.problem("POST", path, **options))["code"] == "database_frozen"
    await thaw(api)
    status, first = await api.call("POST", "/payouts", **pay)
    assert status == 201
    status, quoted = await api.call("POST", "/payouts/quote", **ask)
    assert status == 200
    await freeze(api)
    # What was answered before is answered again: that is a read.
    assert await api.call("POST", "/payouts", **pay) == (201, first)
    assert (await api.call("POST", "/payouts/quote", **ask))[1] == quoted


async def test_nothing_new_until_it_is_let_in(api: Api) -> None:
    """After an adoption: no quote, payout or batch; but what exists can be canceled."""
    quote, payout, batch_id = await api.quote(), await api.pay(), await batch(api)
    await thaw(api, accepting=False)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("/payouts/quote", {"body": QUOTE, "idempotency_key": "k-1"}),
        ("/payouts", {"body": {"quote_id": quote["quote_id"]}}),
        ("/payout-batches", {"body": BATCH, "idempotency_key": "k-2"}),
        (f"/payout-batches/{batch_id}/execute", {}),
    ]
    for path, options in calls:
        assert (await api.problem("POST", path, **options))["code"] == "not_accepting", path
    assert (await api.call("POST", f"/payouts/{payout['id']}/cancel"))[0] == 202
    assert (await api.call("POST", f"/payout-batches/{batch_id}/cancel"))[0] == 202


async def test_a_dry_run_is_a_read(api: Api) -> None:
    """Checking a batch writes nothing."""
    await freeze(api)
    assert (await api.call("POST", "/payout-batches?validate=true", body=BATCH))[0] == 200


async def test_references_without_a_payout_are_noted(api: Api) -> None:
    """While frozen or not accepting, once each; what a payout learns or an operator checks is done."""
    note = (api.context.runtime.ids, 0, "acme_eu", "transfer")
    db = api.context.db
    await db.run(state.note_unmatched, *note, "t 0")
    assert await db.read(state.unmatched) == []
    await freeze(api)
    for value in ("t 1", "t 1", "t 2"):
        await db.run(state.note_unmatched, *note, value)
    await thaw(api, accepting=False)
    await db.run(state.note_unmatched, *note, "t 3")
    found = ["acme_eu transfer t 1", "acme_eu transfer t 2", "acme_eu transfer t 3"]
    assert await db.read(state.unmatched) == found
    await thaw(api)
    payout = await api.pay()
    await db.run(payouts.add_refs, "acme_eu", [("transfer", "t 1")], payout["id"])
    found = found[1:]
    assert await db.read(state.unmatched) == found
    assert await db.run(state.note_checked, api.context.runtime.ids, 0, "root") == found
    assert await db.read(state.unmatched) == []
    await freeze(api)
    await db.run(state.note_unmatched, *note, "t 2")
    assert await db.read(state.unmatched) == ["acme_eu transfer t 2"]


def _rows(api: Api) -> list[Any]:
    with closing(sqlite3.connect(api.path)) as connection:
        tables = ("quotes", "payouts", "batches", "events", "idempotency", "executions", "evidence")
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
