"""The two doors of a payout: `accept` lets it in, `apply` brings it news.

Both write status, document, events and deliveries in one transaction. Nothing else changes a payout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import Any

from gateway.adapter import Report, Returned
from gateway.assets import explorer_url
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.events import Event, publish_later
from gateway.funds.reservations import Funds, end_reservation
from gateway.model import (
    TERMINAL,
    Account,
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
from gateway.returns import Known, count
from gateway.routing.accounts import PinnedAccounts
from gateway.runtime import Runtime
from gateway.spending import Spending, give_back, spend_of
from gateway.states import STATUS_OF, Kind, Verdict, judge
from gateway.store import executions, inbox
from gateway.store import payouts as rows
from gateway.store import quotes as quote_rows
from gateway.store import returns as return_rows
from gateway.store.attention import close_of_ended
from gateway.store.database import Row, Tx
from gateway.store.payouts import KnownRefs
from gateway.store.rows import Document, from_us, payout_of, to_us
from gateway.store.state import advance, refuse_unless_accepting
from gateway.vault import Vault
from gateway.views import ACTION_EVENT, EVENT_OF, RETURNED_EVENT, event_body

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

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        runtime: Runtime,
        vault: Vault,
        action_life: timedelta = ACTION_LIFE,
        spending: Spending | None = None,
        rules: str | None = None,
        funds: Funds | None = None,
        pinned: PinnedAccounts | None = None,
    ) -> None:
        self._pinned = pinned  #: what may be paid from; None: it is not checked
        #: the digest of the limits and routes by which payouts are accepted here; None: there are none
        self._rules = rules
        #: what is taken with a payout, in the transaction that accepts it
        self._spending = spending
        self._funds = funds
        self._runtime = runtime
        self._vault = vault
        self._action_life = action_life
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Have a function called with a payout's id each time that this process has changed the payout.

        On the event loop, after the commit. It has to return at once and must not raise.
        """
        self._listeners.append(listener)

    async def accept(
        self, tx: Tx, caller: Caller, quote_id: str, *, strict: bool = False
    ) -> Payout:
        """Turn a quote into a payout: quote, payout, first event and work row in one transaction.

        Live mode, and test mode with `strict`, consume the quote. Otherwise test mode answers a
        second call with the same payout. Refused: `quote_not_found`, `quote_already_used` (with
        `payout_id`), `quote_expired`, `database_frozen`, `not_accepting`, `route_unavailable`,
        `limit_exceeded`, `insufficient_funds`, `balance_unknown`.
        """
        now = self._runtime.clock.now()
        payout_id = (
            self._runtime.ids.new("pay")
            if caller.mode == "live"
            else self._vault.sandbox_payout_id(caller.org, quote_id)
        )
        # Whatever may refuse comes before anything is written.
        held = hold = None
        unused = await self._unused(tx, caller, quote_id, now)
        if unused is not None:
            try:
                if self._funds is not None:
                    hold = await self._funds.hold(tx, unused)
                if self._spending is not None:
                    held = await self._spending.hold(tx, caller, unused, now)
            except Refused:
                # By limits that are not the active ones: that is no answer to keep.
                await refuse_unless_accepting(tx, self._rules)
                raise
        quote = await quote_rows.use_quote(
            tx,
            quote_id,
            caller.org,
            caller.mode,
            payout_id=payout_id,
            now=to_us(now),
            rules=self._rules,
        )
        if quote is None:
            return await self._accepted_before(tx, caller, quote_id, strict=strict)
        custodian = json.loads(quote["terms"])["route"]["custodian"]
        await self._check_again(tx, quote, custodian, caller)
        if self._spending is not None and held is not None:
            await self._spending.write(tx, payout_id, held)
        if self._funds is not None and hold is not None:
            await self._funds.write(tx, payout_id, hold)
        waits = hold is not None and hold.waits
        return await self._create(tx, quote, custodian, payout_id, now, awaits_funds=waits)

    async def _unused(self, tx: Tx, caller: Caller, quote_id: str, now: datetime) -> Row | None:
        """Return a quote that may become a payout, where anything is taken for it beside the quote."""
        counts = self._spending is not None and self._spending.counts
        if not counts and (self._funds is None or not self._funds.reserves):
            return None
        quote = await quote_rows.find_quote(tx, quote_id, caller.org, caller.mode)
        if quote is None or quote["payout_id"] is not None or quote["expires_at"] <= to_us(now):
            return None
        return quote

    async def _check_again(self, tx: Tx, quote: Row, custodian: str, caller: Caller) -> None:
        """Check the pinned route and the caps of one payout: they may have changed since the quote.

        The refusal may be kept, and what was written with it: so the quote is free again.
        """
        try:
            if self._pinned is not None:
                account = Account.model_validate_json(quote["account"])
                self._pinned.check(quote["org"], quote["mode"], custodian, account)
            if self._spending is not None:
                self._spending.rules.check(spend_of(quote, caller.key_id))
        except Refused:
            await quote_rows.release_quote(tx, quote["id"])
            raise

    async def _accepted_before(
        self, tx: Tx, caller: Caller, quote_id: str, *, strict: bool
    ) -> Payout:
        """Return the payout that a test-mode quote became, or refuse a quote that cannot be used."""
        await refuse_unless_accepting(tx)
        quote = await quote_rows.find_quote(tx, quote_id, caller.org, caller.mode)
        if quote is None:
            raise Refused(
                "quote_not_found",
                f"There is no quote {quote_id}. Ask for one: POST /payouts/quote.",
            )
        used_by = quote["payout_id"]
        if used_by is None:
            await refuse_unless_accepting(tx, self._rules)
            detail = f"The quote expired at {format_time(from_us(quote['expires_at']))}. Request a new one."
            raise Refused("quote_expired", detail)
        if caller.mode != "live" and not strict:
            return await self.get(tx, caller, used_by)
        detail = f"The quote {quote_id} has become the payout {used_by}. For another payout, ask for a new quote."
        raise Refused("quote_already_used", detail, payout_id=used_by)

    async def _create(  # noqa: PLR0913 - what a payout is made of
        self,
        tx: Tx,
        quote: Row,
        custodian: str,
        payout_id: str,
        now: datetime,
        *,
        awaits_funds: bool,
    ) -> Payout:
        at = to_us(now)
        columns = {
            "id": payout_id,
            "org": quote["org"],
            "mode": quote["mode"],
            "quote_id": quote["id"],
            "status": Status.PENDING,
            "sub_status": SubStatus.CREATED,
            "external_ref": quote["external_ref"],
            "reference": quote["reference"],
            "metadata": quote["metadata"],
            "terms": quote["terms"],
            "custodian": custodian,
            "account": quote["account"],
            "custodian_reference": None,
            "custodian_word": None,
            "document": created_document(at),
            "failure": None,
            "funds_moved": None,
            "fees_paid_usd": None,
            "returned_amount": None,
            "observed_at": None,
            "sequence": 1,
            "first_answer": None,
            "created_at": at,
            "updated_at": at,
            "batch_id": None,
            "batch_position": None,
            "name": None,
        }
        await rows.insert_payout(tx, columns)
        await executions.open_execution(
            tx,
            execution_id=self._runtime.ids.new("exe"),
            custodian=custodian,
            account=quote["account"],
            items=[payout_id],
            at=self._runtime.clock.moment(),
            due=self._runtime.timeline.now(),
            fresh=True,
            awaits_funds=awaits_funds,
        )
        payout = payout_of(columns)
        await self._publish(tx, quote, now, [_event(payout, None, now)])
        return payout

    async def announce(self, tx: Tx, items: Sequence[tuple[Row, QuoteTerms]]) -> None:
        """Fix the terms of items whose batch is being executed, and publish `payout.created` for each.

        The items are of one org and mode; each comes with its row.
        """
        if not items:
            return
        now = self._runtime.clock.now()
        fixed = [
            {"terms": terms.model_dump_json(), "sequence": 1, "updated_at": to_us(now)}
            for _, terms in items
        ]
        await rows.update_payouts(
            tx, [(row["id"], columns) for (row, _), columns in zip(items, fixed, strict=True)]
        )
        payouts = [
            payout_of({**dict(row), **columns})
            for (row, _), columns in zip(items, fixed, strict=True)
        ]
        await self._publish(tx, items[0][0], now, [_event(each, None, now) for each in payouts])

    async def get(self, tx: Tx, caller: Caller, payout_id: str) -> Payout:
        """Return an org's payout. Refused: `payout_not_found`, also for another org's."""
        return payout_of(await self.get_row(tx, caller, payout_id))

    async def get_row(self, tx: Tx, caller: Caller, payout_id: str) -> Row:
        """Return the row of an org's payout, as `get` does."""
        row = await rows.payout_row(tx, payout_id)
        if row is None or row["org"] != caller.org or row["mode"] != caller.mode:
            raise Refused("payout_not_found", f"There is no payout {payout_id} under this API key.")
        return row

    async def apply(
        self,
        tx: Tx,
        payout_id: str,
        report: Report,
        row: Row | None = None,
        known: KnownRefs | None = None,
    ) -> Applied:
        """Judge one piece of news and write what follows from it.

        Every door ends here: an adapter's reply, a custodian's webhook, a poll, an operator. May be
        called with the same news any number of times. `row` is the payout's row as it is now, where
        the caller has read it in this transaction; `known` is whose its new ids are. A report with an
        id of another payout is not believed at all. One that differs from the order moves neither
        status nor sub-status.
        """
        now = self._runtime.clock.now()
        if row is None:
            row = await rows.payout_row(tx, payout_id)
        if row is None:
            msg = f"news for a payout that does not exist: {payout_id}"
            raise LookupError(msg)
        change = _Change(row, now, self._action_life)
        fresh = change.unknown_refs(report)
        woke = False
        if fresh:
            if known is None:
                known = await rows.find_refs(tx, row["custodian"], fresh)
            foreign = [
                f"{kind} {value} already belongs to {known.owners[kind, value]}"
                for kind, value in fresh
                if known.owners.get((kind, value), payout_id) != payout_id
            ]
            if foreign:
                found = [(Attention.FOREIGN_REF, detail) for detail in foreign]
                await rows.add_attentions(tx, payout_id, found, to_us(now))
                return Applied(
                    Kind.SAME, row["status"] in TERMINAL, (Attention.FOREIGN_REF,) * len(foreign)
                )
            new = [each for each in fresh if each not in known.owners]
            await rows.add_refs(tx, row["custodian"], new, payout_id)
            woke = bool(known.awaited) and await inbox.wake_webhooks(
                tx, row["custodian"], list(known.awaited)
            )
        applied = change.apply(report, fresh, woke=woke)
        if change.returns:
            applied = await self._count_returns(tx, change, applied)
        await self._write(tx, change)
        if applied.final and applied.changed and change.says_unpaid:
            # A promise as a mark is: an older copy of the database would pay it after all.
            await advance(tx)
            await give_back(tx, row)
        if applied.final and applied.changed:
            await end_reservation(tx, self._funds, row, change.columns.get("funds_moved"))
        if Status.FAILED in applied.reached:
            await close_of_ended(tx, payout_id, to_us(now))
        return applied

    async def hand_over(self, tx: Tx, row: Row, custodian: str, account: Account) -> Applied:
        """Note that a pending payout goes on at another custodian, within the terms that were promised.

        The caller has the right to it, and opens the execution there. What the first custodian said of its
        own is no news of the other one.
        """
        columns: dict[str, object] = {
            "custodian": custodian,
            "account": account.model_dump_json(),
            "custodian_reference": None,
            "custodian_word": None,
            "observed_at": None,
        }
        await rows.update_payout(tx, row["id"], **columns)
        detail = f"not paid by {row['custodian']}; goes on at {custodian}"
        return await self.apply(tx, row["id"], Report(SubStatus.QUEUED, "", detail=detail))

    async def _count_returns(self, tx: Tx, change: _Change, applied: Applied) -> Applied:
        """Write what came back of a delivered payout: a row, and an event, for each return."""
        row, at = change.row, to_us(change.now)
        ids = [each.id for each in change.returns if each.id is not None]
        known = [
            Known(each["payout_id"], each["custodian_id"], Decimal(each["amount"]), each["asset"])
            for each in await return_rows.known_returns(tx, row["id"], row["custodian"], ids)
        ]
        terms = payout_of(row).terms
        counted = count(
            row["id"], terms.recipient_gets, terms.recipient_asset, known, change.returns
        )
        change.count_returns(counted.returns, counted.faults)
        await return_rows.add_returns(
            tx,
            [
                {
                    "id": self._runtime.ids.new("ret"),
                    "payout_id": row["id"],
                    "custodian": row["custodian"],
                    "custodian_id": each.id,
                    "amount": format_amount(each.amount),
                    "asset": each.asset,
                    "returned_at": to_us(each.at),
                    "word": each.word or None,
                    "recorded_at": at,
                }
                for each in counted.returns
            ],
        )
        found = tuple(code for code, _ in change.attention)
        changed = applied.changed or bool(counted.returns)
        return replace(applied, attention=found, changed=changed)

    async def _write(self, tx: Tx, change: _Change) -> None:
        """Write a change: the payout's row once, and the rows that go with it."""
        payout_id = change.row["id"]
        if change.attention:
            await rows.add_attentions(tx, payout_id, change.attention, to_us(change.now))
        if change.hashes:
            await rows.add_hashes(tx, payout_id, change.hashes)
        if change.columns:
            await rows.update_payout(tx, payout_id, **change.columns)
            if self._listeners:
                tx.when_over(partial(self._over, payout_id))
        if change.events:
            await self._publish(tx, change.row, change.now, change.events)

    def _over(self, payout_id: str, committed: bool) -> None:  # noqa: FBT001 - as the store calls it
        """Notify listeners of a payout, once its change is durable."""
        if committed:
            for each in self._listeners:
                each(payout_id)

    async def _publish(self, tx: Tx, row: Row, now: datetime, events: Sequence[Event]) -> None:
        await publish_later(tx, self._runtime, row["org"], row["mode"], now, events)


