"""Batches over HTTP: create from JSON or CSV, execute once, follow, cancel, report."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.api import acts
from gateway.api.acts import note_act
from gateway.api.context import ApiContext
from gateway.api.cursors import check_names, decode, encode, limit_of, query_fault
from gateway.api.file_checks import check_elsewhere
from gateway.api.idempotency import Answer, Claim, claimed, idempotency_key, keyed_request, once
from gateway.api.jobs import Jobs, jobs_of
from gateway.api.requests import caller_of, context_of, read_json, validate
from gateway.batches.items import (
    MOST_IN_FILE,
    Check,
    Checked,
    Kept,
    Line,
    csv_lines,
    json_lines,
    judge_count,
    references_of,
)
from gateway.batches.schemas import (
    AssetTotal,
    BatchCheck,
    BatchHead,
    BatchRequest,
    BatchSource,
    BatchView,
)
from gateway.batches.service import totals_of_new
from gateway.errors import Refused
from gateway.keys import Caller
from gateway.model import Payout
from gateway.pause import Subject
from gateway.pausing import refuse_if_paused
from gateway.store import batches as rows
from gateway.store.database import Tx
from gateway.store.rows import payout_of
from gateway.store.state import refuse_if_frozen, refuse_unless_accepting
from gateway.views import PayoutWithTracking, payout_with_tracking

T = TypeVar("T")

#: A thousand payouts with all that they may carry.
_MOST_JSON = 4 * 1024 * 1024
_MOST_BYTES = 64 * 1024 * 1024
_FILE_S = 300.0
#: Lines whose references are looked up at once; lines of one transaction.
_LOOKED_UP_AT_ONCE = 500
_STORED_AT_ONCE = 25
#: Pages that are handed in and not durable yet.
_PAGES_UNDER_WAY = 4
_FILE_QUERY = frozenset({"custodian", "account_id", "account_type", "reference", "validate"})


class BatchList(BaseModel):
    """A page of batches, newest first."""

    data: list[BatchView]
    next_cursor: str | None
    has_more: bool


class BatchPayoutList(BaseModel):
    """A page of a batch's payouts, in their order: the schema of what `list_batch_payouts` answers."""

    data: list[PayoutWithTracking]
    next_cursor: str | None
    has_more: bool


async def create_batch(request: Request) -> Response:
    """`POST /payout-batches`, JSON or `text/csv`."""
    caller = await caller_of(request)
    dry = _flag(request, "validate")
    key = idempotency_key(request, required=not dry)
    if dry:
        # It does nothing that could be repeated.
        key = None
    with jobs_of(request).running(caller.org):
        return await _create_from(request, caller, key)


