"""Settings of one merchant account at the provider."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

#: The source of the passcode: our own secret store, the caller of each payout, or a code that the
#: provider sends to the account's owner for each session.
Mode = Literal["standing", "caller", "one_time_code"]
_Words = Annotated[str, StringConstraints(min_length=1, max_length=255)]
_Phone = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{7,14}$")]


def _check_address(text: str) -> str:
    ip_address(text)
    return text


class DeviceSettings(BaseModel):
    """The device block that the provider keeps for audit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_ip: Annotated[str, AfterValidator(_check_address)] = Field(
        description="Address that our calls come from, as the provider sees it."
    )
    name: _Words = Field(default="payout-gateway", description="Name of the device.")
    type: _Words = Field(default="SERVER", description="Type of the device.")
    platform: _Words = Field(default="PYTHON", description="Platform of the device.")
    user_agent: _Words = Field(default="payout-gateway", description="User agent.")


class CardPasscodeSettings(BaseModel):
    """Settings of one merchant account at the provider."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str = Field(pattern=r"^https?://[^\s?#]+$", description="API address, with /v1.")
    client_id: SecretStr = Field(description="Client id of the merchant.")
    client_secret: SecretStr = Field(description="Its client secret.")
    device: DeviceSettings = Field(description="The device block sent with each passcode.")
    passcode_mode: Mode = Field(
        default="standing",
        description="Who gives the passcode: `standing` (ours, below), `caller` (asked of the "
        "platform for each payout), `one_time_code` (the provider sends one per session).",
    )
    payout_accounts: dict[str, Mode] = Field(
        default={}, description="The passcode mode of single payout accounts, by their id."
    )
    passcode: SecretStr | None = Field(
        default=None, description="The standing passcode of the merchant."
    )
    phone: _Phone | None = Field(
        default=None, description="Phone that the passcode is tied to: digits, no plus sign."
    )
    user_id: _Words | None = Field(
        default=None,
        description="User id that the passcode is tied to, instead of a phone (or beside it, with both_ids).",
    )
    both_ids: bool = Field(
        default=False,
        description="The provider takes phone and user_id of a passcode together: both may be set, and "
        "given with an answer.",
    )
    channel: Literal["sms", "email", "totp"] = Field(
        default="sms", description="How one-time codes are sent."
    )
    timeout_s: float = Field(
        default=20, gt=0, le=40, description="Longest time for one HTTP call, in seconds."
    )

    @model_validator(mode="after")
    def _complete(self) -> CardPasscodeSettings:
        if self.phone is not None and self.user_id is not None and not self.both_ids:
            msg = "phone and user_id exclude each other: set one, or both_ids where the provider takes both"
            raise ValueError(msg)
        if "standing" in {self.passcode_mode, *self.payout_accounts.values()}:
            if self.passcode is None:
                msg = "the passcode mode `standing` needs passcode (or passcode_file)"
                raise ValueError(msg)
            if self.phone is None and self.user_id is None:
                msg = "the passcode mode `standing` needs phone or user_id"
                raise ValueError(msg)
        return self

    def mode_of(self, payout_account_id: str) -> Mode:
        """Return who gives the passcode for a payout account."""
        return self.payout_accounts.get(payout_account_id, self.passcode_mode)

    @property
    def owner(self) -> dict[str, str]:
        """The owner of the passcode, unless the caller names another one."""
        ids = {"phone": self.phone, "user_id": self.user_id}
        return {name: value for name, value in ids.items() if value is not None}
