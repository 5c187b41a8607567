"""The one payout model: statuses, money, destinations, quotes and payouts.

Frozen values, no I/O. The partner's API, the webhooks and the adapters all speak in these types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    StringConstraints,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from gateway.text import NO_CONTROLS, has_controls, invisible_in

#: A decimal amount on the wire: digits with an optional fraction; no sign, exponent or spaces.
AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,29})(\.[0-9]{1,30})?$"
_AMOUNT = re.compile(AMOUNT_PATTERN, re.ASCII)
#: Every string that a partner may choose freely is bounded by this many characters.
MAX_TEXT = 255


class Status(StrEnum):
    """The partner's word; it only goes forward."""

    PENDING = "pending"  #: accepted; the custodian has not handed the money to the rail
    BROADCAST = "broadcast"  #: the custodian has handed the money to the rail
    DELIVERED = "delivered"  #: final: the custodian reported this payout as final
    FAILED = "failed"  #: final: everything the payout started has ended


class SubStatus(StrEnum):
    """The operator's word; it may step back within a status."""

    CREATED = "created"  #: accepted; work has not started
    QUEUED = "queued"  #: waits for its turn at the source account
    AWAITING_FUNDS = "awaiting_funds"  #: the source account does not cover it yet
    AWAITING_APPROVAL = "awaiting_approval"  #: a person or a policy at the custodian must agree
    REQUIRES_ACTION = "requires_action"  #: a person on the platform's side must answer
    SUBMITTING = "submitting"  #: being handed to the custodian; nothing has moved
    SUBMITTED = "submitted"  #: the custodian has accepted it
    OUTCOME_UNKNOWN = (
        "outcome_unknown"  #: it may have been accepted; it is looked up, never guessed
    )
    BROADCAST = "broadcast"  #: handed to the rail
    CONFIRMING = "confirming"  #: on the rail, waiting for confirmations
    SETTLING = "settling"  #: the observed leg has ended, the payout has not
    DELIVERED = "delivered"  #: final, paid
    REJECTED = "rejected"  #: final, refused before anything moved
    FAILED = "failed"  #: final, did not reach the recipient
    CANCELED = "canceled"  #: final, withdrawn
    EXPIRED = "expired"  #: final, it ran out of time


TERMINAL = frozenset({Status.DELIVERED, Status.FAILED})


class FundsMoved(StrEnum):
    """Whether money left the source. Only `no` allows a failover or a partner's re-send."""

    NO = "no"  #: proven: nothing left the source account
    YES = "yes"  #: money left the source account
    UNKNOWN = "unknown"  #: not proven either way


class BatchState(StrEnum):
    """How a batch stands. It only goes forward."""

    REQUESTED = "requested"  #: accepted; not executed yet, or waiting for its turn at the account
    VERIFYING = "verifying"  #: its turn has come: it is checked again and handed over
    AWAITING_FUNDS = "awaiting_funds"  #: the account does not cover it; it holds its place
    EXECUTING = "executing"  #: its payouts are in progress
    FINALIZED = "finalized"  #: every payout has ended, delivered or failed
    FAILED = "failed"  #: it has ended and nothing was sent
    CANCELED = "canceled"  #: canceled before anything was sent, or not executed in time


#: Batch states that never change again.
BATCH_ENDS = frozenset({BatchState.FINALIZED, BatchState.FAILED, BatchState.CANCELED})


class FailureCode(StrEnum):
    """Why a payout failed, in the gateway's words; the custodian's word rides along."""

    INSUFFICIENT_FUNDS = "insufficient_funds"  #: the source did not cover it in time
    SOURCE_REJECTED = "source_rejected"  #: the source account is unknown, empty or unusable
    DESTINATION_REJECTED = "destination_rejected"  #: the destination is unknown or unusable
    POLICY_REJECTED = "policy_rejected"  #: a policy or an approver refused it
    COMPLIANCE_REJECTED = "compliance_rejected"  #: screening refused it
    AMOUNT_REJECTED = "amount_rejected"  #: too small, too large, or too precise for the custodian
    CHAIN_REJECTED = "chain_rejected"  #: the network refused or dropped the transaction
    THIRD_PARTY_FAILED = "third_party_failed"  #: a provider behind the custodian failed
    SUBMISSION_REJECTED = "submission_rejected"  #: the custodian refused the request itself
    AUTHENTICATION_EXPIRED = (
        "authentication_expired"  #: nobody answered the required action in time
    )
    NOT_SENT_IN_TIME = "not_sent_in_time"  #: it could not be sent in time; nothing was sent
    CANCELED = "canceled"  #: withdrawn before it moved
    EXPIRED = "expired"  #: the custodian's own time limit ran out
    CUSTODIAN_ERROR = "custodian_error"  #: the custodian failed for a reason on its side
    OPERATOR_DECISION = "operator_decision"  #: an operator resolved it, with recorded evidence
    UNKNOWN_REASON = "unknown_reason"  #: final, and the custodian's reason is not in our table


