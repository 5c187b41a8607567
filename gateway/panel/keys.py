"""Creates, rotates and revokes API keys of an org. A key is shown once, in the response to its form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.responses import Response

from gateway.errors import Refused
from gateway.keys import KeyTerms, MintedKey, Scope, limit_life, mint_key, revoke_key, rotate_key
from gateway.panel.access import Visit
from gateway.panel.once import made_once
from gateway.panel.overview import open_count
from gateway.panel.render import short_id
from gateway.panel.words import Look
from gateway.store.database import Row, Tx
from gateway.store.keys import key_by_id
from gateway.store.overview import keys_of
from gateway.store.rows import maybe_from_us, to_us
from gateway.users import Role

#: The choices for a new key: form value, label, meaning and scopes.
PARTS: Mapping[str, tuple[str, str, tuple[Scope, ...]]] = {
    "read": (
        "Read",
        "Payouts, batches, events, custodians",
        (Scope.PAYOUTS_READ, Scope.EVENTS_READ),
    ),
    "pay": (
        "Quote and pay",
        "Moves money within the limits",
        (Scope.QUOTES_WRITE, Scope.PAYOUTS_WRITE),
    ),
    "batches": ("Pay batches", "Creates, executes and cancels them", (Scope.BATCHES_WRITE,)),
    "webhooks": ("Manage webhooks", "Endpoints, secrets, resends", (Scope.WEBHOOKS_WRITE,)),
}
ENDS: Mapping[str, str] = {
    "30": "In 30 days",
    "90": "In 90 days",
    "365": "In 365 days",
    "": "Never",
}
#: How long the old key stays valid, in hours.
OVERLAPS: Mapping[str, str] = {"24": "24 hours", "72": "72 hours", "1": "1 hour", "0": "Not at all"}
_SOON = timedelta(days=7)
_MINTED = (
    "This form was sent before, and its key was made and shown then. It is in the list; if you have not "
    "stored it, rotate it."
)


def _may(scopes: tuple[str, ...]) -> str:
    """Return what a key may do, as the form says it."""
    left = set(scopes)
    words: list[str] = []
    for label, _, wanted in PARTS.values():
        if left & set(wanted):
            words.append(label.lower() if words else label)
            left -= set(wanted)
    words += sorted(left)
    return ", ".join(words)


def _look(row: Row, now_us: int) -> tuple[Look, bool]:
    """Return the label of a key's state, and whether the key is active."""
    if row["revoked_at"] is not None:
        return Look("mute", "dash", "Revoked"), False
    if row["expires_at"] is None:
        return Look("ok", "tick", "Active"), True
    left = (row["expires_at"] - now_us) / 1e6
    if left <= 0:
        return Look("mute", "dash", "Ended"), False
    if left < _SOON.total_seconds():
        hours = max(1, round(left / 3600))
        word = f"Ends in {hours} h" if hours < 48 else f"Ends in {round(hours / 24)} days"  # noqa: PLR2004 - two days
        return Look("act", "clock", word), True
    return Look("ok", "tick", "Active"), True


async def index(
    visit: Visit, minted: MintedKey | None = None, problem: str | None = None, code: int = 200
) -> Response:
    """`GET …/keys`."""
    context = visit.context
    rows = await context.db.scan(keys_of, visit.org, visit.mode)
    now = to_us(context.runtime.clock.now())
    shown: list[dict[str, Any]] = []
    for row in rows:
        look, alive = _look(row, now)
        shown.append(
            {
                "id": row["id"],
                "name": row["name"] or short_id(row["id"]),
                "hint": row["hint"],
                "owner": row["owner"],
                "may": _may(tuple(json.loads(row["scopes"]))),
                "networks": json.loads(row["networks"]),
                "last_used_at": maybe_from_us(row["last_used_at"]),
                "look": look,
                "alive": alive,
                "ending": look.kind == "act",
            }
        )
    shown.sort(key=lambda each: not each["alive"])
    return visit.draw(
        "panel/keys.html",
        code,
        section="keys",
        here="Keys",
        open_count=await open_count(visit),
        rows=shown,
        living=sum(each["alive"] for each in shown),
        key_parts=PARTS,
        ends=ENDS,
        overlaps=OVERLAPS,
        minted=minted,
        form=visit.form if problem else {},
        problem=problem,
        may_change=visit.may(Role.ADMIN),
    )


