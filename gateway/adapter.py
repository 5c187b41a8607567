"""The adapter contract: the only module an adapter author imports.

An adapter speaks one custodian's protocol. It decides nothing about money: it does the next thing
it is asked to do, remembers before it moves, and reports what it saw in the gateway's words. The
engine decides when to call, what silence means, and whether a repeat is safe.

    class Acme(Adapter[AcmeSettings]):
        name = "acme"
        Settings = AcmeSettings
        capabilities = Capabilities(...)

        async def submit(self, order): ...   # do the next thing; called again with the notes
        async def fetch(self, order): ...    # read-only
        async def verify(self, headers, body): ...
        def parse(self, body): ...

Found by the entry point group `payout_gateway.adapters`. `adapters/dummy` is the one to copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import aiohttp
from pydantic import BaseModel

from gateway.assets import AssetRegistry, address_fault, from_minor, to_minor
from gateway.errors import (
    CannotVerify,
    InvalidSignature,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Unsupported,
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
from gateway.seams import Clock, Ids, Offload

__all__ = [
    "Absent",
    "Account",
    "Adapter",
    "AddressDestination",
    "AssetRegistry",
    "BankAccountDestination",
    "CannotLook",
    "CannotVerify",
    "Capabilities",
    "Clock",
    "CustodianAccountDestination",
    "Destination",
    "Echo",
    "Failure",
    "FailureCode",
    "FundsMoved",
    "Ids",
    "InvalidSignature",
    "KeySemantics",
    "LeaseLost",
    "NotSent",
    "Notice",
    "Offer",
    "Offload",
    "Order",
    "OutcomeUnknown",
    "PayoutAccountDestination",
    "Ref",
    "Rejected",
    "Report",
    "SubStatus",
    "Terms",
    "Tools",
    "Transaction",
    "Unsupported",
    "address_fault",
    "format_amount",
    "from_minor",
    "read_time",
    "to_minor",
]


@dataclass(frozen=True)
class KeySemantics:
    """How the custodian treats an idempotency key or external id. Declared, because they differ."""

    life_s: float | None = None  #: how long a key is remembered; None: for ever
    max_length: int = 36
    scope: str = "api_user"  #: what shares one space of keys; for the docs and the operator
    body_bound: bool = False  #: the same key with another body is refused
    burnt_by_failure: bool = False  #: a failed call may use up the key without an effect
    look_up: bool = False  #: what a key did can be asked for
    #: repeating the moving call with the same key and content can never move money a second time
    repeat_is_safe: bool = False


@dataclass(frozen=True)
class Capabilities:
    """What an adapter can do. Shown to partners and operators, and obeyed by the engine."""

    destination_types: frozenset[str]
    #: account types a destination of the type `custodian_account` may have; empty: not checked
    payee_types: frozenset[str] = frozenset()
    #: account types that may pay; empty: not checked
    source_types: frozenset[str] = frozenset()
    batch: bool = False
    cancel: bool = False
    quotes: bool = False
    step_up: bool = False
    webhooks: bool = False
    #: one payout at a time may be executing per source account; the others wait as `queued`
    one_at_a_time: bool = False
    keys: KeySemantics = field(default_factory=KeySemantics)
    call_life_s: float = 120.0  #: how long a request that was already signed can still be accepted
    visibility_s: float = 60.0  #: how long a done thing may stay invisible to `fetch`
    absence_looks: int = 3  #: how many times absence must be seen before it is believed
    polling_s: tuple[float, ...] = (2, 4, 8, 15, 30, 60, 120, 300)  #: delays; the last one repeats
    in_flight: int = 16  #: how many payouts are worked on at once at this custodian


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
    #: the same three as they were ordered, in the custodian's words
    ordered_asset: str | None = None
    ordered_amount: Decimal | None = None
    ordered_destination: str | None = None

    def differences(self) -> tuple[str, ...]:
        """Return one line per member that was told and differs from what was ordered."""
        pairs = (
            ("asset", self.asset, self.ordered_asset),
            ("amount", self.amount, self.ordered_amount),
            ("destination", self.destination, self.ordered_destination),
        )
        return tuple(
            f"{name}: ordered {ordered}, custodian says {told}"
            for name, told, ordered in pairs
            if told is not None and ordered is not None and told != ordered
        )


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
    detail: str | None = None  #: one line for the operator; never a secret
    fees_paid_usd: Decimal | None = None
    again_after_s: float | None = None  #: from `submit`: call `submit` again after so many seconds


@dataclass(frozen=True)
class Absent:
    """The custodian was asked by a reference it must know, and does not know it now.

    For a custodian that registers first and executes later: it knows the payout and says that it
    was not executed. The engine counts such answers; one alone proves nothing.
    """

    custodian_word: str = ""


@dataclass(frozen=True)
class CannotLook:
    """There is nothing to ask the custodian by. Never a proof of anything.

    `repeat_is_safe` says it of this very attempt, where an adapter has calls of both kinds; None
    leaves it to the declared key semantics.
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
    """

    refs: tuple[Ref, ...]
    dedup_key: str
    observed_at: datetime | None = None
    report: Report | None = None
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """What a provider behind the custodian would give. Never a promise: the quote says `indicative`."""

    #: what one unit of the asset is in the recipient's currency, after the provider's fees
    fx_rate: Decimal


class Terms(Protocol):
    """What is paid to whom from where: all that can be judged before there is a payout."""

    @property
    def asset(self) -> str:
        """The asset code."""

    @property
    def network(self) -> str | None:
        """The network on which the recipient is paid, where there is one."""

    @property
    def decimals(self) -> int:
        """The decimals of the asset on that network."""

    @property
    def amount(self) -> Decimal:
        """What the custodian is told to transfer: the quote's `recipient_gets`."""

    @property
    def source(self) -> Account:
        """The account that pays."""

    @property
    def destination(self) -> Destination:
        """Who is paid."""

    @property
    def reference(self) -> str | None:
        """The partner's own reference, where it gave one."""


