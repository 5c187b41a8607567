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
        400, "Invalid JSON", "Send one JSON object in UTF-8, without NaN or doubled members."
    ),
    "invalid_cursor": Problem(
        400, "Invalid cursor", "Use next_cursor as it came, with the same filters."
    ),
    "invalid_idempotency_key": Problem(
        400, "Invalid idempotency key", "Use 1 to 255 visible ASCII characters."
    ),
    "idempotency_key_required": Problem(
        400,
        "Idempotency-Key required",
        "Send an Idempotency-Key header, a new one for each new intent.",
    ),
    "missing_api_key": Problem(401, "API key missing", "Send Authorization: Bearer with your key."),
    "invalid_api_key": Problem(
        401, "API key not known", "Check the key, or have a new one minted."
    ),
    "api_key_revoked": Problem(401, "API key revoked", "Use a key that is alive."),
    "api_key_expired": Problem(401, "API key expired", "Use an active key, or have one minted."),
    "invalid_signature": Problem(
        401, "Signature not valid", "Only the custodian may call this address."
    ),
    "insufficient_scope": Problem(
        403, "Scope missing", "Use a key with the scope that the member scope names."
    ),
    "client_network_not_allowed": Problem(
        403, "Network not allowed", "Call from a network that the key is bound to."
    ),
    "org_key_required": Problem(
        403, "Key of an org required", "A key of the operator reads and starts no payouts."
    ),
    "operator_key_required": Problem(
        403, "Key of the operator required", "Only the operator may do this."
    ),
    "not_found": Problem(404, "Not found", "Check the path; /openapi.json lists them all."),
    "quote_not_found": Problem(404, "Quote not found", "Ask for a quote: POST /payouts/quote."),
    "payout_not_found": Problem(
        404, "Payout not found", "Check the id, and that the key is of its org and mode."
    ),
    "batch_not_found": Problem(
        404, "Batch not found", "Check the id, and that the key is of its org and mode."
    ),
    "event_not_found": Problem(
        404, "Event not found", "Check the id, and that the key is of its org and mode."
    ),
    "endpoint_not_found": Problem(
        404, "Webhook endpoint not found", "Check the id; a deleted one is gone."
    ),
    "recovery_not_found": Problem(
        404, "Recovery not found", "GET /webhook-endpoints/{id}/recoveries lists them."
    ),
    "pause_not_found": Problem(
        404, "Pause not found", "GET /pauses lists them; only who has paused may resume."
    ),
    "custodian_not_found": Problem(
        404, "Custodian not found", "Use the name of a configured instance."
    ),
    "method_not_allowed": Problem(405, "Method not allowed", "The Allow header lists the methods."),
    "request_timeout": Problem(408, "Request timed out", "Send the body at once.", retryable=True),
    "batch_already_executed": Problem(
        409, "Batch already executed", "Read it: GET /payout-batches/{id}. Do not create it again."
    ),
    "batch_ended": Problem(
        409, "Batch has ended", "Its report says what became of each payout; create another one."
    ),
    "quote_already_used": Problem(
        409, "Quote already used", "Read the payout in payout_id; do not pay again."
    ),
    "idempotency_in_progress": Problem(
        409, "Request still running", "Repeat it unchanged after Retry-After.", retryable=True
    ),
    "action_not_required": Problem(
        409, "Nothing is asked for", "Read the payout; it has gone on, or asks for something else."
    ),
    "action_expired": Problem(
        409, "Too late to answer", "The payout fails without having sent anything; make a new one."
    ),
    "confirm_in_progress": Problem(
        409, "An answer is under way", "Read the payout; repeat after Retry-After.", retryable=True
    ),
    "payout_busy": Problem(409, "Payout in hand", "Repeat it after Retry-After.", retryable=True),
    "cancel_too_late": Problem(409, "Too late to cancel", "Read the payout and wait for its end."),
    "cancel_unsupported": Problem(
        409, "Cannot be canceled", "The custodian cannot call it back; wait for its end."
    ),
    "paused": Problem(
        409,
        "Paused",
        "Nothing was done. Repeat it after Retry-After, once it is resumed; a payout that exists waits.",
        retryable=True,
    ),
    "endpoint_disabled": Problem(
        409, "Webhook endpoint disabled", "Enable it: PATCH it with status enabled."
    ),
    "endpoint_busy": Problem(
        409,
        "Webhook endpoint busy",
        "One test at a time, in turn with deliveries: repeat it after Retry-After.",
        retryable=True,
    ),
    "too_many_secrets": Problem(
        409, "Too many secrets", "End the previous ones, or wait until one has ended."
    ),
    "endpoint_quota_reached": Problem(
        409,
        "Too many webhook endpoints",
        "Delete one that is not needed, then create the new one with a new Idempotency-Key.",
    ),
    "payload_too_large": Problem(413, "Body too large", "Send less."),
    "unsupported_media_type": Problem(
        415, "Media type not supported", "Send Content-Type: application/json."
    ),
    "invalid_batch": Problem(
        422, "Batch not valid", "Mend the payouts in errors and send the whole batch again."
    ),
    "invalid_request": Problem(
        422, "Request not valid", "Mend the members that errors[] points to."
    ),
    "idempotency_key_reused": Problem(
        422,
        "Idempotency key reused",
        "The key was used with another body: take a new key for a new intent.",
    ),
    "quote_expired": Problem(422, "Quote expired", "Ask for a new quote."),
    "unsupported_asset": Problem(
        422, "Asset not known", "Use one of the assets that detail lists."
    ),
    "unsupported_network": Problem(
        422, "Network not supported", "Use one of the networks that detail lists."
    ),
    "invalid_destination": Problem(
        422, "Destination not valid", "Check it with its owner; nothing was sent."
    ),
    "amount_too_precise": Problem(
        422, "Amount too precise", "Send no more decimals than the asset has."
    ),
    "amount_below_minimum": Problem(
        422, "Amount too small", "Send more than the fee, and more than zero."
    ),
    "unknown_account": Problem(
        422, "Source account not configured", "Use an account that the operator configured."
    ),
    "route_unavailable": Problem(422, "No route", "GET /custodians lists what can be paid."),
    "no_route": Problem(
        422,
        "No route now",
        "The member reasons says why each route that fits was left out. Some of them pass: ask again later.",
    ),
    "limit_exceeded": Problem(
        422,
        "Limit exceeded",
        "The member limit names it. Take a new Idempotency-Key after frees_at; null: waiting does not help. "
        "The quote is not used up.",
    ),
    "insufficient_funds": Problem(
        422,
        "Insufficient funds",
        "Fund the account: the member needed says how much more it needs, in asset. Then send it again with a "
        "new Idempotency-Key. The quote is not used up.",
    ),
    "balance_unknown": Problem(
        503,
        "Balance not known",
        "The account's balance could not be read lately. Nothing was done, and the quote is not used up: send "
        "it again after Retry-After.",
        retryable=True,
    ),
    "wrong_answer": Problem(
        422, "Wrong answer", "Ask the person again; attempts_left says how often."
    ),
    "rate_limited": Problem(
        429,
        "Too many requests",
        "Nothing was done, and no quote or key was used. Repeat it unchanged after Retry-After.",
        retryable=True,
    ),
    "internal_error": Problem(
        500,
        "Internal error",
        "Repeat with the same Idempotency-Key; report request_id if it stays.",
        retryable=True,
    ),
    "store_unavailable": Problem(
        503, "Store not available", "Repeat after Retry-After.", retryable=True
    ),
    "database_frozen": Problem(
        503,
        "Database frozen",
        "Nothing was done. Repeat after Retry-After; the operator has to check the database first.",
        retryable=True,
    ),
    "not_accepting": Problem(
        503,
        "Not accepting yet",
        "Nothing was done. Repeat after Retry-After; payouts that exist can be read.",
        retryable=True,
    ),
    "confirm_not_sent": Problem(
        503,
        "Answer not sent",
        "Nothing was sent, and the payout still asks: answer again after Retry-After.",
        retryable=True,
    ),
    "cannot_verify": Problem(503, "Cannot verify now", "Deliver it again later.", retryable=True),
}
JSON_TYPE = "application/problem+json"


def problem_body(  # noqa: PLR0913 - one argument per member
    code: str,
    detail: str,
    *,
    public_url: str,
    request_id: str,
    errors: Sequence[Mapping[str, str]] = (),
    members: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the bytes of a problem document."""
    problem = PROBLEMS[code]
    body: dict[str, Any] = {
        "type": f"{public_url.rstrip('/')}/docs/problems#{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": f"/requests/{request_id}",
        "code": code,
        "request_id": request_id,
        "retryable": problem.retryable,
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
    )
    return Response(body, status, headers, media_type=JSON_TYPE)
