"""Payouts as partners see them, in bytes, kept from one read to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from gateway.model import Payout, SubStatus, format_time
from gateway.store.database import Row
from gateway.store.rows import from_us, payout_of
from gateway.vault import Vault
from gateway.views import payout_with_tracking

#: Payouts that are kept as they are shown; each is about 5 kB.
MOST = 1024
_JSON = (b"content-type", b"application/json")


def payout_answer(  # noqa: PLR0913 - the payout, and what is told beside it
    vault: Vault,
    public_url: str,
    payout: Payout,
    *,
    with_secret: bool = False,
    behind: str | None = None,
    places: Sequence[Row] | None = None,
) -> bytes:
    """Return a payout as its partner sees it; the secret of an open action only where asked for.

    `behind`: the payout that has its turn. `places`: the rows of its executions.
    """
    action, secret = payout.requires_action, None
    if with_secret and action is not None and action.open:
        secret = vault.client_secret(payout.id, action.number)
    tracking = _tracking_url(vault, public_url, payout)
    view = payout_with_tracking(payout, tracking, secret)
    if behind is not None and behind != payout.id:
        view["queued_behind"] = behind
    if places is not None:
        view["executions"] = [
            {
                "number": each["number"],
                "custodian": each["custodian"],
                "ended_at": None
                if each["ended_at"] is None
                else format_time(from_us(each["ended_at"])),
            }
            for each in places
        ]
    return to_json(view)


def _tracking_url(vault: Vault, public_url: str, payout: Payout) -> str:
    return f"{public_url.rstrip('/')}/track/{vault.tracking_token(payout.id)}"


class PayoutResponse(Response):
    """200 with a payout, or a page of payouts, in bytes. As `Response` makes it, at a quarter of the cost."""

    def __init__(self, body: bytes) -> None:
        self.status_code, self.background, self.body = 200, None, body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), _JSON]


class Shown(NamedTuple):
    """What is shown of a row of a payout."""

    #: the values of all of its columns
    values: tuple[Any, ...]
    body: bytes
    #: whether `GET /payouts/{id}` shows the body and nothing else
    whole: bool


class ShownPayouts:
    """What is shown of payouts, kept by all that their rows hold: the same row is shown as the same bytes.

    So it is exact, no matter which process writes the row: only the row and the configuration go into the body. Client
    secrets are not in it, nor is what depends on other rows.
    """

    def __init__(self, vault: Vault, public_url: str) -> None:
        self._vault = vault
        self._public_url = public_url
        self._kept: dict[str, Shown] = {}

    def of(self, row: Row) -> Shown:
        """Return what is shown of a row that was read just now."""
        values, payout_id = tuple(row), row["id"]
        kept = self._kept.get(payout_id)
        if kept is not None and kept.values == values:
            return kept
        payout = payout_of(row)
        action = payout.requires_action
        more = (
            payout.sub_status is SubStatus.QUEUED
            or payout.custodian != payout.terms.route.custodian
            or (action is not None and action.open)
        )
        shown = Shown(values, payout_answer(self._vault, self._public_url, payout), whole=not more)
        if kept is None and len(self._kept) >= MOST:
            # The one that was kept first.
            del self._kept[next(iter(self._kept))]
        self._kept[payout_id] = shown
        return shown


def shown_of(request: Request) -> ShownPayouts:
    """Return what the application keeps of payouts."""
    shown: ShownPayouts = request.app.state.shown
    return shown
