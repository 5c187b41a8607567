"""Mistakes of adapters, each refused with one message: adapter, verb, member and fix."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from gateway.adapter import Action, BatchReport, Echo, Notice, Ref, Report, SubStatus, Transaction
from gateway.errors import AdapterFault
from gateway.report import FaultyNotice
from tests.custodians.odd import SUBMITTED, Bench

NAIVE = datetime(2026, 3, 2, 10, 0)  # noqa: DTZ001 - the very mistake


def _with(**members: Any) -> Report:
    return replace(SUBMITTED, **members)


MISTAKES: dict[str, tuple[Any, str, str]] = {
    "a failure that is missing": (
        _with(sub_status=SubStatus.FAILED),
        "Report.failure is missing beside sub_status failed",
        "Failure(code=",
    ),
    "a cancel without a failure": (
        _with(sub_status=SubStatus.CANCELED),
        "Report.failure is missing beside sub_status canceled",
        "Failure(code=",
    ),
    "an action that is missing": (
        _with(sub_status=SubStatus.REQUIRES_ACTION),
        "Report.action is missing beside sub_status requires_action",
        "Action(type=",
    ),
    "an echo of a float": (
        _with(echo=Echo(amount=5.1)),  # type: ignore[arg-type]
        "Report.echo.amount is a float",
        "Decimal(text)",
    ),
    "an ordered amount of a text": (
        _with(echo=Echo(ordered_amount="5")),  # type: ignore[arg-type]
        "Report.echo.ordered_amount is a str",
        "Decimal(text)",
    ),
    "fees of a whole number": (_with(fees_paid_usd=1), "Report.fees_paid_usd is an int", "Decimal"),
    "a final amount of a text": (
        _with(final_recipient_amount="5"),
        "Report.final_recipient_amount is a str",
        "Decimal",
    ),
    "a final amount that is not finite": (
        _with(final_recipient_amount=Decimal("Infinity")),
        "Report.final_recipient_amount is Infinity",
        "finite",
    ),
    "a final amount that is no number": (
        _with(final_recipient_amount=Decimal("sNaN")),
        "Report.final_recipient_amount is sNaN",
        "finite",
    ),
    "a negative final amount": (
        _with(final_recipient_amount=Decimal(-1)),
        "Report.final_recipient_amount is -1",
        "not negative",
    ),
    "a naive time": (_with(observed_at=NAIVE), "Report.observed_at is a time without", "read_time"),
    "a naive end of an action": (
        _with(sub_status=SubStatus.REQUIRES_ACTION, action=Action(expires_at=NAIVE)),
        "Action.expires_at is a time without a zone",
        "read_time",
    ),
    "a naive time of a transaction": (
        _with(
            transactions=(
                Transaction.model_construct(
                    id="t", tx_hash=None, network=None, status=None, at=NAIVE
                ),
            )
        ),
        "Transaction.at is a time without a zone",
        "read_time",
    ),
    "a status that is a text": (
        _with(sub_status="paid"),
        "Report.sub_status is a str",
        "your table of words",
    ),
    "a word that is nothing": (_with(custodian_word=None), "Report.custodian_word", "give str"),
    "a reference that is a text": (_with(refs=("t",)), "an element of Report.refs", "give Ref"),
    "a reference of a number": (
        _with(refs=(Ref("transfer", 7),)),  # type: ignore[arg-type]
        "Ref.value is an int",
        "give str",
    ),
    "a wait without end": (_with(again_after_s=float("inf")), "Report.again_after_s", "seconds"),
    "a wait that is a flag": (_with(again_after_s=True), "Report.again_after_s is a bool", "give"),
    "nothing": (None, "it returned None", "return Report"),
    "a set": (BatchReport("w", {}), "it returned a BatchReport", "return Report"),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_each_mistake_has_one_message(bench: Bench, name: str) -> None:
    """It names the adapter, the verb, the member and the fix, on one line that fits the list."""
    wrong, member, fix = MISTAKES[name]
    with pytest.raises(AdapterFault) as fault:
        await bench.instance.submit(bench.acts(wrong))
    text = str(fault.value)
    assert text.startswith(f"odd.submit: {member}"), text
    assert fix in text.partition("; ")[2], text
    assert "\n" not in text
    assert len(text) <= 300
    assert bench.line()["level"] == "error"


async def test_a_webhook_with_a_report_that_is_not_sound_only_hastens_the_next_look(
    bench: Bench,
) -> None:
    """Its refs are good, so that the payout is found; what it says is not believed."""
    wrong = Notice((Ref("transfer", "t"),), "n-1", report=_with(sub_status=SubStatus.FAILED))
    bench.adapter.read = lambda _: [wrong, Notice((Ref("transfer", "u"),), "n-2", report=SUBMITTED)]
    faulty, good = bench.instance.parse(b"")
    assert isinstance(faulty, FaultyNotice)
    assert (faulty.report, faulty.refs, faulty.dedup_key) == (None, wrong.refs, "n-1")
    assert faulty.fault.startswith("odd.parse: Report.failure is missing")
    assert good.report == SUBMITTED


async def test_a_webhook_that_cannot_be_matched_is_unreadable(bench: Bench) -> None:
    """And the log says what the author must fix."""
    bench.adapter.read = lambda _: [Notice(("t",), "n-1")]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="AdapterFault"):
        bench.instance.parse(b"")
    assert bench.line()["detail"].startswith("odd.parse: an element of Notice.refs is a str; give")
