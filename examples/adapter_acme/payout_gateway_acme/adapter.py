"""The acme adapter, from which a new one starts (`payout-gateway adapters new acme`).

The imaginary custodian "Acme" has one POST that pays at once, a GET to look up by our own key, and
webhooks signed by HMAC, which name that key. Its keys are permanent and bound to their body. Money can
come back after the delivery. See README.md for the wire.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, SecretStr

# The contract is the only import from the gateway.
from gateway.adapter import (
    Absent,
    Account,
    Adapter,
    AddressDestination,
    Balance,
    CannotLook,
    Capabilities,
    CredentialsRefused,
    CustodianAccountDestination,
    Echo,
    Failure,
    FailureCode,
    FundsMoved,
    InvalidSignature,
    KeySemantics,
    Misconfigured,
    Notice,
    NotSent,
    Order,
    OutcomeUnknown,
    Rate,
    RateLimited,
    Ref,
    Rejected,
    Report,
    Returned,
    SubStatus,
    Terms,
    Transaction,
    TurnedAway,
    format_amount,
    read_time,
)

# Tables come first: the custodian's statuses and ours. A status that is missing here changes nothing.
STATES: Mapping[str, SubStatus] = {
    "ACCEPTED": SubStatus.SUBMITTED,
    "SENT": SubStatus.BROADCAST,
    "DONE": SubStatus.DELIVERED,
    "REFUSED": SubStatus.FAILED,
}
REASONS: Mapping[str, FailureCode] = {
    "NO_FUNDS": FailureCode.INSUFFICIENT_FUNDS,
    "BAD_DESTINATION": FailureCode.DESTINATION_REJECTED,
    "POLICY": FailureCode.POLICY_REJECTED,
}
_CREATED, _REPEATED = 201, 200
#: Refused before Acme read the request: it says nothing about the payout.
_AT_THE_DOOR: Mapping[int, type[TurnedAway]] = {
    401: CredentialsRefused,
    403: CredentialsRefused,
    404: Misconfigured,
    429: RateLimited,
}
#: Acme read the request and refused it, finally.
_FINAL = frozenset({400, 422})


class AcmeSettings(BaseModel):
    """The settings. Secrets are `SecretStr`, and there is no default address."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str = Field(pattern=r"^https?://[^\s?#]+$", description="API address, with /v1.")
    api_key: SecretStr = Field(description="API key.")
    webhook_secret: SecretStr = Field(description="Secret that webhooks are signed with.")
    timeout_s: float = Field(
        default=10, gt=0, le=40, description="Longest time for one HTTP call, in seconds."
    )


