"""Instruction sets: the request, the assignment of instructions to items, and their comparison.

A single payout is a set of one. Source: fireblocks protocol notes, §3 (schemas). Members that the vendor
declares as optional may be missing; members that it does not declare (`name`) are ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from adapters.fireblocks.statuses import clean
from gateway.adapter import (
    Account,
    BatchItem,
    BatchOrder,
    CustodianAccountDestination,
    Echo,
    Terms,
    format_amount,
)

#: Returns Fireblocks' id of an asset on its network; None if none is configured.
AssetIds = Callable[[Terms], str | None]


def request_of(batch: BatchOrder, asset_id: AssetIds) -> dict[str, Any]:
    """Return the body of create, which is the same at every repeat."""
    return {
        "paymentAccount": {"id": batch.source.id, "type": batch.source.type},
        "instructionSet": [_instruction_of(item, asset_id) for item in batch.items],
    }


def _instruction_of(item: BatchItem, asset_id: AssetIds) -> dict[str, Any]:
    payee = _payee(item)
    return {
        "id": item.key,
        "payeeAccount": {"id": payee.id, "type": payee.account_type},
        "amount": {"amount": format_amount(item.amount), "assetId": asset_id(item) or ""},
    }


def instructions_of(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the instructions of a set."""
    found = told.get("instructionSet")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def assign(
    items: Sequence[BatchItem], told: Sequence[Mapping[str, Any]], asset_id: AssetIds
) -> dict[str, int] | None:
    """Assign instructions to items, by our id if it is echoed and otherwise by what they pay.

    The content of every instruction must match the order; None if one does not. Equal items (same
    payee, asset and amount) are assigned in order, because they are interchangeable.
    """
    if len(told) != len(items):
        return None
    by_id = _by_id(told)
    echoed = len(by_id) == len(told) and all(item.key in by_id for item in items)
    by_content: dict[Any, deque[int]] = {}
    for at, each in enumerate(told):
        by_content.setdefault(_content_of(each), deque()).append(at)
    mapping = {}
    for item in items:
        wanted = _content_of(_instruction_of(item, asset_id))
        places = by_content.get(wanted)
        if wanted is None or not places:
            return None
        at = by_id[item.key] if echoed else places.popleft()
        if _content_of(told[at]) != wanted:
            return None
        mapping[item.payout_id] = at
    return mapping


def candidate_of(
    batch: BatchOrder, item: BatchItem, told: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the instruction that seems to be an item's, even if it pays something else."""
    at = _by_id(told).get(item.key)
    if at is None and len(batch.items) == 1 and told:
        at = 0
    return None if at is None else told[at]


def mine_of(
    batch: BatchOrder, item: BatchItem, told: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the instruction of an item, by what was remembered.

    It is found by its id, or by its place if there is none. The instruction of a set of one may also
    have a changed id; the comparison with the order says whether it is ours.
    """
    known = instruction_id_of(batch, item)
    if known:
        at = _by_id(told).get(known)
    else:
        at = batch.notes.get("positions", {}).get(item.payout_id)
        if len(told) != len(batch.items):
            at = None
    if at is None and len(batch.items) == len(told) == 1:
        at = 0
    return None if at is None else told[at]


def instruction_id_of(batch: BatchOrder, item: BatchItem) -> str | None:
    """Return the remembered id of an item's instruction.

    Single payouts that were created before sets of one existed remember `instruction_id` instead.
    """
    ids = batch.notes.get("instructions", {})
    known = ids.get(item.payout_id) or batch.notes.get("instruction_id")
    return str(known) if known else None


def echo_of(
    item: BatchItem,
    asset_id: str | None,
    instruction: Mapping[str, Any],
    ordered_reference: str | None,
) -> Echo:
    """Return Fireblocks' values of an instruction with the ordered ones, in its notation.

    `ordered_reference` is the id that the instruction must have; None if the workspace assigns its own
    ids.
    """
    payee, amount = _payee(item), instruction.get("amount")
    told = amount if isinstance(amount, dict) else {}
    told_id = instruction.get("id")
    return Echo(
        asset=clean(told.get("assetId")) or None,
        amount=_decimal(told.get("amount")),
        destination=account_of(instruction.get("payeeAccount")),
        reference=str(told_id) if told_id and ordered_reference else None,
        ordered_asset=asset_id,
        ordered_amount=item.amount,
        ordered_destination=f"{payee.account_type} {payee.id}",
        ordered_reference=ordered_reference,
    )


def echoed_key(batch: BatchOrder, item: BatchItem) -> str | None:
    """Return our own id of an instruction, if the workspace took it over at create; else None."""
    known = instruction_id_of(batch, item)
    # In earlier versions, a single payout's instruction had the key of its step.
    return known if known in {item.key, batch.key("instruction")} else None


def another_set(batch: BatchOrder, told: Mapping[str, Any]) -> bool:
    """Whether a status is about another set, or about a set that another account pays."""
    account = account_of(told.get("paymentAccount"))
    return told.get("payoutId") not in {None, batch.notes.get("payout_id")} or (
        account not in {None, words_of_account(batch.source)}
    )


def payout_words(told: Mapping[str, Any]) -> str:
    """Return the statuses of a set, joined to one text."""
    return "/".join(
        clean(told.get(name)) for name in ("state", "status", "reasonOfFailure") if told.get(name)
    )


def account_of(value: object) -> str | None:
    """Return type and id of an account; None if one of them is not reported."""
    if not isinstance(value, dict):
        return None
    kind, identifier = clean(value.get("type")), value.get("id")
    return f"{kind} {identifier}" if kind and isinstance(identifier, str) and identifier else None


def words_of_account(source: Account) -> str:
    """Return our account in the same form."""
    return f"{source.type} {source.id}"


def _by_id(told: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the places of instructions by id; an id that occurs twice identifies none."""
    ids = [str(each.get("id") or "") for each in told]
    return {each: at for at, each in enumerate(ids) if each and ids.count(each) == 1}


def _content_of(instruction: Mapping[str, Any]) -> tuple[object, ...] | None:
    """Return amount, asset and payee of an instruction, for comparison; None if a part is not reported."""
    amount = instruction.get("amount")
    told = amount if isinstance(amount, dict) else {}
    content = (
        account_of(instruction.get("payeeAccount")),
        clean(told.get("assetId")) or None,
        _decimal(told.get("amount")),
    )
    return None if None in content else content


def _payee(terms: Terms) -> CustodianAccountDestination:
    payee = terms.destination
    assert isinstance(payee, CustodianAccountDestination)  # noqa: S101 - checked before
    return payee


def _decimal(value: object) -> Decimal | None:
    """Return an amount, from text only, because a JSON number may have lost digits."""
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() else None
