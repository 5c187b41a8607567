"""What the gateway and the process that checks files say to each other: orders, and answers in their order.

Each is preceded by its length in four bytes. Only the gateway's own orders are pickled; what comes back,
from a process that reads what strangers have sent, is JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic_core import from_json, to_json

from gateway.batches.items import Planned
from gateway.batches.schemas import BatchSource
from gateway.caller import Caller
from gateway.planning import Planner

BEGIN, PAGE, END, FAILED = b"B", b"P", b"E", b"F"
LENGTH = 4


@dataclass(frozen=True)
class Work:
    """A file to check, and by what."""

    path: Path
    planner: Planner
    caller: Caller
    source: BatchSource


class Order(NamedTuple):
    """What the process is asked to do for one file."""

    kind: bytes
    number: int
    content: bytes = b""

    def frame(self) -> bytes:
        """Return it as it is sent."""
        return _framed(self.kind + self.number.to_bytes(LENGTH) + self.content)

    @classmethod
    def read(cls, source: BinaryIO) -> Order | None:
        """Return the next one; None where there is no more."""
        head = source.read(LENGTH)
        size = int.from_bytes(head)
        raw = source.read(size)
        if len(head) < LENGTH or len(raw) < size:
            return None
        return cls(raw[:1], int.from_bytes(raw[1 : 1 + LENGTH]), raw[1 + LENGTH :])


class Page(NamedTuple):
    """What came of the next lines of a file."""

    #: as `gateway.batches.child` makes it
    head: dict[str, Any]
    #: the items that could be paid
    items: Sequence[Planned]

    @classmethod
    def of(cls, content: bytes) -> Page:
        """Return a page as it was answered."""
        head, items = from_json(content)
        return cls(head, [Planned(*each) for each in items])


def answer(kind: bytes, content: bytes = b"") -> bytes:
    """Return an answer as it is sent."""
    return _framed(kind + content)


def page_answer(page: Page) -> bytes:
    """Return a page as it is sent. pydantic's JSON takes a quarter of the time of the standard library's."""
    return answer(PAGE, to_json(page))


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(LENGTH) + content
