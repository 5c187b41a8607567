"""Assets, exact decimals, addresses."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import base58
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_utils.address import is_checksum_address, to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from gateway.assets import (
    BUILT_IN,
    EXACT,
    NETWORKS,
    Asset,
    AssetNetwork,
    AssetRegistry,
    address_fault,
    check_address,
    check_precision,
    checksummed,
    explorer_url,
    from_minor,
    natural_network,
    round_fee,
    to_minor,
)
from gateway.errors import Refused
from gateway.model import AddressDestination, format_amount

USDC = AssetRegistry().find("usdc")
GOOD = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
SOLANA = "7v91N7iZ9mNicL8WfG6cgSCKyRXydQjLh6UYBWwm6y1Q"
#: A token account: the associated account of some wallet, and so no point of the curve.
TOKEN_ACCOUNT = "4Nd1mBQtrMJVYVfKf2PJy9NZUZdTAsp7D4xWLs4gDB4T"
TRON = "TJRabPrwbZy45sbavfcjinPJC18kjpRTv8"


def test_keys_are_on_the_curve_and_half_of_the_rest_is_not() -> None:
    """Every wallet's key passes; of random bytes about one half does."""
    keys = [Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(50)]
    assert all(address_fault("Solana", base58.b58encode(key).decode()) is None for key in keys)
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(400)]
    faults = [address_fault("Solana", base58.b58encode(each).decode()) for each in digests]
    assert 150 < sum(fault is not None for fault in faults) < 250


def test_an_address_that_the_custodian_made_needs_no_key() -> None:
    """A provider may collect deposits at a program's address; its form is checked all the same."""
    assert address_fault("Solana", TOKEN_ACCOUNT) is not None
    assert address_fault("Solana", TOKEN_ACCOUNT, by_custodian=True) is None
    for wrong in (TOKEN_ACCOUNT[:-2], "0OIl", "1" * 32, GOOD):
        assert address_fault("Solana", wrong, by_custodian=True) is not None
    assert address_fault("Ethereum", GOOD.swapcase().replace("0X", "0x"), by_custodian=True)


