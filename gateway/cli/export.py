"""`payouts export`: exports the payouts of a period for bookkeeping, as CSV or JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    fail,
    microseconds_of,
    reading_store,
    say,
)

if TYPE_CHECKING:
    from gateway.store.database import Database


class Format(StrEnum):
    """The output format."""

    CSV = "csv"
    JSONL = "jsonl"


def export(  # noqa: PLR0913 - one argument per option
    *,
    begin: Annotated[
        str,
        typer.Option("--from", help="Created at or after: a date (UTC), or a time with a zone."),
    ],
    end: Annotated[
        str, typer.Option("--to", help="Created before: a date (UTC), or a time with a zone.")
    ],
    as_: Annotated[
        Format,
        typer.Option("--format", help="CSV for spreadsheets, or JSON lines with everything."),
    ] = Format.CSV,
    org: Annotated[str | None, typer.Option(help="Only of this org.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write to this new file. Not given: print.")
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
) -> None:
    """Export payouts with their fees, references and executions, oldest first.

    The range is by the time of acceptance: the same range always has the same payouts, in their current state.
    Amounts are exact decimals, times are UTC. Both modes are exported; see the column mode.
    """
    first, last = (
        microseconds_of("--from", begin, dates=True),
        microseconds_of("--to", end, dates=True),
    )
    if first >= last:
        fail("--from must be before --to", 2)
    if output is None:
        count = _write(config, _print, as_, first, last, org)
    else:
        try:
            # The file names people and accounts, so only its owner may read it, and it never replaces
            # another file.
            opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}", 2)
        with os.fdopen(opened, "w", encoding="utf-8", newline="") as file:
            count = _write(config, file.write, as_, first, last, org)
    say(f"{count} payout{'' if count == 1 else 's'} exported", err=True)


def _write(  # noqa: PLR0913 - where, how and what
    config: Path,
    write: Callable[[str], object],
    as_: Format,
    first: int,
    last: int,
    org: str | None,
) -> int:
    from gateway.csv_cells import csv_text
    from gateway.export import COLUMNS, cells, export_page
    from gateway.text import escaped_json

    def lines(page: list[dict[str, Any]]) -> str:
        if as_ is Format.CSV:
            return csv_text(map(cells, page))
        return "".join(escaped_json(json.dumps(each, ensure_ascii=False)) + "\n" for each in page)

    async def work(db: Database) -> int:
        count, after = 0, (0, "")
        if as_ is Format.CSV:
            write(csv_text([COLUMNS]))
        while True:
            page, after = await db.scan(export_page, first, last, after, org)
            if not page:
                return count
            write(lines(page))
            count += len(page)

    return reading_store(config, work)


def _print(text: str) -> None:
    """Print lines; no text can control the terminal."""
    say(*text.splitlines())
