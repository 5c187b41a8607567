"""Custodians with their health, and the audit log."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from gateway.api.balances import balances_for
from gateway.api.cursors import decode, encode
from gateway.panel.access import Visit
from gateway.panel.overview import open_count, visible_custodians
from gateway.panel.render import short_id
from gateway.panel.words import ACTS, HEALTH, Look
from gateway.pause import Pause, PauseScope
from gateway.store.database import Row
from gateway.store.overview import acts_before, modes_of
from gateway.store.pauses import active_pauses
from gateway.store.rows import from_us

_PAGE = 50
_FAR = 2**62


async def custodians(visit: Visit) -> Response:
    """`GET …/custodians`: the custodians of this org, and whether they answer."""
    context = visit.context
    ill = context.degraded()
    balances = await balances_for(context, visit.caller)
    pauses = await context.db.read(active_pauses)
    shown = []
    for name in visible_custodians(visit):
        instance = next(each for each in context.router.instances() if each.name == name)
        can = instance.capabilities
        routes = context.router.routes_of(instance, visit.org, visit.mode)
        settings = context.settings.custodians.get(name)
        shown.append(
            {
                "name": name,
                "display": None if settings is None else settings.display_name,
                "adapter": context.custodians[name].adapter_name
                if name in context.custodians
                else "",
                "look": _health(ill.get(name), pauses, name, visit),
                "word": HEALTH.get(ill.get(name, ""), ""),
                "routes": [
                    {
                        "to": each.destination.replace("_", " "),
                        "networks": ", ".join(each.networks or ()) or "any network",
                        "assets": ", ".join(each.assets or ()) or "any asset",
                        "account": f"{each.account.type} {each.account.id}",
                        "usual_s": each.estimated_seconds,
                    }
                    for each in routes
                ],
                "balances": [each for each in balances if each.custodian == name],
                "batch": can.batch,
                "cancel": can.cancel,
                "webhooks": can.webhooks,
                "one_at_a_time": can.one_at_a_time,
            }
        )
    return visit.draw(
        "panel/custodians.html",
        section="custodians",
        here="Custodians",
        open_count=await open_count(visit),
        rows=shown,
    )


def _health(word: str | None, pauses: list[Pause], name: str, visit: Visit) -> Look:
    held = any(
        (
            each.scope is PauseScope.ALL
            or (each.scope is PauseScope.CUSTODIAN and each.target == name)
        )
        and each.mode in {"", visit.mode}
        for each in pauses
    )
    if word is not None:
        return Look("bad", "warn", "Has trouble")
    return Look("act", "pause", "Paused") if held else Look("ok", "tick", "Answers")


async def audit(visit: Visit) -> Response:
    """`GET …/audit`: the org's chain, newest first; `after` continues the list."""
    context, query = visit.context, visit.request.query_params
    before = _FAR
    if "after" in query:
        before = int(decode(visit.request, query["after"], {}, (int,))[0])
    found = await context.db.scan(acts_before, visit.org, before, _PAGE + 1)
    shown, more = found[:_PAGE], len(found) > _PAGE
    modes = await context.db.scan(modes_of, [row["subject"] for row in shown])
    return visit.draw(
        "panel/audit.html",
        section="audit",
        here="Audit log",
        open_count=await open_count(visit),
        rows=[_act(visit, row, modes.get(row["subject"])) for row in shown],
        after=encode(visit.request, [shown[-1]["number"]], {}) if more else None,
        first="after" not in query,
    )


def _act(visit: Visit, row: Row, mode: str | None) -> dict[str, Any]:
    """Return a row for display. An org must not see evidence and the names of operators.

    `mode` is the mode of the object, which may be the other one; None if it has no page.
    """
    own = visit.user.everywhere or row["act"] not in {
        "payout_resolved",
        "payout_look_asked",
        "payout_retried",
        "attention_acknowledged",
    }
    subject = row["subject"]
    kinds = {"pay": "payouts", "bat": "batches", "whe": "webhooks", "key": "keys"}
    section = kinds.get(subject.partition("_")[0])
    return {
        "at": from_us(row["at"]),
        "actor": _named(row["actor"]) if own else "operator",
        "act": ACTS.get(row["act"], row["act"].replace("_", " ").capitalize()),
        "subject": subject,
        "path": "" if section is None or mode is None else f"{mode}/{section}/{subject}",
        "mode": "" if mode in {None, visit.mode} else mode,
        "detail": row["detail"] if own else "",
        "change": _change(row) if own else "",
        "request_id": row["request_id"],
    }


def _named(actor: str) -> str:
    return short_id(actor) if actor.startswith("key_") else actor


def _change(row: Row) -> str:
    before, after = (json.loads(row[each]) if row[each] else {} for each in ("before", "after"))
    changed = {
        name: value
        for name, value in after.items()
        # A value that is missing before and after did not change.
        if (before.get(name) or None) != (value or None)
    }
    return ", ".join(
        f"{name.replace('_', ' ')}: {_short(value)}" for name, value in changed.items()
    )


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:120]
