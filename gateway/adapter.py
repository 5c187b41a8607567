"""The adapter contract: the only module an adapter author imports.

An adapter speaks one custodian's protocol. It makes no decisions about money: it performs the
requested step, calls `remember` before it moves money, and reports what it saw in the gateway's terms.
The engine decides when to call, what a missing answer means, and whether a repeat is safe.

    class Acme(Adapter[AcmeSettings]):
        name = "acme"
        Settings = AcmeSettings
        capabilities = Capabilities(...)

        async def submit(self, order): ...   # perform the next step; called again with the notes
        async def fetch(self, order): ...    # read-only (for sets: submit_batch and fetch_batch)
        async def verify(self, headers, body): ...
        def parse(self, body): ...

The gateway finds adapters by the entry point group `payout_gateway.adapters`. Copy `adapters/dummy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import aiohttp
from pydantic import BaseModel

from gateway.assets import AssetRegistry, address_fault, from_minor, to_minor
from gateway.capabilities import Capabilities, KeySemantics, Rate
from gateway.errors import (
    CannotVerify,
    CredentialsRefused,
    InvalidSignature,
    LeaseLost,
    Misconfigured,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    TurnedAway,
    UnreadableAnswer,
    Unsupported,
    WrongAnswer,
)
from gateway.model import (
    Account,
    AddressDestination,
    BankAccountDestination,
    CustodianAccountDestination,
    Destination,
    Failure,
    FailureCode,
    FundsMoved,
    PayoutAccountDestination,
    SubStatus,
    Transaction,
    format_amount,
    read_time,
)
from gateway.report import (
    Absent,
    Action,
    Balance,
    BatchReport,
    CannotLook,
    Echo,
    Notice,
    NotListed,
    Offer,
    Ref,
    Report,
    Returned,
)
from gateway.runtime import Clock, Ids, Offload

__all__ = [
    "Absent",
    "Account",
    "Action",
    "Adapter",
    "AddressDestination",
    "AssetRegistry",
    "Balance",
    "BankAccountDestination",
    "BatchItem",
    "BatchOrder",
    "BatchReport",
    "CannotLook",
    "CannotVerify",
    "Capabilities",
    "Clock",
    "CredentialsRefused",
    "CustodianAccountDestination",
    "Destination",
    "Echo",
    "Execution",
    "Failure",
    "FailureCode",
    "FundsMoved",
    "Ids",
    "InvalidSignature",
    "KeySemantics",
    "LeaseLost",
    "Misconfigured",
    "NotListed",
    "NotSent",
    "Notice",
    "Offer",
    "Offload",
    "Order",
    "OutcomeUnknown",
    "PayoutAccountDestination",
    "Rate",
    "RateLimited",
    "Ref",
    "Rejected",
    "Report",
    "Returned",
    "SubStatus",
    "Terms",
    "Tools",
    "Transaction",
    "TurnedAway",
    "UnreadableAnswer",
    "Unsupported",
    "WrongAnswer",
    "address_fault",
    "format_amount",
    "from_minor",
    "read_time",
    "to_minor",
]


class Terms(Protocol):
    """What is paid, to whom and from where: all that is known before there is a payout."""

    @property
    def asset(self) -> str:
        """The asset code."""

    @property
    def network(self) -> str | None:
        """The network on which the recipient is paid, if there is one."""

    @property
    def decimals(self) -> int:
        """The decimals of the asset on that network."""

    @property
    def amount(self) -> Decimal:
        """What the custodian is asked to transfer: the quote's `recipient_gets`."""

    @property
    def source(self) -> Account:
        """The account that pays."""

    @property
    def destination(self) -> Destination:
        """Who is paid."""

    @property
    def reference(self) -> str | None:
        """The partner's own reference, if it gave one."""


