"""The wall clock is set while money is on its way: it proves nothing, and nothing waits for it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.stack import (
    DUMMY,
    FIREBLOCKS,
    OFF_RAMP,
    PASSCODE,
    Rail,
    SharedStacks,
    Stack,
    eventually,
    subscribe,
)
from tests.e2e.test_confirm import answer, asked, confirm
from tests.e2e.witness import (
    evidence,
    ledger_pays,
    more_looks,
    never_said_unpaid,
    timeline,
)

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
ALL_EVENTS = ["payout.created", "payout.broadcast", "payout.delivered"]
#: With the lives that the adapter declares.
OFF_RAMP_AS_DECLARED = replace(OFF_RAMP, settings={"timeout_s": 3}, switches={})
#: Longer on the custodian's clock than any test looks at it; the test moves that clock.
HIDDEN_S = 600
#: A custodian that takes credentials of an hour ahead or behind is the worst case for us.
HOUR_S = 3540


class Clocked:
    """A stack whose gateways have a wall clock that the test sets."""

    def __init__(self, made: Stack, file: Path) -> None:
        self.made = made
        self.file = file

    async def start(self, *arguments: str) -> None:
        """Start a gateway with that clock, the adapter's own lives and short looks."""
        await self.made.start_gateway("--short-looks", "--clock", str(self.file), *arguments)

    def step(self, seconds: float) -> None:
        """Set the wall clock so many seconds off."""
        new = self.file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.file)


@pytest_asyncio.fixture(loop_scope="module")
async def clocked(
    request: pytest.FixtureRequest, stacks: SharedStacks, tmp_path: Path
) -> AsyncIterator[Clocked]:
    """A stack of the rail that the test names; its custodian sends no webhooks."""
    rail: Rail = request.param
    async with stacks.lend(rail.name, rail, twin_webhooks=False) as made:
        built = Clocked(made, tmp_path / "clock")
        built.step(0)
        yield built


async def _unknown_for_the_person(clocked: Clocked, payout_id: str, body: Any) -> None:
    """Wait until the outcome is unknown; a person who answers again meanwhile is told to wait."""
    await clocked.made.reaches(payout_id, "outcome_unknown")
    status, problem = await confirm(clocked.made, payout_id, body)
    assert (status, problem["code"]) in {
        (409, "confirm_in_progress"),
        (409, "action_not_required"),
    }


@pytest.mark.parametrize("clocked", [PASSCODE], indirect=True)
async def test_an_hour_forward_on_the_card_rail(clocked: Clocked) -> None:
    """A confirmation is cut off and hangs in the network. The wall clock jumps an hour ahead.

    The gateway looks and finds nothing, again and again, and by the wall clock the request has died
    long ago. It has not: it arrives. Nobody has asked again or called the payout unpaid meanwhile.
    """
    made = clocked.made
    await clocked.start()
    late = {"call": "execute", "fault": "late_arrival", "seconds": HIDDEN_S}
    await made.steer("POST", "faults", late)
    payout_id, action = await asked(made)
    body = answer(action, made.credentials["passcode"])
    status, _ = await confirm(made, payout_id, body)
    assert status == 202
    await made.reaches(payout_id, "outcome_unknown")
    clocked.step(3600)
    looks = await more_looks(made, payout_id)
    assert {each["answer"] for each in looks} == {"absent"}
    await _unknown_for_the_person(clocked, payout_id, body)
    never_said_unpaid(await made.payout(payout_id))
    assert await made.calls("execute") == ["execute"]
    await made.steer("POST", "clock", {"advance_s": HIDDEN_S})
    never_said_unpaid(await made.reaches(payout_id, "delivered"))
    assert await made.calls("execute") == ["execute"]
    await ledger_pays(made, ["75"])


@pytest.mark.parametrize("clocked", [OFF_RAMP_AS_DECLARED], indirect=True)
async def test_an_hour_forward_at_the_off_ramp(clocked: Clocked) -> None:
    """The replies to a Confirm are lost, and the payout still shows as unconfirmed.

    A second Confirm would pay again. The wall clock says that the signed request died long ago; only
    the time that has really passed counts, so that none is made.
    """
    made = clocked.made
    await clocked.start()
    await made.steer("POST", "faults", {"call": "confirm", "fault": "lose_reply", "times": 3})
    hides = {"call": "confirm", "fault": "show_old", "seconds": HIDDEN_S}
    await made.steer("POST", "faults", hides)
    payout_id = await made.pay()
    await made.reaches(payout_id, "outcome_unknown")
    confirms = await made.calls("confirm")
    clocked.step(3600)
    looks = await more_looks(made, payout_id)
    assert {each["answer"] for each in looks} == {"absent"}
    payout = await made.payout(payout_id)
    assert payout["sub_status"] == "outcome_unknown"
    never_said_unpaid(payout)
    assert await made.calls("confirm") == confirms
    await made.steer("POST", "clock", {"advance_s": HIDDEN_S})
    never_said_unpaid(await made.reaches(payout_id, "delivered"))
    assert await made.calls("confirm") == confirms
    await ledger_pays(made, ["43"])


