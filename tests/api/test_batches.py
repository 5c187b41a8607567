"""Batches over HTTP: all or nothing, once, in pages, with a report; from JSON and from CSV."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gateway.adapter import Report, SubStatus
from gateway.assets import AssetRegistry
from gateway.batches.items import MOST_FAULTS, Check, Checked, Line, json_lines
from gateway.batches.runner import BatchSteps, Handover
from gateway.batches.schemas import BatchItemRequest, BatchRequest, BatchSource
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.execution.operator import NotAllowedError, Resolution, resolve, retry
from gateway.execution.proof import Source
from gateway.keys import recognise
from gateway.model import Failure, FailureCode, FundsMoved, Transaction
from gateway.routing.prices import PriceTable
from gateway.spending import Spending
from gateway.spending_rules import Rules
from gateway.store import batches as rows
from gateway.store import executions
from gateway.store.database import Row, Tx
from gateway.story import tell
from tests.api.conftest import WALLET, Api
from tests.marks import mark_call

SOURCE = {"custodian": "acme_eu", "account": {"id": "A1", "type": "VAULT"}}
QUERY = "?custodian=acme_eu&account_id=A1&account_type=VAULT"
_HEAD = "external_ref,destination_type,account_type,id,asset,amount,reference,name\n"
_ROW = "u-{0},custodian_account,EXTERNAL_WALLET,w-{0},USDC,1.5,r-{0},Payee {0}\n"


def item(number: int = 1, **members: Any) -> dict[str, Any]:
    """Return one payout."""
    return {
        "external_ref": f"u-{number}",
        "destination": WALLET,
        "asset": "USDC",
        "amount": "1.5",
        "reference": f"r-{number}",
        **members,
    }


async def create(api: Api, *payouts: dict[str, Any], **members: Any) -> dict[str, Any]:
    """Create a batch that is accepted."""
    body = {"source": SOURCE, "payouts": list(payouts), **members}
    status, made = await api.call(
        "POST", "/payout-batches", body=body, idempotency_key=secrets.token_hex(8)
    )
    assert status == 201, made
    return dict(made)


async def upload(api: Api, text: str | bytes, query: str = QUERY, key: str = "") -> tuple[int, Any]:
    """Upload a CSV file."""
    data = text.encode() if isinstance(text, str) else text
    answer, raw = await api.send(
        "POST",
        "/payout-batches" + query,
        data=data,
        content_type="text/csv",
        idempotency_key=key or secrets.token_hex(8),
    )
    return answer.status, json.loads(raw)


def steps(api: Api, window: int = 3) -> BatchSteps:
    """Return the steps of batches, as the gateway's loop takes them."""
    context = api.context
    handovers = {"acme_eu": Handover(2, window)}
    recorders = {"acme_eu": api.engine.recorder}
    return BatchSteps(
        context.runtime,
        context.payouts,
        context.quotes,
        context.batches,
        handovers,
        recorders,
        rules=context.own_rules,
    )


async def go_on(api: Api, batch_id: str, window: int = 3) -> None:
    """Take steps until there is nothing more to do at once."""
    while (await api.context.db.run(steps(api, window).step, batch_id)).more:
        pass


async def batch(api: Api, batch_id: str) -> dict[str, Any]:
    """Read a batch."""
    status, told = await api.call("GET", f"/payout-batches/{batch_id}")
    assert status == 200
    return dict(told)


async def ids(api: Api, batch_id: str) -> list[str]:
    """Return the payouts of a batch, page by page."""
    found: list[str] = []
    query = "?limit=2"
    while True:
        _, page = await api.call("GET", f"/payout-batches/{batch_id}/payouts{query}")
        found += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            return found
        query = f"?limit=2&cursor={page['next_cursor']}"


async def apply(api: Api, payout_id: str, report: Report) -> None:
    """Bring a payout the news of a webhook, about a call that was made for it."""
    await mark_call(api.context.db, api.context.runtime, payout_id)
    await api.context.db.run(api.engine.recorder.news, payout_id, report, Source.WEBHOOK)


async def handed_over(api: Api, payouts: list[str]) -> list[str]:
    """Return the payouts that the engine has."""
    found = [await api.context.db.read(executions.open_execution_of, each) for each in payouts]
    return [each for each, row in zip(payouts, found, strict=True) if row is not None]


