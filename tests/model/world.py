"""The world of the model: what a state consists of, and what a profile allows to happen in it.

A state is a tuple of shared values. Values that are made of many parts (`Past`, `Execution`, `Store`,
`Worker`, `Ledger`, `Calls`) exist once for each content, so that they are compared and hashed by
identity. Durations and dates are small integers, called ticks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import NamedTuple

from gateway.execution.proof import Evidence, Heartbeat, History
from gateway.execution.state import State, Verb
from gateway.model import TERMINAL, FundsMoved, Status, SubStatus
from gateway.runtime import Moment

# --- What may happen ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """A kind of run: the custodian, the machines, and how often each thing may happen."""

    name: str
    items: int = 1
    # the custodian, as it is and as its adapter declares it
    call_life: int | None = 2  #: ticks after which a signed request is refused; None: never
    visibility: int = 1  #: ticks that a done thing may stay invisible
    absence_looks: int = 1
    key_life: int | None = None  #: ticks that a key is remembered; None: for ever
    remembers_keys: bool = False  #: one payment per reference while its key is remembered
    burnt_keys: bool = False  #: a refused call uses its key up
    #: a call may be refused at the door: a first one is not executed then, a repeat may be all the same
    doors: bool = False
    repeat_is_safe: bool = False  #: declared by the adapter
    can_look: bool = True  #: whether there is something to look by
    own_references: bool = False  #: every call is made under a reference of its own
    names_reference: bool = True  #: a failed word names the reference that it is about
    asks: bool = False  #: a person must answer before each call
    expires: bool = False  #: the time to be sent may be over, at any claim
    console_lags: bool = False
    answers: tuple[str, ...] = ("paid", "failed", "queued")  #: what an arriving call may lead to
    # the machines: the clock of each worker; the operator's command has its own
    clocks: tuple[int, ...] = (0,)
    operator_clock: int = 0
    #: a worker whose execution was taken over goes on with what it knew; otherwise it is forgotten
    stale_workers: bool = False
    pages: bool = False  #: the items of a set are updated one by one, each in its own transaction
    slow_marks: bool = False  #: a worker may be suspended between its credentials and its mark
    # how often things may happen
    ticks: int = 5
    calls: int = 2
    looks: int = 3
    webhooks: int = 0
    acts: frozenset[str] = frozenset()  #: what an operator may do
    act_count: int = 0
    crashes: int = 0
    wall_steps: int = 0  #: the wall clock is set forward or back
    reboots: int = 0
    repoints: int = 0  #: the instance is pointed at another account
    lowered: int = 0  #: the settings are lowered
    restores: int = 0  #: the database is replaced by an older copy of it
    same_file: bool = False  #: by overwriting the file, so that only the newest mark tells
    foreign: int = 0  #: a look shows a transfer that belongs to another payout
    lies: int = 0  #: a look breaks the declared visibility
    heartbeats: int = 0
    fails_over: int = 0  #: how often the payout may go on at another custodian, whatever the cause
    down: bool = (
        False  #: the custodian may not answer when something is to be sent: no mark is set then
    )
    lists: int = 0  #: a look searches a list that begins too late
    strays: int = 0  #: a webhook about another payout's transfer, before any mark of this one
    resends: int = 0  #: a process sends the same bytes with the same credential again

    @property
    def many(self) -> bool:
        """Whether there may be more than one execution."""
        return self.items > 1 or self.asks or "reopen" in self.acts or self.fails_over > 0


#: The places of the budgets in `World.left`.
LOOKS, CALLS, WEBHOOKS, ACTS, CRASHES, WALLS, REBOOTS, REPOINTS, LOWERED = range(9)
COPIES, RESTORES, FOREIGN, LIES, BEATS, RESENDS, STRAYS, LISTS = range(9, 17)


def budgets(profile: Profile) -> tuple[int, ...]:
    """Return how often each thing may still happen at the beginning."""
    return (
        profile.looks,
        profile.calls,
        profile.webhooks,
        profile.act_count,
        profile.crashes,
        profile.wall_steps,
        profile.reboots,
        profile.repoints,
        profile.lowered,
        profile.restores,
        profile.restores,
        profile.foreign,
        profile.lies,
        profile.heartbeats,
        profile.resends,
        profile.strays,
        profile.lists,
    )


def spend(left: tuple[int, ...], place: int) -> tuple[int, ...]:
    """Return the budgets after one more use of one of them. Below zero: without limit."""
    if left[place] < 0:
        return left
    return (*left[:place], left[place] - 1, *left[place + 1 :])


# --- Clocks ---------------------------------------------------------------------------------------

#: What each clock shows at the beginning. Differences between clocks prove nothing.
_ELAPSED = (0, 40, 80, 120)
CLOCK_IDS = ("clock-a", "clock-b", "clock-c", "clock-d")
#: How far the wall clock is set.
WALL_STEP = 50


class Stamp(NamedTuple):
    """A moment: the clock, the tick of the world, and by how much the wall clock is wrong."""

    clock: int
    tick: int
    wall: int


@cache
def moment(stamp: Stamp) -> Moment:
    """Return what a process reads from its clocks."""
    return Moment(
        CLOCK_IDS[stamp.clock], _ELAPSED[stamp.clock] + stamp.tick, stamp.tick + stamp.wall
    )


# --- The database ---------------------------------------------------------------------------------


class Item(NamedTuple):
    """A payout."""

    status: Status = Status.PENDING
    sub_status: SubStatus = SubStatus.CREATED
    moved: FundsMoved | None = None  #: what is said about the money, of one that failed

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL


@dataclass(frozen=True, eq=False)
class Past:
    """The rows of evidence of an execution."""

    rows: tuple[Evidence, ...]
    history: History
    last: int


_PASTS: dict[tuple[tuple[Evidence, ...], tuple[Heartbeat, ...]], Past] = {}


def past(history: History) -> Past:
    """Return the one value for a history."""
    key = history.rows, history.heartbeats
    found = _PASTS.get(key)
    if found is None:
        found = _PASTS[key] = Past(history.rows, history, history.last_number)
    return found


@dataclass(frozen=True, eq=False)
class Execution:
    """An execution. `looks`, `failures` and `attention` are kept in fair runs only."""

    state: State
    past: Past
    items: tuple[int, ...]
    safe: bool | None = None
    blocked: bool = False
    session: int = 1
    looks: int = 0
    failures: int = 0
    attention: bool = False

    @property
    def ended(self) -> bool:
        """Whether it is closed."""
        return self.state is State.CLOSED


@cache
def execution(
    state: State,
    rows: Past,
    items: tuple[int, ...],
    safe: bool | None,
    blocked: bool,
    session: int,
    looks: int = 0,
    failures: int = 0,
    attention: bool = False,
) -> Execution:
    return Execution(state, rows, items, safe, blocked, session, looks, failures, attention)


@dataclass(frozen=True, eq=False)
class Store:
    """The database."""

    executions: tuple[Execution, ...]
    items: tuple[Item, ...]
    marks: int
    frozen: bool
    beats: tuple[tuple[int, int, int], ...]  #: clock, tick, marks


@cache
def store(
    executions: tuple[Execution, ...],
    items: tuple[Item, ...],
    marks: int,
    frozen: bool,
    beats: tuple[tuple[int, int, int], ...],
) -> Store:
    return Store(executions, items, marks, frozen, beats)


# --- Processes ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Worker:
    """What a process remembers between two steps. It may be suspended before each of them."""

    clock: int
    doing: str = "idle"  #: idle, claimed, signed, marked, calling, looked
    current: bool = False  #: whether its fencing token is the newest
    execution: int = 0
    verb: Verb | None = None
    seen: int = 0
    started: Stamp | None = None
    account: int = 0
    row: int | None = None  #: the row of its call
    call: int = 0  #: the number of its call in the world
    found: tuple[object, ...] | None = None  #: what its look has found
    serial: int = 0  #: workers in the order in which they were first met


_SERIALS = count()


@cache
def worker(
    clock: int,
    doing: str = "idle",
    current: bool = False,
    execution: int = 0,
    verb: Verb | None = None,
    seen: int = 0,
    started: Stamp | None = None,
    account: int = 0,
    row: int | None = None,
    call: int = 0,
    found: tuple[object, ...] | None = None,
) -> Worker:
    return Worker(
        clock, doing, current, execution, verb, seen, started, account, row, call, found,
        next(_SERIALS),
    )  # fmt: skip


# --- The custodian --------------------------------------------------------------------------------


class Call(NamedTuple):
    """A signed request. Until it dies it may arrive, whatever became of its sender."""

    number: int
    execution: int
    account: int
    reference: str
    items: tuple[int, ...]
    left: int  #: ticks until it dies; below zero: never
    reply: tuple[object, ...] | None = None  #: what its sender is answered, once it has arrived
    credential: int = 0

    @property
    def live(self) -> bool:
        """Whether it may still arrive."""
        return self.reply is None and self.left != 0


@dataclass(frozen=True, eq=False)
class Calls:
    """The requests on their way, and the replies on their way back."""

    all: tuple[Call, ...]


@cache
def calls(all_of_them: tuple[Call, ...]) -> Calls:
    return Calls(all_of_them)


class Event(NamedTuple):
    """Something that the custodian has done. Its webhook may be delivered at any time after."""

    age: int  #: ticks since then; bounded
    execution: int
    account: int
    reference: str
    order: int  #: the number of the call that it is about
    items: tuple[int, ...]
    words: tuple[str, ...]  #: one per item: paid, queued, submitted, failed
    credential: int


@dataclass(frozen=True, eq=False)
class Ledger:
    """All that the custodian has done, in order."""

    events: tuple[Event, ...]
    transfers: tuple[int, ...]  #: how many transfers each item has got
    pending: frozenset[int]  #: the items that an accepted order may still pay
    credentials: frozenset[int]  #: the credentials that were used; each is used once


@cache
def ledger(events: tuple[Event, ...]) -> Ledger:
    transfers = [0, 0]
    last: dict[int, Event] = {}
    for event in events:
        last[event.order] = event
        for item, word in zip(event.items, event.words, strict=True):
            transfers[item] += word == "paid"
    pending = {
        item
        for event in last.values()
        for item, word in zip(event.items, event.words, strict=True)
        if word in {"queued", "submitted"}
    }
    used = frozenset(event.credential for event in events)
    return Ledger(events, tuple(transfers), frozenset(pending), used)


# --- A state --------------------------------------------------------------------------------------


class World(NamedTuple):
    """A state of everything."""

    tick: int
    wall: int  #: by how much the wall clock is wrong
    store: Store
    workers: tuple[Worker, ...]
    calls: Calls
    ledger: Ledger
    left: tuple[int, ...]
    account: int = 0  #: the account that the instance is pointed at
    low: bool = False  #: whether the settings were lowered
    made: int = 0  #: how many calls were ever made
    copy: Store | None = None
    witness: int = 0  #: the highest mark in the state file
    told: tuple[FundsMoved | None, ...] = ()  #: what the partner was told of failed items
    person: tuple[int, int, bool] | None = None  #: an operator's look: execution, row, looked
    paused: bool = False  #: whether the payouts are paused
    #: whether a custodian that the payout has gone on from has said that it has it after all
    warned: bool = False


def begin(profile: Profile) -> World:
    """Return the state in which everything begins: accepted, nothing called."""
    items = tuple(range(profile.items))
    first = execution(State.PREPARED, past(History()), items, None, False, 1)
    return World(
        tick=0,
        wall=0,
        store=store((first,), tuple(Item() for _ in items), 0, False, ()),
        workers=tuple(worker(clock) for clock in profile.clocks),
        calls=calls(()),
        ledger=ledger(()),
        left=budgets(profile),
        told=(None,) * profile.items,
    )
