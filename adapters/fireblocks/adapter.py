"""Fireblocks payout instruction sets: create, execute, follow each instruction.

Create registers and moves nothing; execute is the moving call, accepted once per payout id by
Fireblocks itself. Only what was remembered is executed, so that an orphan of a lost create is
harmless. Source: fireblocks protocol notes, §2 to §6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel

from adapters.fireblocks import webhook
from adapters.fireblocks.client import Answer, Client, load_private_key
from adapters.fireblocks.instruction import (
    another_set,
    echo_of,
    instructions_of,
    mine_of,
    misfits,
    payout_words,
    request_of,
)
from adapters.fireblocks.sets import Sets
from adapters.fireblocks.settings import FireblocksSettings
from adapters.fireblocks.statuses import (
    BEFORE_THE_NETWORK,
    Reading,
    Seen,
    clean,
    not_credited,
    read,
    refusal_code,
)
from gateway.adapter import (
    Absent,
    Adapter,
    BatchOrder,
    BatchReport,
    CannotLook,
    Capabilities,
    CustodianAccountDestination,
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
    Terms,
    Tools,
    Transaction,
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
#: Stopped at the door, for our credentials or our rate, before anything was looked at.
_AT_THE_DOOR = frozenset({401, 403, 429})
_LOCKED_AGAIN_S = 15.0


class Fireblocks(Adapter[FireblocksSettings]):
    """Pays by instruction sets: of one instruction, or of a whole part of a batch."""

    name = "fireblocks"
    Settings: ClassVar[type[BaseModel]] = FireblocksSettings
    capabilities = Capabilities(
        destination_types=frozenset({"custodian_account"}),
        payee_types=PAYEE_TYPES,
        source_types=SOURCE_TYPES,
        batch=True,
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
        self._sets = Sets(self._client, self._asset_id, self.check, self._read_one)
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
        if order.notes.get("payout_id") is None:
            return CannotLook("no payout id is remembered")
        answer = await self._look(order)
        if answer.not_found:
            return Absent(f"404 {answer.kind}")
        return await self._read(order, answer.json)

    def set_limit(self) -> int:
        """Return how many instructions a set may have."""
        return self.settings.set_limit

    async def submit_batch(self, batch: BatchOrder) -> BatchReport:
        """Create the set unless one is remembered, then execute it."""
        return await self._sets.submit(batch)

    async def fetch_batch(self, batch: BatchOrder) -> BatchReport | Absent | CannotLook:
        """Read the remembered set, every instruction of it."""
        return await self._sets.fetch(batch)

    def check(self, terms: Terms) -> str | None:
        """Return why Fireblocks could never pay on these terms, or None."""
        if not isinstance(terms.destination, CustodianAccountDestination):
            return f"a {terms.destination.type} is no payee of an instruction set"
        if terms.destination.account_type not in PAYEE_TYPES:
            return f"{terms.destination.account_type} is no payee type"
        if terms.source.type not in SOURCE_TYPES:
            return f"{terms.source.type} is no payment account type"
        if self._asset_id(terms) is None:
            return f"no Fireblocks asset id is configured for {terms.asset} on {terms.network}"
        return None

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a webhook's signature, v2 or v1."""
        await self._verifier.verify(headers, body)

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook; it never ends a payout."""
        return webhook.parse(body, self._networks.get)

    async def _create(self, order: Order) -> Report | None:
        """Create and remember the set; the report of a mismatch, which is never executed."""
        fault, asset_id = self.check(order), self._asset_id(order)
        if fault is not None or asset_id is None:
            raise Rejected(FailureCode.SUBMISSION_REJECTED, fault or "")
        step = int(order.notes.get("create_step", 1))
        body = json.dumps(request_of(order, asset_id)).encode()
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
        if answer.ok and isinstance(answer.json.get("payoutId"), str) and answer.json["payoutId"]:
            return await self._keep(order, asset_id, answer.json)
        if answer.refusal:
            raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)
        if answer.status not in {401, 429}:
            # Whatever the key would replay is of no use; another orphan costs nothing.
            await order.remember(create_step=step + 1)
        raise NotSent(f"create: {_words(answer)}", again_after_s=answer.retry_after_s)

    async def _keep(self, order: Order, asset_id: str, made: dict[str, Any]) -> Report | None:
        """Compare what was created with the order, and remember it as executable only if it fits."""
        mine = next(iter(instructions_of(made)), {})
        echo = echo_of(order, asset_id, mine)
        unfit = misfits(order, made, echo)
        if unfit or echo.differences():
            return Report(
                SubStatus.AWAITING_APPROVAL,
                payout_words(made),
                echo=echo,
                unknown_words=unfit,
                detail=f"Fireblocks registered something else than was ordered as {made['payoutId']}; not executed",
            )
        await order.remember(payout_id=made["payoutId"], instruction_id=str(mine.get("id") or ""))
        return None

    async def _execute(self, order: Order) -> Report:
        payout_id = str(order.notes["payout_id"])
        step = int(order.notes.get("execute_step", 1))
        repeated = order.moved
        prepared = await self._client.prepare(
            "POST", f"{_path(payout_id)}/actions/execute", key=order.key(_step("execute", step))
        )
        await order.moving()
        try:
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        if answer.ok and answer.json.get("payoutId") == payout_id:
            return Report(
                SubStatus.SUBMITTED,
                "executed",
                refs=(Ref("payout", payout_id),),
                custodian_reference=payout_id,
            )
        if answer.status in _AT_THE_DOOR:
            raise NotSent(f"execute: {_words(answer)}", again_after_s=answer.retry_after_s)
        # Whatever this was, its key is used up; the payout id stays the same, and is executed once.
        await order.remember(execute_step=step + 1)
        # Only a clear no of the documented kind may be one. A repeat's can be the echo of a first
        # call that arrived, unless it speaks of another payout being in the way.
        clear = answer.status == 400 and answer.refusal and not answer.done_before  # noqa: PLR2004
        if not clear or (repeated and not answer.locked):
            raise OutcomeUnknown(f"execute: {_words(answer)}")
        return await self._refused(order, answer)

    async def _refused(self, order: Order, answer: Answer) -> Report:
        """Judge a clear refusal of execute, by what the set looks like afterwards."""
        try:
            look = await self._look(order)
        except (NotSent, aiohttp.ClientError, TimeoutError) as error:
            # Unseen is not unexecuted.
            raise OutcomeUnknown(f"execute: {_words(answer)}; then: {error}") from None
        seen = None if look.not_found else await self._read(order, look.json)
        if isinstance(seen, Report) and seen.sub_status is not None:
            return seen
        if not isinstance(seen, Absent):
            raise OutcomeUnknown(f"execute: {_words(answer)}; then it could not be read")
        if answer.locked:
            raise NotSent(
                f"execute: the account is busy ({answer.kind})", again_after_s=_LOCKED_AGAIN_S
            )
        raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)

    async def _look(self, order: Order) -> Answer:
        """Ask for the remembered set. Raises NotSent unless it is told, or told to be unknown."""
        answer = await self._client.get(_path(str(order.notes["payout_id"])))
        if not answer.ok and not answer.not_found:
            raise NotSent(_words(answer), again_after_s=answer.retry_after_s)
        return answer

    async def _read(self, order: Order, told: dict[str, Any]) -> Report | Absent:
        """Read the one instruction of a set, with its transactions."""
        words = payout_words(told)
        mine = mine_of(order, told)
        listed = None if mine is None else mine.get("transactions")
        if mine is None or another_set(order, told) or not isinstance(listed, list):
            return Report(None, words, unknown_words=("instruction missing or not as ordered",))
        report = await self._read_one(order, told, mine)
        if report is None:
            return Absent(words)
        payout_id = str(order.notes["payout_id"])
        refs = (Ref("payout", payout_id), *report.refs)
        return replace(report, refs=refs, custodian_reference=payout_id)

    async def _read_one(
        self, terms: Terms, told: Mapping[str, Any], mine: Mapping[str, Any]
    ) -> Report | None:
        """Read one instruction of a set; None where the set is registered, and nothing more."""
        listed = mine.get("transactions")
        if not isinstance(listed, list):
            words = payout_words(dict(told))
            return Report(None, words, unknown_words=("instruction without its transactions",))
        seen, transactions, blind = await self._transactions(terms, listed)
        reading = read(
            clean(told.get("state")),
            clean(told.get("status")),
            clean(mine.get("state")),
            seen,
            self._reason(told, mine),
        )
        if not reading.executed:
            return None
        if blind and reading.sub_status in {SubStatus.DELIVERED, SubStatus.FAILED}:
            # Its sub-status decides between delivered and not credited: look again before the end.
            reading = Reading(
                SubStatus.SETTLING if reading.sub_status is SubStatus.DELIVERED else None
            )
        refs = [Ref("instruction", str(mine["id"]))] if mine.get("id") else []
        refs += [Ref("transaction", each.id) for each in transactions]
        instruction_words = " ".join(
            [clean(mine.get("state")), *(f"{s.state}/{s.sub_status}".rstrip("/") for s in seen)]
        )
        return Report(
            reading.sub_status,
            f"{payout_words(dict(told))} {instruction_words}",
            refs=tuple(refs),
            transactions=tuple(transactions),
            failure=reading.failure,
            echo=echo_of(terms, self._asset_id(terms), dict(mine)),
            unknown_words=reading.unknown_words,
            detail=reading.failure.message if reading.failure else None,
        )

    @staticmethod
    def _reason(told: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
        """Return the set's reason, as far as it is this instruction's: one of many may have another."""
        alone = len(instructions_of(dict(told))) == 1 or clean(mine.get("state")) == "NOT_STARTED"
        return clean(told.get("reasonOfFailure")) if alone else ""

    async def _transactions(
        self, terms: Terms, listed: Sequence[Any]
    ) -> tuple[list[Seen], list[Transaction], bool]:
        """Return the instruction's transactions with hash and sub-status; whether a look failed."""
        seen, transactions, blind = [], [], False
        for each in (one if isinstance(one, dict) else {} for one in listed):
            details: dict[str, Any] = {}
            identifier, state = clean(each.get("id")), clean(each.get("state"))
            if identifier and state not in BEFORE_THE_NETWORK:
                found = await self._details(identifier)
                blind |= found is None
                details = found or {}
            tx_hash, sub_status = clean(details.get("txHash")), clean(details.get("subStatus"))
            if state == "COMPLETED" and not not_credited(sub_status):
                sub_status = ""
            # One without an id is seen, too: it may move money, whatever it is called.
            seen.append(Seen(state, sub_status, on_chain=bool(tx_hash)))
            if identifier:
                at = webhook.read_time(each.get("timestamp")) or self.tools.clock.now()
                transactions.append(
                    Transaction(
                        id=identifier,
                        tx_hash=tx_hash or None,
                        network=terms.network,
                        status=state,
                        at=at,
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

    def _asset_id(self, terms: Terms) -> str | None:
        """Return Fireblocks' id of the order's asset on its network."""
        assets = self.settings.assets
        exact = assets.get(f"{terms.asset}:{terms.network}")
        plain = assets.get(terms.asset)
        if exact is not None:
            return exact.asset_id
        if plain is not None and (terms.network is None or plain.network in {None, terms.network}):
            return plain.asset_id
        return None


def _step(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _path(payout_id: str) -> str:
    return f"/payments/payout/{quote(payout_id, safe='')}"


def _words(answer: Answer) -> str:
    return f"HTTP {answer.status} {answer.kind} {answer.message}".strip()
