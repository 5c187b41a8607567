"""Verifies Dfns' webhooks over the raw bytes, then reads them.

Source: dfns protocol notes, §7. The signature is HMAC-SHA256 over the body, which contains its own
time. Every delivery attempt has its own id, so duplicates are recognised by their content.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence

from adapters.dfns.statuses import clean
from adapters.dfns.transfers import refs_of, transfer_of
from gateway.adapter import Clock, InvalidSignature, Notice, Ref, read_time

WINDOW_S = 300
_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")


def verify(secret: str | None, clock: Clock, headers: Mapping[str, str], body: bytes) -> None:
    """Check signature and age. Raises InvalidSignature."""
    if secret is None:
        raise InvalidSignature("no webhook_secret is configured")
    told = _SIGNATURE.fullmatch(headers.get("x-dfns-webhook-signature", "").strip())
    if told is None:
        raise InvalidSignature("X-DFNS-WEBHOOK-SIGNATURE is missing or malformed")
    wanted = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(told[1], wanted):
        raise InvalidSignature("the signature is not Dfns'")
    try:
        sent = json.loads(body).get("timestampSent")
    except (ValueError, AttributeError, RecursionError):
        sent = None
    if isinstance(sent, bool) or not isinstance(sent, int):
        raise InvalidSignature("timestampSent is missing")
    if abs(clock.now().timestamp() - sent) >= WINDOW_S:
        raise InvalidSignature(f"timestampSent is {WINDOW_S} s or more away from now")


def parse(body: bytes) -> Sequence[Notice]:
    """Turn an event into a notice, which brings the next look-up forward; what it reported is kept.

    Unknown kinds give no notice. A ValueError keeps the body unread.
    """
    event = json.loads(body)
    if not isinstance(event, dict) or not clean(event.get("id")):
        msg = "not a Dfns event"
        raise ValueError(msg)
    data = event.get("data")
    data = data if isinstance(data, Mapping) else {}
    payout, transfer = data.get("payout"), data.get("transferRequest")
    first = clean(event.get("retryOf")) or clean(event["id"])
    at = read_time(event.get("date"))
    if isinstance(payout, Mapping) and clean(payout.get("id")):
        details = payout.get("data")
        details = details if isinstance(details, Mapping) else {}
        execution = clean(details.get("executionStatus"))
        deposit = clean(details.get("depositAddress"))
        return [
            Notice(
                (Ref("payout", clean(payout["id"])),),
                _key(first, execution),
                observed_at=at,
                told={"deposit_address": deposit} if deposit else {},
            )
        ]
    if isinstance(transfer, Mapping) and clean(transfer.get("id")):
        seen = transfer_of(transfer)
        return [Notice(refs_of(seen), _key(first, seen.status), observed_at=at)]
    return [Notice((), _key(first, clean(event.get("kind"))), observed_at=at)]


def _key(delivery: str, state: str) -> str:
    """Return what identifies duplicates: the delivery (its first attempt's id) and its content."""
    return f"{delivery}:{state}"
