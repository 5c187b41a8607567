"""What people do to a payout over HTTP: answer what it asks for, cancel it, look with a client secret."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from pydantic import ConfigDict, Field, SecretStr, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import acts
from gateway.api.acts import note_act
from gateway.api.admission import admission_of
from gateway.api.idempotency import Answer, Claim, claimed, idempotency_key, keyed_request
from gateway.api.requests import (
    authorization_of,
    caller_of,
    client_address,
    context_of,
    read_json,
    validate,
)
from gateway.api.shown import payout_answer
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.model import Payout, RequestBody, RequiredAction
from gateway.store import executions
from gateway.store import payouts as rows
from gateway.store.database import Tx
from gateway.store.state import refuse_if_frozen
from gateway.vault import CLIENT_PREFIX
from gateway.views import reduced_payout

_Word = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class _Body(RequestBody):
    model_config = ConfigDict(hide_input_in_errors=True)


class PasscodeToken(_Body):
    """The code, and whose it is; without `phone` and `user_id` the operator's setting holds."""

    code: SecretStr = Field(min_length=1, max_length=64, description="Used once, never kept.")
    phone: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{7,14}$")] | None = Field(
        default=None, description="Digits without +."
    )
    user_id: _Word | None = None


class Device(_Body):
    """The device of the person; what is left out is filled from the request, and marked as such."""

    name: _Word | None = None
    type: _Word | None = None
    platform: _Word | None = None
    user_agent: _Word | None = None
    client_ip: _Word | None = None


class Passcode(_Body):
    """The answer to `enter_passcode`."""

    token: PasscodeToken
    device: Device = Device()


class ConfirmRequest(_Body):
    """The answer to what a payout asks for."""

    client_secret: _Word = Field(description="From `GET /payouts/{id}`, for this very action.")
    passcode: Passcode | None = Field(default=None, description="For `enter_passcode`.")


async def confirm_payout(request: Request) -> Response:
    """`POST /payouts/{id}/confirm`: under an API key, or with the client secret alone."""
    context = context_of(request)
    caller = await _maybe_caller(request)
    key = idempotency_key(request, required=False)
    members = await read_json(request)
    wanted = validate(ConfirmRequest, members)
    payout = await _payout_of(request, caller)
    action = _action_of(request, payout, wanted.client_secret, keyed=caller is not None)
    if caller is None:
        admission_of(request).admit(request, payout.id)
    answer, filled = _answer(request, wanted)
    if action.type == "enter_passcode" and wanted.passcode is None:
        fault = {"pointer": "/passcode", "code": "missing", "detail": "is what this action asks"}
        raise Refused(
            "invalid_request", "The request is not valid; errors lists what to fix.", errors=[fault]
        )

    async def act() -> Answer:
        if not action.open:
            raise Refused("action_not_required", "This action was answered, or is over.")
        await context.db.read(refuse_if_frozen)
        note = _note(request, caller, payout, acts.PAYOUT_CONFIRMED)
        await context.actions.confirm(payout, action.number, answer, filled, note=note)
        return Answer(202, await _shown(request, payout.id, keyed=caller is not None))

    # Who holds the client secret sees less than who holds an API key, and never what was answered to one.
    audience = f"client secret {payout.id}/{action.number}" if caller is None else ""
    return await _act(request, payout, key, _without_code(members), act, audience=audience)


async def cancel_payout(request: Request) -> Response:
    """`POST /payouts/{id}/cancel`."""
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=False)
    payout = await _payout_of(request, caller)

    async def act() -> Answer:
        if payout.final:
            detail = f"The payout is {payout.status}: final statuses never change."
            raise Refused("cancel_too_late", detail)
        execution = await context.db.read(executions.open_execution_of, payout.id)
        if payout.batch_id is not None and (execution is None or execution["size"] > 1):
            detail = f"It is part of a batch: POST /payout-batches/{payout.batch_id}/cancel."
            raise Refused("cancel_unsupported", detail)
        await context.db.read(refuse_if_frozen)
        note = _note(request, caller, payout, acts.PAYOUT_CANCELED)
        await context.actions.cancel(payout, note=note)
        return Answer(202, await _shown(request, payout.id, keyed=True))

    return await _act(request, payout, key, {}, act)


