"""Assets and networks: codes, decimals, contracts; and whether an address fits its network.

The built-in table holds well-known stablecoins; more come from the configuration. Network codes are
Dfns' words. Contract addresses and mints: the issuers' published lists (Circle, Tether, PayPal, Sky).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_UP, Context, Decimal
from enum import StrEnum
from functools import lru_cache

import base58
from eth_hash.auto import keccak
from pydantic import Field

from gateway.errors import Refused
from gateway.model import AddressDestination, Value, format_amount

#: Python's default of 28 digits would round a long amount in silence; no money sum here needs 100.
EXACT = Context(prec=100)
_EVM_DIGITS = 40
#: The bit that makes a letter small, where a hexadecimal digit is 8 or above; where it is a letter.
_CAPITAL = bytes(0x20 if chr(each) in "89abcdef" else 0 for each in range(256))
_LETTER = bytes(0x20 if chr(each) in "abcdef" else 0 for each in range(256))
_EVM_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


class NetworkKind(StrEnum):
    """How addresses look on a network."""

    EVM = "evm"  #: 20 bytes, hexadecimal, EIP-55 checksum
    SOLANA = "solana"  #: base58 of 32 bytes
    TRON = "tron"  #: base58check of 21 bytes that begin with 0x41
    OTHER = "other"  #: not checked here; the custodian checks it


#: Known networks and the shape of their addresses.
NETWORKS: dict[str, NetworkKind] = {
    "ArbitrumOne": NetworkKind.EVM,
    "ArbitrumSepolia": NetworkKind.EVM,
    "AvalancheC": NetworkKind.EVM,
    "Base": NetworkKind.EVM,
    "BaseSepolia": NetworkKind.EVM,
    "Bsc": NetworkKind.EVM,
    "Ethereum": NetworkKind.EVM,
    "EthereumSepolia": NetworkKind.EVM,
    "Optimism": NetworkKind.EVM,
    "Polygon": NetworkKind.EVM,
    "Solana": NetworkKind.SOLANA,
    "SolanaDevnet": NetworkKind.SOLANA,
    "Tron": NetworkKind.TRON,
}

_EXPLORERS = {
    "ArbitrumOne": "https://arbiscan.io/tx/{}",
    "AvalancheC": "https://snowtrace.io/tx/{}",
    "Base": "https://basescan.org/tx/{}",
    "Bsc": "https://bscscan.com/tx/{}",
    "Ethereum": "https://etherscan.io/tx/{}",
    "EthereumSepolia": "https://sepolia.etherscan.io/tx/{}",
    "Optimism": "https://optimistic.etherscan.io/tx/{}",
    "Polygon": "https://polygonscan.com/tx/{}",
    "Solana": "https://explorer.solana.com/tx/{}",
    "SolanaDevnet": "https://explorer.solana.com/tx/{}?cluster=devnet",
    "Tron": "https://tronscan.org/#/transaction/{}",
}


class AssetNetwork(Value):
    """An asset on one network: its contract or mint, and its decimals there."""

    contract: str | None = None
    decimals: int | None = Field(default=None, ge=0, le=30)


class Asset(Value):
    """An asset: its code, its decimals, and where it lives (nowhere, for a fiat currency)."""

    code: str = Field(pattern=r"^[A-Z0-9_.]{2,16}$")
    decimals: int = Field(ge=0, le=30)
    usd_pegged: bool = False
    networks: Mapping[str, AssetNetwork] = {}

    def decimals_on(self, network: str | None) -> int:
        """Return the number of decimals of the asset on a network."""
        on_network = self.networks.get(network) if network else None
        if on_network is None or on_network.decimals is None:
            return self.decimals
        return on_network.decimals


def _asset(code: str, decimals: int, *, usd: bool, **networks: str) -> Asset:
    return Asset(
        code=code,
        decimals=decimals,
        usd_pegged=usd,
        networks={name: AssetNetwork(contract=contract) for name, contract in networks.items()},
    )


def _coin(code: str, decimals: int, *networks: str) -> Asset:
    """Return a network's own coin, which has no contract."""
    return Asset(
        code=code,
        decimals=decimals,
        usd_pegged=False,
        networks={name: AssetNetwork() for name in networks},
    )


