"""Batches: the list, the check of a file and its creation, progress, execution and cancellation."""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
import re
import tempfile
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from gateway.api import acts
from gateway.api.acts import note_act
from gateway.api.balances import accounts_of, balances_for
from gateway.api.batch_reports import report_csv
from gateway.api.batches import check_file, create_from_file
from gateway.api.problems import PROBLEMS
from gateway.api.requests import read_body, validate
from gateway.batches.items import csv_lines, is_of_the_moment
from gateway.batches.schemas import BatchHead, BatchView
from gateway.errors import Refused
from gateway.model import BATCH_ENDS, BatchState, Payout, Status, SubStatus
from gateway.panel.access import FORM, PageError, Visit, parsed, refuse_forged
from gateway.panel.overview import open_count
from gateway.panel.payouts import row_of
from gateway.panel.words import look_of_batch, place_of
from gateway.store import batches as rows
from gateway.store.database import Tx
from gateway.store.overview import batch_items
from gateway.store.rows import payout_of
from gateway.store.state import refuse_if_frozen, refuse_unless_accepting

#: The largest file that the panel takes; larger ones go over the API or the command line.
MOST_BYTES = 2 * 1024 * 1024
#: The form carries the compressed file from its check to its creation.
_MOST_FORM = 2 * MOST_BYTES
_PAGE = 25
_FILE_S = 120.0
_FIRST_LINES = 20
#: The first line of a file that can hold a payout, after the line of column names.
_FIRST_ITEM = 2
_MOST_SHOWN = 20
_LINE = re.compile(r"/lines/([0-9]+)(?:/([a-z_]+))?")
_NAME = re.compile(r"[^\w .()+-]")


async def index(visit: Visit) -> Response:
    """`GET …/batches`; `after` continues the list."""
    context, after = visit.context, visit.request.query_params.get("after")
    found = await context.db.scan(context.batches.page, visit.caller, after, _PAGE + 1)
    shown = found[:_PAGE]
    return visit.draw(
        "panel/batches.html",
        section="batches",
        here="Batches",
        open_count=await open_count(visit),
        rows=[
            {
                "batch": each,
                "look": look_of_batch(each.state, executed=each.executed_at is not None),
            }
            for each in shown
        ],
        after=shown[-1].id if len(found) > _PAGE else None,
    )


async def new(visit: Visit, problem: str | None = None, code: int = 200) -> Response:
    """`GET …/batches/new`: the file and the account that pays."""
    return visit.draw(
        "panel/batch_new.html",
        code,
        section="batches",
        here="Batches",
        open_count=await open_count(visit),
        accounts=_accounts(visit),
        most=MOST_BYTES // (1024 * 1024),
        form=visit.form,
        problem=problem,
    )


def _accounts(visit: Visit) -> list[tuple[str, str]]:
    """Return the accounts that may pay for this org, each as a form value and a label."""
    router, found = visit.context.router, []
    for instance in router.instances():
        name = instance.name
        accounts = {
            (each.type, each.id) for each in accounts_of(router, instance, visit.org, visit.mode)
        }
        found += [
            (f"{name}\t{kind}\t{account}", f"{name}: {kind} {account}")
            for kind, account in sorted(accounts)
        ]
    return found


@dataclass(frozen=True)
class Upload:
    """An uploaded file and the account that pays for it."""

    name: str
    body: bytes
    account: str
    reference: str


@dataclass(frozen=True)
class LineView:
    """A line of a file, as the check page shows it."""

    number: int
    reference: str
    to: str
    amount: str
    fault: str


