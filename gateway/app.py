"""Wiring: builds every part of the gateway from its settings. The only module that knows them all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import aiohttp

from gateway import __version__, logs
from gateway.adapter import Tools
from gateway.api.application import ApiContext
from gateway.assets import Asset, AssetRegistry
from gateway.batches.elsewhere import FileChecks
from gateway.batches.loop import BatchLoop
from gateway.batches.runner import BatchSteps, Handover
from gateway.batches.service import Batches
from gateway.calling import Calling
from gateway.config.settings import Settings
from gateway.credentials import accounts_of, carry_over
from gateway.custodians import registry
from gateway.custodians.breaker import Breaker
from gateway.custodians.contact import Contact
from gateway.custodians.dates import Dates
from gateway.custodians.instance import CustodianInstance
from gateway.custodians.pacer import Pacer
from gateway.custodians.probes import Probes
from gateway.egress import Poster, custodian_connector, echoes
from gateway.egress.traces import joined
from gateway.errors import BrokenPackage, ConfigError
from gateway.execution.actions import Actions
from gateway.execution.after_delivery import AfterDelivery
from gateway.execution.engine import Engine
from gateway.execution.inbox import Inbox
from gateway.failover import Failover
from gateway.funds.balances import Balances
from gateway.funds.reader import BalanceReader
from gateway.funds.reservations import Funds, account_rules
from gateway.heartbeat import Heartbeat, identity_of
from gateway.limits import Buckets
from gateway.metrics import Metrics
from gateway.payouts import Payouts
from gateway.quotes import Quotes
from gateway.resealing import compare_server_key
from gateway.routing.accounts import PinnedAccounts
from gateway.routing.durations import DurationLoop, Durations
from gateway.routing.facts import KnownFacts
from gateway.routing.prices import price_source
from gateway.routing.router import Instance, Router
from gateway.rules import OwnRules
from gateway.runtime import Clock, Runtime, real_runtime
from gateway.spending import Spending
from gateway.spending_rules import USD, Rules
from gateway.store.database import Columns, Database
from gateway.store.opening import open_database, state_file_of
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.wakeups import Wakeups
from gateway.store.rules import begin_with
from gateway.sweeper import Sweeper
from gateway.vault import Vault, vault_of
from gateway.wakeup import looks_bell
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.replay import Replays
from gateway.webhooks.replay_worker import ReplayWorker
from gateway.webhooks.sender import Sender, client_for
from gateway.webhooks.share import Share
from gateway.webhooks.worker import Deliveries

#: How long work under way may go on at the end, where nobody says it.
GRACE_S = 10.0
#: How long a loop waits before it asks a store again that could not be written.
STORE_AGAIN_S = 2.0
#: Whose bells are all of them.
_EVERYBODY = "*"
_log = logs.get_logger("app")


class Role(StrEnum):
    """What a process does. Any number of processes of each may share one PostgreSQL database."""

    API = "api"  #: takes requests and custodians' webhooks
    ENGINE = "engine"  #: talks to custodians: executions, batches, webhooks that wait
    SENDER = "sender"  #: delivers webhooks to subscribers


ALL_ROLES = frozenset(Role)


@dataclass(frozen=True)
class Workers:
    """The loops of one process."""

    engines: dict[str, Engine]
    inbox: Inbox
    deliveries: Deliveries
    replays: ReplayWorker
    batches: BatchLoop
    sweeper: Sweeper
    heartbeat: Heartbeat
    balances: BalanceReader
    clock: Clock
    #: of the custodians whose delivered payouts are still looked at
    after_delivery: dict[str, AfterDelivery]
    probes: dict[str, Probes]
    durations: DurationLoop
    roles: frozenset[Role] = ALL_ROLES

    def wake(self, name: str) -> None:
        """Ring the bell of `inbox`, `deliveries`, `replays`, `batches`, a custodian instance or all."""
        own = {
            "inbox": self.inbox.wakeup,
            "deliveries": self.deliveries.wakeup,
            "replays": self.replays.wakeup,
            "batches": self.batches.wakeup,
        }
        looks = {looks_bell(each): loop.wakeup for each, loop in self.after_delivery.items()}
        if name == _EVERYBODY:
            for each in (*own, *self.engines, *looks):
                self.wake(each)
        elif name in own:
            own[name].ring()
        elif name in self.engines:
            self.engines[name].wakeup.ring()
        elif name in looks:
            looks[name].ring()

    @asynccontextmanager
    async def running(
        self, failed: Callable[[BaseException], None], left_s: Callable[[], float] = lambda: GRACE_S
    ) -> AsyncIterator[None]:
        """Run every loop; at the end let work under way finish. A loop that dies calls `failed`.

        `left_s`: asked at the end, how long that may take.
        """
        loops = {
            "heartbeat": self.heartbeat.run,
            "balances": self.balances.run,
            "durations": self.durations.run,
            **{f"breaker-{name}": each.run for name, each in self.probes.items()},
        }
        if Role.SENDER in self.roles:
            loops |= {"deliveries": self.deliveries.run, "replays": self.replays.run}
        if Role.ENGINE in self.roles:
            loops |= {
                "inbox": self.inbox.run,
                "batches": self.batches.run,
                "sweeper": self.sweeper.run,
                **{f"engine-{name}": engine.run for name, engine in self.engines.items()},
                **{f"delivered-{name}": looks.run for name, looks in self.after_delivery.items()},
            }
        await self.heartbeat.start()
        tasks = [
            asyncio.create_task(self._keep(name, loop), name=name) for name, loop in loops.items()
        ]
        for task in tasks:
            task.add_done_callback(
                lambda done: (
                    None
                    if done.cancelled()
                    else failed(done.exception() or RuntimeError(done.get_name()))
                )
            )
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            grace_s = left_s()
            await asyncio.gather(
                self.deliveries.finish(grace_s),
                *(engine.finish(grace_s) for engine in self.engines.values()),
            )
            await self.heartbeat.stop()

    async def _keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop; while the store cannot be written (a full disk), wait and go on."""
        while True:
            try:
                await loop()
            except sqlite3.OperationalError as error:
                _log.error("store_unavailable", loop=name, exc_info=error)
                await self.clock.sleep(STORE_AGAIN_S)


