"""Money that came back after a payout was delivered: what of it counts. Pure: told and known in, rows out.

A return changes no status. It frees no reference and allows no second payment: the payout was paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from gateway.adapter import Returned, format_amount


@dataclass(frozen=True)
class Known:
    """A return that was counted before: of this payout, or with one of its ids."""

    payout_id: str
    custodian_id: str | None
    amount: Decimal
    asset: str


@dataclass(frozen=True)
class Counted:
    """What is counted now, and what cannot be: it changes nothing and is for the operator."""

    returns: tuple[Returned, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def amount(self) -> Decimal:
        """The sum of what is counted now."""
        return sum((each.amount for each in self.returns), Decimal(0))


def count(
    payout_id: str, delivered: Decimal, asset: str, known: Sequence[Known], told: Sequence[Returned]
) -> Counted:
    """Return the reported returns that count. The same return again does not count."""
    counted: list[Returned] = []
    faults: list[str] = []
    seen = list(known)
    for each in told:
        amount = each.amount
        if each.id is None:
            amount -= sum(
                (one.amount for one in seen if one.payout_id == payout_id), start=Decimal(0)
            )
        same = next(
            (one for one in seen if each.id is not None and one.custodian_id == each.id), None
        )
        if same is not None:
            if (same.payout_id, same.amount, same.asset) != (payout_id, amount, each.asset):
                faults.append(_differs(each, same, payout_id))
            continue
        if each.id is None and amount <= 0:
            # An earlier total, reported again or late.
            continue
        fault = _fault(each, amount, payout_id, delivered, asset, seen)
        if fault is not None:
            faults.append(fault)
            continue
        counted.append(Returned(each.id, amount, each.asset, each.at, each.word))
        seen.append(Known(payout_id, each.id, amount, each.asset))
    return Counted(tuple(counted), tuple(faults))


def _fault(  # noqa: PLR0913 - what a return is compared with
    told: Returned,
    amount: Decimal,
    payout_id: str,
    delivered: Decimal,
    asset: str,
    seen: Sequence[Known],
) -> str | None:
    """Return why a return cannot be, or None."""
    ours = [each for each in seen if each.payout_id == payout_id]
    if told.asset != asset:
        return f"{_told(told)}: {asset} was delivered"
    if any((each.custodian_id is None) != (told.id is None) for each in ours):
        return f"{_told(told)}: totals and single returns of one payout cannot be added up"
    total = sum((each.amount for each in ours), start=amount)
    if total > delivered:
        return (
            f"{_told(told)}: with it {format_amount(total)} {asset} would have come back of "
            f"{format_amount(delivered)} delivered"
        )
    return None


def _differs(told: Returned, same: Known, payout_id: str) -> str:
    if same.payout_id != payout_id:
        return f"{_told(told)}: it is a return of {same.payout_id}"
    return f"{_told(told)}: it was {format_amount(same.amount)} {same.asset} before"


def _told(told: Returned) -> str:
    name = f"return {told.id}" if told.id is not None else "a total of returns"
    return f"{name} of {format_amount(told.amount)} {told.asset}"
