"""The gate of every moving mark, and the rights of people: by table and by property."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.execution.gate import (
    Other,
    Refusal,
    Request,
    gate,
    is_current,
    key_is_alive,
    may_cancel,
    may_end_unpaid,
    may_fail_over,
    may_reopen,
)
from gateway.execution.proof import LOST_REFERENCE, Answer, History
from gateway.model import GATE_VERSION, Status
from gateway.runtime import Moment
from tests.execution.rows import (
    ACCOUNT,
    ITEM,
    LIFE,
    OTHER_ACCOUNT,
    OTHER_ITEM,
    VISIBILITY,
    asked,
    at,
    call,
    look,
    news,
    rows,
    word,
)

LATE = LIFE + VISIBILITY
NOTHING = rows()
UNKNOWN = rows(call(1))
PROVEN = rows(call(1), look(2, LATE))
#: An operator has declared that both fingerprints are of one account.
DECLARED = replace(UNKNOWN, accounts={ACCOUNT: OTHER_ACCOUNT})
#: A request of a custodian whose keys make a repeat harmless.
SAFE = {"repeat_is_safe": True, "reference": "ref"}


def request(history: History = NOTHING, **changed: Any) -> Request:
    """Return a request that nothing forbids, but for what is changed."""
    plain = Request(
        token_current=True,
        frozen=False,
        state_file=None,
        gate_version=GATE_VERSION,
        blocked=None,
        history=history,
        items={ITEM: Status.PENDING},
        reference="ref",
        fingerprint=ACCOUNT,
        call_life=LIFE,
    )
    return replace(plain, **changed)


REQUESTS: list[tuple[str, Request, Refusal | None]] = [
    ("the first call", request(), None),
    ("an old token", request(token_current=False), Refusal.LEASE_LOST),
    ("a frozen store", request(frozen=True), Refusal.FROZEN),
    ("a state file that cannot be written", request(state_file="read-only"), Refusal.STATE_FILE),
    ("a newer gate", request(gate_version=GATE_VERSION + 1), Refusal.GATE_VERSION),
    ("an older gate", request(gate_version=GATE_VERSION - 1), None),
    ("a mismatch", request(blocked="mismatch"), Refusal.BLOCKED),
    ("news", request(rows(news(1))), Refusal.NEWS),
    (
        "news, although the custodian says that it failed",
        request(rows(call(1), news(2), word(3))),
        Refusal.NEWS,
    ),
    ("an item that was broadcast", request(items={ITEM: Status.BROADCAST}), Refusal.NOT_PENDING),
    (
        "an item of a set that has ended",
        request(items={ITEM: Status.PENDING, OTHER_ITEM: Status.FAILED}),
        Refusal.NOT_PENDING,
    ),
    ("an unknown call", request(UNKNOWN), Refusal.NOT_CLOSED),
    ("a mark without an outcome", request(rows(call(1, answer=None))), Refusal.NOT_CLOSED),
    ("a call that was not sent", request(rows(call(1, answer=Answer.NOT_SENT))), None),
    ("proven absence", request(PROVEN), None),
    ("the custodian's final word", request(rows(call(1), word(2))), None),
    (
        "the final word about one of two items",
        request(rows(call(1), word(2)), items={ITEM: Status.PENDING, OTHER_ITEM: Status.PENDING}),
        Refusal.NOT_CLOSED,
    ),
    (
        "another execution that may pay it",
        request(others=(Other(UNKNOWN, (ITEM,)),)),
        Refusal.NOT_CLOSED,
    ),
    ("another execution that is closed", request(others=(Other(PROVEN, (ITEM,)),)), None),
    ("a harmless repeat", request(UNKNOWN, **SAFE), None),
    ("a repeat that is not declared harmless", request(UNKNOWN), Refusal.NOT_CLOSED),
    (
        "a repeat under another reference",
        request(UNKNOWN, repeat_is_safe=True, reference="second"),
        Refusal.NOT_CLOSED,
    ),
    (
        "a repeat at another account",
        request(UNKNOWN, **SAFE, fingerprint=OTHER_ACCOUNT),
        Refusal.NOT_CLOSED,
    ),
    (
        "a repeat with new credentials of the account, which may have keys of their own",
        request(DECLARED, **SAFE, fingerprint=OTHER_ACCOUNT),
        Refusal.NOT_CLOSED,
    ),
    (
        "a repeat with new credentials of the account, whose keys every credential meets",
        request(DECLARED, **SAFE, fingerprint=OTHER_ACCOUNT, keys_shared=True),
        None,
    ),
    (
        "a repeat at another account, whose keys every credential meets",
        request(UNKNOWN, **SAFE, fingerprint=OTHER_ACCOUNT, keys_shared=True),
        Refusal.NOT_CLOSED,
    ),
    ("the same bytes again", request(UNKNOWN, same_call=1), None),
    (
        "the same bytes, and another call is unknown",
        request(rows(call(1), call(2)), same_call=1),
        Refusal.NOT_CLOSED,
    ),
    ("the same bytes of a harmless repeat", request(rows(call(1), call(2)), same_call=2), None),
    ("a repeat with a young key", request(UNKNOWN, **SAFE, key_life=10**4), None),
    ("a repeat with a key that ends", request(UNKNOWN, **SAFE, key_life=LIFE), Refusal.KEY_LIFE),
    (
        "new content is not asked for its key",
        request(PROVEN, **SAFE, key_life=LIFE),
        None,
    ),
]


@pytest.mark.parametrize(
    ("wanted", "refusal"), [each[1:] for each in REQUESTS], ids=[each[0] for each in REQUESTS]
)
def test_gate(wanted: Request, refusal: Refusal | None) -> None:
    """A mark is set only where nothing forbids it, by the rows of this moment."""
    assert gate(wanted, at(0)) is refusal


KEYS: list[tuple[str, History, int | None, int | None, Moment, bool]] = [
    ("no call yet", NOTHING, 500, LIFE, at(0), True),
    ("a key without end", UNKNOWN, None, None, at(10**9), True),
    ("a young key", UNKNOWN, 500, LIFE, at(100), True),
    ("this call would outlive the key", UNKNOWN, 500, LIFE, at(380), False),
    ("one second before that", UNKNOWN, 500, LIFE, at(379), True),
    ("the wall clock says that it is old", UNKNOWN, 500, LIFE, at(0, wall=10**6), False),
    ("the wall clock says that it is new", UNKNOWN, 500, LIFE, at(380, wall=0), False),
    ("another clock", UNKNOWN, 500, LIFE, at(0, "another"), False),
    ("a request that never dies", UNKNOWN, 500, None, at(0), False),
    ("the key's life as it was stored", rows(call(1, key_life=150)), 500, LIFE, at(100), False),
    ("a stored life, and none now", rows(call(1, key_life=150)), None, LIFE, at(100), False),
    ("the first call counts", rows(call(1), call(2, 300)), 500, LIFE, at(390), False),
    (
        "the first one never left",
        rows(call(1, answer=Answer.NOT_SENT), call(2, 300)),
        500,
        LIFE,
        at(390),
        True,
    ),
    ("another reference", rows(call(1, reference="other")), 500, LIFE, at(10**6), True),
]


@pytest.mark.parametrize(
    ("history", "key_life", "call_life", "now", "alive"),
    [each[1:] for each in KEYS],
    ids=[each[0] for each in KEYS],
)
def test_key_is_alive(
    history: History, key_life: int | None, call_life: int | None, now: Moment, alive: bool
) -> None:
    """A key counts while the custodian certainly remembers it, until this call has died."""
    assert key_is_alive(history, "ref", key_life, call_life, now) is alive


@given(st.integers(0, 1000), st.integers(-(10**6), 10**6), st.integers(1, 1000))
def test_a_wall_clock_can_only_forbid(elapsed: int, wall: int, key_life: int) -> None:
    """However it is set: what elapsed time forbids, a wall clock never allows."""
    by_elapsed = key_is_alive(UNKNOWN, "ref", key_life, LIFE, at(elapsed, wall=0))
    by_both = key_is_alive(UNKNOWN, "ref", key_life, LIFE, at(elapsed, wall=wall))
    assert by_elapsed or not by_both


def test_only_the_newest_token_writes() -> None:
    """A token that another worker's claim has replaced writes nothing, nor does one of an ended execution."""
    assert is_current(3, 3, ended=False)
    assert not is_current(2, 3, ended=False)
    assert not is_current(3, 3, ended=True)


