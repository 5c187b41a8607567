"""Forms that create a secret create it once, even if sent twice. The second response cannot show it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gateway.api.idempotency import Answer, once
from gateway.errors import Refused
from gateway.panel.access import FORM, ONCE, PageError, Visit
from gateway.store.database import Tx

_DRAWN = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
T = TypeVar("T")


class _NotMade(Exception):
    """Nothing was created: carries a refusal past the store of responses, so that the corrected form may be sent."""

    def __init__(self, refused: Refused) -> None:
        self.refused = refused
        super().__init__(refused.detail)


async def made_once(
    visit: Visit, work: Callable[[Tx], Awaitable[T]], id_of: Callable[[T], str]
) -> T | None:
    """Run a store function once per rendered and filled-in form; None if that form was sent before.

    A form with other values counts as another one, even after the browser went back to it. `id_of`
    returns the id of the created object. Raises PageError for a form without the id of its rendering.
    """
    drawn = visit.form.get(ONCE, "")
    if not _DRAWN.fullmatch(drawn):
        raise PageError(400, "This form is out of date. Nothing was done. Open the page again.")
    fields = sorted((name, value) for name, value in visit.form.items() if name not in {FORM, ONCE})
    filled_in = json.dumps([visit.request.url.path, fields])
    key = f"{drawn}-{hashlib.sha256(filled_in.encode()).hexdigest()[:32]}"
    made: list[T] = []

    async def answer(tx: Tx) -> Answer:
        try:
            made[:] = [await work(tx)]
        except Refused as refused:
            raise _NotMade(refused) from None
        return Answer(201, b"{}", created_id=id_of(made[0]))

    try:
        answered = await once(visit.request, visit.caller, key, {}, answer)
    except _NotMade as nothing:
        raise nothing.refused from None
    # A rolled-back transaction has created nothing, whatever the list still holds.
    return None if "idempotent-replayed" in answered.headers else made[0]
