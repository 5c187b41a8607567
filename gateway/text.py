"""Text that others wrote: what is refused in it, how references are compared, how people are shown it.

Pure functions over strings.
"""

from __future__ import annotations

import re
import unicodedata

#: C0 and C1 control characters, NUL, line breaks and DEL among them.
CONTROLS = r"\x00-\x1f\x7f-\x9f"
#: For JSON Schema and pydantic: a text without control characters.
NO_CONTROLS = rf"^[^{CONTROLS}]*$"
_CONTROL = re.compile(f"[{CONTROLS}]")
#: Letters and marks that are drawn as nothing: joiners, fillers, variation selectors. What Unicode files
#: under Other or Separator (zero-width spaces, bidi controls, no-break spaces, …) is not printable anyway.
_DRAWN_AS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def has_controls(text: str) -> bool:
    """Return whether a text has a C0 or C1 control character or DEL."""
    # No control character is printable; most texts have no unprintable one at all.
    return not text.isprintable() and _CONTROL.search(text) is not None


def _is_visible(character: str) -> bool:
    return character.isprintable() and not _DRAWN_AS_NOTHING.match(character)


def _is_all_visible(text: str) -> bool:
    return text.isprintable() and not _DRAWN_AS_NOTHING.search(text)


def invisible_in(text: str) -> str | None:
    """Return the first character that a reader cannot see or tell from a blank, as U+…; None: all are seen.

    A plain space is seen. A code point that Unicode has not assigned yet counts as unseen: its normal
    form may still change.
    """
    if _is_all_visible(text):
        return None
    found = next((each for each in text if not _is_visible(each)), None)
    return None if found is None else f"U+{ord(found):04X}"


def reference_key(reference: str | None) -> str | None:
    """Return what a reference is compared by: two that look alike have one key. None for None.

    Unicode's normal form C, every kind of space as a plain one, without invisible characters and without
    blanks around it. New references have no invisible characters; those that were stored before the rule
    may. A change of this function needs a migration that fills `payouts.reference_key` again.
    """
    if reference is None:
        return None
    if reference.isascii() and reference.isprintable():
        return reference.strip()
    spaced = (" " if unicodedata.category(each) == "Zs" else each for each in reference)
    seen = "".join(each for each in spaced if _is_visible(each))
    return unicodedata.normalize("NFC", seen).strip()


def escaped(text: str) -> str:
    """Return a text for a terminal, on one line: what is not visible is written as its escape.

    Line breaks, escape sequences, bidi controls and zero-width characters change nothing that way.
    """
    if _is_all_visible(text):
        return text
    return "".join(each if _is_visible(each) else _escape(each) for each in text)


def escaped_json(text: str) -> str:
    """Return a JSON text on one line with the same value, and nothing in it that is not visible."""
    if _is_all_visible(text):
        return text
    return "".join(each if _is_visible(each) else _json_escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code <= 0xFF:  # noqa: PLR2004 - one byte
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - two bytes


def _json_escape(character: str) -> str:
    # Big-endian UTF-16 without a mark: one unit, or the two of a pair.
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
