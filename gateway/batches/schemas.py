"""Batches on the wire: what is asked for, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.model import (
    Account,
    Amount,
    BatchState,
    Destination,
    Failure,
    Network,
    Reference,
    RequestBody,
    Status,
    Text,
    Time,
)
from gateway.planning import MetadataKey, MetadataText
from gateway.views import EventHead

MOST_IN_JSON = 1000

#: A blank around it would make it look like a different one.
ItemReference = Annotated[Reference, StringConstraints(pattern=r"^\S([\s\S]*\S)?$")]


# No `RequestBody` itself: a batch of before the rules is shown with the source that was stored.
class BatchSource(BaseModel):
    """The one account that pays the batch."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    custodian: Text
    account: Account


class BatchItemRequest(RequestBody):
    """One payout of a batch."""

    external_ref: Text
    destination: Annotated[str, StringConstraints(min_length=1, max_length=128)] | Destination
    asset: Annotated[str, StringConstraints(min_length=2, max_length=16)]
    amount: Amount
    network_hint: Network | None = None
    reference: ItemReference | None = Field(
        default=None,
        description="Your own reference: no two payouts of batches may share one, nor have two that look "
        "alike. No blanks around it, no invisible characters.",
    )
    name: Text | None = Field(default=None, description="What you call the payee; for reports.")
    metadata: Annotated[dict[MetadataKey, MetadataText], Field(max_length=20)] = Field(
        default_factory=dict, json_schema_extra={"default": {}}
    )


class BatchHead(RequestBody):
    """The members of a batch beside its payouts, in the body or, for a file, in the query."""

    source: BatchSource
    reference: Reference | None = None


class BatchRequest(BatchHead):
    """A batch."""

    payouts: Annotated[list[BatchItemRequest], Field(min_length=1, max_length=MOST_IN_JSON)]
    metadata: Annotated[dict[MetadataKey, MetadataText], Field(max_length=20)] = Field(default={})


class AssetTotal(BaseModel):
    """How much of one asset, and how it stands."""

    model_config = ConfigDict(frozen=True, title="BatchTotal")

    asset: str
    count: int
    amount: Amount
    by_status: dict[Status, StatusTotal]


class StatusTotal(BaseModel):
    """How many payouts, and how much in all."""

    model_config = ConfigDict(frozen=True, title="BatchStatusTotal")

    count: int
    amount: Amount


class BatchPart(BaseModel):
    """A set as the custodian was given it."""

    model_config = ConfigDict(frozen=True, title="BatchPart")

    number: int
    items: int
    state: Literal["waiting", "submitting", "submitted", "outcome_unknown", "ended"]
    custodian_reference: str | None


class BatchView(BaseModel):
    """A batch, as partners see it."""

    model_config = ConfigDict(frozen=True, title="PayoutBatch")

    id: str
    object: Literal["payout_batch"] = "payout_batch"
    livemode: bool
    state: BatchState
    source: BatchSource
    init_method: Literal["api", "file"]
    reference: str | None
    metadata: Mapping[str, str]
    item_count: int
    delivered_count: int
    failed_count: int
    totals: list[AssetTotal]
    parts: list[BatchPart] = Field(
        description="The sets that the custodian received; empty if payouts are sent one by one."
    )
    failure: Failure | None
    report_url: str = Field(description="The report as CSV; final once the batch has ended.")
    created_at: Time
    expires_at: Time | None = Field(description="Not executed by then, the batch is canceled.")
    executed_at: Time | None
    cancel_requested_at: Time | None = Field(
        description="Since when what was not sent is being canceled; what was sent stays sent."
    )
    finalized_at: Time | None


class BatchEventView(EventHead):
    """An event about a batch."""

    model_config = ConfigDict(frozen=True, title="PayoutBatchEvent")

    data: BatchView


class BatchCheck(BaseModel):
    """What a dry run found: nothing was stored."""

    model_config = ConfigDict(frozen=True, title="PayoutBatchCheck")

    object: Literal["payout_batch_check"] = "payout_batch_check"
    item_count: int
    totals: dict[str, Amount]