@dataclass
class _Change:
    """One report, applied in memory to a payout's row: collects what is then written at once."""

    row: Row
    now: datetime
    action_life: timedelta
    columns: dict[str, Any] = field(default_factory=dict)
    attention: list[tuple[Attention, str]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    #: what came back of the payout, to be counted: it is delivered
    returns: tuple[Returned, ...] = ()

    def __post_init__(self) -> None:
        self._document = Document(self.row["document"])

    def unknown_refs(self, report: Report) -> list[tuple[str, str]]:
        """Return the ids (kind, value) of a report that are not known to be this payout's."""
        refs = ((ref.kind, ref.value) for ref in report.refs)
        return self._document.unknown_refs(self.row["custodian"], refs)

    def apply(self, report: Report, fresh: Sequence[tuple[str, str]], *, woke: bool) -> Applied:
        """Apply a report whose new ids are nobody else's."""
        if fresh:
            self._document.add_refs(self.row["custodian"], fresh)
        self._note(report)
        self._keep_final_amount(report)
        self._keep_returns(report)
        kind, reached, changed = self._judge(report)
        self._sort_returns(report)
        if self._document.changed:
            self.columns["document"] = self._document.text
        final = self.columns.get("status", self.row["status"]) in TERMINAL
        found = tuple(code for code, _ in self.attention)
        return Applied(kind, final, found, woke, changed=changed, reached=reached)

    @property
    def says_unpaid(self) -> bool:
        """Whether it ends the payout as one of which no money moved."""
        return self.columns.get("funds_moved") == FundsMoved.NO

    def _keep_final_amount(self, report: Report) -> None:
        """Keep what the recipient got, unless the report is of something else.

        Once the payout is delivered and shows an amount, it is fixed.
        """
        if report.final_recipient_amount is None:
            return
        if any(code is Attention.MISMATCH for code, _ in self.attention):
            # It may be of another payment: an operator looks first.
            return
        shown = self._document.final_recipient_amount is not None
        if self.row["status"] != Status.DELIVERED or not shown:
            self._document.set_final_recipient_amount(report.final_recipient_amount)

    def _keep_returns(self, report: Report) -> None:
        """Keep what came back until it is counted, unless the report is of something else."""
        odd = any(code is Attention.MISMATCH for code, _ in self.attention)
        for each in report.returned:
            name = f"return {each.id or '(a total)'} of {format_amount(each.amount)} {each.asset}"
            if odd:
                # It may be of another payment: an operator looks first.
                detail = f"{name}: it comes with what differs from the order"
                self.attention.append((Attention.RETURN_MISMATCH, detail[:200]))
            elif not self._document.keep_return(each):
                detail = f"{name}: more returns than are kept of a payout that is not delivered"
                self.attention.append((Attention.RETURN_MISMATCH, detail[:200]))

    def _sort_returns(self, report: Report) -> None:
        """Have what came back counted where the payout is delivered; otherwise it is kept until then."""
        kept = self._document.early_returns
        status = self.columns.get("status", self.row["status"])
        if kept and status == Status.DELIVERED:
            self.returns = kept
            self._document.drop_returns()
        elif kept and status == Status.FAILED and report.returned:
            moved = self.columns.get("funds_moved", self.row["funds_moved"])
            code = Attention.RETURNED if moved == FundsMoved.YES else Attention.CONTRADICTION
            detail = f"failed with funds_moved {moved}, and the custodian says that money came back"
            self.attention.append((code, detail))

    def count_returns(self, counted: Sequence[Returned], faults: Sequence[str]) -> None:
        """Add up what came back, with an event and a remark for each return. No status changes."""
        self.attention += [(Attention.RETURN_MISMATCH, each[:200]) for each in faults]
        if not counted:
            return
        total = Decimal(self.row["returned_amount"] or 0)
        sequence = self.columns.get("sequence", self.row["sequence"])
        for each in counted:
            total, sequence = total + each.amount, sequence + 1
            self.columns |= {
                "returned_amount": format_amount(total),
                "sequence": sequence,
                "updated_at": to_us(self.now),
            }
            name = "" if each.id is None else f" ({each.id})"
            detail = f"{format_amount(each.amount)} {each.asset} came back{name}, {format_amount(total)} in all"
            self.attention.append((Attention.RETURNED, detail[:200]))
            payout = payout_of({**dict(self.row), **self.columns}, self._document)
            body = event_body(payout, payout.status, self.now, RETURNED_EVENT, returned=each)
            self.events.append(Event(RETURNED_EVENT, body, payout.id, payout.sequence))

    def _note(self, report: Report) -> None:
        """Keep what the custodian said beside the status: words, reference, transactions, oddities."""
        fees = report.fees_paid_usd
        for name, value in (
            ("custodian_word", report.custodian_word),
            ("custodian_reference", report.custodian_reference),
            ("fees_paid_usd", None if fees is None else format_amount(Decimal(fees))),
        ):
            if value and value != self.row[name]:
                self.columns[name] = value
        for transaction in report.transactions:
            url = transaction.explorer_url or explorer_url(transaction.network, transaction.tx_hash)
            new_hash = self._document.add_transaction(
                transaction.model_copy(update={"explorer_url": url})
            )
            if new_hash is not None:
                self.hashes.append(new_hash)
        self.attention += [(Attention.UNKNOWN_WORD, word[:200]) for word in report.unknown_words]
        if report.echo is not None:
            self.attention += [(Attention.MISMATCH, line) for line in report.echo.differences()]

    def _judge(self, report: Report) -> tuple[Kind, tuple[Status, ...], bool]:
        """Return what the news means, the statuses newly reached, and whether anything has moved."""
        if report.sub_status is None:
            return Kind.SAME, (), False
        row = self.row
        verdict = judge(Status(row["status"]), SubStatus(row["sub_status"]), report.sub_status)
        if verdict.kind is Kind.CONTRADICTION:
            if _before_the_end(report, payout_of(row, self._document)):
                return Kind.LATE, (), False
            self.attention.append((Attention.CONTRADICTION, _contradiction(row, report)))
        if any(code is Attention.MISMATCH for code, _ in self.attention):
            # The custodian pays something else than was ordered: an operator looks first.
            return verdict.kind, (), False
        crosses = any(status != row["status"] for status, _ in verdict.steps)
        if not crosses and _older(report, row):
            # A webhook made before the last look: it may bring a status forward, never step back.
            return Kind.LATE, (), False
        asked = self._ask(report, verdict)
        if verdict.kind is not Kind.MOVE:
            return (Kind.MOVE, (), True) if asked else (verdict.kind, (), False)
        self._move(verdict.steps, report)
        passed = (Status(row["status"]), *(status for status, _ in verdict.steps))
        reached = tuple(after for before, after in pairwise(passed) if before != after)
        return verdict.kind, reached, True

    def _ask(self, report: Report, verdict: Verdict) -> bool:
        """Keep what a person is asked for, and the event where it is a new action; or close it.

        A new action begins when the payout comes to ask, and when the one before it was locked.
        """
        last = self._document.action
        if report.sub_status is not SubStatus.REQUIRES_ACTION:
            if verdict.kind is Kind.MOVE and last is not None and last.open:
                self._document.set_action(last.model_copy(update={"open": False}))
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
            expires_at=asked.expires_at or kept or self.now + self.action_life,
        )
        if action == last:
            return False
        self._document.set_action(action)
        if verdict.kind is Kind.SAME and anew:
            # Asked again without having left the sub-status: no step has an event of it.
            self.columns |= {"sequence": self.row["sequence"] + 1, "updated_at": to_us(self.now)}
            self._add_event(Status(self.row["status"]), ACTION_EVENT)
        return True

    def _move(self, steps: Sequence[tuple[Status, SubStatus]], report: Report) -> None:
        """Take each step: status, timeline entry, and for a new status its event."""
        previous, sequence, at = Status(self.row["status"]), self.row["sequence"], to_us(self.now)
        tx_hash = next(
            (each.tx_hash for each in reversed(report.transactions) if each.tx_hash), None
        )
        for status, sub_status in steps:
            asks = sub_status is SubStatus.REQUIRES_ACTION
            has_event = status != previous or asks
            sequence += has_event
            self.columns |= {
                "status": status,
                "sub_status": sub_status,
                "sequence": sequence,
                "updated_at": at,
                "observed_at": max(
                    to_us(report.observed_at or self.now), self.row["observed_at"] or 0
                ),
            }
            if status is Status.FAILED:
                failure = _failure(report, sub_status)
                if self._document.early_returns and failure.funds_moved is FundsMoved.NO:
                    # Money came back, so that it had moved.
                    failure = failure.model_copy(update={"funds_moved": FundsMoved.UNKNOWN})
                self.columns |= {
                    "failure": failure.model_dump_json(),
                    "funds_moved": failure.funds_moved,
                }
            self._document.add_entry(status, sub_status, at, tx_hash=tx_hash, detail=report.detail)
            if has_event:
                self._add_event(previous, ACTION_EVENT if asks else None)
            previous = status

    def _add_event(self, previous: Status, kind: str | None) -> None:
        """Add the event of the payout as it is now: of its status, or of another kind."""
        payout = payout_of({**dict(self.row), **self.columns}, self._document)
        self.events.append(_event(payout, previous, self.now, kind))


