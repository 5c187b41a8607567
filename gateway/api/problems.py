"""Every problem code the API answers with: its HTTP status, its title, and what to do about it.

RFC 9457 `application/problem+json`. The code is the contract; the title is for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from gateway.errors import Refused


@dataclass(frozen=True)
class Problem:
    """One row of the table."""

    status: int
    title: str
    advice: str
    retryable: bool = False


PROBLEMS: dict[str, Problem] = {
    "invalid_json": Problem(
        400,
        "Invalid JSON",
        "Send one JSON object in UTF-8, without NaN and without repeated members.",
    ),
    "invalid_cursor": Problem(
        400, "Invalid cursor", "Send next_cursor exactly as you received it, with the same filters."
    ),
    "invalid_idempotency_key": Problem(
        400, "Invalid idempotency key", "Use 1 to 255 visible ASCII characters."
    ),
    "idempotency_key_required": Problem(
        400,
        "Idempotency key required",
        "Send an Idempotency-Key header, with a new key for each new payment.",
    ),
    "missing_api_key": Problem(
        401, "API key missing", "Send the header Authorization: Bearer followed by your key."
    ),
    "invalid_api_key": Problem(
        401, "Unknown API key", "Check the key, or ask the operator for a new one."
    ),
    "api_key_revoked": Problem(401, "API key revoked", "Use an active key."),
    "api_key_expired": Problem(
        401, "API key expired", "Use an active key, or ask the operator for a new one."
    ),
    "invalid_signature": Problem(
        401, "Invalid signature", "Only the custodian may call this address."
    ),
    "insufficient_scope": Problem(
        403, "Scope missing", "Use a key that has the scope named in the member scope."
    ),
    "client_network_not_allowed": Problem(
        403, "Network not allowed", "Call from a network that the key is restricted to."
    ),
    "org_key_required": Problem(
        403,
        "Organisation key required",
        "Use a key of an org: an operator key cannot read or start payouts.",
    ),
    "operator_key_required": Problem(
        403, "Operator key required", "Only the operator may do this."
    ),
    "not_found": Problem(404, "Not found", "Check the path; /openapi.json lists every path."),
    "quote_not_found": Problem(404, "Quote not found", "Request a new quote: POST /payouts/quote."),
    "payout_not_found": Problem(
        404, "Payout not found", "Check the id, and that your key belongs to the same org and mode."
    ),
    "batch_not_found": Problem(
        404, "Batch not found", "Check the id, and that your key belongs to the same org and mode."
    ),
    "event_not_found": Problem(
        404, "Event not found", "Check the id, and that your key belongs to the same org and mode."
    ),
    "endpoint_not_found": Problem(
        404, "Webhook endpoint not found", "Check the id. A deleted endpoint cannot be restored."
    ),
    "recovery_not_found": Problem(
        404,
        "Recovery not found",
        "GET /webhook-endpoints/{id}/recoveries lists the recoveries of an endpoint.",
    ),
    "pause_not_found": Problem(
        404,
        "Pause not found",
        "GET /pauses lists the pauses. Only the side that created a pause can end it.",
    ),
    "custodian_not_found": Problem(
        404, "Custodian not found", "Use the name of a configured custodian instance."
    ),
    "method_not_allowed": Problem(
        405, "Method not allowed", "The Allow header lists the allowed methods."
    ),
    "request_timeout": Problem(
        408, "Request timed out", "Send the body without delay.", retryable=True
    ),
    "batch_already_executed": Problem(
        409,
        "Batch already executed",
        "Read the batch: GET /payout-batches/{id}. Do not create it again.",
    ),
    "batch_ended": Problem(
        409,
        "Batch has ended",
        "Its report shows the result of each payout. To pay more, create another batch.",
    ),
    "quote_already_used": Problem(
        409, "Quote already used", "Read the payout named in payout_id. Do not pay again."
    ),
    "idempotency_in_progress": Problem(
        409, "Request in progress", "Retry unchanged after Retry-After.", retryable=True
    ),
    "action_not_required": Problem(
        409,
        "No answer required",
        "Read the payout: it has advanced, or now requires something else.",
    ),
    "action_expired": Problem(
        409, "Too late to answer", "The payout fails and nothing is sent. Create a new one."
    ),
    "confirm_in_progress": Problem(
        409, "Answer in progress", "Read the payout, or retry after Retry-After.", retryable=True
    ),
    "payout_busy": Problem(
        409,
        "Payout busy",
        "The gateway is working on this payout. Retry after Retry-After.",
        retryable=True,
    ),
    "custodian_removed": Problem(
        409,
        "Custodian not configured",
        "Ask the gateway's operator: the payout stays as it is until they configure its custodian "
        "again or end the payout.",
    ),
    "cancel_too_late": Problem(
        409, "Too late to cancel", "Read the payout and wait until it ends."
    ),
    "cancel_unsupported": Problem(
        409,
        "Cancellation not supported",
        "The custodian cannot cancel this payout, or cannot be asked. Wait until it ends.",
    ),
    "paused": Problem(
        409,
        "Paused",
        "Nothing was done. Retry after Retry-After, once the pause has ended; existing "
        "payouts wait.",
        retryable=True,
    ),
    "endpoint_disabled": Problem(
        409, "Webhook endpoint disabled", 'Enable it first: PATCH it with {"status": "enabled"}.'
    ),
    "endpoint_busy": Problem(
        409,
        "Webhook endpoint busy",
        "An endpoint runs one test at a time, between its deliveries. Retry after Retry-After.",
        retryable=True,
    ),
    "too_many_secrets": Problem(
        409, "Too many secrets", "Revoke the previous secrets, or wait until one expires."
    ),
    "endpoint_quota_reached": Problem(
        409,
        "Too many webhook endpoints",
        "Delete an endpoint that you do not need, then create the new one with a new "
        "Idempotency-Key.",
    ),
    "payload_too_large": Problem(413, "Body too large", "Send a smaller body."),
    "unsupported_media_type": Problem(
        415, "Unsupported media type", "Send the header Content-Type: application/json."
    ),
    "invalid_batch": Problem(
        422, "Invalid batch", "Fix the payouts listed in errors and send the whole batch again."
    ),
    "invalid_request": Problem(422, "Invalid request", "Fix the members listed in errors."),
    "idempotency_key_reused": Problem(
        422,
        "Idempotency key reused",
        "The key was already used with another body. Use a new key for a new payment.",
    ),
    "quote_expired": Problem(422, "Quote expired", "Request a new quote."),
    "unsupported_asset": Problem(422, "Unknown asset", "Use one of the assets listed in detail."),
    "unsupported_network": Problem(
        422, "Unsupported network", "Use one of the networks listed in detail."
    ),
    "invalid_destination": Problem(
        422, "Invalid destination", "Check the destination with the recipient. Nothing was sent."
    ),
    "amount_too_precise": Problem(
        422, "Amount too precise", "Send no more decimal places than the asset has."
    ),
    "amount_below_minimum": Problem(
        422, "Amount too small", "Send an amount above zero and above the fee."
    ),
    "unknown_account": Problem(
        422, "Source account not configured", "Use an account that the operator has configured."
    ),
    "route_unavailable": Problem(422, "No route", "GET /custodians lists what can be paid."),
    "no_route": Problem(
        422,
        "No route at the moment",
        "The member reasons gives the cause for each matching route. If retryable is true, one of the causes is "
        "temporary (paused, no answer, no funds): retry unchanged after Retry-After.",
    ),
    "limit_exceeded": Problem(
        422,
        "Limit exceeded",
        "The member limit names the limit. Retry with a new Idempotency-Key after "
        "frees_at; if that is null, waiting does not help. The quote is still unused.",
    ),
    "insufficient_funds": Problem(
        422,
        "Insufficient funds",
        "Fund the account: the member needed is the missing amount, in asset. Then send the request again with "
        "a new Idempotency-Key. The quote is still unused.",
    ),
    "balance_unknown": Problem(
        503,
        "Balance unknown",
        "The account's balance is too old. Nothing was done, and the quote is still unused. Retry after "
        "Retry-After.",
        retryable=True,
    ),
    "wrong_answer": Problem(
        422, "Wrong answer", "Ask the person again; attempts_left says how many attempts remain."
    ),
    "rate_limited": Problem(
        429,
        "Too many requests",
        "Nothing was done, and no quote or key was used. Retry unchanged after Retry-After.",
        retryable=True,
    ),
    "internal_error": Problem(
        500,
        "Internal error",
        "Retry with the same Idempotency-Key. If the error persists, report the request_id.",
        retryable=True,
    ),
    "store_unavailable": Problem(
        503, "Database unavailable", "Retry after Retry-After.", retryable=True
    ),
    "database_frozen": Problem(
        503,
        "Database frozen",
        "Nothing was done. The operator has to check the database first. Retry after Retry-After.",
        retryable=True,
    ),
    "not_accepting": Problem(
        503,
        "Not accepting yet",
        "Nothing was done. Existing payouts can be read. Retry after Retry-After.",
        retryable=True,
    ),
    "confirm_not_sent": Problem(
        503,
        "Answer not sent",
        "Nothing was sent, and the payout still requires an answer. Answer again after "
        "Retry-After.",
        retryable=True,
    ),
    "cannot_verify": Problem(
        503, "Cannot verify now", "Deliver the webhook again later.", retryable=True
    ),
}
JSON_TYPE = "application/problem+json"


def may_succeed_later(refused: Refused) -> bool:
    """Return whether the same request may succeed later, unchanged. Such a refusal is kept under no key."""
    if refused.retryable is not None:
        return refused.retryable
    return PROBLEMS[refused.code].retryable


def problem_body(  # noqa: PLR0913 - one argument per member
    code: str,
    detail: str,
    *,
    public_url: str,
    request_id: str,
    errors: Sequence[Mapping[str, str]] = (),
    members: Mapping[str, Any] | None = None,
    retryable: bool | None = None,
) -> bytes:
    """Return the bytes of a problem document. `retryable`: instead of what the code's row says."""
    problem = PROBLEMS[code]
    body: dict[str, Any] = {
        "type": f"{public_url.rstrip('/')}/docs/problems#{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": f"/requests/{request_id}",
        "code": code,
        "request_id": request_id,
        "retryable": problem.retryable if retryable is None else retryable,
    }
    if errors:
        body["errors"] = [dict(each) for each in errors]
    return json.dumps(
        {**body, **(members or {})}, ensure_ascii=False, separators=(",", ":")
    ).encode()


def problem_response(refused: Refused, *, public_url: str, request_id: str) -> Response:
    """Return the answer to a refused request."""
    headers = dict(refused.headers)
    status = PROBLEMS[refused.code].status
    if status == 401:  # noqa: PLR2004 - RFC 9110 wants the challenge
        headers.setdefault("WWW-Authenticate", "Bearer")
    body = problem_body(
        refused.code,
        refused.detail,
        public_url=public_url,
        request_id=request_id,
        errors=refused.errors,
        members=refused.members,
        retryable=refused.retryable,
    )
    return Response(body, status, headers, media_type=JSON_TYPE)
