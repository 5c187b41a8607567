"""What the scenarios look at beside the API: rows of evidence, the custodian's ledger, no lie in between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.e2e.stack import Stack, eventually

_EVIDENCE = """
SELECT evidence.* FROM evidence JOIN execution_items USING (execution_id)
WHERE payout_id = ? ORDER BY execution_id, number
"""


def evidence(made: Stack, payout_id: str, *kinds: str) -> list[dict[str, Any]]:
    """Return the rows of evidence of a payout; only those of some kinds."""
    rows = made.rows(_EVIDENCE, payout_id)
    return [row for row in rows if not kinds or row["kind"] in kinds]


async def more_looks(made: Stack, payout_id: str, count: int = 5) -> list[dict[str, Any]]:
    """Wait until the gateway has looked so many times more; return the new looks."""
    before = len(evidence(made, payout_id, "look"))

    async def look() -> bool:
        return len(evidence(made, payout_id, "look")) >= before + count

    await eventually(look, 60)
    return evidence(made, payout_id, "look")[before:]


def timeline(payout: dict[str, Any]) -> list[tuple[str, str]]:
    """Return every status that a payout ever had."""
    return [(each["status"], each["sub_status"]) for each in payout["timeline"]]


def never_said_unpaid(payout: dict[str, Any]) -> None:
    """Fail where a payout was ever said to have failed."""
    assert payout["failure"] is None, payout
    assert "failed" not in {status for status, _ in timeline(payout)}, timeline(payout)


async def ledger_pays(made: Stack, amounts: Iterable[str]) -> None:
    """Fail unless the custodian's ledger has exactly these amounts, each as often as named."""
    assert sorted(each["amount"] for each in await made.ledger()) == sorted(amounts)