@pytest.mark.parametrize("clocked", [FIREBLOCKS], indirect=True)
async def test_an_hour_forward_at_fireblocks(clocked: Clocked) -> None:
    """The reply to execute is lost, and the set still shows as registered only.

    The wall clock jumps ahead. What a look shows proves nothing. A repeat of the execute would be
    harmless, and waits for a clock that is right. The custodian shows the set in the end, and pays once.
    """
    made = clocked.made
    await clocked.start()
    await made.steer("PUT", "settings", {"skew_s": 3600})
    await made.steer("POST", "faults", {"call": "execute", "fault": "lose_reply", "times": 1})
    hides = {"call": "status", "fault": "old_state", "seconds": HIDDEN_S, "times": None}
    await made.steer("POST", "faults", hides)
    payout_id = await made.pay()
    await made.reaches(payout_id, "outcome_unknown", "submitted")
    clocked.step(HOUR_S)
    looks = await more_looks(made, payout_id)
    assert {each["answer"] for each in looks} == {"blind"}
    never_said_unpaid(await made.payout(payout_id))
    await made.steer("POST", "clock", {"advance_s": HIDDEN_S})
    never_said_unpaid(await made.reaches(payout_id, "delivered"))
    assert await made.calls("create") == ["create"]
    await ledger_pays(made, ["43"])


@pytest.mark.parametrize("clocked", [FIREBLOCKS], indirect=True)
async def test_an_hour_forward_where_the_custodian_refuses_our_time(clocked: Clocked) -> None:
    """The same, and the custodian refuses every token of ours as made in the future.

    Not even looks work, and nothing is concluded from that. Set right again, the clock does no more
    harm: the payout is found, and a new one is paid.
    """
    made = clocked.made
    await clocked.start()
    await made.steer("POST", "faults", {"call": "execute", "fault": "lose_reply", "times": 1})
    await made.steer("POST", "faults", {"call": "status", "fault": "error_before", "times": 2})
    payout_id = await made.pay()
    await made.reaches(payout_id, "outcome_unknown")
    clocked.step(3600)
    await more_looks(made, payout_id)
    never_said_unpaid(await made.payout(payout_id))
    clocked.step(0)
    never_said_unpaid(await made.reaches(payout_id, "delivered"))
    assert await made.calls("execute") == ["execute"]
    await made.reaches(await made.pay("44"), "delivered")
    await ledger_pays(made, ["43", "44"])


@pytest.mark.parametrize("clocked", [DUMMY], indirect=True)
async def test_an_hour_back_stalls_nothing(clocked: Clocked) -> None:
    """The wall clock is set back while a payout is followed and its webhooks are tried again.

    What was due is still done: the payout ends, its events arrive, and a new one is paid and told.
    """
    made = clocked.made
    await clocked.start()
    await subscribe(made)
    made.receiver.answer = 500
    await made.steer("PUT", "settings", {"step_s": HIDDEN_S})
    payout_id = await made.pay()
    await made.reaches(payout_id, "submitted")

    async def tried() -> bool:
        return made.receiver.tries > 0

    await eventually(tried)
    clocked.step(-3600)
    await more_looks(made, payout_id, 2)
    made.receiver.any_age, made.receiver.answer = True, 204
    await made.steer("PUT", "settings", {"step_s": 0.1})
    await made.steer("POST", "clock", {"advance_s": 2 * HIDDEN_S})
    await made.reaches(payout_id, "delivered")
    second = await made.pay("44")
    await made.reaches(second, "delivered")
    await ledger_pays(made, ["43", "44"])

    async def told() -> bool:
        return all(made.receiver.types(each) == ALL_EVENTS for each in (payout_id, second))

    await eventually(told, 30)


@pytest.mark.parametrize("clocked", [DUMMY], indirect=True)
async def test_an_hour_back_and_the_lease_of_a_dead_gateway(clocked: Clocked) -> None:
    """A gateway dies right after its mark, and the wall clock is set back before the next one starts.

    The lease of the dead one ends in its own time, not an hour later: the payout is taken over, its
    outcome is looked up, and it is paid once.
    """
    made = clocked.made
    await clocked.start("--at", "order.moved")
    dying = made.gateway
    assert dying is not None
    payout_id = await made.execute(await made.quote())
    assert await dying.died() == -signal.SIGKILL
    clocked.step(-3600)
    await clocked.start()
    never_said_unpaid(await made.reaches(payout_id, "delivered", seconds=40))
    await ledger_pays(made, ["43"])


@pytest.mark.parametrize("clocked", [FIREBLOCKS], indirect=True)
async def test_another_gateway_whose_clock_is_ahead(clocked: Clocked) -> None:
    """Two gateways share the database, and the clock of one is an hour ahead.

    The lease of the first one is valid for the second one, too, while the call of the first hangs. The
    payout is paid by that call alone, and never called unpaid.
    """
    made = clocked.made
    await made.start_gateway("--short-looks")
    hangs = {"call": "execute", "fault": "hang_after", "seconds": HIDDEN_S, "times": 1}
    await made.steer("POST", "faults", hangs)
    await made.steer("PUT", "settings", {"skew_s": 3600, "step_s": 1})
    payout_id = await made.pay()

    async def called() -> bool:
        return bool(await made.calls("execute"))

    await eventually(called)
    clocked.step(HOUR_S)
    second = await made.start_second("--short-looks", "--clock", str(clocked.file))
    # Longer than a lease that nobody prolongs.
    await asyncio.sleep(2)
    # The call is cut off at last; its outcome is looked up.
    await made.steer("POST", "clock", {"advance_s": HIDDEN_S})
    payout = await made.reaches(payout_id, "delivered", seconds=60)
    never_said_unpaid(payout)
    assert await made.calls("execute") == ["execute"]
    assert len(evidence(made, payout_id, "call")) == 1
    assert ("pending", "submitting") not in timeline(payout)
    await ledger_pays(made, ["43"])
    assert second.exit_code is None
