"""Texts in requests: no control characters anywhere, references compared as people read them."""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Any
from urllib.parse import quote_plus

import pytest

from gateway.batches.items import Check, Checked, json_lines
from gateway.batches.schemas import BatchRequest
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.store.database import Tx
from tests.api.conftest import WALLET, Api
from tests.api.test_batches import _HEAD, QUERY, SOURCE, create, go_on, item, upload

_QUOTE: dict[str, Any] = {
    "external_ref": "u-1",
    "destination": WALLET,
    "asset": "USDC",
    "amount": "43",
}
_HOOK = {"url": "https://hooks.example.com/"}
#: One reference, composed and decomposed.
_NFC, _NFD = "caf\u00e9-1", "cafe\u0301-1"
CONTROLS = ["\x00", "\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\x9b"]


def _quote(**members: Any) -> tuple[str, dict[str, Any]]:
    return "/payouts/quote", {**_QUOTE, **members}


def _source(account_id: str) -> dict[str, Any]:
    return {"custodian": "acme_eu", "account": {"id": account_id, "type": "VAULT"}}


def _batch(**members: Any) -> tuple[str, dict[str, Any]]:
    return "/payout-batches", {"source": SOURCE, "payouts": [item(1), item(2, **members)]}


@pytest.mark.parametrize(
    ("where", "pointer"),
    [
        (lambda bad: _quote(external_ref=bad), "/external_ref"),
        (lambda bad: _quote(reference=bad), "/reference"),
        (lambda bad: _quote(metadata={"note": bad}), "/metadata"),
        (lambda bad: _quote(metadata={bad: "note"}), "/metadata"),
        (lambda bad: _quote(destination={**WALLET, "id": bad}), "/destination"),
        (lambda bad: _quote(destination=bad), "/destination"),
        (lambda bad: _quote(network_hint=bad), "/network_hint"),
        (
            lambda bad: _quote(route={"custodian": "acme_eu", "account": {"id": bad, "type": "V"}}),
            "/route/account",
        ),
        (
            lambda bad: ("/payout-batches", {**_batch()[1], "source": _source(bad)}),
            "/source",
        ),
        (lambda bad: _batch(external_ref=bad), "/payouts/1/external_ref"),
        (lambda bad: _batch(reference=bad), "/payouts/1/reference"),
        (lambda bad: _batch(name=bad), "/payouts/1/name"),
        (lambda bad: _batch(metadata={"a": bad}), "/payouts/1/metadata"),
        (lambda bad: ("/payout-batches", {**_batch()[1], "reference": bad}), "/reference"),
        (lambda bad: ("/payout-batches", {**_batch()[1], "metadata": {"a": bad}}), "/metadata"),
        (lambda bad: ("/webhook-endpoints", {**_HOOK, "description": bad}), "/description"),
        (lambda bad: ("/payouts", {"quote_id": bad}), "/quote_id"),
    ],
)
async def test_control_characters_are_refused_in_every_text(
    api: Api, where: Any, pointer: str
) -> None:
    """NUL, line breaks, escapes, C1: named by the field, never stored, never a 5xx."""
    for control in CONTROLS:
        path, body = where(f"ab{control}cd")
        problem = await api.problem("POST", path, body=body, idempotency_key=secrets.token_hex(8))
        assert (problem["code"], problem["status"]) == ("invalid_request", 422), control
        found = [each["pointer"] for each in problem["errors"]]
        assert pointer in found, problem
        assert control not in str(problem["errors"])


async def test_the_document_says_so(api: Api) -> None:
    """A client that validates by the document sends none."""
    _, document = await api.call("GET", "/openapi.json")
    schemas = document["components"]["schemas"]
    for name, member in (("QuoteRequest", "external_ref"), ("BatchItemRequest", "name")):
        told = schemas[name]["properties"][member]
        branch = told["anyOf"][0] if "anyOf" in told else told
        assert branch["pattern"] == r"^[^\x00-\x1f\x7f-\x9f]*$"


#: A reference, and the code of its refusal; None: it is taken.
_REFERENCES = [
    ("inv-1", None),
    ("Größe 中文 אב", None),
    ("cafe\u0301", None),
    ("inv\u200b1", "invisible_character"),
    ("inv\u00a01", "invisible_character"),
    ("inv\u202e1", "invisible_character"),
    ("inv\ufe0f1", "invisible_character"),
    ("inv\u31641", "invisible_character"),
    ("inv\ufeff1", "invisible_character"),
    ("inv\x001", "control_character"),
    ("inv\x851", "control_character"),
    ("r" * 256, "string_too_long"),
]


@pytest.mark.parametrize(("reference", "code"), _REFERENCES)
async def test_json_and_csv_judge_a_reference_alike(
    api: Api, reference: str, code: str | None
) -> None:
    """A payout's in both, and the batch's own, which a file has in its query; a quote's as well."""
    body = {"source": SOURCE, "payouts": [item(1, reference=reference)]}
    status, told = await api.call("POST", "/payout-batches?validate=true", body=body)
    row = f"u-1,custodian_account,EXTERNAL_WALLET,w-1,USDC,1.5,{reference},Payee\n"
    file_status, file_told = await upload(api, _HEAD + row, QUERY + "&validate=true")
    head = {"source": SOURCE, "payouts": [item(1)], "reference": reference}
    head_status, head_told = await api.call("POST", "/payout-batches?validate=true", body=head)
    query = f"{QUERY}&validate=true&reference={quote_plus(reference)}"
    query_status, query_told = await upload(api, _HEAD + row.replace(reference, "r-1"), query)
    quote_status, quote_told = await api.call(
        "POST", "/payouts/quote", body={**_QUOTE, "reference": reference}, idempotency_key="q"
    )
    answers = {
        "/payouts/0/reference": (status, told),
        "/lines/2/reference": (file_status, file_told),
        "/reference": (head_status, head_told),
    }
    for pointer, (answered, problem) in answers.items():
        if code is None:
            assert answered == 200, problem
        else:
            assert {each["pointer"]: each["code"] for each in problem["errors"]} == {pointer: code}
    for answered, problem in ((query_status, query_told), (quote_status, quote_told)):
        if code is None:
            assert answered == 200, problem
        else:
            assert [each["code"] for each in problem["errors"]] == [code]


