"""Batches: created whole or not at all, executed once, canceled as far as nothing was sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from gateway.assets import EXACT
from gateway.batches.columns import ItemColumns
from gateway.batches.items import MOST_FAULTS, Checked
from gateway.batches.schemas import AssetTotal, BatchPart, BatchSource, BatchView, StatusTotal
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.events import Event, publish
from gateway.funds.reservations import Funds
from gateway.model import (
    BATCH_ENDS,
    Account,
    BatchState,
    Failure,
    Status,
    format_time,
)
from gateway.pause import Subject
from gateway.pausing import refuse_if_paused
from gateway.quotes import Quotes
from gateway.routing.accounts import PinnedAccounts
from gateway.runtime import Runtime
from gateway.spending import Spending
from gateway.store import batches as rows
from gateway.store import executions
from gateway.store import payouts as payout_rows
from gateway.store.database import Row, Tx
from gateway.store.rows import from_us, maybe_from_us, to_json, to_us
from gateway.views import API_VERSION

#: How long a batch may wait to be executed.
BATCH_LIFE = timedelta(hours=24)


@dataclass(frozen=True)
class Amounts:
    """How many items a batch has of each status, asset and amount, and the state of the batch then."""

    rows: Sequence[Row]
    #: its `updated_at`; another one since: an item may have ended
    updated_at: int


class Batches:
    """Use cases of batches. Its methods are store functions, but where they say so."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        runtime: Runtime,
        quotes: Quotes,
        native: frozenset[str],
        public_url: str,
        spending: Spending | None = None,
        funds: Funds | None = None,
        pinned: PinnedAccounts | None = None,
    ) -> None:
        #: what may be paid from by the configuration; None: it is not checked
        self._pinned = pinned
        self._spending = spending
        self._funds = funds
        self._runtime = runtime
        self._quotes = quotes
        self._native = native
        self._public_url = public_url.rstrip("/")

    async def references_used(
        self, tx: Tx, caller: Caller, where: Mapping[str, str], found: Checked
    ) -> None:
        """Note the references that another batch of the org has paid already, or will.

        `where`: where each reference stands, by its key.
        """
        for row in await rows.used_references(tx, caller.org, caller.mode, json.dumps(list(where))):
            detail = f"is also the reference of {row['id']} in {row['batch_id']}"
            found.fault(where[row["reference_key"]] + "/reference", "duplicate_reference", detail)

    async def begin(  # noqa: PLR0913 - what a batch is made of
        self,
        tx: Tx,
        caller: Caller,
        source: BatchSource,
        *,
        init_method: str,
        reference: str | None,
        metadata: Mapping[str, str],
    ) -> str:
        """Begin to store a batch; nobody sees it before `finish`. Returns its id."""
        now = self._runtime.clock.now()
        batch_id = self._runtime.ids.new("bat")
        await rows.add_batch(
            tx,
            id=batch_id,
            org=caller.org,
            mode=caller.mode,
            custodian=source.custodian,
            account=source.account.model_dump_json(),
            native=int(source.custodian in self._native),
            init_method=init_method,
            reference=reference,
            metadata=to_json(dict(metadata)),
            state="loading",
            items=0,
            worked_off=-1,
            failure=None,
            created_at=to_us(now),
            updated_at=to_us(now),
            expires_at=to_us(now + BATCH_LIFE),
            executed_at=None,
            cancel_at=None,
            funds_until=None,
            finalized_at=None,
        )
        return batch_id

    def columns(self, caller: Caller, source: BatchSource, batch_id: str) -> ItemColumns:
        """Return what makes the columns of a batch's items."""
        now = to_us(self._runtime.clock.now())
        return ItemColumns(self._runtime.ids, caller, source, batch_id, now)

    async def add(self, tx: Tx, batch_id: str, items: Sequence[Mapping[str, object]]) -> None:
        """Store a page of items. Refused: `request_timeout`, as `finish`."""
        await self._still_loading(tx, batch_id)
        await payout_rows.insert_payouts(tx, items)

    async def finish(
        self,
        tx: Tx,
        caller: Caller,
        batch_id: str,
        count: int,
        totals: Sequence[AssetTotal] | None = None,
    ) -> BatchView:
        """Let a batch be seen: all of its items are stored. `totals`: its own, where they are known.

        Refused: `invalid_batch`, where a batch that came in between has taken a reference of it;
        `request_timeout`, where it was given up and deleted, in whole or in part.
        """
        await self._still_loading(tx, batch_id)
        if await rows.count_items(tx, batch_id) != count:
            raise _given_up()
        clashing = await rows.clashes(tx, batch_id, MOST_FAULTS)
        if clashing:
            found = Checked(count=count)
            for row in clashing:
                where = f"/payouts/{row['batch_position']}/reference"
                detail = f"is also the reference of {row['other_id']} in {row['other_batch']}"
                found.fault(where, "duplicate_reference", detail)
            found.refuse()
        await rows.update_batch(tx, batch_id, state=BatchState.REQUESTED, items=count)
        return await self.view(tx, await self.row(tx, caller, batch_id), totals)

    @staticmethod
    async def _still_loading(tx: Tx, batch_id: str) -> None:
        row = await rows.batch_row(tx, batch_id)
        if row is None or row["state"] != "loading":
            raise _given_up()

    async def get(self, tx: Tx, caller: Caller, batch_id: str) -> BatchView:
        """Return an org's batch. Refused: `batch_not_found`."""
        return await self.view(tx, await self.row(tx, caller, batch_id))

    async def row(self, tx: Tx, caller: Caller, batch_id: str) -> Row:
        """Return the row of an org's batch. Refused: `batch_not_found`."""
        row = await rows.find_batch(tx, batch_id, caller.org, caller.mode)
        if row is None:
            raise Refused(
                "batch_not_found", f"There is no batch {batch_id[:64]} under this API key."
            )
        return row

    async def page(
        self, tx: Tx, caller: Caller, after_id: str | None, limit: int
    ) -> list[BatchView]:
        """Return an org's batches, newest first."""
        found = await rows.list_batches(tx, caller.org, caller.mode, after_id, limit)
        return [await self.view(tx, row) for row in found]

    async def amounts(self, tx: Tx, caller: Caller, batch_id: str) -> Amounts | None:
        """Return how many items an org's batch has of each status, asset and amount: a long read.

        None where there is no such batch.
        """
        try:
            row = await self.row(tx, caller, batch_id)
        except Refused:
            return None
        return Amounts(await rows.amounts(tx, batch_id), row["updated_at"])

    async def execute(
        self,
        tx: Tx,
        caller: Caller,
        batch_id: str,
        amounts: Amounts | None = None,
    ) -> BatchView:
        """Execute a batch, once.

        `amounts`: as they were read before. They hold unless an operator has ended an item since; then, and
        without them, every item is read here. Refused: `batch_not_found`,
        `batch_already_executed`, `batch_ended`, `route_unavailable` (the source is no longer configured),
        `paused`, and `limit_exceeded`, `insufficient_funds`, `balance_unknown`: the whole sum is counted
        and reserved, or nothing. Where the route says so, a batch that its account does not cover waits
        until midnight UTC.
        """
        row = await self.row(tx, caller, batch_id)
        now = self._runtime.clock.now()
        if row["executed_at"] is not None:
            detail = f"The batch was executed at {format_time(from_us(row['executed_at']))}."
            raise Refused("batch_already_executed", detail)
        if row["state"] in BATCH_ENDS or row["cancel_at"] is not None:
            word = row["state"] if row["state"] in BATCH_ENDS else "being canceled"
            raise Refused("batch_ended", f"The batch is {word}.")
        if row["expires_at"] <= to_us(now):
            detail = "The batch was not executed in time. Create it again."
            raise Refused("batch_ended", detail)
        account = Account.model_validate_json(row["account"])
        source = row["org"], row["mode"], row["custodian"], account
        if self._pinned is not None:
            self._pinned.check(*source)
        subject = Subject(*source, asset="")
        await refuse_if_paused(tx, subject)
        holds = amounts is not None and amounts.updated_at == row["updated_at"]
        counted = amounts.rows if amounts is not None and holds else None
        # Refused before anything is written.
        hold = None if self._funds is None else await self._funds.hold_batch(tx, row)
        if self._spending is not None:
            await self._spending.take_batch(tx, row, caller.key_id, now, counted)
        if self._funds is not None and hold is not None:
            await self._funds.write(tx, batch_id, hold)
        waits = hold is not None and hold.waits
        until = to_us(midnight_after(now)) if waits else None
        at = to_us(now)
        # Its time to wait for its turn begins now, by this clock; another clock adds its own start.
        moment = self._runtime.clock.moment()
        queued = to_json({moment.clock_id: moment.elapsed})
        await rows.update_batch(
            tx, batch_id, executed_at=at, updated_at=at, funds_until=until, queued_since=queued
        )
        totals = None if counted is None else totals_of(counted)
        return await self.view(tx, await self.row(tx, caller, batch_id), totals)

    async def cancel(self, tx: Tx, caller: Caller, batch_id: str) -> BatchView:
        """Cancel what was not sent. May be called again. Refused: `batch_not_found`, `batch_ended`."""
        row = await self.row(tx, caller, batch_id)
        if row["state"] in BATCH_ENDS:
            raise Refused("batch_ended", f"The batch is {row['state']}; nothing is left to cancel.")
        if row["cancel_at"] is None:
            now = to_us(self._runtime.clock.now())
            await rows.update_batch(tx, batch_id, cancel_at=now, updated_at=now)
        return await self.get(tx, caller, batch_id)

    async def tell(self, tx: Tx, batch_id: str, kind: str) -> None:
        """Write an event of a batch, and a delivery for every endpoint that subscribes to it."""
        row = await rows.batch_row(tx, batch_id)
        assert row is not None  # noqa: S101 - the caller has just read it
        now = self._runtime.clock.now()
        body = {
            "type": kind,
            "timestamp": format_time(now),
            "api_version": API_VERSION,
            "data": (await self.view(tx, row)).model_dump(mode="json"),
        }
        event = Event(kind, json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
        await publish(tx, self._runtime, row["org"], row["mode"], now, [event])

    async def view(self, tx: Tx, row: Row, totals: Sequence[AssetTotal] | None = None) -> BatchView:
        """Return what a partner sees of a batch. Without `totals` every item is read for them."""
        if totals is None:
            totals = totals_of(await rows.amounts(tx, row["id"]))
        ended = {
            status: sum(each.by_status[status].count for each in totals if status in each.by_status)
            for status in (Status.DELIVERED, Status.FAILED)
        }
        executed = row["executed_at"] is not None
        parts = []
        if row["native"]:
            parts = [part_of(each) for each in await executions.executions_of_batch(tx, row["id"])]
        return BatchView(
            id=row["id"],
            livemode=row["mode"] == "live",
            state=row["state"],
            source=BatchSource(
                custodian=row["custodian"], account=Account.model_validate_json(row["account"])
            ),
            init_method=row["init_method"],
            reference=row["reference"],
            metadata=json.loads(row["metadata"]),
            item_count=row["items"],
            delivered_count=ended[Status.DELIVERED],
            failed_count=ended[Status.FAILED],
            totals=list(totals),
            parts=parts,
            failure=Failure.model_validate_json(row["failure"]) if row["failure"] else None,
            report_url=f"{self._public_url}/payout-batches/{row['id']}/report.csv",
            created_at=from_us(row["created_at"]),
            expires_at=None if executed else from_us(row["expires_at"]),
            executed_at=maybe_from_us(row["executed_at"]),
            cancel_requested_at=maybe_from_us(row["cancel_at"]),
            finalized_at=maybe_from_us(row["finalized_at"]),
        )


def midnight_after(now: datetime) -> datetime:
    """Return the next midnight UTC: until then a batch waits for funds."""
    return now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def _given_up() -> Refused:
    detail = "The batch took too long to load and was deleted. Send it again."
    return Refused("request_timeout", detail)


def totals_of_new(found: Checked) -> list[AssetTotal]:
    """Return the totals of a batch none of whose payouts has begun, by what its check has counted."""
    return [
        AssetTotal(
            asset=asset,
            count=found.counts[asset],
            amount=amount,
            by_status={Status.PENDING: StatusTotal(count=found.counts[asset], amount=amount)},
        )
        for asset, amount in sorted(found.totals.items())
    ]


def totals_of(counted: Sequence[Row]) -> list[AssetTotal]:
    """Return the totals per asset and status, exact."""
    sums: dict[str, dict[Status, tuple[int, Decimal]]] = {}
    for row in counted:
        by_status = sums.setdefault(row["asset"], {})
        count, amount = by_status.get(Status(row["status"]), (0, Decimal(0)))
        added = EXACT.multiply(Decimal(row["amount"]), Decimal(row["n"]))
        by_status[Status(row["status"])] = (count + row["n"], EXACT.add(amount, added))
    return [
        AssetTotal(
            asset=asset,
            count=sum(count for count, _ in by_status.values()),
            amount=sum((amount for _, amount in by_status.values()), Decimal(0)),
            by_status={
                status: StatusTotal(count=by_status[status][0], amount=by_status[status][1])
                for status in Status
                if status in by_status
            },
        )
        for asset, by_status in sorted(sums.items())
    ]


_PART_STATES: Mapping[
    str, Literal["waiting", "submitting", "submitted", "outcome_unknown", "ended"]
] = {
    "prepared": "waiting",
    "parked": "waiting",
    "moving": "submitting",
    "unknown": "outcome_unknown",
    "accepted": "submitted",
    "closed": "ended",
}


def part_of(row: Row) -> BatchPart:
    """Return what a partner sees of a set, which is an execution of many payouts."""
    return BatchPart(
        number=row["number"],
        items=row["size"],
        state=_PART_STATES[row["state"]],
        custodian_reference=json.loads(row["notes"]).get("payout_id"),
    )
