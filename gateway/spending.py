"""Limits on what is spent: checked at the quote, counted when a payout is accepted, given back if unpaid.

What is counted is counted once: a retry, another execution or a failover changes nothing. Only an end with
`funds_moved: no` gives it back, to the window that it was counted in; an unknown outcome is spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from gateway.assets import EXACT
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.model import Account, QuoteTerms
from gateway.spending_rules import (
    Claim,
    Counter,
    Rules,
    Spend,
    destination_of,
    digest_of_destination,
    spend_for,
    taken,
)
from gateway.store import batches as batch_rows
from gateway.store import spending as rows
from gateway.store.database import Row, Tx
from gateway.store.payouts import payout_row

_PAGE = 500
#: Payouts and batches that are looked into for the payee of a counter: of some it may be erased.
_OWNERS = 5


@dataclass(frozen=True)
class Held:
    """Counters that are locked: what is added to them, and how they stand after it."""

    claims: Sequence[Claim]
    after: Mapping[str, Counter]


class Spending:
    """The limits of a gateway. Its async methods are store functions."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    @property
    def rules(self) -> Rules:
        """What holds, without what was counted so far."""
        return self._rules

    @property
    def counts(self) -> bool:
        """Whether anything is counted."""
        return bool(self._rules.counts)

    async def hold(self, tx: Tx, caller: Caller, quote: Row, now: datetime) -> Held | None:
        """Lock the counters of an unused quote; nothing is written. Refused: `limit_exceeded`.

        A refusal may be kept as the answer to an idempotency key, with all that was written before it: so
        whatever may refuse comes first. None: nothing is counted.
        """
        return await self._hold(tx, [spend_of(quote, caller.key_id)], now) if self.counts else None

    async def would_refuse(self, tx: Tx, spend: Spend, now: datetime) -> Refused | None:
        """Return what would refuse a payout at this moment; None: nothing. A dry run: nothing is locked."""
        try:
            self._rules.check(spend)
            claims = self._rules.claims([spend], now) if self._rules.counts else []
            taken(claims, await rows.read_counters(tx, [each.counter for each in claims]))
        except Refused as refused:
            return refused
        return None

    async def _hold(self, tx: Tx, spends: Sequence[Spend], now: datetime) -> Held | None:
        for each in spends:
            self._rules.check(each)
        claims = self._rules.claims(spends, now) if self._rules.counts else []
        if not claims:
            return None
        counters = await rows.lock_counters(tx, [each.counter for each in claims])
        return Held(claims, taken(claims, counters))

    @staticmethod
    async def write(tx: Tx, owner_id: str, held: Held) -> None:
        """Count what was held, in the transaction that holds it, for a payout or a whole batch."""
        await rows.take_counters(tx, held.after, held.claims)
        await rows.add_entries(tx, owner_id, held.claims)

    async def take_batch(
        self,
        tx: Tx,
        batch: Row,
        key_id: str,
        now: datetime,
        amounts: Sequence[Row] | None = None,
    ) -> None:
        """Count a batch that is being executed: the whole sum of it. Refused: `limit_exceeded`.

        `amounts`: what `store.batches.amounts` has returned, where that was read before the transaction.
        """
        if self._rules.by_destination:
            spends = [spend_of(each, key_id) for each in await _items(tx, batch)]
        else:
            account = Account.model_validate_json(batch["account"])
            if amounts is None:
                amounts = await batch_rows.amounts(tx, batch["id"])
            spends = [
                Spend(
                    batch["org"],
                    batch["mode"],
                    key_id,
                    batch["custodian"],
                    account,
                    row["asset"],
                    "",
                    Decimal(row["amount"]),
                    row["n"],
                )
                for row in amounts
                if row["status"] == "pending"
            ]
        held = await self._hold(tx, spends, now)
        if held is not None:
            await self.write(tx, batch["id"], held)


