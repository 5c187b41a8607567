"""Reviewer's reproductions (red): what migration 0004 makes of calls of before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adapters.dfns.settings import DfnsSettings
from gateway.execution.proof import (
    Evidence,
    Finding,
    Kind,
    Source,
    calls,
    closed,
    proof,
)
from gateway.model import FundsMoved
from tests.store.test_migration_0004 import Old, empty, now_us, old

__all__ = ["empty", "old"]


def test_two_calls_of_before_are_not_one(old: Old) -> None:
    """N2: two calls under two references became one row, so that "call 1 failed" ends the payout.

    The card rail of the version before: reference 1 was lost and taken for absent, reference 2 is alive.
    A look finds reference 1 failed, and reference 2 not yet. Words about calls of before name no
    reference (`named=False`).
    """
    old.payout("pay_1")
    old.attempt(
        "pay_1",
        "unknown",
        moves=2,
        ever_unknown=1,
        notes='{"sent": "ref-2", "earlier_references": ["ref-1"]}',
    )
    old.work("pay_1", due_at=now_us())
    old.upgrade()
    history = old.evidence(old.execution("pay_1")["id"])
    last = calls(history)[-1]
    failed = Evidence(
        number=last.number + 1,
        kind=Kind.WORD,
        seen=last.number,
        at=replace(last.at, elapsed=last.at.elapsed + 1_000_000),  # one second after the upgrade
        fingerprint="acme/A",
        answer=FundsMoved.NO,
        item="pay_1",
        source=Source.LOOK,
    )
    assert not closed(history.having(failed), "pay_1"), "a call 2 may be alive for 900 s"


def test_a_call_of_before_lives_as_long_as_its_instance_was_told(old: Old) -> None:
    """E5: "above every adapter's of that time" is not: Dfns' `user_action_life_s` may be up to a day."""
    longest: Any = next(
        each.le for each in DfnsSettings.model_fields["user_action_life_s"].metadata if hasattr(each, "le")
    )
    old.payout("pay_1", custodian="dfns")
    old.attempt("pay_1", "unknown", custodian="dfns", moves=1, ever_unknown=1)
    old.work("pay_1", custodian="dfns", due_at=now_us())
    old.upgrade()
    history = old.evidence(old.execution("pay_1")["id"])
    (call,) = calls(history)
    looks = [
        Evidence(
            number=call.number + each,
            kind=Kind.LOOK,
            seen=call.number + each - 1,
            at=replace(call.at, elapsed=call.at.elapsed + 961_000_000),
            fingerprint="dfns",
            answer=Finding.ABSENT,
        )
        for each in (1, 2, 3)
    ]
    assert not proof(history.having(*looks)), (
        f"proven 961 s after the upgrade; the Confirm may live {longest} s"
    )