async def read_with_secret(request: Request) -> Response | None:
    """`GET /payouts/{id}` with a client secret as the bearer: the reduced view; None without one."""
    scheme, _, secret = authorization_of(request).partition(" ")
    if scheme.lower() != "bearer" or not secret.startswith(CLIENT_PREFIX):
        return None
    payout = await _payout_of(request, None)
    last = payout.requires_action
    genuine = last is not None and context_of(request).vault.is_client_secret(
        secret.strip(), payout.id, last.number
    )
    if not genuine:
        raise _not_found(payout.id)
    admission_of(request).admit(request, payout.id)
    return Response(reduced_payout(payout).model_dump_json(), media_type="application/json")


async def _maybe_caller(request: Request) -> Caller | None:
    """Return whose API key was sent; None for a browser, which has none."""
    return await caller_of(request) if "authorization" in request.headers else None


async def _payout_of(request: Request, caller: Caller | None) -> Payout:
    context, payout_id = context_of(request), request.path_params["payout_id"]
    if caller is not None:
        return await context.db.read(context.payouts.get, caller, payout_id)
    payout = await context.db.read(rows.find_payout, payout_id)
    if payout is None:
        raise _not_found(payout_id)
    request.state.org = payout.org
    return payout


def _action_of(request: Request, payout: Payout, secret: str, *, keyed: bool) -> RequiredAction:
    """Return the action that a secret belongs to, answered or not.

    A wrong secret is answered as a wrong path is.
    """
    last = payout.requires_action
    vault = context_of(request).vault
    genuine = last is not None and vault.is_client_secret(secret, payout.id, last.number)
    if last is None or not genuine:
        if keyed and (last is None or not last.open):
            raise Refused("action_not_required", "The payout does not ask for anything.")
        raise _not_found(payout.id)
    return last


def _answer(request: Request, wanted: ConfirmRequest) -> tuple[dict[str, Any], list[str]]:
    """Return the answer for the adapter, and what was filled in from the request."""
    if wanted.passcode is None:
        return {}, []
    token = wanted.passcode.token
    device = wanted.passcode.device.model_dump(exclude_none=True)
    told = {
        "user_agent": request.headers.get("user-agent", "")[:255],
        "client_ip": client_address(request) or "",
    }
    filled = {name: value for name, value in told.items() if value and name not in device}
    owner = token.model_dump(include={"phone", "user_id"}, exclude_none=True)
    answer = {
        "passcode": {
            "token": {**owner, "code": token.code.get_secret_value()},
            "device": {**device, **filled},
        }
    }
    return answer, [f"device.{name}" for name in sorted(filled)]


def _note(
    request: Request, caller: Caller | None, payout: Payout, act: str
) -> Callable[[Tx, str], Awaitable[None]]:
    """Return what writes the act to the audit log; nothing of the answer is in it."""
    before = {"status": payout.status, "sub_status": payout.sub_status}

    async def note(tx: Tx, detail: str) -> None:
        await note_act(
            tx, request, caller, act, payout.id, org=payout.org, detail=detail, before=before
        )

    return note


def _without_code(members: Any) -> Any:
    """Return the request without the passcode and the secret: a fingerprint must not hold them."""
    left = {name: value for name, value in members.items() if name != "client_secret"}
    passcode = left.get("passcode")
    if isinstance(passcode, dict) and isinstance(passcode.get("token"), dict):
        token = {name: value for name, value in passcode["token"].items() if name != "code"}
        left["passcode"] = {**passcode, "token": token}
    return left


async def _shown(request: Request, payout_id: str, *, keyed: bool) -> bytes:
    context = context_of(request)
    payout = await context.db.read(rows.find_payout, payout_id)
    assert payout is not None  # noqa: S101 - payouts are never deleted
    if keyed:
        return payout_answer(context.vault, context.settings.public_url, payout)
    return reduced_payout(payout).model_dump_json().encode()


async def _act(  # noqa: PLR0913 - the request, its key, and what to do
    request: Request,
    payout: Payout,
    key: str | None,
    members: Any,
    act: Callable[[], Awaitable[Answer]],
    *,
    audience: str = "",
) -> Response:
    """Act once per idempotency key; the network is called outside of any transaction.

    A refusal is not kept. A claim that is taken over may be that of an act which was carried out: the
    payout's own state and lease keep it from being carried out twice.
    """
    if key is None:
        return (await act()).response()

    async def carry_out(claim: Claim) -> Answer:
        answer = await act()

        async def keep(_: Tx) -> Answer:
            return answer

        return await claim.finish(keep)

    mode = "live" if payout.livemode else "test"
    keyed = keyed_request(request, payout.org, mode, key, [payout.id, members], audience=audience)
    return await claimed(request, keyed, carry_out)


def _not_found(payout_id: str) -> Refused:
    return Refused("payout_not_found", f"There is no payout {payout_id[:80]} under this secret.")
