"""The overview, with what needs attention and four charts; and the choice of an organisation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.responses import Response

from gateway.errors import Refused
from gateway.model import Payout
from gateway.panel import figures
from gateway.panel.access import Visit, display_name, redirect
from gateway.panel.render import money, short_id
from gateway.panel.words import HEALTH, rank_of, reason_of
from gateway.pause import Pause, PauseScope
from gateway.store.attention import attention_page
from gateway.store.database import Row, Tx
from gateway.store.endpoints import list_endpoints
from gateway.store.overview import open_attention, orgs_with_keys, waiting
from gateway.store.pauses import active_pauses
from gateway.store.payouts import find_payout
from gateway.store.rows import from_us
from gateway.webhooks.subscriptions import EndpointView

Handler = Callable[[Visit], Awaitable[Response]]
#: The most entries in a list; the pages of each topic show the rest.
_MOST = 20
MOST_COUNTED = 99
_KEPT_S = 20.0


@dataclass(frozen=True)
class Item:
    """Something that needs attention, and the button beside it."""

    kind: str
    icon: str
    title: str
    text: str
    since: datetime | None
    button: str
    path: str
    rank: int


async def begin(visit: Visit) -> Response:
    """`GET /admin`: redirects to the user's own organisation, or to the choice of one."""
    if visit.user.org is None:
        return redirect(visit.request, "/admin/orgs")
    return redirect(visit.request, f"/admin/{visit.user.org}/live")


async def orgs(visit: Visit) -> Response:
    """`GET /admin/orgs`: the choice of an organisation, for users of the whole gateway."""
    if not visit.user.everywhere:
        raise Refused("not_found", "There is no such page.")
    context = visit.context
    known = sorted({*context.settings.orgs, *await context.db.scan(orgs_with_keys)})
    named = [(each, display_name(context, each)) for each in known]
    return visit.draw("panel/orgs.html", orgs=named)


async def open_count(visit: Visit) -> int:
    """Return the number of things that need attention, up to a limit."""
    context = visit.context
    ill = sum(name in visible_custodians(visit) for name in context.degraded())
    return ill + await context.db.scan(_count, visit)


async def _count(tx: Tx, visit: Visit) -> int:
    org, mode = visit.org, visit.mode
    noted = await open_attention(tx, org, mode, MOST_COUNTED)
    unknown = await waiting(tx, org, mode, "outcome_unknown", MOST_COUNTED)
    codes = await waiting(tx, org, mode, "requires_action", 1)
    endpoints = await list_endpoints(tx, org, mode, None, MOST_COUNTED)
    pauses = [each for each in await active_pauses(tx) if _holds(each, visit)]
    return (
        len(noted)
        + sum(each.id not in noted for each in unknown)
        + len(codes)
        + sum(
            is_ill(each["status"], each["disabled_reason"], each["failing_since"])
            for each in endpoints
        )
        + len(pauses)
    )


async def show(visit: Visit) -> Response:
    """`GET /admin/{org}/{mode}`: `span` is one of 24h, 7d, 30d."""
    chosen = visit.request.query_params.get("span", "24h")
    if chosen not in figures.SPANS:
        raise Refused("not_found", "There is no such page.")
    items = await _items(visit)
    found = await _figures(visit, chosen)
    return visit.draw(
        "panel/overview.html",
        section="",
        here="Overview",
        open_count=await open_count(visit),
        items=items[:_MOST],
        more=max(0, len(items) - _MOST),
        spans=[(name, words) for name, (words, _, _) in figures.SPANS.items()],
        chosen=chosen,
        cards=[
            figures.volume(found),
            figures.success(found),
            figures.delivery(found),
            figures.lag(found),
        ],
        cut=found.cut,
        most=figures.MOST,
    )


async def _figures(visit: Visit, chosen: str) -> figures.Figures:
    """Return the figures of a span, read at most every twenty seconds."""
    kept, clock = visit.panel.kept, visit.context.runtime.clock
    name = (visit.org, visit.mode, chosen)
    at, found = kept.get(name, (0.0, None))
    if not isinstance(found, figures.Figures) or clock.monotonic() - at > _KEPT_S:
        found = await figures.figures(visit.context, visit.org, visit.mode, chosen)
        while len(kept) >= _MOST:
            del kept[next(iter(kept))]
        kept[name] = (clock.monotonic(), found)
    return found


