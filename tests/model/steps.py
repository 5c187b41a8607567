"""What can happen next: every step of every process, person, clock and custodian.

A step is a transaction, a message that arrives, or time that passes. Between any two steps of a worker
anything else may happen: it is suspended, its lease ends, another one takes over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.execution import gate as gates
from gateway.execution import late
from gateway.execution.proof import Source, has_news
from gateway.execution.state import State, Verb
from gateway.model import FundsMoved, Status, SubStatus
from tests.model import world as w
from tests.model.custodian import Found, arrivals, progress, report, unnamed, views
from tests.model.transactions import Doing, Marked, Rest, Transactions
from tests.model.world import Call, Event, Profile, Stamp, Store, Worker, World

#: A request that never dies.
_NEVER = -1
_UNKNOWN: Found = ("unknown",)
#: Words by which money is or may be on its way.
_MOVES = frozenset({"submitted", "paid"})


class Step(NamedTuple):
    """A step: what happens, the state after it, and which rule of the world it broke."""

    says: str
    after: World
    wrong: str | None = None


class Steps:
    """All steps of one profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.transactions = Transactions(profile)
        times = [profile.visibility]
        if profile.key_life is not None:
            times.append(profile.key_life)
        #: events are not older than this: nothing asks for more
        self._oldest = max(times) + 1

    def of(self, at: World) -> Iterator[Step]:
        """Yield everything that can happen next."""
        yield from self._clocks(at)
        for number in range(len(at.workers)):
            yield from self.worker(at, number)
        yield from self._custodian(at)
        if at.left[w.WEBHOOKS]:
            yield from self._webhooks(at)
        if at.left[w.STRAYS] and not at.store.marks:
            yield from self._strays(at)
        if self.profile.acts:
            yield from self._operator(at)
        if self.profile.restores:
            yield from self._copies(at)

    # --- Clocks and machines ----------------------------------------------------------------------

    def _clocks(self, at: World) -> Iterator[Step]:
        # Before the first call nothing depends on time.
        dated = at.made or any(each.past.rows for each in at.store.executions)
        if at.tick < self.profile.ticks and dated:
            yield Step("time passes", self.passed(at))
        left = at.left
        if left[w.WALLS]:
            for way, wall in (("forward", w.WALL_STEP), ("back", -w.WALL_STEP)):
                set_to = at._replace(wall=wall, left=w.spend(left, w.WALLS))
                yield Step(f"the wall clock is set {way}", set_to)
        if left[w.REBOOTS]:
            yield Step("machine 1 reboots", self._rebooted(at))
        if left[w.REPOINTS]:
            yield Step(
                "the instance is pointed at another account",
                at._replace(account=1, left=w.spend(left, w.REPOINTS)),
            )
        if left[w.LOWERED]:
            yield Step(
                "the settings are lowered", at._replace(low=True, left=w.spend(left, w.LOWERED))
            )
        if left[w.BEATS] and at.made:
            for clock in sorted({each.clock for each in at.workers}):
                beat = (clock, at.tick, at.store.marks)
                if beat not in at.store.beats:
                    yield Step(
                        f"a gateway's heartbeat on {w.CLOCK_IDS[clock]}",
                        at._replace(
                            store=_store(at.store, beats=(*at.store.beats, beat)),
                            left=w.spend(left, w.BEATS),
                        ),
                    )

    def passed(self, at: World) -> World:
        """Return the world one tick later."""
        calls = at.calls
        if calls.all:
            kept = (
                each._replace(left=each.left - 1) if each.reply is None and each.left > 0 else each
                for each in calls.all
            )
            calls = w.calls(tuple(each for each in kept if each.live or each.reply is not None))
        ledger = at.ledger
        if any(each.age < self._oldest for each in ledger.events):
            ledger = w.ledger(
                tuple(
                    each._replace(age=each.age + 1) if each.age < self._oldest else each
                    for each in ledger.events
                )
            )
        return at._replace(tick=at.tick + 1, calls=calls, ledger=ledger)

    def _rebooted(self, at: World) -> World:
        workers = tuple(
            w.worker(w.CLOCK_IDS.index("clock-d")) if each.clock == 0 else each
            for each in at.workers
        )
        return _tidy(at._replace(workers=workers, left=w.spend(at.left, w.REBOOTS)))

    def _stamp(self, at: World, clock: int) -> Stamp:
        return Stamp(clock, at.tick, at.wall)

    # --- Workers ----------------------------------------------------------------------------------

    def worker(self, at: World, number: int) -> Iterator[Step]:
        """Yield what a worker can do next."""
        worker = at.workers[number]
        if worker.doing == "idle":
            yield from self._claims(at, number)
            return
        if not self.profile.stale_workers:
            # The process is suspended for good, and another one on its machine takes over.
            yield from self._claims(at, number)
        if at.left[w.CRASHES]:
            gone = self._put(at, number, w.worker(worker.clock))
            yield Step(
                f"worker {number + 1} crashes", gone._replace(left=w.spend(at.left, w.CRASHES))
            )
        yield from self.goes_on(at, number)

    def goes_on(self, at: World, number: int) -> Iterator[Step]:
        """Yield what a worker can do next with what it has claimed."""
        match at.workers[number].doing:
            case "claimed":
                yield from self._begins(at, number)
            case "canceling":
                yield self._canceled(at, number)
            case "signed":
                yield from self._marks(at, number, _begun(at.workers[number]))
            case "marked":
                yield self._sends(at, number)
            case "calling":
                yield from self._answered(at, number)
            case "telling":
                yield self._tells(at, number)
            case _:
                yield self.looked(at, number)

    def _begins(self, at: World, number: int) -> Iterator[Step]:
        """Yield the beginnings of a verb."""
        match at.workers[number].verb:
            case Verb.SUBMIT if self.profile.asks:
                yield self.asked(at, number)
            case Verb.SUBMIT | Verb.CONFIRM:
                yield from self._submits(at, number)
            case Verb.CANCEL:
                yield self._cancels(at, number)
            case _:
                yield from self._looks(at, number)

    def _put(self, at: World, number: int, worker: Worker) -> World:
        workers = (*at.workers[:number], worker, *at.workers[number + 1 :])
        return _tidy(at._replace(workers=workers))

    def _claims(self, at: World, number: int) -> Iterator[Step]:
        for target, each in enumerate(at.store.executions):
            if each.ended:
                continue
            yield from self.claims(at, number, target)

    def claims(self, at: World, number: int, target: int) -> Iterator[Step]:
        """Yield what a claim of an execution leads to. The previous owner now holds an old token."""
        says = f"worker {number + 1} claims execution {target}"
        worker = at.workers[number]
        known = at.store.executions[target]
        now = self._stamp(at, worker.clock)
        stale = tuple(
            self._stale(each) if each.current and each.execution == target else each
            for each in at.workers
        )
        late: tuple[bool, ...] = (False,)
        if self.profile.asks and known.state is State.PARKED:
            late = (False, True)
        if self.profile.expires and known.state in {State.PREPARED, State.PARKED}:
            late = (False, True)
        for over in late:
            written = self.transactions.begin(at.store, target, now, over)
            if written is not None:
                yield Step(f"{says}: what it finds is written", self._published(at, stale, written))
            elif not over:
                for verb in self._verbs(at, target):
                    doing = "claimed"
                    if verb is Verb.CANCEL and self.transactions.may_cancel(
                        at.store, target, False
                    ):
                        doing = "canceling"
                    claimed = w.worker(worker.clock, doing, True, target, verb, known.past.last)
                    workers = (*stale[:number], claimed, *stale[number + 1 :])
                    yield Step(f"{says} to {verb}", _tidy(at._replace(workers=workers)))

    def _stale(self, worker: Worker) -> Worker:
        """Return a worker whose execution was taken over."""
        if not self.profile.stale_workers:
            return w.worker(worker.clock)
        return w.worker(
            worker.clock, worker.doing, False, worker.execution, worker.verb, worker.seen,
            worker.started, worker.account, worker.row, worker.call, worker.found,
        )  # fmt: skip

    def _verbs(self, at: World, target: int) -> Iterator[Verb]:
        known = at.store.executions[target]
        news = has_news(known.past.history)
        if "cancel" in self.profile.acts and at.left[w.ACTS] and len(known.items) == 1:
            yield Verb.CANCEL
        if known.state is State.PREPARED and not news:
            yield Verb.SUBMIT
            return
        if at.left[w.LOOKS] or known.state is State.MOVING:
            yield Verb.FETCH
        asks = any(
            at.store.items[each].sub_status is SubStatus.REQUIRES_ACTION for each in known.items
        )
        if known.state is State.PARKED and asks:
            yield Verb.CONFIRM

    def _published(self, at: World, workers: tuple[Worker, ...], written: Store) -> World:
        """Return the world after a transaction; partners are notified of every end."""
        told, witness = at.told, at.witness
        if written.items is not at.store.items:
            told = tuple(
                before if item.status is not Status.FAILED else item.moved
                for before, item in zip(told, written.items, strict=True)
            )
        if self.profile.restores and written.marks > at.store.marks:
            # An end as not paid is a promise: the state file counts it as it counts a mark.
            witness = max(witness, written.marks)
        after = at._replace(workers=workers, store=written, told=told, witness=witness)
        return _tidy(after)

    def _submits(self, at: World, number: int) -> Iterator[Step]:
        worker = at.workers[number]
        now = self._stamp(at, worker.clock)
        if self.profile.down:
            says = f"worker {number + 1} sends nothing: the custodian does not answer"
            yield self.recorded(at, number, ("down",), says)
        if self.profile.slow_marks:
            signed = w.worker(
                worker.clock, "signed", worker.current, worker.execution, worker.verb, worker.seen,
                now, at.account,
            )  # fmt: skip
            yield Step(f"worker {number + 1} signs a request", self._put(at, number, signed))
        else:
            yield from self._marks(at, number, now)

    def _marks(self, at: World, number: int, signed: Stamp) -> Iterator[Step]:
        """Yield the mark of a call, or its refusal. The request dies from its signing on."""
        worker = at.workers[number]
        target = worker.execution
        account = worker.account if worker.started is not None else at.account
        marked = self._ask_gate(at, worker, signed, account, None)
        says = f"worker {number + 1} asks for a mark"
        idle = w.worker(worker.clock)
        if marked.row is None:
            workers = (*at.workers[:number], idle, *at.workers[number + 1 :])
            refused = "its token is old" if marked.lost else "refused"
            yield Step(f"{says}: {refused}", self._published(at, workers, marked.store))
            return
        if not at.left[w.CALLS]:
            return
        made = at.made + 1
        calling = w.worker(
            worker.clock, "marked" if self.profile.restores else "calling", worker.current, target,
            worker.verb, worker.seen, signed, account, marked.row, made,
        )  # fmt: skip
        after = at._replace(store=marked.store, made=made, left=w.spend(at.left, w.CALLS))
        if not self.profile.restores:
            after = after._replace(calls=self._signed(at, calling))
        wrong = _unlawful(at, marked)
        yield Step(f"{says}: call {made} is marked", self._put(after, number, calling), wrong)

    def _ask_gate(
        self, at: World, worker: Worker, now: Stamp, account: int, again: int | None
    ) -> Marked:
        ended = at.store.executions[worker.execution].ended
        current = gates.is_current(1 if worker.current else 0, 1, ended=ended)
        return self.transactions.mark(
            at.store, worker.execution, now, account, current, at.low, again, at.paused
        )

    def _signed(self, at: World, worker: Worker) -> w.Calls:
        """Return the calls with one more, that may arrive until it dies, counted from its signing."""
        life = self.transactions.life(low=at.low)
        left = _NEVER if life is None else max(0, life - (at.tick - _begun(worker).tick))
        call = Call(
            worker.call,
            worker.execution,
            worker.account,
            self.transactions.reference(at.store, worker.execution),
            at.store.executions[worker.execution].items,
            left,
            credential=worker.call,
        )
        return w.calls((*at.calls.all, call)) if left else at.calls

    def _sends(self, at: World, number: int) -> Step:
        """Write the state file; from here on the request may be sent."""
        worker = at.workers[number]
        calling = w.worker(
            worker.clock, "calling", worker.current, worker.execution, worker.verb, worker.seen,
            worker.started, worker.account, worker.row, worker.call,
        )  # fmt: skip
        witness = max(at.witness, at.store.marks)
        after = at._replace(witness=witness, calls=self._signed(at, worker))
        return Step(f"worker {number + 1} writes the state file", self._put(after, number, calling))

    def _answered(self, at: World, number: int) -> Iterator[Step]:
        worker = at.workers[number]
        call = next((each for each in at.calls.all if each.number == worker.call), None)
        says = f"worker {number + 1} hears of call {worker.call}"
        if call is not None and call.reply is not None:
            yield self.recorded(at, number, call.reply, f"{says}: {_said(call.reply)}")
        if call is not None and call.live:
            kept = tuple(each for each in at.calls.all if each is not call)
            unsent = at._replace(calls=w.calls(kept))
            yield self.recorded(unsent, number, ("not sent",), f"{says}: it was not sent")
        if at.left[w.RESENDS] and call is not None:
            yield from self._resends(at, number, call)
        yield self.recorded(at, number, _UNKNOWN, f"{says}: no reply")

    def _resends(self, at: World, number: int, call: Call) -> Iterator[Step]:
        """Yield that a process sends the same bytes with the same credential once more."""
        worker = at.workers[number]
        now = self._stamp(at, worker.clock)
        marked = self._ask_gate(at, worker, now, worker.account, worker.row)
        if marked.row is None:
            return
        made = at.made + 1
        again = call._replace(number=made, reply=None)
        calling = w.worker(
            worker.clock, "calling", worker.current, worker.execution, worker.verb, worker.seen,
            worker.started, worker.account, marked.row, made,
        )  # fmt: skip
        after = at._replace(
            store=marked.store,
            made=made,
            left=w.spend(at.left, w.RESENDS),
            calls=w.calls((*at.calls.all, again)),
        )
        wrong = _unlawful(at, marked)
        yield Step(
            f"worker {number + 1} sends call {call.number} again, as call {made}",
            self._put(after, number, calling),
            wrong,
        )

    def _looks(self, at: World, number: int) -> Iterator[Step]:
        """Yield the starts of a look: it is dated, and reads what is visible at that moment."""
        worker = at.workers[number]
        if not at.left[w.LOOKS]:
            return
        left = w.spend(at.left, w.LOOKS)
        says = f"worker {number + 1} looks"
        for found in self.findings(at, worker.execution):
            yield Step(
                f"{says}, and is answered: {_said(found)}",
                self._put(at._replace(left=left), number, self.seen(at, worker, found)),
            )
        for found, place in (
            (("foreign",), w.FOREIGN),
            (("absent",), w.LIES),
            (("short list",), w.LISTS),
        ):
            if left[place]:
                spent = at._replace(left=w.spend(left, place))
                yield Step(
                    f"{says}, and is answered wrongly: {_said(found)}",
                    self._put(spent, number, self.seen(at, worker, found)),
                )

    def _canceled(self, at: World, number: int) -> Step:
        """Return that it is written that a payout is canceled, if nothing was sent meanwhile."""
        worker = at.workers[number]
        workers = (*at.workers[:number], w.worker(worker.clock), *at.workers[number + 1 :])
        says = f"worker {number + 1} writes that it is canceled"
        ended = at.store.executions[worker.execution].ended
        current = gates.is_current(1 if worker.current else 0, 1, ended=ended)
        may = self.transactions.may_cancel(at.store, worker.execution, True)
        if not current or at.store.frozen or not may:
            return Step(f"{says}: refused", _tidy(at._replace(workers=workers)))
        written = self.transactions.cancel(at.store, worker.execution)
        spent = at._replace(left=w.spend(at.left, w.ACTS))
        return Step(says, self._published(spent, workers, written), _changed_end(at.store, written))

    def _cancels(self, at: World, number: int) -> Step:
        """Return that the custodian is asked to cancel; what it answers is news as any other."""
        worker = at.workers[number]
        target = worker.execution
        events = at.ledger.events
        canceled = tuple(
            event
            for event in progress(at.ledger)
            if event.execution == target
            and event.account == at.account
            and event.words[0] == "failed"
        )
        after = at._replace(ledger=w.ledger((*events, *canceled)), left=w.spend(at.left, w.ACTS))
        items = at.store.executions[target].items
        found = views(after.ledger, target, at.account, items, -1)[-1]
        says = f"worker {number + 1} asks the custodian to cancel"
        if found[0] == "absent":
            return Step(f"{says}: refused", self._put(after, number, w.worker(worker.clock)))
        return Step(says, self._put(after, number, self.seen(after, worker, found)))

    def findings(self, at: World, target: int) -> tuple[Found, ...]:
        """Return what a look may find now."""
        if not self.profile.can_look:
            return (("blind", None),)
        items = at.store.executions[target].items
        return tuple(
            dict.fromkeys(
                unnamed(self.profile, each)
                for each in views(at.ledger, target, at.account, items, self.profile.visibility)
            )
        )

    def seen(self, at: World, worker: Worker, found: Found) -> Worker:
        """Return a worker that was answered, and has not written it."""
        return w.worker(
            worker.clock, "looked", worker.current, worker.execution, worker.verb, worker.seen,
            self._stamp(at, worker.clock), at.account, None, 0, found,
        )  # fmt: skip

    def looked(self, at: World, number: int) -> Step:
        """Return the writing of a look."""
        worker = at.workers[number]
        assert worker.found is not None
        return self.recorded(
            at, number, worker.found, f"worker {number + 1} writes: {_said(worker.found)}"
        )

    def asked(self, at: World, number: int) -> Step:
        """Return that a person is asked for a code; nothing moves."""
        worker = at.workers[number]
        items = at.store.executions[worker.execution].items
        found: Found = ("said", ("asks",) * len(items), None)
        return self.recorded(at, number, found, f"worker {number + 1} asks a person")

    def recorded(self, at: World, number: int, found: Found, says: str) -> Step:
        """Return the transaction that records an outcome; an old token writes nothing."""
        worker = at.workers[number]
        workers = (*at.workers[:number], w.worker(worker.clock), *at.workers[number + 1 :])
        known = at.store
        ended = known.executions[worker.execution].ended
        if not gates.is_current(1 if worker.current else 0, 1, ended=ended):
            return Step(f"{says}; its token is old", _tidy(at._replace(workers=workers)))
        now = self._stamp(at, worker.clock)
        assert worker.verb is not None
        doing = Doing(
            worker.execution,
            worker.verb,
            worker.started or now,
            now,
            worker.seen,
            worker.account if worker.started is not None else at.account,
            worker.row,
        )
        written, rest = self.transactions.record(known, doing, found, at.low)
        if rest is not None:
            telling = w.worker(
                worker.clock, "telling", True, worker.execution, worker.verb, found=("rest", rest)
            )
            workers = (*at.workers[:number], telling, *at.workers[number + 1 :])
        return Step(says, self._published(at, workers, written), _changed_end(known, written))

    def _tells(self, at: World, number: int) -> Step:
        """Return that the other items get the earlier decision."""
        worker = at.workers[number]
        workers = (*at.workers[:number], w.worker(worker.clock), *at.workers[number + 1 :])
        says = f"worker {number + 1} tells the other items"
        ended = at.store.executions[worker.execution].ended
        if not gates.is_current(1 if worker.current else 0, 1, ended=ended):
            return Step(f"{says}; its token is old", _tidy(at._replace(workers=workers)))
        assert worker.found is not None
        rest = worker.found[1]
        assert isinstance(rest, Rest)
        written = self.transactions.tell(at.store, worker.execution, rest)
        return Step(says, self._published(at, workers, written), _changed_end(at.store, written))

    # --- The custodian ----------------------------------------------------------------------------

    def _custodian(self, at: World) -> Iterator[Step]:
        for call in at.calls.all:
            if call.live:
                for event, reply in arrivals(self.profile, at.ledger, call):
                    yield Step(
                        f"call {call.number} arrives: {_said(reply)}",
                        self.arrived(at, call, event, reply),
                    )
        for event in progress(at.ledger):
            yield Step(
                f"the custodian finishes call {event.order}: {', '.join(event.words)}",
                at._replace(ledger=w.ledger((*at.ledger.events, event))),
            )

    def arrived(self, at: World, call: Call, event: Event | None, reply: Found) -> World:
        """Return the world after a call has arrived."""
        kept = tuple(
            each._replace(reply=reply, left=0) if each is call else each for each in at.calls.all
        )
        ledger = at.ledger if event is None else w.ledger((*at.ledger.events, event))
        return _tidy(at._replace(calls=w.calls(kept), ledger=ledger))

    def _webhooks(self, at: World) -> Iterator[Step]:
        """Yield the webhooks of all that the custodian has done: late, doubled, in any order."""
        for event in dict.fromkeys(each._replace(age=0) for each in at.ledger.events):
            for item, word in zip(event.items, event.words, strict=True):
                target = _open_execution(at.store, item)
                if target is None:
                    continue
                named = event.reference if self.profile.names_reference else None
                now = self._stamp(at, at.workers[0].clock)
                if self.profile.fails_over and event.execution != target:
                    # Of a custodian that the payout has gone on from.
                    said = word in _MOVES or word == "queued"
                    written = at.store
                    left = self.transactions.history(at.store, event.execution)
                    if late.contradicts_closing(left, report(word, named)):
                        written = self.transactions.late_news(
                            at.store, event.execution, item, named, now
                        )
                    elif not said:
                        continue
                    at = at._replace(warned=at.warned or said)
                else:
                    written = self.transactions.news(
                        at.store, target, item, word, named, Source.WEBHOOK, now
                    )
                after = self._published(
                    at._replace(left=w.spend(at.left, w.WEBHOOKS)), at.workers, written
                )
                yield Step(
                    f"webhook: call {event.order} {word} (item {item})",
                    after,
                    _changed_end(at.store, written),
                )

    def _strays(self, at: World) -> Iterator[Step]:
        """Yield a webhook that says "paid" of a payout that nothing was ever sent for."""
        now = self._stamp(at, at.workers[0].clock)
        written = self.transactions.news(at.store, 0, 0, "paid", None, Source.WEBHOOK, now)
        after = at._replace(left=w.spend(at.left, w.STRAYS))
        yield Step("webhook: paid, by nobody's call", self._published(after, at.workers, written))

    # --- People -----------------------------------------------------------------------------------

    def _operator(self, at: World) -> Iterator[Step]:
        if at.person is not None:
            yield from self._looks_and_says(at)
        if not at.left[w.ACTS]:
            return
        spent = at._replace(left=w.spend(at.left, w.ACTS))
        if "pause" in self.profile.acts:
            says = "resumes" if at.paused else "pauses"
            yield Step(f"the operator {says} everything", spent._replace(paused=not at.paused))
        for target, known in enumerate(at.store.executions):
            if known.ended:
                continue
            yield from self._acts(at, spent, target)

    def _acts(self, at: World, spent: World, target: int) -> Iterator[Step]:
        now = self._stamp(at, self.profile.operator_clock)
        if "look" in self.profile.acts and at.person is None:
            asked = self.transactions.ask_to_look(at.store, target, now)
            if asked is not None:
                written, row = asked
                after = spent._replace(store=written, person=(target, row, False))
                yield Step("the operator is asked to look", after)
        for item in at.store.executions[target].items:
            if not at.store.items[item].final:
                yield from self._ends(at, spent, target, item)
        yield from self._restarts(at, spent, target)

    def _ends(self, at: World, spent: World, target: int, item: int) -> Iterator[Step]:
        """Yield the words by which an operator may end an item."""
        acts, rules = self.profile.acts, self.transactions
        says = f"the operator ends item {item} as"
        if "unknown" in acts:
            written = rules.end(at.store, target, item, FundsMoved.UNKNOWN)
            yield Step(f"{says} failed, unknown", self._published(spent, at.workers, written))
        if "unpaid" in acts and rules.may_say_unpaid(at.store, target, item, None):
            written = rules.end(at.store, target, item, FundsMoved.NO)
            yield Step(f"{says} not paid", self._published(spent, at.workers, written))
        if "delivered" in acts and at.ledger.transfers[item]:
            now = self._stamp(at, self.profile.operator_clock)
            written = rules.news(at.store, target, item, "paid", None, Source.OPERATOR, now)
            yield Step(f"{says} delivered", self._published(spent, at.workers, written))

    def _restarts(self, at: World, spent: World, target: int) -> Iterator[Step]:
        acts, rules = self.profile.acts, self.transactions
        state = at.store.executions[target].state
        if "retry" in acts and state not in {State.PREPARED, State.MOVING}:
            yield Step(
                "the operator has it tried again",
                spent._replace(store=rules.retry(at.store, target)),
            )
        if "reopen" in acts and len(at.store.executions) == 1:
            written = rules.reopen(at.store, target)
            if written is not None:
                yield Step(
                    "another execution is opened for it",
                    self._published(spent, at.workers, written),
                )

    def _looks_and_says(self, at: World) -> Iterator[Step]:
        """Yield an operator's own look at the custodian's records, and what it allows to be said."""
        assert at.person is not None
        target, row, looked = at.person
        known = at.store.executions
        if target >= len(known) or known[target].ended:
            yield Step("the operator finds that it has ended", at._replace(person=None))
            return
        open_items = [
            each for each in at.store.executions[target].items if not at.store.items[each].final
        ]
        if not looked:
            lag = self.profile.visibility if self.profile.console_lags else -1
            # The console shows every account of the company.
            nothing = any(
                all(
                    found[0] == "absent" or set(found[1]) <= {"failed", ""}  # type: ignore[call-overload]
                    for found in combination
                )
                for combination in self._console(at, target, lag)
            )
            if nothing:
                yield Step(
                    "the operator looks: nothing was paid",
                    at._replace(person=(target, row, True)),
                )
            return
        for item in open_items:
            if self.transactions.may_say_unpaid(at.store, target, item, row):
                written = self.transactions.end(at.store, target, item, FundsMoved.NO)
                after = self._published(at._replace(person=None), at.workers, written)
                yield Step(f"the operator ends item {item} as not paid, having looked", after)

    def _console(self, at: World, target: int, lag: int) -> Iterator[tuple[Found, ...]]:
        items = at.store.executions[target].items
        for first in views(at.ledger, target, 0, items, lag):
            for second in views(at.ledger, target, 1, items, lag):
                yield first, second

    # --- Copies -----------------------------------------------------------------------------------

    def _copies(self, at: World) -> Iterator[Step]:
        if at.left[w.COPIES]:
            yield Step(
                "the database is copied",
                at._replace(copy=at.store, left=w.spend(at.left, w.COPIES)),
            )
        if at.copy is not None and at.left[w.RESTORES]:
            old = at.copy
            # The state file names the database file that it belongs to: every other one is frozen.
            frozen = old.marks < at.witness or not self.profile.same_file
            restored = w.store(old.executions, old.items, old.marks, frozen, old.beats)
            yield Step(
                "the copy is restored" + (": it is frozen" if frozen else ""),
                _tidy(
                    at._replace(
                        store=restored,
                        workers=tuple(w.worker(each.clock) for each in at.workers),
                        copy=None,
                        left=w.spend(at.left, w.RESTORES),
                    )
                ),
            )
        if at.store.frozen:
            now = self._stamp(at, self.profile.operator_clock)
            adopted = self.transactions.adopt(at.store, now, at.witness)
            stale = tuple(self._stale(each) for each in at.workers)
            yield Step(
                "the copy is adopted",
                _tidy(at._replace(store=adopted, workers=stale, witness=adopted.marks)),
            )


