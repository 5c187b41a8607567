"""A custodian instance: the one wrapper around an adapter.

It gives every call a deadline, a metric, one log line, and the one translation of errors: what never
connected was not sent; whatever else went wrong may have arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import aiohttp
from pydantic import ValidationError

from gateway.adapter import (
    Absent,
    Account,
    Adapter,
    Balance,
    BatchItem,
    BatchReport,
    CannotLook,
    Capabilities,
    Failure,
    Notice,
    NotListed,
    Offer,
    Order,
    Report,
    Terms,
    Tools,
    Transaction,
)
from gateway.custodians.cleaning import (
    MOST_CHARS,
    clean_look,
    clean_report,
    clean_returns,
    clean_set,
    scrubbed,
    worded,
)
from gateway.custodians.dates import Dates, noted_readings, set_since_s
from gateway.custodians.pacer import MOST_PAUSE_S, Pacer
from gateway.custodians.soundness import (
    expect,
    expect_returns,
    expect_sound,
    expect_sound_balance,
    expect_sound_notice,
)
from gateway.custodians.wording import plain
from gateway.egress.echoes import sending, texts_of
from gateway.errors import (
    AdapterError,
    AdapterFault,
    CannotVerify,
    InvalidSignature,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Unsupported,
)
from gateway.limits import Sample
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import Attention
from gateway.report import FaultyNotice

R = TypeVar("R")
_TOO_MANY = 429
#: The time limit of an offer; it is short, because a partner waits for the quote.
_OFFERS_S = 3.0
#: Errors that an adapter raises by mistake. They end no process: even SystemExit is only a failed call.
CRASHES = (Exception, SystemExit)
#: Errors that are bugs of the adapter, whatever the custodian sent.
_BUGS = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError)
#: Models of the contract that an adapter builds.
_BUILT = frozenset({Failure.__name__, Transaction.__name__})
_log = get_logger("custodian")


class TrackedOrder(Order, Protocol):
    """An execution that knows whether its moving mark was set during this call."""

    @property
    def set_id(self) -> str:
        """The gateway's id of the execution."""

    @property
    def items(self) -> Sequence[BatchItem]:
        """Every payout of it."""

    @property
    def moved_now(self) -> bool:
        """Whether the mark was set."""


@dataclass
class _Telling:
    """Collects what the metric and the log line of one call report."""

    outcome: str = "ok"
    level: int = logging.INFO
    keys: dict[str, Any] = field(default_factory=dict)
    #: how many lines were omitted before this one; None if this one is omitted as well
    left_out: int | None = 0

    def fail(self, outcome: str, error: BaseException, *, crashed: bool) -> None:
        """Log an error, with the traceback if it was unexpected."""
        self.outcome, self.level = outcome, logging.ERROR if crashed else logging.WARNING
        self.keys["detail"] = worded(_words_of(error))[:MOST_CHARS] or type(error).__name__
        if crashed:
            self.keys["exc_info"] = error


#: Makes fingerprints of accounts, under the server key and under the previous one if it is set.
Fingerprints = tuple[Callable[..., str], ...]


