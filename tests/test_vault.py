"""What is sealed opens under its key and name alone; whatever else is stored there is said to be damaged."""

from __future__ import annotations

import pytest

from gateway.errors import ConfigError
from gateway.runtime import real_runtime
from gateway.vault import Vault

_IDS = real_runtime().ids
_DAMAGED = "a stored secret does not open: it is damaged"


def test_a_secret_opens_under_its_name_alone() -> None:
    """Another key, another name, or a changed byte: it does not open."""
    vault = Vault(bytes(32), _IDS)
    sealed = vault.seal(b"hush", bound_to="usr_1")
    assert vault.open(sealed, bound_to="usr_1") == b"hush"
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for other, stored, name in (
        (vault, sealed, "usr_2"),
        (vault, changed, "usr_1"),
        (Vault(bytes([1]) * 32, _IDS), sealed, "usr_1"),
    ):
        with pytest.raises(ConfigError, match=_DAMAGED):
            other.open(stored, bound_to=name)


@pytest.mark.parametrize("length", range(30))
def test_what_is_too_short_to_be_sealed_is_damaged(length: int) -> None:
    """In our words, not in those of the library, which counts the bytes of a nonce."""
    vault = Vault(bytes(32), _IDS, previous=bytes([1]) * 32)
    for call in (vault.open, vault.reseal):
        with pytest.raises(ConfigError, match=_DAMAGED):
            call(bytes(length), bound_to="usr_1")
