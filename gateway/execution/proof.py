"""What the evidence of one execution proves. Pure: rows in, answer out.

Every moving call and every look is a row. This module is the only place that decides what a set of rows
proves; the gate, the engine, operators' commands and the expiry of an action all use it. Each rule is
one named predicate, so that the model (`tests/model`) can switch it off and show what goes wrong.

Terms: a *call* is a moving call with its mark, a *look* is a fetch, *news* is a sighting of our own
transfer, a *word* is a custodian's statement that a reference failed. Durations and elapsed times are
integers of one unit (the store uses microseconds, the model uses ticks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.model import FundsMoved
from gateway.runtime import Moment


class Kind(StrEnum):
    """What a row of evidence is about."""

    CALL = "call"  #: a moving call; its mark is committed before the call is made
    LOOK = "look"  #: a fetch, by the engine
    NEWS = "news"  #: our own transfer, or a report that money is or may be on its way
    WORD = "word"  #: the custodian reports that a reference failed, and what happened to the money
    WAIT = (
        "wait"  #: nothing was sent; the time until it must be sent counts from here on this clock
    )
    CONSOLE = "console"  #: an operator was asked to look at the custodian's own records


class Answer(StrEnum):
    """The outcome of a call. No answer at all: it is in progress, or its process died."""

    UNKNOWN = "unknown"  #: it may have arrived
    ACCEPTED = "accepted"  #: the custodian has it
    NOT_SENT = "not_sent"  #: the adapter vouches that this call did nothing
    WRONG_ANSWER = "wrong_answer"  #: the custodian refused a person's answer; this call did nothing
    #: refused at the door in a way that proves nothing (a repeat, or a rate limit); it may have arrived
    TURNED_AWAY = "turned_away"
    REJECTED = "rejected"  #: a final refusal of the first moving call; this call did nothing


class Finding(StrEnum):
    """What a look found."""

    ABSENT = "absent"  #: the custodian does not know it now
    NOT_LISTED = "not_listed"  #: it is not in a complete list that covers the time since the call
    PRESENT = "present"  #: the custodian knows it, in whatever state
    ASKS = "asks"  #: the custodian waits for a person's answer; this says nothing about an earlier call
    BLIND = "blind"  #: there was no id to look it up by
    FAILED = "failed"  #: the look itself failed


#: Findings that count as one absent look each.
NOTHING_FOUND = frozenset({Finding.ABSENT, Finding.NOT_LISTED})


class Source(StrEnum):
    """Where a word or news came from."""

    REPLY = "reply"
    LOOK = "look"
    WEBHOOK = "webhook"
    OPERATOR = "operator"


#: Answers by which the adapter itself vouches that the call did nothing.
OWN_WORD = frozenset({Answer.NOT_SENT, Answer.WRONG_ANSWER, Answer.REJECTED})
#: Answers after which it is certain that the request was never processed.
NEVER_PROCESSED = frozenset({Answer.NOT_SENT})


@dataclass(frozen=True)
class Evidence:
    """One row. `number` orders the rows of an execution; it is given in the transaction."""

    number: int
    kind: Kind
    #: the newest row that the process had read before the request started (or the mark was set)
    seen: int
    #: when the request started; never when its answer was written
    at: Moment
    fingerprint: str = ""  #: which account at the custodian was asked; see `same_account`
    answer: str | None = None  #: an Answer, a Finding, or the claim about the money (FundsMoved)
    reference: str | None = None  #: our reference that a call was made under, or a word names
    item: str | None = None  #: the payout that a word or news is about; None: all of them
    source: Source = Source.LOOK
    mark: int = 0  #: a call's number among all marks of the database
    call_life: int | None = None  #: how long the signed request can be accepted; None: forever
    visibility: int = 0  #: how long a completed action may stay invisible
    absence_looks: int = 1  #: how many absent looks are needed
    key_life: int | None = None  #: how long the custodian remembers the key; None: forever
    one_key: bool = False  #: the custodian never retries what failed under the call's key


@dataclass(frozen=True)
class Heartbeat:
    """A gateway's heartbeat: a row for every execution whose last call was committed before it."""

    clock_id: str
    elapsed: int
    marks: int  #: the highest mark that was committed before the heartbeat was dated