async def check(visit: Visit) -> Response:
    """`POST …/batches/check`: every line is checked and nothing is created."""
    upload = await _received(visit)
    if not upload.body:
        words = "The file is empty. Choose another one." if upload.name else "Choose a CSV file."
        return await new(visit, words, 400)
    head = _head(visit, upload.account, upload.reference)
    with _kept(upload.body) as path:
        try:
            found = await check_file(visit.request, visit.caller, head, path)
        except Refused as refused:
            words = refused.detail
            if is_of_the_moment(refused):
                words = f"Nothing is said to be wrong with the file: it was not checked. {words}"
            return await new(visit, words, PROBLEMS[refused.code].status)
        lines = _lines(path, found.faults)
    packed = base64.b64encode(zlib.compress(upload.body, 9)).decode()
    faulty = len({_line_of(each["pointer"]) for each in found.faults})
    key = base64.urlsafe_b64encode(visit.context.runtime.ids.random_bytes(16)).decode()
    return visit.draw(
        "panel/batch_check.html",
        200,
        section="batches",
        here="Batches",
        open_count=await open_count(visit),
        name=upload.name or "the file",
        count=found.count,
        whole=any(_line_of(each["pointer"]) < _FIRST_ITEM for each in found.faults),
        faulty=faulty,
        fault_count=found.fault_count,
        totals=sorted(found.totals.items()),
        lines=lines,
        first_lines=_FIRST_LINES,
        account=upload.account,
        available=await _available(visit, head, set(found.totals)),
        reference=upload.reference,
        packed=packed if not found.fault_count else "",
        key=key,
    )


async def _available(visit: Visit, head: BatchHead, assets: set[str]) -> list[tuple[str, Decimal]]:
    """Return the available balance of the paying account, if the custodian reports it."""
    source = head.source
    return [
        (f"{each.asset} {each.network or ''}".strip(), each.available)
        for account in await balances_for(visit.context, visit.caller)
        if (account.custodian, account.account) == (source.custodian, source.account)
        for each in account.balances
        if each.asset in assets
    ]


async def create(visit: Visit) -> Response:
    """`POST …/batches/create`: create a batch of a checked file, which is checked again like any other."""
    form = parsed(await read_body(visit.request, _MOST_FORM))
    refuse_forged(form, visit.token)
    head = _head(visit, form.get("account", ""), form.get("reference", ""))
    body, key = _unpacked(form.get("file", "")), form.get("key", "")
    if not re.fullmatch(r"[A-Za-z0-9_=-]{16,64}", key, re.ASCII):
        raise PageError(400, "The form cannot be read. Nothing was created.")

    async def note(tx: Tx, batch_id: str) -> None:
        await note_act(tx, visit.request, visit.caller, "batch_created", batch_id)

    with _kept(body) as path:
        try:
            batch_id = await create_from_file(visit.request, visit.caller, head, path, key, note)
        except Refused as refused:
            return await new(visit, refused.detail, 409)
    return visit.to("batches", batch_id)


async def show(visit: Visit, problem: str | None = None, code: int = 200) -> Response:
    """`GET …/batches/{id}`: progress, with failed and unclear payouts first. The script keeps it current."""
    context, batch_id = visit.context, visit.request.path_params["batch_id"]

    async def read(tx: Tx) -> tuple[BatchView, list[tuple[str, str, int]], list[Payout]]:
        view = await context.batches.get(tx, visit.caller, batch_id)
        counted = [
            (r["status"], r["sub_status"], int(r["n"])) for r in await rows.counts(tx, batch_id)
        ]
        items = [payout_of(row) for row in await batch_items(tx, batch_id, _MOST_SHOWN)]
        return view, counted, items

    view, counted, items = await context.db.scan(read)
    parts = _parts(counted)
    ended = view.state in BATCH_ENDS
    delivered = next((n for word, _, n in parts if word == "Delivered"), 0)
    return visit.draw(
        "panel/batch.html",
        code,
        section="batches",
        here="Batches",
        open_count=await open_count(visit),
        batch=view,
        look=look_of_batch(view.state, executed=view.executed_at is not None),
        waits=view.state is BatchState.REQUESTED and view.executed_at is None,
        can_cancel=not ended and view.cancel_requested_at is None,
        ended=ended,
        delivered=delivered,
        parts_of=parts,
        bars=_bars(parts, view.item_count),
        rows=[row_of(each) for each in items],
        most=_MOST_SHOWN,
        problem=problem,
    )


