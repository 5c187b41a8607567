"""An order in Dfns' format: the token, the bodies, and the comparison of reported values with ordered ones.

Source: dfns protocol notes, §2 (asset, create, action), §5 (transfer bodies).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_UP, Decimal
from typing import Any

from adapters.dfns.settings import DfnsSettings
from adapters.dfns.statuses import clean
from gateway.adapter import (
    AddressDestination,
    AssetRegistry,
    BankAccountDestination,
    Echo,
    Order,
    Terms,
    from_minor,
    to_minor,
)

#: Networks whose coin can carry a memo with a transfer; on others Dfns refuses it.
MEMO_NETWORKS = frozenset({"Stellar", "StellarTestnet", "XrpLedger", "XrpLedgerTestnet"})
#: Fees are rounded up to millionths of a dollar; more digits of a fixed price would be noise.
_FEE_STEP = Decimal("0.000001")
#: (dfns protocol notes, §2: `paymentPurpose`)
PURPOSES = frozenset(
    {
        "advertising expenses",
        "advisory fees",
        "business insurance",
        "construction",
        "delivery fees",
        "donation",
        "education",
        "exports",
        "hotel",
        "loan payment",
        "maintenance expenses",
        "medical expense",
        "office expenses",
        "other",
        "owned account abroad",
        "personal remittance",
        "property purchase",
        "rent payment",
        "royalty fees",
        "salary payment",
        "service charge",
        "shares investment",
        "tax payment",
        "transportation fees",
        "travel",
        "utility bills",
    }
)


def place_of(assets: AssetRegistry, terms: Terms) -> str | None:
    """Return the contract or mint of the asset on its network; None for a network's own coin."""
    on_network = assets.find(terms.asset).networks.get(terms.network or "")
    return on_network.contract if on_network else None


def token_of(settings: DfnsSettings, assets: AssetRegistry, terms: Terms) -> dict[str, str]:
    """Return `kind`, and `contract` or `mint`."""
    place = place_of(assets, terms)
    if place is None:
        return {"kind": "Native"}
    if (terms.network or "").startswith("Solana"):
        kind = "Spl2022" if terms.asset in settings.spl2022_assets else "Spl"
        return {"kind": kind, "mint": place}
    return {"kind": "Erc20", "contract": place}


def why_not(settings: DfnsSettings, assets: AssetRegistry, terms: Terms) -> str | None:
    """Return why these terms can never be paid through Dfns, or None. Pure."""
    if terms.network is None:
        return "Dfns pays on a network; name one (network_hint)"
    if settings.wallets.get(terms.network) != terms.source.id:
        return f"{terms.source.id} is not the wallet of {terms.network} (setting wallets)"
    if terms.network not in assets.find(terms.asset).networks:
        return f"{terms.asset} is not known on {terms.network}"
    native = place_of(assets, terms) is None
    if isinstance(terms.destination, AddressDestination):
        return _why_not_address(terms.destination, terms.network, native=native)
    if isinstance(terms.destination, BankAccountDestination):
        return _why_not_bank(settings, terms.destination, native=native)
    return f"Dfns pays no {terms.destination.type}"


def _why_not_address(payee: AddressDestination, network: str, *, native: bool) -> str | None:
    if payee.network != network:
        return f"an address on {payee.network} is not paid from {network}"
    # Among tokens, only those of Solana carry a memo.
    carries = network in MEMO_NETWORKS if native else network.startswith("Solana")
    if payee.memo is not None and not carries:
        return f"a transfer of this asset on {network} carries no memo; leave it out"
    return None


def _why_not_bank(
    settings: DfnsSettings, payee: BankAccountDestination, *, native: bool
) -> str | None:
    if native:
        return "an off-ramp takes tokens, not a network's own coin"
    if settings.borderless_account_id is None:
        return "no account at the off-ramp provider is configured (setting borderless_account_id)"
    if payee.purpose not in PURPOSES:
        return f"purpose must be one of: {', '.join(sorted(PURPOSES))}"
    return None


def asset_of(settings: DfnsSettings, assets: AssetRegistry, terms: Terms) -> dict[str, str]:
    """Return the `asset` of a payout: token and amount in its smallest unit."""
    return {
        **token_of(settings, assets, terms),
        "amount": str(to_minor(terms.amount, terms.decimals)),
    }


def quote_body(settings: DfnsSettings, assets: AssetRegistry, terms: Terms) -> dict[str, Any]:
    """Return the body of the quote call."""
    payee = _bank_account(terms)
    return {
        "walletId": terms.source.id,
        "asset": asset_of(settings, assets, terms),
        "fiatCurrency": payee.fiat_currency,
        "provider": "Borderless",
        "country": payee.country,
    }


def payout_key(order: Order) -> str:
    """Return the external id of the off-ramp payout for the present step of create."""
    step = int(order.notes.get("create_step", 1))
    return order.key("payout" if step == 1 else f"payout-{step}")


def create_body(settings: DfnsSettings, assets: AssetRegistry, order: Order) -> dict[str, Any]:
    """Return the body of the create call; the same at every repeat."""
    payee = _bank_account(order)
    return {
        **quote_body(settings, assets, order),
        "borderlessAccountId": settings.borderless_account_id,
        "paymentInstructionsId": payee.payment_instructions_id,
        "paymentPurpose": payee.purpose,
        "externalId": payout_key(order),
    }


def confirm_body(
    settings: DfnsSettings, assets: AssetRegistry, order: Order, deposit_address: str
) -> dict[str, Any]:
    """Return the body of the Confirm, which echoes our own order to the deposit address."""
    return {
        "action": "Confirm",
        "walletId": order.source.id,
        "transfer": {**asset_of(settings, assets, order), "to": deposit_address},
    }


