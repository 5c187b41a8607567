"""Settings of balances: how often they are read, and whether payouts reserve from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.section import Section

#: What becomes of a payout that an account does not cover, or whose balance is not known.
Shortage = Literal["refuse", "wait"]


class BalanceSettings(Section):
    """What a custodian instance has of balances. Its adapter has to report them."""

    reserve: bool = Field(
        default=False,
        description="Whether a payout reserves its amount and fee when it is accepted, so that no more is "
        "accepted than an account's balance covers. `reserve` in `[[accounts.NAME]]` is for one account.",
    )
    balance_every_s: float = Field(
        default=60,
        ge=1,
        description="How often the balances of each account are read, where the adapter reports them, in "
        "seconds.",
    )
    balance_max_age_s: float = Field(
        default=300,
        ge=1,
        description="The oldest balance that a payout may reserve from, in seconds; at least twice "
        "`balance_every_s`.",
    )
    on_old_balance: Shortage = Field(
        default="refuse",
        description="Where the balance is older: `refuse` the payout, or accept it and let it `wait` for "
        "the next read.",
    )