def _parts(counted: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Return the states, each with its colour and its number of payouts."""
    found = {"Delivered": 0, "On their way": 0, "Waiting": 0, "Checking": 0, "Failed": 0}
    for status, sub_status, many in counted:
        if status == Status.DELIVERED:
            found["Delivered"] += many
        elif status == Status.FAILED:
            found["Failed"] += many
        elif sub_status == SubStatus.OUTCOME_UNKNOWN:
            found["Checking"] += many
        elif sub_status in {SubStatus.CREATED, SubStatus.QUEUED, SubStatus.AWAITING_FUNDS}:
            found["Waiting"] += many
        else:
            found["On their way"] += many
    kinds = {
        "Delivered": "ok",
        "On their way": "run",
        "Waiting": "mute",
        "Checking": "chk",
        "Failed": "bad",
    }
    return [(word, kinds[word], many) for word, many in found.items()]


def _bars(parts: list[tuple[str, str, int]], count: int) -> list[tuple[str, float, float]]:
    """Return the parts of the bar: colour, start and width, in thousandths."""
    bars, left = [], 0.0
    for word, kind, many in parts:
        width = 1000 * many / max(1, count)
        if many and word != "Waiting":
            bars.append((kind, round(left, 1), round(max(2.0, width - 1), 1)))
        left += width if word != "Waiting" else 0
    return bars


async def confirm_execute(visit: Visit) -> Response:
    """`GET …/batches/{id}/execute`: confirm the amount that will be paid."""
    return await _confirm(visit, "execute")


async def confirm_cancel(visit: Visit) -> Response:
    """`GET …/batches/{id}/cancel`: confirm what the cancellation stops and what it does not."""
    return await _confirm(visit, "cancel")


async def _confirm(visit: Visit, act: str) -> Response:
    context, batch_id = visit.context, visit.request.path_params["batch_id"]
    view = await context.db.scan(context.batches.get, visit.caller, batch_id)
    return visit.draw(
        "panel/batch_confirm.html",
        section="batches",
        here="Batches",
        open_count=await open_count(visit),
        batch=view,
        act=act,
    )


async def execute(visit: Visit) -> Response:
    """`POST …/batches/{id}/execute`."""
    change = visit.context.batches.execute
    return await _change(visit, change, refuse_unless_accepting, acts.BATCH_EXECUTED, "executed")


async def cancel(visit: Visit) -> Response:
    """`POST …/batches/{id}/cancel`."""
    change = visit.context.batches.cancel
    return await _change(visit, change, refuse_if_frozen, acts.BATCH_CANCELED, "batch-canceled")


async def _change(
    visit: Visit,
    change: Callable[..., Awaitable[BatchView]],
    refuse: Callable[[Tx], Awaitable[object]],
    act: str,
    done: str,
) -> Response:
    context, batch_id = visit.context, visit.request.path_params["batch_id"]

    async def work(tx: Tx) -> None:
        await refuse(tx)
        before = {"state": (await context.batches.row(tx, visit.caller, batch_id))["state"]}
        view = await change(tx, visit.caller, batch_id)
        after = {"state": view.state, "item_count": view.item_count}
        await note_act(tx, visit.request, visit.caller, act, batch_id, before=before, after=after)

    try:
        await context.db.run(work)
    except Refused as refused:
        if refused.code == "batch_not_found":
            raise
        return await show(visit, refused.detail, 409)
    context.wake("batches")
    return visit.to("batches", batch_id, done=done)


async def report(visit: Visit) -> Response:
    """`GET …/batches/{id}/report.csv`: the report of the API."""
    visit.request.scope["state"]["caller"] = visit.caller
    return await report_csv(visit.request)


def _head(visit: Visit, account: str, reference: str) -> BatchHead:
    """Return the account that pays, from the form. Refused: `invalid_request`; PageError."""
    if account not in {value for value, _ in _accounts(visit)}:
        raise PageError(400, "Choose the account that pays. Nothing was created.")
    custodian, kind, account_id = account.split("\t")
    members: dict[str, Any] = {
        "source": {"custodian": custodian, "account": {"id": account_id, "type": kind}}
    }
    if reference.strip():
        members["reference"] = reference.strip()
    return validate(BatchHead, members)


async def _received(visit: Visit) -> Upload:
    """Read the form with the file, in bounded memory. Raises PageError if it is too large or not readable."""
    size = 0

    async def bounded() -> AsyncGenerator[bytes, None]:
        nonlocal size
        async for chunk in visit.request.stream():
            size += len(chunk)
            if size > MOST_BYTES + 64 * 1024:
                megabytes = MOST_BYTES // (1024 * 1024)
                words = (
                    f"The panel takes files of {megabytes} MB. Send larger ones with: "
                    "payout-gateway batches create. Nothing was created."
                )
                raise PageError(413, words)
            yield chunk

    parser = MultiPartParser(visit.request.headers, bounded(), max_files=1, max_fields=10)
    try:
        async with asyncio.timeout(_FILE_S):
            form = await parser.parse()
    except (MultiPartException, KeyError):
        raise PageError(400, "The form cannot be read. Nothing was created.") from None
    except (ClientDisconnect, TimeoutError):
        raise PageError(408, "The file did not arrive in time. Nothing was created.") from None
    try:
        texts = {name: value for name, value in form.items() if isinstance(value, str)}
        refuse_forged({FORM: texts.get(FORM, "")}, visit.token)
        file = form.get("file")
        body = await file.read() if isinstance(file, UploadFile) else b""
        name = (file.filename or "") if isinstance(file, UploadFile) else ""
    finally:
        await form.close()
    shown = _NAME.sub("", name.replace("\\", "/").rsplit("/", 1)[-1])[:80]
    return Upload(shown, body, texts.get("account", ""), texts.get("reference", "")[:255])


def _unpacked(text: str) -> bytes:
    """Decompress the file. Raises PageError if it is invalid or too large."""
    try:
        packed = base64.b64decode(text, validate=True)
        opened = zlib.decompressobj()
        body = opened.decompress(packed, MOST_BYTES)
    except (binascii.Error, ValueError, zlib.error):
        raise PageError(400, "The form cannot be read. Nothing was created.") from None
    if opened.unconsumed_tail or not body:
        raise PageError(413, "The file is too large, or empty. Nothing was created.")
    return body


@contextmanager
def _kept(body: bytes) -> Iterator[Path]:
    """Hold a file in memory while it is read."""
    with tempfile.TemporaryDirectory(prefix="payout-batch-") as folder:
        path = Path(folder) / "batch.csv"
        path.write_bytes(body)
        yield path


def _line_of(pointer: str) -> int:
    found = _LINE.match(pointer)
    return int(found[1]) if found else 0


def _lines(path: Path, faults: list[dict[str, str]]) -> list[LineView]:
    """Return the lines with errors, then the first of the others."""
    told: dict[int, str] = {}
    for each in faults:
        found = _LINE.match(each["pointer"])
        number, member = (int(found[1]), found[2] or "") if found else (0, "")
        words = (
            f"{member} {each['detail']}"
            if member and not each["detail"].startswith(member)
            else each["detail"]
        )
        told[number] = f"{told[number]}; {words}" if number in told else words
    raw = _cells(path)
    faulty = [
        _shown(number, raw.get(number, {}), None, words) for number, words in sorted(told.items())
    ]
    ready: list[LineView] = []
    for line in csv_lines(path):
        if len(ready) >= _FIRST_LINES:
            break
        number = _line_of(line.where)
        if number not in told and line.item is not None:
            ready.append(_shown(number, raw.get(number, {}), line.item, ""))
    return faulty[:_MOST_SHOWN] + ready


def _cells(path: Path) -> dict[int, dict[str, str]]:
    """Return the cells of each line, unchanged, by the column names of the first line."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    found: dict[int, dict[str, str]] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""))
    with suppress(csv.Error):
        for row in reader:
            found[reader.line_num] = {
                str(name).strip().lower(): cell[:120]
                for name, cell in row.items()
                if name is not None and isinstance(cell, str)
            }
    return found


def _shown(number: int, cells: dict[str, str], item: Any, fault: str) -> LineView:
    amount, asset = cells.get("amount", ""), cells.get("asset", "")
    to = cells.get("destination") or cells.get("id") or cells.get("payout_account_id") or ""
    if item is not None:
        amount = f"{Decimal(item.amount):,f}"
        destination = item.destination
        to = destination if isinstance(destination, str) else place_of(destination)
    reference = cells.get("reference") or cells.get("external_ref") or ""
    return LineView(number, reference, to, f"{amount} {asset}".strip(), fault)
