"""A custodian instance: the one wrapper around an adapter.

It gives every call a deadline, a metric, one log line, and the one translation of errors: what never
connected was not sent; whatever else went wrong may have arrived.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeVar

import aiohttp

from gateway.adapter import (
    Absent,
    Account,
    Action,
    Adapter,
    Balance,
    BatchItem,
    BatchReport,
    CannotLook,
    Capabilities,
    Echo,
    Failure,
    Notice,
    Offer,
    Order,
    Ref,
    Report,
    Returned,
    SubStatus,
    Terms,
    Tools,
    Transaction,
)
from gateway.custodians.dates import Dates, noted_readings, set_since_s
from gateway.egress.echoes import currently_sent, sending, texts_of, without_sent
from gateway.errors import (
    AdapterError,
    CannotVerify,
    InvalidSignature,
    NotSent,
    OutcomeUnknown,
    Unsupported,
)
from gateway.logs import get_logger, scrub
from gateway.metrics import Metrics
from gateway.model import Attention

R = TypeVar("R")
_NONE = type(None)
#: The members of a report and what they may be; the contract says it to type checkers alone.
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
    "again_after_s": (int, float, _NONE),
    "action": (Action, _NONE),
    "reference": (str, _NONE),
    "returned": (tuple, list),
}
_MEMBERS_OF_A_BALANCE: Mapping[str, tuple[type, ...]] = {
    "asset": (str,),
    "available": (Decimal,),
    "pending": (Decimal, _NONE),
    "as_of": (datetime,),
    "network": (str, _NONE),
}
_MEMBERS_OF_A_RETURN: Mapping[str, tuple[type, ...]] = {
    "id": (str, _NONE),
    "amount": (Decimal,),
    "asset": (str,),
    "at": (datetime,),
    "word": (str,),
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
#: What a custodian says is kept in the store and shown; a whole page of it helps nobody.
_MOST_CHARS = 300
#: A partner waits for its quote meanwhile.
_OFFERS_S = 3.0
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
    """What one call's metric and one log line will say."""

    outcome: str = "ok"
    level: int = logging.INFO
    keys: dict[str, Any] = field(default_factory=dict)

    def fail(self, outcome: str, error: Exception, *, crashed: bool) -> None:
        """Tell of an error; of one that nobody foresaw, with the traceback."""
        self.outcome, self.level = outcome, logging.ERROR if crashed else logging.WARNING
        self.keys["detail"] = _clean(_words_of(error))[:_MOST_CHARS] or type(error).__name__
        if crashed:
            self.keys["exc_info"] = error


#: What makes fingerprints of accounts: under the server key, and under the previous one if it is set.
Fingerprints = tuple[Callable[..., str], ...]


