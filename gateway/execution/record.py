"""Begins work on executions and records the outcomes. Store functions.

Each writes under the lease, and a stale token writes nothing. One transaction reads the rows, asks
`decide` and writes everything that follows: evidence, status updates of the items, the state and the
time of the next look.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.adapter import BatchReport, Capabilities, Report
from gateway.errors import Rejected, WrongAnswer
from gateway.execution.certainty import could_end, still_certain, with_frozen
from gateway.execution.changes import Changes
from gateway.execution.claims import unmarked
from gateway.execution.decide import (
    Outcome,
    decide,
    microseconds,
    polling_delay_s,
    takeover,
)
from gateway.execution.ended import look_again, news_after_end, note_look_in_vain
from gateway.execution.expected import expects, strangers, without_news
from gateway.execution.failover import Cause, Onward, cause_of, go_on, next_for
from gateway.execution.gate import may_reopen
from gateway.execution.history import (
    histories,
    history_of,
    item_of,
    others_of,
)
from gateway.execution.interpret import (
    REFERENCE_OF_ANOTHER,
    news_from_outside,
    unknown_references,
)
from gateway.execution.late import answer_of_closed
from gateway.execution.proof import History, Source, closed, open_calls
from gateway.execution.reports import (
    failed,
    is_early,
    queued_report,
    rejected_report,
    without_status,
    wrong_answer_report,
)
from gateway.execution.state import Decision, Job, Lease, State, Verb, View, stored_as
from gateway.execution.turns import Turns
from gateway.execution.waiting import (
    QUEUE_LOOK_S,
    action_due,
    held,
    late_at,
    too_late,
    unfunded,
)
from gateway.execution.work import Work as _Work
from gateway.execution.work import job_of
from gateway.model import TERMINAL, Attention
from gateway.payout_change import Applied
from gateway.payouts import Payouts
from gateway.runtime import Moment, Runtime
from gateway.store import account_turns, executions
from gateway.store import payouts as payout_rows
from gateway.store.attention import close_answered
from gateway.store.database import Row, Tx
from gateway.store.rows import account_of, payout_of, to_json
from gateway.store.state import frozen

#: Items whose status updates are written in one transaction.
PAGE = 25
#: What is kept of one line for the operator.
_DETAIL = 300
_SECOND = 1_000_000


@dataclass(frozen=True)
class Recorded:
    """What recording did. `lost` means that another worker owns the execution, and nothing was written."""

    applied: tuple[Applied, ...] = ()
    lost: bool = False
    #: the reports that `record_more` still has to apply, under the lease that is still held
    rest: tuple[tuple[str, Report], ...] = ()
    lease: Lease | None = None
    decision: Decision | None = None
    changed: bool = False
    #: whether every item has ended, or waits in another execution
    ended: bool = False
    #: the custodian to which the payout has moved
    onward: str | None = None


class Recorder:
    """Store functions around the calls of one custodian instance."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        runtime: Runtime,
        payouts: Payouts,
        custodian: str,
        capabilities: Capabilities,
        adapter: str = "adapter",
        submit_within_s: float | None = None,
        onward: Onward | None = None,
        rules: str | None = None,
    ) -> None:
        self._onward = onward
        self._rules = rules
        self._submit_within = microseconds(submit_within_s)
        self._adapter = adapter
        self._runtime = runtime
        self._payouts = payouts
        self.custodian = custodian
        self._can = capabilities
        self._changes = Changes(runtime, payouts, custodian, capabilities)
        self._turns = Turns(custodian, capabilities.in_flight)

    # --- Beginning --------------------------------------------------------------------------------

    async def claim(  # noqa: PLR0913 - the terms of a claim
        self,
        tx: Tx,
        owner: str,
        until: int,
        limit: int,
        looks: int | None = None,
        *,
        moves: bool = True,
    ) -> list[Job | Recorded]:
        """Claim due executions, up to a limit, and begin work on each.

        `looks` is set when requests are scarce: this number of looks comes first, then submissions,
        then other looks.
        """
        now = self._runtime.timeline.now()
        rows = await self._turns.claim(tx, owner, now, until, limit, looks, moves=moves)
        return await self.begin(tx, rows) if rows else []

    async def begin(
        self, tx: Tx, rows: Sequence[Row], *, sends: bool = True
    ) -> list[Job | Recorded]:
        """Begin work on claimed executions; handle takeovers, ended items, expiries and turns at accounts.

        With `sends`, a submission waits for its turn and for pauses; it does not where a person acts on
        it.
        """
        now = self._runtime.clock.moment()
        items = await executions.items_of(tx, [row["id"] for row in rows])
        known = await histories(tx, rows, now)
        self._turns.serve(each[0] for each in items.values())
        return [
            await self._begin(
                tx,
                _Work(row, items.get(row["id"], []), known[row["id"]], row["due_at"]),
                now,
                sends=sends,
            )
            for row in rows
        ]

    async def _begin(  # noqa: C901, PLR0911 - one per way to begin
        self, tx: Tx, work: _Work, now: Moment, *, sends: bool
    ) -> Job | Recorded:
        row, state = work.row, State(work.row["state"])
        if all(each["status"] in TERMINAL for each in work.items):
            await self._changes.close(tx, work, now)
            return Recorded(ended=True)
        if row["refusal"] is not None:
            return await self._refused_again(tx, work, now)
        view = self._view(work, Verb.FETCH, now, now)
        if state is State.MOVING:
            # A mark without an outcome is an unknown call for any worker that finds it.
            return await self._write(tx, work, takeover(view), view, now)
        if any(each["status"] in TERMINAL for each in work.items):
            remaining = await self._without_ended(tx, work, view, now)
            if remaining is not None:
                return remaining
        view = await with_frozen(tx, view)
        if row["earlier"] and any(each.unanswered for each in view.open_items):
            ids = [each.id for each in view.items]
            view = replace(view, others=await others_of(tx, row["id"], ids, now))
        late, work.history = await too_late(tx, row, view, self._submit_within, self._rules)
        if late is not None:
            return await self._write(tx, work, late, view, now)
        job = job_of(work)
        if not sends:
            return job
        timeline, waits = self._runtime.timeline.now(), job.next_verb is Verb.SUBMIT
        if waits and await held(tx, self._payouts, row, work.items, work.history, timeline):
            if not open_calls(work.history):
                await self._changes.release_account(tx, work, now)
            return Recorded()
        if waits and await unfunded(tx, self._payouts, row, work.items, timeline):
            return Recorded()
        if state is not State.PARKED and not await self._turn(tx, work, now):
            return Recorded()
        return job

    async def _refused_again(self, tx: Tx, work: _Work, now: Moment) -> Recorded:
        """Apply a refusal to the items that the last worker did not reach."""
        code, message, word = json.loads(work.row["refusal"])
        refusal = Rejected(code, message, custodian_code=word)
        news = {
            each["id"]: rejected_report(refusal)
            for each in work.items
            if each["status"] not in TERMINAL
        }
        certain = dict(await still_certain(tx, work.row, work.history, tuple(news.items()), now))
        if news and not certain:
            # The outcome is not certain any more: look it up, or wait until the database is adopted.
            decision = Decision(State.UNKNOWN, QUEUE_LOOK_S)
            if await frozen(tx) is None:
                await executions.update_execution(tx, work.row["id"], refusal=None)
        else:
            decision = Decision(State.CLOSED, 0.0, reports=certain)
        view = self._view(work, Verb.FETCH, now, now)
        return await self._write(tx, work, decision, view, now)

    async def _without_ended(self, tx: Tx, work: _Work, view: View, now: Moment) -> Recorded | None:
        """Reopen a set for the items that have not ended, as new content under new keys.

        It does so only if the old content certainly pays none of them and nothing blocks the set.
        Otherwise the set is only looked at, and an operator decides. None: nothing has to change now.
        """
        if view.state not in {State.PREPARED, State.PARKED}:
            return None
        certain = all(closed(work.history, each.id) for each in view.open_items)
        if certain and work.row["blocked"] is None:
            await self._changes.reopen(tx, work, [each.id for each in view.open_items], now)
            return Recorded(ended=True)
        first = view.open_items[0].id
        detail = "an item of its set has ended; the set is not sent again as it is"
        await payout_rows.add_attention(tx, first, Attention.ITEM_ENDED, detail, now.wall)
        # The delay grows, because every look at a set with a harmless repeat leads back here.
        delay = polling_delay_s(self._can, view.looks)
        decision = Decision(State.UNKNOWN, delay, failures=view.failures, looks=view.looks)
        return await self._write(tx, work, decision, view, now)

    async def _turn(self, tx: Tx, work: _Work, now: Moment) -> bool:
        """Take the turn at an account that pays one payout at a time; queue if another execution has it.

        Only an execution that is submitted next has to wait; one that may have been sent is still
        looked at.
        """
        if not self._can.one_at_a_time:
            return True
        row = work.row
        account = account_of(row["account"])
        taken = await account_turns.acquire_account(
            tx, self.custodian, account.type, account.id, row["id"], now.wall
        )
        if not taken and State(row["state"]) is not State.PREPARED:
            return True
        since = None if taken else (row["waiting_since"] or now.wall)
        if since != row["waiting_since"]:
            await executions.update_execution(tx, row["id"], waiting_since=since)
        if taken:
            return True
        if len(work.items) == 1:
            payout = payout_of(work.items[0])
            await self._payouts.apply(tx, payout.id, queued_report(payout))
        due = self._runtime.timeline.now() + round(QUEUE_LOOK_S * _SECOND)
        await executions.release(tx, row["id"], row["lease_token"], row["due_at"], due)
        return False

    # --- Recording --------------------------------------------------------------------------------

    async def record(  # noqa: PLR0913 - the outcome and its circumstances
        self,
        tx: Tx,
        job: Job,
        verb: Verb,
        outcome: Outcome,
        *,
        started: Moment,
        fingerprint: str,
        seen: int,
        call: int | None = None,
    ) -> Recorded:
        """Record the outcome of a verb, whatever it is.

        `started` is when its request started, `seen` the newest row that the process had read then,
        `call` the row of the moving call that it made.
        """
        work, now = await self._held(tx, job.lease, asked=fingerprint), self._runtime.clock.moment()
        if work is None:
            await answer_of_closed(tx, job.items, self.custodian, outcome, now)
            return Recorded(lost=True)
        view = self._view(work, verb, started, now, seen=seen, call=call, fingerprint=fingerprint)
        if work.row["earlier"]:
            view = replace(view, others=await others_of(tx, work.row["id"], work.rows, now))
        if isinstance(outcome, BatchReport):
            foreign = await self._strangers(tx, work, outcome.items)
            view = replace(view, foreign=foreign | unknown_references(view, outcome.items))
        decision = decide(await with_frozen(tx, view, ends=could_end(outcome)), outcome)
        if work.row["blocked"] == Attention.EARLY_NEWS:
            ours = {each.id for each in view.items} - view.foreign
            decision = without_news(decision, outcome, ours)
        payout = job.items[0]
        answered = verb is Verb.CONFIRM and payout.requires_action is not None
        waits = decision.state in {State.PARKED, State.PREPARED}
        if answered and waits and isinstance(outcome, WrongAnswer):
            decision = replace(decision, reports={payout.id: wrong_answer_report(payout, outcome)})
        if isinstance(outcome, Rejected) and len(decision.reports) > PAGE:
            refusal = to_json([outcome.code, outcome.message, outcome.custodian_code])
            await executions.update_execution(tx, work.row["id"], refusal=refusal)
        return await self._write(tx, work, decision, view, now, cause_of(view, outcome))

    async def record_more(self, tx: Tx, recorded: Recorded) -> Recorded:
        """Apply the decision to the next page of items; after the last page the lease ends.

        `recorded` is the result of the previous transaction, with a `rest`.
        """
        lease, decision = recorded.lease, recorded.decision
        assert lease is not None  # noqa: S101 - see the docstring
        assert decision is not None  # noqa: S101 - see the docstring
        work = await self._held(tx, lease)
        if work is None:
            return Recorded(lost=True)
        now = self._runtime.clock.moment()
        page = await still_certain(tx, work.row, work.history, recorded.rest[:PAGE], now)
        applied = await self._changes.tell(tx, work, page)
        changed = recorded.changed or any(each.changed for each in applied)
        if recorded.rest[PAGE:]:
            return replace(recorded, applied=applied, rest=recorded.rest[PAGE:], changed=changed)
        ended = await self._finish(tx, work, decision, now, changed=changed)
        return Recorded(applied, decision=decision, changed=changed, ended=ended)

    async def _held(self, tx: Tx, lease: Lease, *, asked: str = "") -> _Work | None:
        found = await executions.held_with_items(tx, lease.execution_id, lease.token)
        if found is None:
            return None
        row, items = found
        now = self._runtime.clock.moment()
        history = await history_of(tx, row, now, asked=asked)
        return _Work(row, items, history, lease.claimed_due)

    async def _write(  # noqa: PLR0913 - the decision and its circumstances
        self,
        tx: Tx,
        work: _Work,
        decision: Decision,
        view: View,
        now: Moment,
        cause: Cause | None = None,
    ) -> Recorded:
        """Write a decision: evidence and state first, then the items' status updates."""
        row = work.row
        await self._changes.add_evidence(tx, work, decision.evidence, decision.reason)
        causes = cause if decision.blocked is None else None
        if (there := await self._fail_over(tx, work, causes, decision.reason, now)) is not None:
            return there
        for code, detail in decision.alerts:
            first = next(iter(view.open_items), view.items[0])
            await payout_rows.add_attention(tx, first.id, code, detail[:_DETAIL], now.wall)
        if decision.blocked is not None and row["blocked"] is None:
            await executions.update_execution(tx, row["id"], blocked=decision.blocked)
        if decision.reopens and row["blocked"] is None:
            await self._changes.reopen(tx, work, [each.id for each in view.open_items], now)
            return Recorded(ended=True)
        if decision.reopens:
            # The execution is blocked, so a person decides first whether there is another session.
            delay, looks = polling_delay_s(self._can, view.looks), view.looks + 1
            decision = replace(decision, state=State.UNKNOWN, delay_s=delay, looks=looks)
        news = [
            (each["id"], decision.reports[each["id"]])
            for each in work.items
            if each["id"] in decision.reports
        ]
        applied = await self._changes.tell(tx, work, news[:PAGE])
        changed = any(each.changed for each in applied)
        if news[PAGE:]:
            # Make the state durable before the other pages: if the worker dies, the next one continues
            # from here.
            columns: dict[str, object] = {
                "rows": work.history.last_number,
                "open_calls": len(open_calls(work.history)),
            }
            if State(row["state"]) is not State.MOVING or view.verb is not Verb.FETCH:
                # The mark of a takeover stays: if the worker dies between two pages, the takeover is
                # repeated.
                closes = decision.state is State.CLOSED
                columns["state"] = stored_as(State(row["state"]) if closes else decision.state)
            await executions.update_execution(tx, row["id"], **columns)
            lease = Lease(row["id"], row["lease_token"], work.claimed_due)
            return Recorded(
                applied,
                rest=tuple(news[PAGE:]),
                lease=lease,
                decision=decision,
                changed=changed,
            )
        ended = await self._finish(tx, work, decision, now, changed=changed)
        return Recorded(applied, decision=decision, changed=changed, ended=ended)

    async def _finish(
        self, tx: Tx, work: _Work, decision: Decision, now: Moment, *, changed: bool
    ) -> bool:
        """Release the lease with the time of the next look, or end the execution with its last item."""
        row = work.row
        # A takeover keeps the failure count and so closes no alert, because the custodian has not
        # answered.
        if row["failures"] and not decision.failures and not decision.alerts:
            await close_answered(tx, work.rows, now.wall)
        if work.ended:
            await self._changes.close(tx, work, now, decision.reason or "ended")
            return True
        looks, delay = decision.looks, decision.delay_s
        if changed and looks:
            looks, delay = 0, min(delay, polling_delay_s(self._can, 0))
        state = State.UNKNOWN if decision.state is State.CLOSED else decision.state
        timeline = self._runtime.timeline.now()
        due = timeline + round(delay * _SECOND)
        if state is State.PARKED:
            due = min(due, await action_due(tx, work.items[0]["id"], now, timeline) or due)
        if state is State.PREPARED:
            late = late_at(row, work.history, now, timeline, self._submit_within)
            due = due if late is None else min(due, late)
        columns: dict[str, object] = {
            "state": stored_as(state),
            "rows": work.history.last_number,
            "open_calls": len(open_calls(work.history)),
            "looks": looks,
            "failures": decision.failures,
            "due_at": due if row["due_at"] == work.claimed_due else row["due_at"],
            "lease_until": 0,
        }
        if decision.repeat_is_safe is not None:
            # The adapter's statement stays valid until it makes another one.
            columns["repeat_is_safe"] = int(decision.repeat_is_safe)
        if decision.reason:
            columns["outcome"] = decision.reason[:500]
        await executions.update_execution(tx, row["id"], **columns)
        if decision.releases_account:
            await self._changes.release_account(tx, work, now)
        return False

    async def _fail_over(
        self, tx: Tx, work: _Work, cause: Cause | None, reason: str | None, now: Moment
    ) -> Recorded | None:
        """Close an execution and open one at another custodian, before anything is published; None if it stays."""
        there = await next_for(tx, self._onward, work.row, work.items, cause, now)
        if there is None:
            return None
        await self._changes.close(tx, work, now, f"{cause}; goes on at {there[0]}: {reason or ''}")
        done = await go_on(tx, self._runtime, self._payouts, work, there)
        return Recorded((done,), changed=True, ended=True, onward=there[0])

    def _view(  # noqa: PLR0913 - the verb and its circumstances
        self,
        work: _Work,
        verb: Verb,
        started: Moment,
        now: Moment,
        *,
        seen: int | None = None,
        call: int | None = None,
        fingerprint: str = "",
    ) -> View:
        row = work.row
        said = row["repeat_is_safe"]
        return View(
            state=State(row["state"]),
            verb=verb,
            history=work.history,
            items=tuple(item_of(each, now) for each in work.items),
            capabilities=self._can,
            started=started,
            now=now,
            seen=work.history.last_number if seen is None else seen,
            fingerprint=fingerprint,
            call=call,
            looks=row["looks"],
            failures=row["failures"],
            repeat_is_safe=None if said is None else bool(said),
            jitter=self._runtime.ids.jitter(),
            adapter=self._adapter,
        )

    # --- News from outside, and what people end ---------------------------------------------------

    async def news(self, tx: Tx, payout_id: str, report: Report, source: Source) -> Applied | None:
        """Apply a webhook's or an operator's news to a payout; None if it only brings the next look forward.

        A sighting of our own transfer is kept as evidence, so the execution is never marked again.
        """
        now = self._runtime.clock.moment()
        row = await executions.open_execution_of(tx, payout_id)
        if row is None:
            return await news_after_end(tx, self._payouts, payout_id, report, source, now)
        items = await executions.items_of(tx, [row["id"]])
        work = _Work(row, items[row["id"]], await history_of(tx, row, now), row["due_at"])
        view = self._view(work, Verb.FETCH, now, now)
        if await self._strangers(tx, work, {payout_id: report}):
            # The transfer is not ours, so it says nothing about this payout. Applying it only alerts
            # and blocks.
            (applied,) = await self._changes.tell(tx, work, [(payout_id, report)])
            return applied
        if row["earlier"]:
            view = replace(view, others=await others_of(tx, row["id"], [payout_id], now))
        if unknown_references(view, {payout_id: report}):
            await self._changes.block(tx, work, Attention.FOREIGN_REF, REFERENCE_OF_ANOTHER, now)
            return None
        view = await with_frozen(tx, view, ends=failed(report))
        rows, told = news_from_outside(view, payout_id, report, source)
        known = (view.history, *(each.history for each in view.others if not each.elsewhere))
        await self._changes.add_evidence(tx, work, rows, report.custodian_word)
        if rows:
            await executions.update_execution(tx, row["id"], rows=work.history.last_number)
        early = source is Source.WEBHOOK and is_early(known, report)
        faults = {} if source is Source.OPERATOR else unmarked(view, {payout_id: report})
        if early and expects(row["notes"]):
            # The operator gets one alert, whether a webhook or a look came first.
            if row["blocked"] != Attention.ADAPTER_ERROR:
                detail = f"no call was made, and the custodian says {report.custodian_word}"
                await self._changes.block(tx, work, Attention.EARLY_NEWS, detail[:200], now)
            told = None
        elif faults and row["blocked"] != Attention.EARLY_NEWS:
            await self._changes.block(
                tx, work, Attention.ADAPTER_ERROR, faults[payout_id][:_DETAIL], now
            )
        if told is None and not report.returned:
            return None
        # Money that came back is kept even if the report's status changes nothing.
        news = told or without_status(report)
        (applied,) = await self._changes.tell(tx, work, [(payout_id, news)])
        await self._changes.close_if_ended(tx, work, now, news)
        return applied

    async def last_ended_job(self, tx: Tx, payout_id: str) -> Job | None:
        """Return the last execution of a failed payout, for a look; None if there is none."""
        rows = await executions.executions_of(tx, payout_id)
        return await self.ended_job(tx, rows[-1]["id"]) if rows else None

    async def ended_job(self, tx: Tx, execution_id: str) -> Job | None:
        """Return an execution that has ended, for a look; None if there is none.

        Nobody holds its lease, so nothing can be remembered for it and no mark can be set.
        """
        row = await executions.execution_row(tx, execution_id)
        if row is None or row["ended_at"] is None:
            return None
        items = (await executions.items_of(tx, [execution_id])).get(execution_id, [])
        history = await history_of(tx, row, self._runtime.clock.moment())
        return job_of(_Work(row, items, history, row["due_at"])) if items else None

    async def looked_after_end(self, tx: Tx, payout_id: str, outcome: Outcome) -> Applied | None:
        """Record the look at a payout that has ended; a contradiction of its end alerts the operator."""
        report = outcome.items.get(payout_id) if isinstance(outcome, BatchReport) else None
        if report is not None:
            return await self.news(tx, payout_id, report, Source.LOOK)
        await note_look_in_vain(tx, payout_id, outcome, self._runtime.clock.moment())
        return None

    async def look_after_delivery(self, tx: Tx, payout_id: str) -> None:
        """Schedule one more look at a payout that has ended, because a webhook came about it."""
        await look_again(tx, self._can, self.custodian, payout_id, self._runtime.timeline.now())

    async def _strangers(
        self, tx: Tx, work: _Work, reports: Mapping[str, Report]
    ) -> frozenset[str]:
        """Return the items whose report names an id that belongs to another payout."""
        found, known = await strangers(tx, self.custodian, work.rows, reports)
        if len(reports) == 1 and known is not None:
            work.refs = known
        return found

    async def end(self, tx: Tx, execution: Row, payout_id: str, report: Report) -> Applied:
        """Apply the end of a payout that the caller may end, and close its execution if all items have ended."""
        now = self._runtime.clock.moment()
        items = await executions.items_of(tx, [execution["id"]])
        history = await history_of(tx, execution, now)
        work = _Work(execution, items[execution["id"]], history, execution["due_at"])
        (applied,) = await self._changes.tell(tx, work, [(payout_id, report)])
        await self._changes.close_if_ended(tx, work, now, report)
        return applied

    async def take_back(self, tx: Tx, execution: Row) -> bool:
        """Close an execution that certainly pays none of its open items; False if it may pay one.

        A worker that holds it cannot set a mark any more.
        """
        now = self._runtime.clock.moment()
        items = await executions.items_of(tx, [execution["id"]])
        history = await history_of(tx, execution, now)
        work = _Work(execution, items[execution["id"]], history, execution["due_at"])
        pending = [each["id"] for each in work.items if each["status"] not in TERMINAL]
        others = await others_of(tx, execution["id"], pending, now) if execution["earlier"] else ()
        if not all(may_reopen(history, each, others) for each in pending):
            return False
        await self._changes.close(tx, work, now, "taken back")
        return True

    async def own(self, tx: Tx, payout_id: str) -> bool:
        """Open an execution for a payout that has none; False if an earlier one may have paid it.

        The second gate allows it if everything that was ever sent for the payout is closed.
        """
        now = self._runtime.clock.moment()
        row = await payout_rows.payout_row(tx, payout_id)
        assert row is not None  # noqa: S101 - the caller has found it
        earlier = await executions.executions_of(tx, payout_id)
        others = await others_of(tx, "", [payout_id], now)
        if not may_reopen(History(), payout_id, others):
            detail = "it has no execution, and an earlier one may have paid it"
            await payout_rows.add_attention(tx, payout_id, Attention.UNRESOLVED, detail, now.wall)
            return False
        await executions.open_execution(
            tx,
            execution_id=self._runtime.ids.new("exe"),
            custodian=self.custodian,
            account=row["account"],
            items=[payout_id],
            at=now,
            due=self._runtime.timeline.now(),
            number=len(earlier) + 1,
            batch_id=row["batch_id"],
            rank=0 if row["batch_id"] is None else 1,
        )
        return True
