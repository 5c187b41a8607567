"""Adapters are found by entry point, and each is wrapped once: deadline, metric, log line, errors."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import aiohttp
import pytest
import structlog
from aiohttp import web
from pydantic import BaseModel, SecretBytes, SecretStr, field_validator

from gateway import logs
from gateway.adapter import (
    Absent,
    Adapter,
    CannotLook,
    Capabilities,
    Failure,
    FailureCode,
    FundsMoved,
    Ids,
    Notice,
    Order,
    Ref,
    Report,
    SubStatus,
    Tools,
)
from gateway.assets import AssetRegistry
from gateway.config import EngineSettings
from gateway.custodians import registry
from gateway.custodians.instance import CustodianInstance
from gateway.custodians.registry import GROUP, BrokenAdapter, build, find_adapters
from gateway.errors import (
    CannotVerify,
    ConfigError,
    InvalidSignature,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Unsupported,
)
from gateway.logs import REMOVED
from gateway.metrics import Metrics
from gateway.runtime import offload
from tests.adapters.orders import OrderForTest
from tests.clock import SetClock

SECRET = "registry-secret-value-1"
SUBMITTED = Report(SubStatus.SUBMITTED, "taken", custodian_reference="c-1")


class Inner(BaseModel):
    """A nested part of settings."""

    pin: SecretStr


class OddSettings(BaseModel):
    """Settings with secrets in every place."""

    api_key: SecretStr
    raw: SecretBytes = SecretBytes(b"")
    inner: Inner | None = None
    by_name: dict[str, SecretStr] = {}
    many: tuple[Inner, ...] = ()
    url: str = "https://custodian.example"

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError(f"{value!r} is no address")
        return value


Verb = Callable[[], Awaitable[Any]]


class Odd(Adapter[OddSettings]):
    """An adapter that does as it is told."""

    name = "odd"
    Settings: ClassVar[type[BaseModel]] = OddSettings
    capabilities = Capabilities(frozenset({"address"}))
    act: Verb
    read: Callable[[bytes], Sequence[Notice]]

    async def submit(self, order: Order) -> Report:
        """Do as told."""
        return await self.act()  # type: ignore[no-any-return]

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Do as told."""
        return await self.act()  # type: ignore[no-any-return]

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Do as told."""
        await self.act()

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Do as told."""
        return self.read(body)


