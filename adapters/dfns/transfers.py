"""The wallet transfer: a single moving call, which a permanent, body-bound `externalId` makes safe.

Source: dfns protocol notes, §3 (external ids), §5 (transfers). A repeat of the same body under the same
id returns the first transfer. A repeat therefore recovers a lost reply, and nothing can move twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from adapters.dfns.client import Answer, Client
from adapters.dfns.settings import DfnsSettings
from adapters.dfns.signing import dump
from adapters.dfns.statuses import (
    TRANSFER_WORDS,
    Transfer,
    clean,
    refusal_code,
    transfer_failure,
)
from adapters.dfns.terms import fee_usd, transfer_body, transfer_echo, untold
from gateway.adapter import (
    Absent,
    CannotLook,
    FailureCode,
    NotSent,
    Order,
    OutcomeUnknown,
    Ref,
    Rejected,
    Report,
    SubStatus,
    Tools,
    Transaction,
    read_time,
)


class Transfers:
    """Pays to an address."""

    def __init__(self, settings: DfnsSettings, client: Client, tools: Tools) -> None:
        self._settings = settings
        self._client = client
        self._tools = tools

    async def submit(self, order: Order) -> Report:
        """Make the transfer, or return the one that was made under the same id."""
        if "transfer" not in order.notes:
            body = transfer_body(self._settings, self._tools.assets, order, order.key("transfer"))
            # The body is fixed with the attempt, because a later change of the configuration must not
            # change a repeat.
            await order.remember(transfer=dump(body).decode(), wallet=order.source.id)
        path = f"/wallets/{order.notes['wallet']}/transfers"
        call = await self._client.sign(path, str(order.notes["transfer"]).encode())
        await order.moving()
        try:
            answer = await self._client.send(call)
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknown(f"transfer: no answer ({type(error).__name__})") from None
        if answer.ok and clean(answer.json.get("id")):
            await order.remember(transfer_id=clean(answer.json["id"]))
            return self._report(order, answer.json)
        raise self._judge(order, answer)

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Read the remembered transfer."""
        transfer_id = order.notes.get("transfer_id")
        if transfer_id is None:
            return CannotLook("the transfer's id is not known yet", repeat_is_safe=True)
        told = await read_transfer(self._client, str(order.notes["wallet"]), str(transfer_id))
        return Absent("404") if told is None else self._report(order, told)

    def _judge(self, order: Order, answer: Answer) -> Exception:
        """Return the outcome of a call whose answer has no transfer."""
        words = f"transfer: {answer.words()}"
        if answer.at_the_door:
            return answer.not_done(words)
        if answer.refusal and not answer.used_token and not order.moved:
            return Rejected(
                refusal_code(answer.message), answer.message, custodian_code=str(answer.status)
            )
        # 409 and a used token mean that an earlier call may have arrived; other responses say nothing.
        return OutcomeUnknown(words)

    def _report(self, order: Order, told: Mapping[str, Any]) -> Report:
        transfer = transfer_of(told)
        sub_status = TRANSFER_WORDS.get(transfer.status)
        external_id = clean(json.loads(order.notes["transfer"]).get("externalId"))
        echo = transfer_echo(self._settings, self._tools.assets, order, told, external_id)
        unknown = () if sub_status else (transfer.status or "no status",)
        if untold(echo):
            sub_status, unknown = None, (*unknown, *untold(echo))
        failed = sub_status in {SubStatus.FAILED, SubStatus.REJECTED}
        return Report(
            sub_status,
            transfer.status,
            refs=refs_of(transfer),
            transactions=(transaction_of(told, order.network, self._tools),),
            failure=transfer_failure(transfer) if failed else None,
            echo=echo,
            custodian_reference=transfer.id,
            unknown_words=unknown,
            detail=transfer.reason or None,
            fees_paid_usd=fee_usd(self._settings, order.network, told)
            if sub_status is SubStatus.DELIVERED
            else None,
            # A confirmed transfer moved the amount that Dfns shows; the network's fee is extra.
            final_recipient_amount=echo.amount if sub_status is SubStatus.DELIVERED else None,
        )


async def read_transfer(
    client: Client, wallet_id: str, transfer_id: str
) -> Mapping[str, Any] | None:
    """Return a transfer; None if Dfns says there is none. Raises NotSent if it does not answer."""
    answer = await client.get(f"/wallets/{wallet_id}/transfers/{path_id(transfer_id)}")
    if answer.not_found:
        return None
    if not answer.ok:
        raise answer.not_done(f"transfer: {answer.words()}")
    told: Mapping[str, Any] = answer.json
    return told


def path_id(value: str) -> str:
    """Return an id that is safe in a path, or raise OutcomeUnknown: Dfns' own ids have no special characters."""
    if value and all(each.isascii() and (each.isalnum() or each in "-_") for each in value):
        return value
    raise OutcomeUnknown("an id that cannot be asked for: " + json.dumps(value[:80]))


def transfer_of(told: Mapping[str, Any]) -> Transfer:
    """Return the parts of a transfer that matter here."""
    return Transfer(
        clean(told.get("id")),
        clean(told.get("status")),
        clean(told.get("txHash")) or None,
        clean(told.get("reason")),
    )


def refs_of(transfer: Transfer) -> tuple[Ref, ...]:
    """Return the ids by which news may name a transfer."""
    refs = (Ref("transfer", transfer.id),)
    return refs if transfer.tx_hash is None else (*refs, Ref("hash", transfer.tx_hash))


def transaction_of(told: Mapping[str, Any], network: str | None, tools: Tools) -> Transaction:
    """Return a transfer as a transaction of the payout."""
    transfer = transfer_of(told)
    dates = ("dateConfirmed", "dateBroadcasted", "dateRequested")
    at = next((each for each in (read_time(told.get(name)) for name in dates) if each), None)
    return Transaction(
        id=transfer.id,
        tx_hash=transfer.tx_hash,
        network=network,
        status=transfer.status,
        at=at or tools.clock.now(),
    )


def rejected(reason: str) -> Rejected:
    """Return the refusal of an order that can never be paid."""
    return Rejected(FailureCode.SUBMISSION_REJECTED, reason)
