"""Acme's twin: `python -m payout_gateway_acme.twin.app --port 0`. It imports neither gateway nor adapter.

`POST /v1/transfers` {key, source, destination, asset, amount} pays: 201, for the same key and body
again 200, for another body 409. `GET /v1/transfers/{key}`. `GET /v1/account` {id},
`GET /v1/accounts/{id}` {id, balances: [{asset, amount}]}: what can be paid now. States ACCEPTED, SENT, DONE a step
(`--step-s`) apart; the ledger gets its entry with DONE. An amount whose fraction is .000402 ends
REFUSED with the reason POLICY, .000408 shows an undocumented state, .000409 is DONE and comes back a step
later: `returns` lists {id, amount, at, reason}, and the state stays DONE. Each change sends a webhook with
the transfer, with `Acme-Signature`, the hex HMAC-SHA256 of the raw body.

Seeded: account `MAIN` with 1 000 000 USDC.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from aiohttp import web
from pydantic import Field

from adapters.twin.base import Refusal, Twin, TwinSettings
from adapters.twin.clock import TwinClock
from adapters.twin.faults import WEBHOOK_FAULTS, FaultBook, http_faults
from adapters.twin.ledger import Ledger
from adapters.twin.outbox import Message, Outbox
from adapters.twin.runner import TwinOptions, run_twin

_MEMBERS = {"key", "source", "destination", "asset", "amount"}
_LIVES = {
    "000402": ("REFUSED",),
    "000408": ("LIMBO",),
    "000409": ("SENT", "DONE", "RETURNED"),
}
_LIFE = ("SENT", "DONE")
_RETRY_DELAYS_S = (1, 5, 30)


class AcmeTwinSettings(TwinSettings):
    """Switches."""

    step_s: float = Field(default=0.2, ge=0, le=86_400)
    #: further API keys of the same account
    more_api_keys: list[str] = Field(default_factory=list)
    #: the secret that signs webhooks from now on, instead of the first one
    webhook_secret: str | None = None
    #: whether the first API key is still accepted
    first_api_key: bool = True


class AcmeTwin(Twin):
    """The imaginary custodian."""

    api_prefix = "/v1"

    def __init__(
        self, settings: AcmeTwinSettings | None = None, base_time: Callable[[], float] = time.time
    ) -> None:
        clock = TwinClock(base_time)
        faults = FaultBook(
            [*http_faults(["transfer", "status", "balances"], moving=[]), *WEBHOOK_FAULTS]
        )
        outbox = Outbox(clock, faults, _RETRY_DELAYS_S, lambda status: status != 200, _forge)
        seed = {("MAIN", "USDC"): Decimal(1_000_000)}
        super().__init__(
            clock, Ledger(clock, seed), faults, outbox, settings or AcmeTwinSettings()
        )
        self._api_key = secrets.token_urlsafe(24)
        self._webhook_secret = secrets.token_urlsafe(24)
        self._transfers: dict[str, dict[str, Any]] = {}
        self._step_s = self._read_step(self.settings)

    def error(self, status: int, message: str) -> web.Response:
        """Return a refusal."""
        return web.json_response({"error": message}, status=status)

    def credentials(self, control_url: str) -> dict[str, str]:
        """Return the settings of an adapter for this twin."""
        del control_url
        return {"api_key": self._api_key, "webhook_secret": self._webhook_secret}

    def add_routes(self, app: web.Application) -> None:
        """Add the calls."""
        app.router.add_post("/v1/transfers", self._post)
        app.router.add_get("/v1/transfers/{key}", self._get, allow_head=False)
        app.router.add_get("/v1/account", self._account, allow_head=False)
        app.router.add_get("/v1/accounts/{account}", self._balances, allow_head=False)

    def empty(self) -> None:
        """Forget every transfer."""
        self._transfers.clear()

    def funded(self, account: str, asset: str) -> None:
        """Do nothing, because no transfer waits for funds here."""

    def settings_changed(self, settings: TwinSettings) -> None:
        """Take the pace and the credentials."""
        self._step_s = self._read_step(settings)

    def knows_account(self, account: str, asset: str) -> bool:
        """There is one account."""
        return (account, asset) == ("MAIN", "USDC")

    @staticmethod
    def _read_step(settings: TwinSettings) -> float:
        return settings.step_s if isinstance(settings, AcmeTwinSettings) else 0.2

    async def _post(self, request: web.Request) -> web.StreamResponse:
        return await self.answer("transfer", request, partial(self._admit, request), self._pay)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        def show(_: bytes) -> web.Response:
            found = self._transfers.get(request.match_info["key"])
            return self.error(404, "not found") if found is None else web.json_response(found)

        return await self.answer("status", request, partial(self._admit, request), show)

    async def _account(self, request: web.Request) -> web.StreamResponse:
        def show(_: bytes) -> web.Response:
            return web.json_response({"id": "acc-MAIN"})

        return await self.answer("account", request, partial(self._admit, request), show)

    async def _balances(self, request: web.Request) -> web.StreamResponse:
        account = request.match_info["account"]

        def show(_: bytes) -> web.Response:
            held = [each for each in self.ledger.balances() if each["account"] == account]
            if not held:
                return self.error(404, "no such account")
            lines = [{"asset": each["asset"], "amount": each["amount"]} for each in held]
            return web.json_response({"id": account, "balances": lines})

        return await self.answer("balances", request, partial(self._admit, request), show)

    @property
    def _switches(self) -> AcmeTwinSettings:
        assert isinstance(self.settings, AcmeTwinSettings)  # noqa: S101 - it is made with them
        return self.settings

    def _admit(self, request: web.Request, _: bytes) -> None:
        sent = request.headers.get("Authorization", "").encode()
        switches = self._switches
        keys = [*([self._api_key] if switches.first_api_key else []), *switches.more_api_keys]
        if not any(hmac.compare_digest(sent, f"Bearer {key}".encode()) for key in keys):
            raise Refusal(self.error(401, "wrong API key"))

    def _pay(self, body: bytes) -> web.Response:
        try:
            wanted = json.loads(body)
            amount = Decimal(wanted["amount"])
            good = set(wanted) == _MEMBERS and all(
                isinstance(each, str) for each in wanted.values()
            )
        except (ValueError, KeyError, TypeError, InvalidOperation):
            good, amount, wanted = False, Decimal(0), {}
        if not good or not amount.is_finite() or amount <= 0:
            return self.error(
                400, "the body must have key, source, destination, asset, amount: strings"
            )
        known = self._transfers.get(wanted["key"])
        if known is not None:
            same = all(known[name] == wanted[name] for name in _MEMBERS)
            return web.json_response(known) if same else self.error(409, "key already used")
        if self.ledger.free(wanted["source"], wanted["asset"]) < amount:
            return web.json_response({"error": "no funds", "reason": "NO_FUNDS"}, status=422)
        self.ledger.hold(wanted["source"], wanted["asset"], amount)
        transfer = {**wanted, "id": str(uuid.uuid4()), "state": "ACCEPTED", "tx_hash": None}
        self._transfers[wanted["key"]] = transfer
        life = _LIVES.get(wanted["amount"].partition(".")[2], _LIFE)
        for number, state in enumerate(life, start=1):
            self.clock.call_later(number * self._step_s, partial(self._change, transfer, state))
        return web.json_response(transfer, status=201)

    def _change(self, transfer: dict[str, Any], state: str) -> None:
        amount = Decimal(transfer["amount"])
        if state == "RETURNED":
            self.ledger.give_back(transfer["source"], transfer["asset"], amount)
            back = {"id": str(uuid.uuid4()), "at": self.clock.stamp(), "reason": "ACCOUNT_CLOSED"}
            transfer["returns"] = [{**back, "amount": transfer["amount"]}]
        else:
            transfer["state"] = state
        if state == "SENT":
            transfer["tx_hash"] = "0x" + hashlib.sha256(transfer["id"].encode()).hexdigest()
        elif state == "REFUSED":
            transfer["reason"] = "POLICY"
            self.ledger.give_back(transfer["source"], transfer["asset"], amount)
        elif state == "DONE":
            self.ledger.move(
                transfer["key"],
                transfer["source"],
                transfer["destination"],
                transfer["asset"],
                transfer["amount"],
            )
        body = json.dumps({"id": str(uuid.uuid4()), "transfer": transfer}).encode()
        secret = self._switches.webhook_secret or self._webhook_secret
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        message = Message({"Acme-Signature": signature, "Content-Type": "application/json"}, body)
        self.outbox.post(f"transfer.{state.lower()}", lambda _: message)


def _forge(message: Message, how: str) -> Message:
    """Return the message as a stranger would send it."""
    if how == "unsigned":
        kept = {name: each for name, each in message.headers.items() if name != "Acme-Signature"}
        return Message(kept, message.body)
    if how == "changed_body":
        return Message(message.headers, message.body.replace(b'"DONE"', b'"SENT"') + b" ")
    return Message({**message.headers, "Acme-Signature": "0" * 64}, message.body)


def _build(options: TwinOptions) -> Twin:
    return AcmeTwin(AcmeTwinSettings(step_s=options.step_s))


def main() -> None:
    """Run the twin from the command line until SIGTERM."""
    run_twin("acme", _build)


if __name__ == "__main__":
    main()
