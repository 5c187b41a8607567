"""Dfns' webhooks: verified over raw bytes and time, doubles told by what they say."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.dfns import webhook
from gateway.adapter import InvalidSignature, Ref
from tests.adapters.dfns.rig import pair
from tests.clock import SetClock

SECRET = "whs-secret"
NOW = datetime(2026, 11, 20, 10, 0, 1, tzinfo=UTC)


def event(**change: Any) -> dict[str, Any]:
    """Return an event as the vendor's sample."""
    return {
        "id": "whe-aaaaa-bbbbb-cccccccccccccccc",
        "kind": "payout.action.required",
        "date": "2026-11-20T10:00:00.000Z",
        "timestampSent": int(NOW.timestamp()),
        "deliveryAttempt": 1,
        "data": {
            "payout": {
                "id": "pyt-1",
                "data": {
                    "executionStatus": "AwaitingPayoutConfirmation",
                    "depositAddress": "0xD",
                },
            }
        },
        **change,
    }


def signed(document: dict[str, Any], secret: str = SECRET) -> tuple[dict[str, str], bytes]:
    """Return headers and body."""
    body = json.dumps(document, separators=(",", ":")).encode()
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-dfns-webhook-signature": f"sha256={digest}"}, body


def clock() -> SetClock:
    """Return a clock at the time of the event."""
    return SetClock(NOW)


def test_a_true_one_is_taken() -> None:
    """Signature over the raw bytes, sent just now."""
    webhook.verify(SECRET, clock(), *signed(event()))


@pytest.mark.parametrize("age", [300, 301, 86_400, -300])
def test_an_old_one_is_refused(age: int) -> None:
    """The signed time must be within 300 s."""
    document = event(timestampSent=int(NOW.timestamp()) - age)
    with pytest.raises(InvalidSignature, match="300 s"):
        webhook.verify(SECRET, clock(), *signed(document))


@pytest.mark.parametrize("age", [299, -299])
def test_one_within_the_window_is_taken(age: int) -> None:
    """To the second."""
    webhook.verify(SECRET, clock(), *signed(event(timestampSent=int(NOW.timestamp()) - age)))


@pytest.mark.parametrize("sent", [None, "1795168801", 1.5, True])
def test_one_without_a_time_is_refused(sent: object) -> None:
    """What cannot be placed in time could be replayed."""
    with pytest.raises(InvalidSignature, match="timestampSent"):
        webhook.verify(SECRET, clock(), *signed(event(timestampSent=sent)))


def test_forgeries_are_refused() -> None:
    """Another key, another body, no header, another form."""
    headers, body = signed(event())
    for told, raw in (
        (signed(event(), "other")[0], body),
        (headers, body + b" "),
        ({}, body),
        ({"x-dfns-webhook-signature": headers["x-dfns-webhook-signature"][7:]}, body),
        ({"x-dfns-webhook-signature": headers["x-dfns-webhook-signature"].upper()}, body),
    ):
        with pytest.raises(InvalidSignature):
            webhook.verify(SECRET, clock(), told, raw)
    with pytest.raises(InvalidSignature, match="webhook_secret"):
        webhook.verify(None, clock(), headers, body)


def test_a_payout_event_tells_its_deposit_address() -> None:
    """It is kept as a witness and acted on by nobody: the notice has no report."""
    (notice,) = webhook.parse(signed(event())[1])
    assert notice.refs == (Ref("payout", "pyt-1"),)
    assert notice.told == {"deposit_address": "0xD"}
    assert notice.report is None


def test_doubles_are_told_by_their_first_attempt_and_state() -> None:
    """Each attempt has an id of its own; another state is other news."""
    first = webhook.parse(signed(event())[1])[0].dedup_key
    again = event(id="whe-2", retryOf=event()["id"], deliveryAttempt=2)
    assert webhook.parse(signed(again)[1])[0].dedup_key == first
    other = event()
    other["data"]["payout"]["data"]["executionStatus"] = "Expired"
    assert webhook.parse(signed(other)[1])[0].dedup_key != first


def test_a_transfer_event_is_matched_by_id_and_hash() -> None:
    """So it finds the payout that it settles, too."""
    document = event(
        kind="wallet.transfer.broadcasted",
        data={"transferRequest": {"id": "xfr-1", "status": "Broadcasted", "txHash": "0xa"}},
    )
    (notice,) = webhook.parse(signed(document)[1])
    assert notice.refs == (Ref("transfer", "xfr-1"), Ref("hash", "0xa"))
    assert notice.report is None


def test_unknown_kinds_are_ignored_and_nonsense_is_kept() -> None:
    """A kind that we do not need names nothing; what cannot be read is a ValueError."""
    (notice,) = webhook.parse(signed(event(kind="policy.triggered", data={"policy": {}}))[1])
    assert notice.refs == ()
    for raw in (b"nonsense", b"[]", b"{}"):
        with pytest.raises(ValueError, match=r"."):
            webhook.parse(raw)


async def test_the_twins_webhooks_verify() -> None:
    """The other side of the wire, written independently."""
    async with pair() as (adapter, org):
        make = org.twin.signer.maker("payout.action.required", {"payout": {"id": "pyt-2"}})
        first, second = make(1), make(2)
        for message in (first, second):
            headers = {name.lower(): value for name, value in message.headers.items()}
            await adapter.verify(headers, message.body)
        keys = {adapter.parse(each.body)[0].dedup_key for each in (first, second)}
        assert len(keys) == 1