@dataclass(frozen=True)
class Previous:
    """The adapter with the credentials of before, while they are changed. It only verifies and reads."""

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
    ) -> None:
        self.name = name
        self._previous = previous
        self._fingerprints = fingerprints
        self.dates = dates
        self.adapter_name = adapter_name
        self._adapter = adapter
        self._clock = tools.clock
        self._metrics = metrics
        self._deadline_s = deadline_s

    @property
    def capabilities(self) -> Capabilities:
        """What the adapter can do."""
        return self._adapter.capabilities

    def fingerprint(self, account: Account, *, livemode: bool) -> str:
        """Return what names the account that calls and looks are made at.

        A digest of the adapter, the mode, the account, and the settings that say whose account it is.
        """
        return self._named(self._fingerprints[0], account, livemode=livemode)

    def fingerprint_before(self, account: Account, *, livemode: bool) -> str | None:
        """Return the fingerprint under the credentials of before; None where none are configured."""
        if self._previous is None:
            return None
        return self._named(self._previous.fingerprints[0], account, livemode=livemode)

    def fingerprints_of_keys(self, account: Account, *, livemode: bool) -> list[tuple[str, str]]:
        """Return pairs of fingerprints that are the same account by their making.

        Of the same settings: under the previous server key, and under the present one.
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
        """Return the custodian's own id as the credentials of before and those of now read it.

        Raises Unsupported where the adapter cannot read it or no others are configured, and NotSent
        where one of them could not.
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
                _expect(found, str)
            except Unsupported:
                telling.outcome = "Unsupported"
                raise
            except Exception as error:  # noqa: BLE001 - a read: whatever fails, nothing is known
                clean = scrub(_words_of(error))[:_MOST_CHARS] or type(error).__name__
                telling.fail(type(error).__name__, error, crashed=False)
                raise NotSent(f"with the {which} credentials: {clean}") from None
            return found

    async def check_clock(self) -> None:
        """Refuse a moving call whose credentials were dated by a clock that is, or was, wrong.

        Only where the adapter declares that the wall clock dates them. They are made already: what
        counts is what the clock showed whenever it was read since the verb began. Raises NotSent.
        """
        if not self.capabilities.dated_by_clock:
            return
        if self.dates.skew_s() is None:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await self._adapter.probe()
            except Exception as error:  # noqa: BLE001 - any answer has a date; without one nothing is sent
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

    async def submit(self, order: TrackedOrder) -> BatchReport:
        """Do the next thing for an execution. Raises the typed outcomes and nothing else."""
        if self.capabilities.batch:
            call = partial(self._adapter.submit_batch, order)
            return await self._call("submit", order, call, BatchReport)
        report = await self._call("submit", order, partial(self._adapter.submit, order), Report)
        return _of_one(order, report)

    async def fetch(self, order: TrackedOrder) -> BatchReport | Absent | CannotLook:
        """Ask how an execution stands. Raises OutcomeUnknown or NotSent where the look failed."""
        kinds = (Absent, CannotLook)
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
        # A custodian that quotes the passcode that it refused must not have us store and show it.
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
        reason = self._adapter.check(terms)
        return None if reason is None else _clean(reason)

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

    async def balances(self, account: Account) -> Sequence[Balance]:
        """Return what an account can pay. Raises Unsupported, or NotSent where it could not be read."""
        with self._telling("balances", account=account.id) as telling:
            try:
                async with asyncio.timeout(self._deadline_s):
                    found = list(await self._adapter.balances(account))
                for each in found:
                    _expect_balance(each)
            except Unsupported:
                telling.outcome = "Unsupported"
                raise
            except Exception as error:  # noqa: BLE001 - a read: whatever fails, nothing is known
                clean = _clean(_words_of(error))[:_MOST_CHARS] or type(error).__name__
                telling.fail(type(error).__name__, error, crashed=False)
                raise NotSent(f"balances of {account.type} {account.id}: {clean}") from None
            return found

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a webhook. Raises InvalidSignature or CannotVerify and nothing else."""
        with self._telling("verify") as telling:
            try:
                async with asyncio.timeout(self._deadline_s):
                    telling.keys["by_previous"] = await self._verified(headers, body)
            except (InvalidSignature, CannotVerify) as error:
                clean = _scrubbed(error)
                telling.fail(type(error).__name__, clean, crashed=False)
                raise clean from None
            except Exception as error:  # noqa: BLE001 - a fault of ours must not lose the custodian's news
                telling.fail("CannotVerify", error, crashed=not _foreseen(error))
                raise CannotVerify(type(error).__name__) from None

    async def _verified(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Verify with the credentials of now, then with those of before; whether it needed the latter."""
        try:
            await self._adapter.verify(headers, body)
        except (InvalidSignature, CannotVerify) as error:
            if self._previous is None:
                raise
            try:
                await self._previous.adapter.verify(headers, body)
            except InvalidSignature:
                # Where the present keys are out of reach, it may still be authentic.
                raise error from None
            return True
        return False

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook. Raises ValueError where it cannot be read, whatever the reason."""
        with self._telling("parse") as telling:
            try:
                notices = []
                for each in self._adapter.parse(body):
                    _expect(each, Notice)
                    if each.report is not None:
                        _expect_sound(each.report)
                        each = replace(each, report=_clean_report(each.report))  # noqa: PLW2901
                    if each.returned:
                        _expect_returns(each.returned)
                        each = replace(each, returned=_clean_returns(each.returned))  # noqa: PLW2901
                    notices.append(each)
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
        order: TrackedOrder,
        call: Callable[[], Awaitable[R]],
        *kinds: type,
    ) -> R:
        with self._telling(verb, **_keys_of(order)) as telling:
            try:
                with noted_readings(self._clock):
                    async with asyncio.timeout(self._deadline_s):
                        result = await call()
                _expect(result, *kinds)
                _expect_sound(result)
            except asyncio.CancelledError:
                if _is_canceled():
                    raise
                # Something that the adapter waited for was cancelled, and not this call.
                telling.fail("OutcomeUnknown", OutcomeUnknown("cancelled inside"), crashed=False)
                raise OutcomeUnknown("the adapter was cancelled from inside") from None
            except Exception as error:  # noqa: BLE001 - an adapter may fail in any way
                translated = _translate(error, moved=order.moved_now)
                crashed = not isinstance(error, AdapterError) and not _foreseen(error)
                telling.fail(
                    type(translated).__name__, error if crashed else translated, crashed=crashed
                )
                raise translated from None
            telling.outcome = type(result).__name__
            if isinstance(result, Report):
                report = _clean_report(result)
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
                clean = _clean_set(result)
                telling.keys["custodian_word"] = clean.custodian_word
                for each in clean.items.values():
                    for unknown in each.unknown_words:
                        self._metrics.unknown_word(self.name, unknown)
                return clean  # type: ignore[return-value] # R is a BatchReport here
            return result

    @contextmanager
    def _telling(self, verb: str, **keys: Any) -> Iterator[_Telling]:
        """Time a call; at its end count it and write its one log line. Bodies are never in it."""
        begun = self._clock.monotonic()
        telling = _Telling()
        try:
            with sending(*currently_sent()):
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


def _of_one(order: TrackedOrder, report: Report) -> BatchReport:
    """Return the report of an execution with one payout."""
    return BatchReport(
        report.custodian_word,
        {order.payout_id: report},
        custodian_reference=report.custodian_reference,
        detail=report.detail,
    )


def _keys_of(order: TrackedOrder) -> dict[str, Any]:
    """Return what names a call in its log line."""
    keys: dict[str, Any] = {"execution_id": order.set_id, "payout_id": order.payout_id}
    return keys if len(order.items) == 1 else {**keys, "items": len(order.items)}


def _expect(result: object, *kinds: type) -> None:
    if not isinstance(result, kinds):
        raise TypeError(f"the adapter returned a {type(result).__name__}")


def _expect_sound(result: object) -> None:
    """Refuse a report with a member of a wrong type, before anything of it is written.

    Times need a zone: nobody could compare one without with another one.
    """
    reports: Iterable[Any] = (result,) if isinstance(result, Report) else ()
    if isinstance(result, BatchReport):
        _expect_members(result, _MEMBERS_OF_A_SET)
        reports = result.items.values()
    for report in reports:
        _expect(report, Report)
        _expect_members(report, _MEMBERS)
        if report.echo is not None:
            _expect_members(report.echo, _MEMBERS_OF_AN_ECHO)
        for each, kind in (
            *((ref, Ref) for ref in report.refs),
            *((transaction, Transaction) for transaction in report.transactions),
            *((word, str) for word in report.unknown_words),
            *((ref.kind, str) for ref in report.refs),
            *((ref.value, str) for ref in report.refs),
        ):
            _expect(each, kind)
        times = [report.observed_at, *(each.at for each in report.transactions)]
        times += [report.action.expires_at] if report.action else []
        if any(each is not None and each.tzinfo is None for each in times):
            raise TypeError("the adapter returned a time without a zone")
        _expect_returns(report.returned)
        again_s = report.again_after_s
        if again_s is not None and not math.isfinite(again_s):
            raise TypeError("the adapter returned a wait that is no number")


def _expect_balance(balance: object) -> None:
    """Refuse a balance with a member of a wrong type."""
    _expect(balance, Balance)
    assert isinstance(balance, Balance)  # noqa: S101 - see above
    _expect_members(balance, _MEMBERS_OF_A_BALANCE)
    if balance.as_of.tzinfo is None:
        raise TypeError("the adapter returned a time without a zone")


def _expect_returns(returned: Iterable[object]) -> None:
    """Refuse money that came back without an amount, a zone, or a name that tells it from others."""
    for each in returned:
        _expect(each, Returned)
        assert isinstance(each, Returned)  # noqa: S101 - see above
        _expect_members(each, _MEMBERS_OF_A_RETURN)
        if not each.amount.is_finite() or each.amount <= 0:
            raise TypeError("the adapter returned a return without a positive amount")
        if each.id is not None and not each.id.strip():
            raise TypeError("the adapter returned a return whose id is empty: it is None there")
        if each.at.tzinfo is None:
            raise TypeError("the adapter returned a time without a zone")


def _clean_returns(returned: Iterable[Returned]) -> tuple[Returned, ...]:
    """Return them, the custodian's words without secrets."""
    return tuple(replace(each, word=_clean(each.word)[:_MOST_CHARS]) for each in returned)