async def sent(api: Api, payout_id: str) -> None:
    """Have a payout sent and accepted, as the engine leaves it."""
    row = await api.context.db.read(executions.open_execution_of, payout_id)
    assert row is not None

    async def accept(tx: Tx) -> None:
        await executions.update_execution(tx, row["id"], state="accepted", open_calls=1)

    await api.context.db.run(accept)


async def test_a_batch_of_two_assets(api: Api) -> None:
    """Its totals are exact and per asset; its payouts are payouts like any other."""
    made = await create(
        api,
        item(1, amount="0.000001"),
        item(
            2,
            amount="2.5",
            destination="0x52908400098527886E0F7030069857D2E4169EE7",
            network_hint="Ethereum",
            asset="EURC",
        ),
        item(3, amount="1", name="Zoë"),
        reference="march",
        metadata={"a": "b"},
    )
    assert (made["state"], made["item_count"], made["init_method"]) == ("requested", 3, "api")
    assert [(each["asset"], each["count"], each["amount"]) for each in made["totals"]] == [
        ("EURC", 1, "2.5"),
        ("USDC", 2, "1.000001"),
    ]
    assert made["report_url"].endswith(f"/payout-batches/{made['id']}/report.csv")
    found = await ids(api, made["id"])
    assert len(found) == 3
    _, payout = await api.call("GET", f"/payouts/{found[0]}")
    assert (payout["status"], payout["batch_id"]) == ("pending", made["id"])
    assert payout["quote"]["quote_id"] is None
    _, listed = await api.call("GET", "/payouts?reference=r-3")
    assert [each["id"] for each in listed["data"]] == [found[2]]
    _, page = await api.call("GET", "/payout-batches?limit=1")
    assert [each["id"] for each in page["data"]] == [made["id"]]
    _, feed = await api.call("GET", "/events")
    assert feed["data"] == []
    for path in ("", "/payouts", "/report.csv", "/report.json"):
        problem = await api.problem("GET", f"/payout-batches/{made['id']}{path}", org="other")
        assert problem["code"] == "batch_not_found"


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"amount": "0"}, "/payouts/1/amount", None),
        ({"amount": "0.0000001"}, "/payouts/1/amount", "amount_too_precise"),
        ({"asset": "NOPE"}, "/payouts/1/asset", "unsupported_asset"),
        ({"destination": "0x1"}, "/payouts/1/destination", "invalid_destination"),
        ({"reference": "r-1"}, "/payouts/1/reference", "duplicate_reference"),
        ({"reference": "r-1 "}, "/payouts/1/reference", None),
        ({"reference": "\tr-2"}, "/payouts/1/reference", None),
        (
            {"destination": {"type": "payout_account", "payout_account_id": "1"}},
            "/payouts/1/destination",
            "route_unavailable",
        ),
        ({"extra": 1}, "/payouts/1/extra", None),
    ],
)
async def test_one_fault_refuses_all(
    api: Api, members: dict[str, Any], pointer: str, code: str | None
) -> None:
    """With a pointer to it; nothing is stored."""
    body = {"source": SOURCE, "payouts": [item(1), item(2, **members)]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
    assert problem["status"] == 422
    assert pointer in [each["pointer"] for each in problem["errors"]]
    if code is not None:
        assert problem["code"] == "invalid_batch"
        assert code in [each["code"] for each in problem["errors"]]
    _, page = await api.call("GET", "/payouts")
    assert page["data"] == []


async def test_a_source_that_is_none(api: Api) -> None:
    """Said once of the source, not once for each payout."""
    source = {"custodian": "acme_eu", "account": {"id": "A9", "type": "VAULT"}}
    body = {"source": source, "payouts": [item(n) for n in range(50)]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
    assert [each["pointer"] for each in problem["errors"]] == ["/source/account"]


async def test_a_custodian_that_is_none(api: Api) -> None:
    """Reported for the source, at once."""
    source = {"custodian": "nobody", "account": {"id": "A1", "type": "VAULT"}}
    body = {"source": source, "payouts": [item(1), item(2)]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
    assert [each["pointer"] for each in problem["errors"]] == ["/source/custodian"]


async def test_the_bounds_of_a_json_batch(api: Api) -> None:
    """None, and more than a thousand."""
    for payouts in ([], [item(n) for n in range(1001)]):
        body = {"source": SOURCE, "payouts": payouts}
        problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("invalid_request", "/payouts")
    problem = await api.problem("POST", "/payout-batches", body={"source": SOURCE, "payouts": []})
    assert problem["code"] == "idempotency_key_required"


async def test_a_reference_is_paid_once_over_all_batches(api: Api) -> None:
    """The same file twice does not pay twice; a canceled batch gives its references back."""
    first = await create(api, item(1), item(2))
    body = {"source": SOURCE, "payouts": [item(3), item(2)]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
    (error,) = problem["errors"]
    assert (error["pointer"], error["code"]) == ("/payouts/1/reference", "duplicate_reference")
    assert first["id"] in error["detail"]
    status, _ = await api.call("POST", f"/payout-batches/{first['id']}/cancel", body={})
    assert status == 202
    await go_on(api, first["id"])
    assert (await batch(api, first["id"]))["state"] == "canceled"
    await create(api, item(3), item(2))
    await create(api, item(1, reference=None), item(2, reference=None))


def failed(moved: FundsMoved | None) -> Report:
    """Return the end of a payout that failed; None: the adapter did not say whether money moved."""
    if moved is None:
        return Report(SubStatus.FAILED, "BAD")
    failure = Failure(code=FailureCode.CHAIN_REJECTED, message="", funds_moved=moved)
    return Report(SubStatus.FAILED, "BAD", failure=failure)


#: How the payouts stand that carry a reference, and whether it may be paid again.
CARRIERS: list[tuple[list[Report | None], bool]] = [
    ([None], False),
    ([Report(SubStatus.OUTCOME_UNKNOWN, "")], False),
    ([Report(SubStatus.DELIVERED, "DONE")], False),
    ([failed(FundsMoved.YES)], False),
    ([failed(FundsMoved.UNKNOWN)], False),
    ([failed(None)], False),
    ([failed(FundsMoved.NO)], True),
    ([failed(FundsMoved.NO), failed(FundsMoved.NO)], True),
    ([failed(FundsMoved.NO), failed(FundsMoved.YES)], False),
    ([failed(FundsMoved.NO), None], False),
]


async def test_a_reference_is_not_free_once_not_paid_is_contradicted(api: Api) -> None:
    """The custodian says that the money moves after all: to pay it again would pay it twice."""
    (payout_id,) = await ids(api, (await create(api, item(1)))["id"])
    await apply(api, payout_id, failed(FundsMoved.NO))
    await apply(api, payout_id, Report(SubStatus.BROADCAST, "SENT"))
    body = {"source": SOURCE, "payouts": [item(2), item(1)]}
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
    assert [each["code"] for each in problem["errors"]] == ["duplicate_reference"]


@pytest.mark.parametrize(("ends", "free"), CARRIERS)
async def test_a_reference_is_free_once_nothing_moved(
    api: Api, ends: list[Report | None], *, free: bool
) -> None:
    """Only where every payout that carries it failed without money moving: else it is paid twice."""
    for end in ends:
        (payout_id,) = await ids(api, (await create(api, item(1)))["id"])
        if end is not None:
            await apply(api, payout_id, end)
    body = {"source": SOURCE, "payouts": [item(2), item(1)]}
    status, told = await api.call("POST", "/payout-batches", body=body, idempotency_key="k")
    if free:
        assert status == 201
        return
    assert (status, told["code"]) == (422, "invalid_batch")
    (error,) = told["errors"]
    assert (error["pointer"], error["code"]) == ("/payouts/1/reference", "duplicate_reference")


@pytest.mark.parametrize(("ends", "free"), CARRIERS)
async def test_a_reference_that_was_taken_meanwhile(
    api: Api, ends: list[Report | None], *, free: bool
) -> None:
    """The same holds when a batch is finished that was checked before the other one came."""
    db, batches, caller = api.context.db, api.context.batches, Caller("acme", "live", "k")
    wanted = BatchRequest.model_validate_json(
        json.dumps({"source": SOURCE, "payouts": [item(2), item(1)]})
    )
    lines = list(json_lines(wanted))

    async def load(tx: Tx) -> str:
        batch_id = await batches.begin(
            tx, caller, wanted.source, init_method="api", reference=None, metadata={}
        )
        await batches.add(tx, batch_id, _columns(api, caller, wanted.source, batch_id, lines))
        return batch_id

    loading = await db.run(load)
    # Nobody has seen it yet: it takes its references from no other batch.
    for end in ends:
        (payout_id,) = await ids(api, (await create(api, item(1)))["id"])
        if end is not None:
            await apply(api, payout_id, end)
    if free:
        assert (await db.run(batches.finish, caller, loading, 2)).item_count == 2
        return
    with pytest.raises(Refused) as refused:
        await db.run(batches.finish, caller, loading, 2)
    assert refused.value.errors is not None
    assert {each["pointer"] for each in refused.value.errors} == {"/payouts/1/reference"}


async def test_a_dry_run_stores_nothing(api: Api) -> None:
    """And says what a real one would."""
    body: dict[str, Any] = {"source": SOURCE, "payouts": [item(1), item(2)]}
    status, told = await api.call(
        "POST", "/payout-batches?validate=true", body=body, idempotency_key="k"
    )
    assert (status, told["item_count"], told["totals"]) == (200, 2, {"USDC": "3"})
    _, page = await api.call("GET", "/payout-batches")
    assert page["data"] == []
    status, _ = await api.call("POST", "/payout-batches", body=body, idempotency_key="k")
    assert status == 201
    status, told = await api.call(
        "POST", "/payout-batches?validate=true", body={**body, "payouts": [item(5)]}
    )
    assert (status, told["item_count"]) == (200, 1)
    body["payouts"][1]["amount"] = "x"
    problem = await api.problem(
        "POST", "/payout-batches?validate=true", body=body, idempotency_key="k2"
    )
    assert problem["status"] == 422


async def test_created_once_per_key(api: Api) -> None:
    """A repeat is answered again, byte for byte; another body is refused."""
    body = {"source": SOURCE, "payouts": [item(1)]}
    first, raw = await api.send("POST", "/payout-batches", body=body, idempotency_key="k")
    again, same = await api.send("POST", "/payout-batches", body=body, idempotency_key="k")
    assert (first.status, again.status, raw) == (201, 201, same)
    assert again.headers["idempotent-replayed"] == "true"
    body["payouts"] = [item(2)]
    problem = await api.problem("POST", "/payout-batches", body=body, idempotency_key="k")
    assert problem["code"] == "idempotency_key_reused"
    status, one = await upload(api, _HEAD + _ROW.format(9), key="f")
    assert status == 201
    assert await upload(api, _HEAD + _ROW.format(9), key="f") == (201, one)
    status, problem = await upload(api, _HEAD + _ROW.format(8), key="f")
    assert problem["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    "text",
    [
        _HEAD + _ROW.format(1) + _ROW.format(2),
        "\ufeff" + _HEAD + _ROW.format(1) + _ROW.format(2),
        (_HEAD + _ROW.format(1) + _ROW.format(2)).replace("\n", "\r\n"),
        _HEAD + "\n" + _ROW.format(1) + "\n\n" + _ROW.format(2).rstrip("\n"),
        _HEAD + _ROW.format(1).replace("Payee 1", '"Payee, ""1"""') + _ROW.format(2),
        _HEAD.upper() + _ROW.format(1).replace(",1.5,", ", 1.5 ,") + _ROW.format(2),
    ],
)
async def test_a_file(api: Api, text: str) -> None:
    """With or without a mark, any line ends, quotes, empty lines."""
    status, made = await upload(api, text)
    assert status == 201, made
    assert (made["init_method"], made["item_count"]) == ("file", 2)
    assert made["totals"][0]["amount"] == "3"


@pytest.mark.parametrize(
    ("text", "pointer", "word"),
    [
        ("", "/lines/1", "first line"),
        ("a,b\n1,2\n", "/lines/1", "'a'"),
        ("external_ref,asset\n", "/lines/1", "amount"),
        ("external_ref,asset,amount\n", "/lines/1", "destination"),
        (_HEAD, "/lines", "no payouts"),
        (_HEAD + _ROW.format(1) + "x,y\n", "/lines/3", "2 cells"),
        (_HEAD + _ROW.format(1) + _ROW.format(2).replace("1.5", "-1"), "/lines/3/amount", ""),
        (_HEAD + _ROW.format(1) + _ROW.format(1), "/lines/3/reference", "line 2"),
        (_HEAD + _ROW.format(1).replace("EXTERNAL_WALLET", "MOON"), "/account_type", "MOON"),
        (_HEAD + _ROW.format(1).replace("custodian_account", "cash"), "/lines/2/destination", ""),
        (_HEAD + 'u-2,"open\n' + _ROW.format(1), "/lines/2", "CSV"),
        (
            (_HEAD + _ROW.format(1) + _ROW.format(2)).encode().replace(b"Payee 2", b"Pay\xff"),
            "/lines/3",
            "UTF-8",
        ),
    ],
)
async def test_a_file_that_cannot_be(api: Api, text: str | bytes, pointer: str, word: str) -> None:
    """Each fault with its line; nothing is stored."""
    status, problem = await upload(api, text)
    assert (status, problem["code"]) == (422, "invalid_batch")
    assert any(
        pointer in each["pointer"] and word in each["detail"] for each in problem["errors"]
    ), problem["errors"]
    _, page = await api.call("GET", "/payout-batches")
    assert page["data"] == []


async def test_many_faults_are_counted(api: Api) -> None:
    """The first hundred are listed."""
    text = _HEAD + "".join(_ROW.format(n).replace("1.5", "x") for n in range(MOST_FAULTS + 20))
    _, problem = await upload(api, text)
    assert len(problem["errors"]) == MOST_FAULTS
    assert str(MOST_FAULTS + 20) in problem["detail"]


@pytest.mark.parametrize(
    "query", ["", "?custodian=acme_eu", QUERY + "&what=1", QUERY + "&validate=x"]
)
async def test_a_file_needs_its_source(api: Api, query: str) -> None:
    """In the query, complete."""
    status, problem = await upload(api, _HEAD + _ROW.format(1), query)
    assert (status, problem["code"]) == (422, "invalid_request") or status == 400


async def test_executed_once(api: Api) -> None:
    """Of ten at once one is taken; an unknown batch and an ended one are refused."""
    made = await create(api, item(1))
    path = f"/payout-batches/{made['id']}/execute"
    answers = await asyncio.gather(*(api.call("POST", path, body={}) for _ in range(10)))
    assert sorted(status for status, _ in answers) == [202] + [409] * 9
    assert {told["code"] for status, told in answers if status == 409} == {"batch_already_executed"}
    problem = await api.problem("POST", "/payout-batches/bat_none/execute", body={})
    assert problem["code"] == "batch_not_found"
    assert "batches" in api.woken


async def test_the_amounts_of_an_execution_are_read_in_a_thread(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change that executes a batch reads all of its items neither for its answer nor for the limits."""
    price = PriceTable(AssetRegistry(), api.context.settings.prices).usd
    api.context.batches._spending = Spending(Rules(api.context.settings.spending, price))
    made = await create(api, item(1), item(2))
    threads: list[str] = []
    read = rows.amounts

    async def noted(tx: Tx, batch_id: str) -> list[Row]:
        threads.append(threading.current_thread().name.rpartition("_")[0])
        return await read(tx, batch_id)

    monkeypatch.setattr(rows, "amounts", noted)
    path = f"/payout-batches/{made['id']}"
    status, told = await api.call("POST", f"{path}/execute", body={})
    assert (status, threads) == (202, ["store-scan"])
    assert told["totals"] == made["totals"]
    problem = await api.problem("POST", f"{path}/execute", body={})
    assert problem["code"] == "batch_already_executed"


async def test_not_executed_in_a_day(api: Api) -> None:
    """It is canceled, and cannot be executed any more."""
    made = await create(api, item(1))
    await api.clock.advance(86_401)
    problem = await api.problem("POST", f"/payout-batches/{made['id']}/execute", body={})
    assert problem["code"] == "batch_ended"
    assert made["id"] in await api.context.db.read(rows.batches_to_do, 2**62, 10)
    await go_on(api, made["id"])
    told = await batch(api, made["id"])
    assert (told["state"], told["failed_count"]) == ("canceled", 1)
    _, feed = await api.call("GET", "/events")
    assert [each["type"] for each in feed["data"]] == ["payout.failed", "batch.canceled"]


async def test_items_are_handed_over_a_few_at_a_time(api: Api) -> None:
    """So that a single payout never waits behind a whole batch; every one is told of first."""
    made = await create(api, *(item(n) for n in range(10)))
    await api.call("POST", f"/payout-batches/{made['id']}/execute", body={})
    await go_on(api, made["id"])
    found = await ids(api, made["id"])
    assert await handed_over(api, found) == found[:3]
    assert (await batch(api, made["id"]))["state"] == "executing"
    _, feed = await api.call("GET", "/events?limit=50")
    assert [each["type"] for each in feed["data"]] == ["payout.created"] * 10 + ["batch.executing"]
    await api.clock.advance(5)
    single = await api.pay()
    for payout_id in found[:2]:
        await apply(api, payout_id, Report(SubStatus.SUBMITTED, "TAKEN"))
    await go_on(api, made["id"])
    assert await handed_over(api, found) == found[:5]
    # Due after all of them, and claimed before any of them.
    (claimed,) = await api.context.db.run(executions.claim, "acme_eu", "t", 2**61, 2**62, 1)
    single_one = await api.context.db.read(executions.open_execution_of, single["id"])
    assert single_one is not None
    assert claimed["id"] == single_one["id"]


async def test_partial_results_are_exact(api: Api) -> None:
    """Some delivered, some failed: finalized, counted, summed, reported."""
    made = await create(api, *(item(n, name=f"=cmd|{n}") for n in range(4)))
    await api.call("POST", f"/payout-batches/{made['id']}/execute", body={})
    await go_on(api, made["id"], window=10)
    found = await ids(api, made["id"])
    failure = Failure(
        code=FailureCode.DESTINATION_REJECTED, message="+no", funds_moved=FundsMoved.NO
    )
    transaction = Transaction(id="t", tx_hash="0xabc", at=api.clock.now())
    for number, payout_id in enumerate(found):
        done = Report(SubStatus.DELIVERED, "DONE", transactions=(transaction,))
        bad = Report(SubStatus.FAILED, "BAD", failure=failure)
        await apply(api, payout_id, bad if number == 1 else done)
    answer, raw = await api.send("GET", f"/payout-batches/{made['id']}/report.csv")
    assert answer.headers["report-final"] == "false"
    await go_on(api, made["id"])
    told = await batch(api, made["id"])
    assert (told["state"], told["delivered_count"], told["failed_count"]) == ("finalized", 3, 1)
    assert told["finalized_at"] is not None
    (total,) = told["totals"]
    assert total["by_status"] == {
        "delivered": {"count": 3, "amount": "4.5"},
        "failed": {"count": 1, "amount": "1.5"},
    }
    answer, raw = await api.send("GET", f"/payout-batches/{made['id']}/report.csv")
    assert answer.headers["report-final"] == "true"
    lines = list(csv.DictReader(io.StringIO(raw.decode())))
    assert [each["payout_id"] for each in lines] == found
    assert [each["position"] for each in lines] == ["1", "2", "3", "4"]
    assert lines[0]["name"] == "'=cmd|0"
    assert (lines[1]["failure_code"], lines[1]["failure_message"]) == (
        "destination_rejected",
        "'+no",
    )
    assert lines[2]["tx_hash"] == "0xabc"
    _, report = await api.call("GET", f"/payout-batches/{made['id']}/report.json")
    assert (report["final"], len(report["payouts"])) == (True, 4)
    assert report["payouts"][0]["name"] == "=cmd|0"
    _, feed = await api.call("GET", "/events?type=batch.finalized")
    assert feed["data"][0]["data"]["delivered_count"] == 3
    problem = await api.problem("POST", f"/payout-batches/{made['id']}/cancel", body={})
    assert problem["code"] == "batch_ended"


async def test_nothing_sent_is_a_failed_batch(api: Api) -> None:
    """When every payout failed before any money moved."""
    made = await create(api, item(1), item(2))
    await api.call("POST", f"/payout-batches/{made['id']}/execute", body={})
    await go_on(api, made["id"])
    failure = Failure(
        code=FailureCode.INSUFFICIENT_FUNDS, message="no money", funds_moved=FundsMoved.NO
    )
    for payout_id in await ids(api, made["id"]):
        await apply(api, payout_id, Report(SubStatus.FAILED, "SHORT", failure=failure))
    await go_on(api, made["id"])
    told = await batch(api, made["id"])
    assert (told["state"], told["failure"]["code"]) == ("failed", "insufficient_funds")


async def test_what_is_sent_stays_sent(api: Api) -> None:
    """A cancel ends the rest: what the engine has not been given, and what it has not moved."""
    made = await create(api, *(item(n) for n in range(8)))
    await api.call("POST", f"/payout-batches/{made['id']}/execute", body={})
    await go_on(api, made["id"])
    found = await ids(api, made["id"])
    await apply(api, found[0], Report(SubStatus.SUBMITTED, "TAKEN"))
    await sent(api, found[0])
    for _ in range(2):
        status, _ = await api.call("POST", f"/payout-batches/{made['id']}/cancel", body={})
        assert status == 202
    await go_on(api, made["id"])
    told = await batch(api, made["id"])
    assert (told["state"], told["failed_count"]) == ("executing", 7)
    assert await handed_over(api, found) == found[:1]
    await apply(api, found[0], Report(SubStatus.DELIVERED, "DONE"))
    await go_on(api, made["id"])
    told = await batch(api, made["id"])
    assert (told["state"], told["delivered_count"]) == ("finalized", 1)


async def test_one_batch_per_account_at_a_time(api: Api) -> None:
    """Later ones wait in the order of their execution; another account does not wait."""
    first, second = await create(api, item(1)), await create(api, item(2))
    third = await create(api, item(3))
    other = await create(
        api, item(4), source={"custodian": "acme_eu", "account": {"id": "A2", "type": "VAULT"}}
    )
    for each in (third, first, second, other):
        await api.clock.advance(1)
        await api.call("POST", f"/payout-batches/{each['id']}/execute", body={})
    order = []
    for _ in range(3):
        for each in (first, second, third, other):
            await go_on(api, each["id"])
        states = {
            each["id"]: (await batch(api, each["id"]))["state"] for each in (first, second, third)
        }
        (active,) = [key for key, state in states.items() if state == "executing"]
        order.append(active)
        assert (await batch(api, other["id"]))["state"] == "executing"
        (payout_id,) = await ids(api, active)
        await apply(api, payout_id, Report(SubStatus.DELIVERED, "DONE"))
        await go_on(api, active)
    assert order == [third["id"], first["id"], second["id"]]


async def test_a_load_that_was_given_up(api: Api) -> None:
    """Nobody ever sees it, and it is deleted in pages."""
    context = api.context
    batch_id = await _load(api, 5)
    _, page = await api.call("GET", "/payouts")
    assert page["data"] == []
    assert (await api.problem("GET", f"/payout-batches/{batch_id}"))["code"] == "batch_not_found"
    assert await context.db.read(rows.stale_load, 2**62) == batch_id
    assert await context.db.run(rows.drop_loaded, batch_id, 3) == 3
    assert await context.db.run(rows.drop_loaded, batch_id, 3) == 2
    assert await context.db.read(rows.stale_load, 2**62) is None


async def test_a_load_that_lost_items_is_never_visible(api: Api) -> None:
    """Given up and deleted in part while it was loading: it is refused, and not seen."""
    context, caller = api.context, await _caller(api)
    batch_id = await _load(api, 5)
    assert await context.db.run(rows.drop_loaded, batch_id, 2) == 2
    with pytest.raises(Refused, match="request_timeout"):
        await context.db.run(context.batches.finish, caller, batch_id, 5)
    assert await context.db.run(rows.drop_loaded, batch_id, 9) == 3
    with pytest.raises(Refused, match="request_timeout"):
        await context.db.run(context.batches.finish, caller, batch_id, 5)
    with pytest.raises(Refused, match="request_timeout"):
        await _load(api, 1, batch_id)
    assert (await api.problem("GET", f"/payout-batches/{batch_id}"))["code"] == "batch_not_found"


async def test_a_batch_that_is_visible_is_not_deleted(api: Api) -> None:
    """A gateway that took it for abandoned comes too late."""
    batch_id = await _load(api, 3)
    await api.context.db.run(api.context.batches.finish, await _caller(api), batch_id, 3)
    assert await api.context.db.run(rows.drop_loaded, batch_id, 9) == 0
    assert len(await ids(api, batch_id)) == 3


async def _load(api: Api, count: int, batch_id: str | None = None) -> str:
    """Store some items of a batch that is not finished; return its id."""
    context, caller = api.context, await _caller(api)
    source = BatchSource.model_validate(SOURCE)
    lines = [
        Line(f"/lines/{n}", BatchItemRequest.model_validate_json(json.dumps(item(n))))
        for n in range(count)
    ]
    if batch_id is None:
        batch_id = await context.db.run(
            lambda tx: context.batches.begin(
                tx, caller, source, init_method="file", reference=None, metadata={}
            )
        )
    items = _columns(api, caller, source, batch_id, lines)
    await context.db.run(context.batches.add, batch_id, items)
    return batch_id


def _columns(
    api: Api, caller: Caller, source: BatchSource, batch_id: str, lines: Sequence[Line]
) -> list[Mapping[str, object]]:
    """Return the columns of lines that can be paid."""
    check = Check(api.context.quotes, caller, source, Checked())
    made = api.context.batches.columns(caller, source, batch_id)
    found = []
    for position, line in enumerate(lines):
        item = check.line(line)
        assert item is not None
        found.append(made.of(position, item))
    return found


async def _caller(api: Api) -> Any:
    return await api.context.db.read(recognise, api.context.runtime, await api.key())


async def test_an_item_does_not_leave_its_batch_by_itself(api: Api) -> None:
    """Neither canceled nor resolved before it was sent: the batch is."""
    made = await create(api, item(1), item(2))
    first, _ = await ids(api, made["id"])
    problem = await api.problem("POST", f"/payouts/{first}/cancel", body={})
    assert (problem["code"], problem["status"]) == ("cancel_unsupported", 409)
    assert made["id"] in problem["detail"]
    with pytest.raises(NotAllowedError, match=made["id"]):
        await _resolve(api, first)
    with pytest.raises(NotAllowedError, match="has not been sent"):
        await api.context.db.run(retry, api.context.runtime, first, api.custodian.capabilities)
    story = await api.context.db.read(tell, first)
    assert story is not None
    assert (story["executions"], story["payout"]["batch_id"]) == ([], made["id"])


async def _resolve(api: Api, payout_id: str) -> None:
    context = api.context
    found = Resolution(delivered=False, funds_moved=FundsMoved.NO, evidence="seen")
    await context.db.run(resolve, api.engine.recorder, context.runtime, payout_id, found)


async def test_what_was_not_handed_over_by_midnight(api: Api) -> None:
    """Short of funds: it holds its place; at midnight UTC the rest fails, and what was sent does not."""
    made = await create(api, *(item(n) for n in range(5)))
    await api.call("POST", f"/payout-batches/{made['id']}/execute", body={})
    await go_on(api, made["id"], window=2)
    found = await ids(api, made["id"])
    await apply(api, found[0], Report(SubStatus.AWAITING_FUNDS, "SHORT"))
    await sent(api, found[0])
    await go_on(api, made["id"], window=2)
    await api.clock.advance(13 * 3600)
    await go_on(api, made["id"], window=2)
    assert (await batch(api, made["id"]))["failed_count"] == 0
    await api.clock.advance(2 * 3600)
    await go_on(api, made["id"], window=2)
    told = await batch(api, made["id"])
    assert (told["failed_count"], told["state"]) == (4, "executing")
    _, payout = await api.call("GET", f"/payouts/{found[4]}")
    assert payout["failure"]["code"] == "insufficient_funds"
    assert payout["failure"]["funds_moved"] == "no"
    await apply(api, found[0], Report(SubStatus.DELIVERED, "DONE"))
    await go_on(api, made["id"], window=2)
    assert (await batch(api, made["id"]))["state"] == "finalized"


async def test_terms_that_hold_no_more_fail_that_item_alone(api: Api) -> None:
    """Between creation and execution the custodian has come to refuse a payee."""
    made = await create(api, item(1), item(2))
    api.pricer.refuses = "the payee is closed"
    await api.call("POST", f"/payout-batches/{made['id']}/execute", body={})
    await api.context.db.run(steps(api).step, made["id"])
    await api.context.db.run(steps(api).step, made["id"])
    api.pricer.refuses = None
    await go_on(api, made["id"])
    told = await batch(api, made["id"])
    assert (told["state"], told["failed_count"]) == ("failed", 2)
    _, feed = await api.call("GET", "/events?type=payout.failed")
    assert feed["data"][0]["data"]["failure"]["custodian_code"] == "invalid_destination"


async def test_one_fault_among_ten_thousand(api: Api) -> None:
    """Found, named, and nothing is stored."""
    rows_ = [_ROW.format(n) for n in range(10_000)]
    rows_[7_123] = rows_[7_123].replace("1.5", "1.50000000001")
    status, problem = await upload(api, _HEAD + "".join(rows_))
    assert (status, len(problem["errors"])) == (422, 1)
    assert problem["errors"][0]["pointer"] == "/lines/7125/amount"
    _, page = await api.call("GET", "/payouts")
    assert page["data"] == []


async def test_eight_at_once_with_one_reference(api: Api) -> None:
    """One is taken; of the others nothing is left."""
    answers = await asyncio.gather(
        *(
            api.call(
                "POST",
                "/payout-batches",
                body={"source": SOURCE, "payouts": [item(100 + n), item(7)]},
                idempotency_key=f"k-{n}",
            )
            for n in range(8)
        )
    )
    assert sorted(status for status, _ in answers) == [201] + [422] * 7
    for status, told in answers:
        if status == 422:
            (error,) = told["errors"]
            assert (error["pointer"], error["code"]) == (
                "/payouts/1/reference",
                "duplicate_reference",
            )
    _, page = await api.call("GET", "/payouts")
    assert len(page["data"]) == 2
    assert await api.context.db.read(rows.stale_load, 2**62) is None
