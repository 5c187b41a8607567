"""JSON as columns have it: what the library writes and reads, and what `json` would."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import RequiredAction
from gateway.store.database import wide
from gateway.store.rows import Document, action_of, from_us, to_json

#: Without surrogates, which no column can hold.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.none() | st.booleans() | st.integers() | TEXTS
VALUES = st.recursive(PLAIN, lambda each: st.lists(each) | st.dictionaries(TEXTS, each))


class _Pair(NamedTuple):
    first: int
    second: str | None


@given(VALUES)
def test_json_is_written_as_the_standard_library_writes_it(value: Any) -> None:
    """Byte for byte, with integers of any length; digests and comparisons of older rows stay true."""
    assert to_json(value) == json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_the_same_number(value: float) -> None:
    """Its exponent may be written in another way."""
    assert json.loads(to_json([value])) == [value]


def test_a_named_tuple_is_a_list() -> None:
    """Statements know its members by their place."""
    assert to_json([_Pair(1, None)]) == "[[1,null]]"


@given(TEXTS)
def test_an_action_is_found_whatever_the_document_says(text: str) -> None:
    """A document is read for it only where its text may have one."""
    without = Document()
    without.add_entry("pending", "created", 1, detail=text)  # type: ignore[arg-type] # as stored
    assert action_of({"document": without.text}) is None
    action = RequiredAction(
        number=1, type="enter_passcode", attempts_left=2, expires_at=from_us(10_000_000)
    )
    without.set_action(action)
    assert action_of({"document": without.text}) == action


def test_a_wide_row_answers_by_name_as_the_drivers_does() -> None:
    """The same names and values; what is no row of the driver stays what it is."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT 1 AS a, NULL AS b, x'00' AS c, 'ä' AS d").fetchall()
    (found,) = wide(rows)
    assert dict(found) == {name: rows[0][name] for name in ("a", "b", "c", "d")}
    assert wide([found])[0] is found
