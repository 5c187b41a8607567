"""The base of every custodian twin: clock, ledger, faults, received calls and faulty answers.

A twin is a strict stand-in for a custodian, written from its protocol sheet and importing neither
the gateway nor the adapter it judges. `adapters.twin.control.make_app` makes its application with
the control API that steers it; the same app runs in a test's own loop
(`aiohttp.test_utils.TestServer`) and on a port (`adapters.twin.runner`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from adapters.twin.clock import TwinClock
from adapters.twin.faults import HTTP_FAULT_NAMES, Fault, FaultBook
from adapters.twin.ledger import Ledger
from adapters.twin.outbox import Outbox


class Refusal(Exception):
    """The twin refuses a request; carries the answer in the custodian's own shape."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


class TwinSettings(BaseModel):
    """Switches of a twin; subclasses add theirs."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass
class CallRecord:
    """A received request. Its body and its headers (except the user agent) are not kept, because they hold secrets."""

    method: str
    path: str
    at: str
    call: str | None = None
    status: int | None = None
    cut: bool = False
    user_agent: str | None = None


_RECORD = web.RequestKey("record", CallRecord)


class Twin(ABC):
    """A custodian's twin; subclasses add routes, an error shape and the custodian's rules."""

    #: The prefix of the custodian's paths, e.g. `/v1`.
    api_prefix = ""

    def __init__(
        self,
        clock: TwinClock,
        ledger: Ledger,
        faults: FaultBook,
        outbox: Outbox,
        settings: TwinSettings,
    ) -> None:
        self.clock = clock
        self.ledger = ledger
        self.faults = faults
        self.outbox = outbox
        self.inbox: list[dict[str, str]] = []
        self.calls: list[CallRecord] = []
        self._first_settings = settings
        self._settings = settings

    @abstractmethod
    def error(self, status: int, message: str) -> web.Response:
        """Return a refusal in the custodian's shape."""

    @abstractmethod
    def credentials(self, control_url: str) -> dict[str, str]:
        """Return what a client needs to call the twin and to verify its webhooks."""

    @abstractmethod
    def add_routes(self, app: web.Application) -> None:
        """Add the custodian's own routes."""

    @abstractmethod
    def empty(self) -> None:
        """Forget what the custodian's own part remembers; part of a reset."""

    @abstractmethod
    def funded(self, account: str, asset: str) -> None:
        """React to a balance that was set through the control API."""

    @abstractmethod
    def settings_changed(self, settings: TwinSettings) -> None:
        """React to changed switches, also on reset. The subclass itself handles the start."""

    @abstractmethod
    def knows_account(self, account: str, asset: str) -> bool:
        """Say whether a balance may be set for this account and asset."""

    @property
    def settings(self) -> TwinSettings:
        """Return the switches in force."""
        return self._settings

    def change_settings(self, members: Mapping[str, object]) -> None:
        """Set the switches named, keep the others; raise pydantic's ValidationError."""
        wanted = {**self._settings.model_dump(), **members}
        self._settings = type(self._settings).model_validate(wanted)
        self.settings_changed(self._settings)

    async def reset(self) -> None:
        """Go back to the seeded world; keys and the webhook receiver stay."""
        self.clock.reset()
        await self.outbox.reset()
        self.ledger.reset()
        self.faults.clear()
        self.calls.clear()
        self.inbox.clear()
        self.empty()
        self._settings = self._first_settings
        self.settings_changed(self._settings)

    async def stop(self, _: web.Application) -> None:
        """End requests that hang on purpose, and webhooks in progress."""
        self.clock.reset()
        await self.outbox.close()

    async def answer(
        self,
        call: str,
        request: web.Request,
        admit: Callable[[bytes], None],
        act: Callable[[bytes], web.Response],
        spoil: Callable[[], None] = lambda: None,
    ) -> web.StreamResponse:
        """Answer one of the custodian's calls, with whatever fault waits for it.

        `admit` authenticates (raises Refusal). It runs before faults, so that a fault never admits a
        stranger. `act` executes the call and never raises. `spoil` burns the request's key.
        """
        self.record(request).call = call
        fault = self.faults.take(call, HTTP_FAULT_NAMES, self.clock.now())
        if fault is not None and fault.name == "drop_before":
            return self._cut(request)
        body = await request.read()
        try:
            admit(body)
        except Refusal as refusal:
            return refusal.answer
        if fault is None:
            return act(body)
        return await self._answer_badly(fault, request, body, act, spoil)

    async def _answer_badly(  # noqa: PLR0911 - one per fault
        self,
        fault: Fault,
        request: web.Request,
        body: bytes,
        act: Callable[[bytes], web.Response],
        spoil: Callable[[], None],
    ) -> web.StreamResponse:
        match fault.name:
            case "reject":
                return self.error(int(fault.number("status")), "refused by a fault of the sandbox")
            case "rate_limit":
                limited = self.error(429, "too many requests")
                limited.headers["Retry-After"] = f"{fault.number('retry_after_s'):g}"
                return limited
            case "error_before":
                spoil()
                return self._broken(int(fault.number("status")))
            case "burn_key":
                if fault.params["done"]:
                    act(body)
                spoil()
                return act(body)
        done = act(body)
        match fault.name:
            case "error_after":
                spoil()
                return self._broken(int(fault.number("status")))
            case "hang_after":
                await self.clock.sleep(fault.number("seconds"))
                return self._cut(request)
            case "half_response":
                return await self._answer_half(request, done)
            case "bad_json":
                text = (done.text or "")[:-1]
                return web.Response(status=200, text=text, content_type="application/json")
        return self._cut(request)  # lose_reply

    def _broken(self, status: int) -> web.Response:
        if status in (502, 504):
            # Here a proxy answers instead of the custodian, and not in JSON.
            page = f"<html><head><title>{status}</title></head><body>bad gateway</body></html>"
            return web.Response(status=status, text=page, content_type="text/html")
        return self.error(status, "internal error")

    def _cut(self, request: web.Request) -> web.Response:
        self.record(request).cut = True
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _answer_half(self, request: web.Request, done: web.Response) -> web.StreamResponse:
        body = done.body if isinstance(done.body, bytes) else b""
        half = web.StreamResponse(status=done.status, headers={"Content-Type": "application/json"})
        half.content_length = len(body)
        await half.prepare(request)
        await half.write(body[: len(body) // 2])
        self.record(request).cut = True
        if request.transport is not None:
            request.transport.close()
        return half

    def record(self, request: web.Request) -> CallRecord:
        """Return the record of this request."""
        return request[_RECORD]

    async def date_answer(self, _: web.BaseRequest, answer: web.StreamResponse) -> None:
        """Date an answer by the shared time, which also judges credentials."""
        answer.headers["Date"] = formatdate(self.clock.shared(), usegmt=True)

    @web.middleware
    async def record_call(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Record the custodian's calls, and answer in its shape where no route does."""
        if request.path.startswith("/_twin/"):
            return await handler(request)
        record = CallRecord(
            request.method,
            request.raw_path,
            self.clock.stamp(),
            user_agent=request.headers.get("User-Agent"),
        )
        request[_RECORD] = record
        self.calls.append(record)
        try:
            answer = await handler(request)
        except web.HTTPException as problem:
            record.status = problem.status
            return self.error(problem.status, problem.reason)
        if not record.cut:
            record.status = answer.status
        return answer
