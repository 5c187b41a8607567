"""Webhooks of the Dfns twin: HMAC over the raw body, a fresh event for every attempt.

Source: dfns protocol notes, §7. Times inside are the shared time: the receiver's clock does not move
when the twin's is advanced.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import Any

from adapters.dfns.twin.records import new_id
from adapters.twin.clock import TwinClock
from adapters.twin.outbox import Message

HEADER = "X-DFNS-WEBHOOK-SIGNATURE"
#: The waits between the five attempts; the notes count 1 min, 12 min, 2 h and 1 day from the first.
RETRY_DELAYS_S = (60.0, 660.0, 6_480.0, 79_200.0)


def is_retried(_: int | None) -> bool:
    """Return True for everything except a receipt."""
    return True


def is_accepted(status: int) -> bool:
    """Return whether the status is a receipt: only 200 is."""
    return status == 200


class WebhookSigner:
    """Makes signed events."""

    def __init__(self, clock: TwinClock) -> None:
        self._clock = clock
        self.secret = "whs-" + secrets.token_hex(24)
        self.retry_of = "previous"

    def maker(self, kind: str, data: dict[str, Any]) -> _Event:
        """Return the maker of the request for each attempt at an event."""
        return _Event(self, kind, data, self._clock.stamp())

    def message(self, envelope: dict[str, Any]) -> Message:
        """Return the signed request of an envelope."""
        body = _dump({**envelope, "timestampSent": int(self._clock.shared())})
        return _request(body, self._sign(self.secret, body))

    def forge(self, message: Message, how: str) -> Message:
        """Return a request as a stranger would send it: money goes to another address."""
        envelope = json.loads(message.body)
        envelope["id"] = new_id("whe")
        payout = envelope["data"].get("payout")
        transfer = envelope["data"].get("transferRequest")
        if payout is not None:
            payout["data"].update(executionStatus="Completed", depositAddress="0x" + "f" * 40)
        if transfer is not None:
            transfer.update(status="Confirmed", txHash="0x" + "f" * 64)
        body = _dump(envelope)
        if how == "unsigned":
            return _request(body, None)
        if how == "changed_body":
            return _request(body, message.headers[HEADER])
        return _request(body, self._sign(secrets.token_hex(24), body))

    @staticmethod
    def _sign(secret: str, body: bytes) -> str:
        return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class _Event:
    """One event; called with the number of the attempt."""

    def __init__(self, signer: WebhookSigner, kind: str, data: dict[str, Any], date: str) -> None:
        self._signer = signer
        self._kind = kind
        self._data = data
        self._date = date
        self._ids: list[str] = []

    def __call__(self, attempt: int) -> Message:
        """Return the signed request of an attempt, with an id of its own."""
        envelope: dict[str, Any] = {
            "id": new_id("whe"),
            "kind": self._kind,
            "date": self._date,
            "data": self._data,
            "deliveryAttempt": attempt,
            "status": "200",
        }
        if self._ids:
            envelope["retryOf"] = self._ids[0 if self._signer.retry_of == "first" else -1]
        self._ids.append(envelope["id"])
        return self._signer.message(envelope)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _request(body: bytes, signature: str | None) -> Message:
    headers = {"Content-Type": "application/json", "User-Agent": "dfns-webhooks"}
    return Message(headers if signature is None else {**headers, HEADER: signature}, body)
