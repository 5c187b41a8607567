"""The building blocks of the OpenAPI document: parameters, problems, one operation."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gateway.api.problems import JSON_TYPE, PROBLEMS
from gateway.keys import Scope
from gateway.views import MAY_BE_MISSING


def optional(description: str, default: Any = None) -> Any:
    """Return a member that a response may leave out."""
    return Field(default, description=description, json_schema_extra={MAY_BE_MISSING: True})


class FieldFault(BaseModel):
    """What is wrong with one member of a request."""

    model_config = ConfigDict(title="FieldProblem")

    pointer: str = Field(description="Where it is: a JSON Pointer into the request body.")
    code: str = Field(description="What is wrong, for programs. New codes may be added.")
    detail: str = Field(description="What is wrong and what is allowed, for people.")


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `code` is stable; `detail` is for people."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(description="Address of the page about this code.")
    title: str
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened in this request, for people.")
    instance: str
    code: str = Field(json_schema_extra={"enum": list(PROBLEMS)})
    request_id: str = Field(description="Quote it when you ask the operator.")
    retryable: bool = Field(description="Whether the same request may succeed later, unchanged.")
    errors: list[FieldFault] = optional(
        "`invalid_request`, `invalid_batch`: the invalid members.", []
    )
    payout_id: str | None = optional("`quote_already_used`: the payout that used the quote.")
    scope: str | None = optional("`insufficient_scope`: the scope that the key lacks.")
    attempts_left: int | None = optional("`wrong_answer`: how often the person may answer again.")
    limit: str | None = optional("`limit_exceeded`: the name of the limit.")
    frees_at: datetime | None = optional(
        "`limit_exceeded`: when the amount fits again; null: waiting does not help."
    )
    needed: str | None = optional("`insufficient_funds`: what the account lacks.")
    asset: str | None = optional("`insufficient_funds`: the asset that it lacks.")
    network_with_lowest_top_up_fee: str | None = optional(
        "`insufficient_funds`: the network on which it is cheapest to add."
    )
    reasons: list[dict[str, str]] = optional(
        "`no_route`: why each route that fits was left out: `custodian`, `reason`, `detail`.", []
    )


ALWAYS = (
    "missing_api_key",
    "invalid_api_key",
    "api_key_revoked",
    "api_key_expired",
    "insufficient_scope",
    "client_network_not_allowed",
    "org_key_required",
    "rate_limited",
    "internal_error",
    "store_unavailable",
)
BODY = ("invalid_json", "payload_too_large", "unsupported_media_type", "invalid_request")
#: What may be answered to whatever starts a payout.
STARTS = ("database_frozen", "not_accepting")
KEYED = ("invalid_idempotency_key", "idempotency_in_progress", "idempotency_key_reused")
QUOTE = (
    "idempotency_key_required",
    "unsupported_asset",
    "unsupported_network",
    "invalid_destination",
    "amount_too_precise",
    "amount_below_minimum",
    "unknown_account",
    "route_unavailable",
    "no_route",
    "limit_exceeded",
)


def query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """Return a query parameter."""
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": "string", **schema},
    }


PARAMETERS: dict[str, Any] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "1 to 255 visible ASCII characters; a new key for each new payment. Remembered for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "RequiredIdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "1 to 255 visible ASCII characters; a new key for each new payment. Remembered for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "Sandbox": {
        "name": "Gateway-Sandbox",
        "in": "header",
        "description": "`strict` makes test mode consume quotes as live mode does.",
        "schema": {"type": "string", "enum": ["strict"]},
    },
    "Limit": query("limit", "Page size.", type="integer", minimum=1, maximum=200, default=50),
    "Cursor": query("cursor", "`next_cursor` of the previous page, with the same filters."),
    "WebhookId": {
        "name": "webhook-id",
        "in": "header",
        "required": True,
        "description": "The event's id, the same at every attempt. Ignore an event that you have already processed.",
        "schema": {"type": "string"},
    },
    "WebhookTimestamp": {
        "name": "webhook-timestamp",
        "in": "header",
        "required": True,
        "description": "Time of this attempt in Unix seconds. Reject it if it is more than five minutes off.",
        "schema": {"type": "string"},
    },
    "WebhookSignature": {
        "name": "webhook-signature",
        "in": "header",
        "required": True,
        "description": "Signatures, separated by spaces. One `v1,` signature that verifies is enough.",
        "schema": {"type": "string"},
    },
}


def parameter(name: str) -> dict[str, str]:
    """Return a reference to a shared parameter."""
    return {"$ref": f"#/components/parameters/{name}"}


def in_path(name: str) -> dict[str, Any]:
    """Return a path parameter."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def as_json(schema: Any, description: str) -> dict[str, Any]:
    """Return an answer with a JSON body."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def problem_answers(problem: Any, codes: tuple[str, ...]) -> dict[str, Any]:
    """Return the refusals of an operation, grouped by HTTP status."""
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(PROBLEMS[code].status), []).append(code)
    return {
        status: {"description": ", ".join(found), "content": {JSON_TYPE: {"schema": problem}}}
        for status, found in sorted(by_status.items())
    }


def operation(  # noqa: PLR0913 - one argument per part of an operation
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
    scope: Scope | None = None,
    operator_scope: Scope | None = None,
) -> dict[str, Any]:
    """Return one operation with all its answers. `scope`, `operator_scope`: as its route declares them."""
    call: dict[str, Any] = {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "responses": {
            success[0]: success[1],
            **problem_answers(refs[ProblemDocument], codes if public else (*codes, *ALWAYS)),
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
    if scope is not None:
        call["security"] = [{"apiKey": [scope.value]}]
    if operator_scope is not None:
        call["security"].append({"apiKey": [operator_scope.value]})
    return call
