"""What an author declares of a custodian for the kit: how its payouts go, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from gateway.adapter import FailureCode, FundsMoved, SubStatus

F = TypeVar("F", bound=Callable[..., Any])

#: Faults that every twin has on every call of its custodian, with the members they are set with.
HTTP_FAULTS: Mapping[str, Mapping[str, Any]] = {
    "reject": {},
    "rate_limit": {},
    "drop_before": {},
    "error_before": {},
    "error_after": {},
    "hang_after": {"seconds": 30},
    "lose_reply": {},
    "half_response": {},
    "bad_json": {},
}
#: The ways in which a stranger may send a webhook.
FORGERIES = ("unsigned", "wrong_key", "changed_body")


@dataclass(frozen=True)
class Life:
    """How one payout goes at the custodian, from the order that steers the twin to its end.

    Life("refused by policy", {"amount": Decimal("5.000402")}, end=SubStatus.FAILED, ...)
    """

    name: str
    #: members of the order that differ from the kit's terms
    terms: Mapping[str, Any] = field(default_factory=dict)
    #: the last sub-status; None: a word that no table has, which changes no status
    end: SubStatus | None = SubStatus.DELIVERED
    #: sub-statuses that must be seen on the way, in this order; others may lie between them
    words: tuple[SubStatus, ...] = ()
    code: FailureCode | None = None
    funds_moved: FundsMoved | None = None
    #: whether the custodian's ledger has it in the end; None: by the end and `funds_moved`
    paid: bool | None = None
    #: how much comes back after the delivery, in all, as reports show it
    returned: Decimal | None = None

    @property
    def is_paid(self) -> bool:
        """Whether the custodian's ledger must have it in the end."""
        if self.paid is not None:
            return self.paid
        return self.end is SubStatus.DELIVERED or self.funds_moved is FundsMoved.YES


@dataclass(frozen=True)
class Refusal:
    """An order that is refused for good before anything has moved."""

    name: str
    terms: Mapping[str, Any]
    code: FailureCode
    #: the adapter can say so by itself: at the quote already, and without a call
    early: bool = False
    #: words that the refusal must have
    says: str = ""
    #: switches of the twin
    switches: Mapping[str, Any] = field(default_factory=dict)


def proves(topic: str) -> Callable[[F], F]:
    """Name what a test of the kit shows; the capability matrix is made of it."""

    def mark(test: F) -> F:
        test.kit_topic = topic  # type: ignore[attr-defined]
        return test

    return mark
