"""Settings: every fault is one that pydantic tells, without the value."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import ValidationError

from adapters.fireblocks.settings import FireblocksSettings
from tests.adapters.fireblocks.rig import ASSETS, pem


def members(**change: Any) -> dict[str, Any]:
    """Return good settings with a change; None leaves a member out."""
    good = {
        "base_url": "http://127.0.0.1:9/v1",
        "api_key": "k-123456",
        "private_key": pem(),
        "assets": ASSETS,
    }
    return {name: value for name, value in {**good, **change}.items() if value is not None}


def elliptic() -> tuple[str, str]:
    """Return a private and a public key of another kind."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def test_good_ones_tell_no_secret() -> None:
    """Neither key is in the repr."""
    settings = FireblocksSettings.model_validate(members())
    assert "k-123456" not in repr(settings)
    assert "PRIVATE" not in repr(settings)


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": None},
        {"base_url": "ftp://host/v1"},
        {"api_key": None},
        {"private_key": "no key"},
        {"private_key": elliptic()[0]},
        {"webhook_v1_public_key": "no key"},
        {"webhook_v1_public_key": elliptic()[1]},
        {"jwks_url": "keys.example"},
        {"assets": {}},
        {"assets": {"USDC": {"asset_id": ""}}},
        {"timeout_s": 0},
        {"colour": "blue"},
    ],
)
def test_a_fault_is_told_without_its_value(change: dict[str, Any]) -> None:
    """There is no default address; keys are checked at start, not at the first payout."""
    with pytest.raises(ValidationError) as caught:
        FireblocksSettings.model_validate(members(**change))
    (name,) = change
    assert caught.value.errors()[0]["loc"][0] == name
    assert "k-123456" not in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)
