"""Every call of an adapter has a deadline, a metric, one log line and one translation of its errors."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import generate_latest

from gateway.adapter import (
    Absent,
    BatchReport,
    CannotLook,
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    Notice,
    Ref,
    Report,
    SubStatus,
)
from gateway.egress import echoes
from gateway.errors import (
    AdapterFault,
    CannotVerify,
    InvalidSignature,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Unsupported,
)
from tests.adapters.orders import OrderForTest
from tests.clock import SetClock
from tests.custodians.odd import SECRET, SUBMITTED, Bench
from tests.webhooks.test_sender import receiver

# --- The verbs that get an order -----------------------------------------------------------------


async def test_a_call_is_one_metric_and_one_line(bench: Bench) -> None:
    """With what an operator looks for, and nothing of the body."""
    order = bench.acts(SUBMITTED)
    assert (await bench.instance.submit(order)).items == {order.payout_id: SUBMITTED}
    line = bench.line()
    assert line.pop("at")
    assert line == {
        "event": "custodian_call",
        "level": "info",
        "logger": "custodian",
        "custodian": "odd_eu",
        "adapter": "odd",
        "verb": "submit",
        "payout_id": order.payout_id,
        "execution_id": order.set_id,
        "outcome": "submitted",
        "custodian_word": "taken",
        "custodian_reference": "c-1",
        "duration_ms": 0.0,
    }
    assert bench.count("submit", "submitted") == 1


@pytest.mark.parametrize(
    ("seen", "word"), [(Absent("404"), "Absent"), (CannotLook(), "CannotLook")]
)
async def test_a_look_may_find_nothing(bench: Bench, seen: Absent | CannotLook, word: str) -> None:
    """Both are answers, and distinguished."""
    assert await bench.instance.fetch(bench.acts(seen)) == seen
    assert bench.count("fetch", word) == 1


async def test_unknown_words_are_counted(bench: Bench) -> None:
    """A report without a status says so, and each unknown word is counted."""
    order = bench.acts(Report(None, "moonlit", unknown_words=("moonlit",)))
    await bench.instance.fetch(order)
    assert bench.count("fetch", "unknown_word") == 1
    assert (
        bench.metrics.registry.get_sample_value(
            "payout_gateway_unknown_words_total", {"custodian": "odd_eu", "word": "moonlit"}
        )
        == 1
    )


@pytest.mark.parametrize(
    "outcome",
    [
        Rejected("policy_rejected", f"no: {SECRET}", custodian_code=f"E {SECRET}"),
        NotSent(f"busy {SECRET}", again_after_s=7),
        OutcomeUnknown(f"HTTP 502 {SECRET}"),
        LeaseLost("pay_1"),
        Unsupported("no such verb"),
    ],
)
async def test_typed_outcomes_pass_through_scrubbed(bench: Bench, outcome: Exception) -> None:
    """Type and members stay, words lose secrets; the line says which it was, without a traceback."""
    order = bench.acts(outcome)
    with pytest.raises(type(outcome)) as raised:
        await bench.instance.submit(order)
    assert SECRET not in repr(raised.value) + str(raised.value) + repr(vars(raised.value))
    assert getattr(raised.value, "again_after_s", None) == getattr(outcome, "again_after_s", None)
    line = bench.line()
    assert (line["level"], line["outcome"]) == ("warning", type(outcome).__name__)
    assert "exception" not in line
    assert bench.count("submit", type(outcome).__name__) == 1


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientOSError(104, f"reset {SECRET}"),
        aiohttp.ClientPayloadError("half a body"),
        ConnectionResetError(),
    ],
)
@pytest.mark.parametrize("verb", ["submit", "fetch"])
async def test_a_broken_connection_may_have_arrived(
    bench: Bench, verb: str, error: Exception
) -> None:
    """What networks do is an unknown outcome, and no bug: no traceback."""
    order = bench.acts(error)
    with pytest.raises(OutcomeUnknown) as raised:
        await getattr(bench.instance, verb)(order)
    assert SECRET not in str(raised.value)
    assert "exception" not in bench.line()


async def test_a_connection_that_was_never_made_was_not_sent(bench: Bench) -> None:
    """With a real refused connection. After the mark only the adapter itself may say so."""
    with socket.socket() as taken:
        # Bound and not listening: nobody else can take the port meanwhile.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        async def act() -> Any:
            async with bench.tools.http.post(f"http://127.0.0.1:{port}/"):
                return SUBMITTED

        bench.adapter.act = act
        with pytest.raises(NotSent):
            await bench.instance.submit(OrderForTest())
        with pytest.raises(OutcomeUnknown):
            await bench.instance.submit(OrderForTest(moved_now=True))


async def test_a_server_that_hangs_up_may_have_taken_it(bench: Bench) -> None:
    """With a real socket: the request was read, the connection closed, no answer came."""
    taken = asyncio.Event()

    async def hang_up(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        taken.set()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    runner = web.ServerRunner(web.Server(hang_up))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]

        async def act() -> Any:
            async with bench.tools.http.post(f"http://127.0.0.1:{port}/", data=b"order"):
                return SUBMITTED

        bench.adapter.act = act
        with pytest.raises(OutcomeUnknown):
            await bench.instance.submit(OrderForTest())
        assert taken.is_set()
    finally:
        await runner.cleanup()


async def test_the_deadline_ends_a_call(bench: Bench) -> None:
    """A custodian that never answers holds up nothing for ever; what it did is unknown."""

    async def act() -> Any:
        await asyncio.Event().wait()

    bench.adapter.act = act
    async with asyncio.timeout(10):
        with pytest.raises(OutcomeUnknown, match="no answer in time"):
            await bench.instance.submit(OrderForTest())


@pytest.mark.parametrize("verb", ["submit", "fetch"])
async def test_a_bug_of_the_adapter_is_unknown_and_told(bench: Bench, verb: str) -> None:
    """One line, with the traceback, without the secret."""
    order = bench.acts(KeyError(f"state of {SECRET}"))
    with pytest.raises(OutcomeUnknown, match="KeyError") as raised:
        await getattr(bench.instance, verb)(order)
    assert SECRET not in str(raised.value)
    line = bench.line()
    assert (line["level"], line["outcome"]) == ("error", "OutcomeUnknown")
    assert "Traceback" in line["exception"]
    assert SECRET not in bench.stream.getvalue()


def _no_funds_moved() -> object:
    return Failure(code="weird", message=f"of {SECRET}")  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None.id, "it raised AttributeError: 'NoneType' object has no attribute 'id'"),  # type: ignore[attr-defined]
        (lambda: len(5), "it raised TypeError: object of type 'int' has no len()"),  # type: ignore[arg-type]
        (_no_funds_moved, "Failure.code is wrong (Input should be 'insufficient_funds'"),
    ],
)
@pytest.mark.parametrize("verb", ["submit", "fetch"])
async def test_a_bug_of_the_adapter_is_on_the_operators_list(
    bench: Bench, verb: str, make: Callable[[], object], message: str
) -> None:
    """As `adapter_error`, with adapter and verb: nobody looks for a broken network."""

    async def act() -> Any:
        return make()

    bench.adapter.act = act
    with pytest.raises(AdapterFault) as raised:
        await getattr(bench.instance, verb)(OrderForTest())
    assert str(raised.value).startswith(f"odd.{verb}: {message}")
    assert SECRET not in str(raised.value)
    assert "Traceback" in bench.line()["exception"]


@pytest.mark.parametrize(
    ("verb", "wrong"), [("submit", None), ("submit", Absent()), ("fetch", None), ("fetch", "yes")]
)
async def test_a_wrong_type_is_an_unknown_outcome(bench: Bench, verb: str, wrong: object) -> None:
    """The engine is never handed what the contract does not name."""
    order = bench.acts(wrong)
    with pytest.raises(OutcomeUnknown, match=r"odd\.(submit|fetch): it returned (a|None)"):
        await getattr(bench.instance, verb)(order)


async def test_a_cancelled_call_stays_cancelled(bench: Bench) -> None:
    """Cancelling is ours, no outcome of the custodian's; it is counted all the same."""
    begun = asyncio.Event()

    async def act() -> Any:
        begun.set()
        await asyncio.Event().wait()

    bench.adapter.act = act
    task = asyncio.create_task(bench.instance.submit(OrderForTest()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.count("submit", "cancelled") == 1


async def test_optional_verbs_refuse_by_default(bench: Bench) -> None:
    """An adapter that has no `confirm` and no `cancel` says so."""
    with pytest.raises(Unsupported):
        await bench.instance.confirm(OrderForTest(), {"passcode": "hunter2-hunter2"})
    with pytest.raises(Unsupported):
        await bench.instance.cancel(OrderForTest())
    assert "hunter2" not in bench.stream.getvalue()
    assert bench.instance.check(OrderForTest()) is None


async def test_a_reports_words_lose_secrets(bench: Bench) -> None:
    """They are kept, shown and sent to subscribers; what has no secret is unchanged."""
    failure = Failure(
        code=FailureCode.CUSTODIAN_ERROR,
        message=f"bad key {SECRET}",
        custodian_code=f"E {SECRET}",
        funds_moved=FundsMoved.NO,
    )
    report = Report(
        SubStatus.FAILED,
        f"FAILED {SECRET}",
        refs=(Ref("transfer", "t-1"),),
        failure=failure,
        detail=f"detail {SECRET}",
        unknown_words=(f"word {SECRET}",),
    )
    found = await bench.instance.fetch(bench.acts(report))
    assert isinstance(found, BatchReport)
    (cleaned,) = found.items.values()
    assert SECRET not in repr(found)
    assert (cleaned.sub_status, cleaned.refs) == (report.sub_status, report.refs)
    assert cleaned.failure is not None
    assert cleaned.failure.funds_moved is FundsMoved.NO


async def test_what_a_call_sent_is_not_told_back(bench: Bench) -> None:
    """A custodian that quotes the passcode, or a header of the call, has it neither stored nor shown."""

    async def quote(request: web.Request) -> web.Response:
        return web.json_response(dict(request.headers) | {"body": await request.json()})

    async with (
        receiver(quote) as url,
        aiohttp.ClientSession(trace_configs=[echoes.tracing()]) as http,
    ):

        async def confirm(_: Any, answer: Mapping[str, Any]) -> Report:
            sent = {"X-Signature": "the-signature-of-this-call"}
            async with http.post(url, json=answer, headers=sent) as reply:
                said = await reply.text()
            if "fails" in answer:
                raise Rejected("custodian_error", said, custodian_code=said)
            return Report(
                SubStatus.FAILED,
                said,
                detail=said,
                unknown_words=(said,),
                failure=Failure.model_validate(refused | {"message": said}),
            )

        refused = {"code": FailureCode.CUSTODIAN_ERROR, "funds_moved": FundsMoved.NO}
        bench.adapter.confirm = confirm  # type: ignore[method-assign,assignment]
        found = await bench.instance.confirm(OrderForTest(), {"passcode": "4711"})
        with pytest.raises(Rejected) as raised:
            await bench.instance.confirm(OrderForTest(), {"passcode": "4711", "fails": 1})
    told = (repr(found), repr(raised.value), repr(vars(raised.value)), bench.stream.getvalue())
    for each in (*told, generate_latest(bench.metrics.registry).decode()):
        assert "4711" not in each
        assert "the-signature-of-this-call" not in each
    assert "X-Signature" in told[0]


# --- Webhooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [InvalidSignature(f"no {SECRET}"), CannotVerify(f"no {SECRET}")])
async def test_verify_passes_its_two_words_through(bench: Bench, error: Exception) -> None:
    """They are shown to the sender of the webhook: scrubbed."""
    bench.acts(error)
    with pytest.raises(type(error)) as raised:
        await bench.instance.verify({}, b"{}")
    assert SECRET not in str(raised.value)
    assert bench.line()["outcome"] == type(error).__name__
    assert bench.count("verify", type(error).__name__) == 1


async def test_a_flood_of_refused_webhooks_is_one_line(bench: Bench) -> None:
    """Anybody can send them: all are counted, few are logged, and the next line says how many."""
    for number in range(50):
        bench.acts(InvalidSignature(f"no {number}"))
        with pytest.raises(InvalidSignature):
            await bench.instance.verify({}, b"{}")
    assert bench.count("verify", "InvalidSignature") == 50
    assert bench.stream.getvalue().count("custodian_call") == 1
    assert isinstance(bench.tools.clock, SetClock)
    await bench.tools.clock.advance(10)
    with pytest.raises(InvalidSignature):
        await bench.instance.verify({}, b"{}")
    assert bench.stream.getvalue().count("custodian_call") == 2
    assert '"left_out": 49' in bench.stream.getvalue()


@pytest.mark.parametrize(
    ("error", "told"),
    [(KeyError("x"), True), (aiohttp.ServerDisconnectedError(), False), (TimeoutError(), False)],
)
async def test_what_else_fails_in_verify_is_tried_again(
    bench: Bench, error: Exception, told: bool
) -> None:
    """A bug of ours or keys out of reach must not lose the custodian's news: 503, not 401."""
    bench.acts(error)
    with pytest.raises(CannotVerify):
        await bench.instance.verify({}, b"{}")
    assert ("exception" in bench.line()) is told


async def test_verify_has_a_deadline(bench: Bench) -> None:
    """Keys that never come are out of reach."""

    async def act() -> Any:
        await asyncio.Event().wait()

    bench.adapter.act = act
    async with asyncio.timeout(10):
        with pytest.raises(CannotVerify):
            await bench.instance.verify({}, b"{}")


async def test_parse_returns_notices(bench: Bench) -> None:
    """With one line that says how many."""
    notice = Notice((Ref("transfer", "t-1"),), "n-1")
    bench.adapter.read = lambda _: [notice]
    assert bench.instance.parse(b"{}") == [notice]
    assert (bench.line()["verb"], bench.line()["notices"]) == ("parse", 1)


async def test_a_webhooks_words_lose_secrets(bench: Bench) -> None:
    """As those of an answer do."""
    report = Report(SubStatus.SUBMITTED, f"taken {SECRET}", detail=f"by {SECRET}")
    bench.adapter.read = lambda _: [Notice((), "d-1", report=report)]
    (notice,) = bench.instance.parse(b"{}")
    assert SECRET not in repr(notice)
    assert notice.report is not None
    assert notice.report.sub_status is SubStatus.SUBMITTED


@pytest.mark.parametrize(
    ("read", "crashed"),
    [
        (json.loads, False),
        (int, False),  # its error quotes the body
        (lambda body: 1 / 0, True),
        (lambda body: ["no notice"], True),
        (lambda body: None, True),
    ],
)
async def test_what_cannot_be_parsed_is_a_value_error(
    bench: Bench, read: Callable[[bytes], Any], crashed: bool
) -> None:
    """Whatever went wrong: the body is kept unread. A bug has its traceback, and no body is told."""
    bench.adapter.read = read
    with pytest.raises(ValueError, match="while reading a webhook") as raised:
        bench.instance.parse(b"{private bank details")
    line = bench.line()
    assert ("exception" in line) is crashed
    assert "private bank" not in json.dumps(line) + str(raised.value)


async def test_an_adapter_ends_no_process(bench: Bench) -> None:
    """SystemExit is a failed call: it may have arrived, and everything else goes on."""
    order = bench.acts(SystemExit(3))
    for verb in (bench.instance.submit, bench.instance.fetch):
        with pytest.raises(OutcomeUnknown, match="SystemExit"):
            await verb(order)
    with pytest.raises(CannotVerify, match="SystemExit"):
        await bench.instance.verify({}, b"")

    def leave(_: object) -> Any:
        raise SystemExit(3)

    bench.adapter.read = leave
    with pytest.raises(ValueError, match="SystemExit"):
        bench.instance.parse(b"")
    bench.adapter.check = leave  # type: ignore[assignment,method-assign]
    with pytest.raises(RuntimeError, match="end the process"):
        bench.instance.check(order)


@pytest.mark.parametrize(("off_s", "dated"), [(3600, True), (3600, False), (5, True)])
async def test_a_look_that_is_refused_for_our_clock_says_so(
    bench: Bench, off_s: int, *, dated: bool
) -> None:
    """The custodian may only say 401: its answer's date tells that our clock is an hour off."""
    bench.adapter.capabilities = Capabilities(frozenset({"address"}), dated_by_clock=dated)
    theirs = bench.tools.clock.now() - timedelta(seconds=off_s)
    bench.instance.dates.note(format_datetime(theirs, usegmt=True))
    order = bench.acts(NotSent("HTTP 401 iat lies in the future"))
    with pytest.raises(NotSent) as refused:
        await bench.instance.fetch(order)
    ours = dated and off_s > 30
    assert refused.value.alert == ("clock_skew" if ours else None)
    assert str(refused.value).startswith("our clock is +3600 s off") is ours
    assert "401" in str(refused.value)