BUILT_IN: tuple[Asset, ...] = (
    _asset(
        "USDC",
        6,
        usd=True,
        ArbitrumOne="0xaf88d065e77c8cC2239327C5EDb3A432268e5831",
        AvalancheC="0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E",
        Base="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        Ethereum="0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48",
        EthereumSepolia="0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238",
        Optimism="0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85",
        Polygon="0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359",
        Solana="EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
        SolanaDevnet="4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
    ),
    _asset(
        "USDT",
        6,
        usd=True,
        Ethereum="0xdAC17F958D2ee523a2206206994597C13D831ec7",
        Solana="Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB",
        Tron="TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t",
    ),
    _asset(
        "EURC",
        6,
        usd=False,
        Base="0x60a3E35Cc302bFA44Cb288Bc5a4F316Fdb1adb42",
        Ethereum="0x1aBaEA1f7C830bD89Acc67eC4af516284b1bC33c",
        Solana="HzwqbKZw8HxMN6bF2yFZNrht3c2iXXzpKcFu7uBEDKtr",
    ),
    _asset(
        "PYUSD",
        6,
        usd=True,
        Ethereum="0x6c3ea9036406852006290770BEdFcAbA0e23A0e8",
        Solana="2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo",
        SolanaDevnet="CXk2AMBfi3TwaEL2468s6zP8xq9NxTXjp9gjMgzeUynM",
    ),
    _coin("ETH", 18, "Ethereum", "EthereumSepolia", "Base", "Optimism", "ArbitrumOne"),
    _coin("SOL", 9, "Solana", "SolanaDevnet"),
    _asset("DAI", 18, usd=True, Ethereum="0x6B175474E89094C44Da98b954EedeAC495271d0F"),
    _asset("USD", 2, usd=True),
    _asset("EUR", 2, usd=False),
)


class AssetRegistry:
    """The assets this gateway knows: the built-in ones and those of the configuration."""

    def __init__(self, more: Iterable[Asset] = ()) -> None:
        self._assets = {asset.code: asset for asset in (*BUILT_IN, *more)}

    def find(self, code: str) -> Asset:
        """Return the asset of a code, in any case of letters. Refused: `unsupported_asset`."""
        asset = self._assets.get(code.upper())
        if asset is None:
            known = ", ".join(sorted(self._assets))
            detail = f"The asset {code!r} is not known here. Known assets: {known}."
            raise Refused(
                "unsupported_asset", detail, errors=[_fault("/asset", "unsupported_asset", detail)]
            )
        return asset

    def codes(self) -> tuple[str, ...]:
        """Return the codes of all known assets, sorted."""
        return tuple(sorted(self._assets))


def check_precision(amount: Decimal, asset: Asset, network: str | None) -> None:
    """Refuse an amount with more decimals than the asset has (`amount_too_precise`), and zero."""
    if amount <= 0:
        detail = "The amount must be above zero."
        raise Refused(
            "amount_below_minimum",
            detail,
            errors=[_fault("/amount", "amount_below_minimum", detail)],
        )
    decimals = asset.decimals_on(network)
    exponent = EXACT.normalize(amount).as_tuple().exponent
    if isinstance(exponent, int) and -exponent > decimals:
        detail = (
            f"{format_amount(amount)} has {-exponent} decimals; {asset.code} has {decimals}. "
            f"Round it yourself: the gateway never rounds an amount."
        )
        raise Refused(
            "amount_too_precise", detail, errors=[_fault("/amount", "amount_too_precise", detail)]
        )


