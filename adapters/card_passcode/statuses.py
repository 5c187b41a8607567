"""Maps the provider's statuses to ours; the only place that reads an execution.

Source: card-passcode protocol notes, §5 (ExecutionResponse), §6 (status), §7 (errors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from gateway.adapter import (
    Absent,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    Order,
    Ref,
    Report,
    SubStatus,
    Transaction,
)

STATUS_WORDS: Mapping[str, SubStatus] = {
    "PENDING": SubStatus.SUBMITTED,
    "PROCESSING": SubStatus.BROADCAST,
    "COMPLETED": SubStatus.DELIVERED,
    "FAILED": SubStatus.FAILED,
}

#: The failure code of a refused member of a request, by the first part of its path in the body.
FIELD_WORDS: Mapping[str, FailureCode] = {
    "payout_account_id": FailureCode.DESTINATION_REJECTED,
    "amount": FailureCode.AMOUNT_REJECTED,
}
_MOST_CHARS = 200


def read_amount(value: object) -> Decimal | None:
    """Return an amount that is a number or a text; None for anything else.

    The schema leaves the type open; the client reads JSON numbers as Decimal or int.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() else None


def text_of(value: object) -> str:
    """Return a text of the provider, bounded; empty for anything else."""
    return value.strip()[:_MOST_CHARS] if isinstance(value, str) else ""


def refused_code(fields: frozenset[str]) -> FailureCode:
    """Return our failure code for a request whose members were refused."""
    found = [FIELD_WORDS[each] for each in sorted(fields) if each in FIELD_WORDS]
    return found[0] if found else FailureCode.SUBMISSION_REJECTED


def read_execution(  # noqa: PLR0913 - what is told, and about what
    order: Order,
    reference_id: str,
    told: Mapping[str, Any],
    now: datetime,
    *,
    young: bool,
    named: bool,
) -> Report:
    """Read the state of an execution. Pure.

    `young` means that the passcode is so recent that it may still be refused; PROCESSING then does not
    count, and neither does it while an action is required. `named` tells whether the call was marked
    under its reference. The texts of the two message members are for the operator and decide nothing;
    only the presence of a wallet message without a provider message does.
    """
    status = text_of(told.get("status"))
    sub_status = STATUS_WORDS.get(status)
    odd = list(_oddities(reference_id, told))
    if sub_status is None:
        odd.append(status or "(none)")
    if odd:
        sub_status = None
    asks = told.get("requires_action") is True
    if asks:
        # This member belongs to card collections. A payout should never have it, and it cannot be
        # answered here. Until a person answers, the network does not have the payment.
        odd.append("requires_action")
    if sub_status is SubStatus.BROADCAST and (young or asks):
        sub_status = SubStatus.SUBMITTED
    transaction_id = text_of(told.get("provider_transaction_id"))
    transactions = (
        (Transaction(id=transaction_id, status=status, at=now),) if transaction_id else ()
    )
    messages = [text_of(told.get(name)) for name in ("gateway_message", "wallet_message")]
    return Report(
        sub_status,
        status,
        refs=(Ref("payout", reference_id),),
        transactions=transactions,
        failure=_failure(told) if sub_status is SubStatus.FAILED else None,
        echo=Echo(
            asset=text_of(told.get("payee_currency")) or None,
            amount=read_amount(told.get("payee_amount")),
            reference=text_of(told.get("reference_id")).lower() or None,
            ordered_asset=order.asset,
            ordered_amount=order.amount,
            ordered_reference=reference_id,
        ),
        custodian_reference=reference_id,
        unknown_words=tuple(odd),
        detail="; ".join(each for each in messages if each) or None,
        fees_paid_usd=_fees(told) if sub_status is SubStatus.DELIVERED else None,
        final_recipient_amount=_arrived(order, told) if sub_status is SubStatus.DELIVERED else None,
        reference=reference_id if named else None,
    )


def ended_unpaid(report: Report) -> bool:
    """Whether the execution is over for good and nothing moved."""
    return report.failure is not None and report.failure.funds_moved is FundsMoved.NO


def may_be_the_code(report: Report) -> bool:
    """Whether the passcode is the only known reason that it could have failed for."""
    return report.failure is not None and report.failure.code is FailureCode.UNKNOWN_REASON


def choose(found: Sequence[Report | Absent]) -> Report | Absent:
    """Return the decisive look of an order, which has one per reference, the latest reference first.

    An execution that is active or was paid counts before one that failed, and that before an absent
    one: an order is absent only if none of its references is known.
    """
    alive = [
        each
        for each in found
        if isinstance(each, Report) and each.sub_status is not SubStatus.FAILED
    ]
    if len(alive) > 1:
        twice = "; ".join(str(each.custodian_reference) for each in alive)
        return replace(alive[0], unknown_words=(f"more than one execution: {twice}",))
    ended = [each for each in found if isinstance(each, Report)]
    return next(iter((*alive, *ended, *found)))


def _oddities(reference_id: str, told: Mapping[str, Any]) -> list[str]:
    """Return the signs that this is not our payout."""
    found = []
    if text_of(told.get("reference_id")).lower() != reference_id:
        found.append("reference_id is another")
    operation = text_of(told.get("operation_type"))
    if operation != "PAYOUT":
        found.append(f"operation_type {operation or '(none)'}")
    return found


def _failure(told: Mapping[str, Any]) -> Failure:
    wallet = bool(text_of(told.get("wallet_message")))
    gateway = bool(text_of(told.get("gateway_message")))
    seen_by_network = bool(text_of(told.get("provider_transaction_id")))
    short = wallet and not gateway and not seen_by_network
    return Failure(
        code=FailureCode.INSUFFICIENT_FUNDS if short else FailureCode.UNKNOWN_REASON,
        message="The provider's wallet did not cover the payout."
        if short
        else "The provider ended the execution as FAILED.",
        custodian_code="FAILED",
        # The provider calls FAILED final and says to pay again. A payment with an id of the network is
        # still left to a person.
        funds_moved=FundsMoved.UNKNOWN if seen_by_network else FundsMoved.NO,
    )


def _arrived(order: Order, told: Mapping[str, Any]) -> Decimal | None:
    """Return what the recipient got, if it is reported in the order's currency."""
    payee = read_amount(told.get("payee_amount"))
    if payee is None or payee < 0 or text_of(told.get("payee_currency")) != order.asset:
        return None
    return payee


def _fees(told: Mapping[str, Any]) -> Decimal | None:
    """Return what the wallet paid in addition to the payout, if both are in US dollars."""
    payer, payee = read_amount(told.get("payer_amount")), read_amount(told.get("payee_amount"))
    if payer is None or payee is None or payer < payee:
        return None
    both = {told.get("payer_currency"), told.get("payee_currency")}
    return payer - payee if both == {"USD"} else None
