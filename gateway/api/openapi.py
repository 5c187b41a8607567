"""The OpenAPI 3.1 document, generated from the models and the table of problems."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from gateway import __version__
from gateway.api.custodians import CustodianList
from gateway.api.endpoints import EndpointList
from gateway.api.events import EventList, FeedEvent
from gateway.api.payouts import PayoutList, PayoutRequest
from gateway.api.problems import JSON_TYPE, PROBLEMS
from gateway.endpoints import EndpointCreated, EndpointRequest, EndpointView
from gateway.quotes import Quote, QuoteRequest
from gateway.views import EVENT_OF, EventView, PayoutWithTracking


class FieldFault(BaseModel):
    """One fault of a request."""

    pointer: str
    code: str
    detail: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `code` is stable; `detail` is for people."""

    model_config = ConfigDict(title="Problem")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool
    errors: list[FieldFault] = []
    payout_id: str | None = None


_SENT = (QuoteRequest, PayoutRequest, EndpointRequest)
_TOLD = (
    Quote,
    PayoutWithTracking,
    PayoutList,
    CustodianList,
    EndpointView,
    EndpointCreated,
    EndpointList,
    EventView,
    FeedEvent,
    EventList,
    ProblemDocument,
)
_ALWAYS = ("invalid_api_key", "internal_error", "store_unavailable")
_BODY = ("invalid_json", "payload_too_large", "unsupported_media_type", "invalid_request")
_KEYED = ("invalid_idempotency_key", "idempotency_in_progress", "idempotency_key_reused")
_QUOTE = (
    "idempotency_key_required",
    "unsupported_asset",
    "unsupported_network",
    "invalid_destination",
    "amount_too_precise",
    "amount_below_minimum",
    "unknown_account",
    "route_unavailable",
)
_EVENT_SUMMARIES = {
    "payout.created": "A payout was accepted",
    "payout.broadcast": "The custodian has handed the money to the rail",
    "payout.delivered": "The payout is final: delivered",
    "payout.failed": "The payout is final: failed",
}


@lru_cache(maxsize=4)
def document(public_url: str) -> dict[str, Any]:
    """Return the document for a gateway that partners reach under this address."""
    modes: list[Any] = [(model, "validation") for model in _SENT] + [
        (model, "serialization") for model in _TOLD
    ]
    names, schemas = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    refs = {model: schema for (model, _), schema in names.items()}
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Payout gateway",
            "version": __version__,
            "description": "Quotes become payouts, payouts go forward to delivered or failed, and signed "
            "webhooks tell of it. Money is decimal strings, times are RFC 3339 in UTC.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url}],
        "security": [{"apiKey": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(refs),
        "webhooks": _webhooks(refs),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "sk_live_… or sk_test_…; the prefix picks the mode.",
                }
            },
            "parameters": _PARAMETERS,
        },
    }


_TAGS = {
    "payouts": "From a price to money delivered",
    "custodians": "Who pays",
    "webhooks": "Being told",
    "events": "The same events as a feed",
    "operation": "Health, metrics and documents",
}


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": "string", **schema},
    }


_PARAMETERS: dict[str, Any] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "1 to 255 visible ASCII characters, new for each intent; remembered for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "RequiredIdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "1 to 255 visible ASCII characters, new for each intent; remembered for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "Sandbox": {
        "name": "Gateway-Sandbox",
        "in": "header",
        "description": "`strict` makes test mode consume quotes as live mode does.",
        "schema": {"type": "string", "enum": ["strict"]},
    },
    "Limit": _query("limit", "Page size.", type="integer", minimum=1, maximum=200, default=50),
    "Cursor": _query("cursor", "`next_cursor` of the page before, with the same filters."),
    "WebhookId": {
        "name": "webhook-id",
        "in": "header",
        "required": True,
        "description": "The event's id; the same at every try. Drop what you have seen.",
        "schema": {"type": "string"},
    },
    "WebhookTimestamp": {
        "name": "webhook-timestamp",
        "in": "header",
        "required": True,
        "description": "Unix seconds of this try; refuse what is over five minutes away.",
        "schema": {"type": "string"},
    },
    "WebhookSignature": {
        "name": "webhook-signature",
        "in": "header",
        "required": True,
        "description": "Space-separated `v1,` entries; one that verifies is enough.",
        "schema": {"type": "string"},
    },
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/parameters/{name}"}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _json(schema: Any, description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(problem: Any, codes: tuple[str, ...]) -> dict[str, Any]:
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(PROBLEMS[code].status), []).append(code)
    return {
        status: {"description": ", ".join(found), "content": {JSON_TYPE: {"schema": problem}}}
        for status, found in sorted(by_status.items())
    }


