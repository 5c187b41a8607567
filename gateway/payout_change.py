"""Applies one report in memory to the row of a payout, and collects what has to be written for it.

There is no I/O here: `Payouts.apply` reads the row first, and writes what is collected in one
transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from gateway.adapter import Report, Returned
from gateway.assets import explorer_url
from gateway.events import Event
from gateway.model import (
    TERMINAL,
    Attention,
    Failure,
    FailureCode,
    FundsMoved,
    Payout,
    RequiredAction,
    Status,
    SubStatus,
    format_amount,
)
from gateway.states import STATUS_OF, Kind, Verdict, judge
from gateway.store.database import Row
from gateway.store.rows import Document, payout_of, to_us
from gateway.views import ACTION_EVENT, EVENT_OF, RETURNED_EVENT, event_body


@dataclass(frozen=True)
class Applied:
    """The effect of a report: the judgement, whether the payout has ended, and what woke up."""

    kind: Kind
    final: bool
    attention: tuple[Attention, ...] = ()
    woke_inbox: bool = False
    changed: bool = False
    #: the statuses that were newly reached, for the counters
    reached: tuple[Status, ...] = ()


@dataclass
class Change:
    """The change that one report makes to a payout's row, collected to be written at once."""

    row: Row
    now: datetime
    action_life: timedelta
    columns: dict[str, Any] = field(default_factory=dict)
    attention: list[tuple[Attention, str]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    #: the returns to count, because the payout is delivered
    returns: tuple[Returned, ...] = ()

    def __post_init__(self) -> None:
        """Read the document once, for all that the report changes in it."""
        self._document = Document(self.row["document"])

    def unknown_refs(self, report: Report) -> list[tuple[str, str]]:
        """Return the ids (kind, value) of a report that are not known to be this payout's."""
        refs = ((ref.kind, ref.value) for ref in report.refs)
        return self._document.unknown_refs(self.row["custodian"], refs)

    def apply(self, report: Report, fresh: Sequence[tuple[str, str]], *, woke: bool) -> Applied:
        """Apply a report whose new ids belong to no other payout."""
        if fresh:
            self._document.add_refs(self.row["custodian"], fresh)
        self._note(report)
        self._keep_final_amount(report)
        self._keep_returns(report)
        kind, reached, changed = self._judge(report)
        self._sort_returns(report)
        if self._document.changed:
            self.columns["document"] = self._document.text
        final = self.columns.get("status", self.row["status"]) in TERMINAL
        found = tuple(code for code, _ in self.attention)
        return Applied(kind, final, found, woke, changed=changed, reached=reached)

    @property
    def says_unpaid(self) -> bool:
        """Whether it ends the payout with the claim that no money moved."""
        return self.columns.get("funds_moved") == FundsMoved.NO

    def _keep_final_amount(self, report: Report) -> None:
        """Keep the amount that the recipient got, unless the report differs from the order.

        Once the payout is delivered and shows an amount, it is fixed.
        """
        if report.final_recipient_amount is None:
            return
        if any(code is Attention.MISMATCH for code, _ in self.attention):
            # The report may be about another payment, so an operator looks first.
            return
        shown = self._document.final_recipient_amount is not None
        if self.row["status"] != Status.DELIVERED or not shown:
            self._document.set_final_recipient_amount(report.final_recipient_amount)

    def _keep_returns(self, report: Report) -> None:
        """Keep returns until they are counted, unless the report differs from the order."""
        odd = any(code is Attention.MISMATCH for code, _ in self.attention)
        for each in report.returned:
            name = f"return {each.id or '(a total)'} of {format_amount(each.amount)} {each.asset}"
            if odd:
                # It may be of another payment: an operator looks first.
                detail = f"{name}: it comes with what differs from the order"
                self.attention.append((Attention.RETURN_MISMATCH, detail[:200]))
            elif not self._document.keep_return(each):
                detail = f"{name}: more returns than are kept of a payout that is not delivered"
                self.attention.append((Attention.RETURN_MISMATCH, detail[:200]))

    def _sort_returns(self, report: Report) -> None:
        """Select the returns to count if the payout is delivered; otherwise they are kept until then."""
        kept = self._document.early_returns
        status = self.columns.get("status", self.row["status"])
        if kept and status == Status.DELIVERED:
            self.returns = kept
            self._document.drop_returns()
        elif kept and status == Status.FAILED and report.returned:
            moved = self.columns.get("funds_moved", self.row["funds_moved"])
            code = Attention.RETURNED if moved == FundsMoved.YES else Attention.CONTRADICTION
            detail = f"failed with funds_moved {moved}, and the custodian says that money came back"
            self.attention.append((code, detail))

    def count_returns(self, counted: Sequence[Returned], faults: Sequence[str]) -> None:
        """Add up the returns, with an event and an alert for each one. No status changes."""
        self.attention += [(Attention.RETURN_MISMATCH, each[:200]) for each in faults]
        if not counted:
            return
        total = Decimal(self.row["returned_amount"] or 0)
        sequence = self.columns.get("sequence", self.row["sequence"])
        for each in counted:
            total, sequence = total + each.amount, sequence + 1
            self.columns |= {
                "returned_amount": format_amount(total),
                "sequence": sequence,
                "updated_at": to_us(self.now),
            }
            name = "" if each.id is None else f" ({each.id})"
            detail = f"{format_amount(each.amount)} {each.asset} came back{name}, {format_amount(total)} in all"
            self.attention.append((Attention.RETURNED, detail[:200]))
            payout = payout_of({**dict(self.row), **self.columns}, self._document)
            body = event_body(payout, payout.status, self.now, RETURNED_EVENT, returned=each)
            self.events.append(Event(RETURNED_EVENT, body, payout.id, payout.sequence))

    def _note(self, report: Report) -> None:
        """Keep what the custodian reported in addition to the status, and alert on anything unusual."""
        fees = report.fees_paid_usd
        for name, value in (
            ("custodian_word", report.custodian_word),
            ("custodian_reference", report.custodian_reference),
            ("fees_paid_usd", None if fees is None else format_amount(Decimal(fees))),
        ):
            if value and value != self.row[name]:
                self.columns[name] = value
        for transaction in report.transactions:
            url = transaction.explorer_url or explorer_url(transaction.network, transaction.tx_hash)
            new_hash = self._document.add_transaction(
                transaction.model_copy(update={"explorer_url": url})
            )
            if new_hash is not None:
                self.hashes.append(new_hash)
        self.attention += [(Attention.UNKNOWN_WORD, word[:200]) for word in report.unknown_words]
        if report.echo is not None:
            self.attention += [(Attention.MISMATCH, line) for line in report.echo.differences()]

    def _judge(self, report: Report) -> tuple[Kind, tuple[Status, ...], bool]:
        """Return what the news means, the statuses newly reached, and whether anything has moved."""
        if report.sub_status is None:
            return Kind.SAME, (), False
        row = self.row
        verdict = judge(Status(row["status"]), SubStatus(row["sub_status"]), report.sub_status)
        if verdict.kind is Kind.CONTRADICTION:
            if _before_the_end(report, payout_of(row, self._document)):
                return Kind.LATE, (), False
            self.attention.append((Attention.CONTRADICTION, _contradiction(row, report)))
        if any(code is Attention.MISMATCH for code, _ in self.attention):
            # The custodian pays something other than what was ordered, so an operator looks first.
            return verdict.kind, (), False
        crosses = any(status != row["status"] for status, _ in verdict.steps)
        if not crosses and _older(report, row):
            # The webhook is older than the last look: it may bring a status forward, but never step
            # back.
            return Kind.LATE, (), False
        asked = self._ask(report, verdict)
        if verdict.kind is not Kind.MOVE:
            return (Kind.MOVE, (), True) if asked else (verdict.kind, (), False)
        self._move(verdict.steps, report)
        passed = (Status(row["status"]), *(status for status, _ in verdict.steps))
        reached = tuple(after for before, after in pairwise(passed) if before != after)
        return verdict.kind, reached, True

    def _ask(self, report: Report, verdict: Verdict) -> bool:
        """Keep the action that a person is asked for, with an event if it is new; or close the last one.

        A new action begins when the payout starts to ask, and when the previous action was locked.
        """
        last = self._document.action
        if report.sub_status is not SubStatus.REQUIRES_ACTION:
            if verdict.kind is Kind.MOVE and last is not None and last.open:
                self._document.set_action(last.model_copy(update={"open": False}))
            return False
        if verdict.kind not in {Kind.MOVE, Kind.SAME} or report.action is None:
            return False
        asked = report.action
        anew = last is None or not last.open or last.attempts_left == 0
        number = 1 if last is None else last.number + anew
        kept = None if last is None or anew else last.expires_at
        action = RequiredAction(
            number=number,
            type=asked.type,
            channel=asked.channel,
            masked_target=asked.masked_target,
            url=asked.url,
            attempts_left=asked.attempts_left,
            expires_at=asked.expires_at or kept or self.now + self.action_life,
        )
        if action == last:
            return False
        self._document.set_action(action)
        if verdict.kind is Kind.SAME and anew:
            # The payout asks again without having left the sub-status, so no step has an event for it.
            self.columns |= {"sequence": self.row["sequence"] + 1, "updated_at": to_us(self.now)}
            self._add_event(Status(self.row["status"]), ACTION_EVENT)
        return True

    def _move(self, steps: Sequence[tuple[Status, SubStatus]], report: Report) -> None:
        """Take each step: status, timeline entry, and for a new status its event."""
        previous, sequence, at = Status(self.row["status"]), self.row["sequence"], to_us(self.now)
        tx_hash = next(
            (each.tx_hash for each in reversed(report.transactions) if each.tx_hash), None
        )
        for status, sub_status in steps:
            asks = sub_status is SubStatus.REQUIRES_ACTION
            has_event = status != previous or asks
            sequence += has_event
            self.columns |= {
                "status": status,
                "sub_status": sub_status,
                "sequence": sequence,
                "updated_at": at,
                "observed_at": max(
                    to_us(report.observed_at or self.now), self.row["observed_at"] or 0
                ),
            }
            if status is Status.FAILED:
                failure = _failure(report, sub_status)
                if self._document.early_returns and failure.funds_moved is FundsMoved.NO:
                    # Money came back, so it had moved.
                    failure = failure.model_copy(update={"funds_moved": FundsMoved.UNKNOWN})
                self.columns |= {
                    "failure": failure.model_dump_json(),
                    "funds_moved": failure.funds_moved,
                }
            self._document.add_entry(status, sub_status, at, tx_hash=tx_hash, detail=report.detail)
            if has_event:
                self._add_event(previous, ACTION_EVENT if asks else None)
            previous = status

    def _add_event(self, previous: Status, kind: str | None) -> None:
        """Add the event of the payout as it is now: of its status, or of another kind."""
        payout = payout_of({**dict(self.row), **self.columns}, self._document)
        self.events.append(payout_event(payout, previous, self.now, kind))


def created_document(at: int) -> str:
    """Return the document of a payout that is being created."""
    document = Document()
    document.add_entry(Status.PENDING, SubStatus.CREATED, at)
    return document.text


def payout_event(
    payout: Payout, previous: Status | None, now: datetime, kind: str | None = None
) -> Event:
    """Return the event of a payout as it is now: of its status, or of the kind given."""
    kind = kind or EVENT_OF[payout.status]
    return Event(kind, event_body(payout, previous, now, kind), payout.id, payout.sequence)


def _older(report: Report, row: Row) -> bool:
    """Whether the report is older than the newest one that was written. A report without a date counts as new."""
    if report.observed_at is None or row["observed_at"] is None:
        return False
    return bool(to_us(report.observed_at) < row["observed_at"])


def _before_the_end(report: Report, payout: Payout) -> bool:
    """Whether a report that money moves is from before the payout failed, and says nothing new.

    The custodian's own last status came after it, or its `broadcast` was known. This does not apply to
    an end with the claim that no money moved, or to a person's decision, because the report contradicts
    those.
    """
    if report.sub_status is None or STATUS_OF[report.sub_status] is not Status.BROADCAST:
        return False
    if report.observed_at is None or payout.failure is None:
        return False
    entries = [each for each in payout.timeline if each.status is Status.FAILED]
    if not entries or report.observed_at >= entries[0].at:
        return False
    known = any(each.status is Status.BROADCAST for each in payout.timeline)
    decided = payout.failure.code is FailureCode.OPERATOR_DECISION
    return known or not (decided or payout.failure.funds_moved is FundsMoved.NO)


def _contradiction(row: Row, report: Report) -> str:
    """Return the operator's text: one line for all reports that the money moves after all."""
    if row["status"] != Status.FAILED:
        return f"{row['status']}, and now the custodian says {report.custodian_word}"
    claim = "with funds_moved: no" if row["funds_moved"] == FundsMoved.NO else "already"
    return (
        f"it ended as failed {claim}, and the custodian says that its money moves: do not pay it again; "
        "clear it up with the custodian"
    )


def _failure(report: Report, sub_status: SubStatus) -> Failure:
    """Return the failure to show. If the adapter named none, it never claims that nothing moved."""
    if report.failure is not None:
        return report.failure
    code = {SubStatus.CANCELED: FailureCode.CANCELED, SubStatus.EXPIRED: FailureCode.EXPIRED}.get(
        sub_status, FailureCode.UNKNOWN_REASON
    )
    return Failure(
        code=code, message=report.detail or report.custodian_word, funds_moved=FundsMoved.UNKNOWN
    )