#: The version of the conditions for a moving mark that this program knows. A release that adds a condition raises
#: it, and the database names the lowest version that may set marks.
GATE_VERSION = 2


class Attention(StrEnum):
    """Why an operator should look at a payout."""

    UNKNOWN_WORD = "unknown_word"  #: the custodian used a status that is not in the adapter's table
    MISMATCH = (
        "mismatch"  #: the custodian reports another asset, amount or destination than was ordered
    )
    #: two final statuses contradict each other, or money moves although the payout ended as failed
    CONTRADICTION = "contradiction"
    FOREIGN_REF = "foreign_ref"  #: an id at the custodian that already belongs to another payout
    CANNOT_LOOK = "cannot_look"  #: the outcome is unknown and there is no id to look it up by
    UNRESOLVED = "unresolved"  #: the outcome stays unknown although everything safe was tried
    CUSTODIAN_UNREACHABLE = (
        "custodian_unreachable"  #: the custodian could not be reached for a while
    )
    CLOCK_SKEW = "clock_skew"  #: our clock and the custodian's differ too much to sign a request
    KEY_LIFE = (
        "key_life"  #: half of the key's lifetime has passed, or all of it: a repeat may be harmful
    )
    STATE_FILE = "state_file"  #: the state file beside the database cannot be written
    GATE_VERSION = "gate_version"  #: this program is too old to set marks in this database
    ITEM_ENDED = (
        "item_ended"  #: an item of a set has ended; what to do with the others needs a decision
    )
    #: open in a restored database, and not found at the custodian, or without an id; may have been paid
    ADOPTED = "adopted"
    SAME_ACCOUNT = "same_account"  #: the account was changed while an outcome is unknown
    ADAPTER_ERROR = "adapter_error"  #: the adapter reported what the contract does not allow
    CUSTODIAN_MISCONFIGURED = "custodian_misconfigured"  #: a call does not exist there (404): wrong address, proxy or plan
    CREDENTIALS_REFUSED = (
        "credentials_refused"  #: the custodian does not accept our credentials or rights
    )
    CUSTODIAN_REMOVED = (
        "custodian_removed"  #: its custodian is no longer in the configuration; nothing is done
    )
    EARLY_NEWS = "early_news"  #: money is reported to move, and no call was made for it
    RETURNED = "returned"  #: money came back after the payout was delivered
    #: a custodian that a payout has left, as not paid there, reports that its money moves after all
    LATE_NEWS = "late_news"
    RETURN_MISMATCH = (
        "return_mismatch"  #: the custodian reports an impossible return, which changed nothing
    )


#: The length of `+00:00`.
_UTC_SUFFIX = 6


def parse_amount(text: object) -> Decimal:
    """Return the exact amount of a decimal string; numbers, exponents and signs are refused."""
    if not isinstance(text, str):
        msg = 'must be a decimal string such as "12.50", not a JSON number'
        raise ValueError(msg)  # noqa: TRY004 - pydantic turns ValueError into a field error
    return Decimal(text)