@dataclass(frozen=True)
class Gateway:
    """A wired gateway: its API, its loops and its store."""

    context: ApiContext
    workers: Workers
    db: Database
    instances: Mapping[str, CustodianInstance]


@asynccontextmanager
async def open_gateway(  # noqa: PLR0915 - everything is wired in one place
    settings: Settings,
    *,
    runtime: Runtime | None = None,
    ready: Callable[[], bool] = lambda: True,
    broken: Callable[[], bool] = lambda: False,
    roles: frozenset[Role] = ALL_ROLES,
) -> AsyncIterator[Gateway]:
    """Wire everything. ConfigError lists every fault of every custodian at once.

    `roles`: which loops run. `ready`, `broken`: whether the process takes requests, and whether one of its loops has died.
    """
    for key in (settings.server_key, settings.previous_server_key):
        if key is not None:
            logs.SCRUBBER.register(key.get_secret_value())
    if settings.postgres is not None and settings.postgres.password:
        logs.SCRUBBER.register(settings.postgres.password)
    runtime = runtime or real_runtime()
    metrics = Metrics()
    vault = vault_of(settings, runtime.ids)
    assets = AssetRegistry(Asset.model_validate(each.model_dump()) for each in settings.assets)
    async with contextlib.AsyncExitStack() as stack:
        to_endpoints: Poster = await stack.enter_async_context(client_for(settings.webhooks))
        breakers = {
            name: Breaker(
                runtime.clock, settings.engine.breaker_faults, settings.engine.breaker_open_s
            )
            for name in settings.custodians
        }
        contacts = {name: Contact(breakers[name]) for name in settings.custodians}
        durations = Durations()
        faults = unknown_assets(settings, assets)
        with _collecting(faults):
            prices = price_source(assets, settings.prices)
        with _collecting(faults):
            custodians = await _custodians(
                stack, settings, runtime, assets, metrics, vault, contacts
            )
            faults += late_keys(settings, custodians)
            faults += without_balances(settings, custodians)
        if faults:
            raise ConfigError(faults)
        router = _router_of(settings, custodians)
        identity = identity_of(settings, runtime)
        state_file = state_file_of(settings, runtime)
        db = await stack.enter_async_context(open_database(settings, runtime, state_file))
        await compare_server_key(db, runtime, vault)
        own = OwnRules(settings)
        at = runtime.clock.moment().wall
        own.note(await db.run(begin_with, runtime.ids, at, own.digest, own.text))
        if settings.previous_server_key is not None:
            # The digests that name accounts change with the server key; what they name does not.
            for name, each in custodians.items():
                await db.run(carry_over, runtime, each, accounts_of(settings, name))
        spending = Spending(Rules(settings.spending, prices.usd))
        action_life = timedelta(seconds=settings.engine.action_life_s)
        visibility = {
            name: each.capabilities.visibility_s
            for name, each in custodians.items()
            if each.has_balances
        }
        funds = Funds(runtime, account_rules(settings, visibility), settings.routes)
        balances = Balances(runtime, funds, frozenset(custodians))
        pinned = PinnedAccounts(settings)
        payouts = Payouts(runtime, vault, action_life, spending, own.digest, funds, pinned)
        owner = f"{socket.gethostname()}-{os.getpid()}"
        bells: list[Workers] = []

        def wake_own(name: str) -> None:
            for workers in bells:
                workers.wake(name)

        wake = await _waking_others(stack, db, identity.id, wake_own)
        funds.wake = wake
        sender = Sender(to_endpoints, settings.webhooks, runtime)
        endpoints = Endpoints(runtime, vault, settings)
        limits = settings.limits
        calls = Buckets(
            "quote_calls", runtime.clock, limits.quote_calls_per_s, limits.quote_calls_burst
        )
        facts = KnownFacts(breakers, durations, funds.shortage)
        quotes = Quotes(
            router,
            assets,
            runtime,
            custodians,
            calls,
            spending,
            funds,
            facts=facts,
            prices=prices,
            recommend_percent=settings.routing.recommend_percent,
        )
        native = {name: each for name, each in custodians.items() if each.capabilities.batch}
        batches = Batches(
            runtime, quotes, frozenset(native), settings.public_url, spending, funds, pinned
        )
        handovers = {
            name: Handover(each.set_limit(), each.capabilities.in_flight)
            for name, each in custodians.items()
        }
        onward = Failover(
            router, assets, facts, custodians, settings.spending.limits, funds, own.digest
        )
        calling = Calling(runtime.clock)
        engines = {
            name: Engine(
                db=db,
                runtime=runtime,
                payouts=payouts,
                assets=assets,
                custodian=custodian,
                settings=settings.engine,
                metrics=metrics,
                owner=owner,
                wake=wake,
                witness=state_file,
                pacer=custodian.pacer,
                rules=own,
                health=breakers[name],
                onward=onward,
                quiet=calling.quiet,
            )
            for name, custodian in custodians.items()
        }
        recorders = {name: engine.recorder for name, engine in engines.items()}
        steps = BatchSteps(
            runtime,
            payouts,
            quotes,
            batches,
            handovers,
            recorders,
            rules=own.digest,
            submit_within_s=settings.engine.submit_within_s,
        )
        replays = Replays(runtime, endpoints)
        deliveries = Deliveries(
            db=db,
            runtime=runtime,
            endpoints=endpoints,
            sender=sender,
            settings=settings.webhooks,
            engine=settings.engine,
            metrics=metrics,
            gateway_id=identity.id,
            share=Share(runtime.clock, calling),
        )
        heartbeat = Heartbeat(
            db=db,
            runtime=runtime,
            identity=identity,
            state_file=state_file,
            metrics=metrics,
            gone=deliveries.free_leases,
            wake_all=lambda: wake_own(_EVERYBODY),
            rules=own,
        )
        deliveries.pulse = heartbeat
        workers = Workers(
            engines=engines,
            inbox=Inbox(
                db=db,
                runtime=runtime,
                custodians=custodians,
                recorders=recorders,
                settings=settings.engine,
                metrics=metrics,
                wake=wake,
                look_after_end=lambda name, payout_id: engines[name].look_after_end(payout_id),
            ),
            deliveries=deliveries,
            replays=ReplayWorker(
                db=db, runtime=runtime, replays=replays, engine=settings.engine, wake=wake
            ),
            batches=BatchLoop(
                db=db, runtime=runtime, steps=steps, idle_s=settings.engine.idle_s, wake=wake
            ),
            sweeper=Sweeper(
                db=db,
                runtime=runtime,
                recorders=recorders,
                settings=settings.engine,
                webhooks=settings.webhooks,
                retention=settings.retention,
                metrics=metrics,
                wake=wake,
            ),
            heartbeat=heartbeat,
            balances=BalanceReader(
                db=db,
                runtime=runtime,
                funds=funds,
                balances=balances,
                custodians=custodians,
                metrics=metrics,
                rules=own,
                reads=Role.ENGINE in roles,
            ),
            clock=runtime.clock,
            after_delivery={
                name: AfterDelivery(
                    db=db, runtime=runtime, payouts=payouts, engine=engine, settings=settings.engine
                )
                for name, engine in engines.items()
                if engine.custodian.capabilities.looked_after_delivery_s
            },
            probes={
                name: Probes(
                    custodian,
                    breakers[name],
                    next(iter(accounts_of(settings, name)), None),
                    runtime.clock,
                    metrics,
                )
                for name, custodian in custodians.items()
            },
            durations=DurationLoop(db, runtime.clock, durations),
            roles=roles,
        )
        bells.append(workers)
        file_checks = FileChecks()
        stack.push_async_callback(file_checks.close)
        context = ApiContext(
            gateway_id=identity.id,
            settings=settings,
            db=db,
            payouts=payouts,
            actions=Actions(
                db=db,
                runtime=runtime,
                engines=workers.engines,
                owner=owner,
                lease_s=settings.engine.lease_s,
                payouts=payouts,
                metrics=metrics,
                wake=wake,
                configured=settings.custodians,
            ),
            inbox=workers.inbox,
            batches=batches,
            quotes=quotes,
            endpoints=endpoints,
            replays=replays,
            tester=workers.deliveries,
            router=router,
            custodians=custodians,
            funds=funds,
            vault=vault,
            runtime=runtime,
            metrics=metrics,
            calling=calling,
            file_checks=file_checks,
            wake=wake,
            ready=ready,
            state_file=state_file,
            rules=own,
            broken=broken,
            degraded=lambda: {
                name: word for name, each in contacts.items() if (word := each.degraded) is not None
            },
        )
        yield Gateway(context, workers, db, custodians)


