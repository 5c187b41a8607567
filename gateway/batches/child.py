"""The process that checks files of batches: started by `gateway.batches.elsewhere`, and by nobody else.

It reads orders from its standard input and answers each of them on its standard output, one after the other.
It has no secret, no database and no network to speak of: what it is given is the file's path, the routes,
the limits on spending and the prices. It ends when its input ends, so also with its parent.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import resource
import signal
import sys
from itertools import islice
from typing import BinaryIO

from gateway.batches.frames import BEGIN, END, FAILED, PAGE, Order, Page, Work, answer, page_answer
from gateway.batches.items import (
    MOST_IN_FILE,
    Check,
    Checked,
    Planned,
    csv_lines,
    references_of,
)
from gateway.errors import Refused
from gateway.model import QuoteTerms

#: Lines of one page: their references are looked up at once.
PAGE_LINES = 500
#: What the process may use. Its longest step is a page.
_MEMORY = 1024 * 1024 * 1024
_FILES = 1024
_STEP_S = 600
_NICE = 19
#: Objects that are made before Python looks for garbage in cycles. A page makes some 20,000, and none of them
#: is in a cycle but what comes of errors; at Python's default of 700 the search took a fifth of all time.
_GARBAGE = 50_000


class Checking:
    """The check of one file."""

    def __init__(self, work: Work) -> None:
        self._found = Checked()
        self._check = Check(work.planner, work.caller, work.source, self._found)
        self._terms: list[QuoteTerms] = []
        self._check.terms_of = self._terms.append
        self._lines = csv_lines(work.path)
        #: what was told before: lines, faults that are listed, all faults
        self._told = (0, 0, 0)

    def page(self) -> bytes:
        """Check the next lines; return what came of them."""
        found, self._terms[:] = self._found, []
        lines = []
        planned: list[Planned] = []
        of_the_moment = False
        for line in islice(self._lines, PAGE_LINES):
            try:
                item = self._check.line(line)
            except Refused:
                # No line is to blame. The gateway asks the routes of this moment, and answers.
                of_the_moment = True
                break
            if item is not None:
                planned.append(item)
            lines.append(line)
            if found.count > MOST_IN_FILE:
                break
        told, self._told = self._told, (found.count, len(found.faults), found.fault_count)
        faults = found.faults[told[1] :]
        head = {
            "count": found.count - told[0],
            "faults": faults,
            "unlisted": found.fault_count - told[2] - len(faults),
            "references": references_of(lines),
            "terms": [
                [
                    each.asset,
                    each.route.to_network,
                    str(each.recipient_gets),
                    each.destination.model_dump(mode="json"),
                    item.reference,
                ]
                for each, item in zip(self._terms, planned, strict=True)
            ],
            "last": of_the_moment or len(lines) < PAGE_LINES,
            "of_the_moment": of_the_moment,
            "totals": {
                asset: [str(amount), found.counts[asset]] for asset, amount in found.totals.items()
            },
        }
        return page_answer(Page(head, planned))


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Carry out orders until there are no more."""
    checks: dict[int, Checking] = {}
    while (order := Order.read(orders)) is not None:
        signal.alarm(_STEP_S)
        try:
            if order.kind == END:
                checks.pop(order.number, None)
                continue
            if order.kind == BEGIN:
                # It comes from the process that started this one, and from no other.
                checks[order.number] = Checking(pickle.loads(order.content))  # noqa: S301
                made = answer(BEGIN)
            else:
                assert order.kind == PAGE  # noqa: S101 - there is no other
                made = checks[order.number].page()
        except Exception as error:  # noqa: BLE001 - what it is about goes to the log of the gateway
            # Its type alone: its words may have personal data of payees.
            made = answer(FAILED, type(error).__name__.encode())
        answers.write(made)
        answers.flush()
        signal.alarm(0)


def _yield_processor() -> None:
    """Run only where nothing else wants to: the gateway must not wait for the end of this one's time slice."""
    os.nice(_NICE)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    """Bound the process and serve."""
    for name in (signal.SIGINT, signal.SIGTERM):
        # A terminal sends it to all. The gateway ends this process when it has stopped itself.
        signal.signal(name, signal.SIG_IGN)
    _yield_processor()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
    for kind, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