def created_document(at: int) -> str:
    """Return the document of a payout that is being created."""
    document = Document()
    document.add_entry(Status.PENDING, SubStatus.CREATED, at)
    return document.text


def _event(
    payout: Payout, previous: Status | None, now: datetime, kind: str | None = None
) -> Event:
    kind = kind or EVENT_OF[payout.status]
    return Event(kind, event_body(payout, previous, now, kind), payout.id, payout.sequence)


def _older(report: Report, row: Row) -> bool:
    """Whether the news was made before the newest that was written. A look is as new as it is."""
    if report.observed_at is None or row["observed_at"] is None:
        return False
    return bool(to_us(report.observed_at) < row["observed_at"])


def _before_the_end(report: Report, payout: Payout) -> bool:
    """Whether a word that money moves was made before the payout failed, and says nothing new.

    The custodian's own last word came after it, or its `broadcast` was known. It does not hold against an
    end that says that no money moved, nor against a person's decision: these the word contradicts.
    """
    if report.sub_status is None or STATUS_OF[report.sub_status] is not Status.BROADCAST:
        return False
    if report.observed_at is None or payout.failure is None:
        return False
    entries = [each for each in payout.timeline if each.status is Status.FAILED]
    if not entries or report.observed_at >= entries[0].at:
        return False
    known = any(each.status is Status.BROADCAST for each in payout.timeline)
    decided = payout.failure.code is FailureCode.OPERATOR_DECISION
    return known or not (decided or payout.failure.funds_moved is FundsMoved.NO)


def _contradiction(row: Row, report: Report) -> str:
    """Return the operator's text: one line for all reports that the money moves after all."""
    if row["status"] != Status.FAILED:
        return f"{row['status']}, and now the custodian says {report.custodian_word}"
    claim = "with funds_moved: no" if row["funds_moved"] == FundsMoved.NO else "already"
    return (
        f"it ended as failed {claim}, and the custodian says that its money moves: do not pay it again; "
        "clear it up with the custodian"
    )


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
