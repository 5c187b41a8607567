"""Interprets reports about an execution: whose transfer they mean, what they prove, how each item changes.

Pure. `decide` uses it for the report of a call or a look. News from a webhook or an operator comes here
directly, because it decides nothing about the execution.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gateway.adapter import FundsMoved, Report
from gateway.execution.claims import unmarked
from gateway.execution.gate import Other
from gateway.execution.proof import (
    LOST_REFERENCE,
    Evidence,
    History,
    Kind,
    Source,
    calls,
    closed,
    ended,
)
from gateway.execution.reports import NEWS, claiming, failed, held_report, sightings
from gateway.execution.state import View
from gateway.runtime import Moment

REFERENCE_OF_ANOTHER = "the custodian shows a transfer that belongs to another payout"


def is_ours(view: View, item: str) -> bool:
    """Whether a report about an item names no transfer that belongs to another payout.

    Without this rule a payout is delivered by a stranger's transfer.
    """
    return item not in view.foreign


def unknown_references(view: View, reports: Mapping[str, Report]) -> frozenset[str]:
    """Return the items whose money is reported to move under a reference that none of their calls used.

    If a call names no reference of ours, as after an upgrade, no item is returned.
    """
    made = {each.reference for each in calls(view.history)}
    for other in view.others:
        if not other.elsewhere:
            made |= {each.reference for each in calls(other.history)}
    return frozenset(item for item, report in reports.items() if names_no_call(report, made))


def names_no_call(report: Report, made: Collection[str | None]) -> bool:
    """Whether money is reported to move under a reference of ours that no call used."""
    if not made or None in made or LOST_REFERENCE in made:
        return False
    return report.sub_status in NEWS and report.reference not in {None, *made}


def fits_order(report: Report) -> bool:
    """Whether a failed word is about what was ordered: the amount, the payee and our own reference.

    Without this rule the refusal of another payout, in a reply that was mixed up, ends this one.
    """
    return report.echo is None or not report.echo.differences()


def names_execution(view: View, item: str, report: Report, source: Source) -> bool:
    """Whether a failed word is about this execution, and not about an earlier one of the payout.

    A webhook that names none of our references may be late, and about the call of an earlier execution.
    Without this rule the failure of a first session ends the payout while the second one is paying it.
    """
    if source is not Source.WEBHOOK or report.reference is not None:
        return True
    return not any(calls(each.history) for each in view.others if item in each.items)


def date_of(view: View) -> Moment:
    """Return the date of what a verb has seen: the time its request started, never the time of writing.

    Without this rule a look whose answer is written much later counts as evidence of that time.
    """
    return view.started


def knows_every_call(view: View) -> bool:
    """Whether the rows are certainly all: the database is not an old copy that nobody has adopted.

    Without this rule the word that the only call of an old copy failed ends a payout as "not paid" while
    a call that was made after the copy is on its way.
    """
    return not view.frozen


def others_closed(others: Sequence[Other], item: str) -> bool:
    """Whether none of the other executions can still pay an item."""
    return all(closed(each.history, item) for each in others if item in each.items)


def news_from_outside(
    view: View, item: str, report: Report, source: Source
) -> tuple[tuple[Evidence, ...], Report | None]:
    """Return the rows and the report that a webhook's or an operator's news about one item leads to.

    A report of None does not end the item by itself: it only brings the next look forward.
    """
    if not is_ours(view, item):
        return (), None
    rows, reports, held = interpret(view, view.history, {item: report}, source)
    if source is not Source.OPERATOR and unmarked(view, {item: report}):
        return rows, None
    # A look decides under the lease whether the order is retried.
    again = report.reopens and failed(report)
    return rows, None if held or again else reports[item]


def interpret(
    view: View, history: History, reports: Mapping[str, Report], source: Source
) -> tuple[tuple[Evidence, ...], dict[str, Report], bool]:
    """Return the rows that reports add, the report that each item gets, and whether one was held back.

    A failed word ends an item only if it covers everything that was sent. A claim that no money moved is
    accepted only if the rows prove it.
    """
    rows: list[Evidence] = []
    judged: dict[str, Report] = {}
    held = False
    known = {each.id for each in view.items}

    def row(kind: Kind, item: str | None, answer: str | None, reference: str | None) -> Evidence:
        number = history.last_number + len(rows) + 1
        return Evidence(
            number=number,
            kind=kind,
            seen=view.seen,
            at=date_of(view),
            fingerprint=view.fingerprint,
            answer=answer,
            reference=reference,
            item=item,
            source=source,
        )

    for item, report in reports.items():
        if item not in known:
            continue
        judged[item] = report
        for answer in sightings(history.having(*rows), item, report):
            rows.append(row(Kind.NEWS, item, answer, report.reference))  # noqa: PERF401 - numbered one by one
        if not failed(report):
            continue
        if not (fits_order(report) and names_execution(view, item, report, source)):
            held = True
            judged[item] = held_report(report)
            continue
        claim = report.failure.funds_moved if report.failure else FundsMoved.UNKNOWN
        rows.append(row(Kind.WORD, item, claim, report.reference))
        now_known = history.having(*rows)
        whole = knows_every_call(view)
        unpaid = closed(now_known, item) and others_closed(view.others, item)
        if report.reopens and unpaid and whole:
            continue
        if not (whole and ended(now_known, item)):
            held = True
            judged[item] = held_report(report)
        elif claim is FundsMoved.NO and not unpaid:
            judged[item] = claiming(report, FundsMoved.UNKNOWN)
    return tuple(rows), judged, held