@pytest.mark.parametrize("asset", BUILT_IN, ids=lambda asset: asset.code)
def test_built_in_contracts_are_well_formed(asset: Asset) -> None:
    """Each contract or mint of the table passes the address rules of its network."""
    other = Asset(code="XX", decimals=0, networks={name: AssetNetwork() for name in NETWORKS})
    for network, entry in asset.networks.items():
        if entry.contract is None:
            continue  # the network's own coin
        destination = AddressDestination(network=network, address=entry.contract)
        assert check_address(destination, other).address == entry.contract


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("Ethereum", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed"),
        ("Ethereum", "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
        ("Ethereum", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeA"),
        ("Ethereum", "0x" + "0" * 40),
        ("Ethereum", "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"),
        ("Solana", "4Nd1mBQtrMJVYVfKf2PJy9NZUZdTAsp7D4xWLs4gDB"),
        ("Solana", "0OIl"),
        ("Solana", TOKEN_ACCOUNT),
        ("Solana", "1" * 32),
        ("Solana", GOOD),
    ],
)
def test_bad_addresses_are_refused(network: str, address: str) -> None:
    """A wrong checksum, length, alphabet, the zero address and the contract itself are refused."""
    with pytest.raises(Refused) as caught:
        check_address(AddressDestination(network=network, address=address), USDC)
    assert caught.value.code == "invalid_destination"
    assert caught.value.errors[0]["pointer"] == "/destination/address"


def test_good_addresses_become_canonical() -> None:
    """A lowercase EVM address gets its checksum; the others stay."""
    lower = check_address(AddressDestination(network="Base", address=GOOD.lower()), USDC)
    assert lower.address == GOOD
    assert (
        check_address(AddressDestination(network="Solana", address=SOLANA), USDC).address == SOLANA
    )
    tether = AssetRegistry().find("USDT")
    assert check_address(AddressDestination(network="Tron", address=TRON), tether).address == TRON
    with pytest.raises(Refused):
        check_address(AddressDestination(network="Tron", address=TRON[:-1] + "9"), tether)


def test_the_examples_of_eip_55() -> None:
    """A lowercase address gets the case that the standard shows."""
    examples = [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ]
    assert [checksummed(each.lower()) for each in examples] == examples


@given(st.binary(min_size=20, max_size=20).filter(any))
def test_the_checksum_is_that_of_the_library(raw: bytes) -> None:
    """For any address, in whatever case its letters come."""
    address = "0x" + raw.hex()
    expected = to_checksum_address(address)
    assert checksummed(address) == checksummed("0x" + address[2:].upper()) == expected
    swapped = "0x" + expected[2:].swapcase()
    for each in (address, expected, swapped):
        free = each[2:] in {each[2:].lower(), each[2:].upper()}
        assert (address_fault("Base", each) is None) == (free or is_checksum_address(each))


def test_a_network_must_carry_the_asset() -> None:
    """USDC on Tron is not in the table."""
    with pytest.raises(Refused) as caught:
        check_address(AddressDestination(network="Tron", address=TRON), USDC)
    assert caught.value.code == "unsupported_network"


def test_the_shape_of_an_address_may_name_its_network() -> None:
    """One fitting main network is taken; several are ambiguous."""
    assert natural_network(SOLANA, USDC) == "Solana"
    assert natural_network(GOOD, USDC) is None
    assert natural_network(TRON, AssetRegistry().find("USDT")) == "Tron"


def test_unknown_assets_are_refused_by_name() -> None:
    """The answer lists what is known."""
    with pytest.raises(Refused, match="USDC"):
        AssetRegistry().find("NOPE")
    assert AssetRegistry([Asset(code="NOPE", decimals=3)]).find("nope").decimals == 3


@pytest.mark.parametrize(
    ("amount", "ok"), [("0.000001", True), ("0.0000001", False), ("1.500000000", True)]
)
def test_amounts_are_as_precise_as_the_asset(amount: str, *, ok: bool) -> None:
    """USDC has six decimals; trailing zeros do not count."""
    if ok:
        check_precision(Decimal(amount), USDC, "Ethereum")
    else:
        with pytest.raises(Refused) as caught:
            check_precision(Decimal(amount), USDC, "Ethereum")
        assert caught.value.code == "amount_too_precise"


def test_zero_is_no_amount() -> None:
    """Nothing is paid for nothing."""
    with pytest.raises(Refused):
        check_precision(Decimal(0), USDC, None)


@given(st.integers(min_value=0, max_value=10**40), st.integers(min_value=0, max_value=30))
def test_minor_units_are_exact_both_ways(minor: int, decimals: int) -> None:
    """No sum is rounded on the way, however long."""
    amount = from_minor(minor, decimals)
    assert to_minor(amount, decimals) == minor
    assert to_minor(Decimal(format_amount(amount)), decimals) == minor


def test_what_does_not_fit_is_an_error() -> None:
    """A part of a minor unit cannot be sent."""
    with pytest.raises(ValueError, match="does not fit"):
        to_minor(Decimal("0.5"), 0)


@given(st.decimals(min_value=0, max_value=10**12, places=12), st.integers(min_value=0, max_value=6))
def test_fees_are_rounded_up(fee: Decimal, decimals: int) -> None:
    """The fee is never below what was configured, and less than one unit above it."""
    rounded = round_fee(fee, decimals)
    assert 0 <= EXACT.subtract(rounded, fee) < Decimal(1).scaleb(-decimals)


def test_explorers_are_known_for_main_networks() -> None:
    """A hash without a known network has no link."""
    assert explorer_url("Ethereum", "0xab") == "https://etherscan.io/tx/0xab"
    assert explorer_url(None, "0xab") is None
    assert explorer_url("Ethereum", None) is None
