"""The two entry points of a payout: `accept` creates it, and `apply` updates it.

Both write status, document, events and deliveries in one transaction. Nothing else changes a payout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from gateway.adapter import Report
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.events import Event, publish_later
from gateway.funds.reservations import Funds, end_reservation
from gateway.model import (
    TERMINAL,
    Account,
    Attention,
    Payout,
    QuoteTerms,
    Status,
    SubStatus,
    format_amount,
    format_time,
)
from gateway.payout_change import Applied, Change, created_document, payout_event
from gateway.returns import Known, count
from gateway.routing.accounts import PinnedAccounts
from gateway.runtime import Runtime
from gateway.spending import Spending, give_back, spend_of
from gateway.states import Kind
from gateway.store import executions, inbox
from gateway.store import payouts as rows
from gateway.store import quotes as quote_rows
from gateway.store import returns as return_rows
from gateway.store.attention import close_of_ended
from gateway.store.database import Row, Tx
from gateway.store.payouts import KnownRefs
from gateway.store.rows import from_us, payout_of, to_us
from gateway.store.state import advance, refuse_unless_accepting
from gateway.vault import Vault

#: How long a person may take to answer if the custodian sets no limit.
ACTION_LIFE = timedelta(hours=24)


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
        self._pinned = pinned  #: the accounts that may pay; None if they are not checked
        #: the digest of the limits and routes by which payouts are accepted here; None if there are
        #: none
        self._rules = rules
        #: limits and balances, which are charged in the transaction that accepts a payout
        self._spending = spending
        self._funds = funds
        self._runtime = runtime
        self._vault = vault
        self._action_life = action_life
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Register a function to be called with a payout's id after each change by this process.

        It is called on the event loop, after the commit. It has to return at once and must not raise.
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
        # Make all checks that may refuse before anything is written.
        held = hold = None
        unused = await self._unused(tx, caller, quote_id, now)
        if unused is not None:
            try:
                if self._funds is not None:
                    hold = await self._funds.hold(tx, unused)
                if self._spending is not None:
                    held = await self._spending.hold(tx, caller, unused, now)
            except Refused:
                # If the limits are not the active ones, this refusal must not be kept as the answer.
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
        """Return a quote that may become a payout, if limits or balances have to be charged for it."""
        counts = self._spending is not None and self._spending.counts
        if not counts and (self._funds is None or not self._funds.reserves):
            return None
        quote = await quote_rows.find_quote(tx, quote_id, caller.org, caller.mode)
        if quote is None or quote["payout_id"] is not None or quote["expires_at"] <= to_us(now):
            return None
        return quote

    async def _check_again(self, tx: Tx, quote: Row, custodian: str, caller: Caller) -> None:
        """Check the pinned route and the caps of one payout again, because they may have changed since the quote.

        The refusal may be kept together with what was written, so the quote is released again.
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
        await self._publish(tx, quote, now, [payout_event(payout, None, now)])
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
        await self._publish(
            tx, items[0][0], now, [payout_event(each, None, now) for each in payouts]
        )

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

        Every source of news ends here: an adapter's reply, a custodian's webhook, a poll, an operator.
        It may be called with the same report any number of times. `row` is the payout's present row, if
        the caller has read it in this transaction; `known` has the owners of its new ids. A report with
        an id of another payout is discarded. One that differs from the order changes neither status nor
        sub-status.
        """
        now = self._runtime.clock.now()
        if row is None:
            row = await rows.payout_row(tx, payout_id)
        if row is None:
            msg = f"news for a payout that does not exist: {payout_id}"
            raise LookupError(msg)
        change = Change(row, now, self._action_life)
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
            # Like a mark, this must not be lost: an older copy of the database would still pay the
            # payout.
            await advance(tx)
            await give_back(tx, row)
        if applied.final and applied.changed:
            await end_reservation(tx, self._funds, row, change.columns.get("funds_moved"))
        if Status.FAILED in applied.reached:
            await close_of_ended(tx, payout_id, to_us(now))
        return applied

    async def hand_over(self, tx: Tx, row: Row, custodian: str, account: Account) -> Applied:
        """Note that a pending payout moves to another custodian, within the promised terms.

        The caller has checked the permission, and opens the execution there. Statements of the first
        custodian are not kept as statements of the other one.
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

    async def _count_returns(self, tx: Tx, change: Change, applied: Applied) -> Applied:
        """Write a row and an event for each return of a delivered payout."""
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

    async def _write(self, tx: Tx, change: Change) -> None:
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
