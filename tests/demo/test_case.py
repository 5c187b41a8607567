"""What the demo calls delivered: it must not be content with less."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from gateway.demo.judge import Case, judge, judge_batch
from gateway.demo.subscriber import Subscriber

EVENTS = ("payout.created", "payout.broadcast", "payout.delivered")
World = tuple[Subscriber, list[Case], list[dict[str, Any]]]


def world() -> World:
    """A demo in which all went well."""
    cases = [
        Case(
            amount,
            f"EXTERNAL_WALLET payee-{number}",
            {"type": "custodian_account"},
            f"payee-{number}",
            payout={
                "id": f"pay_{number}",
                "custodian_reference": f"ref-{number}",
                "status": "delivered",
                "sub_status": "delivered",
                "failure": None,
                "transactions": [],
            },
        )
        for number, amount in enumerate(("43", "4423"))
    ]
    subscriber = Subscriber(Console(file=io.StringIO()))
    for case in cases:
        assert case.payout is not None
        for kind in EVENTS:
            subscriber.verified[f"{case.payout['id']}-{kind}"] = (case.payout["id"], kind)
    transfers = [
        {
            "reference": f"ref-{number}/1",
            "asset": "USDC",
            "amount": f"{case.amount}.00",
            "destination": case.paid_to,
        }
        for number, case in enumerate(cases)
    ]
    return subscriber, cases, transfers


def missing(made: World) -> list[str]:
    """Judge without a screen."""
    return judge(Console(file=io.StringIO()), *made)


def test_all_is_well() -> None:
    """Nothing is missing."""
    assert missing(world()) == []


def test_an_off_ramp_is_found_by_its_transaction() -> None:
    """The ledger names the settling transfer, and an address that nobody could know before."""
    made = world()
    assert made[1][0].payout is not None
    made[1][0].paid_to = None
    made[1][0].payout["transactions"] = [{"id": "xfr-1"}]
    made[2][0] |= {"reference": "xfr-1", "destination": "0xdeposit"}
    assert missing(made) == []


def _not_delivered(made: World) -> None:
    assert made[1][0].payout is not None
    made[1][0].payout |= {"status": "pending", "sub_status": "outcome_unknown"}


def _no_reference(made: World) -> None:
    assert made[1][0].payout is not None
    made[1][0].payout["custodian_reference"] = None


def _paid_twice(made: World) -> None:
    made[2].append(made[2][0])


def _not_paid(made: World) -> None:
    made[2].pop()


def _wrong_amount(made: World) -> None:
    made[2][0]["amount"] = "43.01"


def _wrong_payee(made: World) -> None:
    made[2][0]["destination"] = "somebody"


def _a_strange_transfer(made: World) -> None:
    made[2].append({**made[2][0], "reference": "ref-of-nobody"})


def _a_webhook_is_lost(made: World) -> None:
    made[0].verified.popitem()


def _a_webhook_did_not_verify(made: World) -> None:
    made[0].refused = 1


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (_not_delivered, "pay_0 is pending/outcome_unknown, not delivered"),
        (_no_reference, "pay_0: the ledger has [] instead of one transfer of 43 USDC"),
        (_paid_twice, "the ledgers have 3 transfers, not 2"),
        (_not_paid, "pay_1: the ledger has [] instead of one transfer of 4423 USDC"),
        (_wrong_amount, "instead of one transfer of 43 USDC to payee-0"),
        (_wrong_payee, "instead of one transfer of 43 USDC to payee-0"),
        (_a_strange_transfer, "the ledgers have 3 transfers, not 2"),
        (_a_webhook_is_lost, "pay_1: webhooks missing: ['payout.delivered']"),
        (_a_webhook_did_not_verify, "1 webhooks did not verify"),
    ],
)
def test_anything_less_is_said(harm: Callable[[World], None], word: str) -> None:
    """Each thing that is not as promised is a line, and so the exit code is 1."""
    made = world()
    harm(made)
    assert any(word in line for line in missing(made))


def test_a_batch_is_judged_too() -> None:
    """By its state, its count, and both of its events."""
    subscriber, _, _ = world()
    batch = {"id": "bat_1", "state": "finalized", "delivered_count": 2, "item_count": 2}
    assert "webhooks missing" in judge_batch(subscriber, batch)[0]
    for kind in ("batch.executing", "batch.finalized"):
        subscriber.verified[kind] = ("bat_1", kind)
    assert judge_batch(subscriber, batch) == []
    (line,) = judge_batch(subscriber, {**batch, "delivered_count": 1})
    assert "1 of 2" in line
    (line,) = judge_batch(subscriber, {**batch, "state": "failed"})
    assert "failed" in line


def test_payouts_of_one_set_are_told_apart() -> None:
    """They have the set's id in common."""
    subscriber, cases, transfers = world()
    for case, transfer in zip(cases, transfers, strict=True):
        assert case.payout is not None
        case.batched = True
        case.payout["custodian_reference"] = "set-1"
        transfer["reference"] = "set-1/" + transfer["reference"]
    assert missing((subscriber, cases, transfers)) == []
    transfers[0]["amount"] = "44"
    assert missing((subscriber, cases, transfers))
