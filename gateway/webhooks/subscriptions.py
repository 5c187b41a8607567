"""What a webhook endpoint is made of, and what is shown of it."""

from __future__ import annotations

import fnmatch
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from gateway.egress import MAX_URL, url_fault
from gateway.errors import Refused
from gateway.model import RequestBody, Text, Time
from gateway.views import EVENT_TYPES, EventHead

EventPattern = Annotated[str, StringConstraints(pattern=r"^[a-z*][a-z_.*]{0,63}$")]
HeaderValue = Annotated[
    str, StringConstraints(pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$", max_length=1024)
]
Headers = Annotated[dict[str, HeaderValue], Field(max_length=20)]
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
#: What the gateway or HTTP itself sets.
_RESERVED = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
_RESERVED_BEGINNINGS = ("webhook-", "proxy-")
#: Headers whose values are credentials: they are sealed, and not shown again.
_CREDENTIALS = frozenset({"authorization", "cookie", "x-api-key"})
MAX_OVERLAP_S = 7 * 86_400
_RATE = Field(ge=1, le=5000, description="Deliveries a second, at most; per process.")


class EndpointRequest(RequestBody):
    """A webhook endpoint to create."""

    model_config = ConfigDict(title="WebhookEndpointRequest")

    url: Annotated[str, StringConstraints(min_length=1)] = Field(
        description=f"Where events are posted: https, {MAX_URL} characters at most."
    )
    event_types: Annotated[list[EventPattern], Field(max_length=50)] = Field(
        default=[],
        description="Event types, `*` allowed; none means all, future ones too. `payout.attention` is sent to "
        "endpoints that name it, whatever else they list.",
    )
    description: Text | None = Field(default=None, description="Your own words.")
    headers: Headers = Field(
        default={},
        description="Headers that are sent along and shown. Credentials belong to `sensitive_headers`.",
    )
    sensitive_headers: Headers = Field(
        default={}, description="Headers that are sent along; only their names are shown again."
    )
    rate_limit_per_second: Annotated[int, _RATE] = 10
    ed25519: bool = Field(
        default=False,
        description="Sign with Ed25519 (`v1a`), too: receivers then need a public key only.",
    )


class EndpointChange(RequestBody):
    """Changes to a webhook endpoint; what is not given stays as it is."""

    model_config = ConfigDict(title="WebhookEndpointChange")

    url: Annotated[str, StringConstraints(min_length=1)] | SkipJsonSchema[None] = None
    event_types: Annotated[list[EventPattern], Field(max_length=50)] | SkipJsonSchema[None] = None
    description: Text | None = Field(
        default=None, description="Your own words; null removes them. No other member may be null."
    )
    headers: Headers | SkipJsonSchema[None] = None
    sensitive_headers: Headers | SkipJsonSchema[None] = None
    rate_limit_per_second: Annotated[int, _RATE] | SkipJsonSchema[None] = None
    ed25519: bool | SkipJsonSchema[None] = None
    status: Literal["enabled", "disabled"] | SkipJsonSchema[None] = Field(
        default=None, description="`enabled` again also recovers what was missed."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _not_null(cls, value: Any, info: ValidationInfo) -> Any:
        # None stands for what is not given. Null would look like a reset, and change nothing.
        if value is None and info.field_name != "description":
            raise PydanticCustomError(
                "null_not_allowed", "must not be null; leave it out to keep it"
            )
        return value


class RotationRequest(RequestBody):
    """How a signing secret is replaced."""

    overlap_seconds: Annotated[int, Field(ge=0, le=MAX_OVERLAP_S)] = Field(
        default=86_400, description="How long the secret before signs beside the new one."
    )


class EndpointView(BaseModel):
    """A webhook endpoint."""

    model_config = ConfigDict(frozen=True, title="WebhookEndpoint")

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    livemode: bool
    url: str
    description: str | None
    event_types: list[str]
    headers: dict[str, str]
    sensitive_headers: list[str] = Field(description="Names only.")
    rate_limit_per_second: int
    public_keys: list[str] = Field(
        description="`whpk_…`: Ed25519 keys that sign for this endpoint; empty without `ed25519`. "
        "More than one while the gateway changes its key: any may verify."
    )
    status: Literal["enabled", "disabled"]
    disabled_reason: Literal["gone", "unwanted", "failing", "by_you"] | None = Field(
        description="`gone`: it answered 410. `unwanted`: it answered `webhook-delivery: disable`. "
        "`failing`: it failed for days."
    )
    disabled_at: Time | None
    failing_since: Time | None = Field(description="The first failure since the last receipt.")
    previous_secret_expires_at: Time | None = Field(
        description="Until then a secret before this one signs, too."
    )
    created_at: Time


class EndpointCreated(EndpointView):
    """An endpoint with its new signing secret, which is shown this once."""

    model_config = ConfigDict(frozen=True, title="WebhookEndpointCreated")

    secret: str


class EndpointEventView(EventHead):
    """An event about a webhook endpoint."""

    model_config = ConfigDict(frozen=True, title="WebhookEndpointEvent")

    data: EndpointView


def audited(view: EndpointView) -> dict[str, Any]:
    """Return what the audit log keeps of an endpoint: no value of a header, no query of its URL.

    Pure. Both may hold secrets of the receiver.
    """
    url, _, query = view.url.partition("?")
    return {
        "url": f"{url}?…" if query else url,
        "event_types": view.event_types,
        "headers": sorted((*view.headers, *view.sensitive_headers)),
        "rate_limit_per_second": view.rate_limit_per_second,
        "ed25519": bool(view.public_keys),
        "status": view.status,
        "mode": "live" if view.livemode else "test",
    }


def check(request: EndpointRequest | EndpointChange, *, live: bool, allow_private: bool) -> None:
    """Refuse what could never be delivered to: a URL, event types, headers.

    Refused: `invalid_request`, with a pointer to the fault.
    """
    if request.url is not None:
        fault = url_fault(request.url, live=live, allow_private=allow_private)
        if fault is not None:
            raise _invalid("/url", fault)
    for index, pattern in enumerate(request.event_types or ()):
        if not any(fnmatch.fnmatchcase(each, pattern) for each in EVENT_TYPES):
            known = ", ".join(EVENT_TYPES)
            raise _invalid(f"/event_types/{index}", f"matches no event type; known: {known}")
    _check_headers(request)


def _check_headers(request: EndpointRequest | EndpointChange) -> None:
    seen: set[str] = set()
    for member in ("headers", "sensitive_headers"):
        for name in getattr(request, member) or ():
            low = name.lower()
            if not _HEADER_NAME.fullmatch(name):
                raise _invalid(f"/{member}", "has a name that no header has")
            if low in _RESERVED or low.startswith(_RESERVED_BEGINNINGS):
                raise _invalid(f"/{member}", f"may not set {low}: the gateway sets it")
            if member == "headers" and low in _CREDENTIALS:
                raise _invalid("/headers", f"may not set {low}: set it in sensitive_headers")
            if low in seen:
                raise _invalid(f"/{member}", f"sets {low} twice")
            seen.add(low)


def _invalid(pointer: str, reason: str) -> Refused:
    name = pointer.split("/")[1]
    return Refused(
        "invalid_request",
        f"{name} {reason}.",
        errors=[{"pointer": pointer, "code": "invalid", "detail": f"{name} {reason}"}],
    )
