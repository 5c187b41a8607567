"""Acts of keys in the audit log: written in the transaction of the act itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from gateway.api.requests import context_of, request_id_of
from gateway.caller import Caller
from gateway.store.audit import add_audit
from gateway.store.database import Tx

#: Who acts where a client secret serves instead of a key.
CLIENT_SECRET = "client_secret"  # noqa: S105 - its name
ENDPOINT_CREATED, ENDPOINT_CHANGED = "endpoint_created", "endpoint_changed"
ENDPOINT_DELETED = "endpoint_deleted"
SECRET_ROTATED, SECRETS_REVOKED = "endpoint_secret_rotated", "endpoint_secrets_revoked"
BATCH_EXECUTED, BATCH_CANCELED = "batch_executed", "batch_canceled"
PAYOUT_CANCELED, PAYOUT_CONFIRMED = "payout_canceled", "payout_confirmed"


async def note_act(  # noqa: PLR0913 - one argument per part of a row
    tx: Tx,
    request: Request,
    caller: Caller | None,
    act: str,
    subject: str,
    *,
    org: str | None = None,
    detail: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Store function: write who did what, by which request. `org` is needed where no key was sent."""
    runtime = context_of(request).runtime
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=CLIENT_SECRET if caller is None else caller.key_id,
        act=act,
        subject=subject,
        detail=detail,
        org=caller.org if org is None and caller is not None else org or "",
        before=before,
        after=after,
        request_id=request_id_of(request),
    )
