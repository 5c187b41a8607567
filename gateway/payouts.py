"""The two doors of a payout: `accept` lets it in, `apply` brings it news.

Both write status, timeline, event and deliveries in one transaction. Nothing else changes a payout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from gateway.adapter import Report
from gateway.assets import explorer_url
from gateway.errors import Refused
from gateway.events import deliver
from gateway.keys import Caller
from gateway.model import (
    TERMINAL,
    Attention,
    Failure,
    FailureCode,
    FundsMoved,
    Payout,
    QuoteTerms,
    RequiredAction,
    Status,
    SubStatus,
    format_amount,
    format_time,
)
from gateway.runtime import Runtime
from gateway.states import Kind, Verdict, judge
from gateway.store import events, executions, inbox
from gateway.store import payouts as rows
from gateway.store import quotes as quote_rows
from gateway.store.database import Row, Tx
from gateway.store.rows import action_of, from_us, to_us
from gateway.vault import Vault
from gateway.views import ACTION_EVENT, EVENT_OF, event_body

#: How long a person may take where the custodian says nothing of it.
ACTION_LIFE = timedelta(hours=24)


@dataclass(frozen=True)
class Applied:
    """What a piece of news did: the judgement, whether it reached an end, and what woke up."""

    kind: Kind
    final: bool
    attention: tuple[Attention, ...] = ()
    woke_inbox: bool = False
    changed: bool = False
    #: the statuses that were newly reached, for the counters
    reached: tuple[Status, ...] = ()


class Payouts:
    """Use cases of payouts. Its methods are store functions: they take a transaction."""

    def __init__(
        self, runtime: Runtime, vault: Vault, action_life: timedelta = ACTION_LIFE
    ) -> None:
        self._runtime = runtime
        self._vault = vault
        self._action_life = action_life

    async def accept(
        self, tx: Tx, caller: Caller, quote_id: str, *, strict: bool = False
    ) -> Payout:
        """Turn a quote into a payout: quote, payout, first event and work row in one transaction.

        Live mode, and test mode with `strict`, consume the quote. Otherwise test mode answers a
        second call with the same payout. Refused: `quote_not_found`, `quote_already_used` (with
        `payout_id`), `quote_expired`.
        """
        now = self._runtime.clock.now()
        quote = await quote_rows.find_quote(tx, quote_id, caller.org, caller.mode)
        if quote is None:
            raise Refused(
                "quote_not_found",
                f"There is no quote {quote_id}. Ask for one: POST /payouts/quote.",
            )
        live = caller.mode == "live"
        used_by = quote["payout_id"]
        if used_by is not None:
            if not live and not strict:
                return await self.get(tx, caller, used_by)
            detail = f"The quote {quote_id} has become the payout {used_by}. For another payout, ask for a new quote."
            raise Refused("quote_already_used", detail, payout_id=used_by)
        if from_us(quote["expires_at"]) <= now:
            detail = f"The quote ended at {format_time(from_us(quote['expires_at']))}. Ask for a new one."
            raise Refused("quote_expired", detail)
        payout_id = (
            self._runtime.ids.new("pay")
            if live
            else self._vault.sandbox_payout_id(caller.org, quote_id)
        )
        await quote_rows.consume_quote(tx, quote_id, payout_id)
        return await self._create(tx, caller, quote, payout_id, now)

    async def _create(
        self, tx: Tx, caller: Caller, quote: Row, payout_id: str, now: datetime
    ) -> Payout:
        custodian = json.loads(quote["terms"])["route"]["custodian"]
        at = to_us(now)
        await rows.insert_payout(
            tx,
            id=payout_id,
            org=caller.org,
            mode=caller.mode,
            quote_id=quote["id"],
            status=Status.PENDING,
            sub_status=SubStatus.CREATED,
            external_ref=quote["external_ref"],
            reference=quote["reference"],
            metadata=quote["metadata"],
            terms=quote["terms"],
            custodian=custodian,
            account=quote["account"],
            custodian_reference=None,
            custodian_word=None,
            requires_action=None,
            failure=None,
            fees_paid_usd=None,
            observed_at=None,
            sequence=1,
            first_answer=None,
            created_at=at,
            updated_at=at,
        )
        await self._add_entry(tx, payout_id, Status.PENDING, SubStatus.CREATED, now)
        await executions.open_execution(
            tx,
            execution_id=self._runtime.ids.new("exe"),
            custodian=custodian,
            account=quote["account"],
            items=[payout_id],
            at=self._runtime.clock.moment(),
            due=self._runtime.timeline.now(),
            fresh=True,
        )
        payout = await self._load(tx, payout_id)
        await self._emit(tx, payout, None, now)
        return payout

    async def announce(self, tx: Tx, payout_id: str, terms: QuoteTerms) -> None:
        """Fix the terms of an item whose batch is being executed, and tell of it: `payout.created`."""
        now = self._runtime.clock.now()
        await rows.update_payout(
            tx, payout_id, terms=terms.model_dump_json(), sequence=1, updated_at=to_us(now)
        )
        await self._emit(tx, await self._load(tx, payout_id), None, now)

    async def get(self, tx: Tx, caller: Caller, payout_id: str) -> Payout:
        """Return an org's payout. Refused: `payout_not_found`, also for another org's."""
        payout = await rows.find_payout(tx, payout_id)
        if payout is None or payout.org != caller.org or payout.livemode != (caller.mode == "live"):
            raise Refused("payout_not_found", f"There is no payout {payout_id} under this API key.")
        return payout

    async def apply(self, tx: Tx, payout_id: str, report: Report) -> Applied:
        """Judge one piece of news and write what follows from it.

        Every door ends here: an adapter's reply, a custodian's webhook, a poll, an operator. May be
        called with the same news any number of times.
        """
        now = self._runtime.clock.now()
        row = await rows.payout_row(tx, payout_id)
        if row is None:
            msg = f"news for a payout that does not exist: {payout_id}"
            raise LookupError(msg)
        attention = await self._note(tx, row, report, now)
        woke = await self._learn(tx, row, report, attention, now)
        if report.sub_status is None:
            return Applied(Kind.SAME, row["status"] in TERMINAL, tuple(attention), woke)
        verdict = judge(Status(row["status"]), SubStatus(row["sub_status"]), report.sub_status)
        if verdict.kind is Kind.CONTRADICTION:
            detail = f"{row['status']}, and now the custodian says {report.custodian_word}"
            await rows.add_attention(tx, payout_id, Attention.CONTRADICTION, detail, to_us(now))
            attention.append(Attention.CONTRADICTION)
        crosses = any(status != row["status"] for status, _ in verdict.steps)
        if not crosses and _older(report, row):
            # A webhook made before the last look: it may bring a status forward, never step back.
            return Applied(Kind.LATE, row["status"] in TERMINAL, tuple(attention), woke)
        asked = await self._ask(tx, row, report, verdict, now)
        if asked and verdict.kind is not Kind.MOVE:
            return Applied(Kind.MOVE, final=False, attention=tuple(attention), changed=True)
        odd = not {Attention.MISMATCH, Attention.FOREIGN_REF}.isdisjoint(attention)
        if verdict.kind is not Kind.MOVE or (crosses and odd):
            # Whoever pays something else than was ordered, or shows the transfer of another payout,
            # changes no status: an operator looks first.
            return Applied(verdict.kind, row["status"] in TERMINAL, tuple(attention), woke)
        await self._move(tx, row, verdict.steps, report, now)
        final = verdict.steps[-1][0] in TERMINAL
        passed = (Status(row["status"]), *(status for status, _ in verdict.steps))
        reached = tuple(after for before, after in pairwise(passed) if before != after)
        return Applied(verdict.kind, final, tuple(attention), woke, changed=True, reached=reached)

    async def _ask(self, tx: Tx, row: Row, report: Report, verdict: Verdict, now: datetime) -> bool:
        """Write what a person is asked for, and the event where it is a new action; or close it.

        A new action begins when the payout comes to ask, and when the one before it was locked.
        """
        last = action_of(row)
        if report.sub_status is not SubStatus.REQUIRES_ACTION:
            if verdict.kind is Kind.MOVE and last is not None and last.open:
                closed = last.model_copy(update={"open": False})
                await rows.update_payout(tx, row["id"], requires_action=closed.model_dump_json())
            return False
        if verdict.kind not in {Kind.MOVE, Kind.SAME} or report.action is None:
            return False
        asked = report.action
        anew = last is None or not last.open or last.attempts_left == 0
        number = 1 if last is None else last.number + anew
        kept = None if last is None or anew else last.expires_at
        action = RequiredAction(
            number=number,
            type=asked.type,
            channel=asked.channel,
            masked_target=asked.masked_target,
            url=asked.url,
            attempts_left=asked.attempts_left,
            expires_at=asked.expires_at or kept or now + self._action_life,
        )
        if action == last:
            return False
        await rows.update_payout(tx, row["id"], requires_action=action.model_dump_json())
        if verdict.kind is Kind.SAME and anew:
            # Asked again without having left: no step of the status tells of it.
            sequence = row["sequence"] + 1
            await rows.update_payout(tx, row["id"], sequence=sequence, updated_at=to_us(now))
            payout = await self._load(tx, row["id"])
            await self._emit(tx, payout, Status(row["status"]), now, ACTION_EVENT)
        return True

    async def _move(
        self,
        tx: Tx,
        row: Row,
        steps: tuple[tuple[Status, SubStatus], ...],
        report: Report,
        now: datetime,
    ) -> None:
        """Write each step: row, timeline entry, and for a new status its event and deliveries."""
        previous = Status(row["status"])
        sequence = row["sequence"]
        tx_hash = next(
            (each.tx_hash for each in reversed(report.transactions) if each.tx_hash), None
        )
        for status, sub_status in steps:
            changed = status != previous
            asks = sub_status is SubStatus.REQUIRES_ACTION
            sequence += changed or asks
            columns: dict[str, object] = {
                "status": status,
                "sub_status": sub_status,
                "sequence": sequence,
                "updated_at": to_us(now),
                "observed_at": max(to_us(report.observed_at or now), row["observed_at"] or 0),
            }
            if status is Status.FAILED:
                columns["failure"] = _failure(report, sub_status).model_dump_json()
            await rows.update_payout(tx, row["id"], **columns)
            await self._add_entry(tx, row["id"], status, sub_status, now, tx_hash, report.detail)
            if changed or asks:
                kind = ACTION_EVENT if asks else None
                await self._emit(tx, await self._load(tx, row["id"]), previous, now, kind)
            previous = status

    async def _note(self, tx: Tx, row: Row, report: Report, now: datetime) -> list[Attention]:
        """Keep what the custodian said beside the status: its words, its reference, what is odd."""
        columns: dict[str, object] = {}
        if report.custodian_word and report.custodian_word != row["custodian_word"]:
            columns["custodian_word"] = report.custodian_word
        if report.custodian_reference and report.custodian_reference != row["custodian_reference"]:
            columns["custodian_reference"] = report.custodian_reference
        if report.fees_paid_usd is not None:
            columns["fees_paid_usd"] = format_amount(Decimal(report.fees_paid_usd))
        if columns:
            await rows.update_payout(tx, row["id"], **columns)
        found: list[Attention] = []
        oddities = [(Attention.UNKNOWN_WORD, word[:200]) for word in report.unknown_words]
        if report.echo is not None:
            oddities += [(Attention.MISMATCH, line) for line in report.echo.differences()]
        for code, detail in oddities:
            await rows.add_attention(tx, row["id"], code, detail, to_us(now))
            found.append(code)
        return found

    async def _learn(
        self, tx: Tx, row: Row, report: Report, attention: list[Attention], now: datetime
    ) -> bool:
        """Store ids and transactions; wake the webhooks that waited for one of the ids."""
        woke = False
        for ref in report.refs:
            owner = await rows.add_ref(tx, row["custodian"], ref.kind, ref.value, row["id"])
            if owner != row["id"]:
                detail = f"{ref.kind} {ref.value} already belongs to {owner}"
                await rows.add_attention(tx, row["id"], Attention.FOREIGN_REF, detail, to_us(now))
                attention.append(Attention.FOREIGN_REF)
                continue
            woke |= await inbox.wake_webhooks(tx, row["custodian"], ref.kind, ref.value)
        for transaction in report.transactions:
            known = transaction.explorer_url or explorer_url(
                transaction.network, transaction.tx_hash
            )
            await rows.add_transaction(
                tx, row["id"], transaction.model_copy(update={"explorer_url": known})
            )
        return woke

    async def _emit(
        self,
        tx: Tx,
        payout: Payout,
        previous: Status | None,
        now: datetime,
        kind: str | None = None,
    ) -> None:
        """Write the event of the payout's status, or of another kind; one delivery per endpoint."""
        mode = "live" if payout.livemode else "test"
        kind = kind or EVENT_OF[payout.status]
        event_id = self._runtime.ids.new("evt")
        await events.add_event(
            tx,
            id=event_id,
            org=payout.org,
            mode=mode,
            type=kind,
            payout_id=payout.id,
            sequence=payout.sequence,
            body=event_body(payout, previous, now, kind),
            created_at=to_us(now),
        )
        await deliver(tx, self._runtime, payout.org, mode, event_id, kind)

    async def _add_entry(  # noqa: PLR0913 - one argument per column
        self,
        tx: Tx,
        payout_id: str,
        status: Status,
        sub_status: SubStatus,
        now: datetime,
        tx_hash: str | None = None,
        detail: str | None = None,
    ) -> None:
        await rows.add_entry(
            tx,
            id=self._runtime.ids.new("tle"),
            payout_id=payout_id,
            status=status,
            sub_status=sub_status,
            tx_hash=tx_hash,
            detail=detail,
            at=to_us(now),
        )

    @staticmethod
    async def _load(tx: Tx, payout_id: str) -> Payout:
        payout = await rows.find_payout(tx, payout_id)
        assert payout is not None  # noqa: S101 - written in this transaction
        return payout


def _older(report: Report, row: Row) -> bool:
    """Whether the news was made before the newest that was written. A look is as new as it is."""
    if report.observed_at is None or row["observed_at"] is None:
        return False
    return bool(to_us(report.observed_at) < row["observed_at"])


def _failure(report: Report, sub_status: SubStatus) -> Failure:
    """Return the failure to show; an adapter that forgot to name one never claims that nothing moved."""
    if report.failure is not None:
        return report.failure
    code = {SubStatus.CANCELED: FailureCode.CANCELED, SubStatus.EXPIRED: FailureCode.EXPIRED}.get(
        sub_status, FailureCode.UNKNOWN_REASON
    )
    return Failure(
        code=code, message=report.detail or report.custodian_word, funds_moved=FundsMoved.UNKNOWN
    )
