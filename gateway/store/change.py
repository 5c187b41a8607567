"""A change that a caller has handed in, and what became of it. Of both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import Refused
from gateway.logs import get_logger
from gateway.store.transaction import StoreFunction

#: How many changes may share one commit.
GROUP_LIMIT = 128
_log = get_logger("store")


def tell(callbacks: Iterable[Callable[[bool], None]], *, committed: bool) -> None:
    """Tell each that waits for the end of a change. What they raise is logged: the change stands."""
    for callback in callbacks:
        try:
            callback(committed)
        except Exception as error:  # noqa: BLE001 - the change stands, whatever they make of it
            _log.error("after_commit_failed", exc_info=error)


@dataclass(eq=False)
class Change:
    """One caller's change, and what became of it when it last ran."""

    fn: StoreFunction[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    done: asyncio.Future[Any]
    result: Any = None
    refusal: Refused | None = None
    mark: int | None = None
    #: what waits for the end of the change, as it last ran
    callbacks: list[Callable[[bool], None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What tells changes of one kind from others."""
        return getattr(self.fn, "__qualname__", "") or repr(self.fn)

    def over(self, *, committed: bool) -> None:
        """Notify the caller that waits for the end of the change; once, however often this is called."""
        callbacks, self.callbacks = self.callbacks, []
        tell(callbacks, committed=committed)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error. One that was cancelled hears nothing of its change."""
        self.over(committed=False)
        if not self.done.done():
            self.done.set_exception(error)

    def settle(self) -> None:
        """Give the caller its answer: the change is durable."""
        self.over(committed=True)
        if self.refusal is not None:
            self.fail(self.refusal)
        elif not self.done.done():
            self.done.set_result(self.result)