class Stubborn(Odd):
    """An adapter whose constructor fails."""

    def __init__(self, settings: OddSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        raise ValueError(f"cannot use {settings.api_key.get_secret_value()}")


class Bench:
    """A custodian instance, its metrics and its log lines."""

    def __init__(
        self, instance: CustodianInstance, adapter: Odd, metrics: Metrics, tools: Tools
    ) -> None:
        self.instance = instance
        self.adapter = adapter
        self.metrics = metrics
        self.tools = tools
        self.stream = io.StringIO()

    def acts(self, outcome: Any) -> OrderForTest:
        """Let every verb return or raise this; return an order to call it with."""

        async def act() -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        self.adapter.act = act
        return OrderForTest()

    def line(self) -> dict[str, Any]:
        """Return the one log line."""
        (text,) = self.stream.getvalue().splitlines()
        found: dict[str, Any] = json.loads(text)
        return found

    def count(self, verb: str, outcome: str) -> float | None:
        """Return how often a verb had an outcome."""
        return self.metrics.registry.get_sample_value(
            "payout_gateway_custodian_calls_total",
            {"custodian": "odd_eu", "verb": verb, "outcome": outcome},
        )


@pytest.fixture
async def tools() -> AsyncIterator[Tools]:
    """Real ones, with a clock that stands still."""
    clock = SetClock()
    async with aiohttp.ClientSession() as http:
        yield Tools(http, clock, Ids(clock), offload, AssetRegistry())


@pytest.fixture
def bench(tools: Tools) -> Iterator[Bench]:
    """A custodian instance with a deadline of 0.2 s, and logs that can be read."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    metrics = Metrics()
    adapter = Odd(OddSettings(api_key=SecretStr(SECRET)), tools)
    instance = CustodianInstance("odd_eu", "odd", adapter, tools, metrics, 0.2)
    bench = Bench(instance, adapter, metrics, tools)
    logs.SCRUBBER.register(SECRET)
    logs.configure("json", "info", bench.stream)
    yield bench
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _entries(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    found = [EntryPoint(name, value, GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == GROUP else [])


def _build(tools: Tools, adapter: str = "odd", **settings: Any) -> CustodianInstance:
    return build("odd_eu", adapter, settings, tools, Metrics(), EngineSettings())


# --- Finding -------------------------------------------------------------------------------------


def test_adapters_are_found_and_broken_ones_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad package hides neither itself nor the others."""
    _entries(
        monkeypatch,
        zodd="tests.test_registry:Odd",
        gone="no_such_package.adapter:Acme",
        wrong="tests.test_registry:OddSettings",
        nothing="tests.test_registry:Nothing",
    )
    found = find_adapters()
    assert list(found) == ["gone", "nothing", "wrong", "zodd"]
    assert found["zodd"] is sys.modules[__name__].Odd
    reasons = {n: f.reason for n, f in found.items() if isinstance(f, BrokenAdapter)}
    assert "no_such_package" in reasons["gone"]
    assert "Nothing" in reasons["nothing"]
    assert reasons["wrong"] == "tests.test_registry:OddSettings is no Adapter"


async def test_an_unknown_adapter_names_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """A typing error is mended by the message; so is a package that cannot be imported."""
    _entries(monkeypatch, odd="tests.test_registry:Odd", gone="no_such_package:Acme")
    with pytest.raises(ConfigError) as unknown:
        _build(tools, "od")
    assert str(unknown.value) == (
        "custodians.odd_eu.adapter: there is no adapter 'od'; "
        "installed: gone (failed to import), odd"
    )
    with pytest.raises(ConfigError, match="'gone' is installed but failed to import: Module"):
        _build(tools, "gone")
    _entries(monkeypatch)
    with pytest.raises(ConfigError, match="installed: none"):
        _build(tools, "odd")


async def test_faults_of_settings_name_the_path_and_no_value(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """All at once; what is missing says how to set it; a validator's words lose the value."""
    _entries(monkeypatch, odd="tests.test_registry:Odd")
    with pytest.raises(ConfigError) as faulty:
        _build(tools, inner={"pin": ["value-of-pin"]}, url="value-of-url", by_name="value-of-names")
    text = str(faulty.value)
    assert "value-of" not in text
    assert [fault.split(" ")[0].rstrip(":") for fault in faulty.value.faults] == [
        "custodians.odd_eu.api_key",
        "custodians.odd_eu.inner.pin",
        "custodians.odd_eu.by_name",
        "custodians.odd_eu.url",
    ]
    assert "PAYOUT_GATEWAY_CUSTODIANS__ODD_EU__API_KEY" in text
    assert "custodians.odd_eu.api_key_file" in text


async def test_every_secret_setting_is_removed_from_logs(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """However deep it lies: in parts, mappings and lists, as text or bytes."""
    _entries(monkeypatch, odd="tests.test_registry:Odd")
    values = [f"deep-secret-number-{n}" for n in range(5)]
    instance = _build(
        tools,
        api_key=values[0],
        raw=values[1].encode(),
        inner={"pin": values[2]},
        by_name={"a": values[3]},
        many=[{"pin": values[4]}],
    )
    assert (instance.name, instance.adapter_name) == ("odd_eu", "odd")
    assert instance.capabilities is Odd.capabilities
    assert logs.scrub(" ".join(values)) == " ".join([REMOVED] * 5)


async def test_a_constructor_that_fails_is_a_fault_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tools: Tools
) -> None:
    """It names the instance and not the secret."""
    _entries(monkeypatch, odd="tests.test_registry:Stubborn")
    with pytest.raises(ConfigError) as faulty:
        _build(tools, api_key="constructor-secret")
    assert faulty.value.faults == (
        f"custodians.odd_eu: 'odd' cannot start: ValueError: cannot use {REMOVED}",
    )


# --- The verbs that get an order -----------------------------------------------------------------


async def test_a_call_is_one_metric_and_one_line(bench: Bench) -> None:
    """With what an operator looks for, and nothing of the body."""
    order = bench.acts(SUBMITTED)
    assert await bench.instance.submit(order) == SUBMITTED
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
        "attempt": 1,
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
    """Both are answers, and told apart."""
    assert await bench.instance.fetch(bench.acts(seen)) is seen
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


@pytest.mark.parametrize(
    ("verb", "wrong"), [("submit", None), ("submit", Absent()), ("fetch", None), ("fetch", "yes")]
)
async def test_a_wrong_type_is_an_unknown_outcome(bench: Bench, verb: str, wrong: object) -> None:
    """The engine is never handed what the contract does not name."""
    order = bench.acts(wrong)
    with pytest.raises(OutcomeUnknown, match="the adapter returned a"):
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
    cleaned = await bench.instance.fetch(bench.acts(report))
    assert SECRET not in repr(cleaned)
    assert isinstance(cleaned, Report)
    assert (cleaned.sub_status, cleaned.refs) == (report.sub_status, report.refs)
    assert cleaned.failure is not None
    assert cleaned.failure.funds_moved is FundsMoved.NO


# --- Webhooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [InvalidSignature(f"no {SECRET}"), CannotVerify(f"no {SECRET}")])
async def test_verify_passes_its_two_words_through(bench: Bench, error: Exception) -> None:
    """They are shown to whoever sent the webhook: scrubbed."""
    bench.acts(error)
    with pytest.raises(type(error)) as raised:
        await bench.instance.verify({}, b"{}")
    assert SECRET not in str(raised.value)
    assert bench.line()["outcome"] == type(error).__name__
    assert bench.count("verify", type(error).__name__) == 1


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
