"""Which accounts may be paid from, by the configuration alone."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.settings import Settings
from gateway.errors import Refused
from gateway.model import Account
from gateway.routing.accounts import PinnedAccounts

A, B, C = (Account(id=each, type="VAULT") for each in ("A", "B", "C"))


def route(account: Account, *orgs: str) -> dict[str, Any]:
    """Return a route from an account, for some orgs or for all."""
    return {
        "destination": "address",
        "custodian": "red",
        "account": account.model_dump(),
        **({"orgs": orgs} if orgs else {}),
    }


@pytest.fixture
def pinned(tmp_path: Any) -> PinnedAccounts:
    """A for two orgs by two routes, B for every org by one of its routes, C for one org by name."""
    settings = Settings.model_validate(
        {
            "database": tmp_path / "x.db",
            "public_url": "https://pay.example",
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "custodians": {
                "red": {"adapter": "acme", "modes": ["live"]},
                "blue": {"adapter": "acme", "modes": ["live", "test"]},
            },
            "routes": [
                route(A, "one"),
                route(A, "two"),
                route(B, "one"),
                route(B),
                route(B, "two"),
            ],
            "accounts": {"red": [{**C.model_dump(), "orgs": ["three"]}]},
        }
    )
    return PinnedAccounts(settings)


def pays(pinned: PinnedAccounts, org: str, mode: str, custodian: str, account: Account) -> bool:
    """Return whether an account is one to pay from."""
    try:
        pinned.check(org, mode, custodian, account)
    except Refused as refused:
        assert refused.code == "route_unavailable"  # noqa: PT017 - a value is returned
        return False
    return True


def test_an_account_is_paid_from_by_orgs_that_may_use_it(pinned: PinnedAccounts) -> None:
    """By any of its routes or by its name; in no other mode, and at no other custodian."""
    orgs = ("one", "two", "three")
    found = {
        each.id: [org for org in orgs if pays(pinned, org, "live", "red", each)]
        for each in (A, B, C)
    }
    assert found == {"A": ["one", "two"], "B": ["one", "two", "three"], "C": ["three"]}
    assert not pays(pinned, "one", "test", "red", B)
    assert not pays(pinned, "one", "live", "blue", B)
    assert not pays(pinned, "one", "live", "gone", B)
    assert not pays(pinned, "one", "live", "red", Account(id="B", type="OTHER"))