class Acme(Adapter[AcmeSettings]):
    """Pays through Acme's transfers."""

    name = "acme"
    Settings: ClassVar[type[BaseModel]] = AcmeSettings
    capabilities = Capabilities(
        destination_types=frozenset({"custodian_account", "address"}),
        webhooks=True,
        # How Acme treats a key: the same key and body pay only once, for ever, so the engine may
        # repeat.
        keys=KeySemantics(
            life_s=None,
            shared_by_credentials=True,
            look_up=True,
            repeat_is_safe=True,
            failure_is_final=True,
        ),
        # An API key never expires, so a request that was sent may arrive at any time, and the absence
        # of a transfer proves nothing. If a token or a session expires, declare its life in seconds
        # here.
        call_life_s=None,
        visibility_s=10,
        # `fetch` looks up by our key, and every call of an order is made under that one key: it also
        # finds a call that an older copy of the database has no record of.
        finds_lost_calls=True,
        # Acme publishes no limit, and executes nothing that it answers with 429. With a limit, such as
        # Rate(per_s=20, burst=40), the gateway keeps below it.
        rate=Rate(refusal_proves_unsent=True),
        polling_s=(1, 2, 5, 10, 30, 60, 300),
        # Money can come back for a day, and the webhook that reports it may be lost.
        looked_after_delivery_s=86_400,
    )
    # The settings that identify the account. Another webhook secret or timeout does not mean another
    # account.
    account_settings = ("base_url", "api_key")

    async def submit(self, order: Order) -> Report:
        """Pay. There is one call, and it moves money; a repeat is the same call."""
        fault = self.check(order)
        if fault is not None:
            raise Rejected(FailureCode.DESTINATION_REJECTED, fault)
        body = json.dumps(self._request(order)).encode()
        # Webhooks name our key: one that arrives before the reply finds its payout at once.
        await order.expect(Ref("key", order.key("transfer")))
        # Everything is ready. From here on, the engine treats every doubt as "it may have arrived".
        await order.moving()
        try:
            status, payload = await self._call("POST", "/transfers", body)
        except aiohttp.ClientConnectorError as error:
            # No connection was made, so nothing was sent. Only the adapter can know that.
            message = f"no connection ({type(error).__name__})"
            raise NotSent(message) from None
        if status in {_CREATED, _REPEATED}:
            return self._report(order, payload)
        if status in _AT_THE_DOOR and isinstance(payload, dict):
            # This holds only if the body is the API's own JSON; a proxy's page says nothing about the
            # call.
            message = f"refused: HTTP {status}"
            raise _AT_THE_DOOR[status](message)
        if status not in _FINAL:
            # Everything that is not a clear refusal: 409 ("key already used" after a lost reply means
            # that the first call arrived), 5xx, a redirect, a proxy's page.
            message = f"HTTP {status}"
            raise OutcomeUnknown(message)
        reason = str(payload.get("reason", "")) if isinstance(payload, dict) else ""
        code = REASONS.get(reason, FailureCode.SUBMISSION_REJECTED)
        raise Rejected(code, f"Acme refused the transfer ({status})", custodian_code=reason)

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Look up by our own key. Read-only."""
        status, payload = await self._call("GET", f"/transfers/{order.key('transfer')}")
        if status == 404 and isinstance(payload, dict):  # noqa: PLR2004
            # This holds only if the body is the API's own JSON: a proxy's page says nothing. An absent
            # transfer is not a failure; the engine decides what it proves.
            return Absent("404")
        if status != _REPEATED:
            message = f"the look-up failed: HTTP {status}"
            raise _AT_THE_DOOR.get(status, NotSent)(message)
        return self._report(order, payload)

    def check(self, terms: Terms) -> str | None:
        """Return why Acme could never pay the terms. Nothing is dropped silently."""
        if isinstance(terms.destination, AddressDestination) and terms.destination.memo is not None:
            return "Acme cannot carry a memo"
        return None

    async def identity(self) -> str:
        """Return Acme's own id of the account that the API key belongs to."""
        status, payload = await self._call("GET", "/account")
        account = payload.get("id") if isinstance(payload, dict) else None
        if status != _REPEATED or not isinstance(account, str) or not account:
            message = f"the account could not be read: HTTP {status}"
            raise NotSent(message)
        return account

    async def balances(self, account: Account) -> Sequence[Balance]:
        """Return what the account can pay. Acme deducts an accepted transfer at once."""
        status, payload = await self._call("GET", f"/accounts/{quote(account.id, safe='')}")
        at = self.tools.clock.now()
        # Never guess: an account that could not be read keeps its previous balance.
        fault = f"the account could not be read: HTTP {status}"
        if status != _REPEATED:
            raise NotSent(fault)
        try:
            return [
                Balance(str(each["asset"]), Decimal(each["amount"]), None, at)
                for each in payload["balances"]
            ]
        except (KeyError, TypeError, ArithmeticError):
            raise NotSent(fault) from None

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check the signature over the raw bytes, in constant time."""
        secret = self.settings.webhook_secret.get_secret_value().encode()
        expected = hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(headers.get("acme-signature", "").encode(), expected.encode()):
            message = "the signature does not match"
            raise InvalidSignature(message)

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read `{"id", "transfer"}`. Pure; a ValueError keeps the body unread.

        The notice carries no report: it only brings the next look-up forward, which is always right. Money
        that came back is in it, because the gateway counts each return once, wherever it is reported.
        """
        payload = json.loads(body)
        try:
            transfer = payload["transfer"]
            refs = (Ref("key", str(transfer["key"])),)
            return [Notice(refs, str(payload["id"]), returned=_returned(transfer))]
        except (KeyError, TypeError, ArithmeticError, AttributeError):
            message = "this is not a webhook of Acme"
            raise ValueError(message) from None

    def _request(self, order: Order) -> dict[str, Any]:
        """Return the body. Every repeat has the same body, because all of it comes from the order."""
        return {
            "key": order.key("transfer"),
            "source": order.source.id,
            "destination": _destination(order),
            "asset": order.asset,
            "amount": format_amount(order.amount),
        }

    def _report(self, order: Order, payload: Any) -> Report:
        """Turn a transfer into a report; an unknown status stays raw."""
        try:
            transfer_id, state = str(payload["id"]), str(payload["state"]).strip()
            echo = Echo(
                asset=str(payload["asset"]),
                amount=Decimal(payload["amount"]),
                destination=str(payload["destination"]),
                reference=str(payload["key"]),
                ordered_asset=order.asset,
                ordered_amount=order.amount,
                ordered_destination=_destination(order),
                ordered_reference=order.key("transfer"),
            )
            returned = _returned(payload)
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
            message = "the response is not understood"
            raise OutcomeUnknown(message) from None
        sub_status = STATES.get(state)
        transaction = Transaction(
            id=transfer_id,
            tx_hash=payload.get("tx_hash"),
            network=order.network,
            status=state,
            at=self.tools.clock.now(),
        )
        return Report(
            sub_status,
            state,
            refs=(Ref("transfer", transfer_id),),
            transactions=(transaction,),
            failure=_failure(payload) if sub_status is SubStatus.FAILED else None,
            echo=echo,
            custodian_reference=transfer_id,
            unknown_words=() if sub_status else (state,),
            # Use only what Acme reports of a DONE transfer, never the ordered amount.
            final_recipient_amount=echo.amount if sub_status is SubStatus.DELIVERED else None,
            # Report every return each time; the status stays DONE.
            returned=returned,
        )

    async def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Call Acme; return the status and the JSON (None if the body is not JSON)."""
        async with self.tools.http.request(
            method,
            self.settings.base_url.rstrip("/") + path,
            data=body,
            headers={
                "Authorization": f"Bearer {self.settings.api_key.get_secret_value()}",
                "Content-Type": "application/json",
            },
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout_s),
        ) as answer:
            raw = await answer.read()
        try:
            return answer.status, json.loads(raw)
        except ValueError:
            return answer.status, None


def _destination(terms: Terms) -> str:
    destination = terms.destination
    if isinstance(destination, AddressDestination):
        # The same address on another network may belong to another person.
        return f"{destination.network}:{destination.address}"
    assert isinstance(destination, CustodianAccountDestination)  # noqa: S101 - declared above
    return destination.id


def _returned(transfer: Mapping[str, Any]) -> tuple[Returned, ...]:
    """Return the money that came back, each return with Acme's own id."""
    found = []
    for each in transfer.get("returns", ()):
        at = read_time(each["at"])
        if at is None:
            message = "a return without a time"
            raise ValueError(message)
        amount, asset = Decimal(each["amount"]), str(transfer["asset"])
        found.append(Returned(str(each["id"]), amount, asset, at, str(each["reason"])))
    return tuple(found)


def _failure(payload: Mapping[str, Any]) -> Failure:
    reason = str(payload.get("reason", ""))
    return Failure(
        code=REASONS.get(reason, FailureCode.UNKNOWN_REASON),
        message=f"Acme refused the transfer ({reason or 'no reason given'}).",
        custodian_code=reason or None,
        # This is a claim, which the engine checks against every call that was made. Acme refuses
        # before it sends; for a custodian that may have sent, report `unknown`.
        funds_moved=FundsMoved.NO,
    )