def _expect_members(report: object, members: Mapping[str, tuple[type, ...]]) -> None:
    for name, kinds in members.items():
        member = getattr(report, name)
        if not isinstance(member, kinds):
            raise TypeError(f"the adapter returned {name} as a {type(member).__name__}")


def _is_canceled() -> bool:
    """Whether this very task is asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


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
    return OutcomeUnknown(_clean(f"{type(error).__name__}: {_words_of(error)}")[:_MOST_CHARS])


def _words_of(error: Exception) -> str:
    """Return an error's own words; it may be one that cannot even say them."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a stranger's error may fail in any way
        return ""


def _scrubbed(error: AdapterError) -> AdapterError:
    """Return the error, its words and members without secrets."""
    error.args = tuple(_clean(each) if isinstance(each, str) else each for each in error.args)
    for name, each in vars(error).items():
        if isinstance(each, str):
            setattr(error, name, _clean(each))
    return error


def _clean(text: str) -> str:
    """Return a text without secrets, nor anything that this call sent in confidence."""
    return scrub(without_sent(text))


def _clean_any(value: R) -> R:
    """Return a member without secrets where it is a text."""
    return _clean(value) if isinstance(value, str) else value  # type: ignore[return-value] # a str


def _clean_set(report: BatchReport) -> BatchReport:
    return replace(
        report,
        items={key: _clean_report(each) for key, each in report.items.items()},
        custodian_word=_clean(report.custodian_word),
        detail=_clean_any(report.detail),
    )


def _clean_report(report: Report) -> Report:
    """Return the report, the custodian's words in it without secrets: they are kept and shown."""
    action = report.action
    if action is not None:
        action = replace(
            action,
            channel=_clean_any(action.channel),
            masked_target=_clean_any(action.masked_target),
        )
    failure = report.failure
    if failure is not None:
        words = {"message": _clean(failure.message)}
        if failure.custodian_code is not None:
            words["custodian_code"] = _clean(failure.custodian_code)
        failure = failure.model_copy(update=words)
    return replace(
        report,
        custodian_word=_clean(report.custodian_word),
        detail=_clean_any(report.detail),
        unknown_words=tuple(_clean(word) for word in report.unknown_words),
        failure=failure,
        action=action,
        returned=_clean_returns(report.returned),
    )
