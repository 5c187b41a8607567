"""The OpenAPI operations of batches."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, create_model

from gateway.api.batch_reports import REPORT_COLUMNS
from gateway.api.batches import BatchList, BatchPayoutList
from gateway.api.operations import (
    BODY,
    KEYED,
    STARTS,
    as_json,
    in_path,
    operation,
    parameter,
    query,
)
from gateway.batches.items import COLUMNS
from gateway.batches.schemas import BatchCheck, BatchRequest, BatchView
from gateway.csv_cells import csv_text
from gateway.keys import Scope

SENT = (BatchRequest,)
#: A batch of two payouts to payees of a custodian.
CSV_EXAMPLE = (
    "external_ref,asset,amount,destination_type,account_type,id\n"
    "user-42,USDC,12.50,custodian_account,EXTERNAL_WALLET,bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3\n"
    "user-43,USDC,7.25,custodian_account,NETWORK_CONNECTION,3adc1f92-e791-44a8-9aee-7f31c2108b78\n"
)
_LINE: Any = dict.fromkeys(REPORT_COLUMNS, (str | None, ...))
ReportLine: Any = create_model(
    "BatchReportLine", __doc__="A payout in a report; all cells are text.", **_LINE
)


class BatchReport(BaseModel):
    """The report of a batch."""

    batch_id: str
    final: bool = Field(description="Whether the batch has ended.")
    payouts: list[ReportLine]


TOLD: tuple[type[BaseModel], ...] = (
    BatchView,
    BatchList,
    BatchPayoutList,
    BatchCheck,
    BatchReport,
)
_ACTS = ("batch_not_found", "batch_ended", "database_frozen", *KEYED)


def paths(refs: dict[Any, Any]) -> dict[str, Any]:
    """Return the operations."""
    batch = (in_path("batch_id"),)
    created = {
        "Location": {"description": "Path of the created object.", "schema": {"type": "string"}}
    }
    page = (parameter("Limit"), parameter("Cursor"))
    lists = ("invalid_cursor", "invalid_request")
    made = as_json(refs[BatchView], "The batch, requested. Nothing moves before it is executed.")
    create = operation(
        refs,
        "createPayoutBatch",
        "batches",
        "Create a batch of payouts",
        ("201", {**made, "headers": created}),
        (*BODY, *KEYED, "idempotency_key_required", "invalid_batch", *STARTS, "paused"),
        description="Up to 1 000 payouts in JSON, or a CSV file of up to 100 000 lines with its "
        "source in the query. All are accepted, or none. CSV columns: " + ", ".join(COLUMNS) + ".",
        parameters=(
            parameter("RequiredIdempotencyKey"),
            query("validate", "`true`: check only, and answer 200.", enum=["true", "false"]),
            query("custodian", "CSV only: the custodian that pays."),
            query("account_id", "CSV only: the account that pays."),
            query("account_type", "CSV only: its type."),
            query("reference", "CSV only: your own reference of the batch.", maxLength=255),
        ),
        body=refs[BatchRequest],
        scope=Scope.BATCHES_WRITE,
    )
    create["requestBody"]["content"]["text/csv"] = {
        "schema": {"type": "string"},
        "example": CSV_EXAMPLE,
    }
    create["responses"]["200"] = as_json(refs[BatchCheck], "What a dry run found.")
    csv_report = {
        "description": "One line per payout; `Report-Final: true` once the batch has ended.",
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": csv_text([REPORT_COLUMNS]),
            }
        },
    }
    json_report = {
        "description": "The same lines; `final` once the batch has ended.",
        "content": {"application/json": {"schema": refs[BatchReport]}},
    }
    return {
        "/payout-batches": {
            "post": create,
            "get": operation(
                refs,
                "listPayoutBatches",
                "batches",
                "List batches, newest first",
                ("200", as_json(refs[BatchList], "A page of batches.")),
                lists,
                parameters=page,
                scope=Scope.PAYOUTS_READ,
            ),
        },
        "/payout-batches/{batch_id}": {
            "get": operation(
                refs,
                "getPayoutBatch",
                "batches",
                "Read a batch",
                ("200", as_json(refs[BatchView], "The batch with its totals.")),
                ("batch_not_found",),
                parameters=batch,
                scope=Scope.PAYOUTS_READ,
            )
        },
        "/payout-batches/{batch_id}/payouts": {
            "get": operation(
                refs,
                "listPayoutsOfBatch",
                "batches",
                "List the payouts of a batch, in their order",
                ("200", as_json(refs[BatchPayoutList], "A page of payouts.")),
                (*lists, "batch_not_found"),
                parameters=(*batch, *page),
                scope=Scope.PAYOUTS_READ,
            )
        },
        "/payout-batches/{batch_id}/execute": {
            "post": operation(
                refs,
                "executePayoutBatch",
                "batches",
                "Execute a batch, once",
                ("202", as_json(refs[BatchView], "The batch; it begins when its turn comes.")),
                (
                    *_ACTS,
                    "batch_already_executed",
                    "not_accepting",
                    "route_unavailable",
                    "paused",
                    "limit_exceeded",
                    "insufficient_funds",
                    "balance_unknown",
                ),
                parameters=(*batch, parameter("IdempotencyKey")),
                scope=Scope.BATCHES_WRITE,
            )
        },
        "/payout-batches/{batch_id}/cancel": {
            "post": operation(
                refs,
                "cancelPayoutBatch",
                "batches",
                "Cancel the unsent payouts of a batch",
                (
                    "202",
                    as_json(
                        refs[BatchView],
                        "The batch; payouts that were already sent are not affected.",
                    ),
                ),
                _ACTS,
                parameters=(*batch, parameter("IdempotencyKey")),
                scope=Scope.BATCHES_WRITE,
            )
        },
        "/payout-batches/{batch_id}/report.csv": {
            "get": operation(
                refs,
                "getPayoutBatchReport",
                "batches",
                "Download the report as CSV",
                ("200", csv_report),
                ("batch_not_found",),
                parameters=batch,
                scope=Scope.PAYOUTS_READ,
            )
        },
        "/payout-batches/{batch_id}/report.json": {
            "get": operation(
                refs,
                "getPayoutBatchReportJson",
                "batches",
                "Download the report as JSON",
                ("200", json_report),
                ("batch_not_found",),
                parameters=batch,
                scope=Scope.PAYOUTS_READ,
            )
        },
    }
