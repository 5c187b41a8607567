"""Webhook endpoints: subscriptions of an org. Secrets are shown once, and sealed at rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any

from gateway.caller import Caller
from gateway.config.settings import Settings
from gateway.errors import ConfigError, Refused
from gateway.events import Event, publish
from gateway.model import format_time
from gateway.runtime import Runtime
from gateway.signing import SECRET_BYTES, public_key_text, secret_text
from gateway.store import deliveries
from gateway.store import endpoints as rows
from gateway.store.database import Row, Tx
from gateway.store.rows import from_us, to_json, to_us
from gateway.vault import Vault
from gateway.views import API_VERSION
from gateway.webhooks.sender import Target
from gateway.webhooks.subscriptions import (
    MAX_OVERLAP_S,
    EndpointChange,
    EndpointCreated,
    EndpointRequest,
    EndpointView,
    check,
)

#: How many secrets may sign at once, the present one among them.
MAX_SECRETS = 3


@dataclass(frozen=True)
class Found:
    """An enabled endpoint as a delivery needs it."""

    target: Target
    failing: bool
    #: deliveries a second, at most
    rate: int


@dataclass(frozen=True)
class SetAside:
    """An enabled endpoint to which nothing can be delivered: what is stored of it does not open."""

    why: str


class Endpoints:
    """Use cases of webhook endpoints. Its methods are store functions."""

    def __init__(self, runtime: Runtime, vault: Vault, settings: Settings) -> None:
        self._runtime = runtime
        self._vault = vault
        self._private = settings.webhooks.allow_private_addresses
        self._quota = settings.webhooks.endpoints_per_org
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Have a function called with an endpoint's id each time that this process has changed the endpoint.

        On the event loop, after the commit. It has to return at once and must not raise.
        """
        self._listeners.append(listener)

    def _changed(self, tx: Tx, endpoint_id: str) -> None:
        """Have the listeners called once the change of an endpoint is durable."""

        def over(committed: bool) -> None:  # noqa: FBT001 - as the store calls it
            if committed:
                for each in self._listeners:
                    each(endpoint_id)

        tx.when_over(over)

    async def create(self, tx: Tx, caller: Caller, request: EndpointRequest) -> EndpointCreated:
        """Create an endpoint. Refused: `invalid_request`, with what is wrong; `endpoint_quota_reached`."""
        self.check(caller, request)
        # In the transaction that creates it: two requests at once cannot both take the last place.
        if await rows.count_endpoints(tx, caller.org, caller.mode) >= self._quota:
            raise Refused(
                "endpoint_quota_reached",
                f"An org may have {self._quota} webhook endpoints in {caller.mode} mode, and this one has "
                "no place left. Delete one that is no longer needed: DELETE /webhook-endpoints/{id}.",
            )
        now = self._runtime.clock.now()
        endpoint_id = self._runtime.ids.new("whe")
        secret = self._runtime.ids.random_bytes(SECRET_BYTES)
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
            rate_limit_per_second=request.rate_limit_per_second,
            ed25519=int(request.ed25519),
            **self._header_columns(endpoint_id, request.headers, request.sensitive_headers),
        )
        return await self._with_secret(tx, caller, endpoint_id, secret)

    async def get(self, tx: Tx, caller: Caller, endpoint_id: str) -> EndpointView:
        """Return an org's endpoint. Refused: `endpoint_not_found`."""
        return EndpointView(**await self._members(tx, await self.row(tx, caller, endpoint_id)))

    async def row(self, tx: Tx, caller: Caller, endpoint_id: str) -> Row:
        """Return the row of an org's endpoint. Refused: `endpoint_not_found`."""
        row = await rows.find_endpoint(tx, endpoint_id, caller.org, caller.mode)
        if row is None:
            raise Refused(
                "endpoint_not_found",
                f"There is no webhook endpoint {endpoint_id[:64]} under this API key.",
            )
        return row

    async def page(
        self, tx: Tx, caller: Caller, after_id: str | None, limit: int
    ) -> list[EndpointView]:
        """Return an org's endpoints, newest first."""
        found = await rows.list_endpoints(tx, caller.org, caller.mode, after_id, limit)
        return [EndpointView(**await self._members(tx, row)) for row in found]

    async def update(
        self, tx: Tx, caller: Caller, endpoint_id: str, change: EndpointChange
    ) -> tuple[EndpointView, int | None]:
        """Change an endpoint. Returns it, and since when it missed events where it is enabled again.

        Refused: `endpoint_not_found`, `invalid_request`.
        """
        row = await self.row(tx, caller, endpoint_id)
        check(change, live=caller.mode == "live", allow_private=self._private)
        given = change.model_fields_set
        columns: dict[str, Any] = {}
        for name in ("url", "rate_limit_per_second"):
            if getattr(change, name) is not None:
                columns[name] = getattr(change, name)
        if change.event_types is not None:
            columns["event_types"] = to_json(list(change.event_types))
        if change.ed25519 is not None:
            columns["ed25519"] = int(change.ed25519)
        if "description" in given:
            columns["description"] = change.description
        if change.headers is not None or change.sensitive_headers is not None:
            # What is replaced may be damaged.
            shown, sealed = self._headers_of(row, opens=change.sensitive_headers is None)
            columns |= self._header_columns(
                endpoint_id,
                shown if change.headers is None else change.headers,
                sealed if change.sensitive_headers is None else change.sensitive_headers,
            )
        missed_since = None
        if change.status == "enabled" and row["status"] != "enabled":
            missed = (
                row["failing_since"],
                row["disabled_at"],
                await deliveries.oldest_skipped(tx, endpoint_id),
            )
            missed_since = min((at for at in missed if at is not None), default=None)
            columns |= {"status": "enabled", "disabled_reason": None, "disabled_at": None}
            columns |= {
                "failing_since": None,
                "failing_twice": 0,
                "exhausted": 0,
                "warned_at": None,
            }
        if change.status == "disabled" and row["status"] == "enabled":
            columns |= {"status": "disabled", "disabled_reason": "by_you"}
            columns["disabled_at"] = to_us(self._runtime.clock.now())
        if columns:
            await rows.update_endpoint(tx, endpoint_id, **columns)
            self._changed(tx, endpoint_id)
        return await self.get(tx, caller, endpoint_id), missed_since

    async def rotate(
        self, tx: Tx, caller: Caller, endpoint_id: str, overlap_s: int
    ) -> EndpointCreated:
        """Give an endpoint a new secret; the one before signs for `overlap_s` seconds more.

        Refused: `endpoint_not_found`, `too_many_secrets`.
        """
        row = await self.row(tx, caller, endpoint_id)
        now = to_us(self._runtime.clock.now())
        await rows.drop_previous_secrets(tx, endpoint_id, now)
        if overlap_s:
            previous = await rows.previous_secrets_of(tx, endpoint_id, now)
            if len(previous) + 2 > MAX_SECRETS:
                raise Refused(
                    "too_many_secrets",
                    f"{MAX_SECRETS} secrets sign already. Wait until {format_time(from_us(previous[-1]['expires_at']))}, "
                    f"rotate with overlap_seconds 0, or end the previous ones: "
                    f"DELETE /webhook-endpoints/{endpoint_id}/previous-secrets.",
                )
            secret_id = self._runtime.ids.new("whs")
            # One that does not open has signed nothing: there is nothing to overlap with.
            with suppress(ConfigError):
                old = self._vault.open(row["secret"], bound_to=endpoint_id)
                sealed = self._vault.seal(old, bound_to=secret_id)
                await rows.add_previous_secret(
                    tx, secret_id, endpoint_id, sealed, now + overlap_s * 1_000_000
                )
        secret = self._runtime.ids.random_bytes(SECRET_BYTES)
        sealed = self._vault.seal(secret, bound_to=endpoint_id)
        await rows.update_endpoint(tx, endpoint_id, secret=sealed)
        self._changed(tx, endpoint_id)
        return await self._with_secret(tx, caller, endpoint_id, secret)

    async def revoke_previous(self, tx: Tx, caller: Caller, endpoint_id: str) -> None:
        """End every previous secret now. May be called twice. Refused: `endpoint_not_found`."""
        await self.row(tx, caller, endpoint_id)
        far = self._runtime.clock.now() + timedelta(seconds=2 * MAX_OVERLAP_S)
        await rows.drop_previous_secrets(tx, endpoint_id, to_us(far))
        self._changed(tx, endpoint_id)

    async def delete(self, tx: Tx, caller: Caller, endpoint_id: str) -> None:
        """Delete an endpoint; what it waits for is skipped after. Refused: `endpoint_not_found`."""
        await self.row(tx, caller, endpoint_id)
        now = self._runtime.clock.now()
        await rows.delete_endpoint(tx, endpoint_id, caller.org, caller.mode, to_us(now))
        self._changed(tx, endpoint_id)

    async def target(self, tx: Tx, endpoint_id: str) -> Found | None:
        """Return where an endpoint's events go, with every secret that signs; None: it is disabled.

        Refused: `endpoint_busy` where what is stored of it does not open; the operator has to act.
        """
        found = (await self.targets(tx, [endpoint_id])).get(endpoint_id)
        if isinstance(found, SetAside):
            raise Refused(
                "endpoint_busy",
                f"Nothing can be signed for {endpoint_id} just now: its stored secret cannot be read. "
                "The operator has to act, or give it a new one: "
                f"POST /webhook-endpoints/{endpoint_id}/rotate-secret.",
                headers={"Retry-After": "60"},
            )
        return found

    async def targets(self, tx: Tx, endpoint_ids: Sequence[str]) -> dict[str, Found | SetAside]:
        """Return where the events of those of the endpoints go that are enabled."""
        now = to_us(self._runtime.clock.now())
        found: dict[str, Found | SetAside] = {}
        rows_of = groupby(
            await rows.signing_endpoints(tx, endpoint_ids, now), key=lambda row: str(row["id"])
        )
        for endpoint_id, group in rows_of:
            # Each by itself: what does not open of one endpoint must not keep the others waiting.
            try:
                found[endpoint_id] = self._found(list(group))
            except (ConfigError, ValueError) as error:
                found[endpoint_id] = SetAside(
                    "; ".join(error.faults) if isinstance(error, ConfigError) else str(error)
                )
        return found

    def _found(self, each: Sequence[Row]) -> Found:
        """Return what a delivery needs of an endpoint, given by a row for each previous secret."""
        row = each[0]
        secrets = [self._vault.open(row["secret"], bound_to=row["id"])]
        secrets += [
            self._vault.open(old["previous_secret"], bound_to=old["previous_id"])
            for old in each
            if old["previous_id"] is not None
        ]
        shown, sealed = self._headers_of(row)
        target = Target(
            row["url"],
            tuple(secrets),
            {**shown, **sealed},
            self._seeds(row),
            sensitive=frozenset(sealed),
            org=row["org"],
        )
        return Found(target, row["failing_since"] is not None, row["rate_limit_per_second"])

    async def public_keys(self, tx: Tx, endpoint_id: str) -> list[str]:
        """Return the Ed25519 keys that sign for an endpoint, for any caller; none if it has none."""
        row = await rows.endpoint_row(tx, endpoint_id)
        if row is None or row["deleted_at"] is not None:
            return []
        return [public_key_text(seed) for seed in self._seeds(row)]

    async def disable(self, tx: Tx, endpoint_id: str, reason: str) -> None:
        """Disable an endpoint, and tell the org's other endpoints."""
        now = self._runtime.clock.now()
        await rows.update_endpoint(
            tx, endpoint_id, status="disabled", disabled_reason=reason, disabled_at=to_us(now)
        )
        self._changed(tx, endpoint_id)
        await self._tell(tx, endpoint_id, "webhook_endpoint.disabled")

    async def warn(self, tx: Tx, endpoint_id: str) -> None:
        """Tell the org's other endpoints that this one has been failing for days."""
        await self._tell(tx, endpoint_id, "webhook_endpoint.failing")

    def check(self, caller: Caller, request: EndpointRequest) -> None:
        """Refuse what could never be delivered to. Refused: `invalid_request`."""
        check(request, live=caller.mode == "live", allow_private=self._private)

    async def _tell(self, tx: Tx, endpoint_id: str, kind: str) -> None:
        row = await rows.endpoint_row(tx, endpoint_id)
        assert row is not None  # noqa: S101 - its foreign key holds
        view = EndpointView(**await self._members(tx, row))
        now = self._runtime.clock.now()
        body = {
            "type": kind,
            "timestamp": format_time(now),
            "api_version": API_VERSION,
            "data": view.model_dump(mode="json"),
        }
        event = Event(kind, json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
        await publish(tx, self._runtime, row["org"], row["mode"], now, [event], but=endpoint_id)

    async def _with_secret(
        self, tx: Tx, caller: Caller, endpoint_id: str, secret: bytes
    ) -> EndpointCreated:
        row = await self.row(tx, caller, endpoint_id)
        return EndpointCreated(**await self._members(tx, row), secret=secret_text(secret))

    def _seeds(self, row: Row) -> tuple[bytes, ...]:
        return self._vault.webhook_seeds(row["id"]) if row["ed25519"] else ()

    def _header_columns(
        self, endpoint_id: str, shown: Mapping[str, str], sensitive: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the columns: the names of sensitive headers in clear, their values sealed."""
        sealed = self._vault.seal(
            json.dumps(dict(sensitive)).encode(), bound_to=f"{endpoint_id}/headers"
        )
        names: dict[str, str | None] = {**shown, **dict.fromkeys(sensitive)}
        return {"headers": to_json(names), "sealed_headers": sealed if sensitive else None}

    def _headers_of(self, row: Row, *, opens: bool = True) -> tuple[dict[str, str], dict[str, str]]:
        names: dict[str, str | None] = json.loads(row["headers"])
        shown = {name: value for name, value in names.items() if value is not None}
        if row["sealed_headers"] is None or not opens:
            return shown, {}
        opened = self._vault.open(row["sealed_headers"], bound_to=f"{row['id']}/headers")
        return shown, json.loads(opened)

    async def _members(self, tx: Tx, row: Row) -> dict[str, Any]:
        now = to_us(self._runtime.clock.now())
        previous = await rows.previous_secrets_of(tx, row["id"], now)
        headers: dict[str, str | None] = json.loads(row["headers"])
        return {
            "id": row["id"],
            "livemode": row["mode"] == "live",
            "url": row["url"],
            "description": row["description"],
            "event_types": json.loads(row["event_types"]),
            "headers": {name: value for name, value in headers.items() if value is not None},
            "sensitive_headers": [name for name, value in headers.items() if value is None],
            "rate_limit_per_second": row["rate_limit_per_second"],
            "public_keys": [public_key_text(seed) for seed in self._seeds(row)],
            "status": row["status"],
            "disabled_reason": row["disabled_reason"],
            "disabled_at": _time(row["disabled_at"]),
            "failing_since": _time(row["failing_since"]),
            "previous_secret_expires_at": _time(previous[0]["expires_at"]) if previous else None,
            "created_at": from_us(row["created_at"]),
        }


def _time(us: int | None) -> Any:
    return None if us is None else from_us(us)
