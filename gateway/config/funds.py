"""Settings of balances: how often they are read, and whether payouts reserve from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.section import Section

#: What happens to a payout that an account does not cover, or whose balance is not known.
Shortage = Literal["refuse", "wait"]


class BalanceSettings(Section):
    """What a custodian instance has of balances. Its adapter has to report them."""

    reserve: bool = Field(
        default=False,
        description="Whether an accepted payout reserves its amount and fee, so that no more is accepted than an "
        "account's balance covers. `reserve` in `[[accounts.NAME]]` overrides this for one account.",
    )
    balance_every_s: float = Field(
        default=60,
        ge=1,
        description="Seconds between two reads of each account's balances, if the adapter reports them.",
    )
    balance_max_age_s: float = Field(
        default=300,
        ge=1,
        description="Maximum age of a balance that a payout may reserve from, in seconds; at least twice "
        "`balance_every_s`.",
    )
    on_old_balance: Shortage = Field(
        default="refuse",
        description="If the balance is older: `refuse` the payout, or accept it and let it `wait` for the next "
        "read.",
    )