def _begun(worker: Worker) -> Stamp:
    """Return when a worker's request was signed, or its look started."""
    assert worker.started is not None
    return worker.started


def _store(known: Store, *, beats: tuple[tuple[int, int, int], ...]) -> Store:
    return w.store(known.executions, known.items, known.marks, known.frozen, beats)


def _tidy(at: World) -> World:
    """Drop replies that nobody waits for; order workers that do not differ in their clock."""
    if any(each.reply is not None for each in at.calls.all):
        waiting = {each.call for each in at.workers if each.doing == "calling"}
        kept = tuple(each for each in at.calls.all if each.reply is None or each.number in waiting)
        if len(kept) < len(at.calls.all):
            at = at._replace(calls=w.calls(kept))
    if len(at.workers) > 1:
        one, two = at.workers
        if one.clock == two.clock and one.serial > two.serial:
            at = at._replace(workers=(two, one))
    return at


def _open_execution(known: Store, item: int) -> int | None:
    return next(
        (
            number
            for number, each in enumerate(known.executions)
            if item in each.items and not each.ended
        ),
        None,
    )


def _changed_end(before: Store, after: Store) -> str | None:
    for old, new in zip(before.items, after.items, strict=True):
        if old.final and (new.status is not old.status or new.moved is not old.moved):
            return "an end that changed"
    return None


def _said(found: Found) -> str:
    if found[0] == "said":
        words = found[1]
        assert isinstance(words, tuple)
        return " and ".join(word or "nothing" for word in words)
    return str(found[0])


def _unlawful(at: World, marked: Marked) -> str | None:
    """Return what is wrong with a mark that was set."""
    if at.paused:
        return "a mark while paused"
    return "a mark after news" if marked.after_news or at.warned else None
