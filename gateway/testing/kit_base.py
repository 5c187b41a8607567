"""What an author declares for the kit, and the fixtures that the inherited tests run on."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
import pytest_asyncio
from pydantic import BaseModel, SecretBytes, SecretStr

from gateway.adapter import Account, Adapter
from gateway.custodians.registry import GROUP, find_adapters
from gateway.testing.bench import STEP_S, Bench, Course
from gateway.testing.declared import HTTP_FAULTS, Life, Refusal
from gateway.testing.orders import OrderForTest
from gateway.testing.processes import Process, twin_module
from gateway.testing.stack import Rail, SharedStacks, sandbox_of


def not_applicable(reason: str) -> None:
    """Skip a test that says nothing of this custodian."""
    pytest.skip(f"n/a: {reason}")


class KitBase:
    """What an author declares. One class for each way in which the custodian pays."""

    #: the adapter; its package must be installed, with its entry points
    adapter: ClassVar[type[Adapter[Any]]]
    #: members of an order that the twin pays: amount, destination, source, asset, network, decimals
    terms: ClassVar[Mapping[str, Any]]
    #: the twin's names of the calls that are made before the mark
    preparing: ClassVar[Sequence[str]] = ()
    #: the twin's name of the one call that moves money
    moving: ClassVar[str]
    #: the twin's names of the calls that a look makes
    looking: ClassVar[Sequence[str]]
    #: how payouts go there; the first one is the plain life, which is delivered
    lives: ClassVar[Sequence[Life]] = (Life("delivered"),)
    #: what is refused before anything moves
    refusals: ClassVar[Sequence[Refusal]] = ()
    #: settings beside the twin's address, its credentials, and those of its `sandbox.toml`
    settings: ClassVar[Mapping[str, Any]] = {}
    #: credentials of the twin that the adapter takes; None: all of them
    credentials: ClassVar[Sequence[str] | None] = None
    #: switches of the twin
    switches: ClassVar[Mapping[str, Any]] = {}
    #: the setting that says where webhook keys are fetched, where they are
    webhook_keys: ClassVar[str | None] = None
    #: inherited tests that are known to fail (`test_x[y]`), with the reason; each must still fail
    gaps: ClassVar[Mapping[str, str]] = {}
    #: whether each payout asks a person; nobody answers in the tests with real processes
    asks_person: ClassVar[bool] = False
    #: for stacks of real processes: settings, switches and numbers that make waiting times short
    quick_settings: ClassVar[Mapping[str, Any]] = {}
    quick_switches: ClassVar[Mapping[str, Any]] = {}
    quick: ClassVar[Mapping[str, float]] = {}

    async def answer(self, bench: Bench) -> Mapping[str, Any]:
        """Return what a person answers to the required action; for adapters with step-up."""
        del bench
        raise AssertionError(f"{self.adapter.name} required an action: the kit needs an answer()")

    @classmethod
    def name(cls) -> str:
        """Return the adapter's name."""
        return cls.adapter.name

    def course(self, bench: Bench, order: OrderForTest | None = None, **terms: Any) -> Course:
        """Return the course of an order, a new one unless it is given."""
        return Course(bench, order or bench.order(**terms), self.answer)

    @classmethod
    def calls(cls) -> list[str]:
        """Return every call of a payout, in the order they come first."""
        return [*cls.preparing, cls.moving, *cls.looking]

    @classmethod
    def rail(cls) -> Rail:
        """Return the custodian as a stack of real processes uses it."""
        return Rail(
            cls.name(),
            {**cls.settings, **cls.quick_settings},
            None if cls.credentials is None else tuple(cls.credentials),
            cls.terms["destination"].model_dump(exclude_none=True),
            {**cls.switches, **cls.quick_switches},
            asset=str(cls.terms.get("asset", "USDC")),
            quick=cls.quick,
        )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run tests once for each life, refusal and fault that is declared."""
        names = metafunc.fixturenames
        if "life" in names:
            metafunc.parametrize("life", self.lives, ids=[each.name for each in self.lives])
        if "refusal" in names:
            ids = [each.name for each in self.refusals]
            metafunc.parametrize("refusal", self.refusals, ids=ids)
        groups = {
            "preparing_fault": self.preparing,
            "moving_fault": [self.moving],
            "looking_fault": self.looking,
        }
        for name, calls in groups.items():
            if name in names:
                faults = [(call, fault) for call in dict.fromkeys(calls) for fault in HTTP_FAULTS]
                metafunc.parametrize(name, faults, ids=["-".join(each) for each in faults])

    @pytest.fixture(autouse=True)
    def known_gap(self, request: pytest.FixtureRequest) -> None:
        """Expect a test to fail that the author has named as a gap; the matrix shows it as unproven."""
        reason = self.gaps.get(request.node.name)
        if reason is not None:
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture(scope="class")
    @classmethod
    def twin(cls) -> Iterator[Mapping[str, Any]]:
        """The twin as a process of its own, for the tests of the class; yields its line."""
        name = cls.name()
        assert find_adapters().get(name) is cls.adapter, (
            f"the package of the adapter {name!r} is not installed, or its entry point "
            f"[{GROUP}] names something else: {find_adapters().get(name)}"
        )
        with tempfile.TemporaryDirectory() as folder:
            arguments = (twin_module(name), "--port", "0", "--step-s", str(STEP_S))
            process = asyncio.run(Process.start(Path(folder) / "twin.log", *arguments))
            try:
                yield json.loads(process.line)
            finally:
                process.kill()

    @pytest_asyncio.fixture
    async def bench(self, twin: Mapping[str, Any]) -> AsyncIterator[Bench]:
        """The twin in its seeded world, and an adapter that talks to it."""
        names = twin["credentials"] if self.credentials is None else self.credentials
        settings = {
            **sandbox_of(self.name()).get("settings", {}),
            "base_url": twin["url"],
            **{name: twin["credentials"][name] for name in names},
            **self.settings,
        }
        async with aiohttp.ClientSession() as http:
            bench = Bench(self.name(), twin, settings, self.terms, http)
            try:
                await bench.steer("PUT", "webhooks", {"url": None})
                await bench.steer("POST", "reset", {})
                if self.switches:
                    await bench.steer("PUT", "settings", dict(self.switches))
                yield bench
            finally:
                await bench.close()

    @pytest_asyncio.fixture(scope="class", loop_scope="class")
    @classmethod
    async def stacks(cls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SharedStacks]:
        """Stacks of real processes that the tests of the class share."""
        shared = SharedStacks(lambda: tmp_path_factory.mktemp("stack"))
        try:
            yield shared
        finally:
            await shared.close()


def secrets_of(settings: BaseModel) -> list[str]:
    """Return every secret of an adapter's settings; of a key in PEM its longest line."""
    found = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
        elif isinstance(value, SecretBytes):
            text = value.get_secret_value().decode("utf-8", "replace")
        else:
            continue
        found.append(max(text.split("\n"), key=len))
    return [each for each in found if each]


def account(account_id: str, account_type: str) -> Account:
    """Return a source account."""
    return Account(id=account_id, type=account_type)


def sandbox_file(module: str) -> bool:
    """Say whether a twin's module has its `sandbox.toml` beside it."""
    return files(module.rpartition(".")[0]).joinpath("sandbox.toml").is_file()
