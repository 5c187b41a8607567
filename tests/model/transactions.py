"""The transactions of the engine, as the real ones: each reads everything, asks the rules, writes.

The rules are the project's own: `proof`, `gate`, `decide` and `states.judge`. They are looked up in
their modules at every use, so that a test can replace one of them. Answers are kept by the values
that they were asked with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gateway.adapter import Capabilities, KeySemantics, Report
from gateway.execution import decide as rules
from gateway.execution import failover, interpret, proof, unsent
from gateway.execution import gate as gates
from gateway.execution.decide import Outcome
from gateway.execution.gate import MarkRefused, Other, Refusal, Request
from gateway.execution.proof import Evidence, Heartbeat, History, Kind, Source
from gateway.execution.reports import canceled_report
from gateway.execution.state import Decision, State, Verb, View
from gateway.execution.state import Item as Known
from gateway.model import GATE_VERSION, Failure, FailureCode, FundsMoved, Status, SubStatus
from gateway.states import Kind as Judgement
from gateway.states import judge
from tests.model.custodian import Found, name_of, outcome, report
from tests.model.world import (
    CLOCK_IDS,
    Execution,
    Item,
    Past,
    Profile,
    Stamp,
    Store,
    execution,
    moment,
    past,
    store,
)

_SECOND = 1_000_000


class Doing(NamedTuple):
    """The circumstances of a verb, for the transaction that records its outcome."""

    execution: int
    verb: Verb
    started: Stamp
    now: Stamp
    seen: int
    account: int
    row: int | None = None


class Marked(NamedTuple):
    """What came of asking for a mark."""

    store: Store
    row: int | None  #: the number of the call's row, where the mark was set
    lost: bool = False  #: the fencing token is old: nothing was written
    after_news: bool = False


@dataclass(frozen=True, eq=False)
class Rest:
    """What is still to be told to items, by a decision of an earlier transaction."""

    decision: Decision
    items: tuple[int, ...]


class Transactions:
    """The transactions of one profile. `counts`: keep counters and alerts, for fair runs."""

    def __init__(self, profile: Profile, *, counts: bool = False) -> None:
        self.profile = profile
        self._counts = counts
        self._kept: dict[Any, Any] = {}
        self._histories: dict[tuple[Past, tuple[tuple[int, int, int], ...]], History] = {}
        self._can = {low: self._capabilities(low=low) for low in (False, True)}

    def _capabilities(self, *, low: bool) -> Capabilities:
        profile = self.profile
        life = profile.call_life
        if low and life is not None:
            life = 1
        return Capabilities(
            destination_types=frozenset(),
            keys=KeySemantics(
                life_s=_seconds(profile.key_life),
                repeat_is_safe=profile.repeat_is_safe,
                failure_is_final=profile.burnt_keys,
            ),
            call_life_s=_seconds(life),
            visibility_s=profile.visibility / _SECOND,
            absence_looks=1 if low else profile.absence_looks,
            console_lags=profile.console_lags,
        )

    def life(self, *, low: bool) -> int | None:
        """Return the life of a request that is signed now."""
        return rules.microseconds(self._can[low].call_life_s)

    def keep(self, make: Callable[..., Any], *args: Any) -> Any:
        """Return what a function returns for these values; it is asked once."""
        key = (make.__name__, *args)
        try:
            return self._kept[key]
        except KeyError:
            made = self._kept[key] = make(*args)
            return made

    # --- Reading ----------------------------------------------------------------------------------

    def history(self, known: Store, number: int) -> History:
        """Return the history of an execution, with the heartbeats of the gateways."""
        rows = known.executions[number].past
        if not known.beats:
            return rows.history
        key = rows, known.beats
        found = self._histories.get(key)
        if found is None:
            beats = tuple(
                Heartbeat(CLOCK_IDS[clock], moment(Stamp(clock, tick, 0)).elapsed, marks)
                for clock, tick, marks in known.beats
            )
            found = self._histories[key] = replace(rows.history, heartbeats=beats)
        return found

    def others(self, known: Store, number: int, items: tuple[int, ...]) -> tuple[Other, ...]:
        """Return the other executions that ever held one of some items."""
        return tuple(
            Other(self.history(known, each), tuple(name_of(item) for item in shared))
            for each, other in enumerate(known.executions)
            if each != number and (shared := [item for item in other.items if item in items])
        )

    def reference(self, known: Store, number: int) -> str:
        """Return our reference of the next call of an execution."""
        if self.profile.own_references:
            calls = proof.calls(known.executions[number].past.history)
            return f"execution {number}, call {len(calls) + 1}"
        if self.profile.asks:
            return f"execution {number}, session {known.executions[number].session}"
        return f"execution {number}"

    def _view(self, known: Store, doing: Doing, *, low: bool, foreign: bool = False) -> View:
        at = known.executions[doing.execution]
        return View(
            state=at.state,
            verb=doing.verb,
            history=self.history(known, doing.execution),
            items=tuple(
                Known(name_of(each), known.items[each].status, known.items[each].sub_status)
                for each in at.items
            ),
            capabilities=self._can[low],
            started=moment(doing.started),
            now=moment(doing.now),
            seen=doing.seen,
            fingerprint=f"account-{doing.account}",
            call=doing.row,
            looks=at.looks,
            failures=at.failures,
            repeat_is_safe=at.safe,
            others=self.others(known, doing.execution, at.items),
            frozen=known.frozen,
            foreign=frozenset(name_of(each) for each in at.items) if foreign else frozenset(),
        )

    # --- The gate and the mark --------------------------------------------------------------------

    def mark(
        self,
        known: Store,
        number: int,
        at: Stamp,
        account: int,
        current: bool,
        low: bool,
        again: int | None,
        paused: bool,
    ) -> Marked:
        """Set the mark of a moving call, or record why not, in one transaction."""
        made = self.keep(self._mark, known, number, at, account, current, low, again, paused)
        assert isinstance(made, Marked)
        return made

    def _mark(
        self,
        known: Store,
        number: int,
        at: Stamp,
        account: int,
        current: bool,
        low: bool,
        again: int | None,
        paused: bool,
    ) -> Marked:
        target = known.executions[number]
        can = self._can[low]
        history = self.history(known, number)
        reference = self.reference(known, number)
        if again is not None:
            first = [each for each in history.rows if each.number == again]
            reference = str(first[0].reference) if first else reference
        key_life = rules.microseconds(can.keys.life_s)
        refusal = gates.gate(
            Request(
                token_current=current,
                frozen=known.frozen,
                state_file=None,
                gate_version=GATE_VERSION,
                blocked="mismatch" if target.blocked else None,
                history=history,
                items={name_of(each): known.items[each].status for each in target.items},
                others=self.others(known, number, target.items),
                reference=reference,
                fingerprint=f"account-{account}",
                repeat_is_safe=can.keys.repeat_is_safe if target.safe is None else target.safe,
                # At an account whose keys every credential meets: the harder case.
                keys_shared=True,
                same_call=again,
                key_life=key_life,
                call_life=self.life(low=low),
                paused="paused" if paused else None,
            ),
            moment(at),
        )
        if refusal is Refusal.LEASE_LOST:
            return Marked(known, None, lost=True)
        if refusal is not None:
            doing = Doing(number, Verb.SUBMIT, at, at, target.past.last, account)
            view = self._view(known, doing, low=low)
            decision = rules.decide(view, MarkRefused(refusal))
            return Marked(self._written(known, number, decision), None)
        news = proof.has_news(history)
        if again is not None:
            sent = next(each for each in history.rows if each.number == again)
            twice = replace(sent, answer=proof.Answer.UNKNOWN)
            changed = self._changed(target, state=target.state, rows=(twice,), safe=target.safe)
            return Marked(_replaced(known, number, changed), again, after_news=news)
        row = Evidence(
            number=history.last_number + 1,
            kind=Kind.CALL,
            seen=history.last_number,
            at=moment(at),
            fingerprint=f"account-{account}",
            reference=reference,
            mark=known.marks + 1,
            call_life=self.life(low=low),
            visibility=rules.microseconds(can.visibility_s) or 0,
            absence_looks=can.absence_looks,
            key_life=key_life,
            one_key=can.keys.failure_is_final,
        )
        changed = self._changed(target, state=State.MOVING, rows=(row,))
        made = store(
            _with(known.executions, number, changed),
            known.items,
            known.marks + 1,
            known.frozen,
            known.beats,
        )
        return Marked(made, row.number, after_news=news)

    # --- Recording --------------------------------------------------------------------------------

    def record(
        self, known: Store, doing: Doing, found: Found, low: bool
    ) -> tuple[Store, Rest | None]:
        """Record the outcome of a verb; the items of a set are told page by page."""
        made = self.keep(self._record, known, doing, found, low)
        assert isinstance(made, tuple)
        return made

    def _record(
        self, known: Store, doing: Doing, found: Found, low: bool
    ) -> tuple[Store, Rest | None]:
        items = known.executions[doing.execution].items
        foreign = found[0] == "foreign"
        told: Outcome
        told = outcome(("said", ("paid",) * len(items), None) if foreign else found, items)
        view = self._view(known, doing, low=low, foreign=foreign)
        decision = rules.decide(view, told)
        onward = self._fails_over(known, doing.execution, view, told, decision)
        if onward is not None:
            return onward, None
        if self.profile.pages and len(decision.reports) > 1 and not decision.reopens:
            return self._first_page(known, doing.execution, decision)
        return self._written(known, doing.execution, decision), None

    def _fails_over(
        self, known: Store, number: int, view: View, told: Outcome, decision: Decision
    ) -> Store | None:
        """Close an execution and open one at another custodian; None: it stays.

        The number of an execution stands for its custodian: each has the payout once.
        """
        target = known.executions[number]
        if number >= self.profile.fails_over or failover.cause_of(view, told) is None:
            return None
        (item,) = target.items
        right = gates.may_fail_over(
            view.history.having(*decision.evidence),
            name_of(item),
            known.items[item].status,
            view.others,
            frozen=known.frozen,
            blocked="blocked" if target.blocked or decision.blocked else None,
        )
        if not right:
            return None
        ended = self._changed(target, state=State.CLOSED, rows=decision.evidence)
        fresh = execution(State.PREPARED, past(History()), target.items, None, False, 1)
        queued = Report(SubStatus.QUEUED, "")
        items, _ = _told(known, target.items, {name_of(item): queued})
        return store(
            (*_with(known.executions, number, ended), fresh),
            items,
            known.marks,
            known.frozen,
            known.beats,
        )

    def late_news(
        self, known: Store, number: int, item: int, reference: str | None, now: Stamp
    ) -> Store:
        """Note that a custodian that the payout has gone on from says that its money moves."""
        made = self.keep(self._late_news, known, number, item, reference, now)
        assert isinstance(made, Store)
        return made

    def _late_news(
        self, known: Store, number: int, item: int, reference: str | None, now: Stamp
    ) -> Store:
        target = known.executions[number]
        last = target.past.last
        news = Evidence(
            number=last + 1,
            kind=Kind.NEWS,
            seen=last,
            at=moment(now),
            reference=reference,
            item=name_of(item),
            source=Source.WEBHOOK,
        )
        noted = self._changed(target, state=State.CLOSED, rows=(news,), attention=True)
        known = _replaced(known, number, noted)
        for each, other in enumerate(known.executions):
            if item in other.items and not other.ended:
                stopped = self._changed(
                    other, state=other.state, safe=other.safe, blocked=True, attention=True
                )
                known = _replaced(known, each, stopped)
        return known

    def begin(self, known: Store, number: int, now: Stamp, late: bool) -> Store | None:
        """Begin work on a claimed execution; None where a verb is called now.

        A mark without an outcome, ended items and expired actions are written instead.
        """
        made = self.keep(self._begin, known, number, now, late)
        assert made is None or isinstance(made, Store)
        return made

    def _begin(self, known: Store, number: int, now: Stamp, late: bool) -> Store | None:
        target = known.executions[number]
        doing = Doing(number, Verb.FETCH, now, now, target.past.last, 0)
        view = self._view(known, doing, low=False)
        if target.state is State.MOVING:
            return self._written(known, number, rules.takeover(view))
        if any(known.items[each].final for each in target.items):
            return self._without_ended(known, number, view)
        if late:
            if self.profile.expires:
                over = unsent.not_sent_in_time(view)
                return None if over is None else self._written(known, number, over)
            asked = tuple(replace(each, unanswered=True) for each in view.items)
            ended = rules.expiry(replace(view, items=asked))
            if ended is not None:
                return self._written(known, number, ended)
        return None

    def _without_ended(self, known: Store, number: int, view: View) -> Store | None:
        """Go on with the items that have not ended, as new content under a new key."""
        if view.state not in {State.PREPARED, State.PARKED}:
            return None
        certain = all(
            gates.may_reopen(view.history, each.id, view.others) for each in view.open_items
        )
        if certain and not known.executions[number].blocked:
            return self._reopened(known, number)
        decision = Decision(State.UNKNOWN, 0.0, looks=view.looks, failures=view.failures)
        return self._written(known, number, decision, attention=True)

    def _written(
        self, known: Store, number: int, decision: Decision, *, attention: bool = False
    ) -> Store:
        """Write a decision, and end the execution with its last item."""
        target = known.executions[number]
        blocked = target.blocked or decision.blocked is not None
        if decision.reopens and not blocked:
            changed = self._changed(target, state=target.state, rows=decision.evidence)
            return self._reopened(_replaced(known, number, changed), number)
        if decision.reopens:
            # A person decides about another session first.
            decision = replace(decision, state=State.UNKNOWN, looks=target.looks + 1)
        told = [each for each in target.items if name_of(each) in decision.reports]
        items, odd = _told(known, told, decision.reports)
        return self._finished(
            known, number, decision, items, attention=attention or odd or bool(decision.alerts)
        )

    def _finished(
        self,
        known: Store,
        number: int,
        decision: Decision,
        items: tuple[Item, ...],
        *,
        attention: bool,
    ) -> Store:
        target = known.executions[number]
        state = decision.state
        if all(items[each].final for each in target.items):
            state = State.CLOSED
        elif state is State.CLOSED:
            state = State.UNKNOWN
        session = target.session
        if state is State.PREPARED and target.state is not State.PREPARED:
            session += self.profile.asks
        changed = self._changed(
            target,
            state=state,
            rows=decision.evidence,
            safe=target.safe if decision.repeat_is_safe is None else decision.repeat_is_safe,
            blocked=target.blocked or decision.blocked is not None,
            session=session,
            looks=0 if items != known.items else min(decision.looks, 12),
            failures=min(decision.failures, 6),
            attention=attention,
        )
        return store(
            _with(known.executions, number, changed),
            items,
            known.marks + _promises(known, items),
            known.frozen,
            known.beats,
        )

    def _first_page(self, known: Store, number: int, decision: Decision) -> tuple[Store, Rest]:
        """Write a decision and tell the first item; the others are told in further transactions."""
        target = known.executions[number]
        told = [each for each in target.items if name_of(each) in decision.reports]
        items, odd = _told(known, told[:1], decision.reports)
        state = target.state if decision.state is State.CLOSED else decision.state
        changed = self._changed(
            target,
            state=State.UNKNOWN if state is State.MOVING else state,
            rows=decision.evidence,
            safe=target.safe,
            attention=odd or bool(decision.alerts),
        )
        written = store(
            _with(known.executions, number, changed),
            items,
            known.marks + _promises(known, items),
            known.frozen,
            known.beats,
        )
        return written, Rest(replace(decision, evidence=()), tuple(told[1:]))

    def tell(self, known: Store, number: int, rest: Rest) -> Store:
        """Tell the other items what was decided in an earlier transaction."""
        made = self.keep(self._tell, known, number, rest)
        assert isinstance(made, Store)
        return made

    def _tell(self, known: Store, number: int, rest: Rest) -> Store:
        items, odd = _told(known, rest.items, rest.decision.reports)
        alerts = bool(rest.decision.alerts)
        return self._finished(known, number, rest.decision, items, attention=odd or alerts)

    def _changed(
        self,
        target: Execution,
        *,
        state: State,
        rows: tuple[Evidence, ...] = (),
        safe: bool | None = None,
        blocked: bool | None = None,
        session: int | None = None,
        looks: int = 0,
        failures: int = 0,
        attention: bool = False,
    ) -> Execution:
        counts = self._counts
        if state is State.CLOSED and not self.profile.many:
            # Nothing asks for the rows of the only execution any more.
            return execution(state, past(History()), target.items, None, False, 1)
        return execution(
            state,
            past(target.past.history.having(*rows)) if rows else target.past,
            target.items,
            safe,
            target.blocked if blocked is None else blocked,
            target.session if session is None else session,
            looks if counts else 0,
            failures if counts else 0,
            counts and (attention or target.attention),
        )

    def _reopened(self, known: Store, number: int) -> Store:
        """Close an execution and open another one for its open items, with new keys."""
        target = known.executions[number]
        ended = self._changed(target, state=State.CLOSED)
        items = tuple(each for each in target.items if not known.items[each].final)
        fresh = execution(State.PREPARED, past(History()), items, None, False, 1)
        return store(
            (*_with(known.executions, number, ended), fresh),
            known.items,
            known.marks,
            known.frozen,
            known.beats,
        )

    # --- News from outside ------------------------------------------------------------------------

    def news(
        self,
        known: Store,
        number: int,
        item: int,
        word: str,
        reference: str | None,
        source: Source,
        now: Stamp,
    ) -> Store:
        """Bring a webhook's or an operator's news about an item to its open execution."""
        made = self.keep(self._news, known, number, item, word, reference, source, now)
        assert isinstance(made, Store)
        return made

    def _news(
        self,
        known: Store,
        number: int,
        item: int,
        word: str,
        reference: str | None,
        source: Source,
        now: Stamp,
    ) -> Store:
        target = known.executions[number]
        doing = Doing(number, Verb.FETCH, now, now, target.past.last, 0)
        view = replace(self._view(known, doing, low=False), fingerprint="")
        rows, told = interpret.news_from_outside(
            view, name_of(item), report(word, reference), source
        )
        reports = {} if told is None else {name_of(item): told}
        decision = Decision(
            target.state,
            0.0,
            evidence=rows,
            reports=reports,
            looks=target.looks,
            failures=target.failures,
            repeat_is_safe=target.safe,
        )
        return self._written(known, number, decision)

    # --- People -----------------------------------------------------------------------------------

    def ask_to_look(self, known: Store, number: int, now: Stamp) -> tuple[Store, int] | None:
        """Ask an operator to look at the custodian's records; None: it is too early, or useless."""
        made = self.keep(self._ask_to_look, known, number, now)
        assert made is None or isinstance(made, tuple)
        return made

    def _ask_to_look(self, known: Store, number: int, now: Stamp) -> tuple[Store, int] | None:
        history = self.history(known, number)
        left = proof.console_look(history, moment(now), lag=self.profile.console_lags)
        if left != 0:
            return None
        target = known.executions[number]
        row = Evidence(
            number=history.last_number + 1,
            kind=Kind.CONSOLE,
            seen=history.last_number,
            at=moment(now),
            source=Source.OPERATOR,
        )
        return self._rewritten(known, number, target.state, (row,)), row.number

    def may_say_unpaid(self, known: Store, number: int, item: int, row: int | None) -> bool:
        """Whether an operator may end an item as not paid."""
        made = self.keep(self._may_say_unpaid, known, number, item, row)
        return bool(made)

    def _may_say_unpaid(self, known: Store, number: int, item: int, row: int | None) -> bool:
        return gates.may_end_unpaid(
            self.history(known, number),
            name_of(item),
            self.others(known, number, (item,)),
            looked=row,
            lag=self.profile.console_lags,
            frozen=known.frozen,
        )

    def end(self, known: Store, number: int, item: int, moved: FundsMoved) -> Store:
        """End an item as an operator has found it."""
        failure = Failure(
            code=FailureCode.OPERATOR_DECISION, message="by an operator", funds_moved=moved
        )
        told = Report(SubStatus.FAILED, "", failure=failure)
        return self._ended(known, number, {name_of(item): told})

    def may_cancel(self, known: Store, number: int, now: bool) -> bool:
        """Whether a payout can be canceled without the custodian: as it is claimed, and now."""
        return bool(self.keep(self._may_cancel, known, number, now))

    def _may_cancel(self, known: Store, number: int, now: bool) -> bool:
        target = known.executions[number]
        (item,) = target.items
        quiet = now or target.state in {State.PREPARED, State.PARKED}
        return quiet and gates.may_cancel(
            self.history(known, number), name_of(item), self.others(known, number, target.items)
        )

    def cancel(self, known: Store, number: int) -> Store:
        """End a payout that nothing was sent for."""
        (item,) = known.executions[number].items
        return self._ended(known, number, {name_of(item): canceled_report()})

    def retry(self, known: Store, number: int) -> Store:
        """Have an execution submitted again; the gate decides at the mark."""
        return self._rewritten(known, number, State.PREPARED, ())

    def reopen(self, known: Store, number: int) -> Store | None:
        """Open another execution for the open items, where everything sent for them is closed."""
        made = self.keep(self._reopen, known, number)
        assert made is None or isinstance(made, Store)
        return made

    def _reopen(self, known: Store, number: int) -> Store | None:
        target = known.executions[number]
        history = self.history(known, number)
        if all(
            gates.may_reopen(history, name_of(each), self.others(known, number, (each,)))
            for each in target.items
            if not known.items[each].final
        ):
            return self._reopened(known, number)
        return None

    def _ended(self, known: Store, number: int, reports: dict[str, Report]) -> Store:
        target = known.executions[number]
        decision = Decision(target.state, 0.0, reports=reports, repeat_is_safe=target.safe)
        return self._written(known, number, decision)

    def _rewritten(
        self, known: Store, number: int, state: State, rows: tuple[Evidence, ...]
    ) -> Store:
        target = known.executions[number]
        changed = self._changed(
            target, state=state, rows=rows, safe=target.safe, attention=target.attention
        )
        return _replaced(known, number, changed)

    # --- Copies of the database -------------------------------------------------------------------

    def adopt(self, known: Store, now: Stamp, marks: int) -> Store:
        """Adopt a copy: for every open execution it counts as an unknown call made now."""
        made = self.keep(self._adopt, known, now, marks)
        assert isinstance(made, Store)
        return made

    def _adopt(self, known: Store, now: Stamp, marks: int) -> Store:
        can = self._can[False]
        for number, target in enumerate(known.executions):
            if target.ended:
                continue
            marks += 1
            lost = proof.lost_call(
                target.past.last + 1,
                marks,
                moment(now),
                # What the custodian does not know, another one may have paid meanwhile.
                account=proof.NO_ACCOUNT if number < self.profile.fails_over else "",
                call_life=self.life(low=False),
                visibility=rules.microseconds(can.visibility_s) or 0,
                absence_looks=can.absence_looks,
            )
            if lost is not None:
                changed = self._changed(
                    target, state=State.UNKNOWN, rows=(lost,), safe=target.safe, blocked=True
                )
                known = _replaced(known, number, changed)
        return store(known.executions, known.items, marks, False, known.beats)


