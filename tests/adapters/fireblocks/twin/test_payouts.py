"""Tests of the life of a payout on the Fireblocks twin."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.fireblocks.twin.world import MAGIC, PAYEES, SOURCES
from tests.adapters.fireblocks.workspace import (
    EXTERNAL_WALLET,
    NETWORK_CONNECTION,
    STEP_S,
    Workspace,
    open_workspace,
    payout_body,
    still,
)

CREATE = "/v1/payments/payout"


async def test_create_registers_and_moves_nothing(workspace: Workspace) -> None:
    """The answer of create has every required member; however long one waits, it stays so."""
    payout = (await workspace.create("43")).json
    assert payout["state"] == "REQUESTED"
    assert payout["status"] == "REGISTERED"
    assert payout["initMethod"] == "API"
    assert payout["paymentAccount"] == {"id": "EX_SUB3", "type": "EXCHANGE_ACCOUNT"}
    (instruction,) = payout["instructionSet"]
    assert instruction["state"] == "NOT_STARTED"
    assert instruction["transactions"] == []
    assert instruction["amount"] == {"amount": "43", "assetId": "USDC"}
    await workspace.steer("POST", "clock", {"advance_s": 3 * 86_400})
    assert await workspace.payout(payout["payoutId"]) == payout
    assert await workspace.ledger() == []


async def test_a_payout_passes_every_stage(workspace: Workspace) -> None:
    """State, status, instruction and transaction words in order; money moves once, at the end."""
    payout_id = await workspace.started("4423.23", payee=("NETWORK_CONNECTION", NETWORK_CONNECTION))
    seen = []
    for _ in range(9):
        payout = await workspace.payout(payout_id)
        (instruction,) = payout["instructionSet"]
        transaction = instruction["transactions"][0]["state"] if instruction["transactions"] else ""
        money = len(await workspace.ledger())
        seen.append((payout["state"], payout["status"], instruction["state"], transaction, money))
        await workspace.steer("POST", "clock", {"advance_s": STEP_S})
    sent = ("SUBMITTED", "IN_PROGRESS", "TRANSACTION_SENT")
    expected: list[tuple[Any, ...]] = [
        ("REQUESTED", "REGISTERED", "NOT_STARTED", "", 0),
        ("TRANSLATED", "VERIFYING", "NOT_STARTED", "", 0),
        ("PROCESSING", "IN_PROGRESS", "NOT_STARTED", "", 0),
        (*sent, "SUBMITTED", 0),
        (*sent, "BROADCASTING", 0),
        (*sent, "CONFIRMING", 0),
        (*sent, "COMPLETED", 1),
        ("SUBMITTED", "IN_PROGRESS", "COMPLETED", "COMPLETED", 1),
        ("FINALIZED", "DONE", "COMPLETED", "COMPLETED", 1),
    ]
    assert seen == expected
    payout = await workspace.payout(payout_id)
    instruction_id = payout["instructionSet"][0]["id"]
    (transfer,) = await workspace.ledger()
    assert transfer.pop("at").endswith("Z")
    assert transfer == {
        "reference": f"{payout_id}/{instruction_id}",
        "source": "EX_SUB3",
        "destination": NETWORK_CONNECTION,
        "asset": "USDC",
        "amount": "4423.23",
    }


async def test_a_transaction_shows_its_details(workspace: Workspace) -> None:
    """Exact amounts as text, the hash from broadcasting on, times in milliseconds."""
    payout_id = await workspace.started("43.5", source=("VAULT_ACCOUNT", "7"))
    await workspace.steps(3)
    (summary,) = (await workspace.payout(payout_id))["instructionSet"][0]["transactions"]
    before = await workspace.transaction(summary["id"])
    assert "txHash" not in before
    await workspace.steps(1)
    after = await workspace.transaction(summary["id"])
    assert after["status"] == "BROADCASTING"
    assert after["txHash"].startswith("0x")
    assert len(after["txHash"]) == 66
    await workspace.steps(2)
    final = await workspace.transaction(summary["id"])
    assert final["txHash"] == after["txHash"]
    assert (final["status"], final["subStatus"]) == ("COMPLETED", "CONFIRMED")
    assert final["amountInfo"]["amount"] == "43.5"
    assert final["destination"]["id"] == EXTERNAL_WALLET
    assert final["lastUpdated"] > final["createdAt"] > 10**12
    assert summary["instructionId"] in (await workspace.ledger())[0]["reference"]
    assert 10**9 < summary["timestamp"] < 10**10


async def test_fiat_has_no_hash(workspace: Workspace) -> None:
    """A bank transfer ends without a transaction hash."""
    payout_id = await workspace.started(
        "10.25", source=("FIAT_ACCOUNT", "FIAT1"), payee=("FIAT_ACCOUNT", "FIAT2"), asset="USD"
    )
    await workspace.steps(8)
    payout = await workspace.payout(payout_id)
    assert payout["state"] == "FINALIZED"
    transaction_id = payout["instructionSet"][0]["transactions"][0]["id"]
    assert "txHash" not in await workspace.transaction(transaction_id)


@pytest.mark.parametrize("source", [s for s in SOURCES if s[0] != "FIAT_ACCOUNT"], ids=str)
@pytest.mark.parametrize("payee", PAYEES, ids=str)
async def test_every_kind_of_account(
    workspace: Workspace, source: tuple[str, str], payee: tuple[str, str]
) -> None:
    """All six payee kinds and the crypto sources pay out."""
    payout_id = await workspace.started("1", source=source, payee=payee)
    await workspace.steps(8)
    assert (await workspace.payout(payout_id))["status"] == "DONE"
    assert [(t["source"], t["destination"]) for t in await workspace.ledger()] == [
        (source[1], payee[1])
    ]


@pytest.mark.parametrize("server_ids", [True, False])
@pytest.mark.parametrize("reorder", [True, False])
async def test_instructions_come_back_as_switched(server_ids: bool, reorder: bool) -> None:
    """Ids are the server's or the caller's, the order turned or kept."""
    async with open_workspace(
        server_instruction_ids=server_ids, reorder_instructions=reorder
    ) as workspace:
        body = payout_body("1", "2", "3")
        for number, instruction in enumerate(body["instructionSet"]):
            instruction["id"] = f"ins-{number}"
        made = (await workspace.call("POST", CREATE, body)).json["instructionSet"]
        amounts = [instruction["amount"]["amount"] for instruction in made]
        assert amounts == (["3", "2", "1"] if reorder else ["1", "2", "3"])
        ids = sorted(instruction["id"] for instruction in made)
        assert (ids == ["ins-0", "ins-1", "ins-2"]) is not server_ids


async def test_a_payout_is_executed_once(workspace: Workspace) -> None:
    """The second execute is a 400, or a 200 that does nothing when switched; money moves once."""
    payout_id = await workspace.started("43")
    assert (await workspace.execute(payout_id)).error == (400, "VALIDATION")
    await workspace.steer("PUT", "settings", {"second_execute": "accepted"})
    assert (await workspace.execute(payout_id)).status == 200
    await workspace.steps(8)
    assert (await workspace.execute(payout_id)).status == 200
    await workspace.steps(8)
    assert len(await workspace.ledger()) == 1


async def test_one_payout_per_account_runs_at_a_time(workspace: Workspace) -> None:
    """Others wait in the order of execution and look unexecuted; another account is free."""
    first, second, third = [await workspace.started(amount) for amount in ("1", "2", "3")]
    other = await workspace.started("4", source=("VAULT_ACCOUNT", "7"))
    await workspace.steps(7)
    assert (await workspace.payout(second))["state"] == "REQUESTED"
    await workspace.steps(1)
    assert (await workspace.payout(first))["state"] == "FINALIZED"
    assert (await workspace.payout(other))["state"] == "FINALIZED"
    await workspace.steps(8)
    assert (await workspace.payout(second))["state"] == "FINALIZED"
    assert (await workspace.payout(third))["state"] == "REQUESTED"
    await workspace.steps(8)
    assert [t["amount"] for t in await workspace.ledger()] == ["1", "4", "2", "3"]


async def test_a_locked_account_can_refuse(workspace: Workspace) -> None:
    """With the switch, execute on a busy account is a 400 and may be tried again later."""
    await workspace.steer("PUT", "settings", {"locked_source": "refused"})
    await workspace.started("1")
    payout_id = (await workspace.create("2")).json["payoutId"]
    assert (await workspace.execute(payout_id)).error == (400, "VALIDATION")
    await workspace.steps(8)
    assert (await workspace.execute(payout_id)).status == 200


async def test_the_whole_set_must_be_covered(workspace: Workspace) -> None:
    """All or wait: one unit short keeps the whole set back, funding lets it go on by itself."""
    await workspace.steer("PUT", "balances", _balance("99"))
    payout_id = await workspace.started("60", "40")
    waiting = await workspace.started("1")
    await workspace.steps(20)
    payout = await workspace.payout(payout_id)
    assert (payout["state"], payout["status"]) == ("INSUFFICIENT_BALANCE", "INSUFFICIENT_BALANCE")
    assert await workspace.ledger() == []
    assert (await workspace.payout(waiting))["state"] == "REQUESTED"
    await workspace.steer("PUT", "balances", _balance("99.999999"))
    await workspace.steps(1)
    assert (await workspace.payout(payout_id))["state"] == "INSUFFICIENT_BALANCE"
    await workspace.steer("PUT", "balances", _balance("100"))
    await workspace.steps(8)
    assert (await workspace.payout(payout_id))["state"] == "FINALIZED"
    assert len(await workspace.ledger()) == 2


async def test_unfunded_payouts_fail_at_midnight_utc(workspace: Workspace) -> None:
    """A minute before midnight it waits; at midnight it fails and frees the account."""
    await workspace.steer("PUT", "balances", _balance("1"))
    payout_id = await workspace.started("2")
    waiting = await workspace.started("1")
    await workspace.steer("POST", "clock", {"advance_s": 12 * 3600 - 60})  # 23:59 UTC
    assert (await workspace.payout(payout_id))["state"] == "INSUFFICIENT_BALANCE"
    await workspace.steer("POST", "clock", {"advance_s": 61})
    payout = await workspace.payout(payout_id)
    assert (payout["state"], payout["status"]) == ("FAILED", "FAILED")
    assert payout["reasonOfFailure"] == "INSUFFICIENT_BALANCE"
    assert payout["instructionSet"][0]["state"] == "NOT_STARTED"
    await workspace.steer("PUT", "balances", _balance("50"))
    await workspace.steps(9)
    assert (await workspace.payout(payout_id))["state"] == "FAILED"
    assert (await workspace.payout(waiting))["state"] == "FINALIZED"


async def test_balances_follow_the_money(workspace: Workspace) -> None:
    """A running payout holds its amount, a failed transaction gives it back, a good one keeps it."""
    assert await _free(workspace) == "1000000"
    await workspace.started("10.000410")
    await workspace.steps(2)
    assert await _free(workspace) == "999989.999590"
    await workspace.steps(6)
    assert await _free(workspace) == "1000000.000000"
    await workspace.started("10")
    await workspace.steps(8)
    assert await _free(workspace) == "999990.000000"


def _balance(amount: str) -> dict[str, Any]:
    return {"balances": [{"account": "EX_SUB3", "asset": "USDC", "amount": amount}]}


async def _free(workspace: Workspace) -> str:
    rows = (await workspace.steer("GET", "balances"))["balances"]
    (amount,) = [r["amount"] for r in rows if (r["account"], r["asset"]) == ("EX_SUB3", "USDC")]
    return str(amount)


async def test_short_of_funds_by_magic(workspace: Workspace) -> None:
    """.000401 waits whatever the balance, until a balance is set."""
    payout_id = await workspace.started("43.000401")
    await workspace.steps(5)
    assert (await workspace.payout(payout_id))["state"] == "INSUFFICIENT_BALANCE"
    await workspace.steer("PUT", "balances", _balance("1000000"))
    await workspace.steps(8)
    assert (await workspace.payout(payout_id))["state"] == "FINALIZED"


@pytest.mark.parametrize(
    ("fraction", "state", "payout_state", "reason"),
    [
        ("402", "FAILED", "FAILED", "TRANSACTION_SUBMISSION"),
        ("403", "SKIPPED", "FINALIZED", None),
        ("404", "TRANSLATION_ERROR", "FAILED", "DESTINATION_TRANSLATION"),
    ],
)
async def test_magic_ends_before_a_transaction(
    workspace: Workspace, fraction: str, state: str, payout_state: str, reason: str | None
) -> None:
    """Nothing was sent for this instruction; the other one of the set is paid all the same."""
    payout_id = await workspace.started(f"43.000{fraction}", "7")
    await workspace.steps(8)
    payout = await workspace.payout(payout_id)
    states = {i["amount"]["amount"]: i["state"] for i in payout["instructionSet"]}
    assert states == {f"43.000{fraction}": state, "7": "COMPLETED"}
    assert (payout["state"], payout.get("reasonOfFailure")) == (payout_state, reason)
    assert [t["amount"] for t in await workspace.ledger()] == ["7"]


@pytest.mark.parametrize(
    ("fraction", "steps_before", "held", "wait_s", "instruction"),
    [
        ("405", 4, "PENDING_AUTHORIZATION", 30, "TRANSACTION_SENT"),
        ("407", 5, "CONFIRMING", 60, "TRANSACTION_SENT"),
        ("408", 4, "PENDING_STARLIGHT", 3600, "UNDER_THE_STARS"),
    ],
)
async def test_magic_holds_then_goes_through(
    fraction: str, steps_before: int, held: str, wait_s: int, instruction: str
) -> None:
    """The transaction waits so long by the twin's clock, shown everywhere, then completes."""
    async with open_workspace(still, step_s=1) as workspace:
        payout_id = await workspace.started(f"43.000{fraction}")
        await workspace.steer("POST", "clock", {"advance_s": steps_before + 0.5})
        for advance_s in (wait_s - 1.5, 0):
            (row,) = (await workspace.payout(payout_id))["instructionSet"]
            assert (row["state"], row["transactions"][0]["state"]) == (instruction, held)
            transaction = await workspace.transaction(row["transactions"][0]["id"])
            assert transaction["status"] == held
            await workspace.steer("POST", "clock", {"advance_s": advance_s})
        assert await workspace.ledger() == []
        await workspace.steer("POST", "clock", {"advance_s": 8})
        assert (await workspace.payout(payout_id))["state"] == "FINALIZED"
        assert len(await workspace.ledger()) == 1


