"""Batches over HTTP: create from JSON or CSV, execute once, follow, cancel, report."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, aclosing, nullcontext, suppress
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
from gateway.api.file_checks import SMALL_FILE, CheckHereError, checked_elsewhere
from gateway.api.idempotency import Answer, Claim, claimed, idempotency_key, keyed_request, once
from gateway.api.jobs import Jobs, jobs_of, number_of
from gateway.api.requests import caller_of, context_of, read_json, validate
from gateway.batches.columns import ItemColumns
from gateway.batches.items import (
    MOST_IN_FILE,
    Check,
    Checked,
    Kept,
    Line,
    Planned,
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
from gateway.caller import Caller
from gateway.errors import Refused
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
_STORED_AT_ONCE = 50
#: Pages that are handed in and not durable yet.
_PAGES_UNDER_WAY = 4
#: Payouts that one transaction deletes.
_DROPPED_AT_ONCE = 50
#: Pages of a batch that are deleted together.
_DROPS = 8
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
    with jobs_of(request).running(caller.org, number_of(request)):
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
    with tempfile.TemporaryDirectory(prefix="payout-batch-") as folder, _expecting(request):
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
    with jobs.running(caller.org, number_of(request)):
        checking = _Checking(context, jobs, caller, head.source, partial(csv_lines, path), path)
        return await checking.found()


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
    with jobs.running(caller.org, number_of(request)):
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
    found = await load.checking().found()
    found.refuse()
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
            await self.drop(claim.created_id)
        pauses = await self.context.db.read(refuse_unless_accepting, self.context.own_rules)
        storing = _Storing(self, claim)
        try:
            with Kept() as kept:
                found = await self.checking().found(storing, kept)
                found.refuse()
                if pauses:
                    await self.context.db.read(self._refuse_if_paused, found)
                await storing.add(kept.read())
            batch_id, stored = await storing.end()
            totals = totals_of_new(found)
            return await claim.finish(lambda tx: self._finish(tx, batch_id, stored, totals))
        except BaseException:
            # Nobody has seen it. What cannot be deleted now is deleted as a load that was given up.
            with suppress(Exception):
                await storing.undo()
            raise

    async def _refuse_if_paused(self, tx: Tx, found: Checked) -> None:
        caller, source = self.caller, self.source
        for asset in found.totals:
            names = caller.org, caller.mode, source.custodian, source.account, asset
            await refuse_if_paused(tx, Subject(*names))

    def checking(self) -> _Checking:
        """Return the check of its items."""
        return _Checking(self.context, self.jobs, self.caller, self.source, self.lines, self.file)

    async def begin(self, tx: Tx, claim: Claim) -> str:
        """Store function: begin the batch, which nobody sees before its end; return its id."""
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

    async def add(
        self, tx: Tx, claim: Claim, batch_id: str, page: Sequence[Mapping[str, object]]
    ) -> None:
        """Store function: store some items under the claim."""
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

    async def drop(self, batch_id: str) -> None:
        """Delete a batch that is not visible, in turn. May be called twice.

        A few pages at a time: they share a commit where they can, and the answer waits for all of it.
        """
        took, all_gone, clock = 0.0, False, self.context.runtime.clock
        while not all_gone:
            await self.jobs.turn(self.caller.org, took)
            begun = clock.monotonic()
            drops = (
                self.context.db.run(rows.drop_loaded, batch_id, _DROPPED_AT_ONCE)
                for _ in range(_DROPS)
            )
            all_gone = min(await asyncio.gather(*drops)) < _DROPPED_AT_ONCE
            took = clock.monotonic() - begun


class _Storing:
    """Stores the items of a batch, which is begun with the first of them."""

    def __init__(self, load: _Load, claim: Claim) -> None:
        self._load = load
        self._claim = claim
        self._batch_id: str | None = None
        self._columns: ItemColumns | None = None
        self._count = 0
        #: made ready and not handed in yet: fewer than a page
        self._rest: list[Mapping[str, object]] = []
        self._under_way: deque[asyncio.Task[None]] = deque()

    async def _begun(self) -> ItemColumns:
        if self._columns is None:
            load = self._load
            self._batch_id = await load.context.db.run(load.begin, self._claim)
            self._columns = load.context.batches.columns(load.caller, load.source, self._batch_id)
        return self._columns

    async def add(self, items: Iterable[Planned]) -> None:
        """Store items, which follow on those before. Some of them are stored by the next call, or by `end`.

        Some pages are handed in before the first of them is durable: they share a commit, and the next
        items are made ready while the disk works.
        """
        made, load = await self._begun(), self._load
        numbered = enumerate(items, self._count)
        async for step in load.jobs.steps(load.caller.org, numbered, lambda each: made.of(*each)):
            self._count += len(step)
            self._rest += step
            while len(self._rest) >= _STORED_AT_ONCE:
                await self._hand_in()

    async def _hand_in(self) -> None:
        page, self._rest = self._rest[:_STORED_AT_ONCE], self._rest[_STORED_AT_ONCE:]
        if len(self._under_way) >= _PAGES_UNDER_WAY:
            await self._under_way.popleft()
        assert self._batch_id is not None  # noqa: S101 - it was begun
        writing = self._load.context.db.run(self._load.add, self._claim, self._batch_id, page)
        self._under_way.append(asyncio.create_task(writing))

    async def end(self) -> tuple[str, int]:
        """Wait until all is stored; return the id of the batch, and how many items it has."""
        await self._begun()
        if self._rest:
            await self._hand_in()
        while self._under_way:
            await self._under_way.popleft()
        assert self._batch_id is not None  # noqa: S101 - it was begun
        return self._batch_id, self._count

    async def undo(self) -> None:
        """Delete what was stored, if there is anything; items may be added again. May be called twice."""
        # What was handed in is written whatever happens: its deletion comes after.
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()
        batch_id, self._batch_id, self._columns = self._batch_id, None, None
        self._count, self._rest = 0, []
        if batch_id is not None:
            await self._load.drop(batch_id)


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


@dataclass(frozen=True)
class _Checking:
    """The check of every line of a batch: whose it is, and where its lines come from."""

    context: ApiContext
    jobs: Jobs
    caller: Caller
    source: BatchSource
    #: reads the lines, from the first one on each time that it is called
    lines: Callable[[], Iterator[Line]]
    #: what they are read from, where it is a file
    file: Path | None = None

    async def found(self, storing: _Storing | None = None, kept: Kept | None = None) -> Checked:
        """Check every line; return what was found. Refused: `invalid_batch`, where nobody could pay.

        The items of a file that another process checks are stored meanwhile, as long as there is no fault.
        Those that this process checks are kept, and nothing is stored.
        """
        known = {
            each.name
            for each in self.context.router.instances()
            if self.context.router.routes_of(each, self.caller.org, self.caller.mode)
        }
        found = Checked()
        if self.source.custodian not in known:
            detail = "no custodian is called so; GET /custodians lists them"
            found.fault("/source/custodian", "unknown_custodian", detail)
            found.refuse()
        if self.file is not None:
            try:
                await self._elsewhere(self.file, found, storing)
            except CheckHereError:
                if storing is not None:
                    await storing.undo()
                found = Checked()
            else:
                return found
        await self._here(found, kept)
        judge_count(found)
        return found

    async def _elsewhere(self, file: Path, found: Checked, storing: _Storing | None) -> None:
        names = self.context, self.caller, self.source
        async with aclosing(checked_elsewhere(*names, file, found)) as pages:
            async for items in pages:
                if storing is not None and not found.fault_count:
                    await storing.add(items)
                    continue
                # The custodian is asked about each all the same.
                async for _ in self.jobs.steps(self.caller.org, items, lambda each: each):
                    pass

    async def _here(self, found: Checked, kept: Kept | None) -> None:
        check = Check(self.context.quotes, self.caller, self.source, found)

        def one(line: Line) -> Line:
            item = check.line(line)
            if item is not None and kept is not None:
                kept.add(item)
            return line

        async def checked() -> AsyncIterator[list[Line]]:
            async for step in self.jobs.steps(self.caller.org, self.lines(), one):
                if found.count > MOST_IN_FILE:
                    return
                yield step

        async for page in _gathered(checked(), _LOOKED_UP_AT_ONCE):
            where = references_of(page)
            await self.context.db.scan(
                self.context.batches.references_used, self.caller, where, found
            )


def _expecting(request: Request) -> AbstractContextManager[None]:
    """Have the process that checks large files start while one of them is received."""
    elsewhere = context_of(request).file_checks
    length = request.headers.get("content-length", "")
    small = length.isdecimal() and int(length) < SMALL_FILE
    return nullcontext() if elsewhere is None or small else elsewhere.expecting()


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