def _seconds(ticks: int | None) -> float | None:
    return None if ticks is None else ticks / _SECOND


def _with(
    executions: tuple[Execution, ...], number: int, changed: Execution
) -> tuple[Execution, ...]:
    return (*executions[:number], changed, *executions[number + 1 :])


def _replaced(known: Store, number: int, changed: Execution) -> Store:
    return store(
        _with(known.executions, number, changed),
        known.items,
        known.marks,
        known.frozen,
        known.beats,
    )


def _promises(known: Store, items: tuple[Item, ...]) -> int:
    """Return how many items have just ended as not paid: each counts as a mark of the database."""
    return sum(
        new.moved is FundsMoved.NO and old.moved is not FundsMoved.NO
        for old, new in zip(known.items, items, strict=True)
    )


def _told(
    known: Store, told: Sequence[int], reports: Mapping[str, Report]
) -> tuple[tuple[Item, ...], bool]:
    """Return the items after what some of them were told, and whether an operator must look."""
    items, odd = list(known.items), False
    for each in told:
        items[each], contradicts = _applied(items[each], reports[name_of(each)])
        odd = odd or contradicts
    return tuple(items), odd


def _applied(item: Item, told: Report) -> tuple[Item, bool]:
    """Return an item after a report, as `payouts.apply` writes it, and whether it contradicts."""
    if told.sub_status is None:
        return item, bool(told.unknown_words)
    verdict = judge(item.status, item.sub_status, told.sub_status)
    if verdict.kind is not Judgement.MOVE:
        return item, verdict.kind is Judgement.CONTRADICTION
    status, sub_status = verdict.steps[-1]
    moved = item.moved
    if status is Status.FAILED:
        moved = told.failure.funds_moved if told.failure else FundsMoved.UNKNOWN
    return Item(status, sub_status, moved), False