@pytest.mark.parametrize(
    ("fraction", "status", "sub_status", "instruction", "state", "moved", "hashed"),
    [
        ("406", "COMPLETED", "COMPLETED_BUT_3RD_PARTY_FAILED", "COMPLETED", "FINALIZED", 1, False),
        ("409", "REJECTED", "BLOCKED_BY_POLICY", "FAILED", "FAILED", 0, False),
        ("410", "FAILED", "SMART_CONTRACT_EXECUTION_FAILED", "FAILED", "FAILED", 0, False),
        ("411", "REJECTED", "REJECTED_AML_SCREENING", "FAILED", "FAILED", 0, False),
    ],
)
async def test_magic_ends_of_a_transaction(
    workspace: Workspace,
    fraction: str,
    status: str,
    sub_status: str,
    instruction: str,
    state: str,
    moved: int,
    hashed: bool,
) -> None:
    """Status, sub-status, instruction, payout and ledger for each bad end."""
    payout_id = await workspace.started(f"43.000{fraction}")
    await workspace.steps(8)
    payout = await workspace.payout(payout_id)
    (row,) = payout["instructionSet"]
    assert (payout["state"], row["state"]) == (state, instruction)
    transaction = await workspace.transaction(row["transactions"][0]["id"])
    assert (transaction["status"], transaction["subStatus"]) == (status, sub_status)
    assert ("txHash" in transaction) is hashed
    assert len(await workspace.ledger()) == moved


async def test_aml_screening_takes_30_seconds() -> None:
    """.000411 is held for screening before it is rejected."""
    async with open_workspace(still, step_s=1) as workspace:
        payout_id = await workspace.started("43.000411")
        await workspace.steer("POST", "clock", {"advance_s": 33})
        (row,) = (await workspace.payout(payout_id))["instructionSet"]
        assert row["transactions"][0]["state"] == "PENDING_AML_SCREENING"
        await workspace.steer("POST", "clock", {"advance_s": 2})
        (row,) = (await workspace.payout(payout_id))["instructionSet"]
        assert row["transactions"][0]["state"] == "REJECTED"


def test_every_magic_amount_is_in_the_docstring() -> None:
    """The table people read is the data the twin runs on."""
    from adapters.fireblocks.twin import app  # noqa: PLC0415 - its docstring is the subject

    rows = {
        line.split("|")[1].strip(): line.split("|")[2].strip()
        for line in (app.__doc__ or "").splitlines()
        if line.startswith("| .")
    }
    assert rows == {f"{fraction}"[1:]: course.meaning for fraction, course in MAGIC.items()}