def to_minor(amount: Decimal, decimals: int) -> int:
    """Return the amount in minimum units, exactly; a ValueError if it does not fit."""
    scaled = EXACT.scaleb(amount, Decimal(decimals))
    if scaled != EXACT.to_integral_value(scaled):
        msg = f"{amount} does not fit {decimals} decimals"
        raise ValueError(msg)
    return int(scaled)


def from_minor(minor: int, decimals: int) -> Decimal:
    """Return the amount of a whole number of minimum units, exactly."""
    return EXACT.scaleb(Decimal(minor), Decimal(-decimals))


def round_fee(fee: Decimal, decimals: int) -> Decimal:
    """Round a fee up to the asset's smallest unit, so that what is sent is never above the quote."""
    return fee.quantize(_unit(decimals), rounding=ROUND_UP, context=EXACT)


@lru_cache(maxsize=64)
def _unit(decimals: int) -> Decimal:
    return Decimal(1).scaleb(-decimals)


def explorer_url(network: str | None, tx_hash: str | None) -> str | None:
    """Return the address of a public explorer's page of a transaction, where one is known."""
    pattern = _EXPLORERS.get(network or "")
    return pattern.format(tx_hash) if pattern and tx_hash else None


def check_address(destination: AddressDestination, asset: Asset) -> AddressDestination:
    """Return the destination with its address in canonical form, or refuse it with the reason.

    Refused: `unsupported_network`, `invalid_destination`. An all-lowercase EVM address carries no
    checksum and is taken; a mixed one must be right (EIP-55).
    """
    network, address = destination.network, destination.address
    kind = NETWORKS.get(network)
    if kind is None or (asset.networks and network not in asset.networks):
        known = ", ".join(sorted(asset.networks)) or "none"
        detail = f"{asset.code} is not known on the network {network!r}. Networks of {asset.code}: {known}."
        raise Refused(
            "unsupported_network",
            detail,
            errors=[_fault("/destination/network", "unsupported_network", detail)],
        )
    reason = address_fault(network, address)
    if reason is None and kind is NetworkKind.EVM:
        address = checksummed(address)
    contract = asset.networks[network].contract if network in asset.networks else None
    if reason is None and contract is not None and address == contract:
        reason = f"is the {asset.code} contract or mint itself, not a recipient"
    if reason is not None:
        detail = f"The address {reason}."
        raise Refused(
            "invalid_destination",
            detail,
            errors=[_fault("/destination/address", "invalid_destination", detail)],
        )
    if address == destination.address:
        return destination
    return destination.model_copy(update={"address": address})


def address_fault(network: str, address: str, *, by_custodian: bool = False) -> str | None:
    """Return what is wrong with an address on a network ("fails its checksum"), or None. Pure.

    `by_custodian`: the custodian made the address itself, so that on Solana it may belong to a program
    instead of a key (decision 0018). Its form is checked all the same.
    """
    if by_custodian and NETWORKS.get(network) is NetworkKind.SOLANA:
        return _solana_form_fault(address)
    checks = {
        NetworkKind.EVM: _evm_fault,
        NetworkKind.SOLANA: _solana_fault,
        NetworkKind.TRON: _tron_fault,
    }
    check = checks.get(NETWORKS.get(network, NetworkKind.OTHER))
    return None if check is None else check(address)


def natural_network(address: str, asset: Asset) -> str | None:
    """Return the one network of the asset whose address shape fits, or None where several or none do."""
    fitting = [
        name for name in asset.networks if _fits(NETWORKS[name], address) and not _testnet(name)
    ]
    return fitting[0] if len(fitting) == 1 else None


def fitting_networks(address: str, asset: Asset) -> frozenset[str]:
    """Return the networks of the asset, test networks included, whose address shape fits."""
    return frozenset(name for name in asset.networks if _fits(NETWORKS[name], address))


def possible_networks(address: str, asset: Asset) -> list[str]:
    """Return the networks that an address in an asset may be on, test networks included, by its shape."""
    return sorted(each for each in asset.networks or NETWORKS if _fits(NETWORKS[each], address))


