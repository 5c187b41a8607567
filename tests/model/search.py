"""The search: every run of a profile, breadth first, so that the first trace found is the shortest."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from gateway.model import FundsMoved, Status
from tests.model import world as w
from tests.model.custodian import arrivals
from tests.model.steps import Steps
from tests.model.world import Profile, World


@dataclass(frozen=True)
class Result:
    """What a search has found."""

    profile: Profile
    space: Steps = field(repr=False)
    steps: int
    depth: int
    seconds: float
    #: every state that was met, with the one that it was first met from
    met: Mapping[World, World | None] = field(repr=False)
    #: what went wrong first, and the steps that lead there
    wrong: str | None = None
    trace: tuple[str, ...] = ()

    @property
    def states(self) -> int:
        """How many states were met."""
        return len(self.met)

    def line(self) -> str:
        """Return the result in one line."""
        counts = f"{self.states} states, {self.steps} steps, depth {self.depth}"
        end = self.wrong or "nothing goes wrong"
        return f"{self.profile.name}: {counts}, {self.seconds:.1f} s: {end}"

    def story(self) -> str:
        """Return the trace, a line per step."""
        lines = [f"{number:3} {says}" for number, says in enumerate(self.trace, 1)]
        return "\n".join([f"{self.profile.name}: {self.wrong}", *lines])

    def sample(self, count: int) -> list[World]:
        """Return some of the states, evenly spread over the order in which they were met."""
        states = list(self.met)
        return states[:: max(1, len(states) // count)]

    def way_to(self, state: World) -> tuple[str, ...]:
        """Return what happens on the shortest way to a state, by taking each step again."""
        says: list[str] = []
        while (before := self.met[state]) is not None:
            says.append(next(step.says for step in self.space.of(before) if step.after == state))
            state = before
        return tuple(reversed(says))


def wrong_in(at: World, profile: Profile) -> str | None:
    """Return which invariant a state breaks."""
    paid = at.ledger.transfers
    if max(paid) > 1:
        return "paid twice"
    for number, item in enumerate(at.store.items):
        if item.status is Status.DELIVERED and not paid[number]:
            return "delivered without its transfer"
        if item.moved is FundsMoved.NO or at.told[number] is FundsMoved.NO:
            if paid[number]:
                return "failed/no, and paid"
            if number in at.ledger.pending or _on_its_way(at, number, profile):
                return "failed/no, with a live call"
    return None


def _on_its_way(at: World, item: int, profile: Profile) -> bool:
    """Whether a call may still pay an item: the custodian would carry it out."""
    return any(
        call.live
        and item in call.items
        and any(event is not None for event, _ in arrivals(profile, at.ledger, call))
        for call in at.calls.all
    ) or any(
        worker.doing == "marked" and item in at.store.executions[worker.execution].items
        for worker in at.workers
    )


def explore(profile: Profile, *, most: int = 5_000_000) -> Result:
    """Search every run of a profile, until something goes wrong or so many states were met."""
    began = time.perf_counter()
    steps = Steps(profile)
    first = w.begin(profile)
    met: dict[World, World | None] = {first: None}
    frontier = [first]
    taken = depth = 0

    def result(wrong: str | None = None, before: World | None = None, says: str = "") -> Result:
        seconds = time.perf_counter() - began
        found = Result(profile, steps, taken, depth, seconds, met, wrong)
        return found if before is None else replace(found, trace=(*found.way_to(before), says))

    with _without_collection():
        while frontier and len(met) < most:
            depth += 1
            following: list[World] = []
            for at in frontier:
                for says, after, broken in steps.of(at):
                    taken += 1
                    if broken is not None:
                        return result(broken, at, says)
                    if after in met:
                        continue
                    wrong = wrong_in(after, profile)
                    if wrong is not None:
                        return result(wrong, at, says)
                    met[after] = at
                    following.append(after)
            frontier = following
    return result()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Switch the garbage collector off: a search makes millions of tuples, and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
