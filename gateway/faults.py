"""What is wrong with a configuration or a request, in plain words that say what to do. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

#: By the validator's name of a fault; `{…}` is what it says of the limits.
_WORDS: Mapping[str, str] = {
    "missing": "is missing: give it",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "may have at most {max_length} characters",
    "string_pattern_mismatch": "does not have the form that is needed; as a pattern: {pattern}",
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
    "union_tag_invalid": "has a {discriminator} that is not known; known: {expected_tags}",
    "union_tag_not_found": "must say its {discriminator}",
}
#: The branch of a union that a plain string is.
_TEXT_BRANCHES = frozenset({"constrained-str", "str"})
_REST = re.compile(r"^(Value error, |Assertion failed, |(Input|String|Number) should )")


def words_of(fault: Any, known: Iterable[str] = ()) -> str:
    """Return one fault of a validation in plain words, without the value that was given.

    `known`: the names that are allowed where a name is not; the closest one is proposed.
    """
    kind, context = fault["type"], fault.get("ctx") or {}
    if kind == "extra_forbidden":
        return _unknown(str(fault["loc"][-1]), sorted(set(known)))
    if kind in {"string_too_short", "too_short"} and context.get("min_length") == 1:
        return "must not be empty"
    template = None if "or_object" in context else _WORDS.get(kind)
    if template is not None:
        try:
            return template.format(**context)
        except (KeyError, IndexError):
            pass
    message = str(fault["msg"])
    plain = _REST.sub("", message)
    return f"must {plain}" if message.startswith(("Input should", "String should")) else plain


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
    """Return by which `type` a union tells a model from the others; None where it has none."""
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

    What may be a string or an object is judged as both: an object is not told that it is no string.
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
            text["msg"] = "Input should be a string, or an object with a type"
            text["ctx"] = {"or_object": True}
    return faults
