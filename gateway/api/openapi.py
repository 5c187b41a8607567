"""The OpenAPI 3.1 document, generated from the models and the table of problems."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel

from gateway import __version__
from gateway.api import openapi_actions, openapi_batches, openapi_control, openapi_webhooks
from gateway.api.custodians import CustodianList
from gateway.api.openapi_examples import add_examples
from gateway.api.openapi_schemas import DIALECT, components
from gateway.api.operations import (
    BODY,
    KEYED,
    PARAMETERS,
    QUOTE,
    STARTS,
    ProblemDocument,
    as_json,
    in_path,
    operation,
    optional,
    parameter,
    query,
)
from gateway.api.payouts import PayoutList, PayoutRequest
from gateway.keys import Scope
from gateway.model import SubStatus
from gateway.planning import QuoteRequest
from gateway.quotes import Quote
from gateway.views import PayoutWithTracking


class Health(BaseModel):
    """Whether the process works."""

    status: Literal["ok", "failing"]
    reason: str = optional("Why it has to be restarted.")


class Readiness(BaseModel):
    """Whether requests are served."""

    status: Literal["ready", "stopping", "no_custodian", "store_unavailable", "no_marks"]
    marks: bool | str = optional("True if payouts are handed to custodians; otherwise the reason.")
    accepting: bool = optional("Whether new quotes, payouts and batches are accepted.")
    degraded: dict[str, str] = optional(
        "Custodians with problems: `unreachable`, `failing`, `refuses_credentials`, `broken_adapter`."
    )
    reason: str = optional("Why not.")


_SENT: tuple[type[BaseModel], ...] = (
    QuoteRequest,
    PayoutRequest,
    *openapi_actions.SENT,
    *openapi_batches.SENT,
    *openapi_control.SENT,
    *openapi_webhooks.SENT,
)
_TOLD: tuple[type[BaseModel], ...] = (
    Quote,
    PayoutWithTracking,
    PayoutList,
    CustodianList,
    ProblemDocument,
    Health,
    Readiness,
    *openapi_actions.TOLD,
    *openapi_batches.TOLD,
    *openapi_control.TOLD,
    *openapi_webhooks.TOLD,
)


@lru_cache(maxsize=4)
def document(public_url: str) -> dict[str, Any]:
    """Return the document for a gateway that partners reach under this address."""
    refs, schemas = components(_SENT, _TOLD)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "Payout gateway",
            "version": __version__,
            "description": "Request a quote, execute it as a payout, and follow its status to `delivered` or "
            "`failed`; signed webhooks report every change. Money is a decimal string, and times are "
            "RFC 3339 in UTC.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url}],
        "security": [{"apiKey": []}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(refs),
        "webhooks": openapi_webhooks.webhooks(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "sk_live_… or sk_test_…; the prefix picks the mode.",
                }
            },
            # The headers of webhooks stand in their requests.
            "parameters": {
                name: each for name, each in PARAMETERS.items() if not name.startswith("Webhook")
            },
            "pathItems": openapi_webhooks.webhook_items(refs),
        },
    }
    add_examples(made, public_url)
    return made


_TAGS = {
    "payouts": "From a quote to a delivered payment",
    "batches": "Many payouts from one account",
    "custodians": "The custodians that pay, and where they report",
    "control": "Pauses, and what needs a person's attention",
    "webhook-endpoints": "Where events are sent, what was missed, and every try",
    "events": "The same events as a feed",
    "webhooks": "The requests that the gateway sends to your endpoints",
    "operation": "Health, readiness and the tracking page",
}


def _paths(refs: dict[Any, Any]) -> dict[str, Any]:
    created = {
        "Location": {"description": "Path of the created object.", "schema": {"type": "string"}}
    }
    page = (parameter("Limit"), parameter("Cursor"))
    html = {"description": "A page.", "content": {"text/html": {"schema": {"type": "string"}}}}
    lists = ("invalid_cursor", "invalid_request")
    return {
        "/payouts/quote": {
            "post": operation(
                refs,
                "createQuote",
                "payouts",
                "Request a quote",
                ("200", as_json(refs[Quote], "The quote: valid for 60 seconds, usable once.")),
                (*BODY, *KEYED, *QUOTE, *STARTS, "paused"),
                parameters=(parameter("RequiredIdempotencyKey"),),
                body=refs[QuoteRequest],
                scope=Scope.QUOTES_WRITE,
            )
        },
        "/payouts": {
            "post": operation(
                refs,
                "createPayout",
                "payouts",
                "Execute a quote as a payout",
                (
                    "201",
                    {
                        **as_json(refs[PayoutWithTracking], "The payout, pending."),
                        "headers": created,
                    },
                ),
                (
                    *BODY,
                    *KEYED,
                    "quote_not_found",
                    "quote_already_used",
                    "quote_expired",
                    "route_unavailable",
                    "limit_exceeded",
                    "insufficient_funds",
                    "balance_unknown",
                    *STARTS,
                ),
                description="The quote is used up: a second call returns 409 with the payout's id.",
                parameters=(parameter("IdempotencyKey"), parameter("Sandbox")),
                body=refs[PayoutRequest],
                scope=Scope.PAYOUTS_WRITE,
            ),
            "get": operation(
                refs,
                "listPayouts",
                "payouts",
                "List payouts, newest first",
                ("200", as_json(refs[PayoutList], "A page of payouts.")),
                lists,
                parameters=(
                    query("external_ref", "Your id of the user or case."),
                    query(
                        "status", "Status.", enum=["pending", "broadcast", "delivered", "failed"]
                    ),
                    query("sub_status", "Sub-status.", enum=[each.value for each in SubStatus]),
                    query("custodian", "Custodian instance."),
                    query("reference", "Your reference."),
                    query("from", "Created at or after this time.", format="date-time"),
                    query("to", "Created at or before this time.", format="date-time"),
                    *page,
                ),
                scope=Scope.PAYOUTS_READ,
            ),
        },
        "/payouts/{payout_id}": {
            "get": operation(
                refs,
                "getPayout",
                "payouts",
                "Read a payout",
                ("200", as_json(refs[PayoutWithTracking], "The payout.")),
                ("payout_not_found",),
                description="With a client secret as the bearer token, a browser gets a reduced payout.",
                parameters=(in_path("payout_id"),),
                scope=Scope.PAYOUTS_READ,
            )
        },
        **openapi_actions.paths(refs),
        **openapi_batches.paths(refs),
        **openapi_control.paths(refs),
        "/custodians": {
            "get": operation(
                refs,
                "listCustodians",
                "custodians",
                "List the custodian instances you may use",
                ("200", as_json(refs[CustodianList], "Instances with their capabilities.")),
                (),
                scope=Scope.PAYOUTS_READ,
            )
        },
        "/custodians/{name}/webhooks": {
            "post": operation(
                refs,
                "receiveCustodianWebhook",
                "custodians",
                "Receive a custodian's webhook",
                (
                    "200",
                    {
                        "description": "Stored.",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    },
                ),
                (
                    "invalid_signature",
                    "custodian_not_found",
                    "payload_too_large",
                    "rate_limited",
                    "cannot_verify",
                ),
                parameters=(in_path("name"),),
                body={"type": "object"},
                public=True,
            )
        },
        **openapi_webhooks.paths(refs),
        "/track/{token}": {
            "get": {
                "operationId": "trackPayout",
                "tags": ["operation"],
                "summary": "Show the tracking page of a payout",
                "parameters": [in_path("token")],
                "responses": {
                    "200": html,
                    "304": {"description": "`If-None-Match` is the tag of the page as it is."},
                    "404": {**html, "description": "A page: no such payout."},
                    "429": {**html, "description": "A page: too many links that do not exist."},
                },
                "security": [],
            }
        },
        "/track/{token}/stream": {
            "get": {
                "operationId": "streamTrackedPayout",
                "tags": ["operation"],
                "summary": "Stream changes of the tracking page",
                "description": "For the page's own script. Events: `now` (the server's clock, in "
                "milliseconds), `state` (the part of the page that changes, its tag as the id), `end` "
                "(no other state follows).",
                "parameters": [
                    in_path("token"),
                    query("v", "Tag of the page that the client has."),
                ],
                "responses": {
                    "200": {
                        "description": "A stream.",
                        "content": {"text/event-stream": {"schema": {"type": "string"}}},
                    },
                    "404": {**html, "description": "A page: no such payout."},
                    "429": {**html, "description": "A page: too many links that do not exist."},
                    "503": {
                        "description": "Too many streams are open; `Retry-After` says when to ask "
                        "again. `GET /track/{token}` with `If-None-Match` serves meanwhile.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                },
                "security": [],
            }
        },
        "/healthz": {
            "get": _plain(
                refs,
                "healthz",
                "Check health",
                Health,
            )
        },
        "/readyz": {
            "get": _plain(
                refs,
                "readyz",
                "Check readiness",
                Readiness,
                parameters=(
                    query("require", "Answer 503 unless `marks` is true.", enum=["marks"]),
                ),
            )
        },
    }


def _plain(
    refs: dict[Any, Any],
    name: str,
    summary: str,
    answer: type[BaseModel],
    parameters: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    call = operation(
        refs,
        name,
        "operation",
        summary,
        ("200", as_json(refs[answer], "Yes.")),
        ("invalid_request", "internal_error") if parameters else ("internal_error",),
        parameters=parameters,
        public=True,
    )
    call["responses"]["503"] = as_json(refs[answer], "No.")
    return call
