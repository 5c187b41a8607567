"""The actions that are possible on a payout now, each with its proof or what is missing. Reads only.

Each answer comes from the rules that the action itself checks again, so what is shown decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.adapter import Capabilities
from gateway.execution.gate import may_cancel
from gateway.execution.history import history_of, others_of
from gateway.execution.operator import NotAllowedError, refuse_retry
from gateway.execution.proof import (
    History,
    absent_looks,
    call_can_die,
    console_look,
    has_news,
    life_of,
    open_calls,
    passed,
    proof,
)
from gateway.execution.state import State
from gateway.model import Payout
from gateway.panel.render import span
from gateway.runtime import Moment, Runtime
from gateway.store import executions
from gateway.store.database import Row, Tx
from gateway.store.rows import from_us
from gateway.store.state import frozen


@dataclass(frozen=True)
class Proof:
    """One line under an action: whether it holds, and what it says."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Possible:
    """An action: whether it is possible, and why or why not."""

    allowed: bool
    proofs: tuple[Proof, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Possibilities:
    """Everything that may be done to a payout."""

    ask: Possible
    retry: Possible
    cancel: Possible
    resolve: Possible
    #: when the engine looks next
    next_look: datetime | None = None
    #: what blocks every further call
    blocked: str | None = None


def _holds(text: str) -> Proof:
    return Proof(holds=True, text=text)


def _missing(text: str) -> Proof:
    return Proof(holds=False, text=text)


def _on(proofs: tuple[Proof, ...], note: str = "") -> Possible:
    return Possible(allowed=True, proofs=proofs, note=note)


def _off(proofs: tuple[Proof, ...], note: str = "") -> Possible:
    return Possible(allowed=False, proofs=proofs, note=note)


async def possibilities(
    tx: Tx, runtime: Runtime, payout: Payout, capabilities: Capabilities | None, asked: str
) -> Possibilities:
    """Return what may be done to a payout. Store function. Without `capabilities` its custodian is not configured."""
    if payout.final:
        over = _off((_missing(f"It is {payout.status}: final statuses never change."),))
        return Possibilities(over, over, over, over)
    execution = await executions.open_execution_of(tx, payout.id)
    if execution is None:
        wait = _off((_missing("Nothing was sent yet."),))
        batch = "It is part of a batch: cancel the batch instead."
        alone = _off((_missing(batch if payout.batch_id else "Nothing was sent yet."),))
        return Possibilities(wait, wait, alone, wait)
    now = runtime.clock.moment()
    history = await history_of(tx, execution, now, asked=asked)
    state = State(execution["state"])
    busy = (execution["lease_until"] - runtime.timeline.now()) / 1e6
    copy = await frozen(tx) is not None
    due = execution["due_at"] - runtime.timeline.now()
    return Possibilities(
        ask=_ask(state, history, busy),
        retry=await _retry(tx, runtime, payout, history, capabilities, asked, now, copy=copy),
        cancel=await _cancel(tx, payout, execution, history, capabilities, now, copy=copy),
        resolve=_resolve(history, now, capabilities, busy),
        next_look=from_us(now.wall + max(0, due)),
        blocked=execution["blocked"],
    )


def _ask(state: State, history: History, busy: float) -> Possible:
    if busy > 0:
        return _off((_holds("It is being asked right now."),))
    if state is State.PREPARED and not has_news(history):
        return _off((_missing("Nothing was sent yet."),))
    return _on((_holds("Only reads. Always safe."),))


async def _retry(  # noqa: PLR0913 - what a retry depends on
    tx: Tx,
    runtime: Runtime,
    payout: Payout,
    history: History,
    capabilities: Capabilities | None,
    asked: str,
    now: Moment,
    *,
    copy: bool,
) -> Possible:
    if capabilities is None:
        return _off((_missing("Its custodian is not configured at this gateway."),))
    if copy:
        return _off((_missing("The database may be an old copy: adopt it first."),))
    proofs = _absence(history, now)
    try:
        await refuse_retry(tx, runtime, payout.id, capabilities, asked)
    except NotAllowedError as error:
        words = str(error)
        told = f"Missing: {words}." if not proofs and "proof" in words else f"{_sentence(words)}."
        if not any(not each.holds for each in proofs):
            proofs = (*proofs, _missing(told))
        return _off(proofs, _earliest(history, now))
    if not proofs or not all(each.holds for each in proofs):
        # A repeat under the same key needs no proof of absence, because the custodian executes it once.
        proofs = (_holds("The custodian carries out a repeat under the same key only once."),)
    return _on(proofs)


def _absence(history: History, now: Moment) -> tuple[Proof, ...]:
    """Return the parts of the proof that no call has paid or ever will; empty if no call is open."""
    unknown = open_calls(history)
    if not unknown:
        return (
            (_holds("No call was made that could have paid it."),) if not has_news(history) else ()
        )
    last = unknown[-1]
    found = []
    if not all(call_can_die(each) for each in unknown):
        found.append(
            _missing("A request for it can be accepted forever, so absence is never proven.")
        )
    else:
        looks = len(absent_looks(history, last))
        needed = max(each.absence_looks for each in unknown)
        waited, life = passed(history, last, now) / 1e6, life_of(last) / 1e6
        word = "Absence proven" if proof(history) else "Absence not proven"
        found.append(
            Proof(
                proof(history),
                f"{word}: {min(looks, needed)} of {needed} looks did not find it, "
                f"{span(min(waited, life))} of {span(life)} waited.",
            )
        )
    news = has_news(history)
    words = "Money of it was seen on its way." if news else "No webhook says that money moved."
    return (*found, Proof(holds=not news, text=words))


def _earliest(history: History, now: Moment) -> str:
    unknown = open_calls(history)
    if not unknown or has_news(history) or not all(call_can_die(each) for each in unknown):
        return ""
    left = (life_of(unknown[-1]) - passed(history, unknown[-1], now)) / 1e6
    return "" if left <= 0 else f"Possible in {span(left)} at the earliest."


async def _cancel(  # noqa: PLR0913 - what a cancel depends on
    tx: Tx,
    payout: Payout,
    execution: Row,
    history: History,
    capabilities: Capabilities | None,
    now: Moment,
    *,
    copy: bool,
) -> Possible:
    if copy:
        return _off((_missing("The database may be an old copy: adopt it first."),))
    if payout.batch_id is not None and execution["size"] > 1:
        return _off((_missing("It is sent with others: cancel its batch instead."),))
    others = await others_of(tx, execution["id"], [payout.id], now) if execution["earlier"] else ()
    state = State(execution["state"])
    if state in {State.PREPARED, State.PARKED} and may_cancel(history, payout.id, others):
        return _on((_holds("Nothing was sent that could pay it: it ends at once."),))
    at = max((each.at.wall for each in open_calls(history)), default=None)
    sent = "" if at is None else f"The moving call was sent at {from_us(at):%H:%M:%S} UTC."
    if capabilities is None or not capabilities.cancel:
        words = f"{sent} This custodian cannot call it back.".strip()
        return _off((_missing(words),))
    words = f"{sent} The custodian is asked, and decides.".strip()
    return _on((_holds(words),))


def _resolve(
    history: History, now: Moment, capabilities: Capabilities | None, busy: float
) -> Possible:
    if busy > 0:
        return _off((_missing("A worker handles it right now."),))
    lags = capabilities is None or capabilities.console_lags
    left = console_look(history, now, lag=lags)
    words = "Needs the custodian's own record, and your password again."
    note = ""
    if left is None:
        note = "Nobody can prove that it was not paid: a request for it can be accepted forever."
    elif left > 0:
        note = f"That no money moved can be said in {span(left / 1e6)} at the earliest."
    return _on((_holds(words),), note)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
