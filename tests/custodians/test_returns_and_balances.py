"""Money that came back, and balances, as an adapter reports them: checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import Account, Balance, Notice, Ref, Report, Returned
from gateway.errors import AdapterError, NotSent, Unsupported
from gateway.report import FaultyNotice
from tests.custodians.odd import SECRET, SUBMITTED, Bench

AT = datetime(2026, 3, 3, 9, tzinfo=UTC)
NAIVE = datetime(2026, 3, 3, 9)  # noqa: DTZ001 - the very mistake
BACK = Returned("r-1", Decimal(2), "USDC", AT, f"returned, says {SECRET}")
HELD = Balance("USDC", Decimal(2), None, AT)
ACCOUNT = Account(id="A", type="VAULT")
WRONG = [
    pytest.param("r-1", id="no return at all"),
    pytest.param(replace(BACK, amount=2.0), id="a float"),  # type: ignore[arg-type]
    pytest.param(replace(BACK, amount=Decimal(0)), id="nothing"),
    pytest.param(replace(BACK, amount=Decimal(-1)), id="less than nothing"),
    pytest.param(replace(BACK, amount=Decimal("NaN")), id="no number"),
    pytest.param(replace(BACK, amount=Decimal("Infinity")), id="no end"),
    pytest.param(replace(BACK, id=" "), id="an empty id"),
    pytest.param(replace(BACK, id=7), id="an id that is no text"),  # type: ignore[arg-type]
    pytest.param(replace(BACK, asset=None), id="no asset"),  # type: ignore[arg-type]
    pytest.param(replace(BACK, at=NAIVE), id="a time without a zone"),
    pytest.param(replace(BACK, word=None), id="no word"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_return_that_makes_no_sense_is_refused(bench: Bench, wrong: Any) -> None:
    """In a report the look has failed; in a webhook it only brings the next look forward."""
    order = bench.acts(replace(SUBMITTED, returned=(BACK, wrong)))
    with pytest.raises(AdapterError):
        await bench.instance.fetch(order)
    for notice in (
        Notice((Ref("transfer", "t"),), "1", returned=(wrong,)),
        Notice((Ref("transfer", "t"),), "1", report=Report(None, "W", returned=(wrong,))),
    ):
        bench.adapter.read = lambda _, told=notice: [told]  # type: ignore[misc]
        (read,) = bench.instance.parse(b"{}")
        assert isinstance(read, FaultyNotice)
        assert (read.report, read.returned) == (None, ())
        assert "turned" in read.fault


async def test_a_returns_words_are_without_secrets(bench: Bench) -> None:
    """They are kept and shown."""
    order = bench.acts(replace(SUBMITTED, returned=(BACK,)))
    found: Any = await bench.instance.fetch(order)
    (told,) = found.items[order.payout_id].returned
    assert SECRET not in told.word
    assert (told.id, told.amount) == ("r-1", Decimal(2))
    bench.adapter.read = lambda _: [Notice((Ref("transfer", "t"),), "1", returned=(BACK,))]
    (notice,) = bench.instance.parse(b"{}")
    assert SECRET not in notice.returned[0].word


@pytest.mark.parametrize(
    "wrong",
    [
        "USDC",
        [replace(HELD, available=2.0)],  # type: ignore[arg-type]
        [replace(HELD, pending="1")],  # type: ignore[arg-type]
        [replace(HELD, as_of=NAIVE)],
        [replace(HELD, asset=None)],  # type: ignore[arg-type]
        RuntimeError(f"GET with {SECRET}"),
        NotSent(f"HTTP 503 for {SECRET}"),
    ],
)
async def test_balances_that_cannot_be_read_are_one_typed_error(bench: Bench, wrong: Any) -> None:
    """With the account's name, and no secret."""

    async def balances(account: Account) -> Sequence[Balance]:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong  # type: ignore[no-any-return]

    bench.adapter.balances = balances  # type: ignore[method-assign]
    with pytest.raises(NotSent, match="balances of VAULT A") as raised:
        await bench.instance.balances(ACCOUNT)
    assert SECRET not in str(raised.value)
    assert SECRET not in bench.stream.getvalue()


async def test_an_adapter_without_balances_says_so(bench: Bench) -> None:
    """It is no failure of the custodian."""
    with pytest.raises(Unsupported, match="not supported by odd"):
        await bench.instance.balances(ACCOUNT)
    assert bench.count("balances", "Unsupported") == 1
