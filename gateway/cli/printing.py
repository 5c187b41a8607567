"""The one way to print: whatever a text is made of, it changes nothing on the operator's terminal.

Texts of tenants and custodians reach these functions as they are stored. Each value stays on its line: a
line break is written as its escape, and so are escape sequences, bidi controls and zero-width characters.
Nothing is read as markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.text import escaped, escaped_json


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people, to stderr with `err`."""
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(escaped(line.rstrip()) + "\n" for line in lines))
    stream.flush()


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(escaped_json(json.dumps(value, ensure_ascii=False, default=str)) + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table; nothing is cut off where the output is no terminal."""
    table = Table(title=cell(title), title_justify="left", show_lines=False)
    for column in columns:
        table.add_column(cell(column), overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    console().print(table)


def print_records(
    rows: Iterable[Mapping[str, Any]], head: Sequence[str], more: Sequence[str]
) -> None:
    """Print records that have more than fits in a row of a table: a line with `head`, then the rest.

    What a record does not have is left out. Readable at any width.
    """
    for row in rows:
        say("  ".join(str(row[name]) for name in head if row[name] not in (None, "")))
        for name in more:
            if row[name] not in (None, ""):
                say(f"    {name}: {row[name]}")


def cell(value: Any) -> Text:
    """Return a value for a table or a progress bar; None is empty."""
    return Text("" if value is None else escaped(str(value)))


def console() -> Console:
    """Return the console for people. Print `cell`s, never a bare text: it would be read as markup."""
    return Console(
        width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False
    )
