"""The pages of `/docs`: an overview, a page for each group of calls, and the models. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gateway.api.problems import JSON_TYPE
from gateway.api.samples import quote_then_pay, samples

#: The names of the pages beside the groups of calls.
MODELS = "models"
_WEBHOOKS = "webhooks"
_METHODS = ("get", "post", "put", "patch", "delete")


def sections(document: Mapping[str, Any]) -> list[str]:
    """Return the name of each page below the overview."""
    return [*(each["name"] for each in document["tags"]), MODELS]


def reference_page(document: Mapping[str, Any], section: str | None) -> dict[str, Any]:
    """Return what the template of a page shows. None: the overview."""
    groups = [_group(document, tag) for tag in document["tags"]]
    found = next((each for each in groups if each["tag"] == section), None)
    heading, lead = document["info"]["title"] + " API", document["info"]["description"]
    if found is not None:
        heading, lead = found["title"], found["description"] + "."
    elif section == MODELS:
        heading, lead = "Models", "Every object of requests, answers and events, by its name."
    return {
        "doc": document,
        "area": "api",
        "root": "" if section is None else "../",
        "heading": heading,
        "lead": lead,
        "overview": section is None,
        "begin": _begin(groups) if section is None else {},
        "groups": groups,
        "calls": found["calls"] if found else [],
        "models": document["components"]["schemas"] if section == MODELS else {},
        "nav": _nav(groups, section),
    }


def _group(document: Mapping[str, Any], tag: Mapping[str, str]) -> dict[str, Any]:
    items = {**document["paths"]}
    if tag["name"] == _WEBHOOKS:
        wanted = document["webhooks"].items()
        items = {kind: _resolve(document, ref) for kind, ref in wanted}
    calls = [
        _call(document, method, path, item[method])
        for path, item in items.items()
        for method in _METHODS
        if method in item and tag["name"] in item[method]["tags"]
    ]
    title = tag["name"].replace("-", " ").capitalize()
    return {"tag": tag["name"], "title": title, "description": tag["description"], "calls": calls}


def _call(
    document: Mapping[str, Any], method: str, path: str, call: Mapping[str, Any]
) -> dict[str, Any]:
    parameters = [_resolve(document, each) for each in call.get("parameters", ())]
    content = call.get("requestBody", {}).get("content", {}).get("application/json", {})
    answers = [_answer(status, each) for status, each in call["responses"].items()]
    example, of = _example(call), "an answer"
    sent = None
    if call["tags"] == [_WEBHOOKS]:
        example, of = content["example"], "the body"
    else:
        given = {each["name"]: each.get("example") for each in parameters if each["in"] == "path"}
        keyed = {
            each["name"]: ""
            for each in parameters
            if each["in"] == "header" and each.get("required")
        }
        sent = samples(method, path, content.get("example"), given, keyed)
    body = content.get("schema", {})
    return {
        "id": call["operationId"],
        "method": method,
        "path": path,
        "summary": call["summary"],
        "description": call.get("description", ""),
        "scopes": [each for one in call.get("security", ()) for each in one.get("apiKey", ())],
        "parameters": parameters,
        "body": body,
        "body_schema": _resolve(document, body),
        "answers": answers,
        "samples": sent,
        "example": example
        if isinstance(example, str) or example is None
        else json.dumps(example, indent=2, ensure_ascii=False),
        "example_of": of,
    }


def _answer(status: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    content = answer.get("content", {})
    schema = next((each["schema"] for each in content.values()), None)
    codes = answer["description"].split(", ") if JSON_TYPE in content else []
    return {
        "status": status,
        "description": answer["description"],
        "codes": codes,
        "schema": schema if schema and "$ref" in schema else None,
    }


def _example(call: Mapping[str, Any]) -> Any:
    for status, answer in call["responses"].items():
        if status.startswith("2"):
            for media in answer.get("content", {}).values():
                return media.get("example")
    return None


def _begin(groups: list[dict[str, Any]]) -> dict[str, str]:
    calls = {call["id"]: call for group in groups for call in group["calls"]}
    return quote_then_pay(calls["createQuote"]["samples"], calls["createPayout"]["samples"])


def _nav(groups: list[dict[str, Any]], section: str | None) -> list[dict[str, Any]]:
    before = "docs/" if section is None else ""
    top = {"title": "Overview", "href": "docs" if section is None else "../docs"}
    links = [{**top, "current": section is None}]
    links += [
        {"title": each["title"], "href": before + each["tag"], "current": each["tag"] == section}
        for each in groups
    ]
    links.append({"title": "Models", "href": before + MODELS, "current": section == MODELS})
    nav = [{"title": "API reference", "links": links}]
    found = next((each for each in groups if each["tag"] == section), None)
    if found is not None:
        here = [
            {
                "title": call["summary"],
                "href": f"#{call['id']}",
                "current": False,
                "method": "" if section == _WEBHOOKS else call["method"],
            }
            for call in found["calls"]
        ]
        nav.append({"title": found["title"], "links": here})
    return nav


def _resolve(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    _, kind, name = schema["$ref"].removeprefix("#/").split("/")
    found: Mapping[str, Any] = document["components"][kind][name]
    return found