async def _create_from(request: Request, caller: Caller, key: str | None) -> Response:
    """Create a batch of what the body holds."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "text/csv":
        check_names(request, frozenset({"validate"}))
        members = await read_json(request, _MOST_JSON)
        wanted = validate(BatchRequest, members)
        load = _Load(
            context=context_of(request),
            jobs=jobs_of(request),
            caller=caller,
            source=wanted.source,
            lines=lambda: json_lines(wanted),
            init_method="api",
            reference=wanted.reference,
            metadata=wanted.metadata,
        )
        return await _create(request, load, key, members)
    check_names(request, _FILE_QUERY)
    head = _head_of(request)
    with tempfile.TemporaryDirectory(prefix="payout-batch-") as folder:
        path = Path(folder) / "batch.csv"
        digest = await _receive(request, caller.org, path)
        load = _Load(
            context=context_of(request),
            jobs=jobs_of(request),
            caller=caller,
            source=head.source,
            lines=lambda: csv_lines(path),
            file=path,
            init_method="file",
            reference=head.reference,
            metadata={},
        )
        members = {"file": digest, "query": sorted(request.query_params.items())}
        return await _create(request, load, key, members)


async def check_file(request: Request, caller: Caller, head: BatchHead, path: Path) -> Checked:
    """Check every line of a file as its creation would, and store nothing.

    Refused: `invalid_batch` where the custodian is not known; faults of lines are in what is returned.
    """
    context, jobs = context_of(request), jobs_of(request)
    with jobs.running(caller.org):
        lines = partial(csv_lines, path)
        return await _check(context, jobs, caller, head.source, lines, None, path)


async def create_from_file(  # noqa: PLR0913 - whose batch, of what, and who creates it
    request: Request,
    caller: Caller,
    head: BatchHead,
    path: Path,
    key: str,
    note: Callable[[Tx, str], Awaitable[None]],
) -> str:
    """Create a batch from a file, once per key; return its id. Refused: `invalid_batch`.

    `note` writes who has created it, in the transaction that lets the batch be seen.
    """
    raw = await context_of(request).runtime.offload(path.read_bytes)
    digest = hashlib.sha256(raw).hexdigest()
    jobs = jobs_of(request)
    with jobs.running(caller.org):
        load = _Load(
            context=context_of(request),
            jobs=jobs,
            caller=caller,
            source=head.source,
            lines=partial(csv_lines, path),
            file=path,
            init_method="file",
            reference=head.reference,
            metadata={},
            note=note,
        )
        members = {"file": digest, "head": head.model_dump(mode="json")}
        answer = await _create(request, load, key, members)
    return str(json.loads(bytes(answer.body))["id"])


async def _create(request: Request, load: _Load, key: str | None, members: Any) -> Response:
    """Create a batch once per key; without a key only check it."""
    if key is not None:
        keyed = keyed_request(request, load.caller.org, load.caller.mode, key, members)
        return await claimed(request, keyed, load.create)
    found = await load.check()
    return _answer(BatchCheck(item_count=found.count, totals=dict(sorted(found.totals.items()))))


@dataclass(frozen=True)
class _Load:
    """The creation of a batch: checked as a whole, stored page by page, visible with the last one."""

    context: ApiContext
    jobs: Jobs
    caller: Caller
    source: BatchSource
    #: reads the lines, from the first one on each time that it is called
    lines: Callable[[], Iterator[Line]]
    init_method: Literal["api", "file"]
    reference: str | None
    metadata: Mapping[str, str]
    #: writes who creates it
    note: Callable[[Tx, str], Awaitable[None]] | None = None
    #: what the lines are read from, where it is a file
    file: Path | None = None

    async def create(self, claim: Claim) -> Answer:
        """Create the batch under the claim of its key. Refused: `invalid_batch`, and nothing is left.

        Each transaction holds the claim. So after a takeover this load stores nothing more, and the
        gateway that took over can delete it.
        """
        if claim.created_id is not None:
            await self._drop(claim.created_id)
        pauses = await self.context.db.read(refuse_unless_accepting, self.context.own_rules)
        with Kept() as kept:
            found = await self.check(kept)
            if pauses:
                await self.context.db.read(self._refuse_if_paused, found)
            totals = totals_of_new(found)
            batch_id = await self.context.db.run(self._begin, claim)
            try:
                stored = await self._store(claim, batch_id, kept)
                return await claim.finish(lambda tx: self._finish(tx, batch_id, stored, totals))
            except BaseException:
                # Nobody has seen it. What cannot be deleted now is deleted as a load that was given up.
                with suppress(Exception):
                    await self._drop(batch_id)
                raise

    async def _refuse_if_paused(self, tx: Tx, found: Checked) -> None:
        caller, source = self.caller, self.source
        for asset in found.totals:
            names = caller.org, caller.mode, source.custodian, source.account, asset
            await refuse_if_paused(tx, Subject(*names))

    async def check(self, kept: Kept | None = None) -> Checked:
        """Check every item, and keep it. Refused: `invalid_batch`, with the faults."""
        found = await _check(
            self.context, self.jobs, self.caller, self.source, self.lines, kept, self.file
        )
        found.refuse()
        return found

    async def _store(self, claim: Claim, batch_id: str, kept: Kept) -> int:
        """Store every item; return how many there are.

        Some pages are handed in before the first of them is durable: they share a commit, and the next
        items are made ready while the disk works.
        """
        made = self.context.batches.columns(self.caller, self.source, batch_id)
        numbered = enumerate(kept.read())
        pages = _gathered(
            self.jobs.steps(self.caller.org, numbered, lambda each: made.of(*each)), _STORED_AT_ONCE
        )
        under_way: deque[asyncio.Task[None]] = deque()
        stored = 0
        try:
            async for page in pages:
                if len(under_way) >= _PAGES_UNDER_WAY:
                    await under_way.popleft()
                writing = self.context.db.run(self._add, claim, batch_id, page)
                under_way.append(asyncio.create_task(writing))
                stored += len(page)
            while under_way:
                await under_way.popleft()
        finally:
            # What was handed in is written whatever happens: the end of a load that failed comes after.
            await asyncio.gather(*under_way, return_exceptions=True)
        return stored

    async def _begin(self, tx: Tx, claim: Claim) -> str:
        await refuse_unless_accepting(tx, self.context.own_rules)
        batch_id = await self.context.batches.begin(
            tx,
            self.caller,
            self.source,
            init_method=self.init_method,
            reference=self.reference,
            metadata=self.metadata,
        )
        await claim.creating(tx, batch_id)
        return batch_id

    async def _add(
        self, tx: Tx, claim: Claim, batch_id: str, page: Sequence[Mapping[str, object]]
    ) -> None:
        await claim.hold(tx)
        await self.context.batches.add(tx, batch_id, page)

    async def _finish(
        self, tx: Tx, batch_id: str, count: int, totals: Sequence[AssetTotal]
    ) -> Answer:
        await refuse_unless_accepting(tx, self.context.own_rules)
        view = await self.context.batches.finish(tx, self.caller, batch_id, count, totals)
        if self.note is not None:
            await self.note(tx, batch_id)
        return Answer(
            201,
            view.model_dump_json().encode(),
            location=f"/payout-batches/{batch_id}",
            created_id=batch_id,
        )

    async def _drop(self, batch_id: str) -> None:
        """Delete a batch that is not visible, a page per transaction. May be called twice."""
        run = self.context.db.run
        while await run(rows.drop_loaded, batch_id, _STORED_AT_ONCE) == _STORED_AT_ONCE:
            pass


async def _gathered(steps: AsyncIterator[list[T]], size: int) -> AsyncIterator[list[T]]:
    """Give what comes a few at a time in lists of a size."""
    page: list[T] = []
    async for step in steps:
        page += step
        while len(page) >= size:
            yield page[:size]
            page = page[size:]
    if page:
        yield page


async def _check(  # noqa: PLR0913 - whose batch it is, and where its items go
    context: ApiContext,
    jobs: Jobs,
    caller: Caller,
    source: BatchSource,
    lines: Callable[[], Iterator[Line]],
    kept: Kept | None,
    file: Path | None = None,
) -> Checked:
    found = Checked()
    known = {
        each.name
        for each in context.router.instances()
        if context.router.routes_of(each, caller.org, caller.mode)
    }
    if source.custodian not in known:
        detail = "no custodian is called so; GET /custodians lists them"
        found.fault("/source/custodian", "unknown_custodian", detail)
        found.refuse()

    if file is not None:
        checked_elsewhere = await check_elsewhere(context, jobs, caller, source, file, kept)
        if checked_elsewhere is not None:
            return checked_elsewhere
    check = Check(context.quotes, caller, source, found)

    def one(line: Line) -> Line:
        item = check.line(line)
        if item is not None and kept is not None:
            kept.add(item)
        return line

    async def checked() -> AsyncIterator[list[Line]]:
        async for step in jobs.steps(caller.org, lines(), one):
            if found.count > MOST_IN_FILE:
                return
            yield step

    async for page in _gathered(checked(), _LOOKED_UP_AT_ONCE):
        where = references_of(page)
        await context.db.scan(context.batches.references_used, caller, where, found)
    judge_count(found)
    return found


async def _receive(request: Request, org: str, path: Path) -> str:
    """Write the body to a file, in bounded memory and in turn with other jobs; return its digest."""
    digest, size = hashlib.sha256(), 0
    jobs = jobs_of(request)
    offload = context_of(request).runtime.offload
    try:
        async with asyncio.timeout(_FILE_S):
            with path.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > _MOST_BYTES:
                        detail = f"The file may have {_MOST_BYTES} bytes."
                        raise Refused("payload_too_large", detail, headers={"Connection": "close"})
                    await jobs.turn(org)
                    await offload(partial(_keep_chunk, file, digest, chunk))
    except (ClientDisconnect, TimeoutError):
        raise Refused("request_timeout", "The file did not arrive in time.") from None
    return digest.hexdigest()


def _keep_chunk(file: BinaryIO, digest: Any, chunk: bytes) -> None:
    digest.update(chunk)
    file.write(chunk)


def _head_of(request: Request) -> BatchHead:
    """Return the members of the query that describe a file, under the same rules as those of a body."""
    query = request.query_params
    for name in ("custodian", "account_id", "account_type"):
        if not query.get(name):
            raise query_fault(name, "is needed: it names the account that pays")
    account = {"id": query["account_id"], "type": query["account_type"]}
    members: dict[str, Any] = {"source": {"custodian": query["custodian"], "account": account}}
    if "reference" in query:
        members["reference"] = query["reference"]
    return validate(BatchHead, members)


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false")
    if value not in {"true", "false"}:
        raise query_fault(name, "is true or false")
    return value == "true"


async def list_batches(request: Request) -> Response:
    """`GET /payout-batches`."""
    context = context_of(request)
    caller = await caller_of(request)
    check_names(request, frozenset({"limit", "cursor"}))
    limit, after = limit_of(request), None
    if "cursor" in request.query_params:
        after = str(decode(request, request.query_params["cursor"], {}, (str,))[0])
    found = await context.db.scan(context.batches.page, caller, after, limit + 1)
    page, more = found[:limit], len(found) > limit
    cursor = encode(request, [page[-1].id], {}) if more else None
    return _answer(BatchList(data=page, next_cursor=cursor, has_more=more))


async def get_batch(request: Request) -> Response:
    """`GET /payout-batches/{id}`."""
    context = context_of(request)
    caller = await caller_of(request)
    return _answer(await context.db.scan(context.batches.get, caller, _id(request)))


async def list_batch_payouts(request: Request) -> Response:
    """`GET /payout-batches/{id}/payouts`."""
    context = context_of(request)
    caller = await caller_of(request)
    check_names(request, frozenset({"limit", "cursor"}))
    limit, after, batch_id = limit_of(request), -1, _id(request)
    of = {"batch_id": batch_id}
    if "cursor" in request.query_params:
        after = int(decode(request, request.query_params["cursor"], of, (int,))[0])

    async def look(tx: Tx) -> tuple[list[Payout], list[Any]]:
        await context.batches.row(tx, caller, batch_id)
        found = await rows.items_page(tx, batch_id, after, limit + 1)
        return [payout_of(row) for row in found[:limit]], found

    payouts, found = await context.db.scan(look)
    more = len(found) > limit
    base = context.settings.public_url.rstrip("/")
    data = [
        payout_with_tracking(each, f"{base}/track/{context.vault.tracking_token(each.id)}")
        for each in payouts
    ]
    cursor = encode(request, [found[limit - 1]["batch_position"]], of) if more else None
    body = {"data": data, "next_cursor": cursor, "has_more": more}
    return Response(to_json(body), media_type="application/json")


async def execute_batch(request: Request) -> Response:
    """`POST /payout-batches/{id}/execute`."""
    context = context_of(request)
    refuse = partial(refuse_unless_accepting, rules=context.own_rules)
    # In a reader thread: a batch has up to 100,000 items, and others wait for the change.
    caller = await caller_of(request)
    amounts = await context.db.scan(context.batches.amounts, caller, _id(request))
    execute = partial(context.batches.execute, amounts=amounts)
    return await _act(request, execute, refuse, acts.BATCH_EXECUTED)


async def cancel_batch(request: Request) -> Response:
    """`POST /payout-batches/{id}/cancel`."""
    change = context_of(request).batches.cancel
    return await _act(request, change, refuse_if_frozen, acts.BATCH_CANCELED)


async def _act(
    request: Request, change: Any, refuse: Callable[[Tx], Awaitable[object]], act: str
) -> Response:
    context = context_of(request)
    caller = await caller_of(request)
    key = idempotency_key(request, required=False)
    batch_id = _id(request)

    async def work(tx: Tx) -> Answer:
        await refuse(tx)
        before = {"state": (await context.batches.row(tx, caller, batch_id))["state"]}
        view = await change(tx, caller, batch_id)
        after = {"state": view.state, "item_count": view.item_count}
        await note_act(tx, request, caller, act, batch_id, before=before, after=after)
        return Answer(202, view.model_dump_json().encode())

    answer = await once(request, caller, key, [batch_id], work)
    context.wake("batches")
    return answer


def _id(request: Request) -> str:
    return str(request.path_params["batch_id"])


def _answer(body: BaseModel) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")
