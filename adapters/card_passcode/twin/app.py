"""The card-passcode twin: sessions, passcodes and executions on loopback, strict and steerable.

    python -m adapters.card_passcode.twin.app --host 127.0.0.1 --port 0 --step-s 0.2

An independent witness, written from the card-passcode protocol notes; it imports neither the
gateway nor the adapter. It sends no webhooks, as the provider has none: results are polled.

Seeded: wallet `3` with 1 000 000 USD; payout accounts `18` (standing passcode, printed with the
credentials), `19` (one-time code: `POST /v1/passcodes/send` sends it to `GET /_twin/inbox`) and
`17` (not active); phone `231770000001`, user id `1001`.

A life: PENDING, PROCESSING, COMPLETED, each a step (`--step-s`) apart. The wallet is charged the
amount and a fee; the ledger gets its entry, the payee's amount, with COMPLETED. A reference is
accepted once, a session executed once. A wrong passcode counts at its session and leaves it open;
the fifth locks it.

Magic amounts: these exact amounts steer an execution.

| amount | what happens |
| --- | --- |
| 4000.02 | FAILED by the provider before the network saw it |
| 4000.03 | FAILED on the network, with a provider_transaction_id, nothing moved |
| 4000.04 | FAILED for lack of wallet balance, whatever the balance |
| 4000.05 | provider slow: PROCESSING for 180 s, then goes through |
| 4000.06 | a status nobody knows for 3600 s, then goes through |
| 4000.07 | the 200 of the execution itself says FAILED |
| 4000.08 | goes through, and answers show 1.00 less for the payee |
| 4000.09 | goes through, and answers show operation_type TRANSFER |
| 4000.10 | FAILED after PROCESSING: the passcode was refused late |
| 4000.11 | requires_action with a client_secret for 30 s, as a card collection; then goes through |
| 4000.12 | PENDING for 3600 s, then goes through |
| 4000.13 | FAILED with a word about the wallet and one of the provider |

Switches (`PUT /_twin/settings`) are the fields of `CardPasscodeSettings`; where the provider says
nothing the default is the worst case. `POST /_twin/revoke-tokens` refuses every token given so far.

Faults (`POST /_twin/faults`) on `token`, `party`, `counterparty`, `account`, `session`,
`send_code`, `execute`, `status`: `reject` {status}, `rate_limit` {retry_after_s}, `drop_before`,
`error_before` {status}, `error_after` {status}, `hang_after` {seconds}, `lose_reply`,
`half_response`, `bad_json`. On `execute` also `late_arrival` {seconds}: cut off now, and carried
out so much later; and `fail_later` {how: provider, network, wallet, passcode}. On `status` also
`old_state` {seconds, hide_new}: for so long, each execution shows how it was when the fault was
set; one made since shows its first state, or 404 with `hide_new`.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from adapters.card_passcode.twin.auth import Gate
from adapters.card_passcode.twin.executions import ExecutionBook
from adapters.card_passcode.twin.requests import (
    CreateAccount,
    CreateCounterparty,
    CreateParty,
    CreateSession,
    Execute,
    Forbidden,
    ObtainToken,
    SendCode,
    Unprocessable,
    read_body,
)
from adapters.card_passcode.twin.sessions import SessionBook
from adapters.card_passcode.twin.world import (
    BALANCES,
    FAILURES,
    PHONE,
    CardPasscodeSettings,
    Course,
)
from adapters.twin.base import Refusal, Twin, TwinSettings
from adapters.twin.clock import TwinClock
from adapters.twin.faults import FaultBook, FaultKind, http_faults
from adapters.twin.ledger import Ledger
from adapters.twin.outbox import Message, Outbox
from adapters.twin.runner import TwinOptions, run_twin

_CALLS = (
    "token",
    "party",
    "counterparty",
    "account",
    "session",
    "send_code",
    "execute",
    "status",
)
_FAULTS = (
    # No failed call of this protocol uses up a key, so no call has `burn_key`.
    *http_faults(_CALLS, ()),
    FaultKind("old_state", frozenset({"status"}), {"seconds": 5.0, "hide_new": False}, window=True),
    FaultKind("late_arrival", frozenset({"execute"}), {"seconds": 20.0}),
    FaultKind(
        "fail_later",
        frozenset({"execute"}),
        {"how": "provider"},
        choices={"how": tuple(FAILURES)},
    ),
)
_OPERATIONS = frozenset({"COLLECTION", "PAYOUT", "TRANSFER", "REFUND"})


class CardPasscodeTwin(Twin):
    """One merchant of the provider."""

    api_prefix = "/v1"

    def __init__(
        self,
        settings: CardPasscodeSettings | None = None,
        base_time: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        clock, faults = TwinClock(base_time), FaultBook(_FAULTS)
        # The provider has no webhooks: nothing is ever posted to it.
        outbox = Outbox(clock, faults, (), lambda _: False, _forge)
        super().__init__(
            clock, Ledger(clock, BALANCES), faults, outbox, settings or CardPasscodeSettings()
        )
        self.gate = Gate(lambda count: random(count).hex(), clock.shared)
        self._sessions = SessionBook(clock, self.inbox, random)
        self._book = ExecutionBook(clock, self.ledger, self._sessions)
        self.settings_changed(self.settings)

    def credentials(self, control_url: str) -> dict[str, str]:
        """Return the merchant's credentials, its standing passcode, and the phone it is tied to."""
        del control_url
        return {
            "client_id": self.gate.client_id,
            "client_secret": self.gate.client_secret,
            "passcode": self._sessions.passcode,
            "phone": PHONE,
        }

    def error(self, status: int, message: str) -> web.Response:
        """Return a refusal; a 422 names fields, all others have a text."""
        if status == 422:
            detail = [{"loc": ["body"], "msg": message, "type": "value_error"}]
            return web.json_response({"detail": detail}, status=status)
        return web.json_response({"detail": message}, status=status)

    def add_routes(self, app: web.Application) -> None:
        """Add the calls of the API."""
        add = app.router
        add.add_post("/v1/jwt/client/obtain/token", self._obtain)
        add.add_post("/v1/parties/create", self._party)
        add.add_post("/v1/counterparties/create", self._counterparty)
        add.add_post("/v1/payment-accounts/create", self._account)
        add.add_post("/v1/sessions/payout", self._session)
        add.add_post("/v1/passcodes/send", self._send_code)
        add.add_post("/v1/executions/payout", self._execute)
        add.add_get("/v1/status/payout/{reference_id}", self._status, allow_head=False)
        add.add_post("/_twin/revoke-tokens", self._revoke)

    def empty(self) -> None:
        """Forget sessions, codes and executions."""
        self._book.clear()
        self._sessions.clear()

    def funded(self, account: str, asset: str) -> None:
        """Do nothing: an execution without funds has failed and does not wait for them."""

    def knows_account(self, account: str, asset: str) -> bool:
        """Say whether it is a wallet of the merchant."""
        return (account, asset) in BALANCES

    def settings_changed(self, settings: TwinSettings) -> None:
        """Hand the switches to the parts they steer."""
        if not isinstance(settings, CardPasscodeSettings):
            raise TypeError(type(settings).__name__)
        self._switches = settings
        self._sessions.settings = settings
        self._book.settings = settings

    async def _obtain(self, request: web.Request) -> web.StreamResponse:
        def act(body: bytes) -> web.Response:
            return self.gate.obtain(self._read(ObtainToken, body), self._switches.token_minutes)

        return await self.answer("token", request, lambda _: None, partial(self._try, act))

    async def _party(self, request: web.Request) -> web.StreamResponse:
        def act(body: bytes) -> web.Response:
            return web.json_response(self._sessions.create_party(self._read(CreateParty, body)))

        return await self._post("party", request, act)

    async def _counterparty(self, request: web.Request) -> web.StreamResponse:
        def act(body: bytes) -> web.Response:
            wanted = self._read(CreateCounterparty, body)
            return web.json_response(self._sessions.create_counterparty(wanted))

        return await self._post("counterparty", request, act)

    async def _account(self, request: web.Request) -> web.StreamResponse:
        operation = request.query.get("operation_type", "")

        def act(body: bytes) -> web.Response:
            if operation not in _OPERATIONS:
                raise Unprocessable(
                    [{"loc": ["query", "operation_type"], "msg": "invalid", "type": "enum"}]
                )
            wanted = self._read(CreateAccount, body)
            return web.json_response(self._sessions.create_account(wanted, operation))

        return await self._post("account", request, act)

    async def _session(self, request: web.Request) -> web.StreamResponse:
        def act(body: bytes) -> web.Response:
            self._check_verified()
            session = self._sessions.create_session(self._read(CreateSession, body))
            as_number = self._switches.amount_form == "number"
            written = float(session.amount) if as_number else f"{session.amount:.2f}"
            return web.json_response(session.document(written))

        return await self._post("session", request, act)

    async def _send_code(self, request: web.Request) -> web.StreamResponse:
        def act(body: bytes) -> web.Response:
            return web.json_response(self._sessions.send_code(self._read(SendCode, body)))

        return await self._post("send_code", request, act)

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        late = self.faults.take("execute", frozenset({"late_arrival"}), self.clock.now())
        if late is None:
            return await self._post("execute", request, self._do_execute, self._spoil)
        self.record(request).call = "execute"
        body = await request.read()
        try:
            self.gate.admit(request, body)
        except Refusal as refusal:
            return refusal.answer
        arrive = partial(self._try, self._do_execute, body)
        self.clock.call_later(late.number("seconds"), lambda: _forget(arrive()))
        return self._cut(request)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        def show(_: bytes) -> web.Response:
            reference_id = request.match_info["reference_id"].lower()
            found = self._book.executions.get(reference_id)
            old = self.faults.take("status", frozenset({"old_state"}), self.clock.now())
            hidden = old is not None and bool(old.params["hide_new"])
            if found is None or (old and hidden and found.began > old.set_at):
                return self.error(404, "Not found")
            return web.json_response(found.look(old.set_at if old else None))

        return await self._post("status", request, show)

    async def _revoke(self, _: web.Request) -> web.Response:
        self.gate.revoke()
        return web.json_response({})

    async def _post(
        self,
        call: str,
        request: web.Request,
        act: Callable[[bytes], web.Response],
        spoil: Callable[[bytes], None] | None = None,
    ) -> web.StreamResponse:
        body = await request.read()
        return await self.answer(
            call,
            request,
            partial(self.gate.admit, request),
            partial(self._try, act),
            partial(spoil or _nothing, body),
        )

    def _read(self, model: type[Any], body: bytes) -> Any:
        return read_body(model, body, echo_input=self._switches.echo_input)

    def _try(self, act: Callable[[bytes], web.Response], body: bytes) -> web.Response:
        try:
            return act(body)
        except Unprocessable as problem:
            return web.json_response({"detail": problem.detail}, status=422)
        except Forbidden as problem:
            return self.error(403, str(problem))

    def _check_verified(self) -> None:
        if not self._switches.verified:
            raise Forbidden("Merchant account is not verified")

    def _do_execute(self, body: bytes) -> web.Response:
        self._check_verified()
        wanted = self._read(Execute, body)
        return web.json_response(self._book.execute(wanted, self._failure_ahead).look())

    def _failure_ahead(self) -> Course | None:
        fault = self.faults.take("execute", frozenset({"fail_later"}), self.clock.now())
        return None if fault is None else FAILURES[fault.word("how")]

    def _spoil(self, body: bytes) -> None:
        if self._switches.burnt_by_5xx:
            with contextlib.suppress(Unprocessable):
                self._book.burn(read_body(Execute, body, echo_input=False).reference_id)


def _nothing(_: bytes) -> None:
    """Do nothing, because no key can be burnt."""


def _forget(_: web.Response) -> None:
    """Discard an answer that nobody waits for."""


def _forge(message: Message, _: str) -> Message:
    return message


def _build(options: TwinOptions) -> Twin:
    return CardPasscodeTwin(CardPasscodeSettings(step_s=options.step_s))


def main() -> None:
    """Run the twin from the command line until SIGTERM."""
    run_twin("card_passcode", _build)


if __name__ == "__main__":
    main()
