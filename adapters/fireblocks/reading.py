"""Reads an instruction set: each instruction with its transactions gives one report per payout.

Source: fireblocks protocol notes, §3 (schemas), §4 (accounting per instruction), §10 (sub-statuses).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import aiohttp

from adapters.fireblocks import webhook
from adapters.fireblocks.client import Client
from adapters.fireblocks.fees import fees_usd, net_amount
from adapters.fireblocks.instructions import (
    AssetIds,
    another_set,
    echo_of,
    echoed_key,
    instructions_of,
    mine_of,
    payout_words,
)
from adapters.fireblocks.statuses import (
    BEFORE_THE_NETWORK,
    Reading,
    Seen,
    clean,
    not_credited,
    read,
)
from gateway.adapter import (
    Absent,
    BatchItem,
    BatchOrder,
    BatchReport,
    CannotLook,
    Ref,
    Report,
    SubStatus,
    Tools,
    Transaction,
)

#: The number of instructions of one set whose transactions are read in parallel.
_AT_ONCE = 8


class Reader:
    """Reads sets."""

    def __init__(
        self,
        client: Client,
        asset_id: AssetIds,
        tools: Tools,
        fee_prices: Mapping[str, Decimal],
    ) -> None:
        self._client = client
        self._asset_id = asset_id
        self._tools = tools
        self._fee_prices = fee_prices

    async def read(
        self, batch: BatchOrder, told: dict[str, Any]
    ) -> BatchReport | Absent | CannotLook:
        """Return a report per item of a set, or the finding about a set that is only registered.

        A registered set is absent until an execute may have arrived. From then on, and for hours, it
        cannot be distinguished from an executed set that waits for its account; but a repeat of execute
        is executed once. If the set was executed, an item that could not be read is left out.
        """
        words, payout_id = payout_words(told), str(batch.notes["payout_id"])
        first = batch.items[0].payout_id
        if another_set(batch, told):
            odd = Report(None, words, unknown_words=("another set, or of another account",))
            return BatchReport(words, {first: odd})
        instructions = instructions_of(told)
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(item: BatchItem) -> Report | None:
            mine = mine_of(batch, item, instructions)
            if mine is None:
                return Report(None, words, unknown_words=("instruction missing or not as ordered",))
            async with room:
                return await self._instruction(batch, item, told, mine)

        reports = await asyncio.gather(*(one(item) for item in batch.items))
        found = {
            item.payout_id: replace(each, custodian_reference=payout_id)
            for item, each in zip(batch.items, reports, strict=True)
            if each is not None
        }
        if not found and batch.moved:
            reason = f"{words}: not executed, or executed and waiting for its account"
            return CannotLook(reason, repeat_is_safe=True)
        if not found:
            return Absent(words)
        if first in found:
            # The set's id identifies the first item, and through it the set.
            refs = (Ref("payout", payout_id), *found[first].refs)
            found[first] = replace(found[first], refs=refs)
        return BatchReport(words, found, custodian_reference=payout_id)

    async def _instruction(
        self,
        batch: BatchOrder,
        item: BatchItem,
        told: Mapping[str, Any],
        mine: Mapping[str, Any],
    ) -> Report | None:
        """Read one instruction; None if the set is only registered."""
        words, listed = payout_words(told), mine.get("transactions")
        if not isinstance(listed, list):
            return Report(None, words, unknown_words=("instruction without its transactions",))
        source = batch.source.type
        seen, transactions, details, blind = await self._transactions(item, listed, source)
        reading = read(
            clean(told.get("state")),
            clean(told.get("status")),
            clean(mine.get("state")),
            seen,
            _reason(told, mine),
        )
        if not reading.executed:
            return None
        if blind and reading.sub_status in {SubStatus.DELIVERED, SubStatus.FAILED}:
            # The sub-status decides between delivered and not credited, so look again before the end.
            reading = Reading(
                SubStatus.SETTLING if reading.sub_status is SubStatus.DELIVERED else None
            )
        refs = [Ref("instruction", str(mine["id"]))] if mine.get("id") else []
        refs += [Ref("transaction", each.id) for each in transactions]
        instruction_words = " ".join(
            [clean(mine.get("state")), *(f"{s.state}/{s.sub_status}".rstrip("/") for s in seen)]
        )
        return Report(
            reading.sub_status,
            f"{words} {instruction_words}",
            refs=tuple(refs),
            transactions=tuple(transactions),
            failure=reading.failure,
            echo=echo_of(item, self._asset_id(item), mine, echoed_key(batch, item)),
            unknown_words=reading.unknown_words,
            detail=reading.failure.message if reading.failure else None,
            fees_paid_usd=fees_usd(details, self._fee_prices)
            if reading.sub_status is SubStatus.DELIVERED
            else None,
            final_recipient_amount=net_amount(details, self._asset_id(item))
            if reading.sub_status is SubStatus.DELIVERED
            else None,
        )

    async def _transactions(
        self, item: BatchItem, listed: Sequence[Any], source: str
    ) -> tuple[list[Seen], list[Transaction], list[dict[str, Any]], bool]:
        """Return the instruction's transactions, as seen and in detail, and whether a look failed."""
        seen, transactions, all_details, blind = [], [], [], False
        for each in (one if isinstance(one, dict) else {} for one in listed):
            details: dict[str, Any] = {}
            identifier, state = clean(each.get("id")), clean(each.get("state"))
            if identifier and state not in BEFORE_THE_NETWORK:
                found = await self._details(identifier)
                blind |= found is None
                details = found or {}
            all_details.append(details)
            tx_hash, sub_status = clean(details.get("txHash")), clean(details.get("subStatus"))
            if state == "COMPLETED" and not not_credited(sub_status):
                sub_status = ""
            # A transaction without an id counts as seen as well, because it may move money.
            told_source = _source_of(details)
            certain = source if told_source in {"", source} else ""
            unread = not details and state not in BEFORE_THE_NETWORK
            seen.append(
                Seen(state, sub_status, on_chain=bool(tx_hash), source=certain, unread=unread)
            )
            if identifier:
                at = webhook.read_time(each.get("timestamp")) or self._tools.clock.now()
                transactions.append(
                    Transaction(
                        id=identifier,
                        tx_hash=tx_hash or None,
                        network=item.network,
                        status=state,
                        at=at,
                    )
                )
        return seen, transactions, all_details, blind

    async def _details(self, transaction_id: str) -> dict[str, Any] | None:
        """Return a transaction's details; {} if we may not read them, None if the look failed."""
        try:
            answer = await self._client.get(f"/transactions/{quote(transaction_id, safe='')}")
        except (aiohttp.ClientError, TimeoutError):
            return None
        if answer.ok:
            found: dict[str, Any] = answer.json
            return found
        return {} if answer.status in {403, 404} else None


def _source_of(details: Mapping[str, Any]) -> str:
    """Return the type of the account that a transaction pays from; empty if it is not reported."""
    source = details.get("source")
    return clean(source.get("type")) if isinstance(source, dict) else ""


def _reason(told: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """Return the set's reason, if it applies to this instruction; one of many may have another reason."""
    alone = len(instructions_of(told)) == 1 or clean(mine.get("state")) == "NOT_STARTED"
    return clean(told.get("reasonOfFailure")) if alone else ""
