"""Standard Webhooks signatures against test vectors and an independent verifier."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from gateway.errors import InvalidSignature
from gateway.signing import (
    headers,
    public_key_text,
    secret_bytes,
    secret_text,
    sign,
    sign_ed25519,
    verify,
)

SECRET_A = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SECRET_B = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
BODY = (
    b'{"type":"payout.delivered","timestamp":"2025-10-09T08:53:20Z","data":{"id":"pay_demo0001"}}'
)
AT = datetime.fromtimestamp(1760000000, UTC)


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (SECRET_A, "v1,oyNSyMh38DRKe0jWr6HaMp9QSN0r6hUIbXFuKZ/6u+E="),
        (SECRET_B, "v1,c+FR7p3a1mO0lx/0XT60cJcjOje3ghbO6TdZIflhhvo="),
    ],
)
def test_vectors(secret: str, expected: str) -> None:
    """The signatures of the documented vectors."""
    assert sign(secret_bytes(secret), "msg_demo0001", AT, BODY) == expected
    assert secret_text(secret_bytes(secret)) == secret


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=50), max_size=5))
def test_the_reference_library_accepts_what_we_sign(data: dict[str, str]) -> None:
    """Any body we send verifies with the independent library."""
    body = json.dumps(data, ensure_ascii=False).encode()
    sent = headers([secret_bytes(SECRET_A)], "evt_1", datetime.now(UTC), body)
    assert Webhook(SECRET_A).verify(body, sent) == data


def test_several_secrets_give_several_signatures() -> None:
    """While a secret rotates, both verify."""
    sent = headers([secret_bytes(SECRET_A), secret_bytes(SECRET_B)], "evt_1", AT, BODY)
    for secret in (SECRET_A, SECRET_B):
        verify(secret_bytes(secret), sent, BODY, AT)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-signature": "nonsense é"},
        {"webhook-timestamp": "soon"},
        {"webhook-timestamp": "1760000001"},
        {"webhook-id": "evt_2"},
    ],
)
def test_every_way_to_be_wrong_is_one_error(change: dict[str, str]) -> None:
    """A changed header, whichever, is an invalid signature."""
    sent = {**headers([secret_bytes(SECRET_A)], "evt_1", AT, BODY), **change}
    with pytest.raises(InvalidSignature):
        verify(secret_bytes(SECRET_A), sent, BODY, AT)


@pytest.mark.parametrize(
    ("secret", "with_headers", "body", "later"),
    [
        (SECRET_A, False, BODY, timedelta(0)),
        (SECRET_A, True, BODY + b" ", timedelta(0)),
        (SECRET_B, True, BODY, timedelta(0)),
        (SECRET_A, True, BODY, timedelta(minutes=6)),
        (SECRET_A, True, BODY, -timedelta(minutes=6)),
    ],
)
def test_what_was_not_sent_so_is_refused(
    secret: str, *, with_headers: bool, body: bytes, later: timedelta
) -> None:
    """No header, a changed body, another secret, six minutes away: refused."""
    sent = headers([secret_bytes(SECRET_A)], "evt_1", AT, BODY) if with_headers else {}
    with pytest.raises(InvalidSignature):
        verify(secret_bytes(secret), sent, body, AT + later)


def test_a_secret_without_its_prefix_is_refused() -> None:
    """Raw base64 read as a secret makes every receiver refuse; so it is an error here."""
    with pytest.raises(ValueError, match="whsec_"):
        secret_bytes("AAEC")


def test_ed25519_as_the_specification_has_it() -> None:
    """The vector of the webhooks protocol notes; an independent library of keys verifies it."""
    seed = bytes(range(32))
    at = datetime.fromtimestamp(1_760_000_000, UTC)
    body = b'{"type":"payout.delivered","timestamp":"2025-10-09T08:53:20Z","data":{"id":"pay_demo0001"}}'
    assert public_key_text(seed) == "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
    assert sign_ed25519(seed, "msg_demo0001", at, body) == (
        "v1a,8A4EziWTzGi0zA2rJSMNIOLZGpyD4PDeBDYu7flzRm/Ra2l5qmMVAuoru7jZ9EVZxShmzByirFayyGImjf1+AA=="
    )
    both = headers([bytes(range(32))], "msg_demo0001", at, body, [seed])
    entries = both["webhook-signature"].split(" ")
    assert [each.partition(",")[0] for each in entries] == ["v1", "v1a"]
