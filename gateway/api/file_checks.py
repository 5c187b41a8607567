"""Checks of files in another process: what is left to this one.

The lines of a page are checked there while the page before is stored here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gateway.api.context import ApiContext
from gateway.batches.elsewhere import NoProcessError
from gateway.batches.frames import Page, Work
from gateway.batches.items import Checked, Planned, judge_count
from gateway.batches.schemas import BatchSource
from gateway.caller import Caller
from gateway.model import Destination
from gateway.planning import DraftTerms

#: Files below so many bytes are checked in this process: it takes less time than to hand them over.
SMALL_FILE = 64 * 1024
_destination: TypeAdapter[Destination] = TypeAdapter(Destination)


class CheckHereError(Exception):
    """The file has to be checked in this process; nothing that came of it before counts."""


async def checked_elsewhere(
    context: ApiContext, caller: Caller, source: BatchSource, file: Path, found: Checked
) -> AsyncGenerator[Iterator[Planned], None]:
    """Check every line of a file in another process; give the items that could be paid, a page at a time.

    What is found goes into `found`; that of a page before its items are given. The custodian itself is
    asked about an item when the item is taken: each has to be, in steps of `Jobs`.
    CheckHereError: the file is small, or there is no other process, or (while items are taken, too) the
    custodian objects to a line: another route might do then, and only this process can ask for one. Nor
    can another process answer for a custodian that does not answer at this moment.
    Refused: `internal_error`, where the other process has failed.
    """
    elsewhere = context.file_checks
    if elsewhere is None or (await context.runtime.offload(file.stat)).st_size < SMALL_FILE:
        raise CheckHereError
    objects = _objection(context, source)
    work = Work(file, context.quotes.still(), caller, source)
    try:
        async with elsewhere.checking(work) as check, aclosing(check.pages()) as pages:
            async for page in pages:
                if page.head["of_the_moment"]:
                    raise CheckHereError
                _add(found, page)
                where = page.head["references"]
                await context.db.scan(context.batches.references_used, caller, where, found)
                yield _without_objection(page, objects)
    except NoProcessError:
        raise CheckHereError from None
    judge_count(found)


def _without_objection(page: Page, objects: Callable[[list[Any]], bool]) -> Iterator[Planned]:
    """Give the items of a page; CheckHereError at the first one that the custodian objects to."""
    for terms, item in zip(page.head["terms"], page.items, strict=True):
        if objects(terms):
            raise CheckHereError
        yield item


def _add(found: Checked, page: Page) -> None:
    """Take over what came of a page."""
    head = page.head
    found.count += head["count"]
    for each in head["faults"]:
        found.fault(**each)
    found.fault_count += head["unlisted"]
    for asset, (amount, count) in head["totals"].items():
        found.totals[asset], found.counts[asset] = Decimal(amount), count


def _objection(context: ApiContext, source: BatchSource) -> Callable[[list[Any]], bool]:
    """Return what says whether the custodian objects to the terms of a line."""
    quotes, assets = context.quotes, context.quotes.registry

    def objects(terms: list[Any]) -> bool:
        code, network, amount, destination, reference = terms
        draft = DraftTerms(
            asset=code,
            network=network,
            decimals=assets.find(code).decimals_on(network),
            amount=Decimal(amount),
            source=source.account,
            destination=_destination.validate_python(destination),
            reference=reference,
        )
        return quotes.objection(source.custodian, draft) is not None

    return objects
