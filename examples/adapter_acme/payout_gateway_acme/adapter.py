"""The acme adapter: what a new one begins as (`payout-gateway adapters new acme`).

The imaginary custodian "Acme" has one POST that pays at once, a GET to look by our own key, and
webhooks signed by HMAC. Its keys are permanent and bound to their body. See README.md for the wire.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, SecretStr

# The contract is the only import from the gateway.
from gateway.adapter import (
    Absent,
    Adapter,
    AddressDestination,
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
    SubStatus,
    Terms,
    Transaction,
    TurnedAway,
    format_amount,
)

# Tables first: the custodian's words and ours. A word that is not here changes no status.
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
#: Refused at the door: nobody has looked at the request.
_AT_THE_DOOR: Mapping[int, type[TurnedAway]] = {
    401: CredentialsRefused,
    403: CredentialsRefused,
    404: Misconfigured,
    429: RateLimited,
}
#: Acme has read the request and says no, for good.
_FINAL = frozenset({400, 422})


class AcmeSettings(BaseModel):
    """Settings. Secrets are `SecretStr`, and there is no default address."""

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
        # What a key does there. The same key and body pay once, for ever: the engine may repeat.
        keys=KeySemantics(
            life_s=None,
            shared_by_credentials=True,
            look_up=True,
            repeat_is_safe=True,
            failure_is_final=True,
        ),
        # An API key never dies, so a request that was sent may arrive at any time: that a transfer is
        # absent proves nothing. A token that dies, or a session that ends, has a number here.
        call_life_s=None,
        visibility_s=10,
        # `fetch` asks by our key, and every call of an order is made under that one key: a call that an
        # older copy of the database does not know of is found as any other.
        finds_lost_calls=True,
        # Acme publishes no number, and looks at nothing that it answers 429. With a number the gateway
        # keeps below it: Rate(per_s=20, burst=40).
        rate=Rate(refusal_proves_unsent=True),
        polling_s=(1, 2, 5, 10, 30, 60, 300),
    )
    # Whose account it is. The webhook secret and the timeout may change without another account.
    account_settings = ("base_url", "api_key")

    async def submit(self, order: Order) -> Report:
        """Pay. There is one call, and it moves money; a repeat is the same call."""
        fault = self.check(order)
        if fault is not None:
            raise Rejected(FailureCode.DESTINATION_REJECTED, fault)
        body = json.dumps(self._request(order)).encode()
        # Everything is ready. From here on the engine reads every doubt as "it may have arrived".
        await order.moving()
        try:
            status, told = await self._call("POST", "/transfers", body)
        except aiohttp.ClientConnectorError as error:
            # No connection was made, so that nothing was sent. Only the adapter can know that.
            message = f"no connection ({type(error).__name__})"
            raise NotSent(message) from None
        if status in {_CREATED, _REPEATED}:
            return self._report(order, told)
        if status in _AT_THE_DOOR and isinstance(told, dict):
            # In the API's own words; a proxy's page says nothing of the call.
            message = f"refused at the door: HTTP {status}"
            raise _AT_THE_DOOR[status](message)
        if status not in _FINAL:
            # Whatever is no clear no: 409 ("key already used" after a lost answer means that the
            # first one arrived), 5xx, a redirect, some proxy's own words.
            message = f"HTTP {status}"
            raise OutcomeUnknown(message)
        reason = str(told.get("reason", "")) if isinstance(told, dict) else ""
        code = REASONS.get(reason, FailureCode.SUBMISSION_REJECTED)
        raise Rejected(code, f"Acme refused the transfer ({status})", custodian_code=reason)

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Look by our own key. Read-only."""
        status, told = await self._call("GET", f"/transfers/{order.key('transfer')}")
        if status == 404 and isinstance(told, dict):  # noqa: PLR2004
            # In the API's own words: a proxy's page says nothing. Not "failed" either: what it proves
            # is for the engine to say.
            return Absent("404")
        if status != _REPEATED:
            message = f"the look failed: HTTP {status}"
            raise _AT_THE_DOOR.get(status, NotSent)(message)
        return self._report(order, told)

    def check(self, terms: Terms) -> str | None:
        """Return why Acme could never pay the terms. Nothing is dropped in silence."""
        if isinstance(terms.destination, AddressDestination) and terms.destination.memo is not None:
            return "Acme cannot carry a memo"
        return None

    async def identity(self) -> str:
        """Return Acme's own id of the account that the API key belongs to."""
        status, told = await self._call("GET", "/account")
        account = told.get("id") if isinstance(told, dict) else None
        if status != _REPEATED or not isinstance(account, str) or not account:
            message = f"the account could not be read: HTTP {status}"
            raise NotSent(message)
        return account

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check the signature over the raw bytes, in constant time."""
        secret = self.settings.webhook_secret.get_secret_value().encode()
        expected = hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(headers.get("acme-signature", "").encode(), expected.encode()):
            message = "the signature does not fit"
            raise InvalidSignature(message)

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read `{"id", "transfer": {"id"}}`. Pure; a ValueError keeps the body unread.

        The notice carries no report: it only brings the next look forward, which is always right.
        """
        told = json.loads(body)
        try:
            return [Notice((Ref("transfer", str(told["transfer"]["id"])),), str(told["id"]))]
        except (KeyError, TypeError):
            message = "not a Acme webhook"
            raise ValueError(message) from None

    def _request(self, order: Order) -> dict[str, Any]:
        """Return the body: the same at every repeat, because everything in it is the order's."""
        return {
            "key": order.key("transfer"),
            "source": order.source.id,
            "destination": _destination(order),
            "asset": order.asset,
            "amount": format_amount(order.amount),
        }

    def _report(self, order: Order, told: Any) -> Report:
        """Turn a transfer into a report; what is not understood stays raw."""
        try:
            transfer_id, state = str(told["id"]), str(told["state"]).strip()
            echo = Echo(
                asset=str(told["asset"]),
                amount=Decimal(told["amount"]),
                destination=str(told["destination"]),
                reference=str(told["key"]),
                ordered_asset=order.asset,
                ordered_amount=order.amount,
                ordered_destination=_destination(order),
                ordered_reference=order.key("transfer"),
            )
        except (KeyError, TypeError, ArithmeticError):
            message = "an answer that is not understood"
            raise OutcomeUnknown(message) from None
        sub_status = STATES.get(state)
        transaction = Transaction(
            id=transfer_id,
            tx_hash=told.get("tx_hash"),
            network=order.network,
            status=state,
            at=self.tools.clock.now(),
        )
        return Report(
            sub_status,
            state,
            refs=(Ref("transfer", transfer_id),),
            transactions=(transaction,),
            failure=_failure(told) if sub_status is SubStatus.FAILED else None,
            echo=echo,
            custodian_reference=transfer_id,
            unknown_words=() if sub_status else (state,),
            # DONE is said of the amount beside it. Never the ordered one: what is not told stays None.
            final_recipient_amount=echo.amount if sub_status is SubStatus.DELIVERED else None,
        )

    async def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Call Acme; return status and JSON (None where the body is none)."""
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
        # The same address on another network is somebody else's.
        return f"{destination.network}:{destination.address}"
    assert isinstance(destination, CustodianAccountDestination)  # noqa: S101 - declared above
    return destination.id


def _failure(told: Mapping[str, Any]) -> Failure:
    reason = str(told.get("reason", ""))
    return Failure(
        code=REASONS.get(reason, FailureCode.UNKNOWN_REASON),
        message=f"Acme refused the transfer ({reason or 'no reason given'}).",
        custodian_code=reason or None,
        # A claim, which the engine checks against every call that was made. Acme refuses before it
        # sends; a custodian that may have sent says `unknown` here.
        funds_moved=FundsMoved.NO,
    )
