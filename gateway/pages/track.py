"""The public page of one payout: what its recipient may know, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from gateway.model import format_amount
from gateway.pages.render import page
from gateway.store.payouts import find_payout

if TYPE_CHECKING:
    from gateway.errors import Refused
    from gateway.store.database import Database
    from gateway.vault import Vault

_WORDS = {
    "pending": "Being prepared",
    "broadcast": "On its way",
    "delivered": "Delivered",
    "failed": "Did not go through",
}
_STAGES = ("pending", "broadcast", "delivered")


async def show(request: Request) -> Response:
    """`GET /track/{token}`: the page, or a page that says that there is none."""
    vault: Vault = request.app.state.context.vault
    db: Database = request.app.state.context.db
    payout_id = vault.payout_of_token(request.path_params["token"])
    payout = None if payout_id is None else await db.read(find_payout, payout_id)
    if payout is None:
        refused: Refused | None = request.app.state.admission.unknown(request)
        if refused is None:
            return page("track_missing.html", 404)
        answer = page("track_missing.html", 429)
        answer.headers.update(refused.headers)
        return answer
    # One line per stage reached: what the operator sees between them is not the recipient's business.
    seen: set[str] = set()
    stages = []
    for entry in payout.timeline:
        if entry.status not in seen:
            seen.add(entry.status)
            stages.append((_WORDS[entry.status], entry.at))
    return page(
        "track.html",
        amount=format_amount(payout.terms.recipient_gets),
        asset=payout.terms.recipient_asset,
        status=payout.status.value,
        word=_WORDS[payout.status],
        stages=stages,
        final=payout.final,
        links=[each for each in payout.transactions if each.tx_hash],
        network=payout.terms.route.to_network,
        test=not payout.livemode,
        steps=[(stage, _WORDS[stage], stage in seen) for stage in _STAGES],
    )