def _call(  # noqa: PLR0913 - one argument per part of an operation
    refs: dict[Any, Any],
    name: str,
    tag: str,
    summary: str,
    success: tuple[str, dict[str, Any]],
    codes: tuple[str, ...],
    *,
    description: str = "",
    parameters: tuple[dict[str, Any], ...] = (),
    body: Any = None,
    public: bool = False,
) -> dict[str, Any]:
    call: dict[str, Any] = {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "responses": {
            success[0]: success[1],
            **_problems(refs[ProblemDocument], codes if public else (*codes, *_ALWAYS)),
        },
    }
    if description:
        call["description"] = description
    if parameters:
        call["parameters"] = list(parameters)
    if body is not None:
        call["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if public:
        call["security"] = []
    return call


def _paths(refs: dict[Any, Any]) -> dict[str, Any]:
    created = {"Location": {"description": "Path of what was made.", "schema": {"type": "string"}}}
    page = (_ref("Limit"), _ref("Cursor"))
    html = {"description": "A page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    lists = ("invalid_cursor", "invalid_request")
    return {
        "/payouts/quote": {
            "post": _call(
                refs,
                "createQuote",
                "payouts",
                "Ask for a price",
                ("200", _json(refs[Quote], "A price promise for 60 seconds, usable once.")),
                (*_BODY, *_KEYED, *_QUOTE),
                parameters=(_ref("RequiredIdempotencyKey"),),
                body=refs[QuoteRequest],
            )
        },
        "/payouts": {
            "post": _call(
                refs,
                "createPayout",
                "payouts",
                "Turn a quote into a payout",
                (
                    "201",
                    {**_json(refs[PayoutWithTracking], "The payout, pending."), "headers": created},
                ),
                (*_BODY, *_KEYED, "quote_not_found", "quote_already_used", "quote_expired"),
                description="The quote is consumed: a second call answers 409 with the payout's id.",
                parameters=(_ref("IdempotencyKey"), _ref("Sandbox")),
                body=refs[PayoutRequest],
            ),
            "get": _call(
                refs,
                "listPayouts",
                "payouts",
                "List payouts, newest first",
                ("200", _json(refs[PayoutList], "A page of payouts.")),
                lists,
                parameters=(
                    _query("external_ref", "Your id of the user or case."),
                    _query(
                        "status", "Status.", enum=["pending", "broadcast", "delivered", "failed"]
                    ),
                    _query("custodian", "Custodian instance."),
                    _query("reference", "Your reference."),
                    _query("from", "Created at or after this time.", format="date-time"),
                    _query("to", "Created at or before this time.", format="date-time"),
                    *page,
                ),
            ),
        },
        "/payouts/{payout_id}": {
            "get": _call(
                refs,
                "getPayout",
                "payouts",
                "Read a payout",
                ("200", _json(refs[PayoutWithTracking], "The payout.")),
                ("payout_not_found",),
                parameters=(_path("payout_id"),),
            )
        },
        "/custodians": {
            "get": _call(
                refs,
                "listCustodians",
                "custodians",
                "List the custodian instances you may use",
                ("200", _json(refs[CustodianList], "Instances with their capabilities.")),
                (),
            )
        },
        "/custodians/{name}/webhooks": {
            "post": _call(
                refs,
                "receiveCustodianWebhook",
                "custodians",
                "Where a custodian calls in",
                (
                    "200",
                    {
                        "description": "Stored.",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                ),
                ("invalid_signature", "custodian_not_found", "payload_too_large", "cannot_verify"),
                parameters=(_path("name"),),
                body={"type": "object"},
                public=True,
            )
        },
        "/webhook-endpoints": {
            "post": _call(
                refs,
                "createWebhookEndpoint",
                "webhooks",
                "Subscribe to events",
                (
                    "201",
                    {
                        **_json(
                            refs[EndpointCreated], "The endpoint; its secret is shown this once."
                        ),
                        "headers": created,
                    },
                ),
                (*_BODY, *_KEYED),
                parameters=(_ref("IdempotencyKey"),),
                body=refs[EndpointRequest],
            ),
            "get": _call(
                refs,
                "listWebhookEndpoints",
                "webhooks",
                "List webhook endpoints, newest first",
                ("200", _json(refs[EndpointList], "A page of endpoints.")),
                lists,
                parameters=page,
            ),
        },
        "/webhook-endpoints/{endpoint_id}": {
            "get": _call(
                refs,
                "getWebhookEndpoint",
                "webhooks",
                "Read a webhook endpoint",
                ("200", _json(refs[EndpointView], "The endpoint.")),
                ("endpoint_not_found",),
                parameters=(_path("endpoint_id"),),
            ),
            "delete": _call(
                refs,
                "deleteWebhookEndpoint",
                "webhooks",
                "Delete a webhook endpoint",
                ("204", {"description": "Deleted; pending deliveries are skipped."}),
                ("endpoint_not_found",),
                parameters=(_path("endpoint_id"),),
            ),
        },
        "/events": {
            "get": _call(
                refs,
                "listEvents",
                "events",
                "Read events, oldest first",
                ("200", _json(refs[EventList], "A page of events.")),
                lists,
                description="Keep next_cursor and ask again: nothing is left out, whatever a webhook missed.",
                parameters=(
                    _query("type", "Event type.", enum=sorted(_EVENT_SUMMARIES)),
                    _query("payout_id", "Payout."),
                    *page,
                ),
            )
        },
        "/events/{event_id}": {
            "get": _call(
                refs,
                "getEvent",
                "events",
                "Read an event",
                ("200", _json(refs[FeedEvent], "The event.")),
                ("event_not_found",),
                parameters=(_path("event_id"),),
            )
        },
        "/track/{token}": {
            "get": _call(
                refs,
                "trackPayout",
                "operation",
                "Public page of one payout",
                ("200", html),
                ("not_found",),
                parameters=(_path("token"),),
                public=True,
            )
        },
        "/healthz": {"get": _plain(refs, "healthz", "Whether the process lives", ())},
        "/readyz": {
            "get": _plain(refs, "readyz", "Whether work is accepted", ("store_unavailable",))
        },
    }


def _plain(refs: dict[Any, Any], name: str, summary: str, codes: tuple[str, ...]) -> dict[str, Any]:
    answer = {
        "type": "object",
        "properties": {"status": {"type": "string"}},
        "required": ["status"],
    }
    call = _call(
        refs,
        name,
        "operation",
        summary,
        ("200", _json(answer, "Yes.")),
        ("internal_error",),
        public=True,
    )
    for code in codes:
        call["responses"][str(PROBLEMS[code].status)] = _json(answer, "No.")
    return call


def _webhooks(refs: dict[Any, Any]) -> dict[str, Any]:
    headers = [_ref("WebhookId"), _ref("WebhookTimestamp"), _ref("WebhookSignature")]
    return {
        kind: {
            "post": {
                "operationId": "on" + "".join(part.title() for part in kind.split(".")),
                "tags": ["webhooks"],
                "summary": _EVENT_SUMMARIES[kind],
                "parameters": headers,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": refs[EventView]}},
                },
                "responses": {
                    "2XX": {"description": "Received."},
                    "4XX": {"description": "Sent again by the plan."},
                },
                "security": [],
            }
        }
        for kind in EVENT_OF.values()
    }
