"""What is said of a payout: reports, notices, and the answers to a look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal

from gateway.model import Failure, SubStatus, Transaction


@dataclass(frozen=True)
class Ref:
    """An id at the custodian, unique per instance and kind."""

    kind: str  #: payout, instruction, transaction, transfer, hash
    value: str


@dataclass(frozen=True)
class Echo:
    """What the custodian says it pays. The engine compares every member given with the order."""

    asset: str | None = None
    amount: Decimal | None = None
    destination: str | None = None
    #: our key or external id, where the custodian echoes it
    reference: str | None = None
    #: the same as they were ordered, in the custodian's words
    ordered_asset: str | None = None
    ordered_amount: Decimal | None = None
    ordered_destination: str | None = None
    ordered_reference: str | None = None

    def differences(self) -> tuple[str, ...]:
        """Return one line per member that was reported and differs from the order."""
        pairs = (
            ("asset", self.asset, self.ordered_asset),
            ("amount", self.amount, self.ordered_amount),
            ("destination", self.destination, self.ordered_destination),
            ("reference", self.reference, self.ordered_reference),
        )
        return tuple(
            f"{name}: ordered {ordered}, custodian says {told}"
            for name, told, ordered in pairs
            if told is not None and ordered is not None and told != ordered
        )


@dataclass(frozen=True)
class Returned:
    """Money of a payout that came back. It never changes the payout's status.

    `id` is the custodian's own id of the return, unique per instance: the same id again changes nothing,
    and several ids of one payout add up. None where the custodian has no such id: then `amount` is the
    total of all that came back of the payout, and only an increase counts. One payout's returns are
    reported in one of the two ways. `amount` is positive, in units of `asset`, which is the order's asset.
    """

    id: str | None
    amount: Decimal
    asset: str
    at: datetime  #: when it came back, by the custodian
    word: str = ""  #: the custodian's own words, kept raw


ActionType = Literal["enter_passcode", "redirect_to_url", "await_external_approval"]


@dataclass(frozen=True)
class Action:
    """What a payout waits for a person to do. The gateway adds the client secret."""

    type: ActionType = "enter_passcode"
    channel: str | None = None  #: how the code reaches its owner; None: the owner knows it
    masked_target: str | None = None  #: where it was sent, for the person's eyes
    url: str | None = None  #: where the person is to go, for `redirect_to_url`
    attempts_left: int | None = None  #: 0: locked; the next action starts again
    expires_at: datetime | None = None  #: None: the gateway's own limit holds


@dataclass(frozen=True)
class Report:
    """What the custodian said, in the gateway's words.

    `sub_status` None means that the custodian used no word of the adapter's table: the raw words go
    into `unknown_words`, and the payout's status does not change.
    """

    sub_status: SubStatus | None
    custodian_word: str  #: the custodian's own words, kept raw
    refs: tuple[Ref, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    failure: Failure | None = None  #: required where `sub_status` is one of the failed ones
    echo: Echo | None = None
    custodian_reference: str | None = None  #: the id that an operator looks up at the custodian
    unknown_words: tuple[str, ...] = ()
    observed_at: datetime | None = None
    detail: str | None = (
        None  #: one line for the payout's timeline, which partners see; never a secret
    )
    fees_paid_usd: Decimal | None = None
    #: what the recipient got by the custodian's own figure, in the order's asset; shown once the payout is
    #: delivered. None: the custodian does not report it, or reports it in another unit. Never the ordered
    #: amount where the custodian has not reported it.
    final_recipient_amount: Decimal | None = None
    again_after_s: float | None = None  #: from `submit`: call `submit` again after so many seconds
    action: Action | None = None  #: required where `sub_status` is `requires_action`
    #: our reference that a failed word names, where one execution has several (`moving(reference=…)`)
    reference: str | None = None
    #: with a failed word: nothing is wrong with the order, it may be tried again by a new execution (for
    #: example, the one-time code was refused late). Believed only where the word proves that nothing moved.
    reopens: bool = False
    #: what came back of the money, every return that the custodian shows; see `Returned`
    returned: tuple[Returned, ...] = ()


@dataclass(frozen=True)
class Absent:
    """The custodian was asked by a reference it must know, and does not know it now.

    For a custodian that registers first and executes later: it knows the payout and says that it
    was not executed, and one that was executed never looks like that. The engine counts such answers;
    one alone proves nothing.
    """

    custodian_word: str = ""


@dataclass(frozen=True)
class NotListed:
    """A complete list was searched for this very order, and it is not in it.

    For a custodian that cannot be asked by our reference, but lists what it did. It stands between `Absent`
    and `CannotLook`. The engine counts it as one look that found nothing, under the same rules as `Absent`:
    as many looks, the same waiting; it never shortens them. It counts only where the searched window began
    before every call that may have arrived, by more than `Capabilities.clock_skew_s`; otherwise it is
    `CannotLook`. Say it only where every page was read: a list that broke off is a failed look (raise
    NotSent), and one that several orders share may show that something is there, never that it is not.
    """

    #: where the searched window begins, by the custodian's clock; None: the list has everything that the
    #: account ever did
    since: datetime | None = None
    custodian_word: str = ""


@dataclass(frozen=True)
class CannotLook:
    """There is nothing to ask by, or the response does not distinguish done from not done. Never a proof.

    `repeat_is_safe` says it of this very attempt, where an adapter has calls of both kinds; None
    leaves it to the declared key semantics. False puts the payout on the operator's list at once
    (`cannot_look`): neither a look nor a repeat can settle it.
    """

    reason: str = ""
    repeat_is_safe: bool | None = None


@dataclass(frozen=True)
class Notice:
    """One piece of news in a custodian's webhook.

    `dedup_key` is the custodian's own id of the notification. `report` may bring `broadcast`, a
    hash, or an end where the protocol says that the webhook's word is final for the payout; without
    it the notice only brings the next look forward. `told` is kept with the attempt, for the adapter
    to compare with what the API says: it is found in `order.notes["told"]`, never acted on by itself.

    `believed_for_s` bounds the webhook in time: received further than that from `observed_at` it only
    brings the next look forward, however genuine it is, and so does one without `observed_at`. None: what
    it says holds whenever it comes.
    """

    refs: tuple[Ref, ...]
    dedup_key: str
    observed_at: datetime | None = None
    report: Report | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    believed_for_s: float | None = None
    #: what came back of the payout's money; counts with `report` and without it
    returned: tuple[Returned, ...] = ()


@dataclass(frozen=True)
class FaultyNotice(Notice):
    """A notice whose report the gateway does not take: it only brings the next look forward."""

    fault: str = ""


@dataclass(frozen=True)
class Offer:
    """What a provider behind the custodian would give. Never a promise: the quote says `indicative`."""

    #: what one unit of the asset is in the recipient's currency, after the provider's fees
    fx_rate: Decimal
    #: what the custodian takes, in the asset that is sent; None: nothing beside the rate, or it does not say.
    #: It takes the place of the fee that the operator has configured for the route
    fee: Decimal | None = None


@dataclass(frozen=True)
class Balance:
    """What an account at the custodian can pay of one asset."""

    asset: str  #: the gateway's code
    available: Decimal  #: what can be paid out now, in units of the asset
    pending: Decimal | None  #: what is on its way to the account; None: the custodian does not say
    as_of: datetime  #: when the custodian says that it was so; when it was asked, where it does not say
    network: str | None = None  #: where one asset is held on several


@dataclass(frozen=True)
class BatchReport:
    """How a set stands: what is known of the set, and of each of its items by payout id.

    An item that is not named: nothing is known of it now.
    """

    custodian_word: str
    items: Mapping[str, Report]
    custodian_reference: str | None = None
    detail: str | None = None