async def _waking_others(
    stack: contextlib.AsyncExitStack, db: Database, own: str, wake: Callable[[str], None]
) -> Callable[[str], None]:
    """Return what wakes a loop in this process and, on PostgreSQL, in every other one."""
    if not isinstance(db, PostgresDatabase):
        return wake
    others = Wakeups(db.server, own, wake)
    await stack.enter_async_context(others.listening())

    def both(name: str) -> None:
        wake(name)
        others.tell(name)

    return both


def without_balances(settings: Settings, custodians: Mapping[str, CustodianInstance]) -> list[str]:
    """Return a fault per instance that is to reserve and whose adapter reports no balances."""
    return [
        f"custodians.{name}.reserve: the adapter {each.adapter_name} reports no balances, so that nothing can "
        "be reserved; take reserve out"
        for name, each in custodians.items()
        if not each.has_balances
        and (
            settings.custodians[name].reserve
            or any(account.reserve for account in settings.accounts.get(name, ()))
        )
    ]


def unknown_assets(settings: Settings, assets: AssetRegistry) -> list[str]:
    """Return a fault per asset of a route that is not known: the route would never be taken for it."""
    known = ", ".join(assets.codes())
    limits = settings.spending.limits
    named = [("prices.usd", code) for code in settings.prices.usd]
    named += [("spending.asset_caps", code) for code in settings.spending.asset_caps]
    named += [
        (f"spending.limits.{n}.asset", each.asset) for n, each in enumerate(limits) if each.asset
    ]
    named += [
        (f"spending.limits.{n}.unit", each.unit)
        for n, each in enumerate(limits)
        if each.unit != USD
    ]
    return [
        f"{where}: {code!r} is not known; known: {known}; others are added under [[assets]]"
        for where, code in named
        if code not in assets.codes()
    ] + [
        f"routes.{index}.assets: {code!r} is not known; known: {known}; others are added under [[assets]]"
        for index, route in enumerate(settings.routes)
        for code in route.assets or ()
        if code not in assets.codes()
    ]


