"""Removes secrets and broken characters from what a custodian or an adapter wrote, before it is kept or shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from gateway.adapter import Absent, BatchReport, CannotLook, NotListed, Report, Returned
from gateway.custodians.wording import plain
from gateway.egress.echoes import without_sent
from gateway.errors import AdapterError
from gateway.logs import scrub

#: The longest message that is kept.
MOST_CHARS = 300
R = TypeVar("R")


def worded(text: str) -> str:
    """Return an error's message for an operator: cleaned, and without names of a library's errors."""
    return cleaned(plain(text))


def cleaned(text: str) -> str:
    """Return a custodian's text without secrets and without anything confidential that this call sent.

    Half of a character (an emoji that was cut in two) becomes a question mark, because no store can
    hold it.
    """
    whole = text if text.isascii() else text.encode("utf-8", "replace").decode()
    return scrub(without_sent(whole))


def scrubbed(error: AdapterError) -> AdapterError:
    """Return the error without secrets in its message and members."""
    error.args = tuple(worded(each) if isinstance(each, str) else each for each in error.args)
    for name, each in vars(error).items():
        if isinstance(each, str):
            setattr(error, name, worded(each))
    return error


def clean_look(result: R) -> R:
    """Return a look's finding, cleaned, if it is not a report: its words are evidence that operators see."""
    found: Any = result
    if isinstance(found, CannotLook):
        found = replace(found, reason=worded(found.reason))
    elif isinstance(found, Absent | NotListed):
        found = replace(found, custodian_word=cleaned(found.custodian_word))
    return found  # type: ignore[no-any-return] # of the same type


def clean_returns(returned: Iterable[Returned]) -> tuple[Returned, ...]:
    """Return the returns with the custodian's words cleaned."""
    return tuple(replace(each, word=cleaned(each.word)[:MOST_CHARS]) for each in returned)


def clean_set(report: BatchReport) -> BatchReport:
    """Return the report of a set with the custodian's words cleaned."""
    return replace(
        report,
        items={key: clean_report(each) for key, each in report.items.items()},
        custodian_word=cleaned(report.custodian_word),
        detail=_cleaned_any(report.detail),
    )


def clean_report(report: Report) -> Report:
    """Return the report with the custodian's words cleaned. Ids are never changed, because they are compared."""
    action = report.action
    if action is not None:
        action = replace(
            action,
            channel=_cleaned_any(action.channel),
            masked_target=_cleaned_any(action.masked_target),
        )
    failure = report.failure
    if failure is not None:
        words = {"message": cleaned(failure.message)}
        if failure.custodian_code is not None:
            words["custodian_code"] = cleaned(failure.custodian_code)
        failure = failure.model_copy(update=words)
    return replace(
        report,
        custodian_word=cleaned(report.custodian_word),
        detail=_cleaned_any(report.detail),
        unknown_words=tuple(cleaned(word) for word in report.unknown_words),
        failure=failure,
        action=action,
        returned=clean_returns(report.returned),
    )


def _cleaned_any(value: R) -> R:
    """Return a member, cleaned if it is a text."""
    return cleaned(value) if isinstance(value, str) else value  # type: ignore[return-value] # a str
