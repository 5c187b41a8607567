"""Fireblocks payout instruction sets: create, execute, follow one instruction.

Create registers and moves nothing; execute is the moving call, accepted once per payout id by
Fireblocks itself. Only what was remembered is executed, so that an orphan of a lost create is
harmless. Source: fireblocks protocol notes, §2 to §6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel

from adapters.fireblocks import webhook
from adapters.fireblocks.client import Answer, Client, load_private_key
from adapters.fireblocks.settings import FireblocksSettings
from adapters.fireblocks.words import (
    NOT_CREDITED,
    Reading,
    Seen,
    clean,
    decimal_of,
    read,
    refusal_code,
)
from gateway.adapter import (
    Absent,
    Adapter,
    CannotLook,
    Capabilities,
    CustodianAccountDestination,
    Echo,
    FailureCode,
    KeySemantics,
    Notice,
    NotSent,
    Order,
    OutcomeUnknown,
    Ref,
    Rejected,
    Report,
    SubStatus,
    Tools,
    Transaction,
    format_amount,
)

PAYEE_TYPES = frozenset(
    {
        "VAULT_ACCOUNT",
        "EXCHANGE_ACCOUNT",
        "INTERNAL_WALLET",
        "EXTERNAL_WALLET",
        "NETWORK_CONNECTION",
        "FIAT_ACCOUNT",
    }
)
SOURCE_TYPES = frozenset({"VAULT_ACCOUNT", "EXCHANGE_ACCOUNT", "FIAT_ACCOUNT"})
#: Refusals of create that are about the request itself, and so final.
_FINAL_STATUSES = frozenset({400, 404, 422})
_LOCKED_AGAIN_S = 15.0


class Fireblocks(Adapter[FireblocksSettings]):
    """Pays by instruction sets of one instruction."""

    name = "fireblocks"
    Settings: ClassVar[type[BaseModel]] = FireblocksSettings
    capabilities = Capabilities(
        destination_types=frozenset({"custodian_account"}),
        payee_types=PAYEE_TYPES,
        source_types=SOURCE_TYPES,
        webhooks=True,
        one_at_a_time=True,
        # Execute is accepted once per payout id, whatever the key: a repeat on the remembered id
        # cannot pay twice. It is not declared as `repeat_is_safe`, because there is always an id to
        # look by, and a look is safer than a repeat.
        keys=KeySemantics(
            life_s=86_400, max_length=40, scope="not published", burnt_by_failure=True
        ),
        # A token lives 55 s; the rest is for a custodian's clock that is behind ours.
        call_life_s=90,
        visibility_s=60,
        polling_s=(1, 2, 3, 5, 8, 15, 30, 60, 120, 300),
        in_flight=32,
    )

    def __init__(self, settings: FireblocksSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        self._client = Client(
            settings.base_url,
            settings.api_key.get_secret_value(),
            load_private_key(settings.private_key.get_secret_value()),
            settings.timeout_s,
            tools,
        )
        v1 = settings.webhook_v1_public_key
        v1_key = None if v1 is None else webhook.load_public_key(v1.get_secret_value())
        self._verifier = webhook.Verifier(settings.jwks_url, v1_key, tools)
        self._networks = {each.asset_id: each.network for each in settings.assets.values()}

    async def submit(self, order: Order) -> Report:
        """Create the set unless one is remembered, then execute it."""
        if "payout_id" not in order.notes:
            mismatch = await self._create(order)
            if mismatch is not None:
                return mismatch
        return await self._execute(order)

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Read the remembered set. Raises NotSent where the look itself failed."""
        payout_id = order.notes.get("payout_id")
        if payout_id is None:
            return CannotLook("no payout id is remembered")
        answer = await self._client.get(f"/payments/payout/{quote(str(payout_id), safe='')}")
        if answer.status == 404:  # noqa: PLR2004
            return Absent(f"404 {answer.kind}")
        if not answer.ok:
            raise NotSent(_words(answer), again_after_s=answer.retry_after_s)
        return await self._read(order, answer.json)

    def check(self, order: Order) -> str | None:
        """Return why Fireblocks could never pay the order, or None."""
        if not isinstance(order.destination, CustodianAccountDestination):
            return f"a {order.destination.type} is no payee of an instruction set"
        if order.destination.account_type not in PAYEE_TYPES:
            return f"{order.destination.account_type} is no payee type"
        if order.source.type not in SOURCE_TYPES:
            return f"{order.source.type} is no payment account type"
        if self._asset_id(order) is None:
            return f"no Fireblocks asset id is configured for {order.asset} on {order.network}"
        return None

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a webhook's signature, v2 or v1."""
        await self._verifier.verify(headers, body)

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook; it never ends a payout."""
        return webhook.parse(body, self._networks.get)

    async def _create(self, order: Order) -> Report | None:
        """Create and remember the set; the report of a mismatch, which is never executed."""
        fault = self.check(order)
        if fault is not None:
            raise Rejected(FailureCode.SUBMISSION_REJECTED, fault)
        step = int(order.notes.get("create_step", 1))
        body = json.dumps(self._request(order)).encode()
        try:
            prepared = await self._client.prepare(
                "POST", "/payments/payout", body, order.key(_step("create", step))
            )
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            # Lost: perhaps created, never executed. A fresh key makes a set that we know the id of.
            await order.remember(create_step=step + 1)
            raise NotSent(f"create got no answer ({type(error).__name__})") from None
        if answer.ok and isinstance(answer.json.get("payoutId"), str):
            return await self._keep(order, answer.json)
        if answer.status in {200, 409} or answer.status >= 500 or answer.burnt:  # noqa: PLR2004
            await order.remember(create_step=step + 1)
        elif answer.status in _FINAL_STATUSES:
            raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)
        raise NotSent(f"create: {_words(answer)}", again_after_s=answer.retry_after_s)

    async def _keep(self, order: Order, made: dict[str, Any]) -> Report | None:
        """Compare what was created with the order, and remember it as executable only if it fits."""
        instructions = _instructions(made)
        account = made.get("paymentAccount")
        echo = self._echo(order, instructions[0] if len(instructions) == 1 else {})
        fits = (
            len(instructions) == 1
            and account == {"id": order.source.id, "type": order.source.type}
            and not echo.differences()
            and None not in (echo.asset, echo.amount, echo.destination)
        )
        if not fits:
            return Report(
                SubStatus.AWAITING_APPROVAL,
                _payout_words(made),
                echo=echo,
                detail=f"Fireblocks registered something else than was ordered as {made['payoutId']}; not executed",
            )
        await order.remember(
            payout_id=made["payoutId"], instruction_id=str(instructions[0].get("id") or "")
        )
        return None

    async def _execute(self, order: Order) -> Report:
        payout_id = str(order.notes["payout_id"])
        step = int(order.notes.get("execute_step", 1))
        path = f"/payments/payout/{quote(payout_id, safe='')}"
        repeated = order.moved
        prepared = await self._client.prepare(
            "POST", path + "/actions/execute", key=order.key(_step("execute", step))
        )
        await order.moving()
        try:
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        if answer.status == 200:  # noqa: PLR2004
            if isinstance(answer.json, dict) and answer.json.get("payoutId") == payout_id:
                return Report(
                    SubStatus.SUBMITTED,
                    "executed",
                    refs=(Ref("payout", payout_id),),
                    custodian_reference=payout_id,
                )
            raise OutcomeUnknown("execute: an answer that is not understood")
        if answer.status in {401, 403, 429}:
            # Refused at the door: credentials or rate, before anything was looked at.
            raise NotSent(f"execute: {_words(answer)}", again_after_s=answer.retry_after_s)
        # Whatever this was, its key is used up; the payout id stays the same, and is executed once.
        await order.remember(execute_step=step + 1)
        if answer.status >= 500 or answer.burnt or repeated:  # noqa: PLR2004
            raise OutcomeUnknown(f"execute: {_words(answer)}")
        return await self._refused(order, answer)

    async def _refused(self, order: Order, answer: Answer) -> Report:
        """Judge a first refusal of execute, by what the set looks like afterwards."""
        try:
            seen = await self.fetch(order)
        except (NotSent, aiohttp.ClientError, TimeoutError) as error:
            # Unseen is not unexecuted.
            message = f"execute: {_words(answer)}; then: {error}"
            raise OutcomeUnknown(message) from None
        if isinstance(seen, Report) and seen.sub_status is not None:
            return seen
        if not isinstance(seen, Absent):
            message = f"execute: {_words(answer)}; then it could not be read"
            raise OutcomeUnknown(message)
        if answer.locked:
            raise NotSent(
                f"execute: the account is busy ({answer.kind})",
                again_after_s=_LOCKED_AGAIN_S,
            )
        if answer.status in _FINAL_STATUSES:
            raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)
        raise OutcomeUnknown(f"execute: {_words(answer)}")

    async def _read(self, order: Order, told: dict[str, Any]) -> Report | Absent:
        """Read the one instruction of a set, with its transactions."""
        words = _payout_words(told)
        mine = self._mine(order, told)
        if mine is None:
            return Report(None, words, unknown_words=("instruction missing or not as ordered",))
        state, status = clean(told.get("state")), clean(told.get("status"))
        listed = [
            each
            for each in mine.get("transactions") or ()
            if isinstance(each, dict) and each.get("id")
        ]
        seen, transactions, blind = await self._transactions(order, listed)
        reading = read(
            state, status, clean(mine.get("state")), seen, clean(told.get("reasonOfFailure"))
        )
        if not reading.executed:
            return Absent(words)
        if blind and reading.sub_status in {SubStatus.DELIVERED, SubStatus.FAILED}:
            # Its sub-status decides between delivered and not credited: look again before the end.
            reading = Reading(
                SubStatus.SETTLING if reading.sub_status is SubStatus.DELIVERED else None
            )
        payout_id = str(told.get("payoutId") or order.notes["payout_id"])
        refs = [Ref("payout", payout_id)]
        refs += [Ref("instruction", str(mine["id"]))] if mine.get("id") else []
        refs += [Ref("transaction", each.id) for each in transactions]
        instruction_words = " ".join(
            [clean(mine.get("state")), *(f"{s.state}/{s.sub_status}".rstrip("/") for s in seen)]
        )
        return Report(
            reading.sub_status,
            f"{words} {instruction_words}",
            refs=tuple(refs),
            transactions=tuple(transactions),
            failure=reading.failure,
            echo=self._echo(order, mine),
            custodian_reference=payout_id,
            unknown_words=reading.unknown_words,
            detail=reading.failure.message if reading.failure else None,
        )

    def _mine(self, order: Order, told: dict[str, Any]) -> dict[str, Any] | None:
        """Return our instruction: by the remembered id, else the only one there is."""
        instructions = _instructions(told)
        wanted = order.notes.get("instruction_id")
        by_id = [each for each in instructions if wanted and each.get("id") == wanted]
        found = by_id or instructions
        return found[0] if len(found) == 1 else None

    async def _transactions(
        self, order: Order, listed: Sequence[dict[str, Any]]
    ) -> tuple[list[Seen], list[Transaction], bool]:
        """Return the instruction's transactions with hash and sub-status; whether a look failed."""
        seen, transactions, blind = [], [], False
        for each in listed:
            details: dict[str, Any] = {}
            state = clean(each.get("state"))
            if state not in {"SUBMITTED", "QUEUED", "PENDING_AUTHORIZATION", "PENDING_SIGNATURE"}:
                found = await self._details(str(each["id"]))
                blind |= found is None
                details = found or {}
            sub_status = clean(details.get("subStatus"))
            if state == "COMPLETED" and sub_status not in NOT_CREDITED:
                sub_status = ""
            seen.append(Seen(state, sub_status))
            stamp = each.get("timestamp")
            transactions.append(
                Transaction(
                    id=str(each["id"]),
                    tx_hash=clean(details.get("txHash")) or None,
                    network=order.network,
                    status=state,
                    at=webhook.read_time(stamp) or self.tools.clock.now(),
                )
            )
        return seen, transactions, blind

    async def _details(self, transaction_id: str) -> dict[str, Any] | None:
        """Return a transaction's details; {} where they are not ours to read, None where the look failed."""
        try:
            answer = await self._client.get(f"/transactions/{quote(transaction_id, safe='')}")
        except (aiohttp.ClientError, TimeoutError):
            return None
        if answer.ok:
            found: dict[str, Any] = answer.json
            return found
        return {} if answer.status in {403, 404} else None

    def _request(self, order: Order) -> dict[str, Any]:
        """Return the body of create; the same at every repeat."""
        payee = order.destination
        assert isinstance(payee, CustodianAccountDestination)  # noqa: S101 - checked before
        return {
            "paymentAccount": {"id": order.source.id, "type": order.source.type},
            "instructionSet": [
                {
                    "id": order.key("instruction"),
                    "payeeAccount": {"id": payee.id, "type": payee.account_type},
                    "amount": {
                        "amount": format_amount(order.amount),
                        "assetId": self._asset_id(order),
                    },
                }
            ],
        }

    def _echo(self, order: Order, instruction: dict[str, Any]) -> Echo:
        """Return what Fireblocks says of the instruction beside what was ordered, in its words."""
        payee, amount = instruction.get("payeeAccount"), instruction.get("amount")
        destination = order.destination
        assert isinstance(destination, CustodianAccountDestination)  # noqa: S101 - checked before
        told_amount = decimal_of(amount.get("amount")) if isinstance(amount, dict) else None
        return Echo(
            asset=clean(amount.get("assetId")) or None if isinstance(amount, dict) else None,
            amount=told_amount,
            destination=f"{payee.get('type')} {payee.get('id')}"
            if isinstance(payee, dict)
            else None,
            ordered_asset=self._asset_id(order),
            ordered_amount=order.amount,
            ordered_destination=f"{destination.account_type} {destination.id}",
        )

    def _asset_id(self, order: Order) -> str | None:
        """Return Fireblocks' id of the order's asset on its network."""
        assets = self.settings.assets
        exact = assets.get(f"{order.asset}:{order.network}")
        plain = assets.get(order.asset)
        if exact is not None:
            return exact.asset_id
        if plain is not None and (order.network is None or plain.network in {None, order.network}):
            return plain.asset_id
        return None


def _step(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _instructions(told: dict[str, Any]) -> list[dict[str, Any]]:
    found = told.get("instructionSet")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _payout_words(told: dict[str, Any]) -> str:
    return "/".join(
        clean(told.get(name)) for name in ("state", "status", "reasonOfFailure") if told.get(name)
    )


def _words(answer: Answer) -> str:
    return f"HTTP {answer.status} {answer.kind} {answer.message}".strip()[:300]
