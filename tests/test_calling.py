"""Who calls now: work for one org gives way to requests of others."""

from __future__ import annotations

import asyncio

from gateway.calling import COUNTS_S, RECENT_S, Calling
from gateway.testing.clock import SetClock
from gateway.webhooks.share import AT_ONCE, BURST, PACE_S, RECEIPTS_PAUSE_S, Share


async def test_a_request_counts_for_others_while_it_is_in_progress() -> None:
    """Two requests of one org: it ends with the later one, and never counts for the org itself."""
    calling = Calling(SetClock())
    assert not calling.others_now("a")
    with calling.request("b"):
        with calling.request("b"):
            assert calling.others_now("a")
            assert not calling.others_now("b")
        assert calling.others_now("a")
    assert not calling.others_now("a")


async def test_several_orgs_call_until_half_a_second_after_the_last_but_one() -> None:
    """One org alone is never several, however often it calls."""
    clock = SetClock()
    calling = Calling(clock)
    await clock.advance(10)
    for _ in range(3):
        with calling.request("a"):
            assert not calling.several_lately()
    with calling.request("b"):
        assert calling.several_lately()
    assert calling.several_lately()
    await clock.advance(RECENT_S)
    with calling.request("b"):
        assert not calling.several_lately()


async def test_an_org_has_a_burst_and_then_a_pace_while_another_calls() -> None:
    """Without a request of another org nothing is held; an org that waits does not save up more than a burst."""
    clock = SetClock()
    calling = Calling(clock)
    share = Share(clock, calling)
    for _ in range(100):
        assert share.held_s("a") == 0
        share.begun("a")
    await clock.advance(1)
    with calling.request("b"):
        assert share.held_s("b") == 0
        for _ in range(BURST):
            assert share.held_s("a") == 0
            share.begun("a")
        held_s = share.held_s("a")
        assert 0 < held_s <= PACE_S * 1.001
        await clock.advance(PACE_S)
        assert share.held_s("a") == 0
    assert share.held_s("a") == 0


async def test_what_begins_before_a_request_of_another_holds_an_org_back_for_a_bounded_time() -> (
    None
):
    """A thousand tries of a moment ago: the next one waits for the pace, not for a thousand paces."""
    clock = SetClock()
    calling = Calling(clock)
    share = Share(clock, calling)
    for _ in range(1000):
        share.begun("a")
    with calling.request("b"):
        assert share.held_s("a") <= PACE_S * 1.001


async def test_deliveries_take_smaller_steps_while_several_orgs_call() -> None:
    """One org alone has the whole burst in a turn of the loop, and commits receipts without a pause."""
    clock = SetClock()
    calling = Calling(clock)
    share = Share(clock, calling)
    assert (share.at_once(), share.receipts_pause_s()) == (AT_ONCE, 0)
    with calling.request("a"):
        assert share.at_once() == AT_ONCE
        with calling.request("b"):
            assert (share.at_once(), share.receipts_pause_s()) == (1, RECEIPTS_PAUSE_S)


async def test_a_request_that_takes_long_holds_nobody_up() -> None:
    """It waits for something else than the event loop; a newer one of the same org counts."""
    clock = SetClock()
    calling = Calling(clock)
    with calling.request("b"):
        await clock.advance(COUNTS_S)
        assert not calling.others_now("a")
        assert not calling.anybody_now()
        with calling.request("b"):
            assert calling.others_now("a")
        assert not calling.others_now("a")


async def test_what_gives_way_goes_on_after_the_requests_of_others() -> None:
    """The oldest first, one in each turn of the loop; an org never waits for itself."""
    calling = Calling(SetClock())
    order: list[str] = []

    async def work(name: str, org: str) -> None:
        await calling.quiet(org, 60)
        order.append(name)

    tasks = []
    with calling.request("a"):
        with calling.request("b"):
            for name, org in (("first", "c"), ("of a", "a"), ("second", "c")):
                tasks.append(asyncio.create_task(work(name, org)))
            await _turns(5)
            assert order == []
        await _turns(5)
        # Only `a` is left.
        assert order == ["of a"]
        await asyncio.create_task(work("at once", "a"))
    turns = []
    while len(order) < 4:
        await _turns(1)
        turns.append(len(order))
    assert order == ["of a", "at once", "first", "second"]
    assert 3 in turns
    await asyncio.gather(*tasks)


async def test_a_request_that_arrives_between_two_that_wait_comes_first() -> None:
    """Otherwise it would wait for all that was held up by the one before it."""
    calling = Calling(SetClock())
    order: list[int] = []

    async def work(number: int) -> None:
        await calling.quiet("a", 60)
        order.append(number)
        if number == 0:
            again.__enter__()

    again = calling.request("b")
    with calling.request("b"):
        tasks = [asyncio.create_task(work(number)) for number in range(3)]
        await _turns(5)
    await _turns(20)
    assert order == [0]
    again.__exit__(None, None, None)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_giving_way_ends_after_a_time() -> None:
    """However long the others go on."""
    calling = Calling(SetClock())
    with calling.request("b"):
        await calling.quiet("a", 0.01)
        assert calling.others_now("a")


async def test_who_is_canceled_while_waiting_is_forgotten() -> None:
    """The next one takes its turn."""
    calling = Calling(SetClock())
    with calling.request("b"):
        gone = asyncio.create_task(calling.quiet("a", 60))
        stays = asyncio.create_task(calling.quiet("a", 60))
        await _turns(3)
        gone.cancel()
    await stays
    assert gone.cancelled()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
