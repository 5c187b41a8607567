"""Settings of one Fireblocks workspace."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from adapters.fireblocks import webhook
from adapters.fireblocks.client import load_private_key


class AssetMapping(BaseModel):
    """Fireblocks' id of an asset, and the network that the id implies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset_id: str = Field(min_length=1)
    network: str | None = None


class FireblocksSettings(BaseModel):
    """Settings of one Fireblocks workspace."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str = Field(pattern=r"^https?://[^\s?#]+$", description="API address, with /v1.")
    api_key: SecretStr = Field(description="API key of the API user.")
    private_key: SecretStr = Field(description="Its RSA private key, PEM.")
    jwks_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]+$",
        description="Address of the webhook keys (v2).",
    )
    webhook_v1_public_key: SecretStr | None = Field(
        default=None,
        description="Public key of legacy webhooks (v1), PEM; without it they are refused.",
    )
    workspace_id: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Za-z-]{1,64}$",
        description="Id of the workspace. Fireblocks signs all workspaces' webhooks with the same keys: "
        "with this set, a webhook of another workspace is refused.",
    )
    webhook_max_age_s: float = Field(
        default=900,
        gt=0,
        le=86_400,
        description="A genuine webhook that was made longer ago than this is accepted, but changes no "
        "status: it only brings the next look at the API forward.",
    )
    assets: dict[str, AssetMapping] = Field(
        min_length=1,
        description='Asset ids by our code ("USDC"), or by code and network ("USDC:Polygon").',
    )
    fee_prices_usd: dict[str, Annotated[Decimal, Field(gt=0)]] = Field(
        default={},
        description='Price in US dollars of each asset id that fees are paid in, e.g. ETH = "2500": fees '
        "are converted with these fixed prices if Fireblocks reports none in dollars.",
    )
    set_limit: int = Field(
        default=100,
        ge=1,
        le=1000,
        description="Most instructions in one set; a batch with more is split. The vendor names no limit.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=10,
        le=100_000,
        description="Requests a minute that Fireblocks takes of the API user, where that was agreed.",
    )
    timeout_s: float = Field(
        default=20, gt=0, le=40, description="Longest time for one HTTP call, in seconds."
    )

    @field_validator("private_key")
    @classmethod
    def _private_key(cls, value: SecretStr) -> SecretStr:
        load_private_key(value.get_secret_value())
        return value

    @field_validator("webhook_v1_public_key")
    @classmethod
    def _public_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            webhook.load_public_key(value.get_secret_value())
        return value