@dataclass(frozen=True)
class History:
    """The rows of one execution, and what else is needed to read them."""

    rows: tuple[Evidence, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    #: fingerprints that an operator declared to be the same account, to one name for them
    accounts: Mapping[str, str] = field(default_factory=dict)

    def having(self, *rows: Evidence) -> History:
        """Return the history with more rows; a row with a known number replaces that one."""
        if not rows:
            return self
        merged = {each.number: each for each in (*self.rows, *rows)}
        numbered = tuple(merged[number] for number in sorted(merged))
        return History(numbered, self.heartbeats, self.accounts)

    @property
    def last_number(self) -> int:
        """The number of the newest row; 0 where there is none."""
        return self.rows[-1].number if self.rows else 0


# --- Reading rows ---------------------------------------------------------------------------------


def calls(history: History) -> tuple[Evidence, ...]:
    """Return the moving calls, first one first."""
    return tuple(each for each in history.rows if each.kind is Kind.CALL)


def may_have_arrived(call: Evidence) -> bool:
    """Whether a call may have moved money. A mark without an outcome counts as sent, for everyone.

    Without this rule a payout is ended as "not paid" while a signed request is on its way.
    """
    return call.answer not in OWN_WORD


def open_calls(history: History) -> tuple[Evidence, ...]:
    """Return the calls that may have moved money."""
    return tuple(each for each in calls(history) if may_have_arrived(each))


def has_news(history: History) -> bool:
    """Whether our own transfer was seen, or money was reported to be on its way."""
    return any(each.kind is Kind.NEWS for each in history.rows)


def was_seen(rows: Iterable[Evidence], reference: str | None) -> bool:
    """Whether there is news of a reference already."""
    return any(each.kind is Kind.NEWS and each.reference == reference for each in rows)


#: The answer of a row of news that reports that money came back.
CAME_BACK = "came_back"


def money_came_back(history: History, item: str | None) -> bool:
    """Whether money of an item was reported to have come back: then it had moved, whatever else is reported.

    Without this rule a payout whose money came back is ended as "not paid", and is paid again.
    """
    return any(
        each.kind is Kind.NEWS and each.answer == CAME_BACK and item in {None, each.item}
        for each in history.rows
    )


#: The account of a call that no look can find: it is never asked.
NO_ACCOUNT = "adopted"
#: The reference of every call that an adopted copy may lack: no word and no repeat is about it.
LOST_REFERENCE = "adopted"


def is_adopted(history: History) -> bool:
    """Whether a call may be missing, because the execution was open in a copy that was adopted."""
    return any(each.reference == LOST_REFERENCE for each in calls(history))


def lost_call(  # noqa: PLR0913 - the terms of a call
    number: int,
    mark: int,
    at: Moment,
    *,
    account: str,
    call_life: int | None,
    visibility: int,
    absence_looks: int,
) -> Evidence:
    """Return the call that an adopted copy of the database may be missing: an unknown one, made now.

    `account` is the configured one if the restored row holds a reference to look for, and
    `NO_ACCOUNT` if it does not: absence never rules that call out, and an operator settles it.
    Without this rule a payout that was paid after the copy was taken is paid again.
    """
    return Evidence(
        number=number,
        kind=Kind.CALL,
        seen=number - 1,
        at=at,
        fingerprint=account,
        reference=LOST_REFERENCE,
        source=Source.OPERATOR,
        mark=mark,
        call_life=call_life,
        visibility=visibility,
        absence_looks=absence_looks,
    )


# --- Time -----------------------------------------------------------------------------------------


def same_clock(begin: Moment, end: Moment) -> bool:
    """Whether two elapsed times may be compared: they were read from one clock.

    Without this rule a machine whose clock is ahead finds that the wait is over at once.
    """
    return begin.clock_id == end.clock_id


def waited(history: History, call: Evidence, row: Evidence | Moment) -> int:
    """Return how much time has certainly passed from a call's mark to a row's date.

    On one clock it is the difference of elapsed time. On another clock (a reboot, another machine)
    waiting starts again at the first row of that clock whose process had read the call before it was
    dated. Wall clocks are never used, because they can be changed.
    """
    at = row.at if isinstance(row, Evidence) else row
    if same_clock(call.at, at):
        return at.elapsed - call.at.elapsed
    return at.elapsed - min(_starts(history, call, at.clock_id), default=at.elapsed)


def passed(history: History, call: Evidence, now: Moment) -> int:
    """Return how much time has certainly passed since a call's mark, by whichever clock shows most.

    A command on another machine has to compute it from the gateways' rows, because its own clock knows
    nothing.
    """
    latest: dict[str, int] = {now.clock_id: now.elapsed}
    points = [(each.at.clock_id, each.at.elapsed) for each in history.rows]
    points += [(each.clock_id, each.elapsed) for each in history.heartbeats]
    for clock_id, elapsed in points:
        latest[clock_id] = max(latest.get(clock_id, elapsed), elapsed)
    return max(
        waited(history, call, Moment(clock_id, elapsed, 0)) for clock_id, elapsed in latest.items()
    )


def _starts(history: History, call: Evidence, clock_id: str) -> Iterable[int]:
    for each in history.rows:
        if each.at.clock_id == clock_id and names_call(each, call):
            yield each.at.elapsed
    for beat in history.heartbeats:
        if beat.clock_id == clock_id and beat_knows_call(beat, call):
            yield beat.elapsed


def beat_knows_call(beat: Heartbeat, call: Evidence) -> bool:
    """Whether a gateway's heartbeat was dated after the call's mark was committed.

    Without this rule waiting on another clock starts before the call was made.
    """
    return beat.marks >= call.mark > 0


# --- The rules of absence -------------------------------------------------------------------------


def names_call(row: Evidence, call: Evidence) -> bool:
    """Whether the process had read this call before it dated the row.

    Without this rule a look that started before the call arrived counts as its absence.
    """
    return row.seen >= call.number and row.number > call.number


def same_account(history: History, look: Evidence, call: Evidence) -> bool:
    """Whether a look asked the account that the call was made at.

    Without this rule an instance that was pointed at another account answers "not found".
    """
    return at_account(history, call, look.fingerprint)


def at_account(history: History, call: Evidence, fingerprint: str) -> bool:
    """Whether a call was made at this account, or at one that an operator declared to be the same.

    A call that an upgrade recorded names no account: it is the one that was asked first after it.
    Without this rule a repeat under the same key pays a second time, at another account.
    """
    ours, theirs = call.fingerprint or _asked_first(history, call), fingerprint
    return not ours or history.accounts.get(ours, ours) == history.accounts.get(theirs, theirs)


def _asked_first(history: History, call: Evidence) -> str:
    """Return the account that was configured when a call was recorded: the first one asked since."""
    asked = (each for each in history.rows if each.number > call.number and each.fingerprint)
    return next((each.fingerprint for each in asked), "")


def call_can_die(call: Evidence) -> bool:
    """Whether the signed request expires. If it does not, absence is never proven.

    Without this rule a request that was signed long ago arrives after it was proven absent.
    """
    return call.call_life is not None


def life_of(call: Evidence) -> int:
    """Return how long a call can arrive or be invisible, by the values stored with the call.

    Without this rule a setting that is lowered shortens the wait for a request that was signed before.
    """
    return (call.call_life or 0) + call.visibility


def enough_looks(looks: tuple[Evidence, ...], unknown: tuple[Evidence, ...]) -> bool:
    """Whether absence was seen as often as the calls require (their stored values).

    Without this rule a single wrong look, of a custodian that shows old data for longer than declared,
    pays twice.
    """
    return len(looks) >= max(each.absence_looks for each in unknown)


def waited_out(history: History, call: Evidence, look: Evidence) -> bool:
    """Whether a look started when the call could no longer arrive, and could no longer be invisible.

    Without this rule the payout is paid twice: the look answers "absent", then the call arrives.
    """
    return waited(history, call, look) >= life_of(call)


def uncontradicted(history: History, unknown: tuple[Evidence, ...]) -> bool:
    """Whether nothing shows that the custodian has it: no news, and no call that it accepted.

    Without this rule a look that shows old data outweighs our own transfer, which was seen before.
    """
    return not has_news(history) and all(each.answer != Answer.ACCEPTED for each in unknown)


def absent_looks(history: History, call: Evidence) -> tuple[Evidence, ...]:
    """Return the absent looks that name a call at its account, newer than any that found something."""
    found: list[Evidence] = []
    for each in history.rows:
        if each.kind is not Kind.LOOK:
            continue
        if each.answer == Finding.PRESENT:
            found = []
        elif (
            each.answer in NOTHING_FOUND
            and names_call(each, call)
            and same_account(history, each, call)
        ):
            found.append(each)
    return tuple(found)


def proof(history: History) -> bool:
    """Whether it is proven that no call of this execution has moved money or ever will.

    There are enough absent looks that name the last call at its account, nothing contradicts them,
    and the last of them started `call_life + visibility` after the last call's mark. The values are
    those stored with each call: a setting that was lowered since proves nothing.
    """
    unknown = open_calls(history)
    if not unknown:
        return True
    last = unknown[-1]
    looks = tuple(
        look
        for look in absent_looks(history, last)
        if all(same_account(history, look, each) for each in unknown)
    )
    if not looks or not uncontradicted(history, unknown) or not enough_looks(looks, unknown):
        return False
    return all(call_can_die(each) for each in unknown) and all(
        waited_out(history, each, looks[-1]) for each in unknown
    )


# --- The rules of words ---------------------------------------------------------------------------


def words(history: History, item: str | None) -> tuple[Evidence, ...]:
    """Return the custodian's words about an item."""
    return tuple(
        each for each in history.rows if each.kind is Kind.WORD and each.item in {None, item}
    )


def speaks_of(history: History, word: Evidence, call: Evidence) -> bool:
    """Whether a word is about the reference that a call was made under, and came after it.

    A call that an adopted copy may lack was made under an unknown reference: only a look that started
    after its life covers it. Without this rule "nothing was created" is accepted for a payment that was
    created after the copy was taken.
    """
    if word.number < call.number or word.reference not in {None, call.reference}:
        return False
    return call.reference != LOST_REFERENCE or late_look(history, word)


def only_call(history: History, word: Evidence) -> bool:
    """Whether the reference that a word names had exactly one call, so that the word is about that one.

    Calls under one key count as one if the custodian never retries what failed under it.
    Without this rule "call 1 failed", reported late, ends the payout while call 2 is on its way.
    """
    under = [
        each
        for each in calls(history)
        if word.reference in {None, each.reference} and each.answer not in NEVER_PROCESSED
    ]
    one_key = all(each.one_key for each in under) and len({each.reference for each in under}) == 1
    return len(under) == 1 or one_key


def late_look(history: History, word: Evidence) -> bool:
    """Whether a word was read by a look that started when no call could arrive any more.

    Without this rule the failure of call 1, seen early, ends the payout while call 2 is on its way.
    """
    unknown = open_calls(history)
    if word.source is not Source.LOOK or not unknown:
        return False
    return (
        all(call_can_die(each) for each in unknown)
        and all(names_call(word, each) for each in unknown)
        and all(same_account(history, word, each) for each in unknown)
        and all(waited_out(history, each, word) for each in unknown)
    )


def word_counts(history: History, word: Evidence) -> bool:
    """Whether a failed word may end what it is about."""
    return only_call(history, word) or late_look(history, word)


def ruled_out(history: History, call: Evidence) -> bool:
    """Whether a call was proven absent before a later one was marked, and was not seen since.

    The custodian's word about the later call says nothing about this one, and need not.
    Without this rule a payout whose first call never arrived cannot end by the word about its second.
    """
    later = [each.number for each in calls(history) if each.number > call.number]
    return any(proof(_before(history, number)) for number in later) and not any(
        each.kind is Kind.NEWS and each.reference in {None, call.reference} for each in history.rows
    )


def _before(history: History, number: int) -> History:
    """Return the history as it was before a row was written."""
    rows = tuple(each for each in history.rows if each.number < number)
    return History(rows, history.heartbeats, history.accounts)


def ended(history: History, item: str | None = None) -> bool:
    """Whether everything that was sent for an item has ended, by words that count."""
    return _spoken_of(history, words(history, item))


def ended_unpaid(history: History, item: str | None = None) -> bool:
    """Whether the custodian's final words state, for everything that was sent, that no money moved."""
    if money_came_back(history, item):
        return False
    told = tuple(each for each in words(history, item) if each.answer == FundsMoved.NO)
    return _spoken_of(history, told)


def _spoken_of(history: History, told: tuple[Evidence, ...]) -> bool:
    """Whether words that count cover every call that may have arrived."""
    counting = tuple(word for word in told if word_counts(history, word))
    unspoken = [
        call
        for call in open_calls(history)
        if not any(speaks_of(history, word, call) for word in counting)
    ]
    if not counting:
        return not unspoken
    return all(ruled_out(history, call) for call in unspoken)


def closed(history: History, item: str | None = None) -> bool:
    """Whether it is certain that this execution did not and will not pay an item.

    No call was made, or the adapter itself reported for every call that it did nothing, and no news
    contradicts it; or the custodian's final words state it; or absence is proven. Nothing else allows a
    mark for new content, another execution, or publishing `funds_moved: no`.
    """
    if not open_calls(history):
        return not has_news(history)
    return ended_unpaid(history, item) or proof(history)


def console_look(history: History, now: Moment, *, lag: bool) -> int | None:
    """Return how long to wait until an operator's look at the console can count; 0: now.

    An operator's look replaces the gateway's own looks, but never the life of a call. `lag` tells
    whether the console may show old data; then the visibility window is added. None means that it can
    never count. Without this rule an operator sees nothing, resolves it as "not paid", and the call
    arrives.
    """
    unknown = open_calls(history)
    if any(not call_can_die(each) for each in unknown):
        return None
    left = [
        (each.call_life or 0) + (each.visibility if lag else 0) - passed(history, each, now)
        for each in unknown
    ]
    return max(0, *left) if left else 0


def operator_looked(history: History, number: int | None, *, lag: bool) -> bool:
    """Whether an operator has looked after no call could arrive any more.

    The row `number` was written when the operator was asked to look, and its number was shown then. An
    operator who gives the number was asked, and looked, after that.
    Without this rule a payout is ended as "not paid" by a look from before its last call.
    """
    asked = [each for each in history.rows if each.kind is Kind.CONSOLE and each.number == number]
    return any(
        console_look(_until(history, each), each.at, lag=lag) == 0 for each in asked
    ) and all(each.number > call.number for each in asked for call in open_calls(history))


def _until(history: History, row: Evidence) -> History:
    """Return the history as it was when a row was written."""
    rows = tuple(each for each in history.rows if each.number <= row.number)
    return History(rows, history.heartbeats, history.accounts)
