"""What the demo calls delivered: it is not content with less."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from gateway.demo.subscriber import Subscriber

#: What a batch tells besides its payouts.
BATCH_EVENTS = {"batch.executing", "batch.finalized"}
EVENTS = ("payout.created", "payout.broadcast", "payout.delivered")
#: What a payout that needs a person tells besides.
ASKED = "payout.requires_action"


@dataclass
class Case:
    """One payout of the demo: what is asked for, and what became of it."""

    amount: str
    payee: str
    destination: dict[str, str]
    #: where the custodian's ledger must show it; None: at an address of the provider's choice
    paid_to: str | None
    asset: str = "USDC"
    #: paid together with the others of which it is true, as one instruction set
    batched: bool = False
    payout: dict[str, Any] | None = None


def _was_asked(payout: dict[str, Any]) -> bool:
    return any(each["sub_status"] == "requires_action" for each in payout.get("timeline", ()))


def judge(
    console: Console,
    subscriber: Subscriber,
    cases: list[Case],
    transfers: list[dict[str, Any]],
) -> list[str]:
    """Print the summary; return what is missing, nothing if everything is as promised."""
    table = Table(title="Summary", title_justify="left")
    for column in ("payout", "amount", "status", "custodian's ledger", "webhooks verified"):
        table.add_column(column)
    missing: list[str] = []
    for case in cases:
        payout = case.payout or {}
        told = subscriber.types(payout["id"])
        paid = [each for each in transfers if _belongs(each, payout, case)]
        if payout["status"] != "delivered":
            missing.append(
                f"{payout['id']} is {payout['status']}/{payout['sub_status']}, not delivered; "
                f"failure: {payout['failure']}"
            )
        facts = [
            (Decimal(each["amount"]), each["asset"], case.paid_to and each["destination"])
            for each in paid
        ]
        if facts != [(Decimal(case.amount), case.asset, case.paid_to)]:
            missing.append(
                f"{payout['id']}: the ledger has {paid} instead of one transfer of "
                f"{case.amount} {case.asset} to {case.paid_to or case.payee}"
            )
        wanted = set(EVENTS) | ({ASKED} if _was_asked(payout) else set())
        if told != wanted:
            missing.append(f"{payout['id']}: webhooks missing: {sorted(wanted - told)}")
        table.add_row(
            payout["id"],
            f"{case.amount} {case.asset}",
            payout["status"],
            f"{len(paid)} transfer{'' if len(paid) == 1 else 's'}",
            f"{len(told)} of {len(wanted)}",
        )
    if len(transfers) != len(cases):
        missing.append(f"the ledgers have {len(transfers)} transfers, not {len(cases)}")
    if subscriber.refused:
        missing.append(f"{subscriber.refused} webhooks did not verify")
    console.print()
    console.print(table)
    return missing


def judge_batch(subscriber: Subscriber, batch: dict[str, Any]) -> list[str]:
    """Return what is missing of the batch itself."""
    missing = []
    if (batch["state"], batch["delivered_count"]) != ("finalized", batch["item_count"]):
        missing.append(
            f"{batch['id']} is {batch['state']}; {batch['delivered_count']} of "
            f"{batch['item_count']} delivered"
        )
    untold = sorted(BATCH_EVENTS - subscriber.types(batch["id"]))
    return [*missing, *([f"{batch['id']}: webhooks missing: {untold}"] if untold else [])]


def _belongs(transfer: dict[str, Any], payout: dict[str, Any], case: Case) -> bool:
    """Whether a ledger's entry names the payout: by the custodian's id of it, or of its transaction.

    Payouts of one set have the set's id in common: there payee and amount tell them apart.
    """
    same = (Decimal(transfer["amount"]), transfer["destination"]) == (
        Decimal(case.amount),
        case.paid_to,
    )
    if case.batched and not same:
        return False
    known = {payout["custodian_reference"], *(each["id"] for each in payout["transactions"])}
    return any(name and transfer["reference"].startswith(name) for name in known)
