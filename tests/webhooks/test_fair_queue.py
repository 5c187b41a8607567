"""Fair turns: pure bookkeeping, checked as such."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.fair_queue import Claim, FairQueue, Ready

TIMEOUT_S = 15.0


def claim(endpoint_id: str, number: int = 0, until: float = 1e9) -> Claim:
    """Return a claim of an endpoint."""
    return Claim(
        position=number,
        event_id=f"evt_{number}",
        endpoint_id=endpoint_id,
        token=1,
        attempts=0,
        plan_from=0,
        trigger="scheduled",
        type="payout.delivered",
        payout_id=None,
        body=b"{}",
        until=until,
    )


def fill(queue: FairQueue, ready: list[Ready], now: float, have: int = 1000) -> Counter[str]:
    """Share, and claim all that was asked for; return how much of whom."""
    wanted = queue.share(ready, now)
    claims = [
        claim(endpoint_id, n) for endpoint_id, count in wanted for n in range(min(count, have))
    ]
    queue.found(wanted, claims)
    queue.claimed(wanted, claims)
    return Counter(each.endpoint_id for each in claims)


def begun(queue: FairQueue, now: float) -> Counter[str]:
    """Begin what may begin."""
    found: Counter[str] = Counter()
    queue.start(now, lambda each, _: found.update([each.endpoint_id]))
    return found


def answered(queue: FairQueue, endpoint_id: str, count: int = 1, seconds: float = 0.01) -> None:
    """End tries that were answered."""
    for _ in range(count):
        queue.ended(endpoint_id, seconds, answered=True)


def test_a_new_endpoint_is_tried_once_before_it_is_given_more() -> None:
    """Nobody knows yet whether it answers: one try, then up to the cap."""
    queue = FairQueue(100, 4, TIMEOUT_S)
    ready = [Ready("a", "o", 1000)]
    assert fill(queue, ready, 0) == {"a": 1}
    assert begun(queue, 0) == {"a": 1}
    answered(queue, "a")
    assert fill(queue, ready, 1)["a"] > 4
    assert begun(queue, 1) == {"a": 4}


def test_a_flood_of_one_org_takes_no_turn_from_another() -> None:
    """Turns go round the orgs first: one endpoint of a small org is not behind fifty of a big one."""
    queue = FairQueue(8, 4, TIMEOUT_S)
    ready = [Ready(f"big-{n}", "big", 1000) for n in range(50)] + [Ready("small", "small", 1000)]
    for each in ready:
        # Each has answered once.
        fill(queue, [each], 0)
        begun(queue, 0)
        answered(queue, each.id)
    fill(queue, ready, 1)
    first = begun(queue, 1)
    assert sum(first.values()) == 8
    assert first["small"] == 1


def test_first_tries_of_one_org_do_not_fill_the_room() -> None:
    """Of an org's endpoints that never answered an eighth of the room is tried at once, not all of them."""
    queue = FairQueue(40, 4, TIMEOUT_S)
    bad = [Ready(f"bad-{n}", "bad", 100) for n in range(4000)]
    good = [Ready(f"good-{n}", "good", 100) for n in range(3)]
    fill(queue, bad, 0)
    assert begun(queue, 0).total() == 5
    assert fill(queue, [*bad, *good], 0) == {each.id: 1 for each in good}
    assert begun(queue, 0).total() == 3
    for each in good:
        answered(queue, each.id)
    fill(queue, [*bad, *good], 1)
    assert begun(queue, 1) == {each.id: 4 for each in good}


def test_the_held_back_have_their_turns_later() -> None:
    """Each in turn: an end asks for more, and none of four thousand is tried twice before the last."""
    queue, tried = FairQueue(40, 4, TIMEOUT_S), Counter[str]()
    bad = [Ready(f"bad-{n}", "bad", 100) for n in range(100)]
    fill(queue, bad, 0)
    under_way = list(begun(queue, 0))
    for _ in range(200):
        tried.update(under_way)
        hungry = [queue.ended(each, TIMEOUT_S, answered=False) for each in under_way]
        assert all(hungry) or tried.total() >= 95
        fill(queue, bad, 1)
        under_way = list(begun(queue, 1))
        if tried.total() >= 100:
            break
    assert tried == {each.id: 1 for each in bad}