class Execution(Protocol):
    """One attempt to move money at one account, with its notes, its keys and its moving mark."""

    @property
    def source(self) -> Account:
        """The account that pays."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was remembered for this execution, by any process."""

    @property
    def moved(self) -> bool:
        """Whether a call made before this call of the verb may have arrived."""

    def key(self, step: str) -> str:
        """Return the key of one POST: 36 characters, UUIDv4-shaped, stable per execution and step."""

    async def remember(self, **notes: Any) -> None:
        """Add durable notes (JSON values, no secrets); they are committed when this returns.

        May be called twice: a later value replaces an earlier one. Raises `LeaseLost`.
        """

    async def expect(self, *refs: Ref, payout_id: str | None = None) -> None:
        """Register ids that the custodian will report, before the call that makes them known there.

        A webhook that arrives before the reply to that call then finds its payout at once. `payout_id`
        names the payout of a set that the ids belong to; it is required if the set has several. The ids
        are committed when this returns; it may be called again with the same ids, before `moving()`.
        Raises `LeaseLost`, and `NotSent` if an id belongs to another payout: then make no call, and let
        the exception through. If a webhook with such an id reports that money moves before any call was
        made for the payout, the money is not ours: the webhook is kept, the payout is on the operator's
        list, and `moving()` refuses from then on.
        """

    async def moving(
        self,
        *,
        reference: str | None = None,
        call_life_s: float | None = None,
        same_request: bool = False,
    ) -> None:
        """Set the durable mark that the next call may move money; it is committed when this returns.

        Call it immediately before the one moving call, when its credentials are already made. The
        gateway checks every condition of the call in the same transaction. Raises `LeaseLost` or
        `NotSent`: then do not make the call, and let the exception through.

        `reference` names the id of this call, if one execution has several: a repeat under another
        reference is another payment. `call_life_s` is how long this request can still be accepted, if
        that differs from the declared time (the end of a session). `same_request` means that the bytes
        and the single-use credential of the previous call are sent again; if that is refused, raise
        OutcomeUnknown: the first request may have arrived.
        """

    def stamp(self) -> str:
        """Return the current moment, to be remembered and passed to `passed_s` later."""

    def passed_s(self, stamp: str) -> float:
        """Return how many seconds have certainly passed since a stamp was remembered.

        This is elapsed time, never a difference of wall clocks. After a reboot, or on another machine,
        it counts from the first row that was written there when the stamp was known, so it may be too
        low.
        """


class Order(Execution, Terms, Protocol):
    """One attempt at one payout, as the adapter sees it. Fixed for the life of the execution."""

    @property
    def payout_id(self) -> str:
        """The gateway's id of the payout."""

    @property
    def attempt(self) -> int:
        """The number of the execution among those of its payout, from 1."""


class BatchItem(Terms, Protocol):
    """One payout of a set."""

    @property
    def payout_id(self) -> str:
        """The gateway's id of the payout."""

    @property
    def key(self) -> str:
        """The item's own key within the set: 36 characters, UUIDv4-shaped."""


class BatchOrder(Execution, Protocol):
    """One attempt at one set of payouts, as the adapter sees it. A single payout is a set of one."""

    @property
    def set_id(self) -> str:
        """The gateway's id of the execution."""

    @property
    def items(self) -> Sequence[BatchItem]:
        """Every payout of the set, always in the same order."""


@dataclass(frozen=True)
class Tools:
    """What an adapter receives: it opens no session, reads no clock and draws no random number itself."""

    http: aiohttp.ClientSession
    clock: Clock
    ids: Ids
    offload: Offload
    assets: AssetRegistry


SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Adapter(Generic[SettingsT]):
    """Base of every adapter. The optional verbs raise `Unsupported`; nothing is dropped silently.

    An adapter defines `submit` and `fetch`. One that declares `capabilities.batch` defines
    `submit_batch` and `fetch_batch` instead, and receives every payout in a set, a single one in a set of
    one. The gateway checks this when it starts.

    Errors of a network call may be raised unchanged (`aiohttp.ClientError`, `TimeoutError`): the
    engine's wrapper turns "never connected" into `NotSent` and everything else into
    `OutcomeUnknown`.
    """

    name: ClassVar[str]  #: the adapter's name in the configuration
    Settings: ClassVar[
        type[BaseModel]
    ]  #: its settings; secrets as `SecretStr`; no default base URL
    capabilities: Capabilities
    #: The settings that identify the account: base address and credentials. Responses of one account
    #: are no evidence about another one. None: every setting counts.
    account_settings: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, settings: SettingsT, tools: Tools) -> None:
        self.settings = settings
        self.tools = tools

    async def submit(self, order: Order) -> Report:  # noqa: ARG002 - a batch adapter has none
        """Perform the next step of the order. Re-entrant: it is called again with the notes.

        Raises `Rejected`, `NotSent`, `OutcomeUnknown`, `LeaseLost`.
        """
        raise Unsupported(f"{self.name} defines no submit; a batch adapter pays by submit_batch")

    async def fetch(self, order: Order) -> Report | Absent | NotListed | CannotLook:  # noqa: ARG002
        """Ask the custodian for the state of the order. Read-only; may be called at any time."""
        raise Unsupported(f"{self.name} defines no fetch; a batch adapter looks by fetch_batch")

    async def identity(self) -> str:
        """Return the custodian's own id of the workspace or organisation, read with these credentials.

        The gateway calls it with the old and the new credentials while they are changed: if both read
        the same id, look-ups with the new ones count for calls made with the old ones. Never return a
        configured value. Raises `Unsupported` unless the adapter defines it; then the operator declares
        it.
        """
        raise Unsupported(f"{self.name} cannot read whose account it is")

    async def probe(self) -> None:
        """Make one harmless read whose response carries the custodian's `Date`.

        The gateway calls it before a moving call if `capabilities.dated_by_clock` is declared and there
        was no recent response. Raises `Unsupported` unless the adapter defines it.
        """
        raise Unsupported(f"a probe is not supported by {self.name}")

    def check(self, terms: Terms) -> str | None:  # noqa: ARG002 - for adapters that can say so early
        """Return why this adapter can never pay on these terms, or None. Pure; no network.

        The gateway calls it at the quote, so that the partner gets the reason before there is a payout.
        """
        return None

    async def offers(self, terms: Terms) -> Sequence[Offer]:  # noqa: ARG002
        """Return the current offers of providers. Raises `Unsupported` unless the adapter defines it."""
        raise Unsupported(f"offers are not supported by {self.name}")

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:  # noqa: ARG002
        """Check that a webhook is the custodian's. Raises `InvalidSignature` or `CannotVerify`.

        Header names are lowercase. It refuses everything unless the adapter defines it.
        """
        msg = f"the adapter {self.name} takes no webhooks"
        raise InvalidSignature(msg)

    def parse(self, body: bytes) -> Sequence[Notice]:  # noqa: ARG002 - see above
        """Turn a verified webhook into notices. Pure. A ValueError stores the body as unreadable."""
        return ()

    async def confirm(self, order: Order, answer: Mapping[str, Any]) -> Report:  # noqa: ARG002
        """Answer a required action, with `{"passcode": {"token", "device"}}` for `enter_passcode`.

        It runs under the lease, with its own moving mark. Use secrets in the answer for this call only:
        never remember them, and never put them into an error. Raises `UnreadableAnswer`, `WrongAnswer`,
        and what `submit` raises; `Unsupported` unless the adapter defines it.
        """
        raise Unsupported(f"confirm is not supported by {self.name}")

    async def cancel(self, order: Order) -> Report:  # noqa: ARG002
        """Ask the custodian to cancel. Raises `Unsupported` unless the adapter defines it."""
        raise Unsupported(f"cancel is not supported by {self.name}")

    async def balances(self, account: Account) -> Sequence[Balance]:  # noqa: ARG002
        """Return what an account can pay, for every asset that the gateway knows. Read-only.

        List every asset that can be paid: one that is missing counts as zero. Whatever left the account
        `visibility_s` before the call must be deducted: accepted payouts stay reserved until a balance
        shows them. Raises `NotSent` if it could not be read or understood, and `Unsupported` if the
        custodian reports no balances for such an account, from which nothing is reserved then.
        """
        raise Unsupported(f"balances are not supported by {self.name}")

    def set_limit(self) -> int:
        """Return how many payouts one set may have. Called if `capabilities.batch` is declared."""
        return 1

    async def submit_batch(self, batch: BatchOrder) -> BatchReport:  # noqa: ARG002
        """Perform the next step for a set of one payout or many, as `submit` does for an order.

        Compare the custodian's version item by item before anything moves. A report before the moving
        mark parks the set for an operator. Raises what `submit` raises.
        """
        raise Unsupported(f"sets are not supported by {self.name}")

    async def fetch_batch(
        self,
        batch: BatchOrder,  # noqa: ARG002
    ) -> BatchReport | Absent | NotListed | CannotLook:
        """Ask the custodian for the state of a set. Read-only; may be called at any time."""
        raise Unsupported(f"sets are not supported by {self.name}")