def format_amount(amount: Decimal) -> str:
    """Return the amount without exponent and without trailing zeros: "12.5", "43", "0"."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@lru_cache(maxsize=4096)
def format_time(at: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds; naive times are refused. A payout's times recur."""
    if at.tzinfo is UTC:
        return at.isoformat(timespec="milliseconds")[:-_UTC_SUFFIX] + "Z"
    if at.tzinfo is None:
        msg = "a time without a zone cannot be sent"
        raise ValueError(msg)
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_time(value: object) -> datetime | None:
    """Return the time of RFC 3339 text with a zone; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        return at.astimezone(UTC) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        # No time at all, or one at the edge of the calendar that has no equivalent in UTC.
        return None


def _check_amount_text(text: object) -> object:
    if isinstance(text, Decimal):
        return text
    if isinstance(text, str) and not _AMOUNT.fullmatch(text):
        msg = (
            'must be a plain decimal such as "12.50": at most 30 digits before and after the '
            "point, no sign, no exponent, no leading zeros"
        )
        raise ValueError(msg)
    return parse_amount(text)


Amount = Annotated[
    Decimal,
    BeforeValidator(_check_amount_text, json_schema_input_type=str),
    PlainSerializer(format_amount, return_type=str, when_used="always"),
    Field(json_schema_extra={"type": "string", "pattern": AMOUNT_PATTERN, "examples": ["12.50"]}),
]


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        msg = "must carry a time zone"
        raise ValueError(msg)
    return at if at.tzinfo is UTC else at.astimezone(UTC)


Time = Annotated[
    datetime,
    AfterValidator(_aware),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]


def _all_visible(reference: str) -> str:
    unseen = invisible_in(reference)
    # Control characters are named as such, as in every other text.
    if unseen is not None and not has_controls(reference):
        raise PydanticCustomError(
            "invisible_character",
            "has the character {unseen}, which people do not see or cannot tell from a blank: leave it out",
            {"unseen": unseen},
        )
    return reference


#: The partner's reference in a request: two that look alike count as one.
Reference = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_TEXT), AfterValidator(_all_visible)
]
#: Network codes are Dfns' names (`Ethereum`, `Solana`); see `gateway.assets` for the known ones.
Network = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Value(BaseModel):
    """Base of every frozen value: unknown members are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


