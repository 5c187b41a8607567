"""The fees of an instruction's transactions in US dollars, and the amount that arrived.

Source: the vendor's API description (`feeInfo`, `feeCurrency`, `amountInfo`). Only texts are read,
because a JSON number may have lost digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_UP, Decimal, InvalidOperation
from typing import Any

#: Fees are rounded up to millionths of a dollar; more digits of a fixed price would be noise.
_STEP = Decimal("0.000001")


def fees_usd(
    transactions: Sequence[Mapping[str, Any]], prices: Mapping[str, Decimal]
) -> Decimal | None:
    """Return the fees of all transactions; None if the fee of one is not reported or has no price."""
    found = [_fee(each, prices) for each in transactions]
    known = [each for each in found if each is not None]
    if not found or len(known) < len(found):
        return None
    return sum(known, Decimal(0)).quantize(_STEP, rounding=ROUND_UP)


def net_amount(transactions: Sequence[Mapping[str, Any]], asset_id: str | None) -> Decimal | None:
    """Return the amount that arrived after deductions: the `netAmount` of the only transaction.

    It is None if it is not reported, is of another asset, or if there are several transactions, because
    it is not reported which of them paid the recipient.
    """
    if len(transactions) != 1 or not asset_id or transactions[0].get("assetId") != asset_id:
        return None
    info = transactions[0].get("amountInfo")
    return _amount(info.get("netAmount")) if isinstance(info, Mapping) else None


def _fee(details: Mapping[str, Any], prices: Mapping[str, Decimal]) -> Decimal | None:
    """Return one transaction's fee, priced by Fireblocks or else by the configured prices."""
    info = details.get("feeInfo")
    info = info if isinstance(info, Mapping) else {}
    told = _amount(info.get("feeUSD"))
    if told is not None:
        return told
    network, service = _amount(info.get("networkFee")), _amount(info.get("serviceFee"))
    if network is None:
        return None
    parts = (
        (network, prices.get(str(details.get("feeCurrency")))),
        # An exchange deducts its fee from the asset that is paid.
        (service or Decimal(0), prices.get(str(details.get("assetId")))),
    )
    if any(amount and price is None for amount, price in parts):
        return None
    return sum((amount * price for amount, price in parts if price is not None), Decimal(0))


def _amount(value: object) -> Decimal | None:
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() and amount >= 0 else None