def late_keys(settings: Settings, custodians: Mapping[str, CustodianInstance]) -> list[str]:
    """Return a fault per instance on a route whose keys do not outlive the time to be sent twice over."""
    within = settings.engine.submit_within_s
    lives = {
        name: each.capabilities.keys.life_s
        for name, each in custodians.items()
        if any(route.custodian == name for route in settings.routes)
    }
    return [
        f"engine.submit_within_s: {within:g} is above half of the {life:g} s for which {name} remembers a "
        f"key; set {life / 2:g} or less"
        for name, life in lives.items()
        if life is not None and within > life / 2
    ]


@contextlib.contextmanager
def _collecting(faults: list[str]) -> Iterator[None]:
    """Add the faults of a ConfigError to a list, so that what comes after it is checked as well."""
    try:
        yield
    except ConfigError as error:
        faults += error.faults


def _router_of(settings: Settings, custodians: Mapping[str, CustodianInstance]) -> Router:
    instances = [
        Instance(
            name,
            frozenset(settings.custodians[name].modes),
            custodian.capabilities,
            settings.accounts.get(name, ()),
        )
        for name, custodian in custodians.items()
    ]
    return Router(instances, settings.routes)


@asynccontextmanager
async def routing_of(
    settings: Settings, runtime: Runtime, known: Iterable[Columns] = ()
) -> AsyncIterator[Quotes]:
    """Build what explains routes, without a store and without loops. ConfigError.

    `known`: the accounts with their balances, read just now.
    """
    assets = AssetRegistry(Asset.model_validate(each.model_dump()) for each in settings.assets)
    async with contextlib.AsyncExitStack() as stack:
        vault = vault_of(settings, runtime.ids)
        contacts = {name: Contact() for name in settings.custodians}
        built = await _custodians(stack, settings, runtime, assets, Metrics(), vault, contacts)
        prices = price_source(assets, settings.prices)
        rules = account_rules(settings, dict.fromkeys(built, 0.0))
        funds = Funds(runtime, rules, settings.routes, judges_age=False)
        funds.learn(known, runtime.clock.moment())
        yield Quotes(
            _router_of(settings, built),
            assets,
            runtime,
            built,
            spending=Spending(Rules(settings.spending, prices.usd)),
            funds=funds,
            facts=KnownFacts({}, Durations(), funds.shortage),
            prices=prices,
        )


