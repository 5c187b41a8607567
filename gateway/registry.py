"""Adapters found by entry point, and the one wrapper around each of them.

The wrapper gives every call a deadline, a metric, one log line, and the one translation of errors:
what never connected was not sent; whatever else went wrong may have arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar

import aiohttp
from pydantic import BaseModel, SecretStr, ValidationError

from gateway.adapter import Absent, Adapter, CannotLook, Capabilities, Notice, Order, Report, Tools
from gateway.config import ENV_PREFIX, EngineSettings
from gateway.errors import (
    AdapterError,
    CannotVerify,
    ConfigError,
    InvalidSignature,
    NotSent,
    OutcomeUnknown,
)
from gateway.logs import SCRUBBER, get_logger, scrub
from gateway.metrics import Metrics

GROUP = "payout_gateway.adapters"
R = TypeVar("R")
_log = get_logger("custodian")


@dataclass(frozen=True)
class BrokenAdapter:
    """An adapter that is installed and failed to import."""

    name: str
    reason: str


def find_adapters() -> dict[str, type[Adapter[Any]] | BrokenAdapter]:
    """Return every installed adapter by name, broken ones with the reason."""
    found: dict[str, type[Adapter[Any]] | BrokenAdapter] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            loaded = entry.load()
        except Exception as error:  # noqa: BLE001 - a stranger's package may fail in any way
            found[entry.name] = BrokenAdapter(entry.name, f"{type(error).__name__}: {error}")
            continue
        if isinstance(loaded, type) and issubclass(loaded, Adapter):
            found[entry.name] = loaded
        else:
            found[entry.name] = BrokenAdapter(entry.name, f"{entry.value} is no Adapter")
    return found


def build(  # noqa: PLR0913 - the parts of an instance
    instance: str,
    adapter: str,
    settings: Mapping[str, Any],
    tools: Tools,
    metrics: Metrics,
    engine: EngineSettings,
) -> Wrapped:
    """Return a custodian instance. ConfigError names every fault of its settings, never a value."""
    adapters = find_adapters()
    kind = adapters.get(adapter)
    if kind is None:
        raise ConfigError(
            [
                (
                    f"custodians.{instance}.adapter: there is no adapter {adapter!r}; "
                    f"installed: {', '.join(adapters) or 'none'}"
                )
            ]
        )
    if isinstance(kind, BrokenAdapter):
        raise ConfigError(
            [
                f"custodians.{instance}.adapter: {adapter!r} is installed but failed to import: {kind.reason}"
            ]
        )
    try:
        checked = kind.Settings.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(
            [_fault_line(instance, each) for each in error.errors(include_input=False)]
        ) from None
    _register_secrets(checked)
    return Wrapped(instance, adapter, kind(checked, tools), tools, metrics, engine.call_deadline_s)


def _fault_line(instance: str, error: Any) -> str:
    where = ".".join(("custodians", instance, *(str(part) for part in error["loc"])))
    if error["type"] == "missing":
        env = ENV_PREFIX + where.upper().replace(".", "__")
        return (
            f"{where} is not set: set it in the file, as {where}_file, or {env} in the environment"
        )
    return f"{where}: {error['msg']}"


def _register_secrets(settings: BaseModel) -> None:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            SCRUBBER.register(value.get_secret_value())
        elif isinstance(value, BaseModel):
            _register_secrets(value)


class TrackedOrder(Order, Protocol):
    """An order that knows whether its moving mark was set during this call."""

    @property
    def moved_now(self) -> bool:
        """Whether it was."""


class Wrapped:
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
        return await self._call("submit", order, self._adapter.submit(order))

    async def fetch(self, order: TrackedOrder) -> Report | Absent | CannotLook:
        """Ask how the order stands. Raises OutcomeUnknown or NotSent where the look failed."""
        return await self._call("fetch", order, self._adapter.fetch(order))

    async def confirm(self, order: TrackedOrder, answer: Mapping[str, Any]) -> Report:
        """Answer a required action."""
        return await self._call("confirm", order, self._adapter.confirm(order, answer))

    async def cancel(self, order: TrackedOrder) -> Report:
        """Ask the custodian to cancel."""
        return await self._call("cancel", order, self._adapter.cancel(order))

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a webhook. Raises InvalidSignature or CannotVerify and nothing else."""
        begun = self._clock.monotonic()
        outcome = "ok"
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._adapter.verify(headers, body)
        except (InvalidSignature, CannotVerify) as error:
            outcome = type(error).__name__
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours must not lose the custodian's news
            outcome = type(error).__name__
            _log.error(
                "verify_crashed", custodian=self.name, adapter=self.adapter_name, exc_info=error
            )
            raise CannotVerify(outcome) from None
        finally:
            self._metrics.call(self.name, "verify", outcome, self._clock.monotonic() - begun)

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Read a webhook. Raises ValueError where it cannot be read, whatever the reason."""
        try:
            return self._adapter.parse(body)
        except ValueError:
            raise
        except Exception as error:
            _log.error(
                "parse_crashed", custodian=self.name, adapter=self.adapter_name, exc_info=error
            )
            msg = f"{type(error).__name__} while reading a webhook"
            raise ValueError(msg) from error

    async def _call(self, verb: str, order: TrackedOrder, call: Awaitable[R]) -> R:
        begun = self._clock.monotonic()
        outcome, word, level = "ok", None, "info"
        try:
            async with asyncio.timeout(self._deadline_s):
                result = await call
            if isinstance(result, Report):
                outcome, word = result.sub_status or "unknown_word", result.custodian_word
                for unknown in result.unknown_words:
                    self._metrics.unknown_word(self.name, unknown)
            else:
                outcome = type(result).__name__
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            translated = _translate(error, moved=order.moved_now)
            outcome, word, level = type(translated).__name__, str(translated) or None, "warning"
            if not isinstance(error, AdapterError | aiohttp.ClientError | TimeoutError | OSError):
                _log.error(
                    "adapter_crashed",
                    custodian=self.name,
                    adapter=self.adapter_name,
                    verb=verb,
                    payout_id=order.payout_id,
                    exc_info=error,
                )
            if translated is error:
                raise
            raise translated from None
        else:
            return result
        finally:
            took = self._clock.monotonic() - begun
            self._metrics.call(self.name, verb, outcome, took)
            _log.log(
                {"info": 20, "warning": 30}[level],
                "custodian_call",
                custodian=self.name,
                adapter=self.adapter_name,
                verb=verb,
                payout_id=order.payout_id,
                attempt=order.attempt,
                outcome=outcome,
                custodian_word=word,
                duration_ms=round(took * 1000, 1),
            )


def _translate(error: Exception, *, moved: bool) -> AdapterError:
    """Return the typed outcome of whatever a verb raised; its words without secrets.

    Once the moving mark is set only the adapter itself can say that nothing was sent: a raw error
    may come from a later call.
    """
    if isinstance(error, AdapterError):
        error.args = tuple(scrub(each) if isinstance(each, str) else each for each in error.args)
        return error
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL) and not moved:
        # No connection was ever made, so that no byte of the request left.
        return NotSent(f"no connection ({type(error).__name__})")
    if isinstance(error, TimeoutError):
        return OutcomeUnknown("no answer in time")
    return OutcomeUnknown(scrub(f"{type(error).__name__}: {error}")[:300])
