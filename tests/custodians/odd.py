"""An adapter that does as a test tells it, and the instance around it."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, SecretBytes, SecretStr, field_validator

from gateway.adapter import (
    Absent,
    Adapter,
    CannotLook,
    Capabilities,
    Notice,
    Order,
    Report,
    SubStatus,
    Tools,
)
from gateway.custodians.instance import CustodianInstance
from gateway.metrics import Metrics
from tests.adapters.orders import OrderForTest

SECRET = "registry-secret-value-1"
SUBMITTED = Report(SubStatus.SUBMITTED, "taken", custodian_reference="c-1")


class Inner(BaseModel):
    """A nested part of settings."""

    pin: SecretStr


class OddSettings(BaseModel):
    """Settings with secrets in every place."""

    api_key: SecretStr
    raw: SecretBytes = SecretBytes(b"")
    inner: Inner | None = None
    by_name: dict[str, SecretStr] = {}
    many: tuple[Inner, ...] = ()
    url: str = "https://custodian.example"

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value.startswith("https://"):
            raise ValueError(f"{value!r} is no address")
        return value


Verb = Callable[[], Awaitable[Any]]


class Odd(Adapter[OddSettings]):
    """An adapter that does as it is told."""

    name = "odd"
    Settings: ClassVar[type[BaseModel]] = OddSettings
    capabilities = Capabilities(frozenset({"address"}))
    act: Verb
    read: Callable[[bytes], Sequence[Notice]]

    async def submit(self, order: Order) -> Report:
        """Do as told."""
        return await self.act()  # type: ignore[no-any-return]

    async def fetch(self, order: Order) -> Report | Absent | CannotLook:
        """Do as told."""
        return await self.act()  # type: ignore[no-any-return]

    async def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Do as told."""
        await self.act()

    def parse(self, body: bytes) -> Sequence[Notice]:
        """Do as told."""
        return self.read(body)


class Stubborn(Odd):
    """An adapter whose constructor fails."""

    def __init__(self, settings: OddSettings, tools: Tools) -> None:
        super().__init__(settings, tools)
        raise ValueError(f"cannot use {settings.api_key.get_secret_value()}")


class Bench:
    """A custodian instance, its metrics and its log lines."""

    def __init__(
        self, instance: CustodianInstance, adapter: Odd, metrics: Metrics, tools: Tools
    ) -> None:
        self.instance = instance
        self.adapter = adapter
        self.metrics = metrics
        self.tools = tools
        self.stream = io.StringIO()

    def acts(self, outcome: Any) -> OrderForTest:
        """Let every verb return or raise this; return an order to call it with."""

        async def act() -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        self.adapter.act = act
        return OrderForTest()

    def line(self) -> dict[str, Any]:
        """Return the one log line."""
        (text,) = self.stream.getvalue().splitlines()
        found: dict[str, Any] = json.loads(text)
        return found

    def count(self, verb: str, outcome: str) -> float | None:
        """Return how often a verb had an outcome."""
        return self.metrics.registry.get_sample_value(
            "payout_gateway_custodian_calls_total",
            {"custodian": "odd_eu", "verb": verb, "outcome": outcome},
        )
