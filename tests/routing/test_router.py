"""The router: a way that was found is remembered, and depends on all that was asked for."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from gateway.adapter import Capabilities
from gateway.assets import AssetRegistry
from gateway.config.routes import FeeSettings, RouteSettings
from gateway.config.settings import AccountSettings
from gateway.errors import Refused
from gateway.model import Account, AddressDestination, CustodianAccountDestination, Destination
from gateway.routing.router import Choice, Instance, Router, Wish

_MAIN, _SIDE, _EXTRA = (Account(id=name, type="VAULT") for name in ("main", "side", "extra"))
_ASSETS = AssetRegistry()


def _router() -> Router:
    can = Capabilities(frozenset({"address", "custodian_account"}))
    extra = AccountSettings(id="extra", type="VAULT", orgs=("acme",))
    fee = FeeSettings(flat=Decimal("0.5"), basis_points=Decimal(100))
    return Router(
        [
            Instance("one", frozenset({"live"}), can, (extra,)),
            Instance("two", frozenset({"live", "test"}), can),
        ],
        [
            RouteSettings(
                destination="address",
                custodian="one",
                account=_MAIN,
                assets=("USDC",),
                networks=("Base", "Ethereum"),
                orgs=("acme",),
                fee=fee,
            ),
            RouteSettings(
                destination="address", custodian="two", account=_SIDE, networks=("Base",)
            ),
            RouteSettings(destination="custodian_account", custodian="two", account=_SIDE),
        ],
    )


def _choose(router: Router, *asked: Any) -> Choice | tuple[str, list[dict[str, str]]]:
    org, mode, destination, code, amount, hint, wish = asked
    try:
        return router.choose(
            org=org,
            mode=mode,
            destination=destination,
            asset=_ASSETS.find(code),
            amount=amount,
            network_hint=hint,
            wish=wish,
        )
    except Refused as refused:
        return refused.detail, [dict(each) for each in refused.errors or ()]


def _address(network: str) -> Destination:
    return AddressDestination(network=network, address="0x" + "1" * 40)


_ASKED = list(
    product(
        ("acme", "rival"),
        ("live", "test"),
        (
            _address("Base"),
            _address("Ethereum"),
            _address("Solana"),
            CustodianAccountDestination(account_type="VAULT", id="p"),
        ),
        ("USDC", "USDT"),
        (Decimal("0.4"), Decimal(10)),
        (None, "Ethereum"),
        (None, Wish("one", _MAIN), Wish("one", _EXTRA), Wish("two", _SIDE), Wish("two", _EXTRA)),
    )
)


def test_a_remembered_way_is_the_one_that_would_be_found() -> None:
    """Whatever was asked before: each answer is that of a router that was never asked anything."""
    router = _router()
    fresh = [_choose(_router(), *asked) for asked in _ASKED]
    assert [_choose(router, *asked) for asked in _ASKED] == fresh
    assert [_choose(router, *asked) for asked in reversed(_ASKED)] == fresh[::-1]
    assert len({str(each) for each in fresh}) >= 15


def test_only_so_many_ways_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network may be any text, where nobody has configured any."""
    monkeypatch.setattr("gateway.routing.router._MOST_WAYS", 3)
    router = _router()
    for number in range(10):
        destination = CustodianAccountDestination(account_type="VAULT", id="p")
        _choose(router, f"org-{number}", "live", destination, "USDC", Decimal(1), None, None)
        assert 0 < len(router._ways) <= 3
