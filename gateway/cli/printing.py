"""The only way to print: no text, whatever it contains, can control the operator's terminal.

Texts of tenants and custodians reach these functions as they are stored. Each value stays on its line:
line breaks, escape sequences, bidi controls and zero-width characters are written as escapes. Nothing
is interpreted as markup.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.text import escaped, escaped_json

#: The width if the output is not a terminal; no row needs more.
_PIPE = 100_000
#: The narrowest column of text that is still readable.
_NARROWEST = 12


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people, to stderr with `err`."""
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(escaped(line.rstrip()) + "\n" for line in lines))
    stream.flush()


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(escaped_json(json.dumps(value, ensure_ascii=False, default=str)) + "\n")
    sys.stdout.flush()


def print_result(value: Any, *lines: str, as_json: bool) -> None:
    """Print a command's result: one JSON document for scripts, or lines for people."""
    if as_json:
        print_json(value)
    else:
        say(*lines)


def print_rows(
    title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, as_json: bool
) -> None:
    """Print what a command found: `data` for scripts, or a table for people."""
    if as_json:
        print_json({"data": rows})
    else:
        print_table(title, columns, [[row.get(name) for name in columns] for row in rows])


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table. Ids are never broken: if the terminal is too narrow, each value gets a line.

    If the output is not a terminal, each row is one line.
    """
    names, cells = list(columns), [list(row) for row in rows]
    table = Table(title=cell(title), title_justify="left", show_lines=False)
    # The left border; and for each column, a space on both sides and a border.
    needed, ids = 1, []
    for index, name in enumerate(names):
        whole = any(_is_id(row[index]) for row in cells)
        ids += [name] if whole else []
        table.add_column(cell(name), overflow="fold", no_wrap=whole)
        widest = max((cell(row[index]).cell_len for row in cells), default=0)
        needed += 3 + max(len(name), widest if whole else min(widest, _NARROWEST))
    for row in cells:
        table.add_row(*map(cell, row))
    out = console()
    if needed <= out.width:
        out.print(table)
        return
    say(title)
    head = ids[:1] or names[:1]
    more = [name for name in names if name not in head]
    print_records((dict(zip(names, row, strict=True)) for row in cells), head, more)


#: Values that people copy as a whole: our ids, hashes, ids at custodians, digests and times.
_ID = re.compile(
    r"[a-z]{2,4}_[0-9a-z]{10,}|0x[0-9a-fA-F]{16,}|[0-9a-fA-F-]{16,}|[1-9A-HJ-NP-Za-km-z]{32,}|[0-9T:.Z-]{20,24}"
)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def print_records(
    rows: Iterable[Mapping[str, Any]], head: Sequence[str], more: Sequence[str]
) -> None:
    """Print records that do not fit into table rows: a line with `head`, then the other values.

    Missing values are left out. The output is readable at any width.
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
    """Return the console for people. Print `cell`s and never bare text, which would be read as markup.

    A pipe gets lines of any length.
    """
    return Console(
        width=None if sys.stdout.isatty() else _PIPE, highlight=False, markup=False, emoji=False
    )
