"""Settings of one Dfns organisation."""

from __future__ import annotations

import re
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from adapters.dfns.signing import load_private_key

#: (dfns protocol notes, §2: patterns)
WALLET_ID = r"^wa-[a-z0-9]{5}-[a-z0-9]{5}-[a-z0-9]{14,16}$"


class FeeCoin(BaseModel):
    """The coin in which a network's fees are paid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd: Decimal = Field(gt=0, description="Price of one coin in US dollars.")
    decimals: int = Field(ge=0, le=36, description="Decimals of the coin.")


class DfnsSettings(BaseModel):
    """Settings of one Dfns organisation."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str = Field(
        pattern=r"^https?://[^\s?#/]+$", description="API address of the region, without a path."
    )
    auth_token: SecretStr = Field(description="Token of the service account.")
    credential_id: str = Field(
        min_length=1, description="Credential id (cr-…) of the key that signs user actions."
    )
    private_key: SecretStr = Field(
        description="That key, PEM: Ed25519, P-256, secp256k1 or RSA, without a passphrase."
    )
    webhook_secret: SecretStr | None = Field(
        default=None, description="Secret of the webhook; without it webhooks are refused."
    )
    wallets: dict[str, str] = Field(
        min_length=1, description='Wallet id per network, e.g. EthereumSepolia = "wa-…".'
    )
    borderless_account_id: str | None = Field(
        default=None, min_length=1, description="Account at Borderless that pays off-ramp payouts."
    )
    spl2022_assets: frozenset[str] = Field(
        default=frozenset({"PYUSD"}),
        description="Asset codes whose mint on Solana belongs to the Token-2022 program.",
    )
    create_destination_account: bool = Field(
        default=False,
        description="Pay to create the token account of a recipient on Solana that has none "
        "(`createDestinationAccount`); without it such a transfer is refused.",
    )
    fee_coins: dict[str, FeeCoin] = Field(
        default={},
        description="By network, the coin that fees are paid in, e.g. Ethereum = "
        '{usd = "2500", decimals = 18}: fees are reported in US dollars by these fixed prices, and not at all '
        "on other networks.",
    )
    confirm_after_webhook: bool = Field(
        default=False,
        description="Confirm an off-ramp only after the webhook has reported the same deposit address.",
    )
    user_action_life_s: float = Field(
        default=900,
        gt=0,
        le=86_400,
        description="How long a signed call may still be accepted, in seconds. Dfns does not say; "
        "never less than it is.",
    )
    requests_per_minute: int = Field(
        default=1000,
        ge=10,
        le=100_000,
        description="Requests a minute that Dfns takes of the organisation; 100 on a trial plan.",
    )
    most_transfers_searched: int = Field(
        default=5000,
        ge=50,
        le=25_000,
        description="How many of a wallet's transfers are searched for the one that settles an off-ramp "
        "payout which ended without naming it; 50 are one request. If the wallet has more, the payout is "
        "on the operator's list (`cannot_look`).",
    )
    timeout_s: float = Field(
        default=10, gt=0, le=20, description="Longest time for one HTTP call, in seconds."
    )

    @field_validator("private_key")
    @classmethod
    def _private_key(cls, value: SecretStr) -> SecretStr:
        load_private_key(value.get_secret_value())
        return value

    @field_validator("wallets")
    @classmethod
    def _wallets(cls, value: dict[str, str]) -> dict[str, str]:
        for network, wallet_id in value.items():
            if not re.fullmatch(WALLET_ID, wallet_id):
                msg = f"the wallet of {network} is no wallet id (wa-…)"
                raise ValueError(msg)
        if len(set(value.values())) != len(value):
            msg = "one wallet id stands for two networks: a Dfns wallet has one network"
            raise ValueError(msg)
        return value