async def _items(visit: Visit) -> list[Item]:
    context, org, mode = visit.context, visit.org, visit.mode

    async def read(
        tx: Tx,
    ) -> tuple[list[tuple[Row, Payout | None]], list[Payout], list[Payout], list[Pause]]:
        rows = await attention_page(tx, {"org": org, "mode": mode}, 100)
        noted = [(row, await find_payout(tx, row["payout_id"])) for row in rows]
        unknown = await waiting(tx, org, mode, "outcome_unknown", 100)
        codes = await waiting(tx, org, mode, "requires_action", 100)
        return noted, unknown, codes, await active_pauses(tx)

    noted, unknown, codes, pauses = await context.db.scan(read)
    endpoints = await context.db.scan(context.endpoints.page, visit.caller, None, 100)
    items = [_noted(visit, row, payout) for row, payout in noted]
    seen = {row["payout_id"] for row, _ in noted}
    items += [_unknown(visit, each) for each in unknown if each.id not in seen]
    items += _codes(visit, codes)
    items += [
        _endpoint(visit, each)
        for each in endpoints
        if is_ill(each.status, each.disabled_reason, each.failing_since)
    ]
    items += [_paused(visit, each) for each in pauses if _holds(each, visit)]
    items += [
        Item(
            "act",
            "warn",
            HEALTH.get(word, "Has trouble"),
            f"Custodian {name}: payouts through it wait",
            None,
            "Open custodian",
            visit.path("custodians"),
            4,
        )
        for name, word in context.degraded().items()
        if name in visible_custodians(visit)
    ]
    return sorted(
        items,
        key=lambda each: (
            each.rank,
            each.since or datetime.max.replace(tzinfo=visit.context.runtime.clock.now().tzinfo),
        ),
    )


def visible_custodians(visit: Visit) -> Sequence[str]:
    """Return the custodian instances that have a route for this org and mode."""
    router = visit.context.router
    return [
        each.name for each in router.instances() if router.routes_of(each, visit.org, visit.mode)
    ]


def amount_of(payout: Payout) -> str:
    """Return the amount that the recipient gets."""
    return f"{money(payout.terms.recipient_gets)} {payout.terms.recipient_asset}"


def _noted(visit: Visit, row: Row, payout: Payout | None) -> Item:
    reason = reason_of(row["code"])
    what = short_id(row["payout_id"]) if payout is None else amount_of(payout)
    return Item(
        reason.kind,
        reason.icon,
        reason.title,
        f"{what} at {row['custodian']} · {reason.fix}",
        from_us(row["first_at"]),
        "Open payout",
        visit.path("payouts", row["payout_id"]),
        rank_of(row["code"]),
    )


def _unknown(visit: Visit, payout: Payout) -> Item:
    return Item(
        "chk",
        "magnifier",
        "Outcome unknown",
        f"{amount_of(payout)} at {payout.custodian} · the gateway asks again and sends nothing until then",
        payout.updated_at,
        "Open payout",
        visit.path("payouts", payout.id),
        5,
    )


def _codes(visit: Visit, payouts: Sequence[Payout]) -> list[Item]:
    if not payouts:
        return []
    first = payouts[0]
    if len(payouts) == 1:
        text, button = f"{amount_of(first)} at {first.custodian}", "Open payout"
        path = visit.path("payouts", first.id)
    else:
        text, button = f"{amount_of(first)} and {len(payouts) - 1} more", "Show them"
        path = visit.path("payouts") + "?state=code"
    many = "One payout waits" if len(payouts) == 1 else f"{len(payouts)} payouts wait"
    return [Item("act", "key", f"{many} for a person", text, first.updated_at, button, path, 6)]


def is_ill(status: str, reason: str | None, failing_since: object) -> bool:
    """Whether an endpoint needs attention, because it fails or the gateway has disabled it."""
    return failing_since is not None if status == "enabled" else reason != "by_you"


def _endpoint(visit: Visit, endpoint: EndpointView) -> Item:
    disabled = endpoint.status == "disabled"
    return Item(
        "bad",
        "warn",
        "Webhook endpoint was disabled" if disabled else "Webhook endpoint keeps failing",
        endpoint.url,
        endpoint.disabled_at if disabled else endpoint.failing_since,
        "Open endpoint",
        visit.path("webhooks", endpoint.id),
        7,
    )


def _holds(pause: Pause, visit: Visit) -> bool:
    wide = pause.scope is PauseScope.ALL
    return (
        wide or (pause.scope is PauseScope.ORG and pause.target == visit.org)
    ) and pause.mode in {"", visit.mode}


def _paused(visit: Visit, pause: Pause) -> Item:
    whose = "by this organisation" if pause.owner else "by the operator of the gateway"
    return Item(
        "act",
        "pause",
        "Payouts are paused",
        f"Paused {whose}" + (f": {pause.reason}" if pause.owner or visit.user.everywhere else ""),
        from_us(pause.since),
        "Open payouts",
        visit.path("payouts"),
        3,
    )
