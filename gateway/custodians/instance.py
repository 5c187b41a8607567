"""A custodian instance: the one wrapper around an adapter.

It gives every call a deadline, a metric, one log line, and the one translation of errors: what never
connected was not sent; whatever else went wrong may have arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import aiohttp

from gateway.adapter import (
    Absent,
    Adapter,
    BatchOrder,
    BatchReport,
    CannotLook,
    Capabilities,
    Notice,
    Offer,
    Order,
    Report,
    Terms,
    Tools,
)
from gateway.errors import (
    AdapterError,
    CannotVerify,
    InvalidSignature,
    NotSent,
    OutcomeUnknown,
)
from gateway.logs import get_logger, scrub
from gateway.metrics import Metrics

R = TypeVar("R")
#: What a custodian says is kept in the store and shown; a whole page of it helps nobody.
_MOST_CHARS = 300
#: A partner waits for its quote meanwhile.
_OFFERS_S = 3.0
_log = get_logger("custodian")


class TrackedOrder(Order, Protocol):
    """An order that knows whether its moving mark was set during this call."""

    @property
    def moved_now(self) -> bool:
        """Whether it was."""


class TrackedBatch(BatchOrder, Protocol):
    """A set that knows whether its moving mark was set during this call."""

    @property
    def moved_now(self) -> bool:
        """Whether it was."""


@dataclass
class _Telling:
    """What one call's metric and one log line will say."""

    outcome: str = "ok"
    level: int = logging.INFO
    keys: dict[str, Any] = field(default_factory=dict)

    def fail(self, outcome: str, error: Exception, *, crashed: bool) -> None:
        """Tell of an error; of one that nobody foresaw, with the traceback."""
        self.outcome, self.level = outcome, logging.ERROR if crashed else logging.WARNING
        self.keys["detail"] = str(error)[:_MOST_CHARS] or type(error).__name__
        if crashed:
            self.keys["exc_info"] = error


class CustodianInstance:
    """A custodian instance: an adapter with deadline, metrics, logs, scrubbing, error translation."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        name: str,
        adapter_name: str,
        adapter: Adapter[Any],
        tools: Tools,
        metrics: Metrics,
        deadline_s: float,
    ) -> None:
        self.name = name
        self.adapter_name = adapter_name
        self._adapter = adapter
        self._clock = tools.clock
        self._metrics = metrics
        self._deadline_s = deadline_s

    @property
    def capabilities(self) -> Capabilities:
        """What the adapter can do."""
        return self._adapter.capabilities

    async def submit(self, order: TrackedOrder) -> Report:
        """Do the next thing for the order. Raises the typed outcomes and nothing else."""
        return await self._call("submit", order, partial(self._adapter.submit, order), Report)

    async def fetch(self, order: TrackedOrder) -> Report | Absent | CannotLook:
        """Ask how the order stands. Raises OutcomeUnknown or NotSent where the look failed."""
        call = partial(self._adapter.fetch, order)
        return await self._call("fetch", order, call, Report, Absent, CannotLook)

    async def confirm(self, order: TrackedOrder, answer: Mapping[str, Any]) -> Report:
        """Answer a required action."""
        call = partial(self._adapter.confirm, order, answer)
        return await self._call("confirm", order, call, Report)

    async def cancel(self, order: TrackedOrder) -> Report:
        """Ask the custodian to cancel."""
        return await self._call("cancel", order, partial(self._adapter.cancel, order), Report)

    def set_limit(self) -> int:
        """Return how many payouts one set may have."""
        return max(1, self._adapter.set_limit())

    async def submit_batch(self, batch: TrackedBatch) -> BatchReport:
        """Do the next thing for a set. Raises the typed outcomes and nothing else."""
        call = partial(self._adapter.submit_batch, batch)
        return await self._call("submit_batch", batch, call, BatchReport)

    async def fetch_batch(self, batch: TrackedBatch) -> BatchReport | Absent | CannotLook:
        """Ask how a set stands. Raises OutcomeUnknown or NotSent where the look failed."""
        call = partial(self._adapter.fetch_batch, batch)
        return await self._call("fetch_batch", batch, call, BatchReport, Absent, CannotLook)

    def check(self, terms: Terms) -> str | None:
        """Return why the adapter could never pay on such terms, or None. Pure: no metric, no log."""
        reason = self._adapter.check(terms)
        return None if reason is None else scrub(reason)

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Return what providers would give now; nothing where they are silent, slow or unknown."""
        if not self.capabilities.quotes:
            return ()
        with self._telling("offers") as telling:
            try:
                async with asyncio.timeout(_OFFERS_S):
                    offers = list(await self._adapter.offers(terms))
                for each in offers:
                    _expect(each, Offer)
            except Exception as error:  # noqa: BLE001 - a quote without an offer is still a quote
                crashed = not isinstance(error, AdapterError) and not _foreseen(error)
                telling.fail(type(error).__name__, error, crashed=crashed)
                return ()
            return offers

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a webhook. Raises InvalidSignature or CannotVerify and nothing else."""
        with self._telling("verify") as telling:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await self._adapter.verify(headers, body)
            except (InvalidSignature, CannotVerify) as error:
                clean = _scrubbed(error)
                telling.fail(type(error).__name__, clean, crashed=False)
                raise clean from None
            except Exception as error:  # noqa: BLE001 - a fault of ours must not lose the custodian's news
                telling.fail("CannotVerify", error, crashed=not _foreseen(error))
                raise CannotVerify(type(error).__name__) from None

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook. Raises ValueError where it cannot be read, whatever the reason."""
        with self._telling("parse") as telling:
            try:
                notices = list(self._adapter.parse(body))
                for each in notices:
                    _expect(each, Notice)
            except Exception as error:  # noqa: BLE001 - the body is kept; a later version may read it
                # Not the error's own words: they may be the body's.
                telling.fail("unreadable", error, crashed=not isinstance(error, ValueError))
                telling.keys["detail"] = type(error).__name__
                raise ValueError(f"{type(error).__name__} while reading a webhook") from None
            telling.keys["notices"] = len(notices)
            return notices

    async def _call(
        self,
        verb: str,
        order: TrackedOrder | TrackedBatch,
        call: Callable[[], Awaitable[R]],
        *kinds: type,
    ) -> R:
        with self._telling(verb, **_keys_of(order)) as telling:
            try:
                async with asyncio.timeout(self._deadline_s):
                    result = await call()
                _expect(result, *kinds)
            except Exception as error:  # noqa: BLE001 - an adapter may fail in any way
                translated = _translate(error, moved=order.moved_now)
                crashed = not isinstance(error, AdapterError) and not _foreseen(error)
                telling.fail(
                    type(translated).__name__, error if crashed else translated, crashed=crashed
                )
                raise translated from None
            telling.outcome = type(result).__name__
            if isinstance(result, Report):
                telling.outcome = result.sub_status or "unknown_word"
                telling.keys |= {
                    "custodian_word": result.custodian_word,
                    "custodian_reference": result.custodian_reference,
                }
                for unknown in result.unknown_words:
                    self._metrics.unknown_word(self.name, unknown)
                return _clean_report(result)  # type: ignore[return-value] # R is a Report here
            if isinstance(result, BatchReport):
                telling.outcome = "report"
                telling.keys["custodian_word"] = scrub(result.custodian_word)
                for each in result.items.values():
                    for unknown in each.unknown_words:
                        self._metrics.unknown_word(self.name, unknown)
                clean = {key: _clean_report(each) for key, each in result.items.items()}
                return replace(result, items=clean, custodian_word=scrub(result.custodian_word))
            return result

    @contextmanager
    def _telling(self, verb: str, **keys: Any) -> Iterator[_Telling]:
        """Time a call; at its end count it and write its one log line. Bodies are never in it."""
        begun = self._clock.monotonic()
        telling = _Telling()
        try:
            yield telling
        except asyncio.CancelledError:
            telling.outcome = "cancelled"
            raise
        finally:
            took = self._clock.monotonic() - begun
            self._metrics.call(self.name, verb, telling.outcome, took)
            _log.log(
                telling.level,
                "custodian_call",
                custodian=self.name,
                adapter=self.adapter_name,
                verb=verb,
                outcome=telling.outcome,
                duration_ms=round(took * 1000, 1),
                **keys,
                **telling.keys,
            )


