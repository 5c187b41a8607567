"""Fair runs: from a state on, nothing goes wrong any more; does everything come to an end?

A fair run has one worker, no fault, and looks that tell the truth. It must come to an end: every item
is final, or an operator has been told. There is a run for each kind of custodian and person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.execution.state import State, Verb
from tests.model import world as w
from tests.model.custodian import arrivals, progress, unnamed, views
from tests.model.steps import Steps
from tests.model.transactions import Transactions
from tests.model.world import Profile, World


@dataclass(frozen=True)
class Luck:
    """What becomes of what is still open."""

    name: str
    arrives: bool  #: whether requests on their way arrive
    finish: str  #: how orders end that the custodian has accepted
    answers: bool  #: whether a person answers what is asked


LUCKS = (
    Luck("all arrives, is paid and answered", arrives=True, finish="paid", answers=True),
    Luck("nothing arrives, nobody answers", arrives=False, finish="failed", answers=False),
    Luck("all arrives and is refused", arrives=True, finish="failed", answers=True),
)
#: A run that takes longer than this does not end.
_MOST_STEPS = 200


@dataclass(frozen=True)
class DeadEnd:
    """A state from which a fair run does not come to an end."""

    state: World
    luck: Luck
    says: tuple[str, ...]  #: what happens in the run


class FairRuns:
    """The fair runs of a profile."""

    def __init__(self, profile: Profile, *, alone: bool = False) -> None:
        self._alone = alone
        # In a fair run the custodian answers.
        profile = replace(profile, down=False)
        self._steps = Steps(profile)
        self._steps.transactions = Transactions(profile, counts=True)
        self._profile = profile

    def dead_end(self, states: Sequence[World]) -> DeadEnd | None:
        """Return the first state from which a fair run does not come to an end."""
        for luck in LUCKS:
            known: set[World] = set()
            for state in states:
                run = self._run(state, luck, known)
                if run is not None:
                    return DeadEnd(state, luck, tuple(run))
        return None

    def _run(self, state: World, luck: Luck, known: set[World]) -> list[str] | None:
        """Return what happened in a run that does not end; None for one that does."""
        clock = state.workers[0].clock
        at = state._replace(
            workers=(w.worker(clock),),
            left=(-1,) * len(state.left),
            person=None,
            paused=False,
            copy=None,
            calls=w.calls(tuple(each for each in state.calls.all if each.reply is None)),
        )
        passed: list[World] = []
        says: list[str] = []
        while len(passed) < _MOST_STEPS:
            if at in known or self._over(at, luck):
                known.update(passed)
                return None
            passed.append(at)
            label, at = self._next(at, luck)
            says.append(label)
        return says

    def _over(self, at: World, luck: Luck) -> bool:
        """Whether every item has ended, or an operator has been told where that is enough."""
        if all(item.final for item in at.store.items):
            return True
        if self._alone and luck.arrives:
            return False
        return at.store.frozen or any(each.attention for each in at.store.executions)

    def _next(self, at: World, luck: Luck) -> tuple[str, World]:
        steps = self._steps
        if luck.arrives:
            for call in at.calls.all:
                if call.live:
                    found = list(arrivals(self._profile, at.ledger, call))
                    event, reply = next(
                        (
                            each
                            for each in found
                            if each[0] is not None and each[0].words[0] == luck.finish
                        ),
                        found[0],
                    )
                    return f"{call.number} arrives: {reply}", steps.arrived(at, call, event, reply)
        for event in progress(at.ledger):
            if event.words[0] == luck.finish:
                events = (*at.ledger.events, event)
                return f"finished: {event.words}", at._replace(ledger=w.ledger(events))
        return self._works(at, luck)

    def _works(self, at: World, luck: Luck) -> tuple[str, World]:
        steps = self._steps
        worker = at.workers[0]
        if worker.doing == "idle":
            return self._claims(at, luck)
        if worker.doing == "claimed" and worker.verb is Verb.FETCH:
            found: tuple[object, ...] = ("blind", None)
            if self._profile.can_look:
                items = at.store.executions[worker.execution].items
                found = views(at.ledger, worker.execution, at.account, items, -1)[-1]
            seen = steps.seen(at, worker, unnamed(self._profile, found))
            return f"looks: {found}", at._replace(workers=(seen,))
        if worker.doing == "looked":
            step = steps.looked(at, 0)
        elif worker.doing == "claimed" and worker.verb is Verb.SUBMIT and self._profile.asks:
            step = steps.asked(at, 0)
        elif worker.doing == "calling":
            # A reply that is on its way comes first, silence last.
            call = next((each for each in at.calls.all if each.number == worker.call), None)
            answered = call is not None and call.reply is not None
            step = next(
                each
                for each in steps.goes_on(at, 0)
                if each.says.endswith("no reply") is not answered and "not sent" not in each.says
            )
        else:
            step = next(iter(steps.goes_on(at, 0)))
        after = step.after
        if after.workers[0].doing == "idle":
            after = steps.passed(after)
        return step.says, after

    def _claims(self, at: World, luck: Luck) -> tuple[str, World]:
        steps = self._steps
        target = next(number for number, each in enumerate(at.store.executions) if not each.ended)
        options = list(steps.claims(at, 0, target))
        state = at.store.executions[target].state
        if state is State.PARKED:
            # Either the person answers, or the time to answer is over.
            for step in options:
                confirms = step.after.workers[0].verb is Verb.CONFIRM
                if confirms if luck.answers else "written" in step.says:
                    return step.says, step.after
        usual = [step for step in options if step.after.workers[0].verb is not Verb.CANCEL]
        return usual[0].says, usual[0].after
