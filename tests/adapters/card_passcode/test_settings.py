"""Settings: what is needed in which mode, and that no secret is shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from adapters.card_passcode.settings import CardPasscodeSettings
from tests.adapters.card_passcode.rig import CREDENTIALS

_GOOD: dict[str, Any] = {
    "base_url": "https://api.example.test/v1",
    "device": {"client_ip": "198.51.100.7"},
    **CREDENTIALS,
}


def _made(**change: Any) -> CardPasscodeSettings:
    members = {name: value for name, value in {**_GOOD, **change}.items() if value is not None}
    return CardPasscodeSettings.model_validate(members)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"phone": None, "user_id": "1001"},
        {"user_id": "1001", "both_ids": True},
        {"passcode_mode": "caller", "passcode": None, "phone": None},
        {"passcode_mode": "one_time_code", "passcode": None},
        {"device": {"client_ip": "2001:db8::7", "name": "worker"}},
        {"payout_accounts": {"19": "one_time_code", "20": "caller"}},
    ],
    ids=str,
)
def test_good_settings(change: dict[str, Any]) -> None:
    """What each mode needs."""
    _made(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "api.example.test"},
        {"client_id": None},
        {"client_secret": None},
        {"device": None},
        {"device": {"client_ip": "here"}},
        {"device": {"client_ip": "198.51.100.7", "os": "x"}},
        {"passcode": None},
        {"phone": None},
        {"phone": "+231770000001"},
        {"user_id": "1001"},
        {"passcode_mode": "caller", "passcode": None, "payout_accounts": {"18": "standing"}},
        {"payout_accounts": {"18": "guess"}},
        {"timeout_s": 0},
        {"channel": "pigeon"},
        {"extra": 1},
    ],
    ids=str,
)
def test_bad_settings(change: dict[str, Any]) -> None:
    """Each fault is found, and no secret is repeated."""
    with pytest.raises(ValidationError) as caught:
        _made(**change)
    assert not any(CREDENTIALS[name] in str(caught.value) for name in ("client_secret", "passcode"))


def test_modes_by_account() -> None:
    """An account's own mode wins."""
    settings = _made(payout_accounts={"19": "one_time_code"})
    assert [settings.mode_of(each) for each in ("18", "19")] == ["standing", "one_time_code"]


def test_secrets_are_not_shown() -> None:
    """Neither by repr nor by a dump to JSON."""
    shown = repr(_made()) + _made().model_dump_json()
    for name in ("client_id", "client_secret", "passcode"):
        assert CREDENTIALS[name] not in shown
