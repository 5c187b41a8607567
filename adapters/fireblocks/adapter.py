"""Fireblocks payout instruction sets: the adapter creates and executes them, and follows each instruction.

A single payout is a set of one. Create registers a set and moves nothing; execute is the moving call,
which Fireblocks itself accepts once per payout id. Only a remembered set is executed, so an orphan of a
lost create is harmless. Source: fireblocks protocol notes, §2 to §6.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel

from adapters.fireblocks import webhook
from adapters.fireblocks.balances import balances_of, path_of
from adapters.fireblocks.client import Answer, Client, load_private_key
from adapters.fireblocks.instructions import (
    account_of,
    assign,
    candidate_of,
    echo_of,
    instructions_of,
    payout_words,
    request_of,
    words_of_account,
)
from adapters.fireblocks.reading import Reader
from adapters.fireblocks.settings import FireblocksSettings
from adapters.fireblocks.statuses import refusal_code
from gateway.adapter import (
    Absent,
    Account,
    Adapter,
    Balance,
    BatchOrder,
    BatchReport,
    CannotLook,
    Capabilities,
    CredentialsRefused,
    CustodianAccountDestination,
    FailureCode,
    KeySemantics,
    Misconfigured,
    Notice,
    NotSent,
    OutcomeUnknown,
    Rate,
    RateLimited,
    Ref,
    Rejected,
    Report,
    SubStatus,
    Terms,
    Tools,
    TurnedAway,
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
#: Refused before processing, because of our credentials, our address or our rate.
_AT_THE_DOOR: Mapping[int, type[TurnedAway]] = {
    401: CredentialsRefused,
    403: CredentialsRefused,
    404: Misconfigured,
    429: RateLimited,
}
_LOCKED_AGAIN_S = 15.0


class Fireblocks(Adapter[FireblocksSettings]):
    """Pays by instruction sets, of one instruction or of a whole part of a batch."""

    name = "fireblocks"
    Settings: ClassVar[type[BaseModel]] = FireblocksSettings
    capabilities = Capabilities(
        destination_types=frozenset({"custodian_account"}),
        payee_types=PAYEE_TYPES,
        source_types=SOURCE_TYPES,
        batch=True,
        webhooks=True,
        one_at_a_time=True,
        # Execute is accepted once per payout id, whatever the key: a repeat on the remembered id cannot
        # pay twice. A look comes first, and says so (`CannotLook`) where the set may have been executed
        # and does not show it. A day bounds that: later, or after a reboot, a person decides. A failure
        # on their side uses up a key, so the next request has another step.
        keys=KeySemantics(life_s=86_400, max_length=40),
        # A token lives 55 s by our wall clock, which may be 30 s ahead of the custodian's.
        call_life_s=90,
        dated_by_clock=True,
        visibility_s=60,
        # Sets are looked up by the id that Fireblocks assigned; there is no list, and no search by our
        # id.
        finds_lost_calls=False,
        # The limits are negotiated, and 429 is not documented for execute, so it proves nothing there.
        rate=Rate(),
        polling_s=(1, 2, 3, 5, 8, 15, 30, 60, 120, 300),
        in_flight=32,
    )
    #: The API key names the API user, and by it the workspace; its private key does not.
    account_settings = ("base_url", "api_key")

    def __init__(self, settings: FireblocksSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        whole = settings.requests_per_minute
        if whole is not None:
            # The configured number in any minute, and a tenth of it at once.
            burst = max(1, whole // 10)
            rate = Rate((whole - burst) / 60, burst)
            self.capabilities = replace(type(self).capabilities, rate=rate)
        self._client = Client(
            settings.base_url,
            settings.api_key.get_secret_value(),
            load_private_key(settings.private_key.get_secret_value()),
            settings.timeout_s,
            tools,
        )
        v1 = settings.webhook_v1_public_key
        v1_key = None if v1 is None else webhook.load_public_key(v1.get_secret_value())
        self._verifier = webhook.Verifier(settings.jwks_url, v1_key, tools, settings.workspace_id)
        self._reader = Reader(self._client, self._asset_id, tools, settings.fee_prices_usd)
        self._networks = {each.asset_id: each.network for each in settings.assets.values()}

    def set_limit(self) -> int:
        """Return how many instructions a set may have."""
        return self.settings.set_limit

    async def submit_batch(self, batch: BatchOrder) -> BatchReport:
        """Create the set unless one is remembered, and execute it."""
        if "payout_id" not in batch.notes:
            mismatch = await self._create(batch)
            if mismatch is not None:
                return mismatch
        return await self._execute(batch)

    async def fetch_batch(self, batch: BatchOrder) -> BatchReport | Absent | CannotLook:
        """Read the remembered set with all its instructions. Raises NotSent if the look failed."""
        if batch.notes.get("payout_id") is None:
            return CannotLook("no payout id is remembered")
        told = await self._look(batch)
        return Absent("404") if told is None else await self._reader.read(batch, told)

    async def balances(self, account: Account) -> Sequence[Balance]:
        """Return what a vault, exchange or bank account can pay. Raises NotSent, Unsupported."""
        answer = await self._client.get(path_of(account))
        if not answer.ok:
            raise NotSent(f"balances: {_words(answer)}", again_after_s=answer.retry_after_s)
        now = self.tools.clock.now()
        return balances_of(account, answer.json, self.settings.assets, now)

    async def probe(self) -> None:
        """Ask for a payout that cannot exist; the answer, whatever it is, carries a `Date`."""
        random = uuid.UUID(bytes=self.tools.ids.random_bytes(16), version=4)
        await self._client.get(_path(str(random)))

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
        """Check a webhook's signature, v2 or v1, and then its workspace."""
        await self._verifier.verify(headers, body)

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook; it never ends a payout."""
        return webhook.parse(
            body, self._networks.get, believed_for_s=self.settings.webhook_max_age_s
        )

    # --- Create: nothing moves --------------------------------------------------------------------

    async def _create(self, batch: BatchOrder) -> BatchReport | None:
        """Create and remember the set; the report of a mismatch, which is never executed."""
        for item in batch.items:
            fault = self.check(item)
            if fault is not None:
                whose = f"{item.payout_id}: " if len(batch.items) > 1 else ""
                raise Rejected(FailureCode.SUBMISSION_REJECTED, whose + fault)
        step = int(batch.notes.get("create_step", 1))
        body = json.dumps(request_of(batch, self._asset_id)).encode()
        try:
            prepared = await self._client.prepare(
                "POST", "/payments/payout", body, batch.key(_step("create", step))
            )
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            # The reply was lost: the set may exist, but is never executed. A fresh key makes a set with
            # a known id.
            await batch.remember(create_step=step + 1)
            raise NotSent(f"create got no answer ({type(error).__name__})") from None
        if answer.ok and isinstance(answer.json.get("payoutId"), str) and answer.json["payoutId"]:
            return await self._keep(batch, answer.json)
        if answer.refusal:
            raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)
        if answer.status not in {401, 429}:
            # A replay under this key is useless, and another orphan costs nothing.
            await batch.remember(create_step=step + 1)
        raise _not_done("create", answer)

    async def _keep(self, batch: BatchOrder, made: dict[str, Any]) -> BatchReport | None:
        """Compare what was created with the order, and remember it as executable only if it fits.

        A single note assigns the instructions to the items, so it never covers only part of a set.
        """
        told = instructions_of(made)
        mapping = assign(batch.items, told, self._asset_id)
        account_fits = account_of(made.get("paymentAccount")) == words_of_account(batch.source)
        if mapping is None or not account_fits:
            return self._parked(batch, made, account_fits=account_fits, fits=mapping is not None)
        ids = {key: str(told[at].get("id") or "") for key, at in mapping.items()}
        await batch.remember(
            payout_id=made["payoutId"],
            instructions=ids,
            positions={key: at for key, at in mapping.items() if not ids[key]},
        )
        return None

    def _parked(
        self, batch: BatchOrder, made: dict[str, Any], *, account_fits: bool, fits: bool
    ) -> BatchReport:
        """Return the report of a set that differs from the order; it waits for a person, who sees the reason."""
        told = instructions_of(made)
        echoes = {
            item.payout_id: echo_of(item, self._asset_id(item), candidate, None)
            for item in batch.items
            if (candidate := candidate_of(batch, item, told)) is not None
        }
        unfit = () if account_fits else ("paymentAccount",)
        if len(told) != len(batch.items):
            unfit = (*unfit, "instructionSet")
        elif not fits and not any(each.differences() for each in echoes.values()):
            # A part of it is not reported, or the instructions cannot be assigned to the items.
            unfit = (*unfit, "instruction")
        detail = (
            f"Fireblocks registered something else than was ordered as {made['payoutId']}; "
            "not executed"
        )
        words = payout_words(made)
        waits = Report(SubStatus.AWAITING_APPROVAL, words, detail=detail)
        items = {
            item.payout_id: replace(waits, echo=echoes.get(item.payout_id)) for item in batch.items
        }
        # The operator's list gets one row for the set, and not one for each item.
        first = batch.items[0].payout_id
        items[first] = replace(items[first], unknown_words=unfit)
        return BatchReport(words, items, detail=detail)

    # --- Execute: the moving call -----------------------------------------------------------------

    async def _execute(self, batch: BatchOrder) -> BatchReport:
        payout_id = str(batch.notes["payout_id"])
        step = int(batch.notes.get("execute_step", 1))
        prepared = await self._client.prepare(
            "POST", f"{_path(payout_id)}/actions/execute", key=batch.key(_step("execute", step))
        )
        await batch.moving()
        try:
            answer = await self._client.send(prepared)
        except aiohttp.ClientConnectorError as error:
            raise NotSent(f"no connection ({type(error).__name__})") from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutcomeUnknown(f"execute got no answer ({type(error).__name__})") from None
        if answer.ok and answer.json.get("payoutId") == payout_id:
            return _submitted(batch, payout_id, "executed")
        if answer.status in _AT_THE_DOOR and answer.status != 404 and answer.documented:  # noqa: PLR2004
            raise _not_done("execute", answer)
        # Whatever happened, this key is used up; the payout id stays the same, and is executed once.
        await batch.remember(execute_step=step + 1)
        if answer.executed_before:
            # An earlier call arrived. It may wait for its account, in which case it is not shown as
            # executed.
            return _submitted(batch, payout_id, "executed before")
        # Only a documented error counts as a refusal. The refusal of a repeat can be the echo of a
        # first call that arrived, unless it is about another payout of the account.
        clear = answer.status == 400 and answer.refusal and not answer.done_before  # noqa: PLR2004
        if not clear or (batch.moved and not answer.locked):
            raise OutcomeUnknown(f"execute: {_words(answer)}")
        return await self._refused(batch, answer)

    async def _refused(self, batch: BatchOrder, answer: Answer) -> BatchReport:
        """Judge a clear refusal of execute by the set's state afterwards."""
        try:
            told = await self._look(batch)
            seen = None if told is None else await self._reader.read(batch, told)
        except NotSent as error:
            # A set that was not seen may still be executed.
            raise OutcomeUnknown(f"execute: {_words(answer)}; then: {error}") from None
        if isinstance(seen, BatchReport) and all(
            each.sub_status is not None for each in seen.items.values()
        ):
            return seen
        if not isinstance(seen, Absent | CannotLook):
            raise OutcomeUnknown(f"execute: {_words(answer)}; then it could not be read")
        if answer.locked:
            # This holds for this call only: an earlier one may be executed and wait for the account.
            raise NotSent(
                f"execute: the account is busy ({answer.kind})", again_after_s=_LOCKED_AGAIN_S
            )
        if isinstance(seen, CannotLook):
            raise OutcomeUnknown(f"execute: {_words(answer)}; then: {seen.reason}")
        raise Rejected(refusal_code(answer.message), answer.message, custodian_code=answer.kind)

    async def _look(self, batch: BatchOrder) -> dict[str, Any] | None:
        """Return the remembered set; None if the API says that there is none. Raises NotSent."""
        try:
            answer = await self._client.get(_path(str(batch.notes["payout_id"])))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSent(f"status: no answer ({type(error).__name__})") from None
        if not answer.ok and not answer.not_found:
            raise _not_done("status", answer)
        return dict(answer.json) if answer.ok else None

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


def _submitted(batch: BatchOrder, payout_id: str, word: str) -> BatchReport:
    """Return the report of a set that Fireblocks executes."""
    taken = Report(SubStatus.SUBMITTED, word, custodian_reference=payout_id)
    items = {item.payout_id: taken for item in batch.items}
    # The set's id identifies the first item, and through it the set.
    items[batch.items[0].payout_id] = replace(taken, refs=(Ref("payout", payout_id),))
    return BatchReport(word, items, custodian_reference=payout_id)


def _step(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _path(payout_id: str) -> str:
    return f"/payments/payout/{quote(payout_id, safe='')}"


def _not_done(call: str, answer: Answer) -> NotSent:
    """Return the error for a call that did nothing, with the fix if the problem is ours."""
    kind = _AT_THE_DOOR.get(answer.status, NotSent)
    return kind(f"{call}: {_words(answer)}", again_after_s=answer.retry_after_s)


def _words(answer: Answer) -> str:
    return f"HTTP {answer.status} {answer.kind} {answer.message}".strip()
