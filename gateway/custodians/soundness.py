"""Checks that an adapter returned what the contract allows; otherwise none of it is used.

Type checkers find the same errors for authors who use them. Each message names the member and the fix;
the custodian instance puts the adapter and the verb before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from gateway.adapter import (
    Action,
    Balance,
    BatchReport,
    Echo,
    Failure,
    Notice,
    NotListed,
    Ref,
    Report,
    Returned,
    SubStatus,
    Transaction,
)
from gateway.errors import AdapterFault, kind_of
from gateway.model import Status
from gateway.states import STATUS_OF

_NONE = type(None)
#: The types of a report's members; the contract declares them, but only type checkers read it.
_MEMBERS: Mapping[str, tuple[type, ...]] = {
    "sub_status": (SubStatus, _NONE),
    "custodian_word": (str,),
    "refs": (tuple, list),
    "transactions": (tuple, list),
    "failure": (Failure, _NONE),
    "echo": (Echo, _NONE),
    "custodian_reference": (str, _NONE),
    "unknown_words": (tuple, list),
    "observed_at": (datetime, _NONE),
    "detail": (str, _NONE),
    "fees_paid_usd": (Decimal, _NONE),
    "final_recipient_amount": (Decimal, _NONE),
    "again_after_s": (int, float, _NONE),
    "action": (Action, _NONE),
    "reference": (str, _NONE),
    "returned": (tuple, list),
}
_MEMBERS_OF_A_RETURN: Mapping[str, tuple[type, ...]] = {
    "id": (str, _NONE),
    "amount": (Decimal,),
    "asset": (str,),
    "at": (datetime,),
    "word": (str,),
}
_MEMBERS_OF_A_BALANCE: Mapping[str, tuple[type, ...]] = {
    "asset": (str,),
    "available": (Decimal,),
    "pending": (Decimal, _NONE),
    "as_of": (datetime,),
    "network": (str, _NONE),
}
_MEMBERS_OF_AN_ECHO: Mapping[str, tuple[type, ...]] = {
    name: (Decimal if "amount" in name else str, _NONE)
    for name in (each.name for each in fields(Echo))
}
_MEMBERS_OF_A_SET: Mapping[str, tuple[type, ...]] = {
    "custodian_word": (str,),
    "items": (Mapping,),
    "custodian_reference": (str, _NONE),
    "detail": (str, _NONE),
}
_MEMBERS_OF_A_NOTICE: Mapping[str, tuple[type, ...]] = {
    "refs": (tuple, list),
    "dedup_key": (str,),
    "observed_at": (datetime, _NONE),
    "report": (Report, _NONE),
    "told": (Mapping,),
    "returned": (tuple, list),
}
_FIXES: Mapping[type, str] = {
    Decimal: "build it from the custodian's text: Decimal(text), never from a float",
    datetime: "use gateway.adapter.read_time, which gives a time with a zone",
    SubStatus: "take it from your table of words; None where the word is not in it",
    Failure: "use Failure(code=…, message=…, funds_moved=…)",
    tuple: "give a tuple, even of one element",
}


def expect(result: object, *kinds: type) -> None:
    """Raise AdapterFault unless a verb returned one of these."""
    if not isinstance(result, kinds):
        raise AdapterFault(f"it returned {kind_of(result)}; return {_or(kinds)}")


def expect_sound(result: object) -> None:
    """Raise AdapterFault if a report has a member of a wrong type, or lacks a required one."""
    reports: Iterable[Any] = (result,) if isinstance(result, Report) else ()
    if isinstance(result, BatchReport):
        _expect_members("BatchReport", result, _MEMBERS_OF_A_SET)
        _expect_whole("BatchReport.custodian_reference", result.custodian_reference)
        for key, each in result.items.items():
            _expect_type(f"BatchReport.items[{str(key)[:40]}]", each, (Report,))
        reports = result.items.values()
    if isinstance(result, NotListed):
        _expect_type("NotListed.since", result.since, (datetime, _NONE))
        _expect_zone("NotListed.since", result.since)
    for report in reports:
        _expect_report(report)


def expect_sound_notice(notice: object) -> None:
    """Raise AdapterFault if a notice cannot be matched, or its time has no zone.

    Other functions check its report and its returns.
    """
    expect(notice, Notice)
    _expect_members("Notice", notice, _MEMBERS_OF_A_NOTICE)
    assert isinstance(notice, Notice)  # noqa: S101 - see above
    _expect_refs("Notice", notice.refs)
    _expect_zone("Notice.observed_at", notice.observed_at)


def expect_sound_balance(balance: object) -> None:
    """Raise AdapterFault if a balance has a member of a wrong type, or amounts that are not finite."""
    expect(balance, Balance)
    assert isinstance(balance, Balance)  # noqa: S101 - see above
    _expect_members("Balance", balance, _MEMBERS_OF_A_BALANCE)
    _expect_zone("Balance.as_of", balance.as_of)
    for name in ("available", "pending"):
        amount = getattr(balance, name)
        if amount is not None and not amount.is_finite():
            raise AdapterFault(f"Balance.{name} is {amount}; give a finite amount")


def expect_returns(where: str, returned: Iterable[object]) -> None:
    """Raise AdapterFault if a return has no amount, no zone, or an empty id."""
    for each in returned:
        _expect_type(f"an element of {where}.returned", each, (Returned,))
        assert isinstance(each, Returned)  # noqa: S101 - see above
        _expect_members("Returned", each, _MEMBERS_OF_A_RETURN)
        if not each.amount.is_finite() or each.amount <= 0:
            raise AdapterFault(f"Returned.amount is {each.amount}; give a positive amount")
        _expect_whole("Returned.id", each.id)
        if each.id is not None and not each.id.strip():
            raise AdapterFault("Returned.id is empty; give None where the custodian has no id")
        _expect_zone("Returned.at", each.at)


def _expect_report(report: Report) -> None:
    _expect_members("Report", report, _MEMBERS)
    if report.echo is not None:
        _expect_members("Report.echo", report.echo, _MEMBERS_OF_AN_ECHO)
    _expect_refs("Report", report.refs)
    _expect_transactions(report.transactions)
    for word in report.unknown_words:
        _expect_type("an element of Report.unknown_words", word, (str,))
    _expect_zone("Report.observed_at", report.observed_at)
    _expect_whole("Report.custodian_reference", report.custodian_reference)
    if report.action is not None:
        _expect_zone("Action.expires_at", report.action.expires_at)
        _expect_whole("Action.url", report.action.url)
    expect_returns("Report", report.returned)
    got = report.final_recipient_amount
    if got is not None and (not got.is_finite() or got < 0):
        raise AdapterFault(
            f"Report.final_recipient_amount is {got}; give a finite amount that is not negative, or None"
        )
    again_s = report.again_after_s
    if again_s is not None and not math.isfinite(again_s):
        raise AdapterFault(f"Report.again_after_s is {again_s}; give seconds, or None")
    sub_status = report.sub_status
    if sub_status is None:
        return
    if STATUS_OF[sub_status] is Status.FAILED and report.failure is None:
        raise AdapterFault(
            f"Report.failure is missing beside sub_status {sub_status}; {_FIXES[Failure]}, "
            "with funds_moved unknown unless the custodian says that no money moved"
        )
    if sub_status is SubStatus.REQUIRES_ACTION and report.action is None:
        raise AdapterFault(
            f"Report.action is missing beside sub_status {sub_status}; say what the person is to do: "
            "Action(type=…)"
        )


def _expect_transactions(transactions: Iterable[Any]) -> None:
    for transaction in transactions:
        _expect_type("an element of Report.transactions", transaction, (Transaction,))
        _expect_zone("Transaction.at", transaction.at)


def _expect_refs(where: str, refs: Iterable[Any]) -> None:
    for ref in refs:
        _expect_type(f"an element of {where}.refs", ref, (Ref,))
        _expect_type("Ref.kind", ref.kind, (str,))
        _expect_type("Ref.value", ref.value, (str,))
        _expect_whole("Ref.kind", ref.kind)
        _expect_whole("Ref.value", ref.value)


def _expect_whole(member: str, text: object) -> None:
    """Raise AdapterFault for an id with half of a character: texts are repaired, but an id must not be changed."""
    if isinstance(text, str) and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise AdapterFault(
                f"{member} has half of a character; give the custodian's id as it is"
            ) from None


def _expect_zone(member: str, at: object) -> None:
    if isinstance(at, datetime) and at.tzinfo is None:
        raise AdapterFault(f"{member} is a time without a zone; {_FIXES[datetime]}")


def _expect_members(where: str, report: object, members: Mapping[str, tuple[type, ...]]) -> None:
    for name, kinds in members.items():
        _expect_type(f"{where}.{name}", getattr(report, name), kinds)


def _expect_type(member: str, value: object, kinds: tuple[type, ...]) -> None:
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return
    fix = next((_FIXES[each] for each in kinds if each in _FIXES), f"give {_or(kinds)}")
    raise AdapterFault(f"{member} is {kind_of(value)}; {fix}")


def _or(kinds: Iterable[type]) -> str:
    return " or ".join("None" if each is _NONE else each.__name__ for each in kinds)
