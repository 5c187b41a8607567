"""What is wrong with a configuration or a request, in plain words that say what to do. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

#: By the validator's name of an error; `{…}` is its limit.
_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "may have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_unicode": "must be text in UTF-8",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "decimal_type": "must be a decimal number",
    "decimal_parsing": "must be a decimal number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be an object (a table)",
    "model_type": "must be an object (a table)",
    "model_attributes_type": "must be an object (a table)",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "literal_error": "must be one of: {expected}",
    "enum": "must be one of: {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "too_short": "must have at least {min_length} entries",
    "too_long": "may have at most {max_length} entries",
    "union_tag_invalid": "has an unknown {discriminator}; use one of: {expected_tags}",
    "union_tag_not_found": "must have the member {discriminator}",
    **dict.fromkeys(
        (
            "datetime_type",
            "datetime_parsing",
            "datetime_object_invalid",
            "datetime_from_date_parsing",
            "timezone_aware",
        ),
        'must be a time with its zone, such as "2026-03-02T10:00:00Z"',
    ),
    "datetime_past": "must be in the past",
    "datetime_future": "must be in the future",
    **dict.fromkeys(
        ("date_type", "date_parsing", "date_from_datetime_parsing"),
        'must be a date, such as "2026-03-02"',
    ),
    **dict.fromkeys(("time_delta_type", "time_delta_parsing"), "must be a duration in seconds"),
    "set_type": "must be a list",
    "frozen_set_type": "must be a list",
    "int_parsing_size": "is too large",
    "multiple_of": "must be a multiple of {multiple_of}",
    "decimal_max_digits": "must have at most {max_digits} digits",
    "decimal_max_places": "must have at most {decimal_places} decimal places",
    "decimal_whole_digits": "must have at most {whole_digits} digits before the point",
    "none_required": "must be null",
    "path_type": "must be a path",
    "url_type": "must be a URL",
    "url_parsing": "must be a URL",
    "url_scheme": "must be a URL that begins with one of: {expected_schemes}",
    "ip_any_address": "must be an IP address",
    "ip_any_network": 'must be a network, such as "10.0.0.0/8"',
}
_GIVEN = frozenset({"value_error", "assertion_error"})
#: Kinds whose messages are the library's own.
_LIBRARY = frozenset(get_args(ErrorType)) - _GIVEN
#: The branch of a union that a plain string is.
_TEXT_BRANCHES = frozenset({"constrained-str", "str"})
_BEFORE = re.compile(r"^(Value error|Assertion failed), ")


def words_of(fault: Any, known: Iterable[str] = ()) -> str:
    """Return one fault of a validation in plain words, without the value that was given.

    `known`: the names that are allowed where a name is not; the closest one is proposed.
    """
    kind, context = fault["type"], fault.get("ctx") or {}
    if kind == "extra_forbidden":
        return _unknown(str(fault["loc"][-1]), sorted(set(known)))
    if kind in {"string_too_short", "too_short"} and context.get("min_length") == 1:
        return "must not be empty"
    if "or_object" in context:
        return "must be a string, or an object with a type"
    template = _WORDS.get(kind)
    if template is not None:
        with suppress(KeyError, IndexError):
            return template.format(**context)
    # The messages of our own rules are written to be read; those of the library are not.
    return "is not valid" if kind in _LIBRARY else _BEFORE.sub("", str(fault["msg"]))


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"is not known here; did you mean {close[0]}?"
    return f"is not known here; known: {', '.join(known)}" if known else "is not known here"


def names_at(model: type[BaseModel], where: Sequence[int | str]) -> list[str]:
    """Return the names that a model knows beside the one at `where`, in itself or further inside."""
    models = [model]
    for part in where[:-1]:
        inner = [
            found
            for each in models
            if part in each.model_fields
            for found in _models_in(each.model_fields[str(part)].annotation)
        ]
        # A part that is no field is the name of an entry, or of a branch of a union.
        models = inner or [each for each in models if _tag_of(each) == part] or models
    return [name for each in models for name in each.model_fields]


def _tag_of(model: type[BaseModel]) -> object:
    """Return the `type` that selects a model in a union; None if it has none."""
    field = model.model_fields.get("type")
    return None if field is None else next(iter(get_args(field.annotation)), None)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    # An alias of a type names it inside.
    inner = get_args(getattr(annotation, "__value__", annotation))
    return [found for each in inner for found in _models_in(each)]


def plain_faults(error: ValidationError) -> list[Any]:
    """Return the faults of a validation, one per cause.

    A value that may be a string or an object is checked as both: an object is not refused for being no string.
    """
    faults: list[Any] = list(error.errors(include_input=False, include_url=False))
    texts = [each for each in faults if each["loc"] and each["loc"][-1] in _TEXT_BRANCHES]
    for text in texts:
        at = text["loc"][:-1]
        others = [each for each in faults if each is not text and each["loc"][: len(at)] == at]
        if any(each["type"] != "dict_type" for each in others):
            faults.remove(text)
            continue
        faults = [each for each in faults if each not in others]
        if text["type"] == "string_type" and others:
            text["ctx"] = {"or_object": True}
    return faults