def transfer_body(
    settings: DfnsSettings, assets: AssetRegistry, order: Order, external_id: str
) -> dict[str, Any]:
    """Return the body of a wallet transfer; the same at every repeat."""
    payee = order.destination
    assert isinstance(payee, AddressDestination)  # noqa: S101 - checked before
    body: dict[str, Any] = {
        **token_of(settings, assets, order),
        "to": payee.address,
        "amount": str(to_minor(order.amount, order.decimals)),
        "externalId": external_id,
    }
    if "mint" in body and settings.create_destination_account:
        body["createDestinationAccount"] = True
    return body if payee.memo is None else {**body, "memo": payee.memo}


def transfer_echo(
    settings: DfnsSettings,
    assets: AssetRegistry,
    order: Order,
    told: Mapping[str, Any],
    external_id: str,
) -> Echo:
    """Return Dfns' values of a wallet transfer with the ordered ones, under our external id."""
    payee = order.destination
    assert isinstance(payee, AddressDestination)  # noqa: S101 - checked before
    request = told.get("requestBody")
    request = request if isinstance(request, Mapping) else {}
    memo = clean(request.get("memo"))
    return Echo(
        asset=_token_words(request, told),
        amount=amount_of(request.get("amount"), order.decimals),
        destination=_payee_words(request.get("to"), memo),
        # The echoed request may have it as well.
        reference=_told_id(external_id, told.get("externalId"), request.get("externalId")),
        ordered_asset=_ordered_token(settings, assets, order),
        ordered_amount=order.amount,
        ordered_destination=_payee_words(payee.address, (payee.memo or "").strip() if memo else ""),
        ordered_reference=external_id or None,
    )


def payout_echo(
    settings: DfnsSettings, assets: AssetRegistry, order: Order, told: Mapping[str, Any]
) -> Echo:
    """Return Dfns' values of an off-ramp payout with the ordered ones."""
    payee, external_id = _bank_account(order), payout_key(order)
    asset, data = told.get("asset"), told.get("data")
    asset = asset if isinstance(asset, Mapping) else {}
    data = data if isinstance(data, Mapping) else {}
    bank = " ".join(
        clean(each)
        for each in (
            data.get("borderlessAccountId"),
            data.get("paymentInstructionsId"),
            data.get("country"),
            told.get("fiatCurrency"),
        )
    )
    ordered = (
        f"{settings.borderless_account_id} {payee.payment_instructions_id} "
        f"{payee.country} {payee.fiat_currency}"
    )
    return Echo(
        asset=_token_words(asset, {**told, "network": asset.get("network")}),
        amount=amount_of(asset.get("amount"), order.decimals),
        destination=bank.strip() or None,
        reference=_told_id(external_id, told.get("externalId")),
        ordered_asset=_ordered_token(settings, assets, order),
        ordered_amount=order.amount,
        ordered_destination=ordered,
        ordered_reference=external_id,
    )


def fee_usd(settings: DfnsSettings, network: str | None, told: Mapping[str, Any]) -> Decimal | None:
    """Return the cost of a transfer's `fee` at the configured price; None if one of them is missing.

    Dfns reports it in the smallest unit of the network's own coin.
    """
    coin, units = settings.fee_coins.get(network or ""), clean(told.get("fee"))
    if coin is None or not (units.isascii() and units.isdigit()):
        return None
    return (from_minor(int(units), coin.decimals) * coin.usd).quantize(_FEE_STEP, rounding=ROUND_UP)


def untold(echo: Echo) -> tuple[str, ...]:
    """Return the members of an echo that were not reported, and so were not compared."""
    members = {"asset": echo.asset, "amount": echo.amount, "destination": echo.destination}
    return tuple(f"{name} is not reported" for name, value in members.items() if value is None)


def amount_of(units: object, decimals: int) -> Decimal | None:
    """Return the exact amount of a whole number of smallest units."""
    text = clean(units)
    return from_minor(int(text), decimals) if text.isascii() and text.isdigit() else None


def _told_id(ordered: str, *told: object) -> str | None:
    """Return the reported external id; if there are several and one differs from the order, return that one."""
    ids = [clean(each) for each in told if clean(each)]
    return next((each for each in ids if each != ordered), ids[0] if ids else None)


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are the same; the letter case of an EVM address is only its checksum."""
    return _address(one) == _address(other)


def _address(value: object) -> str | None:
    text = clean(value)
    return (text.lower() if text.startswith("0x") else text) or None


def _payee_words(address: object, memo: str) -> str | None:
    """Return an address with its memo; a memo that is not reported is not compared."""
    words = _address(address)
    return f"{words} memo {memo}" if words and memo else words


def _token_words(token: Mapping[str, Any], told: Mapping[str, Any]) -> str | None:
    kind = clean(token.get("kind"))
    if not kind:
        return None
    place = _address(token.get("contract") or token.get("mint"))
    return _words(kind, place, clean(told.get("network")), clean(told.get("walletId")))


def _ordered_token(settings: DfnsSettings, assets: AssetRegistry, order: Order) -> str:
    token = token_of(settings, assets, order)
    place = _address(token.get("contract") or token.get("mint"))
    return _words(token["kind"], place, order.network or "", order.source.id)


def _words(kind: str, place: str | None, network: str, wallet: str) -> str:
    return f"{kind} {place or 'coin'} on {network} from {wallet}"


def _bank_account(terms: Terms) -> BankAccountDestination:
    payee = terms.destination
    assert isinstance(payee, BankAccountDestination)  # noqa: S101 - checked before
    return payee
