"""The off-ramp payout: it is created, compared with the order, confirmed once and followed to its end.

Source: dfns protocol notes, §2 (lifecycle), §3 (external ids), §6 (single-use tokens). Create moves
nothing; Confirm does. Dfns does not say what a second Confirm does, so a Confirm is sent again only as the
same request, with the same token, in the same process (at most one of them is accepted), or after the
engine has proven by looks that the first one did nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from adapters.dfns.client import Answer, Client
from adapters.dfns.reading import PayoutReader, SearchEnded, data_of, execution_of
from adapters.dfns.settings import DfnsSettings
from adapters.dfns.signing import SignedCall, dump
from adapters.dfns.statuses import (
    AWAITING_CONFIRM,
    BEFORE_CONFIRM,
    clean,
    refusal_code,
)
from adapters.dfns.terms import confirm_body, create_body, same_address
from adapters.dfns.transfers import (
    path_id,
)
from gateway.adapter import (
    Absent,
    CannotLook,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    NotSent,
    Order,
    OutcomeUnknown,
    Ref,
    Rejected,
    Report,
    SubStatus,
    Tools,
    address_fault,
)

#: The waits before a Confirm with a lost reply is sent again with the same token.
_RESEND_AFTER_S = (0.5, 2.0)
#: The interval for looking up a payout that Dfns does not show.
_NOT_SHOWN_S = 60.0


class Payouts:
    """Pays to a bank account."""

    def __init__(self, settings: DfnsSettings, client: Client, tools: Tools) -> None:
        self._settings = settings
        self._client = client
        self._tools = tools
        self._reader = PayoutReader(settings, client, tools)

    async def submit(self, order: Order) -> Report:
        """Create the payout, wait until it can be confirmed, confirm it."""
        payout_id = order.notes.get("payout_id")
        if payout_id is None:
            return await self._create(order)
        look = await self._reader.read(order)
        if look is None:
            raise NotSent(f"the payout {payout_id} is not shown", again_after_s=_NOT_SHOWN_S)
        told = look.told
        unfit = self._reader.unfit(order, told)
        if unfit is not None:
            return unfit
        execution = execution_of(told)
        if execution in BEFORE_CONFIRM:
            return self._reader.wait(order, told, execution)
        if execution != AWAITING_CONFIRM or data_of(told).get("transferId"):
            return await self._reader.judge(order, look)
        return await self._confirm(order, told)

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Read the remembered payout and the transfer that settles it."""
        payout_id = order.notes.get("payout_id")
        if payout_id is None:
            return CannotLook("no payout id is remembered")
        look = await self._reader.read(order)
        if look is None:
            return Absent("404")
        execution = execution_of(look.told)
        waiting = execution in BEFORE_CONFIRM or execution == AWAITING_CONFIRM
        if waiting and not data_of(look.told).get("transferId"):
            return self._reader.unfit(order, look.told) or Absent(execution)
        try:
            return await self._reader.judge(order, look)
        except SearchEnded as error:
            return CannotLook(f"{execution}; {error}", repeat_is_safe=False)

    async def cancel(self, order: Order) -> Report:
        """Ask Dfns to cancel, which it does only before the confirmation. Raises as `submit` does."""
        payout_id = order.notes.get("payout_id")
        if payout_id is None and order.moved:
            # The notes are from an older copy, and a payout that they do not name may be confirmed.
            raise OutcomeUnknown("cancel: a call may have been made for a payout that is not known")
        if payout_id is None:
            failure = Failure(
                code=FailureCode.CANCELED,
                message="Canceled before it was created at Dfns.",
                funds_moved=FundsMoved.NO,
            )
            return Report(SubStatus.CANCELED, "never created", failure=failure)
        path = f"/payouts/{path_id(str(payout_id))}/action"
        call = await self._client.sign(path, dump({"action": "Cancel"}))
        try:
            answer = await self._client.send(call)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknown(f"cancel: no answer ({type(error).__name__})") from None
        if answer.status not in {200, 202}:
            if answer.at_the_door:
                raise answer.not_done(f"cancel: {answer.words()}")
            raise OutcomeUnknown(f"cancel: {answer.words()}")
        look = await self._reader.read(order)
        if look is None:
            raise OutcomeUnknown("cancel: the payout is not shown")
        return await self._reader.judge(order, look)

    async def _create(self, order: Order) -> Report:
        """Create the payout, or get the one that was created under the same id. Nothing moves."""
        body = dump(create_body(self._settings, self._tools.assets, order))
        call = await self._client.sign("/payouts", body)
        try:
            answer = await self._client.send(call)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSent(f"create: no answer ({type(error).__name__})") from None
        if answer.ok and clean(answer.json.get("id")):
            payout_id = path_id(clean(answer.json["id"]))
            unfit = self._reader.unfit(order, answer.json)
            if unfit is not None:
                return unfit
            await order.remember(payout_id=payout_id)
            return self._reader.wait(order, answer.json, execution_of(answer.json))
        if answer.status == 409:  # noqa: PLR2004
            # Our id belongs to other content, from before a change of the configuration. That payout is
            # never confirmed; another id creates one that can be compared.
            await order.remember(create_step=int(order.notes.get("create_step", 1)) + 1)
        elif answer.refusal and not answer.used_token:
            raise Rejected(
                refusal_code(answer.message), answer.message, custodian_code=str(answer.status)
            )
        raise answer.not_done(f"create: {answer.words()}")

    async def _confirm(self, order: Order, told: Mapping[str, Any]) -> Report:
        """Confirm exactly what was ordered, to the deposit address that every source agrees on."""
        deposit = clean(data_of(told).get("depositAddress"))
        if not deposit:
            return self._reader.wait(order, told, AWAITING_CONFIRM)
        # Whether the address belongs to a key does not matter here, because the provider made it
        # (decision 0018).
        fault = address_fault(order.network or "", deposit, by_custodian=True)
        if fault is not None:
            return self._reader.park(order, told, f"the deposit address {deposit} {fault}")
        # Remembering also loads what a webhook has reported meanwhile.
        await order.remember(deposit_address=order.notes.get("deposit_address", deposit))
        witnesses = {"the first read": str(order.notes["deposit_address"])}
        by_webhook = [str(each) for each in order.notes.get("told", {}).get("deposit_address", ())]
        witnesses |= {f"webhook {number}": each for number, each in enumerate(by_webhook, 1)}
        for name, address in witnesses.items():
            if not same_address(address, deposit):
                return self._reader.park(
                    order,
                    told,
                    f"deposit address {deposit} by the API, {address} by {name}",
                    Echo(
                        destination=f"deposit address {deposit}",
                        ordered_destination=f"deposit address {address} ({name})",
                    ),
                )
        if self._settings.confirm_after_webhook and not by_webhook:
            return self._reader.wait(order, told, AWAITING_CONFIRM)
        body = confirm_body(self._settings, self._tools.assets, order, deposit)
        await order.remember(confirm=dump(body).decode())
        path = f"/payouts/{path_id(str(order.notes['payout_id']))}/action"
        call = await self._client.sign(path, str(order.notes["confirm"]).encode())
        return await self._send_confirm(order, call)

    async def _send_confirm(self, order: Order, call: SignedCall) -> Report:
        """Send the Confirm; after a lost reply, send the same request again, because its token works only once."""
        await order.moving()
        lost = ""
        for pause_s in (0.0, *_RESEND_AFTER_S):
            if pause_s:
                await self._tools.clock.sleep(pause_s)
                try:
                    # A worker that has lost its lease meanwhile must not send anything.
                    await order.moving(same_request=True)
                except NotSent as error:
                    # This request was not sent, but the previous one may have arrived.
                    raise OutcomeUnknown(f"confirm: no answer ({lost}); {error}") from None
            try:
                answer = await self._client.send(call)
            except aiohttp.ClientConnectorError as error:
                if not lost:
                    raise NotSent(f"no connection ({type(error).__name__})") from None
                continue
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                lost = type(error).__name__
                continue
            if answer.status >= 500:  # noqa: PLR2004
                lost = answer.words()
                continue
            return await self._confirmed(order, answer, lost)
        raise OutcomeUnknown(f"confirm: no answer ({lost})")

    async def _confirmed(self, order: Order, answer: Answer, lost: str) -> Report:
        """Judge the answer to a Confirm."""
        payout_id = str(order.notes["payout_id"])
        accepted = {
            200: (SubStatus.SUBMITTED, "confirmed"),
            202: (SubStatus.AWAITING_APPROVAL, "202 policy approval pending"),
        }.get(answer.status)
        if accepted is not None:
            refs = (Ref("payout", payout_id),)
            return Report(*accepted, refs=refs, custodian_reference=payout_id)
        words = f"confirm: {answer.words()}"
        if answer.used_token:
            # The previous call has arrived; its result is looked up.
            raise OutcomeUnknown(f"{words} (an earlier call has arrived)")
        if lost or order.moved or answer.status == 409:  # noqa: PLR2004
            raise OutcomeUnknown(words)
        # A 404 is about this payout, which was read a moment ago, so its present state decides.
        if answer.at_the_door and not answer.not_found:
            raise answer.not_done(words)
        if not (answer.refusal or answer.not_found):
            raise OutcomeUnknown(words)
        return await self._refused(order, answer)

    async def _refused(self, order: Order, answer: Answer) -> Report:
        """Judge a clear refusal of the first Confirm by the payout's state afterwards."""
        words = f"Dfns refused the confirmation: {answer.message}"
        try:
            look = await self._reader.read(order)
            if look is None:
                raise OutcomeUnknown(f"{words}; then it was not shown")
            told = look.told
            if execution_of(told) == AWAITING_CONFIRM and not data_of(told).get("transferId"):
                # The payout stays open at Dfns until it is canceled there or expires, so this does not
                # end it.
                return self._reader.park(order, told, words)
            return await self._reader.judge(order, look)
        except NotSent as error:
            # A look at the payout or its transfer failed. A payout that was not seen may still be
            # confirmed.
            raise OutcomeUnknown(f"{words}; then: {error}") from None