@asynccontextmanager
async def custodian_of(
    settings: Settings, name: str, runtime: Runtime, contact: Contact | None = None
) -> AsyncIterator[CustodianInstance]:
    """Build one configured custodian instance alone, for what it declares or reads. ConfigError.

    `contact` notes how its requests end.
    """
    alone = settings.model_copy(update={"custodians": {name: settings.custodians[name]}})
    assets = AssetRegistry(Asset.model_validate(each.model_dump()) for each in settings.assets)
    async with contextlib.AsyncExitStack() as stack:
        built = await _custodians(
            stack,
            alone,
            runtime,
            assets,
            Metrics(),
            vault_of(settings, runtime.ids),
            {name: contact or Contact()},
        )
        yield built[name]


async def _custodians(  # noqa: PLR0913 - the parts of an instance
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    runtime: Runtime,
    assets: AssetRegistry,
    metrics: Metrics,
    vault: Vault,
    contacts: Mapping[str, Contact],
) -> dict[str, CustodianInstance]:
    """Build every instance; the faults of all of them are listed at once."""
    built: dict[str, CustodianInstance] = {}
    faults: list[str] = []
    broken: list[str] = []
    for name, custodian in settings.custodians.items():
        dates, pacer = Dates(runtime.clock), Pacer(runtime.clock)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                # Some custodians refuse calls that do not say who calls.
                headers={"User-Agent": f"payout-gateway/{__version__}"},
                trust_env=False,
                # Connections and look-ups of its own: no custodian waits for another one's.
                connector=custodian_connector(name),
                trace_configs=[
                    joined(
                        dates.tracing(),
                        echoes.tracing(),
                        contacts[name].tracing(),
                        pacer.tracing(),
                    )
                ],
            )
        )
        tools = Tools(http, runtime.clock, runtime.ids, runtime.offload, assets)
        try:
            built[name] = registry.build(
                registry.Wanted(
                    name, custodian.adapter, custodian.adapter_settings, custodian.previous
                ),
                tools,
                metrics,
                settings.engine,
                dates=dates,
                pacer=pacer,
                digest=vault.digest,
                digest_before=vault.digest_before,
            )
        except BrokenPackage as error:
            # The others are served all the same; its payouts wait, and its webhooks are asked for again.
            broken += error.faults
            contacts[name].broken()
            _log.error("custodian_broken", custodian=name, faults=list(error.faults))
        except ConfigError as error:
            faults += error.faults
    if faults or (broken and not built):
        raise ConfigError([*faults, *broken])
    return built