def test_the_rate_is_kept() -> None:
    """A second's worth at once, then as time passes."""
    queue = FairQueue(100, 100, TIMEOUT_S)
    ready = [Ready("a", "o", 10)]
    fill(queue, ready, 0)
    begun(queue, 0)
    answered(queue, "a")
    sent = 1
    for tenth in range(50):
        now = tenth / 10
        fill(queue, ready, now)
        sent += (count := begun(queue, now)["a"])
        answered(queue, "a", count)
    assert 10 + 45 <= sent <= 10 + 50


def test_the_rest_is_as_long_as_the_rate_wants() -> None:
    """Nobody waits for a rate: None; else the time to the next token."""
    queue = FairQueue(100, 100, TIMEOUT_S)
    assert queue.rest_s(0) is None
    ready = [Ready("a", "o", 2)]
    for _ in range(2):
        fill(queue, ready, 0)
        begun(queue, 0)
        answered(queue, "a")
    queue.share(ready, 0)
    assert queue.rest_s(0) == 0.5


def test_those_that_do_not_answer_share_a_part_of_the_room() -> None:
    """A quarter of it, one try each; the others go on at their full cap."""
    queue = FairQueue(40, 4, TIMEOUT_S)
    slow = [Ready(f"slow-{n}", f"o{n % 6}", 100) for n in range(30)]
    good = [Ready(f"good-{n}", f"g{n % 2}", 100) for n in range(10)]
    fill(queue, slow + good, 0)
    begun(queue, 0)
    for each in slow:
        queue.ended(each.id, TIMEOUT_S, answered=False)
    for each in good:
        answered(queue, each.id)
    fill(queue, slow + good, 20)
    second = begun(queue, 20)
    assert sum(count for name, count in second.items() if name.startswith("slow")) == 10
    assert max(count for name, count in second.items() if name.startswith("slow")) == 1
    assert sum(count for name, count in second.items() if name.startswith("good")) == 30


def test_what_would_outlive_its_lease_is_left() -> None:
    """A try that could end after the lease would be made twice: it is not begun."""
    queue = FairQueue(10, 4, TIMEOUT_S)
    wanted = queue.share([Ready("a", "o", 100)], 0)
    queue.found(wanted, [claim("a", until=60)])
    queue.claimed(wanted, [claim("a", until=60)])
    assert begun(queue, 46) == {}
    assert queue.share([Ready("a", "o", 100)], 46) == [("a", 1)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.booleans(), st.floats(0.001, 20)),
        max_size=200,
    )
)
def test_nothing_is_lost_or_counted_twice(ends: list[tuple[str, bool, float]]) -> None:
    """Whatever ends in whatever way, the room is never exceeded and never leaks."""
    queue, now = FairQueue(6, 3, TIMEOUT_S), 0.0
    ready = [Ready(each, each, 1000) for each in "abcdef"]
    under_way: Counter[str] = Counter()
    for name, fine, seconds in ends:
        now += seconds
        fill(queue, ready, now)
        under_way += begun(queue, now)
        assert under_way.total() <= 6
        assert max(under_way.values()) <= 3
        if under_way[name]:
            under_way[name] -= 1
            queue.ended(name, seconds, answered=fine)
    for name in list(under_way.elements()):
        answered(queue, name)
    for _ in range(20):
        # Those that did not answer take turns, one at a time, until each has answered.
        now += 100
        fill(queue, ready, now)
        for name in list(begun(queue, now).elements()):
            answered(queue, name)
    fill(queue, ready, now + 100)
    assert begun(queue, now + 100).total() == 6