def shape_fault(address: str, asset: Asset) -> str:
    """Return why an address fits no network of an asset, as a sentence. Pure."""
    kinds = {NETWORKS[each] for each in asset.networks or NETWORKS}
    fault = _evm_fault(address) if address[:2] == "0x" and NetworkKind.EVM in kinds else None
    if fault is not None:
        return f"The address {fault}."
    return f"This has the shape of an address on none of the networks of {asset.code}."


def _testnet(network: str) -> bool:
    return network.endswith(("Sepolia", "Devnet"))


def _fits(kind: NetworkKind, address: str) -> bool:
    checks = {
        NetworkKind.EVM: _evm_fault,
        NetworkKind.SOLANA: _solana_fault,
        NetworkKind.TRON: _tron_fault,
    }
    return kind in checks and checks[kind](address) is None


# Two rules ask for the checksum of an address, one after the other.
@lru_cache(maxsize=64)
def checksummed(address: str) -> str:
    """Return an EVM address, `0x` and 40 hexadecimal digits, with its checksum: the case of its letters.

    EIP-55: a letter is a capital where the digit of the hash at its place is 8 or above. eth_utils does the
    same, with checks of its own input that take five times as long; batches are checked line by line.
    """
    digits = address[2:].lower().encode("ascii")
    marks = keccak(digits).hex().encode("ascii")[:_EVM_DIGITS]
    # ASCII's small letters differ from its capitals in one bit. All digits at once: one by one takes six times as long.
    capitals = int.from_bytes(marks.translate(_CAPITAL)) & int.from_bytes(digits.translate(_LETTER))
    return "0x" + (int.from_bytes(digits) ^ capitals).to_bytes(_EVM_DIGITS).decode("ascii")


def _evm_fault(address: str) -> str | None:
    if not _EVM_ADDRESS.fullmatch(address):
        return "is not an EVM address: it needs 0x and 40 hexadecimal digits"
    digits = address[2:]
    if digits not in (digits.lower(), digits.upper()) and address != checksummed(address):
        return "fails its EIP-55 checksum: a character is wrong, or its case was changed"
    if int(address, 16) == 0:
        return "is the zero address: what is sent there is lost"
    return None


def _solana_fault(address: str) -> str | None:
    fault = _solana_form_fault(address)
    if fault is None and not _on_curve(base58.b58decode(address.encode("ascii"))):
        return (
            "belongs to no key: it is a token account or another program's own address. "
            "Give the address of the wallet that owns it"
        )
    return fault


def _solana_form_fault(address: str) -> str | None:
    try:
        raw = base58.b58decode(address.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        return "is not base58"
    if len(raw) != 32:  # noqa: PLR2004 - an ed25519 public key
        return f"decodes to {len(raw)} bytes; a Solana address has 32"
    if raw == bytes(32):
        return "is the system program's address: what is sent there is lost"
    return None


def _on_curve(raw: bytes) -> bool:
    """Whether 32 bytes are a point of the curve of Ed25519 (RFC 8032, 5.1.3), as a wallet's key is.

    Token accounts are derived so that they are not (Solana documentation, program derived addresses).
    """
    prime = 2**255 - 19
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if y >= prime:
        return False
    d = -121665 * pow(121666, -1, prime) % prime
    x_squared = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
    return x_squared == 0 or pow(x_squared, (prime - 1) // 2, prime) == 1


def _tron_fault(address: str) -> str | None:
    try:
        raw = base58.b58decode_check(address.encode("ascii"))
    except (ValueError, UnicodeEncodeError):
        return "fails its base58 checksum"
    if len(raw) != 21 or raw[0] != 0x41:  # noqa: PLR2004 - Tron's address format
        return "is not a Tron address"
    return None


def _fault(pointer: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "code": code, "detail": detail}
