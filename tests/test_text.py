"""Text that others wrote: what is seen, what is compared, what a terminal is shown."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.text import escaped, escaped_json, has_controls, invisible_in, reference_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("\u212b-1", "\u00c5-1"),
        ("inv\u200b-1", "inv-1"),
        ("\ufeffinv-1", "inv-1"),
        ("inv\u00a01", "inv 1"),
        ("inv-1\u202e", "inv-1"),
        ("inv-1\ufe0f", "inv-1"),
        ("inv\u3164-1", "inv-1"),
        (" inv-1\t", "inv-1"),
        ("e\u200b\u0301", "\u00e9"),
    ],
)
def test_references_that_look_alike_have_one_key(one: str, other: str) -> None:
    """However each of them was written."""
    assert reference_key(one) == reference_key(other)


@pytest.mark.parametrize(("one", "other"), [("INV-1", "inv-1"), ("1", "\u0661"), ("a b", "a  b")])
def test_other_references_stay_others(one: str, other: str) -> None:
    """Case, digits of other scripts and the number of blanks are the partner's own."""
    assert reference_key(one) != reference_key(other)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_key_is_its_own_key(text: str) -> None:
    """And what has no invisible character is compared by its normal form alone."""
    key = reference_key(text)
    assert key is not None
    assert reference_key(key) == key
    if invisible_in(text) is None:
        assert key == unicodedata.normalize("NFC", text).strip()


@given(st.text())
def test_what_is_shown_is_one_line_of_visible_text(text: str) -> None:
    """Also half of a surrogate pair."""
    shown = escaped(text)
    assert shown.isprintable()
    assert invisible_in(shown) is None
    assert not has_controls(shown)


@given(st.recursive(st.text() | st.none(), lambda each: st.dictionaries(st.text(), each)))
def test_json_is_shown_with_the_same_value(value: object) -> None:
    """Whatever is escaped in it."""
    shown = escaped_json(json.dumps(value, ensure_ascii=False))
    assert shown.isprintable()
    assert json.loads(shown) == value


def test_the_first_unseen_character_is_named() -> None:
    """So that whoever sent it finds it."""
    assert invisible_in("inv\u200b-1\u202e") == "U+200B"
    assert invisible_in("Rechnung Nr. 1 \u2013 \u00fc\u0301 \u05d0\u4e2d") is None
    assert reference_key(None) is None
