"""Inherited tests of calls: lives, refusals, the mark, repeats, faults, leases, looks, secrets, crashes."""

from __future__ import annotations

import asyncio
import logging
import socket
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from gateway.adapter import (
    Absent,
    CannotLook,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from gateway.testing.bench import Bench, Course, Crashed
from gateway.testing.declared import HTTP_FAULTS, Life, Refusal, proves
from gateway.testing.kit_base import KitBase, not_applicable, secrets_of

#: No process makes so many awaits in one call of a verb.
_MOST_AWAITS = 400
#: No custodian of the kit takes so many looks to show all returns of a payout.
_LOOKS_AT_RETURNS = 20
#: What a custodian answers that is no clear no to a payout: our credentials, our rate, our address.
_NO_REFUSALS = (401, 403, 404, 409, 429)
#: Faults after which an adapter may be tempted to quote what it sent.
_TALKATIVE: tuple[tuple[str, dict[str, int]], ...] = (
    ("bad_json", {}),
    ("reject", {"status": 400}),
    ("reject", {"status": 401}),
    ("lose_reply", {}),
)
#: What a server between us and the custodian may answer, with its status.
_PAGES = {"404 of a proxy": 404, "502 of a proxy": 502, "a redirect": 307}


def _came_back(report: Report) -> Decimal:
    """Return what came back in all: the sum of the returns with ids, or the largest total."""
    totals = [each.amount for each in report.returned if each.id is None]
    single = {each.id: each.amount for each in report.returned if each.id is not None}
    return max(totals) if totals else sum(single.values(), Decimal(0))


def _page(page: str, bench: Bench) -> web.Response:
    headers = {"Location": bench.control + "/elsewhere"} if page == "a redirect" else {}
    text = "<html><body>nothing here</body></html>"
    return web.Response(status=_PAGES[page], text=text, content_type="text/html", headers=headers)


class CallTests(KitBase):
    """The adapter against its twin, call by call."""

    @pytest.mark.asyncio
    @proves("lives")
    async def test_every_life_goes_to_its_end(self, bench: Bench, life: Life) -> None:
        """Each step is reported in our terms, the end is the custodian's, and the ledger has it at most once."""
        course = self.course(bench, **life.terms)
        order = course.order

        def reached() -> bool:
            if not course.reports:
                return False
            last = course.reports[-1]
            return last.sub_status is life.end and (
                life.end is not None or bool(last.unknown_words)
            )

        await course.until(reached)
        words = iter(each.sub_status for each in course.reports)
        assert all(word in words for word in life.words), course.told()
        last = course.reports[-1]
        failure = last.failure
        if life.code is not None:
            assert failure is not None, course.told()
            assert failure.code == life.code, course.told()
        if life.funds_moved is not None:
            assert failure is not None, course.told()
            assert failure.funds_moved is life.funds_moved, course.told()
        ledger = await bench.ledger()
        assert len(ledger) == int(life.is_paid), (ledger, course.told())
        if life.is_paid:
            assert order.amount == type(order.amount)(ledger[0]["amount"])
        if life.end is SubStatus.DELIVERED:
            assert last.refs, "a delivered payout is known by the custodian's ids"
            assert last.custodian_reference, "nothing to look up at the custodian"

    @pytest.mark.asyncio
    @proves("returns")
    async def test_money_that_comes_back_is_reported(self, bench: Bench) -> None:
        """Each look shows every return, the same each time; the payout stays delivered."""
        lives = [each for each in self.lives if each.returned is not None]
        if not lives:
            not_applicable("no life has money that comes back (Life.returned)")
        for life in lives:
            course = self.course(bench, **life.terms)
            await course.until_ended()
            await course.until(lambda made=course: bool(made.reports[-1].returned))  # type: ignore[misc]
            early = course.reports[-1].returned
            for _ in range(_LOOKS_AT_RETURNS):
                if _came_back(course.reports[-1]) == life.returned:
                    break
                await course.turn()
            await course.turn()
            last = course.reports[-1]
            assert _came_back(last) == life.returned, (last.returned, course.told())
            assert last.sub_status is SubStatus.DELIVERED, course.told()
            assert {each.asset for each in last.returned} == {course.order.asset}
            kept = {each.id for each in early} <= {each.id for each in last.returned}
            assert kept, "a return that was shown is not shown any more"

    @pytest.mark.asyncio
    @proves("echo")
    async def test_what_the_custodian_echoes_is_compared(self, bench: Bench) -> None:
        """Reports of an own payout show no difference; at least one says what was paid."""
        course = self.course(bench)
        await course.until_ended()
        echoes = [each.echo for each in course.reports if each.echo is not None]
        assert echoes, "no report compares the custodian's values with the order (Report.echo)"
        assert [line for each in echoes for line in each.differences()] == []
        assert any(each.amount is not None or each.reference is not None for each in echoes)

    @pytest.mark.asyncio
    @proves("refusals")
    async def test_a_refusal_is_final_and_nothing_moved(
        self, bench: Bench, refusal: Refusal
    ) -> None:
        """The code is ours; what can be known early is reported at the quote, without a call."""
        if refusal.switches:
            await bench.steer("PUT", "settings", dict(refusal.switches))
        course = self.course(bench, **refusal.terms)
        said = bench.adapter.check(course.order)
        await course.until_ended()
        refused = course.last
        assert isinstance(refused, Rejected), course.told()
        assert refused.code == refusal.code
        if refusal.early:
            assert said is not None, "check() says nothing of it at the quote"
            assert refusal.says in said
            assert bench.sent == []
        assert refusal.says in f"{refused} {refused.custodian_code} {said}"
        assert await bench.ledger() == []

    @pytest.mark.asyncio
    @proves("mark")
    async def test_the_mark_is_set_right_before_the_one_moving_call(self, bench: Bench) -> None:
        """Everything is prepared before; the next request after the mark is the moving call."""
        course = self.course(bench)
        marked: list[int] = []
        course.order.watch = lambda what: (
            marked.append(len(bench.sent)) if what == "moving" else None
        )
        await course.until_handed_over()
        assert len(marked) == 1, f"moving() was called {len(marked)} times"
        names = [each["call"] for each in await bench.calls()]
        assert names.count(self.moving) == 1, names
        assert names[marked[0]] == self.moving, (names, marked)

    @pytest.mark.asyncio
    @proves("repeat")
    async def test_a_repeat_is_the_same_request_and_pays_once(self, bench: Bench) -> None:
        """After a request that never arrived: the same method, path and bytes, by another process."""
        await bench.fault(self.moving, "drop_before")
        course = self.course(bench)
        await course.until(lambda: course.order.moved)
        if len(await bench.calls(self.moving)) == 1:
            bench.new_process()
            course.order = course.order.again(closed=True)
            course.verb = "confirm" if self.asks_person else "submit"
            await course.turn()
        paths = {(each["method"], each["path"]) for each in await bench.calls(self.moving)}
        moving = [each for each in bench.sent if (each.method, each.path) in paths]
        assert len(moving) > 1, course.told()
        assert len(set(moving)) == 1, moving
        await course.until_ended()
        assert len(await bench.ledger()) == 1

    @pytest.mark.asyncio
    @proves("faults")
    async def test_a_fault_while_preparing_moves_nothing(
        self, bench: Bench, preparing_fault: tuple[str, str]
    ) -> None:
        """No mark is set for it, no payout fails by it, and the order is paid once in the end."""
        call, fault = preparing_fault
        course = await self.faulty(bench, call, fault)
        outcome = course.last
        assert course.order.marks == [] or isinstance(outcome, Report), course.told()
        if fault != "reject":
            assert isinstance(outcome, Report | NotSent | OutcomeUnknown), course.told()
        await self.ends_lawfully(bench, course)

    @pytest.mark.asyncio
    @proves("faults")
    async def test_a_fault_on_the_moving_call_pays_once(
        self, bench: Bench, moving_fault: tuple[str, str]
    ) -> None:
        """Whatever may have arrived is unknown, never refused and never "not sent"; one entry."""
        call, fault = moving_fault
        course = await self.faulty(bench, call, fault)
        outcome = course.last
        assert course.order.marks, course.told()
        lawful: tuple[type, ...] = (Report, OutcomeUnknown)
        if fault in {"reject", "rate_limit"}:
            lawful = (*lawful, NotSent)
        if fault == "reject":
            lawful = (*lawful, Rejected)
        assert isinstance(outcome, lawful), course.told()
        await self.ends_lawfully(bench, course)

    @pytest.mark.asyncio
    @proves("faults")
    @pytest.mark.parametrize("status", _NO_REFUSALS)
    async def test_a_closed_door_fails_no_payout(self, bench: Bench, status: int) -> None:
        """Credentials, rate, address, a conflict: no refusal of the payout, which is paid later."""
        await bench.fault(self.moving, "reject", status=status)
        course = self.course(bench)
        await course.until(lambda: bool(course.order.marks) and bool(course.outcomes))
        assert not isinstance(course.last, Rejected), course.told()
        await self.ends_lawfully(bench, course)

    @pytest.mark.asyncio
    @proves("faults")
    async def test_without_a_connection_nothing_is_claimed(self, bench: Bench) -> None:
        """Nobody listens: not sent or unknown, never refused; later the order is paid once."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
            base = str(bench.settings["base_url"]).replace(bench.control, nobody)
            bench.new_process(base_url=base)
            course = self.course(bench)
            # What asks a person first makes no call.
            await course.until(
                lambda: bool(course.outcomes) and not isinstance(course.last, Report)
            )
            assert isinstance(course.last, NotSent | OutcomeUnknown), course.told()
        bench.new_process()
        await self.ends_lawfully(bench, course)
        assert len(await bench.ledger()) == 1

    @pytest.mark.asyncio
    @proves("looks")
    async def test_a_failed_look_is_no_absence(
        self, bench: Bench, looking_fault: tuple[str, str]
    ) -> None:
        """A look that fails says nothing of the payout; the next one finds it."""
        call, fault = looking_fault
        course = self.course(bench)
        await course.until_handed_over()
        if fault == "hang_after":
            self.impatient(bench)
        await bench.fault(call, fault, **HTTP_FAULTS[fault])
        course.verb = "fetch"
        for _ in range(40):
            before = len(await bench.calls(call))
            outcome = await course.turn()
            if not await bench.waiting():
                # A read that was dropped may have been sent again at once, and answered.
                again = len(await bench.calls(call)) > before + 1
                assert again or not isinstance(outcome, Absent | CannotLook | Rejected), (
                    course.told()
                )
                break
        else:
            raise AssertionError(f"no look made the call {call!r}:\n{course.told()}")
        await self.ends_lawfully(bench, course)
        assert len(await bench.ledger()) == 1

    @pytest.mark.asyncio
    @proves("faults")
    @pytest.mark.parametrize("page", _PAGES)
    async def test_another_servers_answer_refuses_no_payout(self, bench: Bench, page: str) -> None:
        """A proxy's page to the moving call is no refusal; a redirect of money is not followed."""
        course = self.course(bench)
        due: list[str] = []

        def is_moving(_: web.Request) -> bool:
            return bool(due and due.pop())

        async with bench.between(is_moving, lambda: _page(page, bench)):
            course.order.watch = lambda what: due.append(what) if what == "moving" else None
            await course.until(lambda: bool(course.order.marks))
            assert not isinstance(course.last, Rejected), course.told()
        course.order.watch = lambda _: None
        await self.ends_lawfully(bench, course)
        assert len(await bench.ledger()) == 1
        assert [each for each in await bench.calls() if each["path"] == "/elsewhere"] == []

    @pytest.mark.asyncio
    @proves("looks")
    @pytest.mark.parametrize("page", _PAGES)
    async def test_another_servers_answer_is_no_absence(self, bench: Bench, page: str) -> None:
        """Only the custodian's own words say that it does not know a payout."""
        course = self.course(bench)
        await course.until_handed_over()
        first = self.looking[0]
        await course.turn()
        paths = {each["path"] for each in await bench.calls(first)}
        assert paths, f"a look made no call {first!r}"
        async with bench.between(lambda each: each.raw_path in paths, lambda: _page(page, bench)):
            course.verb = "fetch"
            outcome = await course.turn()
            assert isinstance(outcome, NotSent | OutcomeUnknown | Report), course.told()
            assert not course.ended, course.told()
        assert [each for each in await bench.calls() if each["path"] == "/elsewhere"] == []

    @pytest.mark.asyncio
    @proves("lease")
    @pytest.mark.parametrize("moment", ["remember", "moving"])
    async def test_a_lost_lease_stops_before_the_call(self, bench: Bench, moment: str) -> None:
        """Another worker owns the payout now: the moving call is not made."""
        course = self.course(bench, lose_lease_at=moment)
        stopped = False
        for _ in range(20):
            course.order.lose_lease_at = moment
            outcome = await course.turn()
            stopped = isinstance(outcome, LeaseLost)
            if stopped or course.order.moved:
                break
        if not stopped and moment == "remember":
            not_applicable("the adapter remembers nothing")
        assert stopped, course.told()
        assert await bench.calls(self.moving) == []

    @pytest.mark.asyncio
    @proves("looks")
    async def test_what_was_never_sent_is_not_found(self, bench: Bench) -> None:
        """A look at an order that was never submitted is Absent or CannotLook, and changes nothing."""
        course = self.course(bench)
        course.verb = "fetch"
        outcome = await course.turn()
        assert isinstance(outcome, Absent | CannotLook), course.told()
        assert await bench.calls(self.moving) == []

    @pytest.mark.asyncio
    @proves("clock")
    @pytest.mark.parametrize("off_s", [-3600.0, 3600.0])
    async def test_a_wall_clock_that_is_set_pays_once(self, bench: Bench, off_s: float) -> None:
        """Set wrong between any two calls, and right again: nothing fails, nothing is paid twice."""
        await bench.fault(self.moving, "lose_reply")
        course = self.course(bench)
        for _ in range(8):
            bench.clock.off_s = off_s - bench.clock.off_s
            await course.turn()
            assert not isinstance(course.last, Rejected), course.told()
        bench.clock.off_s = 0
        await course.until_ended()
        assert isinstance(course.last, Report), course.told()
        assert course.last.sub_status is SubStatus.DELIVERED, course.told()
        assert len(await bench.ledger()) == 1

    @pytest.mark.asyncio
    @proves("secrets")
    async def test_secrets_are_nowhere(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither in notes, reports and errors, nor in logs and the text of the settings."""
        secrets = secrets_of(bench.adapter.settings)
        kept = [repr(bench.adapter.settings)]
        caplog.set_level(logging.DEBUG)
        for call in dict.fromkeys(self.calls()):
            for fault, more in _TALKATIVE:
                await bench.fault(call, fault, **more)
                await self.talk(bench, kept)
        kept.append(caplog.text)
        assert [each for each in secrets if any(each in text for text in kept)] == []

    async def talk(self, bench: Bench, kept: list[str]) -> None:
        """Pay an order while a fault waits; keep every word of the adapter itself, unscrubbed."""
        order = bench.order()
        for _ in range(10):
            try:
                verb = "fetch" if order.moved else "submit"
                kept.append(repr(await self.call_raw(bench, verb, order)))
            except Exception as error:  # noqa: BLE001 - whatever it says is looked at
                kept.append(f"{error!r} {error} {vars(error)} {error.__cause__!r}")
            kept.append(f"{dict(order.notes)} {order.story}")
            order = order.again()
            await bench.step()
            if not await bench.waiting():
                break

    async def call_raw(self, bench: Bench, verb: str, order: Any) -> Any:
        """Call a verb of the adapter itself."""
        many = bench.adapter.capabilities.batch
        return await getattr(bench.adapter, f"{verb}_batch" if many else verb)(order)

    @pytest.mark.asyncio
    @pytest.mark.timeout(120)
    @proves("crashes")
    async def test_a_crash_at_every_await_pays_once(self, bench: Bench) -> None:
        """The process dies at each await of each call before the outcome: one entry for each order."""
        orders = 0
        for turns_before in range(4):
            for at in range(1, _MOST_AWAITS):
                course = self.course(bench)
                for _ in range(turns_before):
                    await course.turn()
                if course.verb == "fetch" and turns_before:
                    assert orders, "no await was met"
                    await course.until_ended()
                    orders += 1
                    break
                try:
                    await course.turn(crash_at=at)
                except Crashed:
                    await asyncio.sleep(0.01)
                    bench.new_process()
                    await course.until_ended()
                    orders += 1
                    assert isinstance(course.last, Report), course.told()
                    assert course.last.sub_status is SubStatus.DELIVERED, course.told()
                else:
                    await course.until_ended()
                    orders += 1
                    break
            else:
                raise AssertionError("the call never ends")
            if course.verb == "fetch" and turns_before:
                break
        ledger = await bench.ledger()
        assert len(ledger) == orders, f"{orders} orders, {len(ledger)} transfers"

    async def faulty(self, bench: Bench, call: str, fault: str) -> Course:
        """Return the course of an order at whose call a fault has just happened."""
        if fault == "hang_after":
            self.impatient(bench)
        await bench.fault(call, fault, **HTTP_FAULTS[fault])
        course = self.course(bench)
        for _ in range(40):
            await course.turn()
            if not await bench.waiting():
                if fault == "hang_after":
                    bench.new_process()
                return course
        raise AssertionError(f"the call {call!r} was never made:\n{course.told()}")

    def impatient(self, bench: Bench) -> None:
        """Give up calls after a moment."""
        if "timeout_s" not in self.adapter.Settings.model_fields:
            not_applicable("the adapter has no setting timeout_s to shorten")
        bench.new_process(timeout_s=0.3)

    async def ends_lawfully(self, bench: Bench, course: Course) -> None:
        """Follow an order: delivered and paid once, or refused or parked and not paid."""
        for _ in range(60):
            if course.ended:
                break
            last = course.last
            if isinstance(last, Report) and last.sub_status is SubStatus.AWAITING_APPROVAL:
                break
            await course.turn()
        last = course.last
        paid = len(await bench.ledger())
        if isinstance(last, Report) and last.sub_status is SubStatus.DELIVERED:
            assert paid == 1, course.told()
        else:
            assert isinstance(last, Rejected) or (
                isinstance(last, Report) and last.sub_status is not None
            ), course.told()
            assert paid == 0, course.told()
