"""Checks of files in another process: what is left to this one."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gateway.api.context import ApiContext
from gateway.api.jobs import Jobs
from gateway.batches.elsewhere import NoProcessError
from gateway.batches.frames import Page, Work
from gateway.batches.items import Checked, Kept, judge_count
from gateway.batches.schemas import BatchSource
from gateway.keys import Caller
from gateway.model import Destination
from gateway.quotes import DraftTerms

#: Files below so many bytes are checked in this process: it takes less time than to hand them over.
SMALL_FILE = 64 * 1024
_destination: TypeAdapter[Destination] = TypeAdapter(Destination)


async def check_elsewhere(  # noqa: PLR0913 - whose file it is, and where its items go
    context: ApiContext,
    jobs: Jobs,
    caller: Caller,
    source: BatchSource,
    file: Path,
    kept: Kept | None,
) -> Checked | None:
    """Check every line of a file in another process, and keep its items.

    None, and nothing is kept: it has to be checked in this process. It is small, or there is no other
    process, or the custodian itself objects to a line: another route might do then, and only this process
    can ask for one. Nor can another process answer for a custodian that does not answer at this moment.
    Refused: `internal_error`, if the other process has failed.
    """
    elsewhere = context.file_checks
    if elsewhere is None or (await context.runtime.offload(file.stat)).st_size < SMALL_FILE:
        return None
    found = Checked()
    objects = _objection(context, source)
    work = Work(file, context.quotes.still(), caller, source)
    try:
        async with elsewhere.checking(work) as check:
            async for page in check.pages():
                if page.head["of_the_moment"]:
                    if kept is not None:
                        kept.clear()
                    return None
                async for step in jobs.steps(caller.org, page.head["terms"], objects):
                    if any(step):
                        if kept is not None:
                            kept.clear()
                        return None
                _add(found, page)
                if kept is not None:
                    kept.add_lines(page.items)
                where = page.head["references"]
                await context.db.scan(context.batches.references_used, caller, where, found)
    except NoProcessError:
        return None
    judge_count(found)
    return found


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
