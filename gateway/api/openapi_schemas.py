"""The schemas of the OpenAPI document, in the form that client generators read without help.

Pydantic writes correct JSON Schema; generators want more than that: one name for a model, a name for each
union, `type: [string, "null"]` instead of a union with nothing, and members of responses that are required
wherever the gateway always sends them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.views import MAY_BE_MISSING

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
PREFIX = "#/components/schemas/"
_TEXT = "a text"
_PLACES = ("AddressDestination", "CustodianAccountDestination", "PayoutAccountDestination")
#: The names of unions, by their members.
_UNIONS = {
    frozenset({*_PLACES, "BankAccountDestination"}): (
        "Destination",
        "Where the money goes; `type` tells the kinds apart.",
    ),
    frozenset({*_PLACES, "BankAccountDestinationInEvent"}): (
        "DestinationInEvent",
        "Where the money goes, as events show it: bank details left out.",
    ),
    frozenset({_TEXT, "Destination"}): (
        "DestinationOrAddress",
        "Where the money goes: an on-chain address as a text, or an object with `type`.",
    ),
}
_NULL = {"type": "null"}


def components(
    sent: Iterable[type[BaseModel]], told: Iterable[type[BaseModel]]
) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """Return a reference to each model, and every schema by its name. Pure.

    `sent`: models of request bodies; `told`: of responses and events.
    """
    modes: list[Any] = [(model, "validation") for model in sent]
    modes += [(model, "serialization") for model in told]
    names, made = models_json_schema(modes, ref_template=PREFIX + "{model}")
    found: dict[str, Schema] = made["$defs"]
    titles = {name: str(schema.get("title", name)) for name, schema in found.items()}
    refs = {
        model: {"$ref": PREFIX + titles[_target(schema)]} for (model, _), schema in names.items()
    }
    received = {titles[_target(each)] for (_, mode), each in names.items() if mode == "validation"}
    schemas = shaped(found, received)
    return refs, schemas


def standalone(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema of a model of responses or events by itself, in the same form. Pure."""
    refs, schemas = components((), (model,))
    schema = schemas.pop(_target(refs[model]))
    whole = {"$schema": DIALECT, **schema, "$defs": schemas}
    made: Schema = json.loads(json.dumps(whole).replace(PREFIX, "#/$defs/"))
    return made


def shaped(found: Mapping[str, Schema], received: Iterable[str] = ()) -> dict[str, Schema]:
    """Return the schemas under their public names. Pure.

    `received`: the public names of the models of request bodies. What these refer to keeps its optional
    members; in every other schema, a member is required unless it is marked as one that may be missing.
    """
    titles = {name: str(schema.get("title", name)) for name, schema in found.items()}
    doubled = {each for each in titles.values() if list(titles.values()).count(each) > 1}
    if doubled:
        msg = f"two models have the same name: {', '.join(sorted(doubled))}"
        raise ValueError(msg)
    unions: dict[str, Schema] = {}
    schemas = {titles[name]: _plain(schema, titles, unions) for name, schema in found.items()}
    schemas |= unions
    inputs = _reached(schemas, received)
    for name, schema in schemas.items():
        _require(schema, response=name not in inputs)
    return dict(sorted(schemas.items()))


def _plain(schema: Any, titles: Mapping[str, str], unions: dict[str, Schema]) -> Any:
    """Return a schema without titles, with public names, named unions and short nullable types."""
    if isinstance(schema, list):
        return [_plain(each, titles, unions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    plain: Schema = {}
    for key, value in schema.items():
        if key == "title":
            continue
        if key == "$ref":
            plain[key] = PREFIX + titles[value.removeprefix(PREFIX)]
        elif key == "properties":
            plain[key] = {name: _plain(each, titles, unions) for name, each in value.items()}
        elif key == "discriminator":
            mapping = value["mapping"].items()
            plain[key] = {
                **value,
                "mapping": {
                    tag: PREFIX + titles[each.removeprefix(PREFIX)] for tag, each in mapping
                },
            }
        elif key in {"default", "const", "enum", "examples", "required"}:
            plain[key] = value
        else:
            plain[key] = _plain(value, titles, unions)
    plain = _nullable(plain)
    return _named(plain, unions)


def _nullable(schema: Schema) -> Schema:
    """Return `{"type": ["string", "null"]}` for a union of a plain type with null."""
    branches = schema.get("anyOf", [])
    if _NULL not in branches or len(branches) != 2:  # noqa: PLR2004 - one type and null
        return schema
    other = next(each for each in branches if each != _NULL)
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    if not isinstance(other.get("type"), str):
        return schema
    if "enum" in other:
        other = {**other, "enum": [*other["enum"], None]}
    return {**rest, **other, "type": [other["type"], "null"]}


def _named(schema: Schema, unions: dict[str, Schema]) -> Schema:
    """Return a reference to a known union, and keep the union under its name."""
    key = "oneOf" if "oneOf" in schema else "anyOf"
    branches = frozenset(
        _target(each) if "$ref" in each else _TEXT
        for each in schema.get(key, ())
        if "$ref" in each or each.get("type") == "string"
    )
    if branches not in _UNIONS or len(branches) != len(schema[key]):
        return schema
    name, description = _UNIONS[branches]
    # Flat, since generators for TypeScript cannot nest one union in another.
    kept = {
        "oneOf": [
            inner
            for each in schema[key]
            for inner in unions.get(_target(each) if "$ref" in each else "", {}).get(
                "oneOf", [each]
            )
        ]
    }
    if "discriminator" in schema:
        kept["discriminator"] = schema["discriminator"]
    unions[name] = {"description": description, **kept}
    rest = {each: value for each, value in schema.items() if each not in {key, "discriminator"}}
    return {**rest, "$ref": PREFIX + name}


def _require(schema: Schema, *, response: bool) -> None:
    """Say which members are always there, and what a member of a request is if it is not given.

    The default is said in words: to a generator for TypeScript, a member with a default is one that has to
    be given.
    """
    members: dict[str, Schema] = schema.get("properties", {})
    always = []
    for name, each in members.items():
        missing = each.pop(MAY_BE_MISSING, False)
        given = each.pop("default", None)
        if response and not missing:
            always.append(name)
        elif not response and given is not None and "const" not in each:
            said = each.get("description", "")
            end = "" if not said or said.endswith((".", "?")) else "."
            value = "empty" if given in ([], {}) else f"`{_json(given)}`"
            each["description"] = f"{said}{end} Default: {value}.".strip()
    if response and members:
        schema["required"] = always
        # Later releases may add members: no schema of an answer rules them out.
        schema.pop("additionalProperties", None)


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reached(schemas: Mapping[str, Schema], names: Iterable[str]) -> set[str]:
    reached: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += _targets(schemas[name])
    return reached


def _targets(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield _target(schema)
        for each in schema.values():
            yield from _targets(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _targets(each)


def _target(schema: Schema) -> str:
    return str(schema["$ref"]).removeprefix(PREFIX)
