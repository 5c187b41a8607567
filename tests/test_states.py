"""The table of lawful moves, by table and by property."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import TERMINAL, Status, SubStatus
from gateway.states import NEXT, STATUS_OF, Kind, judge, status_for

RANK = {Status.PENDING: 0, Status.BROADCAST: 1, Status.DELIVERED: 2, Status.FAILED: 2}
subs = st.sampled_from(SubStatus)


def walk(news: list[SubStatus]) -> list[tuple[Status, SubStatus]]:
    """Return every state that a payout passes with this news."""
    states = [(Status.PENDING, SubStatus.CREATED)]
    for each in news:
        states += judge(*states[-1], each).steps
    return states


def test_every_word_has_its_place() -> None:
    """Each sub-status belongs to a status, and each status says what may follow."""
    assert set(STATUS_OF) == set(SubStatus)
    assert set(NEXT) == set(Status)
    assert all(not NEXT[status] for status in TERMINAL)


@given(st.lists(subs, max_size=12))
def test_status_never_goes_backwards(news: list[SubStatus]) -> None:
    """Whatever is told, in whatever order, each status is followed by itself or a lawful one."""
    states = walk(news)
    for (before, _), (after, _) in itertools.pairwise(states):
        assert after == before or after in NEXT[before]
        assert RANK[after] >= RANK[before]


@given(st.lists(subs, max_size=12))
def test_an_end_is_an_end(news: list[SubStatus]) -> None:
    """Nothing follows a terminal status."""
    states = walk(news)
    ends = [index for index, (status, _) in enumerate(states) if status in TERMINAL]
    assert ends in ([], [len(states) - 1])


@given(st.lists(subs, max_size=8), subs)
def test_the_same_news_twice_changes_nothing(news: list[SubStatus], last: SubStatus) -> None:
    """Doubled news is seen as such."""
    states = walk([*news, last])
    again = judge(*states[-1], last)
    assert again.kind is not Kind.MOVE


@given(st.lists(subs, max_size=8))
def test_a_delivered_payout_was_broadcast(news: list[SubStatus]) -> None:
    """A jump writes every stage passed: delivered always has broadcast before it."""
    statuses = [status for status, _ in walk(news)]
    if Status.DELIVERED in statuses:
        assert Status.BROADCAST in statuses


@given(subs)
def test_silence_never_fails(sub_status: SubStatus) -> None:
    """An unknown outcome keeps the status it is met in."""
    status = status_for(sub_status, Status.PENDING)
    assert all(
        step[0] == status for step in judge(status, sub_status, SubStatus.OUTCOME_UNKNOWN).steps
    )


def test_a_jump_passes_broadcast() -> None:
    """Pending straight to delivered is two steps."""
    verdict = judge(Status.PENDING, SubStatus.SUBMITTED, SubStatus.DELIVERED)
    assert verdict.steps == (
        (Status.BROADCAST, SubStatus.BROADCAST),
        (Status.DELIVERED, SubStatus.DELIVERED),
    )


def test_money_that_moves_after_failed_is_a_contradiction() -> None:
    """The word that it is on its way is one; that it waits, or was sent, is only late."""
    for word in SubStatus:
        moves = STATUS_OF[word] in {Status.BROADCAST, Status.DELIVERED}
        verdict = judge(Status.FAILED, SubStatus.FAILED, word)
        assert (verdict.kind is Kind.CONTRADICTION) is moves
        assert verdict.steps == ()


def test_failed_after_delivered_is_a_contradiction() -> None:
    """A final word against another is for the operator and moves nothing."""
    verdict = judge(Status.DELIVERED, SubStatus.DELIVERED, SubStatus.FAILED)
    assert (verdict.kind, verdict.steps) == (Kind.CONTRADICTION, ())


def test_pending_news_after_broadcast_is_late() -> None:
    """A reordered older word changes nothing."""
    assert judge(Status.BROADCAST, SubStatus.CONFIRMING, SubStatus.SUBMITTED).kind is Kind.LATE