async def give_back(tx: Tx, payout: Row | Mapping[str, object]) -> None:
    """Give back what a payout was counted with. To be called once, when it ends as not paid.

    By what was stored then, and by no configuration: an operator's command does it as the gateway does.
    """
    owners = [payout["id"], *([payout["batch_id"]] if payout["batch_id"] else [])]
    found = await rows.entries_of(tx, [str(each) for each in owners])
    if not found:
        return
    terms = QuoteTerms.model_validate_json(str(payout["terms"]))
    destination = digest_of_destination(destination_of(terms.destination))
    parts = [
        (row["counter_id"], part)
        for row in found
        if (part := _part(row, terms, destination)) is not None
    ]
    counters = await rows.lock_counters(tx, (counter for counter, _ in parts))
    for counter, part in parts:
        known = counters[counter]
        amount = EXACT.subtract(known.amount, part.amount)
        counters[counter] = Counter(known.count - part.count, amount)
    await rows.write_counters(tx, counters)
    if any(row["owner_id"] == payout["id"] for row in found):
        await rows.drop_entries(tx, str(payout["id"]))


def _part(row: Row, terms: QuoteTerms, destination: str) -> Counter | None:
    """Return what one payout has of an entry; None if the entry is not about it."""
    if row["asset"] != terms.asset or row["destination"] not in {None, destination}:
        return None
    if not row["counts_amount"]:
        return Counter(1)
    counter_in_asset = row["price"] is None
    if counter_in_asset and Decimal(row["amount"]) == 0:
        # It had no price when it was counted.
        return Counter(1)
    price = Decimal(1) if counter_in_asset else Decimal(row["price"])
    return Counter(1, EXACT.multiply(terms.amount, price))


async def _items(tx: Tx, batch: Row, *, pending: bool = True) -> list[Row]:
    """Return the items of a batch, or only those that are still to be paid."""
    found: list[Row] = []
    after = -1
    while page := await batch_rows.items_page(tx, batch["id"], after, _PAGE):
        after = page[-1]["batch_position"]
        found += [each for each in page if not pending or each["status"] == "pending"]
    return found


def spend_of(row: Row | Mapping[str, object], key_id: str) -> Spend:
    """Return what a quote, or a payout of a batch, spends. Pure."""
    terms = QuoteTerms.model_validate_json(str(row["terms"]))
    account = Account.model_validate_json(str(row["account"]))
    return spend_for(str(row["org"]), str(row["mode"]), key_id, terms, account)


async def counter_view(tx: Tx, row: Row, each: Sequence[str]) -> dict[str, object]:
    """Return a counter as it is shown to an operator. Store function; a long read where it is of one payee.

    `each`: what the limit counts each of, in its order.
    """
    values = json.loads(row["id"])[3:]
    subject = [
        await _named(tx, row["id"], name, value) for name, value in zip(each, values, strict=False)
    ]
    return {
        "limit": row["rule"],
        "mode": row["mode"],
        "window": row["window"],
        "subject": ", ".join(subject) or None,
        "count": row["count"],
        "amount": row["amount"],
    }


async def _named(tx: Tx, counter_id: str, name: str, value: Any) -> str:
    """Return what one counter is of, for people: "payee 0x…", "account VAULT 7 of fb"."""
    if name == "account":
        custodian, kind, account_id = value
        return f"account {kind} {account_id} of {custodian}"
    if name != "destination":
        return f"{name} {value}"
    payee = await _payee(tx, counter_id, value)
    return f"payee {value} (erased)" if payee is None else f"payee {payee}"


async def _payee(tx: Tx, counter_id: str, digest: str) -> str | None:
    """Return the payee of a digest: the counter has none, but a payout that it counted has; None: erased."""
    for owner_id in await rows.owners_of(tx, counter_id, _OWNERS):
        payout = await payout_row(tx, owner_id)
        if payout is not None:
            found = [payout]
        else:
            batch = await batch_rows.batch_row(tx, owner_id)
            found = [] if batch is None else await _items(tx, batch, pending=False)
        for each in found:
            terms = QuoteTerms.model_validate_json(each["terms"])
            payee = destination_of(terms.destination)
            if digest_of_destination(payee) == digest:
                return payee
    return None
