"""What an adapter reports about a payout: reports, notices, and the results of a look-up."""

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
    """What the custodian reports that it pays. The engine compares every given member with the order."""

    asset: str | None = None
    amount: Decimal | None = None
    destination: str | None = None
    #: our key or external id, if the custodian returns it
    reference: str | None = None
    #: the same values as ordered, in the custodian's notation
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
    and several ids of one payout add up. None if the custodian has no such id: then `amount` is the total
    that came back so far, and only an increase counts. Report all returns of a payout in one of the two
    ways. `amount` is positive, in units of `asset`, which is the order's asset.
    """

    id: str | None
    amount: Decimal
    asset: str
    at: datetime  #: when it came back, according to the custodian
    word: str = ""  #: the custodian's own words, kept raw


ActionType = Literal["enter_passcode", "redirect_to_url", "await_external_approval"]


@dataclass(frozen=True)
class Action:
    """What a person has to do for a payout. The gateway adds the client secret."""

    type: ActionType = "enter_passcode"
    channel: str | None = None  #: how the code reaches its owner; None: the owner knows it
    masked_target: str | None = None  #: where it was sent, for the person's eyes
    url: str | None = None  #: the page that the person has to visit, for `redirect_to_url`
    attempts_left: int | None = None  #: 0: locked; the next action starts again
    expires_at: datetime | None = None  #: None: the gateway's own limit applies


@dataclass(frozen=True)
class Report:
    """What the custodian reported, in the gateway's terms.

    `sub_status` None means that the custodian used a status that is not in the adapter's table: put the
    raw status into `unknown_words`; the payout's status does not change.
    """

    sub_status: SubStatus | None
    custodian_word: str  #: the custodian's own words, kept raw
    refs: tuple[Ref, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    failure: Failure | None = None  #: required if `sub_status` is one of the failed ones
    echo: Echo | None = None
    custodian_reference: str | None = None  #: the id that an operator looks up at the custodian
    unknown_words: tuple[str, ...] = ()
    observed_at: datetime | None = None
    #: one line for the payout's timeline, which partners see; never a secret
    detail: str | None = None
    fees_paid_usd: Decimal | None = None
    #: what the recipient got, as the custodian reports it, in the order's asset; shown once the payout is
    #: delivered. None: the custodian does not report it, or reports it in another unit. Never fill in the
    #: ordered amount.
    final_recipient_amount: Decimal | None = None
    #: from `submit`: call `submit` again after this many seconds
    again_after_s: float | None = None
    action: Action | None = None  #: required if `sub_status` is `requires_action`
    #: our reference that a failed status is about, if an execution has several (`moving(reference=…)`)
    reference: str | None = None
    #: with a failed status: the order is fine and may be retried by a new execution (for example, the
    #: one-time code was refused late). Accepted only if the status proves that nothing moved.
    reopens: bool = False
    #: money that came back: every return that the custodian shows; see `Returned`
    returned: tuple[Returned, ...] = ()


@dataclass(frozen=True)
class Absent:
    """The custodian was asked by a reference that it must know, and does not know it now.

    For a custodian that registers first and executes later, it also means that the payout is registered
    and was not executed, and that an executed payout never looks like this. The engine counts such
    results; a single one proves nothing.
    """

    custodian_word: str = ""


@dataclass(frozen=True)
class NotListed:
    """A complete list was searched for this order, and the order is not in it.

    It is meant for a custodian that cannot be asked by our reference, but lists what it did. The engine
    counts it as one look that found nothing, under the same rules as `Absent`: the same number of looks
    and the same waiting time. It counts only if the searched window began before every call that may
    have arrived, by more than `Capabilities.clock_skew_s`; otherwise it is `CannotLook`. Return it only
    if every page was read: an incomplete list is a failed look (raise NotSent). A list that several
    orders share can show that something exists, but never that it does not.
    """

    #: the start of the searched window, by the custodian's clock; None: the list has everything that the
    #: account ever did
    since: datetime | None = None
    custodian_word: str = ""


@dataclass(frozen=True)
class CannotLook:
    """There is no id to look up by, or the response does not distinguish done from not done. It proves nothing.

    `repeat_is_safe` is about this attempt, for adapters that have calls of both kinds; None means the
    declared key semantics. False puts the payout on the operator's list at once (`cannot_look`), because
    neither a look-up nor a repeat can settle it.
    """

    reason: str = ""
    repeat_is_safe: bool | None = None


@dataclass(frozen=True)
class Notice:
    """One piece of news in a custodian's webhook.

    `dedup_key` is the custodian's own id of the notification. `report` may bring `broadcast`, a hash, or
    an end, if the protocol defines the webhook's status as final for the payout; without it the notice
    only brings the next look forward. `told` is stored with the attempt, so that the adapter can compare
    it with the API's response: it is in `order.notes["told"]`, and nothing else acts on it.

    `believed_for_s` limits the webhook in time: if it is received further than that from `observed_at`, or
    has no `observed_at`, it only brings the next look forward, even if it is genuine. None: no limit.
    """

    refs: tuple[Ref, ...]
    dedup_key: str
    observed_at: datetime | None = None
    report: Report | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    believed_for_s: float | None = None
    #: the payout's money that came back; counts with or without `report`
    returned: tuple[Returned, ...] = ()


@dataclass(frozen=True)
class FaultyNotice(Notice):
    """A notice whose report the gateway does not accept: it only brings the next look forward."""

    fault: str = ""


@dataclass(frozen=True)
class Offer:
    """The offer of a provider behind the custodian. It is no promise: the quote has `price: indicative`."""

    #: the value of one unit of the asset in the recipient's currency, after the provider's fees
    fx_rate: Decimal
    #: the custodian's fee, in the asset that is sent; None: none beside the rate, or unknown. It replaces the
    #: fee that the operator has configured for the route
    fee: Decimal | None = None


@dataclass(frozen=True)
class Balance:
    """What an account at the custodian can pay of one asset."""

    asset: str  #: the gateway's code
    available: Decimal  #: what can be paid out now, in units of the asset
    #: what is on its way to the account; None: the custodian does not report it
    pending: Decimal | None
    as_of: datetime  #: the time of the balance according to the custodian; otherwise the time of the request
    network: str | None = None  #: set if one asset is held on several networks


@dataclass(frozen=True)
class BatchReport:
    """The state of a set, and of each of its items by payout id.

    Nothing is known about an item that is not named.
    """

    custodian_word: str
    items: Mapping[str, Report]
    custodian_reference: str | None = None
    detail: str | None = None