def _texts_of(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a value with its path, the names of members among them."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, SecretStr):
        yield path, value.get_secret_value()
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield f"the name of a member of {path or 'it'}", str(name)
            yield from _texts_of(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts_of(each, path)
    elif isinstance(value, BaseModel) and not isinstance(value, RequestBody):
        for name in type(value).model_fields:
            yield from _texts_of(getattr(value, name), f"{path}.{name}" if path else name)


def _is_printable(value: object) -> bool:
    """Return whether a value is none, or one text that is printable, or has no members but such."""
    if isinstance(value, str):
        return value.isprintable()
    # Before the question for a model, which takes ten times as long where the answer is no.
    if value is None or isinstance(value, Decimal):
        return True
    return isinstance(value, Value) and all(map(_is_printable, value.__dict__.values()))


def _show_no_controls(schema: dict[str, Any]) -> None:
    """Say in the schema what texts a request may have, where nothing narrower is said."""
    for name in ("properties", "$defs"):
        for each in schema.get(name, {}).values():
            _show_no_controls(each)
    for each in schema.get("anyOf", ()):
        _show_no_controls(each)
    for name in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(name), dict):
            _show_no_controls(schema[name])
    if schema.get("type") == "string" and not {"pattern", "enum", "const", "format"} & set(schema):
        schema["pattern"] = NO_CONTROLS


class RequestBody(BaseModel):
    """Base of what a partner may send: no unknown members, and no control characters in any text.

    The types of members alone would not do: those that are shared with the store must still read what
    was stored before the rule.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra=_show_no_controls
    )

    @field_validator("*", mode="after")
    @classmethod
    def _no_controls(cls, value: Any) -> Any:
        # Most members are printable: the same rule, sooner.
        if value.isprintable() if value.__class__ is str else _is_printable(value):
            return value
        for path, text in _texts_of(value):
            if has_controls(text):
                raise PydanticCustomError(
                    "control_character",
                    "has a control character{where}: leave out NUL, tabs, line breaks and escapes",
                    {"where": f" in {path}" if path else ""},
                )
        return value


class Account(Value):
    """An account at a custodian, in the custodian's own words."""

    id: Text
    type: Text


def _require_type(schema: dict[str, Any]) -> None:
    """Say in the schema that `type` must be sent: it is what tells the destinations apart."""
    schema["required"] = sorted({*schema.get("required", ()), "type"})


class TaggedDestination(Value):
    """Base of the destinations."""

    model_config = ConfigDict(json_schema_extra=_require_type)


class AddressDestination(TaggedDestination):
    """An address on a public network."""

    type: Literal["address"] = "address"
    network: Network
    address: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    memo: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None


class CustodianAccountDestination(TaggedDestination):
    """An account the custodian knows: a vault account, a whitelisted wallet, a network connection."""

    type: Literal["custodian_account"] = "custodian_account"
    account_type: Text
    id: Text


class PayoutAccountDestination(TaggedDestination):
    """A payout account of the card-passcode rail."""

    type: Literal["payout_account"] = "payout_account"
    payout_account_id: Text


class BankAccountDestination(TaggedDestination):
    """A bank account reached through an off-ramp."""

    type: Literal["bank_account"] = "bank_account"
    payment_instructions_id: Text
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
    fiat_currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    purpose: Text


Destination = Annotated[
    AddressDestination
    | CustodianAccountDestination
    | PayoutAccountDestination
    | BankAccountDestination,
    Field(discriminator="type"),
]
DestinationType = Literal["address", "custodian_account", "payout_account", "bank_account"]


class Route(Value):
    """The way a payout takes."""

    custodian: str
    from_network: Network | None
    to_network: Network | None
    estimated_seconds: Annotated[int, Field(ge=0)]


def route_key(custodian: str, destination: str, network: str | None) -> str:
    """Return what the time of deliveries is measured by."""
    return f"{custodian} {destination} {network or ''}"


class QuoteTerms(Value):
    """What was promised. It is copied into the payout and never changes."""

    quote_id: str | None = Field(description="Null for a payout of a batch: it has no quote.")
    expires_at: Time | None
    destination: Destination
    asset: str
    amount: Amount
    user_sends: Amount
    recipient_gets: Amount
    send_asset: str
    recipient_asset: str
    fx_rate: Amount | None = None
    price: Literal["firm", "indicative"] = "firm"
    fee_total_usd: Amount | None
    route: Route


class Failure(Value):
    """Why a payout failed, and whether money left the source."""

    code: FailureCode
    message: str
    custodian_code: str | None = None
    funds_moved: FundsMoved


class Transaction(Value):
    """One transaction of a payout at the custodian; a hash may be replaced by a later one."""

    id: str
    tx_hash: str | None = None
    network: str | None = None
    status: str | None = None
    explorer_url: str | None = None
    at: Time


class RequiredAction(Value):
    """What a payout waits for a person to do."""

    #: which action of the payout it is, from 1; the client secret is bound to it
    number: Annotated[int, Field(ge=1)]
    #: false once it was answered, or is no longer asked for
    open: bool = True
    type: Literal["enter_passcode", "redirect_to_url", "await_external_approval"]
    channel: str | None = None
    masked_target: str | None = None
    url: str | None = None
    attempts_left: int | None = None
    expires_at: Time


class TimelineEntry(Value):
    """One step of a payout."""

    status: Status
    sub_status: SubStatus
    at: Time
    tx_hash: str | None = None
    detail: str | None = None


class Payout(Value):
    """A payout as the store holds it; `gateway.views` turns it into what partners see."""

    id: str
    org: str
    livemode: bool
    status: Status
    sub_status: SubStatus
    external_ref: str
    reference: str | None
    metadata: Mapping[str, str]
    terms: QuoteTerms
    custodian: str
    account: Account
    custodian_reference: str | None = None
    batch_id: str | None = None
    transactions: tuple[Transaction, ...] = ()
    requires_action: RequiredAction | None = None
    failure: Failure | None = None
    timeline: tuple[TimelineEntry, ...] = ()
    fees_paid_usd: Amount | None = None
    final_recipient_amount: Amount | None = None
    #: what came back after it was delivered, in the recipient's asset; None: nothing
    returned_amount: Amount | None = None
    sequence: int = 0
    created_at: Time
    updated_at: Time

    @property
    def final(self) -> bool:
        """Whether the payout has ended."""
        return self.status in TERMINAL
