"""What an account can still pay, as a table."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from gateway.funds.balances import lines_of
from gateway.funds.rules import Need, Sums, by_network, need_of, passed_since, pool_of, room
from gateway.runtime import Moment

ETH, SOL = "Ethereum", "Solana"


def held(**amounts: str) -> dict[str, Decimal]:
    """Return balances by network; `any` is the one without a network."""
    return {name.replace("any", ""): Decimal(each) for name, each in amounts.items()}


@pytest.mark.parametrize(
    ("balances", "taken", "network", "left"),
    [
        (held(any="100"), held(any="30"), "", "70"),
        (held(any="100"), held(any="130"), "", "-30"),
        # A network that the custodian does not tell apart is paid from the one balance there is.
        (held(any="100"), held(Ethereum="30"), ETH, "70"),
        (held(Ethereum="100"), held(), "", "100"),
        # Networks are distinguished.
        (held(Ethereum="100", Solana="50"), held(Ethereum="90"), SOL, "50"),
        (held(Ethereum="100", Solana="50"), held(Ethereum="90"), ETH, "10"),
        # One that is not held has nothing, and never borrows from another one.
        (held(Ethereum="100"), held(), SOL, "0"),
        # Without a network, from any: what is reserved so is in nobody's way unless all is taken.
        (held(Ethereum="100", Solana="50"), held(any="60"), ETH, "90"),
        (held(Ethereum="100", Solana="50"), held(Ethereum="100"), "", "50"),
        (held(Ethereum="100", Solana="50"), held(Ethereum="100", any="40"), SOL, "10"),
        # An asset that the custodian does not list is not held.
        (held(), held(), "", "0"),
        (held(), held(any="5"), ETH, "-5"),
    ],
)
def test_room(
    balances: dict[str, Decimal], taken: dict[str, Decimal], network: str, left: str
) -> None:
    """Each network's reservations by its balance, and all together by all balances."""
    assert room(balances, [taken], network) == Decimal(left)


def test_which_balance_pays() -> None:
    """That of the network, or the one without."""
    assert pool_of(held(Ethereum="1", any="1"), ETH) == ETH
    assert pool_of(held(Solana="1", any="1"), ETH) == ""
    assert pool_of(held(Solana="1", Ethereum="1"), "") is None


def test_balances_that_are_named_twice_are_added() -> None:
    """Exact, also where a float would not be."""
    told: list[dict[str, Any]] = [
        {"asset": "ETH", "network": ETH, "available": "0.1"},
        {"asset": "ETH", "network": ETH, "available": "0.2"},
        {"asset": "USDC", "network": None, "available": "7"},
    ]
    assert by_network(told, "ETH") == {ETH: Decimal("0.3")}
    assert by_network(told, "USDC") == {"": Decimal(7)}
    assert by_network(told, "EURC") == {}


def test_sums_are_exact_and_never_negative() -> None:
    """To the last of many digits; a zero is no entry."""
    many = Decimal("123456789012345678901234567890.000000000000000001")
    sums = (
        Sums().plus("ETH", "", many).plus("ETH", "", Decimal("0.1")).plus("USDC", SOL, Decimal(2))
    )
    assert Sums.of(sums.text) == sums
    assert sums.minus("ETH", "", many).amounts["ETH", ""] == Decimal("0.1")
    assert sums.minus("USDC", SOL, Decimal(2)).of_asset("USDC") == {}
    with pytest.raises(ValueError, match="negative"):
        sums.minus("USDC", SOL, Decimal("2.000001"))


def test_amount_and_fee_are_needed() -> None:
    """What the recipient gets, and the fee on top: what the user sends."""
    terms = {
        "user_sends": "10",
        "recipient_gets": "9.25",
        "send_asset": "USDC",
        "recipient_asset": "USDC",
        "route": {"from_network": ETH},
    }
    need = need_of(terms)
    assert need == Need("USDC", ETH, Decimal("9.25"), Decimal("0.75"))
    assert need.total == Decimal(10)
    abroad = need_of({**terms, "recipient_asset": "EUR", "route": {"from_network": None}})
    assert abroad == Need("USDC", "", Decimal(10))


def test_time_passes_on_one_clock() -> None:
    """On another one only from when the row was first seen there; a wall clock says nothing."""
    now = Moment("b", 1_000, wall=10**15)
    assert passed_since("b", 400, now, None) == 600
    assert passed_since("a", 400, now, None) is None
    assert passed_since("a", 400, now, 900) == 100


def test_what_is_shown_of_an_account() -> None:
    """What is reserved on a network is shown beside the balance that pays it."""
    row = {
        "balances": '[{"asset":"USDC","network":null,"available":"100","pending":null,"as_of":"x"}]',
        "reserved": '[["USDC","Ethereum","30"],["EURC","Solana","5"]]',
        "waiting": '[["USDC","","20"]]',
    }
    euros, dollars = lines_of(row)
    assert (euros["asset"], euros["network"], euros["available"]) == ("EURC", SOL, 0)
    assert (euros["balance"], euros["reserved"], euros["as_of"]) == (0, 5, None)
    assert (dollars["network"], dollars["balance"]) == (None, 100)
    assert (dollars["reserved"], dollars["waiting"], dollars["available"]) == (30, 20, 50)
