"""The report of a batch, streamed in bounded memory: one line for each payout."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.jobs import JobResponse, jobs_of
from gateway.api.requests import caller_of, context_of
from gateway.csv_cells import csv_text
from gateway.model import BATCH_ENDS, Payout
from gateway.store import batches as rows
from gateway.store.rows import payout_of
from gateway.views import shown_detail

#: Rows that are read at once. A thread reads them, and is free again before any of them is sent.
_REPORTED_AT_ONCE = 50
REPORT_COLUMNS = (
    "position",
    "payout_id",
    "external_ref",
    "reference",
    "name",
    "init_method",
    "asset",
    "amount",
    "recipient_gets",
    "status",
    "sub_status",
    "failure_code",
    "failure_message",
    "funds_moved",
    "custodian_reference",
    "tx_hash",
    "updated_at",
    "returned_amount",
)


async def report_csv(request: Request) -> Response:
    """`GET /payout-batches/{id}/report.csv`, streamed."""

    async def lines() -> AsyncIterator[str]:
        yield csv_text([REPORT_COLUMNS])
        async for page in _report(request, batch_id, init_method):
            yield csv_text(page)

    batch_id, init_method, final = await _reported(request)
    name = f'attachment; filename="{batch_id}.csv"'
    headers = {"Content-Disposition": name, "Report-Final": str(final).lower()}
    jobs, org = jobs_of(request), (await caller_of(request)).org
    return JobResponse(jobs, org, lines(), media_type="text/csv; charset=utf-8", headers=headers)


async def report_json(request: Request) -> Response:
    """`GET /payout-batches/{id}/report.json`, streamed."""
    batch_id, init_method, final = await _reported(request)

    async def parts() -> AsyncIterator[str]:
        yield f'{{"batch_id":{json.dumps(batch_id)},"final":{str(final).lower()},"payouts":['
        begun = False
        async for page in _report(request, batch_id, init_method):
            text = ""
            for row in page:
                members = {
                    name: cell or None for name, cell in zip(REPORT_COLUMNS, row, strict=True)
                }
                text += ("," if begun else "") + json.dumps(members, ensure_ascii=False)
                begun = True
            yield text
        yield "]}"

    jobs, org = jobs_of(request), (await caller_of(request)).org
    return JobResponse(jobs, org, parts(), media_type="application/json")


async def _reported(request: Request) -> tuple[str, str, bool]:
    """Return the batch's id, how it came, and whether its report is final."""
    context = context_of(request)
    caller = await caller_of(request)
    row = await context.db.read(context.batches.row, caller, str(request.path_params["batch_id"]))
    return row["id"], row["init_method"], row["state"] in BATCH_ENDS


async def _report(
    request: Request, batch_id: str, init_method: str
) -> AsyncIterator[list[list[str]]]:
    """Give the rows of the report, a few at a time; those of a page are of one consistent look."""
    context, jobs, after = context_of(request), jobs_of(request), -1
    org = (await caller_of(request)).org
    while page := await context.db.scan(rows.items_page, batch_id, after, _REPORTED_AT_ONCE):
        async for step in jobs.steps(org, page, lambda row: _row(row, payout_of(row), init_method)):
            yield step
        after = page[-1]["batch_position"]


def _row(row: Any, payout: Payout, init_method: str) -> list[str]:
    failure = payout.failure
    hashes = [each.tx_hash for each in payout.transactions if each.tx_hash]
    cells: list[str | int | Decimal | None] = [
        row["batch_position"] + 1,
        payout.id,
        payout.external_ref,
        payout.reference,
        row["name"],
        init_method,
        payout.terms.asset,
        f"{payout.terms.amount:f}",
        f"{payout.terms.recipient_gets:f}",
        payout.status,
        payout.sub_status,
        failure.code if failure else None,
        shown_detail(failure.message) if failure else None,
        failure.funds_moved if failure else None,
        payout.custodian_reference,
        hashes[-1] if hashes else None,
        payout.updated_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        None if payout.returned_amount is None else f"{payout.returned_amount:f}",
    ]
    return ["" if cell is None else str(cell) for cell in cells]
