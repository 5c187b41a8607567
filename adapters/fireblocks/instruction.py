"""The set of one instruction: what is ordered, what is told of it, whether the two are the same.

Source: fireblocks protocol notes, §3 (schemas). Members that the vendor declares as optional may be
missing; members that it does not declare (`name`) are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from adapters.fireblocks.statuses import clean
from gateway.adapter import CustodianAccountDestination, Echo, Order, Terms, format_amount


def request_of(order: Order, asset_id: str) -> dict[str, Any]:
    """Return the body of create; the same at every repeat."""
    return {
        "paymentAccount": {"id": order.source.id, "type": order.source.type},
        "instructionSet": [instruction_of(order, order.key("instruction"), asset_id)],
    }


def instruction_of(terms: Terms, key: str, asset_id: str) -> dict[str, Any]:
    """Return one instruction of a create."""
    payee = _payee(terms)
    return {
        "id": key,
        "payeeAccount": {"id": payee.id, "type": payee.account_type},
        "amount": {"amount": format_amount(terms.amount), "assetId": asset_id},
    }


def content_of(instruction: Mapping[str, Any]) -> tuple[object, ...] | None:
    """Return what an instruction pays to whom, for comparison; None where a part is not told."""
    amount = instruction.get("amount")
    told = amount if isinstance(amount, dict) else {}
    content = (
        account_of(instruction.get("payeeAccount")),
        clean(told.get("assetId")) or None,
        _decimal(told.get("amount")),
    )
    return None if None in content else content


def instructions_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the instructions of a set."""
    found = told.get("instructionSet")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def echo_of(order: Terms, asset_id: str | None, instruction: dict[str, Any]) -> Echo:
    """Return what Fireblocks says of the instruction beside what was ordered, in its words."""
    payee, amount = _payee(order), instruction.get("amount")
    told = amount if isinstance(amount, dict) else {}
    return Echo(
        asset=clean(told.get("assetId")) or None,
        amount=_decimal(told.get("amount")),
        destination=account_of(instruction.get("payeeAccount")),
        ordered_asset=asset_id,
        ordered_amount=order.amount,
        ordered_destination=f"{payee.account_type} {payee.id}",
    )


def misfits(order: Order, told: dict[str, Any], echo: Echo) -> tuple[str, ...]:
    """Return the members of a registered set that are not as ordered, or not told at all.

    Beside the differences of the echo, which tell of themselves.
    """
    found = []
    if account_of(told.get("paymentAccount")) != _source(order):
        found.append("paymentAccount")
    if not (isinstance(told.get("instructionSet"), list) and len(told["instructionSet"]) == 1):
        found.append("instructionSet")
    elif None in (echo.asset, echo.amount, echo.destination):
        found.append("instruction")
    return tuple(found)


def another_set(order: Order, told: dict[str, Any]) -> bool:
    """Whether a status speaks of another set, or of one that another account pays."""
    told_id = told.get("payoutId")
    return told_id not in {None, order.notes.get("payout_id")} or account_of(
        told.get("paymentAccount")
    ) not in {None, _source(order)}


def mine_of(order: Order, told: dict[str, Any]) -> dict[str, Any] | None:
    """Return our instruction: by the remembered id, else the only one there is."""
    instructions = instructions_of(told)
    wanted = order.notes.get("instruction_id")
    by_id = [each for each in instructions if wanted and each.get("id") == wanted]
    found = by_id or instructions
    return found[0] if len(found) == 1 else None


def payout_words(told: dict[str, Any]) -> str:
    """Return the words that a set has for itself, as one."""
    return "/".join(
        clean(told.get(name)) for name in ("state", "status", "reasonOfFailure") if told.get(name)
    )


def _payee(order: Terms) -> CustodianAccountDestination:
    payee = order.destination
    assert isinstance(payee, CustodianAccountDestination)  # noqa: S101 - checked before
    return payee


def _source(order: Order) -> str:
    return f"{order.source.type} {order.source.id}"


def account_of(value: object) -> str | None:
    """Return type and id of an account; None where one of them is not told."""
    if not isinstance(value, dict):
        return None
    kind, identifier = clean(value.get("type")), value.get("id")
    return f"{kind} {identifier}" if kind and isinstance(identifier, str) and identifier else None


def _decimal(value: object) -> Decimal | None:
    """Return an amount, from text only: a JSON number has lost digits already."""
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() else None
