"""The control API of every twin: how tests, demos and people steer it and see what it did.

It hangs under `/_twin/` on the twin's root and asks for no credentials: loopback only.

| call | what |
| --- | --- |
| `GET ledger` | `{"transfers": [{reference, source, destination, asset, amount, at}]}`: one \
entry per transfer that moved money |
| `GET`, `PUT balances` | `{"balances": [{account, asset, amount}]}`; those named are set |
| `GET`, `POST faults` | `{call, fault, times?, …}`; an unknown one is 422 with the known ones |
| `DELETE faults` | none waits any more |
| `POST clock` | `{advance_s}`: moves the twin's clock on and runs at once what falls due |
| `GET inbox` | `{"messages": […]}`: one-time codes sent |
| `GET calls` | `{"calls": [{call, method, path, status, at}]}`: requests received; `status` is \
null while unanswered or cut off |
| `GET`, `PUT webhooks` | `{url}` of the receiver (null: none); what became of each delivery |
| `GET`, `PUT settings` | switches for what the custodian leaves open; those named are set |
| `POST reset` | the seeded world again: no payouts, faults, calls or clock offset, switches as \
at the start; keys and the receiver stay |
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from adapters.twin.base import Twin
from adapters.twin.faults import BadFault

_LONGEST_ADVANCE_S = 10 * 366 * 86_400


def make_app(twin: Twin) -> web.Application:
    """Return the twin's whole application; once per twin."""
    app = web.Application(middlewares=[twin.record_call])
    _ControlApi(twin).add_routes(app)
    twin.add_routes(app)
    app.on_response_prepare.append(twin.date_answer)
    app.on_shutdown.append(twin.stop)
    return app


class _ControlApi:
    """The control calls over one twin."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin

    def add_routes(self, app: web.Application) -> None:
        """Add the control calls."""
        add = app.router
        add.add_get("/_twin/ledger", self._get_ledger)
        add.add_get("/_twin/balances", self._get_balances)
        add.add_put("/_twin/balances", self._put_balances)
        add.add_get("/_twin/faults", self._get_faults)
        add.add_post("/_twin/faults", self._post_fault)
        add.add_delete("/_twin/faults", self._clear_faults)
        add.add_post("/_twin/clock", self._post_clock)
        add.add_get("/_twin/inbox", self._get_inbox)
        add.add_get("/_twin/calls", self._get_calls)
        add.add_get("/_twin/webhooks", self._get_webhooks)
        add.add_put("/_twin/webhooks", self._put_webhooks)
        add.add_get("/_twin/settings", self._get_settings)
        add.add_put("/_twin/settings", self._put_settings)
        add.add_post("/_twin/reset", self._post_reset)

    async def _get_ledger(self, _: web.Request) -> web.Response:
        return web.json_response({"transfers": self._twin.ledger.transfers()})

    async def _get_balances(self, _: web.Request) -> web.Response:
        return web.json_response({"balances": self._twin.ledger.balances()})

    async def _put_balances(self, request: web.Request) -> web.Response:
        document = await read_object(request, {"balances"})
        rows = document.get("balances")
        if not isinstance(rows, list) or not rows:
            raise _unprocessable("balances is a list of {account, asset, amount}")
        wanted = [self._balance(row) for row in rows]
        for account, asset, amount in wanted:
            self._twin.ledger.set_balance(account, asset, amount)
            self._twin.funded(account, asset)
        return web.json_response({"balances": self._twin.ledger.balances()})

    def _balance(self, row: object) -> tuple[str, str, Decimal]:
        if not isinstance(row, dict) or set(row) != {"account", "asset", "amount"}:
            raise _unprocessable("a balance is {account, asset, amount}, all text")
        account, asset, text = row["account"], row["asset"], row["amount"]
        if not all(isinstance(value, str) for value in (account, asset, text)):
            raise _unprocessable("account, asset and amount are text")
        try:
            amount = Decimal(text)
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite() or amount < 0:
            raise _unprocessable("amount is a decimal number from 0 up")
        if not self._twin.knows_account(account, asset):
            raise _unprocessable(f"no account {account!r} with asset {asset!r}")
        return account, asset, amount

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._twin.faults.clear()
        return await self._get_faults(request)

    async def _get_faults(self, _: web.Request) -> web.Response:
        faults = self._twin.faults
        return web.json_response({"faults": faults.waiting(), "known": faults.known()})

    async def _post_fault(self, request: web.Request) -> web.Response:
        document = await read_object(request)
        try:
            fault = self._twin.faults.add(document, self._twin.clock.now())
        except BadFault as problem:
            raise _unprocessable(str(problem), known=self._twin.faults.known()) from None
        return web.json_response(fault.document(), status=201)

    async def _post_clock(self, request: web.Request) -> web.Response:
        seconds = (await read_object(request, {"advance_s"})).get("advance_s")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise _unprocessable("advance_s is a number of seconds")
        if not 0 <= seconds <= _LONGEST_ADVANCE_S:
            raise _unprocessable("advance_s is from 0 to ten years: the clock never steps back")
        self._twin.clock.advance(seconds)
        return web.json_response({"now": self._twin.clock.stamp()})

    async def _get_inbox(self, _: web.Request) -> web.Response:
        return web.json_response({"messages": self._twin.inbox})

    async def _get_calls(self, _: web.Request) -> web.Response:
        calls = [
            {"call": c.call, "method": c.method, "path": c.path, "status": c.status, "at": c.at}
            for c in self._twin.calls
        ]
        return web.json_response({"calls": calls})

    async def _get_webhooks(self, _: web.Request) -> web.Response:
        outbox = self._twin.outbox
        return web.json_response({"url": outbox.url, "deliveries": outbox.documents()})

    async def _put_webhooks(self, request: web.Request) -> web.Response:
        document = await read_object(request, {"url"})
        url = document.get("url")
        plausible = isinstance(url, str) and url.startswith(("http://", "https://"))
        if "url" not in document or (url is not None and not plausible):
            raise _unprocessable("url is an http or https address, or null")
        self._twin.outbox.url = url if isinstance(url, str) else None
        return web.json_response({"url": self._twin.outbox.url})

    async def _get_settings(self, _: web.Request) -> web.Response:
        return web.json_response(self._twin.settings.model_dump(mode="json"))

    async def _put_settings(self, request: web.Request) -> web.Response:
        document = await read_object(request)
        try:
            self._twin.change_settings(document)
        except ValidationError as problem:
            known = sorted(type(self._twin.settings).model_fields)
            raise _unprocessable(str(problem), known=known) from None
        return await self._get_settings(request)

    async def _post_reset(self, _: web.Request) -> web.Response:
        await self._twin.reset()
        return web.json_response({"now": self._twin.clock.stamp()})


async def read_object(request: web.Request, members: set[str] | None = None) -> dict[str, Any]:
    """Read a control call's body, or answer 422; `members`: the only ones it may have."""
    try:
        document = json.loads(await request.read())
    except ValueError:
        raise _unprocessable("the body is not JSON") from None
    if not isinstance(document, dict):
        raise _unprocessable("the body is not a JSON object")
    if members is not None and not set(document) <= members:
        raise _unprocessable(f"unknown members, only {sorted(members)} are known")
    return document


def _unprocessable(message: str, **more: object) -> web.HTTPUnprocessableEntity:
    return web.HTTPUnprocessableEntity(
        text=json.dumps({"message": message, **more}), content_type="application/json"
    )
