"""Webhook endpoints: subscriptions of an org. The signing secret is shown once and sealed at rest."""

from __future__ import annotations

import fnmatch
import json
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.config import Settings
from gateway.errors import Refused
from gateway.keys import Caller
from gateway.model import Text, Time
from gateway.seams import Seams
from gateway.signing import SECRET_BYTES, secret_text
from gateway.store import endpoints as rows
from gateway.store import events as event_rows
from gateway.store.database import Row, Tx
from gateway.store.rows import from_us, to_json, to_us
from gateway.vault import Vault
from gateway.views import EVENT_OF

EVENT_TYPES = tuple(EVENT_OF.values())
MAX_URL = 2048
EventPattern = Annotated[str, StringConstraints(pattern=r"^[a-z*][a-z_.*]{0,63}$")]


class EndpointRequest(BaseModel):
    """What an endpoint is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: Annotated[str, StringConstraints(min_length=1)] = Field(
        description=f"Where events are posted: https, {MAX_URL} characters at most."
    )
    event_types: Annotated[list[EventPattern], Field(max_length=50)] = Field(
        default=[], description="Event types, `*` allowed; none means all, future ones too."
    )
    description: Text | None = Field(default=None, description="Your own words.")


class EndpointView(BaseModel):
    """A webhook endpoint."""

    model_config = ConfigDict(frozen=True, title="WebhookEndpoint")

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    livemode: bool
    url: str
    description: str | None
    event_types: list[str]
    status: str
    created_at: Time


class EndpointCreated(EndpointView):
    """A new endpoint with its signing secret, which is shown this once."""

    model_config = ConfigDict(frozen=True, title="WebhookEndpointCreated")

    secret: str


class Endpoints:
    """Use cases of webhook endpoints. Its methods are store functions."""

    def __init__(self, seams: Seams, vault: Vault, settings: Settings) -> None:
        self._seams = seams
        self._vault = vault
        self._private = settings.webhooks.allow_private_addresses

    async def create(self, tx: Tx, caller: Caller, request: EndpointRequest) -> EndpointCreated:
        """Create an endpoint. Refused: `invalid_request`, with what is wrong."""
        self.check(caller, request)
        now = self._seams.clock.now()
        endpoint_id = self._seams.ids.new("whe")
        secret = self._seams.ids.random_bytes(SECRET_BYTES)
        await rows.insert_endpoint(
            tx,
            id=endpoint_id,
            org=caller.org,
            mode=caller.mode,
            url=request.url,
            description=request.description,
            event_types=to_json(list(request.event_types)),
            secret=self._vault.seal(secret, bound_to=endpoint_id),
            status="enabled",
            created_at=to_us(now),
        )
        row = await rows.find_endpoint(tx, endpoint_id, caller.org, caller.mode)
        assert row is not None  # noqa: S101 - written in this transaction
        return EndpointCreated(**_members(row), secret=secret_text(secret))

    async def get(self, tx: Tx, caller: Caller, endpoint_id: str) -> EndpointView:
        """Return an org's endpoint. Refused: `endpoint_not_found`."""
        row = await rows.find_endpoint(tx, endpoint_id, caller.org, caller.mode)
        if row is None:
            raise _unknown(endpoint_id)
        return EndpointView(**_members(row))

    async def page(
        self, tx: Tx, caller: Caller, after_id: str | None, limit: int
    ) -> list[EndpointView]:
        """Return an org's endpoints, newest first."""
        found = await rows.list_endpoints(tx, caller.org, caller.mode, after_id, limit)
        return [EndpointView(**_members(row)) for row in found]

    async def delete(self, tx: Tx, caller: Caller, endpoint_id: str) -> None:
        """Delete an endpoint; its pending deliveries are skipped. Refused: `endpoint_not_found`."""
        now = to_us(self._seams.clock.now())
        if not await rows.delete_endpoint(tx, endpoint_id, caller.org, caller.mode, now):
            raise _unknown(endpoint_id)
        await event_rows.skip_deliveries(tx, endpoint_id, now)

    def check(self, caller: Caller, request: EndpointRequest) -> None:
        """Refuse a URL that could never be delivered to, or event types that do not exist."""
        reason = self._url_fault(caller, request.url)
        if reason is not None:
            raise _invalid("/url", reason)
        for index, pattern in enumerate(request.event_types):
            if not any(fnmatch.fnmatchcase(each, pattern) for each in EVENT_TYPES):
                known = ", ".join(EVENT_TYPES)
                raise _invalid(f"/event_types/{index}", f"matches no event type; known: {known}")

    def _url_fault(self, caller: Caller, url: str) -> str | None:  # noqa: PLR0911 - one per rule
        if len(url) > MAX_URL:
            return f"has {len(url)} characters; {MAX_URL} are allowed"
        if not url.isascii() or any(each <= " " or each == "\\" for each in url):
            return "has characters that no URL has; encode them"
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            return "is not a URL"
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return "must be an absolute https:// URL"
        if parts.scheme == "http" and caller.mode == "live" and not self._private:
            return "must be https in live mode"
        if parts.username is not None or parts.password is not None:
            return "must not carry a user name or password"
        return "must not carry a fragment" if "#" in url else None


def _members(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "livemode": row["mode"] == "live",
        "url": row["url"],
        "description": row["description"],
        "event_types": json.loads(row["event_types"]),
        "status": row["status"],
        "created_at": from_us(row["created_at"]),
    }


def _unknown(endpoint_id: str) -> Refused:
    return Refused(
        "endpoint_not_found", f"There is no webhook endpoint {endpoint_id[:64]} under this API key."
    )


def _invalid(pointer: str, reason: str) -> Refused:
    name = pointer.split("/")[1]
    return Refused(
        "invalid_request",
        f"{name} {reason}.",
        errors=[{"pointer": pointer, "code": "invalid", "detail": f"{name} {reason}"}],
    )
