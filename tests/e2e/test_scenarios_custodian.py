"""Custodians that answer about another's transfer, report news early, or are no longer configured."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.e2e.stack import DUMMY, FIREBLOCKS, Stack, eventually, stack
from tests.e2e.teller import Answer, custodian, tell, transfer
from tests.e2e.test_batches import create, ends, execute, item
from tests.e2e.witness import evidence, ledger_pays, more_looks, never_said_unpaid

pytestmark = pytest.mark.timeout(180)
_NOT_FOUND = (404, {"error": "not found"})


def edit(made: Stack, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration; the next gateway goes by it."""
    document = tomllib.loads(made.config.read_text())
    change(document)
    made.config.write_text(tomli_w.dumps(document))


def attention(made: Stack, payout_id: str) -> set[str]:
    """Return the codes on the operator's list for a payout."""
    rows = made.rows("SELECT code FROM attention WHERE payout_id = ?", payout_id)
    return {row["code"] for row in rows}


@pytest.mark.parametrize("where", ["reply", "look", "webhook"])
async def test_somebody_elses_transfer_delivers_nothing(tmp_path: Path, where: str) -> None:
    """The custodian mixes two payouts up: for the second it shows the transfer of the first, done.

    The second one is not delivered by that. An operator is called, and no further order to pay is
    sent, whatever the custodian says from then on.
    """
    first: dict[str, Any] = {}

    def on_pay(wanted: dict[str, Any]) -> Answer:
        if not first:
            first.update(transfer(wanted, "DONE"))
            return 201, first
        return (201, {**first, "key": wanted["key"]}) if where == "reply" else None

    def on_look(key: str) -> Answer:
        if key == first["key"] or where == "look":
            return 200, {**first, "key": key}
        return _NOT_FOUND

    async with (
        custodian(on_pay, on_look) as there,
        stack(tmp_path, rail=DUMMY, through=there.in_front_of, twin_webhooks=False) as made,
    ):
        # So long that absence proves nothing meanwhile.
        await made.start_gateway("--short-looks")
        paid = await made.pay()
        await made.reaches(paid, "delivered")
        mixed = await made.pay()
        if where == "webhook":
            await made.reaches(mixed, "outcome_unknown")
            secret = made.credentials["webhook_secret"]
            assert await tell(made.own_url, secret, first["id"], "DONE") == 200
        else:

            async def called_for() -> bool:
                return "foreign_ref" in attention(made, mixed)

            await eventually(called_for)
        await more_looks(made, mixed)
        payout = await made.payout(mixed)
        assert payout["status"] == "pending"
        never_said_unpaid(payout)
        never_said_unpaid(await made.payout(paid))
        orders = [each for each in there.orders if each["key"] != first["key"]]
        if where == "webhook":
            # It is news of the first one, which has ended; the second one goes on as before.
            assert "foreign_ref" not in attention(made, mixed)
        else:
            assert len(orders) == 1
            assert "foreign_ref" in await made.run("payouts", "list", "--attention")


@pytest.mark.parametrize("adapter", ["Teller", "Repeater"])
@pytest.mark.parametrize("told", [True, False], ids=["told", "silent"])
async def test_a_webhook_tells_of_money_while_the_outcome_is_unknown(
    tmp_path: Path, adapter: str, *, told: bool
) -> None:
    """The reply to an order is lost. A webhook says that its transfer was broadcast; then every look is empty.

    By the looks alone the order would be sent again, and where no webhook came it is. After the news
    it never is: neither because its absence seems proven, nor because a repeat with its key would be
    harmless.
    """
    made_there: dict[str, Any] = {}
    gone: list[bool] = []

    def on_pay(wanted: dict[str, Any]) -> Answer:
        made_there.update(transfer(wanted, "LIMBO", "t-1"))
        return None

    def on_look(_: str) -> Answer:
        # First it is shown with a word that nobody knows; later on not at all.
        return _NOT_FOUND if gone else (200, made_there)

    async with (
        custodian(on_pay, on_look) as there,
        stack(tmp_path, rail=DUMMY, through=there.in_front_of, twin_webhooks=False) as made,
    ):
        edit(made, lambda all_: all_["custodians"]["dummy"].update(adapter=adapter.lower()))
        await made.start_gateway("--quick", "--adapter", f"tests.e2e.teller:{adapter}")
        payout_id = await made.pay()

        async def shown() -> bool:
            return bool(made.rows("SELECT * FROM refs WHERE payout_id = ?", payout_id))

        await eventually(shown)
        never_said_unpaid(await made.reaches(payout_id, "outcome_unknown"))
        if told:
            secret = made.credentials["webhook_secret"]
            assert await tell(made.own_url, secret, "t-1", "SENT") == 200
            await made.reaches(payout_id, "broadcast")
        gone.append(True)
        if not told:

            async def again() -> bool:
                return len(there.orders) > 1

            await eventually(again)
            return
        await more_looks(made, payout_id, 8)
        assert len(there.orders) == 1
        payout = await made.payout(payout_id)
        assert payout["status"] == "broadcast"
        never_said_unpaid(payout)
        assert [each["source"] for each in evidence(made, payout_id, "news")] == ["webhook"]