async def mint(visit: Visit) -> Response:
    """`POST …/keys`: the response shows the key, once."""
    form, context = visit.form, visit.context
    scopes = tuple(
        scope
        for name, (_, _, wanted) in PARTS.items()
        if form.get(name) == "on"
        for scope in wanted
    )
    ends = form.get("ends", "")
    if not scopes:
        return await index(visit, problem="Choose what the key may do.", code=400)
    if ends not in ENDS:
        return await index(visit, problem="Choose when the key ends.", code=400)
    terms = KeyTerms(
        scopes=scopes,
        name=form.get("name", "").strip(),
        owner=visit.user.name,
        networks=tuple(form.get("networks", "").replace(",", " ").split()),
        life=timedelta(days=int(ends)) if ends else None,
    )

    async def work(tx: Tx) -> MintedKey:
        return await mint_key(
            tx, context.runtime, visit.org, visit.mode, terms, actor=visit.user.name
        )

    try:
        minted = await made_once(visit, work, lambda each: each.id)
    except ValueError as error:
        return await index(visit, problem=f"Not minted: {error}.", code=400)
    return await (
        index(visit, problem=_MINTED, code=409) if minted is None else index(visit, minted)
    )


async def rotate(visit: Visit) -> Response:
    """`POST …/keys/{id}/rotate`: a new key with the same scopes; the old one stays valid for the overlap."""
    overlap = visit.form.get("overlap", "")
    if overlap not in OVERLAPS:
        return await index(visit, problem="Choose how long the old key works on.", code=400)
    context, key_id = visit.context, visit.request.path_params["key_id"]

    async def work(tx: Tx) -> MintedKey:
        await _own_key(tx, visit, key_id)
        changes = {"owner": visit.user.name}
        minted = await rotate_key(tx, context.runtime, key_id, changes, actor=visit.user.name)
        assert minted is not None  # noqa: S101 - it was read in this transaction
        await limit_life(
            tx, context.runtime, key_id, timedelta(hours=int(overlap)), actor=visit.user.name
        )
        return minted

    try:
        minted = await made_once(visit, work, lambda each: each.id)
    except ValueError as error:
        return await index(visit, problem=f"Not rotated: {error}.", code=409)
    return await (
        index(visit, problem=_MINTED, code=409) if minted is None else index(visit, minted)
    )


async def confirm(visit: Visit) -> Response:
    """`GET …/keys/{id}`: the choice between a rotation with an overlap and a revocation."""
    context, key_id = visit.context, visit.request.path_params["key_id"]
    row = await context.db.read(_own_key, visit, key_id)
    look, alive = _look(row, to_us(context.runtime.clock.now()))
    return visit.draw(
        "panel/key.html",
        section="keys",
        here="Keys",
        open_count=await open_count(visit),
        row={
            "id": row["id"],
            "name": row["name"] or short_id(row["id"]),
            "hint": row["hint"],
            "may": _may(tuple(json.loads(row["scopes"]))),
            "owner": row["owner"],
            "networks": json.loads(row["networks"]),
            "created_at": maybe_from_us(row["created_at"]),
            "expires_at": maybe_from_us(row["expires_at"]),
            "last_used_at": maybe_from_us(row["last_used_at"]),
            "look": look,
            "alive": alive,
        },
        overlaps=OVERLAPS,
    )


async def revoke(visit: Visit) -> Response:
    """`POST …/keys/{id}/revoke`: at once."""
    context, key_id = visit.context, visit.request.path_params["key_id"]

    async def work(tx: Tx) -> None:
        await _own_key(tx, visit, key_id)
        await revoke_key(tx, context.runtime, key_id, actor=visit.user.name)

    await context.db.run(work)
    return visit.to("keys", done="revoked")


async def _own_key(tx: Tx, visit: Visit, key_id: str) -> Row:
    """Return the row of a key of this org and mode. Refused: `not_found`."""
    row = await key_by_id(tx, key_id)
    if row is None or row["org"] != visit.org or row["mode"] != visit.mode:
        raise Refused("not_found", "There is no such key here.")
    return row
