"""An example for every operation of the OpenAPI document: written by hand where it matters, else derived.

A schema of `_whole` is shown as it stands here. Every other one is put together from its members: the
values of `_MEMBERS`, the first value of an enumeration, or null where a member may be null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from gateway.api.problems import JSON_TYPE, problem_body
from gateway.examples import example_batch, example_endpoint, example_event, example_payout
from gateway.model import Payout, format_time
from gateway.views import payout_json, terms_json

_AT = datetime(2026, 3, 2, 10, tzinfo=UTC)
_PREFIX = "#/components/schemas/"
_ID = "01k74z3g00e008000000000001"
_PAYEE = {
    "type": "custodian_account",
    "account_type": "EXTERNAL_WALLET",
    "id": "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3",
}
_SOURCE = {"custodian": "fireblocks", "account": {"id": "EX_SUB3", "type": "EXCHANGE_ACCOUNT"}}
_ITEM = {"external_ref": "user-42", "destination": _PAYEE, "asset": "USDC", "amount": "12.50"}
#: Values of members and of parameters in the path, by name.
_MEMBERS: Mapping[str, Any] = {
    "account_id": "EX_SUB3",
    "amount": "12.50",
    "asset": "USDC",
    "assets": ["USDC"],
    "attempt": 1,
    "batch_id": f"bat_{_ID}",
    "by": "org",
    "count": 3,
    "custodian": "fireblocks",
    "detail": "The custodian has not answered for 10 minutes.",
    "duration_ms": 84,
    "endpoint_id": f"whe_{_ID}",
    "endpoint_ids": [f"whe_{_ID}"],
    "event_id": f"evt_{_ID}",
    "event_type": "payout.delivered",
    "events_looked_at": 200,
    "events_recovered": 3,
    "http_status": 200,
    "item_count": 3,
    "key": "whpk_Gu6BGjAFCi0ZIPLJAbQbzWL3pgTcPTTdC2cWyAQ4jJ4=",
    "name": "fireblocks",
    "number": 1,
    "org": "acme",
    "payout_id": f"pay_{_ID}",
    "pause_id": f"pau_{_ID}",
    "quote_id": f"quo_{_ID}",
    "reason": "Checking a report of double payments.",
    "recovery_id": f"rec_{_ID}",
    "since": "2026-03-02T09:00:00Z",
    "token": "tok_9f8e7d6c5b4a39281706f5e4d3c2b1a0",
    "until": "2026-03-02T10:00:00Z",
    "url": "https://hooks.example.com/payouts",
}
#: The prefix of an id, by the `object` that has it.
_IDS = {"delivery_attempt": "att", "pause": "pau", "recovery": "rec"}


@lru_cache(maxsize=1)
def _whole() -> Mapping[str, Any]:
    """Return examples of whole schemas, by name."""
    done = example_payout("payout.delivered", _AT, livemode=True)
    return {
        "Account": _SOURCE["account"],
        "BatchItemRequest": _ITEM,
        "BatchRequest": {"source": _SOURCE, "reference": "salaries-march", "payouts": [_ITEM]},
        "ConfirmRequest": {
            "client_secret": f"pay_{_ID}_1_Zm9yIHRoZSBhY3Rpb24",
            "passcode": {"token": {"code": "K7Q2M9XA"}},
        },
        "CustodianView": {
            "name": "fireblocks",
            "adapter": "fireblocks",
            "destination_types": ["custodian_account"],
            "payee_types": ["EXTERNAL_WALLET", "NETWORK_CONNECTION"],
            "source_types": ["EXCHANGE_ACCOUNT"],
            "assets": ["USDC"],
            "batch": True,
            "cancel": False,
            "webhooks": True,
            "one_at_a_time": False,
            "paused": False,
            "paused_accounts": [],
            "paused_assets": [],
            "available": True,
        },
        "Destination": _PAYEE,
        "Event": event_example("payout.delivered"),
        "Health": {"status": "ok"},
        "PauseRequest": {"reason": "Checking a report of double payments."},
        "Payout": _payout(done),
        "PayoutBatch": example_batch("batch.finalized", _AT, livemode=True).model_dump(mode="json"),
        "Quote": _quote(done),
        "QuoteRequest": {**_ITEM, "reference": "invoice-7", "metadata": {"run": "october"}},
        "Readiness": {"status": "ready", "marks": True, "accepting": True},
        "RotationRequest": {"overlap_seconds": 86_400},
        "WebhookEndpoint": _endpoint(),
        "WebhookEndpointChange": {"status": "enabled"},
        "WebhookEndpointRequest": {
            "url": "https://hooks.example.com/payouts",
            "event_types": ["payout.*"],
        },
    }


def _payout(payout: Payout) -> dict[str, Any]:
    token = _MEMBERS["token"]
    return {
        **payout_json(payout),
        "tracking_url": f"https://pay.example/track/{token}",
        "queued_behind": None,
        "executions": None,
    }


def _quote(payout: Payout) -> dict[str, Any]:
    return {
        **terms_json(payout.terms),
        "expires_at": format_time(_AT + timedelta(seconds=60)),
        "external_ref": "user-42",
        "reference": "invoice-7",
        "metadata": {"run": "october"},
        "fee_usd_as_of": None,
        "recommendation": None,
        "insufficient_funds": None,
    }


def _endpoint() -> dict[str, Any]:
    endpoint = example_endpoint("webhook_endpoint.failing", _AT, livemode=True)
    return {**endpoint.model_dump(mode="json"), "failing_since": None}


def event_example(kind: Any) -> dict[str, Any]:
    """Return an example of an event type, as an endpoint receives it. Pure."""
    event: dict[str, Any] = json.loads(example_event(kind, _AT, livemode=True))
    del event["test"]
    return event


def problem_example(code: str, public_url: str) -> dict[str, Any]:
    """Return an example of a problem. Pure."""
    problem: dict[str, Any] = json.loads(
        problem_body(
            code,
            "What happened in this request, in a sentence.",
            public_url=public_url,
            request_id=f"req_{_ID}",
        )
    )
    return problem


def add_examples(document: dict[str, Any], public_url: str) -> None:
    """Give every operation of a document its examples: parameters in the path, body, answers."""
    schemas = document["components"]["schemas"]
    for item in document["paths"].values():
        for call in item.values():
            for each in call.get("parameters", ()):
                if each.get("in") == "path":
                    each["example"] = _MEMBERS.get(each["name"], f"{each['name']}-1")
            _fill(call.get("requestBody", {}), schemas)
            for status, answer in call["responses"].items():
                if status.startswith("2"):
                    _fill(answer, schemas)
                elif JSON_TYPE in answer.get("content", {}):
                    code = answer["description"].split(", ")[0]
                    answer["content"][JSON_TYPE]["example"] = problem_example(code, public_url)
    created = example_payout("payout.created", _AT, livemode=True)
    answers = document["paths"]["/payouts"]["post"]["responses"]
    answers["201"]["content"]["application/json"]["example"] = _payout(created)


def _fill(body: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    for media_type, media in body.get("content", {}).items():
        if "example" not in media:
            text = _TEXTS.get(media_type)
            media["example"] = text or example_of(media["schema"], schemas)


_TEXTS = {
    "text/html": "<!doctype html>…",
    "text/event-stream": "event: now\ndata: 1772445600000\n\n",
    "text/plain": "Too many streams are open.",
}


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "") -> Any:
    """Return an example of a schema. Pure. `name`: of the member that has it."""
    if "$ref" in schema:
        target = schema["$ref"].removeprefix(_PREFIX)
        whole = _whole()
        return whole[target] if target in whole else example_of(schemas[target], schemas, name)
    union = schema.get("oneOf") or schema.get("anyOf")
    if union:
        return example_of(union[0], schemas, name)
    kinds = schema.get("type", "object")
    if kinds == "object":
        return _object(schema, schemas)
    if kinds == "array" and name not in _MEMBERS:
        return [example_of(schema["items"], schemas)]
    return _simple(schema, kinds, name)


def _simple(schema: Mapping[str, Any], kinds: Any, name: str) -> Any:
    if "const" in schema:
        return schema["const"]
    if "enum" in schema and _MEMBERS.get(name) not in schema["enum"]:
        return schema["enum"][0]
    if name in _MEMBERS:
        return _MEMBERS[name]
    if "null" in kinds:
        return None
    if schema.get("format") == "date-time":
        return format_time(_AT)
    numbers = {"integer": 1, "number": 1, "boolean": False}
    return numbers.get(kinds, schema.get("examples", [name or "text"])[0])


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    made = {}
    for name in schema.get("required", ()):
        each = schema["properties"][name]
        made[name] = example_of(each, schemas, name)
    if "id" in made and "object" in made:
        made["id"] = f"{_IDS.get(made['object'], made['object'][:3])}_{_ID}"
    return made