@dataclass(frozen=True)
class Previous:
    """The adapter with the previous credentials, during a change of credentials. It only verifies and reads."""

    adapter: Adapter[Any]
    fingerprints: Fingerprints


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
        *,
        fingerprints: Fingerprints,
        dates: Dates,
        previous: Previous | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        self.name = name
        self.pacer = pacer or Pacer(tools.clock, adapter.capabilities.rate)
        self._previous = previous
        self._fingerprints = fingerprints
        self.dates = dates
        self.adapter_name = adapter_name
        self._adapter = adapter
        self._clock = tools.clock
        self._refused = Sample(tools.clock)
        self._metrics = metrics
        self._deadline_s = deadline_s

    @property
    def capabilities(self) -> Capabilities:
        """What the adapter can do."""
        return self._adapter.capabilities

    def fingerprint(self, account: Account, *, livemode: bool) -> str:
        """Return a text that identifies the account for calls and looks.

        It is a digest of the adapter, the mode, the account and the settings that identify the
        account's owner.
        """
        return self._named(self._fingerprints[0], account, livemode=livemode)

    def fingerprint_before(self, account: Account, *, livemode: bool) -> str | None:
        """Return the fingerprint under the previous credentials; None if none are configured."""
        if self._previous is None:
            return None
        return self._named(self._previous.fingerprints[0], account, livemode=livemode)

    def fingerprints_of_keys(self, account: Account, *, livemode: bool) -> list[tuple[str, str]]:
        """Return pairs of fingerprints that denote the same account by construction.

        Both are of the same settings, under the previous server key and under the present one.
        """
        makers = [self._fingerprints]
        makers += [] if self._previous is None else [self._previous.fingerprints]
        return [
            (
                self._named(each, account, livemode=livemode),
                self._named(present, account, livemode=livemode),
            )
            for present, *before in makers
            for each in before
        ]

    def _named(self, make: Callable[..., str], account: Account, *, livemode: bool) -> str:
        mode = "live" if livemode else "test"
        return make(self.adapter_name, mode, account.type, account.id)

    async def identities(self) -> tuple[str, str]:
        """Return the custodian's own id, read with the previous credentials and with the present ones.

        Raises Unsupported if the adapter cannot read it or no previous ones are configured, and NotSent
        if one of them could not read it.
        """
        if self._previous is None:
            raise Unsupported(f"no previous credentials are configured for {self.name}")
        return (
            await self._identity(self._previous.adapter, "previous"),
            await self._identity(self._adapter, "present"),
        )

    async def _identity(self, adapter: Adapter[Any], which: str) -> str:
        with self._telling("identity", credentials=which) as telling:
            try:
                async with asyncio.timeout(self._deadline_s):
                    found = await adapter.identity()
                expect(found, str)
            except Unsupported:
                telling.outcome = "Unsupported"
                raise
            except Exception as error:  # noqa: BLE001 - after a failed read the balance is unknown
                clean = worded(_words_of(error))[:MOST_CHARS] or type(error).__name__
                telling.fail(type(error).__name__, error, crashed=False)
                raise NotSent(f"with the {which} credentials: {clean}") from None
            return found

    async def touch(self, accounts: Sequence[Account]) -> str:
        """Make one harmless read with the present credentials; return what was read.

        It lets operators check the credentials. Raises NotSent if that read failed, and Unsupported if
        the adapter has none.
        """
        try:
            await self._identity(self._adapter, "present")
        except Unsupported:
            pass
        else:
            return "the custodian's id of the account"
        for account in accounts:
            try:
                await self.balances(account)
            except Unsupported:
                continue
            return f"the balance of {account.id}"
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._adapter.probe()
        except Unsupported:
            raise
        except CRASHES as error:
            clean = worded(_words_of(error))[:MOST_CHARS] or type(error).__name__
            raise NotSent(clean) from None
        return "a payout that does not exist"

    async def reach(self) -> None:
        """Check that the custodian's address answers at all, without credentials. Raises NotSent."""
        url = getattr(self._adapter.settings, "base_url", None)
        if not isinstance(url, str):
            raise NotSent("the adapter has no base_url")
        try:
            async with asyncio.timeout(self._deadline_s), self._adapter.tools.http.get(url):
                pass
        except (aiohttp.ClientError, OSError) as error:
            raise NotSent(worded(_words_of(error))[:MOST_CHARS] or "no answer") from None

    async def check_clock(self) -> None:
        """Refuse a moving call whose credentials were dated by a clock that is, or was, wrong.

        It applies only if the adapter declares that the wall clock dates them. They exist already, so
        each reading of the clock since the verb began counts. Raises NotSent.
        """
        if not self.capabilities.dated_by_clock:
            return
        if self.dates.skew_s() is None:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await self._adapter.probe()
            except CRASHES as error:
                _log.info("probe_failed", custodian=self.name, detail=type(error).__name__)
        skew = self.dates.skew_s()
        if skew is None:
            message = "the custodian's clock could not be read (no Date header); not sent"
            raise NotSent(message, alert=Attention.CLOCK_SKEW)
        if abs(skew) > self.capabilities.clock_skew_s:
            message = f"our clock is {skew:+.0f} s off the custodian's; not sent"
            raise NotSent(message, alert=Attention.CLOCK_SKEW)
        worst = max((skew + each for each in set_since_s(self._clock)), key=abs, default=skew)
        if abs(worst) > self.capabilities.clock_skew_s:
            message = (
                f"our clock was {worst:+.0f} s off the custodian's while the call was prepared, and was "
                "set; not sent"
            )
            raise NotSent(message, alert=Attention.CLOCK_SKEW)

    def _by_our_clock(self, error: NotSent) -> NotSent:
        """Return a refusal as a clock error, if our clock is too far off for any credentials to be valid."""
        skew = self.dates.skew_s() if self.capabilities.dated_by_clock else None
        if error.alert is not None or skew is None or abs(skew) <= self.capabilities.clock_skew_s:
            return error
        message = f"our clock is {skew:+.0f} s off the custodian's: {error}"
        return NotSent(message, again_after_s=error.again_after_s, alert=Attention.CLOCK_SKEW)

    async def submit(self, order: TrackedOrder) -> BatchReport:
        """Do the next thing for an execution. Raises the typed outcomes and nothing else."""
        if self.capabilities.batch:
            call = partial(self._adapter.submit_batch, order)
            return await self._call("submit", order, call, BatchReport)
        report = await self._call("submit", order, partial(self._adapter.submit, order), Report)
        return _of_one(order, report)

    async def fetch(self, order: TrackedOrder) -> BatchReport | Absent | NotListed | CannotLook:
        """Ask how an execution stands. Raises OutcomeUnknown or NotSent if the look failed."""
        kinds = (Absent, NotListed, CannotLook)
        if self.capabilities.batch:
            call = partial(self._adapter.fetch_batch, order)
            return await self._call("fetch", order, call, BatchReport, *kinds)
        found = await self._call(
            "fetch", order, partial(self._adapter.fetch, order), Report, *kinds
        )
        return _of_one(order, found) if isinstance(found, Report) else found

    async def confirm(self, order: TrackedOrder, answer: Mapping[str, Any]) -> BatchReport:
        """Answer a required action."""
        call = partial(self._adapter.confirm, order, answer)
        # A custodian may quote the passcode that it refused; it must not be stored and shown.
        with sending(*texts_of(answer)):
            return _of_one(order, await self._call("confirm", order, call, Report))

    async def cancel(self, order: TrackedOrder) -> BatchReport:
        """Ask the custodian to cancel."""
        call = partial(self._adapter.cancel, order)
        return _of_one(order, await self._call("cancel", order, call, Report))

    def set_limit(self) -> int:
        """Return how many payouts one set may have."""
        return max(1, self._adapter.set_limit())

    def check(self, terms: Terms) -> str | None:
        """Return why the adapter could never pay on such terms, or None. Pure: no metric, no log."""
        try:
            reason = self._adapter.check(terms)
        except SystemExit as error:
            raise RuntimeError("the adapter wanted to end the process") from error
        return None if reason is None else worded(reason)

    async def offers(self, terms: Terms) -> Sequence[Offer]:
        """Return the providers' present offers; empty if they are silent, slow or unknown."""
        if not self.capabilities.quotes:
            return ()
        with self._telling("offers") as telling:
            try:
                async with asyncio.timeout(_OFFERS_S):
                    offers = list(await self._adapter.offers(terms))
                for each in offers:
                    expect(each, Offer)
            except CRASHES as error:
                crashed = not isinstance(error, AdapterError) and not _foreseen(error)
                telling.fail(type(error).__name__, error, crashed=crashed)
                return ()
            return offers

    @property
    def has_balances(self) -> bool:
        """Whether the adapter reports balances at all."""
        return type(self._adapter).balances is not Adapter.balances

    async def balances(self, account: Account) -> Sequence[Balance]:
        """Return what an account can pay. Raises Unsupported, or NotSent if it could not be read."""
        with self._telling("balances", account=account.id) as telling:
            try:
                async with asyncio.timeout(self._deadline_s):
                    found = list(await self._adapter.balances(account))
                for each in found:
                    expect_sound_balance(each)
            except Unsupported:
                telling.outcome = "Unsupported"
                raise
            except CRASHES as error:  # a read: whatever fails, nothing is known
                clean = worded(_words_of(error))[:MOST_CHARS] or type(error).__name__
                telling.fail(type(error).__name__, error, crashed=False)
                raise NotSent(f"balances of {account.type} {account.id}: {clean}") from None
            return found

    async def probe(self, account: Account | None) -> bool:
        """Make one harmless read, to see whether the custodian answers; False if the adapter has none."""
        reads: list[Callable[[], Awaitable[Any]]] = [self._adapter.probe]
        if account is not None:
            reads.append(partial(self._adapter.balances, account))
        with self._telling("probe") as telling:
            for read in reads:
                try:
                    async with asyncio.timeout(self._deadline_s):
                        await read()
                except Unsupported:
                    continue
                except CRASHES as error:  # the connections have noted how it ended
                    telling.fail(type(error).__name__, error, crashed=False)
                return True
            telling.outcome = "Unsupported"
        return False

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a webhook. Raises InvalidSignature or CannotVerify and nothing else."""
        with self._telling("verify") as telling:
            try:
                async with asyncio.timeout(self._deadline_s):
                    by_previous = await self._verified(headers, body)
                telling.keys["by_previous"] = by_previous
                if not by_previous:
                    # The line of `parse` follows, and says how many notices it brought.
                    telling.level = logging.DEBUG
            except (InvalidSignature, CannotVerify) as error:
                clean = scrubbed(error)
                telling.fail(type(error).__name__, clean, crashed=False)
                # Anybody can send webhooks, so many refused ones share one log line.
                telling.left_out = self._refused.take()
                raise clean from None
            except CRASHES as error:
                telling.fail("CannotVerify", error, crashed=not _foreseen(error))
                raise CannotVerify(type(error).__name__) from None

    async def _verified(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Verify with the present credentials, then with the previous ones; return whether it needed those."""
        try:
            await self._adapter.verify(headers, body)
        except (InvalidSignature, CannotVerify) as error:
            if self._previous is None:
                raise
            try:
                await self._previous.adapter.verify(headers, body)
            except InvalidSignature:
                # The present keys could not be fetched, so the webhook may still be authentic.
                raise error from None
            return True
        return False

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook. Raises ValueError if it cannot be read, whatever the reason."""
        with self._telling("parse") as telling:
            try:
                notices = [self._sound_notice(each) for each in self._adapter.parse(body)]
            except CRASHES as error:
                # The error's own message may contain the body, so it is not used.
                telling.fail("unreadable", error, crashed=not isinstance(error, ValueError))
                telling.keys["detail"] = type(error).__name__
                if isinstance(error, AdapterFault):
                    telling.keys["detail"] = str(self._located(error, "parse"))
                raise ValueError(f"{type(error).__name__} while reading a webhook") from None
            telling.keys["notices"] = len(notices)
            return notices

    def _sound_notice(self, notice: Any) -> Notice:
        """Return a notice; one with an invalid report only brings the next look forward."""
        expect_sound_notice(notice)
        found: Notice = notice
        try:
            expect_returns("Notice", found.returned)
            if found.report is not None:
                expect_sound(found.report)
        except AdapterFault as fault:
            located = self._located(fault, "parse")
            _log.error("adapter_error", custodian=self.name, detail=str(located))
            plain = {each.name: getattr(found, each.name) for each in fields(Notice)}
            return FaultyNotice(**(plain | {"report": None, "returned": ()}), fault=str(located))
        report = None if found.report is None else clean_report(found.report)
        return replace(found, report=report, returned=clean_returns(found.returned))

    def _located(self, fault: AdapterFault, verb: str) -> AdapterFault:
        """Return an adapter error with the adapter and the verb in its message."""
        where = fault.where or f"{self.adapter_name}.{verb}"
        return AdapterFault(worded(fault.message), where=where)

    def _translated(
        self, verb: str, error: BaseException, order: TrackedOrder, status: int | None
    ) -> AdapterError:
        """Return the typed outcome of any error that a verb raised."""
        found = _of_rate(_translate(error, moved=order.moved_now), status)
        if type(found) is NotSent and not order.moved_now:
            found = self._by_our_clock(found)
        return self._located(found, verb) if isinstance(found, AdapterFault) else found

    async def _call(
        self,
        verb: str,
        order: TrackedOrder,
        call: Callable[[], Awaitable[R]],
        *kinds: type,
    ) -> R:
        with self._telling(verb, **_keys_of(order)) as telling, self.pacer.hearing() as heard:
            try:
                with noted_readings(self._clock):
                    async with asyncio.timeout(self._deadline_s):
                        result = await call()
                expect(result, *kinds)
                expect_sound(result)
            except asyncio.CancelledError:
                if _is_canceled():
                    raise
                # Not this call was cancelled, but something that the adapter waited for.
                telling.fail("OutcomeUnknown", OutcomeUnknown("cancelled inside"), crashed=False)
                raise OutcomeUnknown("the adapter was cancelled from inside") from None
            except CRASHES as error:
                translated = self._translated(verb, error, order, heard.status)
                crashed = not isinstance(error, AdapterError) and not _foreseen(error)
                telling.fail(
                    type(translated).__name__, error if crashed else translated, crashed=crashed
                )
                if isinstance(translated, AdapterFault):
                    telling.level = logging.ERROR
                raise translated from None
            telling.outcome = type(result).__name__
            if isinstance(result, Report):
                report = clean_report(result)
                telling.outcome = report.sub_status or "unknown_word"
                telling.keys |= {
                    "custodian_word": report.custodian_word,
                    "custodian_reference": report.custodian_reference,
                }
                for unknown in report.unknown_words:
                    self._metrics.unknown_word(self.name, unknown)
                return report  # type: ignore[return-value] # R is a Report here
            if isinstance(result, BatchReport):
                telling.outcome = "report"
                clean = clean_set(result)
                telling.keys["custodian_word"] = clean.custodian_word
                for each in clean.items.values():
                    for unknown in each.unknown_words:
                        self._metrics.unknown_word(self.name, unknown)
                return clean  # type: ignore[return-value] # R is a BatchReport here
            return clean_look(result)

    @contextmanager
    def _telling(self, verb: str, **keys: Any) -> Iterator[_Telling]:
        """Time a call; at its end, count it and write its one log line, which never contains a body."""
        begun = self._clock.monotonic()
        telling = _Telling()
        try:
            with sending():
                yield telling
        except asyncio.CancelledError:
            telling.outcome = "cancelled"
            raise
        finally:
            took = self._clock.monotonic() - begun
            self._metrics.call(self.name, verb, telling.outcome, took)
            if telling.left_out:
                telling.keys["left_out"] = telling.left_out
            if telling.left_out is not None and _log.shows(telling.level):
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


def _of_one(order: TrackedOrder, report: Report) -> BatchReport:
    """Return the report of an execution with one payout."""
    return BatchReport(
        report.custodian_word,
        {order.payout_id: report},
        custodian_reference=report.custodian_reference,
        detail=report.detail,
    )


def _keys_of(order: TrackedOrder) -> dict[str, Any]:
    """Return the keys that identify a call in its log line."""
    keys: dict[str, Any] = {"execution_id": order.set_id, "payout_id": order.payout_id}
    return keys if len(order.items) == 1 else {**keys, "items": len(order.items)}


def _is_canceled() -> bool:
    """Whether this task itself was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _foreseen(error: BaseException) -> bool:
    """Whether an error is an ordinary network failure and not a bug of the adapter."""
    return isinstance(error, aiohttp.ClientError | TimeoutError | OSError)


