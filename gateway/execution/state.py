"""Values of the engine: the state of an execution, the view that `decide` gets, and its decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.adapter import Capabilities, Report
from gateway.execution.gate import Other
from gateway.execution.proof import Evidence, History, has_news
from gateway.model import Attention, Payout, Status, SubStatus
from gateway.runtime import Moment


class State(StrEnum):
    """The state of an execution. It determines the next step; the gate decides about money."""

    PREPARED = "prepared"  #: `submit` is called next
    PARKED = "parked"  #: `submit` stopped before moving and waits for a person or for news
    MOVING = "moving"  #: the mark is set, the call is in progress, or its process died
    UNKNOWN = "unknown"  #: a moving call may have arrived
    ACCEPTED = "accepted"  #: the custodian has it; from here on it is only looked at
    CLOSED = "closed"  #: final


def stored_as(state: State) -> str:
    """Return a state as it is stored; only the mark writes the moving state."""
    return (State.UNKNOWN if state is State.MOVING else state).value


class Verb(StrEnum):
    """What the engine asked of the custodian instance."""

    SUBMIT = "submit"
    FETCH = "fetch"
    CONFIRM = "confirm"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Lease:
    """A claim on an execution: the fencing token, and the `due_at` that the claim wrote."""

    execution_id: str
    token: int
    claimed_due: int


@dataclass(frozen=True)
class Job:
    """A claimed execution, as it stood when the claim was made."""

    lease: Lease
    custodian: str
    batch_id: str | None
    number: int
    key_seed: str
    state: State
    notes: Mapping[str, Any]
    items: tuple[Payout, ...]
    history: History
    #: whether the adapter reported that a repeat of this execution is harmless; None: as declared
    repeat_is_safe: bool | None = None

    @property
    def next_verb(self) -> Verb:
        """The verb that is called next: only an execution that cannot have a call in progress is submitted.

        After news of our own transfer no mark is set any more, so there is nothing to submit.
        """
        prepared = self.state is State.PREPARED and not has_news(self.history)
        return Verb.SUBMIT if prepared else Verb.FETCH


@dataclass(frozen=True)
class Item:
    """What `decide` needs to know of one payout of an execution."""

    id: str
    status: Status
    sub_status: SubStatus
    #: whether a person was asked for something and the time to answer is over
    unanswered: bool = False

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.status in {Status.DELIVERED, Status.FAILED}


@dataclass(frozen=True)
class View:
    """Everything that `decide` may look at, read in the transaction that writes its decision."""

    state: State
    verb: Verb
    history: History
    items: tuple[Item, ...]
    capabilities: Capabilities
    started: Moment  #: when the verb's request started
    now: Moment
    seen: int  #: the newest row that the process had read before the request started
    fingerprint: str
    call: int | None = None  #: the row of the call that this verb made; None: no mark was set
    looks: int = 0
    failures: int = 0
    repeat_is_safe: bool | None = None
    #: other executions that ever held one of the items
    others: tuple[Other, ...] = ()
    #: items whose report names a transfer that belongs to another payout
    foreign: frozenset[str] = frozenset()
    jitter: float = 1.0
    #: whether the database may be an old copy: then nothing expires
    frozen: bool = False
    #: the adapter's name, for alerts about its mistakes
    adapter: str = "adapter"

    @property
    def open_items(self) -> tuple[Item, ...]:
        """The items that have not ended."""
        return tuple(each for each in self.items if not each.final)


@dataclass(frozen=True)
class Decision:
    """What an outcome leads to."""

    state: State
    delay_s: float
    #: rows to write, new ones and the answered call
    evidence: tuple[Evidence, ...] = ()
    #: what each item is told
    reports: Mapping[str, Report] = field(default_factory=dict)
    alerts: tuple[tuple[Attention, str], ...] = ()
    looks: int = 0
    failures: int = 0
    repeat_is_safe: bool | None = None
    reason: str | None = None
    #: whether the account's turn is released, because the execution waits for a person
    releases_account: bool = False
    #: why no mark may be set from now on: what was seen does not belong here
    blocked: str | None = None
    #: close this execution and open another one for its items (a new session)
    reopens: bool = False
