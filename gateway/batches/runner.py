"""How a batch goes on: one bounded step per transaction, each repeatable by whichever process.

requested, its turn, verifying (terms fixed, `payout.created` told), handed over in sets or one by one,
executing, ended. Source locking: one active batch per source account, the others wait in the order
of their execution.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.adapter import Report
from gateway.batches.service import Batches, midnight_after
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.execution.record import Recorder
from gateway.execution.reports import not_sent_in_time_report
from gateway.model import (
    BATCH_ENDS,
    TERMINAL,
    BatchState,
    Failure,
    FailureCode,
    FundsMoved,
    QuoteTerms,
    Status,
    SubStatus,
)
from gateway.payouts import Payouts
from gateway.planning import QuoteRequest, RouteWish
from gateway.quotes import Quotes
from gateway.runtime import Runtime
from gateway.store import batches as rows
from gateway.store import executions, funds
from gateway.store.database import Row, Tx
from gateway.store.rows import payout_of, to_json, to_us
from gateway.store.state import goes_by, state_row

#: Items that one step works on.
_AT_ONCE = 50
#: Clocks by which the waiting of a batch is counted: machines, and their restarts.
_MOST_CLOCKS = 20
#: In place of a position, while a batch waits for its turn: it does not get it any more, its payouts end.
_ENDS = -2


@dataclass(frozen=True)
class Handover:
    """How a custodian is given the items of a batch."""

    set_size: int  #: items of one set, where it takes sets
    window: int  #: items in progress at once, if each is sent alone


@dataclass(frozen=True)
class Stepped:
    """What a step did: whether there is more to do at once, and whom to wake."""

    more: bool = False
    wake: tuple[str, ...] = ()


_NOTHING = Stepped()
Stage = Callable[[Tx, Row, datetime], Awaitable[Stepped | None]]


class BatchSteps:
    """The steps of batches. Its methods are store functions."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        runtime: Runtime,
        payouts: Payouts,
        quotes: Quotes,
        batches: Batches,
        handovers: Mapping[str, Handover],
        recorders: Mapping[str, Recorder],
        *,
        rules: str | None = None,
        submit_within_s: float | None = None,
    ) -> None:
        self._submit_within = None if submit_within_s is None else round(submit_within_s * 1e6)
        #: the digest of the limits and routes that items are priced and checked by; None: there are none
        self._rules = rules
        self._recorders = recorders
        self._runtime = runtime
        self._payouts = payouts
        self._quotes = quotes
        self._batches = batches
        self._handovers = handovers

    async def step(self, tx: Tx, batch_id: str, *, judged: bool = True) -> Stepped:
        """Take one step of a batch. May be called at any time, any number of times.

        Without `judged` the batch is not compared with its items, which looks at all of them.
        """
        row = await rows.batch_row(tx, batch_id)
        if row is None or row["state"] in BATCH_ENDS or row["state"] == "loading":
            return _NOTHING
        now = self._runtime.clock.now()
        stages = self._stages(row, to_us(now))
        if row["custodian"] not in self._recorders:
            # Its custodian is not configured here: the batch waits, and holds up no other. It ends once its
            # items have, and those that were never handed over can be canceled without the custodian.
            stages = tuple(each for each in stages if each in (self._cancel, self._judge))
        state = await state_row(tx)
        if state["frozen"] is not None:
            # Nothing is ended or handed over by a database that may be an older copy.
            stages = tuple(each for each in stages if each == self._judge)
        elif not goes_by(state, self._rules):
            # Terms are fixed, and items handed over, by the active limits and routes alone.
            kept = (self._cancel, self._unfunded, self._judge)
            stages = tuple(each for each in stages if each in kept)
        for stage in stages:
            if stage == self._judge and not judged:
                continue
            stepped = await stage(tx, row, now)
            if stepped is not None:
                return stepped
        return _NOTHING

    def _stages(self, row: Row, now: int) -> Sequence[Stage]:
        """Return what there is to do, in order; the first that does something ends the step."""
        if row["executed_at"] is None and row["cancel_at"] is None and row["expires_at"] > now:
            return ()
        if row["executed_at"] is None or row["cancel_at"] is not None:
            return (self._cancel, self._judge)
        over = row["funds_until"] is not None and row["funds_until"] <= now
        if row["state"] == BatchState.REQUESTED:
            return (*((self._never_funded,) if over else ()), self._never_begun, self._begin)
        return (
            *((self._verify,) if row["state"] == BatchState.VERIFYING else ()),
            *((self._unfunded,) if over else ()),
            *(() if row["native"] else (self._hand_over,)),
            self._judge,
        )

    async def _begin(self, tx: Tx, row: Row, now: datetime) -> Stepped | None:
        """Take the turn at the source account, once it has come and the account covers the batch."""
        if await rows.waits_for_another(tx, row["id"]):
            return None
        if row["funds_until"] is not None and await funds.is_waiting(tx, row["id"]):
            return None
        await self._move(tx, row, BatchState.VERIFYING, now, worked_off=-1, funds_until=None)
        return Stepped(more=True)

    async def _never_begun(self, tx: Tx, row: Row, now: datetime) -> Stepped | None:
        """End a batch whose turn has not come in time; None: it waits on, or its turn has come.

        Its time is elapsed time since it was executed, so no clock that is set ends it. On another clock (after
        a reboot, on another machine) it begins when that clock first sees it wait. Both are stored: a restart
        of the process changes nothing. Nothing of it was handed over, so nothing can be on its way.
        """
        if row["worked_off"] != _ENDS:
            if not await self._waited_too_long(tx, row):
                return None
            # One that waits for funds alone has until midnight UTC.
            if not await rows.waits_for_another(tx, row["id"]):
                return None
            # Written down: whichever process goes on ends the rest, and begins nothing of it.
            await rows.update_batch(tx, row["id"], worked_off=_ENDS)
        dropped = await self._drop_unsent(tx, row, not_sent_in_time_report())
        return dropped or await self._judge(tx, row, now)

    async def _waited_too_long(self, tx: Tx, row: Row) -> bool:
        now = self._runtime.clock.moment()
        starts: dict[str, int] = json.loads(row["queued_since"] or "{}")
        if now.clock_id not in starts:
            kept = [*starts.items(), (now.clock_id, now.elapsed)][-_MOST_CLOCKS:]
            await rows.update_batch(tx, row["id"], queued_since=to_json(dict(kept)))
            return False
        since = starts[now.clock_id]
        return self._submit_within is not None and now.elapsed - since >= self._submit_within

    async def _never_funded(self, tx: Tx, row: Row, now: datetime) -> Stepped | None:
        """End a batch that its account has not covered in time; None: it does meanwhile."""
        if await funds.is_waiting(tx, row["id"]):
            return await self._drop_unsent(tx, row, unfunded_report())
        return (
            None if await rows.unsent_items(tx, row["id"], 1) else await self._judge(tx, row, now)
        )

    async def _cancel(self, tx: Tx, row: Row, _: datetime) -> Stepped | None:
        return await self._drop_unsent(tx, row, canceled_report())

    async def _unfunded(self, tx: Tx, row: Row, _: datetime) -> Stepped | None:
        return await self._drop_unsent(tx, row, unfunded_report())

    async def _verify(self, tx: Tx, row: Row, now: datetime) -> Stepped | None:
        """Fix the terms of some items and tell of them; then make the sets. None: all is done."""
        page = await rows.items_page(tx, row["id"], row["worked_off"], _AT_ONCE)
        caller = Caller(row["org"], row["mode"], "batch")
        fixed: list[tuple[Row, QuoteTerms]] = []
        for item in page:
            if item["status"] != Status.PENDING or item["sequence"] > 0:
                continue
            payout = payout_of(item)
            request = QuoteRequest(
                external_ref=payout.external_ref,
                destination=payout.terms.destination,
                asset=payout.terms.asset,
                amount=payout.terms.amount,
                network_hint=payout.terms.route.to_network,
                route=RouteWish(custodian=payout.custodian, account=payout.account),
                reference=payout.reference,
                metadata=dict(payout.metadata),
            )
            try:
                terms, _ = self._quotes.terms(caller, request)
            except Refused as refused:
                await self._payouts.apply(tx, payout.id, refused_report(refused), item)
            else:
                fixed.append((item, terms))
        await self._payouts.announce(tx, fixed)
        if page:
            worked_off = page[-1]["batch_position"]
            await rows.update_batch(tx, row["id"], worked_off=worked_off)
            return Stepped(more=True)
        if not row["native"]:
            await self._move(tx, row, BatchState.EXECUTING, now, worked_off=-1)
            await self._batches.tell(tx, row["id"], "batch.executing")
            return Stepped(more=True)
        if not await executions.executions_of_batch(tx, row["id"]):
            await self._open_sets(tx, row)
            return Stepped(wake=(row["custodian"],))
        return None

    async def _open_sets(self, tx: Tx, row: Row) -> None:
        """Split the batch into sets, always in the same way; an execution for each."""
        size = self._handovers[row["custodian"]].set_size
        for number, first in enumerate(range(0, row["items"], size), 1):
            items = await rows.items_between(tx, row["id"], first, first + size - 1)
            # What was refused when its terms were fixed has ended, and is not paid with the others.
            pending = [each["id"] for each in items if each["status"] not in TERMINAL]
            if pending:
                await executions.open_execution(
                    tx,
                    execution_id=self._runtime.ids.new("exe"),
                    custodian=row["custodian"],
                    account=row["account"],
                    items=pending,
                    at=self._runtime.clock.moment(),
                    due=self._runtime.timeline.now(),
                    number=number,
                    batch_id=row["id"],
                    rank=1,
                )

    async def _hand_over(self, tx: Tx, row: Row, _: datetime) -> Stepped | None:
        """Give the engine a few more items, so that single payouts never wait behind a whole batch."""
        free = self._handovers[row["custodian"]].window - await rows.unsent_count(tx, row["id"])
        if free <= 0:
            return None
        page = await rows.unhanded_items(tx, row["id"], row["worked_off"], min(free, _AT_ONCE))
        for item in page:
            await executions.open_execution(
                tx,
                execution_id=self._runtime.ids.new("exe"),
                custodian=row["custodian"],
                account=row["account"],
                items=[item["id"]],
                at=self._runtime.clock.moment(),
                due=self._runtime.timeline.now(),
                batch_id=row["id"],
                rank=1,
            )
        if not page:
            return None
        await rows.update_batch(tx, row["id"], worked_off=page[-1]["batch_position"])
        return Stepped(more=True, wake=(row["custodian"],))

    async def _drop_unsent(self, tx: Tx, row: Row, report: Report) -> Stepped | None:
        """End some items of which nothing has moved; None: there are none.

        An execution is closed before its items end: a worker that handles it cannot set its moving
        mark any more. Of a custodian that is not configured here none is closed: it may know of them.
        """
        recorder = self._recorders.get(row["custodian"])
        now = self._runtime.timeline.now()
        if recorder is not None:
            for each in await executions.idle_of_batch(tx, row["id"], now, _AT_ONCE):
                await recorder.take_back(tx, each)
        unsent = await rows.unsent_items(tx, row["id"], _AT_ONCE)
        if not unsent:
            return None
        for payout_id in unsent:
            await self._payouts.apply(tx, payout_id, report)
        return Stepped(more=True)

    async def _judge(self, tx: Tx, row: Row, now: datetime) -> Stepped:
        """Bring the batch's state up to that of its items."""
        counted = {
            (Status(each["status"]), SubStatus(each["sub_status"])): int(each["n"])
            for each in await rows.counts(tx, row["id"])
        }
        if all(status in TERMINAL for status, _ in counted):
            await self._end(tx, row, counted, now)
            return Stepped(wake=("batches",))
        short = any(sub_status is SubStatus.AWAITING_FUNDS for _, sub_status in counted)
        # What a custodian has taken it still verifies: money on its way is what counts.
        under_way = any(status in {Status.BROADCAST, Status.DELIVERED} for status, _ in counted)
        if short != (row["funds_until"] is not None):
            until = to_us(midnight_after(now)) if short else None
            await rows.update_batch(tx, row["id"], funds_until=until)
        state = row["state"]
        if state in {BatchState.VERIFYING, BatchState.AWAITING_FUNDS} and under_way:
            await self._move(tx, row, BatchState.EXECUTING, now)
            await self._batches.tell(tx, row["id"], "batch.executing")
            return _NOTHING
        if state == BatchState.VERIFYING and short:
            await self._move(tx, row, BatchState.AWAITING_FUNDS, now)
        return _NOTHING

    async def _end(
        self, tx: Tx, row: Row, counted: Mapping[tuple[Status, SubStatus], int], now: datetime
    ) -> None:
        """Write the end of a batch all of whose items have ended."""
        total = sum(counted.values())
        canceled = counted.get((Status.FAILED, SubStatus.CANCELED), 0)
        unsent = await rows.failed_unsent(tx, row["id"])
        failure: str | None = None
        if canceled == total:
            state, kind = BatchState.CANCELED, "batch.canceled"
        elif unsent == total:
            state, kind = BatchState.FAILED, "batch.failed"
            failure = (await self._failure(tx, row)).model_dump_json()
        else:
            state, kind = BatchState.FINALIZED, "batch.finalized"
        passed = row["state"] in {BatchState.VERIFYING, BatchState.AWAITING_FUNDS}
        if state is BatchState.FINALIZED and passed:
            # It was executed to its end between two polls: the stage is still reported.
            await self._move(tx, row, BatchState.EXECUTING, now)
            await self._batches.tell(tx, row["id"], "batch.executing")
        at = to_us(now)
        await self._move(tx, row, state, now, finalized_at=at, funds_until=None, failure=failure)
        await self._batches.tell(tx, row["id"], kind)

    async def _failure(self, tx: Tx, row: Row) -> Failure:
        """Return what the items failed for, where it is one thing."""
        page = await rows.items_page(tx, row["id"], -1, _AT_ONCE)
        codes = {json.loads(each["failure"])["code"] for each in page if each["failure"]}
        code = FailureCode(codes.pop()) if len(codes) == 1 else FailureCode.SUBMISSION_REJECTED
        return Failure(
            code=code, message="Nothing of the batch was sent.", funds_moved=FundsMoved.NO
        )

    @staticmethod
    async def _move(tx: Tx, row: Row, state: BatchState, now: datetime, **more: object) -> None:
        await rows.update_batch(tx, row["id"], state=state, updated_at=to_us(now), **more)


def canceled_report() -> Report:
    """Return the end of an item whose batch was canceled before it was sent."""
    failure = Failure(
        code=FailureCode.CANCELED,
        message="Its batch was canceled before it was sent.",
        funds_moved=FundsMoved.NO,
    )
    return Report(SubStatus.CANCELED, "", failure=failure, detail=failure.message)


def unfunded_report() -> Report:
    """Return the end of an item that was not handed over before its batch's time for funds was over."""
    failure = Failure(
        code=FailureCode.INSUFFICIENT_FUNDS,
        message="The source account did not cover the batch by midnight UTC; it was not sent.",
        funds_moved=FundsMoved.NO,
    )
    return Report(SubStatus.EXPIRED, "", failure=failure, detail=failure.message)


def refused_report(refused: Refused) -> Report:
    """Return the end of an item that could be paid when the batch was made, and cannot any more."""
    failure = Failure(
        code=FailureCode.SUBMISSION_REJECTED,
        message=refused.detail,
        custodian_code=refused.code,
        funds_moved=FundsMoved.NO,
    )
    return Report(SubStatus.REJECTED, "", failure=failure, detail=failure.message)
