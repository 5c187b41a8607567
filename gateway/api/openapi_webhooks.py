"""Webhook endpoints, events and their replays, in the OpenAPI document; the schema of each event."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model

from gateway.api.endpoints import EndpointList, WebhookKeys
from gateway.api.openapi_examples import event_example
from gateway.api.operations import (
    BODY,
    KEYED,
    PARAMETERS,
    as_json,
    in_path,
    operation,
    parameter,
    query,
)
from gateway.api.replay import AttemptList, EndpointTest, EndpointTestRequest, RecoveryList
from gateway.batches.schemas import BatchEventView
from gateway.keys import Scope
from gateway.views import BATCH_EVENTS, ENDPOINT_EVENTS, EVENT_TYPES, EventView
from gateway.webhooks.replay import Recovery, RecoveryRequest, ResendRequest, Resent
from gateway.webhooks.subscriptions import (
    EndpointChange,
    EndpointCreated,
    EndpointEventView,
    EndpointRequest,
    EndpointView,
    RotationRequest,
)


def event_name(kind: str) -> str:
    """Return the name of the schema of an event type. Pure."""
    return "".join(part.title() for part in kind.replace("_", ".").split(".")) + "Event"


def _event_model(kind: str) -> type[BaseModel]:
    """Return the model of one event type: its `type` is a constant."""
    base: type[BaseModel] = EventView
    if kind in ENDPOINT_EVENTS:
        base = EndpointEventView
    elif kind in BATCH_EVENTS:
        base = BatchEventView
    title = event_name(kind)
    made: type[BaseModel] = create_model(
        title,
        __base__=base,
        __doc__=f"{EVENT_TYPES[kind]}.",
        type=(Literal[kind], ...),  # type: ignore[arg-type]
    )
    made.model_config = ConfigDict(frozen=True, title=title)
    made.model_rebuild(force=True)
    return made


#: The model of each event type.
EVENT_MODELS = {kind: _event_model(kind) for kind in EVENT_TYPES}


class AnyEvent(RootModel[Any]):
    """An event, as a webhook brings it and the feed lists it; `type` tells which kind it is."""

    model_config = ConfigDict(title="Event")

    root: Annotated[Union[tuple(EVENT_MODELS.values())], Field(discriminator="type")]  # type: ignore[valid-type]  # noqa: UP007 - of a computed tuple


class EventList(BaseModel):
    """A page of events, oldest first. `next_cursor` is never null: keep it, and ask again later."""

    data: list[AnyEvent]
    next_cursor: str
    has_more: bool


SENT = (
    EndpointRequest,
    EndpointChange,
    RotationRequest,
    EndpointTestRequest,
    RecoveryRequest,
    ResendRequest,
)
TOLD: tuple[type[BaseModel], ...] = (
    EndpointView,
    EndpointCreated,
    EndpointList,
    WebhookKeys,
    EndpointTest,
    Recovery,
    RecoveryList,
    AttemptList,
    Resent,
    AnyEvent,
    EventList,
    *EVENT_MODELS.values(),
)
_LISTS = ("invalid_cursor", "invalid_request")
_ENDPOINT = "/webhook-endpoints/{endpoint_id}"
_CREATED = {
    "Location": {"description": "Path of the created object.", "schema": {"type": "string"}}
}


def paths(refs: dict[Any, Any]) -> dict[str, Any]:
    """Return the operations."""
    return {**_endpoints(refs), **_replays(refs), **_events(refs)}


def _endpoints(refs: dict[Any, Any]) -> dict[str, Any]:
    endpoint = (in_path("endpoint_id"),)
    return {
        "/webhook-endpoints": {
            "post": operation(
                refs,
                "createWebhookEndpoint",
                "webhook-endpoints",
                "Subscribe to events",
                (
                    "201",
                    {
                        **as_json(
                            refs[EndpointCreated], "The endpoint; its secret is shown this once."
                        ),
                        "headers": _CREATED,
                    },
                ),
                (*BODY, *KEYED, "endpoint_quota_reached"),
                description="An org has a quota of endpoints in each mode.",
                parameters=(parameter("IdempotencyKey"),),
                body=refs[EndpointRequest],
                scope=Scope.WEBHOOKS_WRITE,
            ),
            "get": operation(
                refs,
                "listWebhookEndpoints",
                "webhook-endpoints",
                "List webhook endpoints, newest first",
                ("200", as_json(refs[EndpointList], "A page of endpoints.")),
                _LISTS,
                parameters=(parameter("Limit"), parameter("Cursor")),
                scope=Scope.EVENTS_READ,
            ),
        },
        _ENDPOINT: {
            "get": operation(
                refs,
                "getWebhookEndpoint",
                "webhook-endpoints",
                "Read a webhook endpoint",
                ("200", as_json(refs[EndpointView], "The endpoint.")),
                ("endpoint_not_found",),
                parameters=endpoint,
                scope=Scope.EVENTS_READ,
            ),
            "patch": operation(
                refs,
                "updateWebhookEndpoint",
                "webhook-endpoints",
                "Change, disable or enable a webhook endpoint",
                ("200", as_json(refs[EndpointView], "The endpoint.")),
                (*BODY, "endpoint_not_found"),
                description="Enabling an endpoint again also recovers what it missed: see its recoveries.",
                parameters=endpoint,
                body=refs[EndpointChange],
                scope=Scope.WEBHOOKS_WRITE,
            ),
            "delete": operation(
                refs,
                "deleteWebhookEndpoint",
                "webhook-endpoints",
                "Delete a webhook endpoint",
                ("204", {"description": "Deleted; pending deliveries are skipped."}),
                ("endpoint_not_found",),
                parameters=endpoint,
                scope=Scope.WEBHOOKS_WRITE,
            ),
        },
        "/.well-known/webhook-keys.json": {
            "get": operation(
                refs,
                "getWebhookKeys",
                "webhook-endpoints",
                "Read the public keys that sign for an endpoint",
                ("200", as_json(refs[WebhookKeys], "The keys; none unless `ed25519` is on.")),
                ("invalid_request", "rate_limited", "internal_error", "store_unavailable"),
                description="Needs no API key, so that a receiver can fetch them by itself.",
                parameters=({**query("endpoint_id", "The endpoint (whe_…)."), "required": True},),
                public=True,
            )
        },
        f"{_ENDPOINT}/rotate-secret": {
            "post": operation(
                refs,
                "rotateWebhookSecret",
                "webhook-endpoints",
                "Replace the signing secret",
                ("200", as_json(refs[EndpointCreated], "The endpoint with its new secret.")),
                (*BODY, *KEYED, "endpoint_not_found", "too_many_secrets"),
                description="During the overlap, every delivery carries a signature with each secret.",
                parameters=(*endpoint, parameter("IdempotencyKey")),
                body=refs[RotationRequest],
                scope=Scope.WEBHOOKS_WRITE,
            )
        },
        f"{_ENDPOINT}/previous-secrets": {
            "delete": operation(
                refs,
                "revokePreviousWebhookSecrets",
                "webhook-endpoints",
                "Revoke the previous secrets now",
                ("204", {"description": "Only the current secret signs."}),
                ("endpoint_not_found",),
                parameters=endpoint,
                scope=Scope.WEBHOOKS_WRITE,
            )
        },
        f"{_ENDPOINT}/test": {
            "post": operation(
                refs,
                "testWebhookEndpoint",
                "webhook-endpoints",
                "Send an example event",
                ("200", as_json(refs[EndpointTest], "What the endpoint answered.")),
                (*BODY, "endpoint_not_found", "endpoint_disabled", "endpoint_busy"),
                description='One attempt, signed as usual, with `"test": true` in the body. It does not appear in '
                "the feed. It takes turns with the endpoint's deliveries, within its rate limit; an endpoint "
                "runs one test at a time.",
                parameters=endpoint,
                body=refs[EndpointTestRequest],
                scope=Scope.WEBHOOKS_WRITE,
            )
        },
    }


def _replays(refs: dict[Any, Any]) -> dict[str, Any]:
    endpoint = (in_path("endpoint_id"),)
    page = (parameter("Limit"), parameter("Cursor"))
    return {
        f"{_ENDPOINT}/recover": {
            "post": operation(
                refs,
                "recoverWebhooks",
                "webhook-endpoints",
                "Send missed events again",
                ("202", {**as_json(refs[Recovery], "The job."), "headers": _CREATED}),
                (*BODY, *KEYED, "endpoint_not_found", "endpoint_disabled"),
                description="Events of the period that the endpoint subscribes to and has not received. Those that "
                "wait for their next try are sent at once.",
                parameters=(*endpoint, parameter("IdempotencyKey")),
                body=refs[RecoveryRequest],
                scope=Scope.WEBHOOKS_WRITE,
            )
        },
        f"{_ENDPOINT}/recoveries": {
            "get": operation(
                refs,
                "listRecoveries",
                "webhook-endpoints",
                "List recoveries, newest first",
                ("200", as_json(refs[RecoveryList], "The newest recoveries.")),
                ("endpoint_not_found", "invalid_request"),
                parameters=endpoint,
                scope=Scope.EVENTS_READ,
            )
        },
        f"{_ENDPOINT}/recoveries/{{recovery_id}}": {
            "get": operation(
                refs,
                "getRecovery",
                "webhook-endpoints",
                "Read a recovery",
                ("200", as_json(refs[Recovery], "The job.")),
                ("recovery_not_found",),
                parameters=(*endpoint, in_path("recovery_id")),
                scope=Scope.EVENTS_READ,
            )
        },
        f"{_ENDPOINT}/attempts": {
            "get": operation(
                refs,
                "listEndpointAttempts",
                "webhook-endpoints",
                "List the delivery attempts of an endpoint, newest first",
                ("200", as_json(refs[AttemptList], "A page of delivery attempts.")),
                (*_LISTS, "endpoint_not_found"),
                parameters=(*endpoint, *page),
                scope=Scope.EVENTS_READ,
            )
        },
        "/events/{event_id}/attempts": {
            "get": operation(
                refs,
                "listEventAttempts",
                "events",
                "List the delivery attempts of an event, newest first",
                ("200", as_json(refs[AttemptList], "A page of delivery attempts.")),
                (*_LISTS, "event_not_found"),
                parameters=(in_path("event_id"), *page),
                scope=Scope.EVENTS_READ,
            )
        },
        "/events/{event_id}/resend": {
            "post": operation(
                refs,
                "resendEvent",
                "events",
                "Send an event again",
                ("202", as_json(refs[Resent], "Where it is sent.")),
                (*BODY, *KEYED, "event_not_found", "endpoint_not_found", "endpoint_disabled"),
                description="The `webhook-id` and the body stay the same. A success also ends the automatic retries.",
                parameters=(in_path("event_id"), parameter("IdempotencyKey")),
                body=refs[ResendRequest],
                scope=Scope.WEBHOOKS_WRITE,
            )
        },
    }


def _events(refs: dict[Any, Any]) -> dict[str, Any]:
    return {
        "/events": {
            "get": operation(
                refs,
                "listEvents",
                "events",
                "Read events, oldest first",
                ("200", as_json(refs[EventList], "A page of events.")),
                _LISTS,
                description="Store `next_cursor` and continue from it later: the feed has every event, including those "
                "that a webhook missed.",
                parameters=(
                    query("type", "Event type.", enum=sorted(EVENT_TYPES)),
                    query("payout_id", "Payout."),
                    query(
                        "start",
                        "Without a cursor: `now` begins after the newest event.",
                        enum=["beginning", "now"],
                        default="beginning",
                    ),
                    parameter("Limit"),
                    parameter("Cursor"),
                ),
                scope=Scope.EVENTS_READ,
            )
        },
        "/events/{event_id}": {
            "get": operation(
                refs,
                "getEvent",
                "events",
                "Read an event",
                ("200", as_json(refs[AnyEvent], "The event.")),
                ("event_not_found",),
                parameters=(in_path("event_id"),),
                scope=Scope.EVENTS_READ,
            )
        },
    }


def webhooks() -> dict[str, Any]:
    """Return where each request that the gateway sends is described, by event type.

    The requests themselves are path items of the components: `openapi-generator` makes clients for
    TypeScript that do not compile from webhooks that have their operations in place.
    """
    return {kind: {"$ref": f"#/components/pathItems/{webhook_name(kind)}"} for kind in EVENT_MODELS}


def webhook_name(kind: str) -> str:
    """Return the name of the path item, and of the operation, of an event type. Pure."""
    return "on" + event_name(kind).removesuffix("Event")


def webhook_items(refs: dict[Any, Any]) -> dict[str, Any]:
    """Return the requests that the gateway sends to subscribers, by name."""
    # In place, not by reference: `openapi-generator` takes references in a path item for doubles.
    headers = [PARAMETERS[name] for name in ("WebhookId", "WebhookTimestamp", "WebhookSignature")]
    return {
        webhook_name(kind): {
            "post": {
                "operationId": webhook_name(kind),
                "tags": ["webhooks"],
                "summary": EVENT_TYPES[kind],
                "parameters": headers,
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": refs[model],
                            "example": event_example(kind),
                        }
                    },
                },
                "responses": {
                    "2XX": {"description": "Received."},
                    "410": {"description": "No longer wanted: the endpoint is disabled."},
                    "4XX": {"description": "Any other answer: sent again by the retry plan."},
                },
                "security": [],
            }
        }
        for kind, model in EVENT_MODELS.items()
    }