@pytest.mark.parametrize("may", [may_reopen, may_cancel])
def test_another_execution_needs_that_everything_is_closed(may: Any) -> None:
    """A retry, a new session, a failover and a cancel need it of every execution of the payout."""
    assert may(NOTHING, ITEM)
    assert may(PROVEN, ITEM)
    assert not may(UNKNOWN, ITEM)
    assert not may(rows(news(1)), ITEM)
    assert may(NOTHING, ITEM, (Other(PROVEN, (ITEM,)),))
    assert not may(NOTHING, ITEM, (Other(UNKNOWN, (ITEM,)),))
    assert may(NOTHING, ITEM, (Other(UNKNOWN, (OTHER_ITEM,)),))


def test_unpaid_needs_proof_or_a_late_look_of_the_operator() -> None:
    """An override replaces the gateway's looks, never the life of a call, nor other executions."""
    looked = rows(call(1), asked(2, LATE))
    assert may_end_unpaid(NOTHING, ITEM)
    assert may_end_unpaid(PROVEN, ITEM)
    assert not may_end_unpaid(NOTHING, ITEM, frozen=True)
    assert not may_end_unpaid(UNKNOWN, ITEM)
    assert not may_end_unpaid(looked, ITEM)
    assert may_end_unpaid(looked, ITEM, looked=2)
    assert not may_end_unpaid(rows(call(1), asked(2, LIFE)), ITEM, looked=2)
    assert may_end_unpaid(rows(call(1), asked(2, LIFE)), ITEM, looked=2, lag=False)
    assert not may_end_unpaid(rows(call(1), asked(2, LATE), call(3)), ITEM, looked=2)
    assert not may_end_unpaid(looked, ITEM, (Other(UNKNOWN, (ITEM,)),), looked=2)


@pytest.mark.parametrize(
    ("history", "right"),
    [
        (NOTHING, True),
        (PROVEN, True),
        (UNKNOWN, False),
        (rows(news(1)), False),
        (rows(call(1), look(2, LATE), news(3, LATE)), False),
        # A call that a restored copy may have lost: its absence is proven here, and was not watched before.
        (rows(call(1, reference=LOST_REFERENCE), look(2, LATE)), False),
    ],
)
def test_news_and_a_lost_call_forbid_a_failover(history: History, right: bool) -> None:
    """Also where everything that was sent is closed, and where an earlier execution has them."""
    terms: dict[str, Any] = {"frozen": False, "blocked": None}
    assert may_fail_over(history, ITEM, Status.PENDING, **terms) is right
    earlier = Other(history=history, items=(ITEM,))
    assert may_fail_over(NOTHING, ITEM, Status.PENDING, (earlier,), **terms) is right
