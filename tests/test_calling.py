"""Who calls now: work for one org gives way to requests of others."""

from __future__ import annotations

from gateway.calling import RECENT_S, Calling
from gateway.testing.clock import SetClock
from gateway.webhooks.share import BURST, PACE_S, RECEIPTS_PAUSE_S, Share


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
    assert (share.at_once(), share.receipts_pause_s()) == (BURST, 0)
    with calling.request("a"):
        assert share.at_once() == BURST
        with calling.request("b"):
            assert (share.at_once(), share.receipts_pause_s()) == (1, RECEIPTS_PAUSE_S)
