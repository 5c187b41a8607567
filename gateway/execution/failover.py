"""Moves a payout to another custodian, only if the first one provably did not and will not pay it.

This is decided in the transaction that would otherwise apply the outcome, before anything is published.
The outcome gives a cause, the route's setting decides whether that cause counts, and the gate gives the
permission.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from gateway.adapter import Absent, NotListed
from gateway.errors import CustodianDown, Rejected
from gateway.execution.decide import Outcome
from gateway.execution.gate import may_fail_over
from gateway.execution.history import history_of, next_number, others_of
from gateway.execution.proof import calls
from gateway.execution.state import Verb, View
from gateway.execution.work import Work
from gateway.model import Account, FailureCode, Payout, Status, SubStatus
from gateway.pause import Pause
from gateway.payout_change import Applied
from gateway.payouts import Payouts
from gateway.runtime import Moment, Runtime
from gateway.store import evidence as stored
from gateway.store import executions
from gateway.store.database import Columns, Row, Tx
from gateway.store.pauses import active_pauses
from gateway.store.quotes import decision_of
from gateway.store.rows import payout_of

#: Refusals that concern this custodian and this account, not the payout or its payee. A payout that a
#: policy, an approver or a screening has refused is not tried elsewhere.
SERVED_ELSEWHERE = frozenset(
    {
        FailureCode.INSUFFICIENT_FUNDS,
        FailureCode.SOURCE_REJECTED,
        FailureCode.AMOUNT_REJECTED,
        FailureCode.THIRD_PARTY_FAILED,
        FailureCode.CUSTODIAN_ERROR,
    }
)

#: Sub-statuses in which a person can still release the payout at the custodian.
_ASKS = frozenset({SubStatus.REQUIRES_ACTION, SubStatus.AWAITING_APPROVAL})


class Cause(StrEnum):
    """Why a payout may go on at another custodian."""

    REFUSED = "refused"  #: the custodian refused it before anything moved
    NOT_SENT = "not_sent"  #: the custodian does not answer, and nothing was sent
    ABSENT = "absent"  #: the custodian does not know what was sent, and never will


class Onward(Protocol):
    """Knows the other routes; `gateway.failover` implements it."""

    #: the digest of the limits and routes in use; None if there are none
    rules: str | None

    def allows(self, payout: Payout, cause: Cause) -> bool:
        """Return whether a payout may leave its route for this cause. Reads memory only."""

    def next(
        self, payout: Payout, tried: frozenset[str], pauses: Sequence[Pause]
    ) -> tuple[str, Account] | None:
        """Return the next custodian and account within the quoted terms, or None. Reads memory only."""

    async def take_along(
        self, tx: Tx, item: Columns, payout: Payout, custodian: str, account: Account
    ) -> bool:
        """Move a payout's reservation to another account. Store function. False: the account does not cover it.

        If it returns False, nothing has changed. A reservation that was moved is not moved again.
        """


def cause_of(view: View, outcome: Outcome) -> Cause | None:
    """Return the cause that an outcome gives; the gate decides whether the payout may move. Pure."""
    if len(view.items) != 1:
        return None
    if view.verb is Verb.SUBMIT and isinstance(outcome, Rejected):
        return Cause.REFUSED if outcome.code in SERVED_ELSEWHERE else None
    if view.verb is Verb.SUBMIT and isinstance(outcome, CustodianDown):
        return None if calls(view.history) else Cause.NOT_SENT
    if view.verb is Verb.FETCH and isinstance(outcome, Absent | NotListed):
        return Cause.ABSENT if calls(view.history) else None
    return None


async def next_for(  # noqa: PLR0913 - what the right depends on
    tx: Tx,
    onward: Onward | None,
    row: Columns,
    items: Sequence[Row],
    cause: Cause | None,
    now: Moment,
) -> tuple[str, Account] | None:
    """Return the custodian and account to which a payout moves; None if it stays. Store function.

    Its reservation is moved there; nothing else is written.

    `row` is its execution, `items` has its own row, both under the lease. Everything that the
    permission depends on is read here from the database; nothing cached in memory counts.
    """
    if onward is None or cause is None or row["batch_id"] is not None:
        return None
    (item,) = items
    payout = payout_of(item)
    if payout.sub_status in _ASKS or not onward.allows(payout, cause):
        return None
    found = await executions.markable(tx, row["id"])
    if found is None or found[0]["ended_at"] is not None:
        return None
    fresh, statuses = found
    stored.reread(tx, None if row["earlier"] else [row["id"]])
    history = await history_of(tx, fresh, now)
    others = await others_of(tx, row["id"], [payout.id], now)
    right = may_fail_over(
        history,
        payout.id,
        Status(statuses[payout.id]),
        others,
        frozen=fresh["store_frozen"] is not None,
        blocked=fresh["blocked"],
        rules_active=onward.rules is None or fresh["rules_digest"] in {None, onward.rules},
    )
    if not right or await _asked_for(tx, payout.id):
        return None
    tried = {each["custodian"] for each in await executions.executions_of(tx, payout.id)}
    pauses = await active_pauses(tx)
    while (there := onward.next(payout, frozenset(tried), pauses)) is not None:
        if await onward.take_along(tx, item, payout, *there):
            return there
        tried.add(there[0])
    return None


async def go_on(
    tx: Tx,
    runtime: Runtime,
    payouts: Payouts,
    work: Work,
    there: tuple[str, Account],
) -> Applied:
    """Open the next execution of a payout whose last one was closed in this transaction. Store function.

    The new execution has its own keys; those of the closed one are never used again. The time limit for
    sending keeps running, and the payout stays pending, so nothing is published.
    """
    (item,), row = work.items, work.row
    custodian, account = there
    applied = await payouts.hand_over(tx, item, custodian, account)
    await executions.open_execution(
        tx,
        execution_id=runtime.ids.new("exe"),
        custodian=custodian,
        account=account.model_dump_json(),
        items=[item["id"]],
        at=Moment(row["created_clock_id"], row["created_elapsed"], row["created_at"]),
        due=runtime.timeline.now(),
        number=await next_number(tx, row),
        rank=row["rank"],
    )
    return applied


async def _asked_for(tx: Tx, payout_id: str) -> bool:
    """Whether the partner asked for this custodian, or that is not known: then no other one may pay."""
    kept = await decision_of(tx, payout_id)
    return kept is None or bool(json.loads(kept).get("asked_for"))