async def test_a_custodian_that_is_not_configured_any_more(tmp_path: Path) -> None:
    """An instance is taken out of the configuration with a payout and three batches open there.

    The gateway starts, serves the other instance, shows what is open, and changes nothing about it.
    Put back, everything ends as if nothing had been.
    """
    async with stack(tmp_path, twin_webhooks=False) as made:
        edit(made, _with_retired)
        await made.steer(
            "PUT",
            "balances",
            {"balances": [{"account": "7", "asset": "EURC", "amount": "1000"}]},
        )
        await made.start_gateway("--short-looks")
        slow = await made.execute(await _quote_euros(made, "1.000407"))
        await made.reaches(slow, "confirming", seconds=40)
        begun, next_one, waiting = [
            await _batch(made, amounts) for amounts in (["2", "3"], ["8"], ["4"])
        ]
        await execute(made, begun)

        async def handed_over() -> bool:
            return bool((await _batch_now(made, begun))["parts"])

        await eventually(handed_over)
        await execute(made, next_one)
        unused = await _quote_euros(made, "9")
        await made.stop_gateways()
        edit(made, _without_retired)
        await _activate(made)
        gateway = await made.start_gateway("--short-looks", "--allow-removed")
        await made.reaches(await made.pay("5"), "delivered")
        other = await create(made, [item("6"), item("7")])
        await execute(made, other)
        assert (await ends(made, other))["state"] == "finalized"
        assert (await made.payout(slow))["status"] == "broadcast"
        for path, body in (
            ("/payouts", {"quote_id": unused}),
            (f"/payout-batches/{waiting['id']}/execute", None),
        ):
            # What was pinned to it is refused, neither paid by another custodian nor parked.
            status, problem = await made.call("POST", path, body)
            assert (status, problem["code"]) == (422, "route_unavailable"), path
        for batch in (begun, next_one, waiting):
            assert (await _batch_now(made, batch))["state"] not in {"finalized", "failed"}
        status, problem = await made.call("POST", f"/payouts/{slow}/cancel")
        assert status in {409, 503}, problem
        code, _, err = await made.command(
            *("payouts", "resolve", slow, "--yes", "--as", "failed", "--funds-moved", "no"),
            *("--evidence", "gone"),
        )
        # An operator may end it, but not as unpaid: its money was on its way.
        assert code == 1, err
        status, _ = await made.call("GET", "/readyz")
        assert status == 200
        assert "Traceback" not in gateway.told()
        assert "store_unavailable" not in gateway.told()
        await ledger_pays(made, ["5", "6", "7"])
        await made.stop_gateways()
        edit(made, _with_retired)
        await _activate(made)
        await made.start_gateway("--short-looks")
        await made.steer("POST", "clock", {"advance_s": 61})
        never_said_unpaid(await made.reaches(slow, "delivered", seconds=40))
        await execute(made, waiting)
        for batch in (begun, next_one, waiting):
            assert (await ends(made, batch, 40))["state"] == "finalized"
        await ledger_pays(made, ["1.000407", "2", "3", "4", "5", "6", "7", "8"])


async def _activate(made: Stack) -> None:
    """Let gateways pay by the changed routes."""
    code, out, err = await made.command("rules", "activate", "--reason", "a custodian is gone")
    assert code == 0, out + err


def _with_retired(document: dict[str, Any]) -> None:
    document["prices"] = {"usd": {"EURC": "1.08"}}
    custodians = document["custodians"]
    custodians["retired"] = {
        **custodians["fireblocks"],
        "assets": {"EURC": {"asset_id": "EURC", "network": "Ethereum"}},
    }
    route = document["routes"][0]
    document["routes"] = [
        {**route, "assets": ["USDC"]},
        {
            **route,
            "assets": ["EURC"],
            "custodian": "retired",
            "account": {"id": "7", "type": "VAULT_ACCOUNT"},
        },
    ]


def _without_retired(document: dict[str, Any]) -> None:
    del document["custodians"]["retired"]
    document["routes"] = [each for each in document["routes"] if each["custodian"] != "retired"]


async def _quote_euros(made: Stack, amount: str) -> str:
    status, quote = await made.call(
        "POST",
        "/payouts/quote",
        {
            "external_ref": "user-1",
            "asset": "EURC",
            "amount": amount,
            "destination": dict(FIREBLOCKS.destination),
        },
        idempotency_key=f"euros-{amount}",
    )
    assert status == 200, quote
    return str(quote["quote_id"])


async def _batch_now(made: Stack, batch: dict[str, Any]) -> dict[str, Any]:
    status, told = await made.call("GET", f"/payout-batches/{batch['id']}")
    assert status == 200
    return dict(told)


async def _batch(made: Stack, amounts: list[str]) -> dict[str, Any]:
    source = {"custodian": "retired", "account": {"id": "7", "type": "VAULT_ACCOUNT"}}
    items = [item(each, asset="EURC") for each in amounts]
    return await create(made, items, source=source)
