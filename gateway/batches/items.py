"""The items of a batch: read from JSON or CSV, and checked before any is stored."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Self

import pydantic_core
from pydantic import ValidationError

from gateway.assets import EXACT
from gateway.batches.schemas import BatchItemRequest, BatchRequest, BatchSource
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.faults import names_at, plain_faults, words_of
from gateway.model import QuoteTerms
from gateway.planning import Planner, RouteWish, Wanted
from gateway.text import reference_key

MOST_IN_FILE = 100_000
#: Errors that are listed at once; the count shows how many there are.
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
#: How UTF-16 begins where it is read as UTF-8: its byte order mark, or a letter and a zero byte.
_UTF_16 = re.compile("\udcff\udcfe|\udcfe\udcff|.?\0")
#: What the reader of CSV says, in words for people.
_CSV_ERRORS = (
    ("unexpected end of data", "a quoted cell is not closed before the end of the file"),
    (
        "expected after",
        "a closing quote is followed by text; quotes inside a cell are written twice",
    ),
    ("NUL", "it has zero bytes: the file is no text, or not UTF-8"),
    ("field larger than", "a cell has more than 131,072 characters"),
    ("new-line character seen", "a line end stands in a cell without quotes"),
)
#: What is cut off around a cell: blanks, and the no-break spaces that spreadsheets write. Whatever else is
#: around it is judged as it is in JSON.
_BLANKS = " \t\N{NO-BREAK SPACE}"
#: Bytes of checked items that are kept in memory.
_KEPT_IN_MEMORY = 1024 * 1024
_LINES = "/lines/"
_REQUIRED = ("external_ref", "asset", "amount")


class Line(NamedTuple):
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
    #: how many could be paid, by asset
    counts: Counter[str] = field(default_factory=Counter)
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


def judge_count(found: Checked) -> None:
    """Note where a file has no payouts, or too many."""
    if found.count > MOST_IN_FILE:
        found.fault("/lines", "too_long", f"a file may have {MOST_IN_FILE} payouts")
    if not found.count:
        found.fault("/lines", "too_short", "the file has no payouts")


def _place(where: str) -> str:
    """Return where an item stands, for people: `line 17` of a file."""
    return f"line {where.removeprefix(_LINES)}" if where.startswith(_LINES) else where


def _many(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def json_lines(request: BatchRequest) -> Iterator[Line]:
    """Return the items of a JSON batch."""
    for index, item in enumerate(request.payouts):
        yield Line(f"/payouts/{index}", item)


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
            columns = _Columns(header)
            began = reader.line_num + 1
            for row in reader:
                if "".join(row).strip(_BLANKS):
                    yield columns.line(f"/lines/{reader.line_num}", row)
                began = reader.line_num + 1
        except csv.Error as error:
            where = f"/lines/{began}"
            words = next(
                (told for word, told in _CSV_ERRORS if word in str(error)), "it has no cells"
            )
            detail = f"from here on the file cannot be read as CSV: {words}"
            yield Line(where, None, [_fault(where, "invalid_csv", detail)])


def _foreign(header: Sequence[str]) -> str | None:
    """Return how a file is written that is no CSV in UTF-8 with commas, or None."""
    if _UTF_16.match(header[0]):
        return "the file is UTF-16, and UTF-8 is needed"
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(header) == 1 and mark in header[0]:
            return f"the columns are separated by {name}, and commas are needed"
    if any(_RAW.search(each) or not each.isprintable() for each in header):
        return "this is not a CSV file in UTF-8"
    return None


def _header_fault(header: Sequence[str]) -> str | None:  # noqa: PLR0911 - one per fault
    known = ", ".join(COLUMNS)
    if not header or not any(header):
        return f"the first line must name the columns, of: {known}"
    foreign = _foreign(header)
    if foreign is not None:
        return f"{foreign}: in a spreadsheet, save the file as CSV UTF-8 (comma delimited)"
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


class _Columns:
    """The columns of a file, by what is made of their cells."""

    def __init__(self, header: Sequence[str]) -> None:
        self._count = len(header)
        named = list(enumerate(header))
        self._plain = [(at, name) for at, name in named if name in _PLAIN]
        self._inner = [(at, name) for at, name in named if name in _DESTINATION]
        self._type = next((at for at, name in named if name == "destination_type"), None)

    def line(self, where: str, row: Sequence[str]) -> Line:
        """Return a line as an item, or what is wrong with it."""
        if len(row) != self._count:
            detail = f"{len(row)} cells, and the header has {self._count}"
            return Line(where, None, [_fault(where, "invalid_line", detail)])
        if _RAW.search("".join(row)):
            return Line(where, None, [_fault(where, "invalid_csv", "the line is not UTF-8")])
        cells = [cell.strip(_BLANKS) for cell in row]
        members: dict[str, Any] = {name: cells[at] for at, name in self._plain if cells[at]}
        kind = None if self._type is None else cells[self._type]
        if kind:
            if "destination" in members:
                detail = "give destination or destination_type, not both"
                return Line(where, None, [_fault(where + "/destination", "invalid_line", detail)])
            inner = {name: cells[at] for at, name in self._inner if cells[at]}
            members["destination"] = {"type": kind, **inner}
        try:
            return Line(where, BatchItemRequest.model_validate(members))
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


class Planned(NamedTuple):
    """What is stored of an item that was checked, but for what is the same for its whole batch."""

    external_ref: str
    reference: str | None
    metadata: str
    terms: str
    name: str | None


class Kept:
    """The items of a batch between their check and their storing; many of them in a temporary file.

    So each is validated and priced once. Use it with `with`; at its end they are gone.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by `__exit__`
            max_size=_KEPT_IN_MEMORY
        )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget the items."""
        self._file.close()

    def add(self, item: Planned) -> None:
        """Keep an item."""
        self._file.write(pydantic_core.to_json(item) + b"\n")

    def read(self) -> Iterator[Planned]:
        """Return the items in the order in which they came. Nothing may be added meanwhile."""
        self._file.seek(0)
        for line in self._file:
            yield Planned(*pydantic_core.from_json(line))


class Check:
    """The check of a batch, line by line: each could be paid, and no reference comes twice."""

    def __init__(
        self, planner: Planner, caller: Caller, source: BatchSource, found: Checked
    ) -> None:
        self._planner = planner
        self._caller = caller
        self._wish = RouteWish(custodian=source.custodian, account=source.account)
        self._found = found
        #: the terms of the lines that could be paid, where somebody collects them
        self.terms_of: Callable[[QuoteTerms], object] = lambda _: None

    def line(self, line: Line) -> Planned | None:
        """Check a line, and note what it is or what is wrong with it. None: it could not be paid."""
        found, item = self._found, line.item
        found.count += 1
        for fault in line.faults:
            found.fault(**fault)
        if item is None:
            return None
        key = reference_key(item.reference)
        if key is not None:
            first = found.references.setdefault(key, line.where)
            if first != line.where:
                detail = f"is also the reference of {_place(first)}, or looks like it"
                found.fault(line.where + "/reference", "duplicate_reference", detail)
        try:
            terms = self._terms(item)
        except Refused as refused:
            if is_of_the_moment(refused):
                # No line is to blame: later the same file can be paid.
                raise
            _refused(line.where, refused, found)
            return None
        total = found.totals.get(terms.asset, Decimal(0))
        found.totals[terms.asset] = EXACT.add(total, terms.amount)
        found.counts[terms.asset] += 1
        self.terms_of(terms)
        return Planned(
            external_ref=item.external_ref,
            reference=item.reference,
            metadata=pydantic_core.to_json(item.metadata).decode(),
            terms=terms.model_dump_json(),
            name=item.name,
        )

    def _terms(self, item: BatchItemRequest) -> QuoteTerms:
        """Return the terms of an item. Pure. Refused: as a quote of it."""
        wanted = Wanted(
            destination=item.destination,
            asset=item.asset,
            amount=item.amount,
            network_hint=item.network_hint,
            route=self._wish,
            reference=item.reference,
        )
        terms, _ = self._planner.terms(self._caller, wanted)
        return terms


def is_of_the_moment(refused: Refused) -> bool:
    """Whether a payment is refused for what passes by itself: a pause, or a custodian that does not answer."""
    reasons = {each["reason"] for each in refused.members.get("reasons", ())}
    return refused.code == "paused" or (refused.code == "no_route" and "health" in reasons)


def _refused(where: str, refused: Refused, found: Checked) -> None:
    """Record why an item could not be paid; an error caused by the source is reported for the source."""
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


def references_of(lines: Sequence[Line]) -> dict[str, str]:
    """Return where the references of some lines stand, by their keys."""
    return {
        key: line.where
        for line in lines
        if line.item is not None and (key := reference_key(line.item.reference)) is not None
    }
