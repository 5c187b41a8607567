"""The items of a batch: read from JSON or CSV, checked before any is stored, and as they are stored."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.assets import EXACT
from gateway.batches.schemas import BatchItemRequest, BatchRequest, BatchSource
from gateway.errors import Refused
from gateway.faults import names_at, plain_faults, words_of
from gateway.keys import Caller
from gateway.model import Account, QuoteTerms
from gateway.payouts import created_document
from gateway.quotes import QuoteRequest, Quotes, RouteWish
from gateway.text import reference_key

MOST_IN_FILE = 100_000
#: Faults that are told at once; the count says how many there are.
MOST_FAULTS = 100
_PLAIN = ("external_ref", "asset", "amount", "reference", "name", "network_hint", "destination")
_DESTINATION = (
    "network",
    "address",
    "memo",
    "account_type",
    "id",
    "payout_account_id",
    "payment_instructions_id",
    "country",
    "fiat_currency",
    "purpose",
)
COLUMNS = (*_PLAIN, "destination_type", *_DESTINATION)
#: A byte that is no UTF-8, as it is read.
_RAW = re.compile("[\udc80-\udcff]")
#: What is cut off around a cell: blanks, and the no-break spaces that spreadsheets write. Whatever else is
#: around it is judged as it is in JSON.
_BLANKS = " \t\N{NO-BREAK SPACE}"
_REQUIRED = ("external_ref", "asset", "amount")


@dataclass(frozen=True)
class Line:
    """One item as it came: where it stands, and what it is or why it cannot be read."""

    where: str  #: JSON pointer or `/lines/17`
    item: BatchItemRequest | None
    faults: Sequence[dict[str, str]] = ()


@dataclass
class Checked:
    """What the check of a batch has found."""

    count: int = 0
    faults: list[dict[str, str]] = field(default_factory=list)
    fault_count: int = 0
    totals: dict[str, Decimal] = field(default_factory=dict)
    #: where each reference stands, by its key
    references: dict[str, str] = field(default_factory=dict)

    def fault(self, pointer: str, code: str, detail: str) -> None:
        """Note a fault."""
        self.fault_count += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.append({"pointer": pointer, "code": code, "detail": detail})

    def refuse(self) -> None:
        """Refused: `invalid_batch`, if there was any fault."""
        if self.fault_count:
            more = (
                "" if self.fault_count <= MOST_FAULTS else f"; the first {MOST_FAULTS} are listed"
            )
            raise Refused(
                "invalid_batch",
                f"{_many(self.fault_count, 'fault')} in {_many(self.count, 'payout')}{more}. "
                "Nothing was stored.",
                errors=self.faults,
            )


def _many(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def json_lines(request: BatchRequest) -> Iterator[Line]:
    """Return the items of a JSON batch."""
    for index, item in enumerate(request.payouts):
        yield Line(f"/payouts/{index}", item)


def pages(lines: Iterator[Line], size: int) -> Iterator[list[Line]]:
    """Return the lines in lists of a size."""
    while page := list(islice(lines, size)):
        yield page


def csv_lines(path: Path) -> Iterator[Line]:
    """Read the items of a CSV file, one at a time. A fault of the header is the only line then.

    With or without a byte order mark, any line ends, quotes; empty lines are passed over.
    """
    with path.open("rb") as raw:
        # What is no UTF-8 is found in its own line, and not in the page that was read ahead.
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, strict=True)
        began = 1
        try:
            header = [each.strip().lower() for each in next(reader, [])]
            fault = _header_fault(header)
            if fault is not None:
                yield Line("/lines/1", None, [_fault("/lines/1", "invalid_header", fault)])
                return
            began = reader.line_num + 1
            for row in reader:
                if any(cell.strip(_BLANKS) for cell in row):
                    yield _line(f"/lines/{reader.line_num}", header, row)
                began = reader.line_num + 1
        except csv.Error as error:
            where = f"/lines/{began}"
            yield Line(where, None, [_fault(where, "invalid_csv", f"from here on no CSV: {error}")])


def _header_fault(header: Sequence[str]) -> str | None:
    known = ", ".join(COLUMNS)
    if not header or not any(header):
        return f"the first line must name the columns, of: {known}"
    unknown = [each[:40] for each in header if each not in COLUMNS]
    if unknown:
        return f"no column is called {', '.join(map(repr, unknown[:5]))}; known: {known}"
    if len(set(header)) != len(header):
        return "a column is named twice"
    missing = [each for each in _REQUIRED if each not in header]
    if missing:
        return f"missing: {', '.join(missing)}"
    if "destination" not in header and "destination_type" not in header:
        return "missing: destination (an address), or destination_type with its columns"
    return None


def _line(where: str, header: Sequence[str], row: Sequence[str]) -> Line:
    if len(row) != len(header):
        detail = f"{len(row)} cells, and the header has {len(header)}"
        return Line(where, None, [_fault(where, "invalid_line", detail)])
    if any(_RAW.search(cell) for cell in row):
        return Line(where, None, [_fault(where, "invalid_csv", "the line is not UTF-8")])
    stripped = (cell.strip(_BLANKS) for cell in row)
    cells = {name: cell for name, cell in zip(header, stripped, strict=True) if cell}
    members: dict[str, Any] = {name: cells[name] for name in _PLAIN if name in cells}
    kind = cells.get("destination_type")
    if kind is not None:
        inner = {name: cells[name] for name in _DESTINATION if name in cells}
        if "destination" in members:
            detail = "give destination or destination_type, not both"
            return Line(where, None, [_fault(where + "/destination", "invalid_line", detail)])
        members["destination"] = {"type": kind, **inner}
    try:
        return Line(where, BatchItemRequest.model_validate_json(json.dumps(members)))
    except ValidationError as error:
        return Line(where, None, _model_faults(where, error))


def _model_faults(where: str, error: ValidationError) -> list[dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for each in plain_faults(error):
        name = str(each["loc"][0]) if each["loc"] else ""
        inner = str(each["loc"][-1])
        if name == "destination" and inner in _DESTINATION:
            name = inner
        found.setdefault(
            name,
            _fault(
                f"{where}/{name}",
                each["type"],
                words_of(each, names_at(BatchItemRequest, each["loc"])),
            ),
        )
    return list(found.values())


def _fault(pointer: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "code": code, "detail": detail}


def plan(
    quotes: Quotes, caller: Caller, source: BatchSource, item: BatchItemRequest
) -> tuple[QuoteTerms, Account]:
    """Return the terms of an item. Pure. Refused: as a quote of it."""
    request = QuoteRequest(
        external_ref=item.external_ref,
        destination=item.destination,
        asset=item.asset,
        amount=item.amount,
        network_hint=item.network_hint,
        route=RouteWish(custodian=source.custodian, account=source.account),
        reference=item.reference,
        metadata=item.metadata,
    )
    return quotes.terms(caller, request)


def check(
    quotes: Quotes, caller: Caller, source: BatchSource, lines: Sequence[Line], found: Checked
) -> None:
    """Check some lines: each could be paid, and no reference comes twice. Pure."""
    for line in lines:
        found.count += 1
        for fault in line.faults:
            found.fault(**fault)
        if line.item is None:
            continue
        key = reference_key(line.item.reference)
        if key is not None:
            first = found.references.setdefault(key, line.where)
            if first != line.where:
                detail = f"the reference is that of {first}, too, or looks like it"
                found.fault(line.where + "/reference", "duplicate_reference", detail)
        try:
            terms, _ = plan(quotes, caller, source, line.item)
        except Refused as refused:
            _refused(line.where, refused, found)
            continue
        total = found.totals.get(terms.asset, Decimal(0))
        found.totals[terms.asset] = EXACT.add(total, terms.amount)


def _refused(where: str, refused: Refused, found: Checked) -> None:
    """Note why an item could not be paid; what the source is to blame for is said of the source."""
    for fault in refused.errors or (
        {"pointer": "", "code": refused.code, "detail": refused.detail},
    ):
        pointer = fault["pointer"]
        if pointer == "/route/custodian":
            # It has no way to this payee with this asset: the item is to blame.
            pointer = "/destination"
        elif pointer.startswith("/route/"):
            source = pointer.replace("/route/", "/source/", 1)
            if all(each["pointer"] != source for each in found.faults):
                found.fault(source, fault["code"], fault["detail"])
            else:
                found.fault_count += 1
            continue
        found.fault(where + pointer, fault["code"], fault["detail"])


def item_columns(  # noqa: PLR0913 - one per part of an item
    *,
    payout_id: str,
    caller: Caller,
    batch_id: str,
    position: int,
    item: BatchItemRequest,
    terms: QuoteTerms,
    account: Account,
    at: int,
) -> Mapping[str, object]:
    """Return the columns of an item as it is stored."""
    return {
        "id": payout_id,
        "org": caller.org,
        "mode": caller.mode,
        "quote_id": None,
        "status": "pending",
        "sub_status": "created",
        "external_ref": item.external_ref,
        "reference": item.reference,
        "metadata": json.dumps(dict(item.metadata), separators=(",", ":"), ensure_ascii=False),
        "terms": terms.model_dump_json(),
        "custodian": terms.route.custodian,
        "account": account.model_dump_json(),
        "custodian_reference": None,
        "custodian_word": None,
        "document": created_document(at),
        "failure": None,
        "funds_moved": None,
        "fees_paid_usd": None,
        "observed_at": None,
        "sequence": 0,
        "first_answer": None,
        "created_at": at,
        "updated_at": at,
        "batch_id": batch_id,
        "batch_position": position,
        "name": item.name,
    }