def test_a_few_begin_at_a_time_and_nobody_loses_a_turn() -> None:
    """Each call begins where the one before ended; the last one says that there is no more."""
    queue = FairQueue(100, 2, TIMEOUT_S)
    names = [f"e{number}" for number in range(5)]
    ready = [Ready(name, "o", 1000) for name in names]
    for number, name in enumerate(names):
        fill(queue, [ready[number]], 0)
        begun(queue, 0)
        answered(queue, name)
    fill(queue, ready, 1)
    calls: list[list[str]] = []
    next_s: float | None = 0.0
    while next_s == 0:
        calls.append([])
        next_s = queue.start(1, lambda each, _: calls[-1].append(each.endpoint_id), 3)
    assert next_s is None
    assert [len(each) for each in calls] == [3, 3, 3, 1]
    order = [name for call in calls for name in call]
    assert sorted(order[:5]) == sorted(order[5:]) == names


def proven(endpoint_id: str) -> tuple[FairQueue, list[Ready]]:
    """Return a queue with an endpoint that has answered once, two at a time and 32 in all."""
    queue, ready = FairQueue(8, 2, TIMEOUT_S), [Ready(endpoint_id, "o", 1000)]
    fill(queue, ready, 0)
    begun(queue, 0)
    answered(queue, endpoint_id)
    return queue, ready


def reserved(queue: FairQueue, count: int) -> bool:
    """Whether there is room for so many new deliveries; it is given back."""
    found = queue.reserve("o", count, 1, lambda _: True)
    queue.release(found, count)
    return bool(found)


def test_room_is_kept_for_what_a_claim_has_found_before_its_commit() -> None:
    """What is published meanwhile is handed over, and does not need the next claim."""
    queue, ready = proven("a")
    wanted = queue.share(ready, 1)
    assert not reserved(queue, 1)
    found = [claim("a", 1), claim("a", 2)]
    queue.found(wanted, found)
    assert not reserved(queue, 31)
    assert reserved(queue, 30)
    queue.claimed(wanted, found)
    assert not reserved(queue, 31)
    assert begun(queue, 1) == {"a": 2}


def test_a_claim_that_is_undone_gives_its_room_back() -> None:
    """What it found is still in the store: its turn comes before anything new."""
    queue, ready = proven("a")
    wanted = queue.share(ready, 1)
    queue.found(wanted, [claim("a")])
    queue.claimed(wanted, [claim("a")], committed=False)
    assert not reserved(queue, 1)
    assert not begun(queue, 1)
    fill(queue, ready, 1, have=0)
    assert reserved(queue, 32)


def test_a_queue_is_filled_again_once_it_is_half_empty() -> None:
    """And not each time that there is room for one."""
    queue, ready = proven("a")
    assert fill(queue, ready, 1) == {"a": 32}
    assert begun(queue, 1) == {"a": 2}
    hungry = [False]
    for _ in range(14):
        assert not hungry[-1]
        assert queue.share(ready, 1) == []
        hungry.append(queue.ended("a", 0.01, answered=True))
        begun(queue, 1)
    assert hungry[-1] or queue.ended("a", 0.01, answered=True)
    assert fill(queue, ready, 1)["a"] > 8


def test_a_place_is_needed_while_anything_waits_for_it() -> None:
    """By the endpoint's own deliveries, and by everybody's where nothing more may begin."""
    queue = FairQueue(6, 4, TIMEOUT_S)
    for each in ("a", "b"):
        fill(queue, [Ready(each, "o", 1000)], 0, have=1)
        begun(queue, 0)
        assert queue.needs_place(each), "whether it answers is not known yet"
        answered(queue, each)
    queue.share([], 1)
    queue.hand_over([claim("a", n) for n in range(3)])
    assert begun(queue, 1) == {"a": 3}
    assert (queue.needs_place("a"), queue.crowded) == (False, False)
    queue.hand_over([claim("a", n) for n in range(2)])
    assert begun(queue, 1) == {"a": 1}
    assert (queue.needs_place("a"), queue.crowded) == (True, True)
    answered(queue, "a")
    assert begun(queue, 1) == {"a": 1}
    assert (queue.needs_place("a"), queue.crowded) == (False, False)
    # Six in progress are all that may be: now they are needed by anybody.
    queue.hand_over([claim("b", n) for n in range(3)])
    assert begun(queue, 1) == {"b": 2}
    assert (queue.needs_place("a"), queue.crowded) == (True, True)