def _bug_of(error: BaseException) -> str | None:
    """Return what to fix in an adapter that raised this; None if a custodian's answer may be the reason.

    A ValueError or KeyError may come from what the custodian sent, and a RuntimeError from a session
    that closes: they are unknown outcomes like others.
    """
    if isinstance(error, ValidationError):
        if error.title not in _BUILT:
            return None
        # The whole message would quote the values.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        member = ".".join(map(str, (error.title, *first["loc"])))
        return f"{member} is wrong ({first['msg']}); give what the contract's reference says"
    if isinstance(error, _BUGS):
        words = f"{type(error).__name__}: {_words_of(error)}"
        return f"it raised {words}; the log has the traceback"
    return None


def _translate(error: BaseException, *, moved: bool) -> AdapterError:
    """Return the typed outcome of any error that a verb raised, without secrets in its message.

    Once the moving mark is set, only the adapter itself can say that nothing was sent: a raw error may
    come from a later call.
    """
    if isinstance(error, AdapterError):
        return scrubbed(error)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL) and not moved:
        # No connection was made, so no byte of the request was sent.
        return NotSent(plain(f"no connection ({type(error).__name__})"))
    if isinstance(error, TimeoutError):
        return OutcomeUnknown("no answer in time")
    if bug := _bug_of(error):
        return AdapterFault(bug[:MOST_CHARS])
    return OutcomeUnknown(worded(f"{type(error).__name__}: {_words_of(error)}")[:MOST_CHARS])


def _of_rate(error: AdapterError, status: int | None) -> AdapterError:
    """Return the outcome of a call that the custodian answered with 429, whatever the adapter raised."""
    if type(error) is NotSent and status == _TOO_MANY:
        error = RateLimited(str(error), again_after_s=error.again_after_s)
    if isinstance(error, RateLimited) and error.again_after_s is not None:
        error.again_after_s = min(error.again_after_s, MOST_PAUSE_S)
    return error


def _words_of(error: BaseException) -> str:
    """Return an error's own message; even reading it may fail."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a stranger's error may fail in any way
        return ""