async def test_references_that_look_alike_are_paid_once(api: Api) -> None:
    """Composed and decomposed: in one batch, across batches, in JSON and in CSV."""
    body = {"source": SOURCE, "payouts": [item(1, reference=_NFC), item(2, reference=_NFD)]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k-1")
    (fault,) = problem["errors"]
    assert (fault["pointer"], fault["code"]) == ("/payouts/1/reference", "duplicate_reference")
    made = await create(api, item(1, reference=_NFC))
    body = {"source": SOURCE, "payouts": [item(1, reference=_NFD)]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k-2")
    assert problem["errors"][0]["code"] == "duplicate_reference"
    row = f"u-1,custodian_account,EXTERNAL_WALLET,w-1,USDC,1.5,{_NFD},Payee\n"
    status, told = await upload(api, _HEAD + row)
    assert (status, told["errors"][0]["code"]) == (422, "duplicate_reference")
    # Canceled, it leaves the reference free for either way to write it.
    await api.call("POST", f"/payout-batches/{made['id']}/cancel", body={})
    await go_on(api, made["id"])
    await create(api, item(1, reference=_NFD))
    # A dry run compares with what is stored, too.
    body = {"source": SOURCE, "payouts": [item(1, reference=_NFC)]}
    problem = await api.problem("POST", "/payout-batches?validate=true", body=body)
    assert problem["errors"][0]["code"] == "duplicate_reference"


async def test_what_came_in_between_is_found_when_a_batch_becomes_visible(api: Api) -> None:
    """The second guard compares as the first one does: two batches are loaded at the same time."""
    db, batches, caller = api.context.db, api.context.batches, Caller("acme", "live", "k")
    wanted = BatchRequest.model_validate({"source": SOURCE, "payouts": [item(1, reference=_NFD)]})

    async def load(tx: Tx) -> str:
        batch_id = await batches.begin(
            tx, caller, wanted.source, init_method="api", reference=None, metadata={}
        )
        (line,) = json_lines(wanted)
        checked = Check(api.context.quotes, caller, wanted.source, Checked()).line(line)
        assert checked is not None
        made = batches.columns(caller, wanted.source, batch_id)
        await batches.add(tx, batch_id, [made.of(0, checked)])
        return batch_id

    loading = await db.run(load)
    await create(api, item(1, reference=_NFC))
    with pytest.raises(Refused) as refused:
        await db.run(batches.finish, caller, loading, 1)
    assert refused.value.code == "invalid_batch"


async def test_what_was_stored_before_the_rules_is_still_shown(api: Api) -> None:
    """Texts with control characters, in a payout and in a batch: read as they are, listed, reported."""
    made = await create(api, item(1))
    old = 'a\x00\x1b[2J\r\n"\u202e'
    account = json.dumps({"id": old, "type": "VAULT"})
    connection = sqlite3.connect(api.path)
    connection.execute("UPDATE batches SET account = ?, reference = ?", (account, old))
    connection.execute(
        "UPDATE payouts SET account = ?, reference = ?, external_ref = ?, name = ?, "
        "terms = json_set(terms, '$.destination.id', ?)",
        (account, old, old, old, old),
    )
    connection.commit()
    connection.close()
    status, told = await api.call("GET", f"/payout-batches/{made['id']}")
    assert (status, told["source"]["account"]["id"], told["reference"]) == (200, old, old)
    status, page = await api.call("GET", "/payouts")
    assert (status, page["data"][0]["external_ref"]) == (200, old)
    assert page["data"][0]["quote"]["destination"]["id"] == old
    status, _ = await api.call("GET", f"/payout-batches/{made['id']}/report.json")
    assert status == 200


async def test_a_stored_reference_of_before_is_respected(api: Api) -> None:
    """One with a zero-width character was accepted once: the one that looks like it is not paid again."""
    await create(api, item(1, reference="inv-1"))
    old = "in\u200bv-1"
    connection = sqlite3.connect(api.path)
    connection.execute("UPDATE payouts SET reference = ?", (old,))
    connection.commit()
    connection.close()
    body = {"source": SOURCE, "payouts": [item(1, reference="inv-1")]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
    assert problem["errors"][0]["code"] == "duplicate_reference"
    _, page = await api.call("GET", "/payouts?reference=inv-1")
    assert [each["reference"] for each in page["data"]] == [old]


async def test_a_list_is_filtered_by_what_people_read(api: Api) -> None:
    """Either way to write it finds the payout, which shows what was sent."""
    await create(api, item(1, reference="cafe\u0301"))
    for asked in ("caf%C3%A9", "cafe%CC%81"):
        _, page = await api.call("GET", f"/payouts?reference={asked}")
        assert [each["reference"] for each in page["data"]] == ["cafe\u0301"]