class Order(Terms, Protocol):
    """One attempt at one payout, as the adapter sees it. Fixed for the life of the attempt."""

    @property
    def payout_id(self) -> str:
        """The gateway's id of the payout."""

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was remembered for this attempt, by whichever process."""

    @property
    def moved(self) -> bool:
        """Whether the moving mark of this attempt was set before this call of the verb."""

    def key(self, step: str) -> str:
        """Return the key of one POST: 36 characters, UUIDv4-shaped, stable per attempt and step."""

    async def remember(self, **notes: Any) -> None:
        """Add durable notes (JSON values, no secrets); committed when this returns.

        May be called twice: a later value replaces an earlier one. Raises `LeaseLost`.
        """

    async def moving(self) -> None:
        """Set the durable mark that the next call may move money; committed when this returns.

        Call it immediately before the one moving call, when its credentials are already made.
        Raises `LeaseLost`: then the call must not be made.
        """


@dataclass(frozen=True)
class Tools:
    """What an adapter is handed: it opens no session, reads no clock and draws no number itself."""

    http: aiohttp.ClientSession
    clock: Clock
    ids: Ids
    offload: Offload
    assets: AssetRegistry


SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Adapter(ABC, Generic[SettingsT]):
    """Base of every adapter. The optional verbs refuse loudly; nothing is dropped in silence.

    Failures of a network call may be raised as they are (`aiohttp.ClientError`, `TimeoutError`): the
    engine's wrapper turns "never connected" into `NotSent` and everything else into
    `OutcomeUnknown`.
    """

    name: ClassVar[str]  #: the adapter's name in the configuration
    Settings: ClassVar[
        type[BaseModel]
    ]  #: its settings; secrets as `SecretStr`; no default base URL
    capabilities: Capabilities

    def __init__(self, settings: SettingsT, tools: Tools) -> None:
        self.settings = settings
        self.tools = tools

    @abstractmethod
    async def submit(self, order: Order) -> Report:
        """Do the next thing for the order. Re-entrant: it is called again with the notes.

        Raises `Rejected`, `NotSent`, `OutcomeUnknown`, `LeaseLost`.
        """

    @abstractmethod
    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Ask the custodian how the order stands. Read-only; may be called at any time."""

    def check(self, terms: Terms) -> str | None:  # noqa: ARG002 - for adapters that can tell early
        """Return why this adapter could never pay on such terms, or None. Pure; no network.

        Asked at the quote, so that the partner hears it before there is a payout.
        """
        return None

    async def offers(self, terms: Terms) -> Sequence[Offer]:  # noqa: ARG002
        """Return what providers would give now. Raises `Unsupported` unless the adapter defines it."""
        raise Unsupported(f"offers are not supported by {self.name}")

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:  # noqa: ARG002
        """Check that a webhook is the custodian's. Raises `InvalidSignature` or `CannotVerify`.

        Header names are lowercase. Refuses everything unless the adapter defines it.
        """
        msg = f"the adapter {self.name} takes no webhooks"
        raise InvalidSignature(msg)

    def parse(self, body: bytes) -> Sequence[Notice]:  # noqa: ARG002 - see above
        """Turn a verified webhook into notices. Pure. A ValueError keeps the body, unread."""
        return ()

    async def confirm(self, order: Order, answer: Mapping[str, Any]) -> Report:  # noqa: ARG002
        """Answer a required action. Raises `Unsupported` unless the adapter defines it."""
        raise Unsupported(f"confirm is not supported by {self.name}")

    async def cancel(self, order: Order) -> Report:  # noqa: ARG002
        """Ask the custodian to cancel. Raises `Unsupported` unless the adapter defines it."""
        raise Unsupported(f"cancel is not supported by {self.name}")
