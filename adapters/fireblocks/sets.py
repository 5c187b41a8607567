"""Sets of many instructions: create, compare each, execute once, follow every one of them.

Create registers and moves nothing; execute is the moving call, accepted once per payout id. Source:
fireblocks protocol notes, §2 to §6. The vendor publishes no limit for a set's size.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import aiohttp

from adapters.fireblocks.client import Answer, Client
from adapters.fireblocks.instruction import (
    account_of,
    content_of,
    instruction_of,
    instructions_of,
    payout_words,
)
from adapters.fireblocks.statuses import refusal_code
from gateway.adapter import (
    Absent,
    Account,
    BatchItem,
    BatchOrder,
    BatchReport,
    CannotLook,
    FailureCode,
    NotSent,
    OutcomeUnknown,
    Ref,
    Rejected,
    Report,
    SubStatus,
    Terms,
)

_AT_THE_DOOR = frozenset({401, 403, 429})
_LOCKED_AGAIN_S = 15.0
#: Details of so many transactions are asked for at once.
_AT_ONCE = 8


#: How one instruction is read: terms, the set, the instruction. None: registered, and nothing more.
Reads = Callable[[Terms, Mapping[str, Any], Mapping[str, Any]], Awaitable[Report | None]]


class Sets:
    """Sets at one workspace."""

    def __init__(
        self,
        client: Client,
        asset_id: Callable[[Terms], str | None],
        check: Callable[[Terms], str | None],
        reads: Reads,
    ) -> None:
        self._client = client
        self._asset_id = asset_id
        self._check = check
        self._reads = reads

    async def submit(self, batch: BatchOrder) -> BatchReport:
        """Create the set unless one is remembered, then execute it."""
        if "payout_id" not in batch.notes:
            mismatch = await self._create(batch)
            if mismatch is not None:
                return mismatch
        return await self._execute(batch)

    async def fetch(self, batch: BatchOrder) -> BatchReport | Absent | CannotLook:
        """Read the remembered set. Raises NotSent where the look itself failed."""
        if batch.notes.get("payout_id") is None:
            return CannotLook("no payout id is remembered")
        answer = await self._look(batch)
        if answer.not_found:
            return Absent(f"404 {answer.kind}")
        return await self._read(batch, answer.json)

    async def _create(self, batch: BatchOrder) -> BatchReport | None:
        for item in batch.items:
            fault = self._check(item)
            if fault is not None:
                raise Rejected(FailureCode.SUBMISSION_REJECTED, f"{item.payout_id}: {fault}")
        step = int(batch.notes.get("create_step", 1))
        wanted = {
            "paymentAccount": {"id": batch.source.id, "type": batch.source.type},
            "instructionSet": [
                instruction_of(item, item.key, self._asset_id(item) or "") for item in batch.items
            ],
        }
        try:
            prepared = await self._client.prepare(
                "POST",
                "/payments/payout",
                json.dumps(wanted).encode(),
                batch.key(_step("create", step)),
            )
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            # Lost: perhaps created, never executed. A fresh key makes a set that we know the id of.
            await batch.remember(create_step=step + 1)
            raise NotSent(f"create got no answer ({type(error).__name__})") from None
        if answer.ok and isinstance(answer.json.get("payoutId"), str) and answer.json["payoutId"]:
            return await self._keep(batch, answer.json)
        if answer.refusal:
            raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)
        if answer.status not in {401, 429}:
            await batch.remember(create_step=step + 1)
        raise NotSent(f"create: {words_of(answer)}", again_after_s=answer.retry_after_s)

    async def _keep(self, batch: BatchOrder, made: dict[str, Any]) -> BatchReport | None:
        """Compare what was created with what was ordered, item by item; remember which is whose.

        One note holds the whole mapping, so that there is none of a part of a set.
        """
        told = instructions_of(made)
        mapping = self._mapping(batch, told)
        unfit = []
        if account_of(made.get("paymentAccount")) != _words_of_account(batch.source):
            unfit.append("paymentAccount")
        if mapping is None:
            unfit.append("instructionSet")
        if unfit or mapping is None:
            return self._parked(batch, made, tuple(unfit))
        ids = [str(told[mapping[item.payout_id]].get("id") or "") for item in batch.items]
        await batch.remember(
            payout_id=made["payoutId"],
            instructions=dict(zip([item.payout_id for item in batch.items], ids, strict=True)),
            positions={key: at for key, at in mapping.items() if not told[at].get("id")},
        )
        return None

    def _mapping(self, batch: BatchOrder, told: list[dict[str, Any]]) -> dict[str, int] | None:
        """Return which instruction is whose: by our id where it is echoed, else by what it pays.

        Every content must be as ordered; None where one is not. Of equal items (same payee, asset and
        amount) the first in our order is the first in theirs: one is as good as the other.
        """
        if len(told) != len(batch.items):
            return None
        by_id = {str(each.get("id")): at for at, each in enumerate(told) if each.get("id")}
        echoed = len(by_id) == len(told) and all(item.key in by_id for item in batch.items)
        by_content: dict[Any, deque[int]] = {}
        for at, each in enumerate(told):
            by_content.setdefault(content_of(each), deque()).append(at)
        mapping = {}
        for item in batch.items:
            wanted = content_of(instruction_of(item, item.key, self._asset_id(item) or ""))
            places = by_content.get(wanted)
            if not places:
                return None
            at = by_id[item.key] if echoed else places.popleft()
            if content_of(told[at]) != wanted:
                return None
            mapping[item.payout_id] = at
        return mapping

    def _parked(
        self, batch: BatchOrder, made: dict[str, Any], unfit: tuple[str, ...]
    ) -> BatchReport:
        detail = (
            f"Fireblocks registered something else than was ordered as {made['payoutId']} "
            f"({', '.join(unfit)}); not executed"
        )
        first = batch.items[0].payout_id
        waits = Report(SubStatus.AWAITING_APPROVAL, payout_words(made), detail=detail)
        items = {item.payout_id: waits for item in batch.items}
        # One row on the operator's list for the set, and not one for each of its items.
        items[first] = replace(waits, unknown_words=unfit)
        return BatchReport(payout_words(made), items, detail=detail)

    async def _execute(self, batch: BatchOrder) -> BatchReport:
        payout_id = str(batch.notes["payout_id"])
        step = int(batch.notes.get("execute_step", 1))
        repeated = batch.moved
        prepared = await self._client.prepare(
            "POST", f"{path_of(payout_id)}/actions/execute", key=batch.key(_step("execute", step))
        )
        await batch.moving()
        try:
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        if answer.ok and answer.json.get("payoutId") == payout_id:
            return self._submitted(batch, payout_id)
        if answer.status in _AT_THE_DOOR:
            raise NotSent(f"execute: {words_of(answer)}", again_after_s=answer.retry_after_s)
        await batch.remember(execute_step=step + 1)
        # As for one payout: only a clear no of the documented kind to the first call may be one.
        clear = answer.status == 400 and answer.refusal and not answer.done_before  # noqa: PLR2004
        if not clear or (repeated and not answer.locked):
            raise OutcomeUnknown(f"execute: {words_of(answer)}")
        try:
            seen = await self.fetch(batch)
        except (NotSent, aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknown(f"execute: {words_of(answer)}; then: {error}") from None
        if isinstance(seen, BatchReport):
            return seen
        if isinstance(seen, CannotLook):
            raise OutcomeUnknown(f"execute: {words_of(answer)}; then it could not be read")
        if answer.locked:
            raise NotSent(
                f"execute: the account is busy ({answer.kind})", again_after_s=_LOCKED_AGAIN_S
            )
        raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)

    @staticmethod
    def _submitted(batch: BatchOrder, payout_id: str) -> BatchReport:
        taken = Report(SubStatus.SUBMITTED, "executed", custodian_reference=payout_id)
        items = {item.payout_id: taken for item in batch.items}
        # The set's id finds the first item, and by it the set.
        items[batch.items[0].payout_id] = replace(taken, refs=(Ref("payout", payout_id),))
        return BatchReport("executed", items, custodian_reference=payout_id)

    async def _look(self, batch: BatchOrder) -> Answer:
        answer = await self._client.get(path_of(str(batch.notes["payout_id"])))
        if not answer.ok and not answer.not_found:
            raise NotSent(words_of(answer), again_after_s=answer.retry_after_s)
        return answer

    async def _read(self, batch: BatchOrder, told: dict[str, Any]) -> BatchReport | Absent:
        words, payout_id = payout_words(told), str(batch.notes["payout_id"])
        if told.get("payoutId") not in {None, payout_id} or account_of(
            told.get("paymentAccount")
        ) not in {None, _words_of_account(batch.source)}:
            odd = Report(None, words, unknown_words=("another set, or of another account",))
            return BatchReport(words, {batch.items[0].payout_id: odd})
        instructions = instructions_of(told)
        by_id = {str(each.get("id")): each for each in instructions if each.get("id")}
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(item: BatchItem) -> Report | None:
            mine = self._mine(batch, item, instructions, by_id)
            if mine is None:
                return Report(None, words, unknown_words=("instruction missing or not as ordered",))
            async with room:
                return await self._reads(item, told, mine)

        reports = await asyncio.gather(*(one(item) for item in batch.items))
        if any(each is None for each in reports):
            return Absent(words)
        found = {
            item.payout_id: replace(each, custodian_reference=payout_id)
            for item, each in zip(batch.items, reports, strict=True)
            if each is not None
        }
        first = batch.items[0].payout_id
        refs = (Ref("payout", payout_id), *found[first].refs)
        found[first] = replace(found[first], refs=refs)
        return BatchReport(words, found, custodian_reference=payout_id)

    @staticmethod
    def _mine(
        batch: BatchOrder,
        item: BatchItem,
        instructions: list[dict[str, Any]],
        by_id: Mapping[str, dict[str, Any]],
    ) -> dict[str, Any] | None:
        """Return the instruction of an item, by what was remembered."""
        known = batch.notes["instructions"].get(item.payout_id)
        if known:
            return by_id.get(known)
        at = batch.notes["positions"].get(item.payout_id)
        whole = at is not None and len(instructions) == len(batch.items)
        return instructions[at] if whole else None


def words_of(answer: Answer) -> str:
    """Return what an answer says, on one line."""
    return f"HTTP {answer.status} {answer.kind} {answer.message}".strip()


def path_of(payout_id: str) -> str:
    """Return the path of a set."""
    return f"/payments/payout/{quote(payout_id, safe='')}"


def _step(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _words_of_account(source: Account) -> str:
    return f"{source.type} {source.id}"
