"""Cells of CSV files that people open in spreadsheets: no part of one is taken for a formula. Pure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

#: Where a cell, or a part of it that a program may take for a cell, begins: it may split at other
#: separators than commas (`sep=`, its locale), and not know quotes.
_SEPARATORS = r",;|\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029\uff0c\uff1b\uff5c"
#: What programs drop in front of a value: quotes, white space, characters without a form of their own.
_IGNORED = (
    r"\s\"'\x00-\x20\x7f-\xa0\xad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
)
#: `=`, `+`, `-` and `@`; their full-width and small forms, which programs turn into them; the minus sign.
_BEGINS = r"=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
#: Takes a whole run of what is dropped at once, whether a formula follows or not: so it is linear.
_BEGINNING = re.compile(rf"((?:\A|[{_SEPARATORS}])[{_IGNORED}]*+)([{_BEGINS}]?)")


def csv_text(rows: Iterable[Iterable[str]]) -> str:
    """Return lines of CSV (RFC 4180): every cell is quoted, and none begins a formula."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n", quoting=csv.QUOTE_ALL).writerows(
        [[harmless(cell) for cell in row] for row in rows]
    )
    return out.getvalue()


def harmless(cell: str) -> str:
    """Return a cell of which no spreadsheet takes any part for a formula, however it splits the line."""
    quoted = _BEGINNING.sub(lambda found: f"{found[1]}'{found[2]}" if found[2] else found[0], cell)
    return "'" + quoted if cell[:1] in {"\t", "\r", "\n"} else quoted