def _keys_of(order: TrackedOrder | TrackedBatch) -> dict[str, Any]:
    """Return what names a call in its log line."""
    set_id = getattr(order, "set_id", None)
    if set_id is not None:
        return {"set_id": set_id}
    return {"payout_id": getattr(order, "payout_id", None), "attempt": getattr(order, "attempt", 0)}


def _expect(result: object, *kinds: type) -> None:
    if not isinstance(result, kinds):
        raise TypeError(f"the adapter returned a {type(result).__name__}")


def _foreseen(error: Exception) -> bool:
    """Whether it is what networks do, and no bug of the adapter."""
    return isinstance(error, aiohttp.ClientError | TimeoutError | OSError)


def _translate(error: Exception, *, moved: bool) -> AdapterError:
    """Return the typed outcome of whatever a verb raised; its words without secrets.

    Once the moving mark is set only the adapter itself can say that nothing was sent: a raw error
    may come from a later call.
    """
    if isinstance(error, AdapterError):
        return _scrubbed(error)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL) and not moved:
        # No connection was ever made, so that no byte of the request left.
        return NotSent(f"no connection ({type(error).__name__})")
    if isinstance(error, TimeoutError):
        return OutcomeUnknown("no answer in time")
    return OutcomeUnknown(scrub(f"{type(error).__name__}: {error}")[:_MOST_CHARS])


def _scrubbed(error: AdapterError) -> AdapterError:
    """Return the error, its words and members without secrets."""
    error.args = tuple(scrub(each) if isinstance(each, str) else each for each in error.args)
    for name, each in vars(error).items():
        if isinstance(each, str):
            setattr(error, name, scrub(each))
    return error


def _clean_report(report: Report) -> Report:
    """Return the report, the custodian's words in it without secrets: they are kept and shown."""
    failure = report.failure
    if failure is not None:
        words = {"message": scrub(failure.message)}
        if failure.custodian_code is not None:
            words["custodian_code"] = scrub(failure.custodian_code)
        failure = failure.model_copy(update=words)
    return replace(
        report,
        custodian_word=scrub(report.custodian_word),
        detail=None if report.detail is None else scrub(report.detail),
        unknown_words=tuple(scrub(word) for word in report.unknown_words),
        failure=failure,
    )
