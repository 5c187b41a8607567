"""What a custodian writes is kept and shown: broken characters stop no payout, and no secret stays in it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from gateway.adapter import Absent, CannotLook, Ref, Report, SubStatus
from gateway.store.database import Query, Tx
from gateway.store.schema import attention, evidence, executions
from tests.execution.conftest import Bench
from tests.execution.test_wrong_types import Place

#: An emoji that was cut in two: JSON may carry it, UTF-8 cannot.
HALF = "cut \ud83d"
_SECRET = "sk-live-0123456789abcdef"


async def _codes(tx: Tx) -> list[str]:
    return [row["code"] for row in await tx.all(Query(select(attention.c.code)))]


async def _kept(tx: Tx) -> str:
    outcomes = await tx.all(Query(select(executions.c.outcome)))
    looks = await tx.all(Query(select(evidence.c.detail)))
    return str([list(row) for row in outcomes] + [list(row) for row in looks])


async def _looked(place: Place, times: int) -> None:
    async def seen() -> bool:
        return place.adapter.story.count("fetch") >= times

    await place.until(seen, every_s=30)


@pytest.mark.parametrize(
    "members",
    [{"detail": HALF}, {"custodian_word": HALF}, {"unknown_words": (HALF,)}],
    ids=lambda members: next(iter(members)),
)
async def test_words_are_repaired(bench: Bench, members: dict[str, Any]) -> None:
    """The payout is paid: it ends, whatever the custodian wrote beside it."""
    place = Place(bench, 1)
    (payout_id,) = await place.new()
    given = {"custodian_word": "WORD", **members}
    place.adapter.says["fetch"] = lambda _: Report(SubStatus.DELIVERED, **given)
    async with place.running():

        async def ended() -> bool:
            return (await bench.payout(payout_id)).status == "delivered"

        await place.until(ended, every_s=60)


@pytest.mark.parametrize(
    "members",
    [{"refs": (Ref("transfer", HALF),)}, {"custodian_reference": HALF}],
    ids=lambda members: next(iter(members)),
)
async def test_ids_are_refused(bench: Bench, members: dict[str, Any]) -> None:
    """Two different ids must not become one: nothing is believed, and the operator hears of it."""
    place = Place(bench, 1)
    (payout_id,) = await place.new()
    place.adapter.says["fetch"] = lambda _: Report(SubStatus.DELIVERED, "WORD", **members)
    async with place.running():
        await _looked(place, 3)
        assert (await bench.payout(payout_id)).status != "delivered"
        assert "adapter_error" in await bench.db.read(_codes)


async def test_an_absence_is_still_proven(bench: Bench) -> None:
    """The word beside it is kept as evidence, and must not stop the proof."""
    place = Place(bench, 1)
    await place.new()
    place.adapter.says["submit"] = lambda _: TimeoutError()
    place.adapter.says["fetch"] = lambda _: Absent(HALF)
    async with place.running():

        async def again() -> bool:
            return place.adapter.story.count("submit") > 1

        await place.until(again, every_s=30)


@pytest.mark.parametrize("kind", [Absent, CannotLook])
async def test_looks_keep_no_secret(bench: Bench, kind: Any) -> None:
    """What a look found is shown to operators, as a report is."""
    place = Place(bench, 1)
    await place.new()
    place.adapter.says["submit"] = lambda _: TimeoutError()
    place.adapter.says["fetch"] = lambda _: kind(f"401 Authorization: Bearer {_SECRET}")
    async with place.running():
        await _looked(place, 2)
    kept = await bench.db.read(_kept)
    assert "401" in kept
    assert _SECRET not in kept
