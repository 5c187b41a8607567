"""The database: whether it can be used, its schema, its server key, and every gateway on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from gateway import __version__
from gateway.config.settings import Settings
from gateway.doctor.findings import Finding, failed, ok, skipped, warning
from gateway.errors import (
    ConfigError,
    SchemaMismatch,
    StateFileError,
    StoreEmpty,
    StoreUnusable,
)
from gateway.heartbeat import config_digest
from gateway.removed import find_removed
from gateway.resealing import refuse_foreign_key
from gateway.rules import OwnRules
from gateway.runtime import Runtime
from gateway.store import migrate
from gateway.store.database import Database, Row
from gateway.store.gateways import BEAT_S, STALE_S, Watch, running_gateways
from gateway.store.opening import frozen_or_older, open_to_read, state_file_of
from gateway.store.pauses import active_pauses
from gateway.store.postgres.cluster import database_time
from gateway.store.state import state_row
from gateway.store.state_file import StateFile, next_step
from gateway.vault import vault_of

#: A difference of clocks that disturbs nothing.
_CLOCK_S = 30
_US = 1_000_000


async def check(settings: Settings, runtime: Runtime, *, wait: bool) -> AsyncIterator[Finding]:
    """Check the database and what is registered in it."""
    try:
        async with open_to_read(settings, runtime) as db:
            yield ok("database", f"{settings.database} can be read")
            yield ok("schema", f"revision {await db.read(migrate.revision)}, as this program needs")
            for finding in await _key(db, settings, runtime):
                yield finding
            for finding in await _state(db, settings, runtime):
                yield finding
            if settings.postgres is not None:
                yield _clock(await db.read(database_time), runtime)
            for finding in await _gateways(db, settings, runtime, wait=wait):
                yield finding
    except SchemaMismatch as error:
        yield failed("schema", str(error), "see above: the message names the command")
        yield skipped("gateways", "the schema is another one")
    except StoreEmpty:
        yield _not_created(settings)
        for name in ("schema", "frozen", "gateways"):
            yield skipped(name, "there is no database yet")
    except StoreUnusable as error:
        yield failed(
            "database",
            str(error),
            "correct `database` in the configuration, or make it usable",
        )
        for name in ("schema", "frozen", "gateways"):
            yield skipped(name, "the database cannot be used")


def _not_created(settings: Settings) -> Finding:
    """Return what it means that there is no database: before the first start nothing is wrong."""
    if settings.postgres is None and settings.state_path.exists():
        return failed(
            "database",
            f"there is no {settings.database}, and {settings.state_path} shows that there was one",
            "put the database back, or correct `database` (docs: Back up and restore)",
        )
    return warning(
        "database",
        f"{settings.database} is not created yet",
        "before the first start nothing is wrong: `payout-gateway serve` creates it, and so does "
        "`payout-gateway db upgrade`. If there were payouts before, correct `database` in the configuration",
    )


async def _key(db: Database, settings: Settings, runtime: Runtime) -> list[Finding]:
    try:
        await db.read(refuse_foreign_key, vault_of(settings, runtime.ids))
    except ConfigError as error:
        return [failed("server key", each, "docs: Change the server key") for each in error.faults]
    return [ok("server key", "it is the one that this database is used with")]


async def _state(db: Database, settings: Settings, runtime: Runtime) -> list[Finding]:
    """Check what keeps this database from having payouts handed over, or `serve` from starting."""
    row, state_file = await db.read(state_row), state_file_of(settings, runtime)
    findings = [
        *_frozen(row, await frozen_or_older(db, state_file)),
        *_witness(settings, state_file, row),
        *_rules(settings, row),
    ]
    findings += [
        failed(
            "removed custodians",
            each.detail,
            "configure it until they have ended, or start with `payout-gateway serve --allow-removed`, "
            "which parks them",
        )
        for each in await db.scan(find_removed, tuple(settings.custodians))
    ]
    for each in await db.read(active_pauses):
        who = each.owner or "the operator"
        findings.append(
            warning(
                "pauses",
                f"{each.name} is paused by {who}: {each.reason}",
                "payout-gateway resume … when the reason is over (payout-gateway pause list)",
            )
        )
    return findings


def _frozen(row: Row, reason: str | None) -> Iterator[Finding]:
    if reason is not None:
        yield failed("frozen", f"the database is frozen: {reason}", next_step(reason))
    elif not row["accepting"]:
        yield failed(
            "frozen",
            "the database was adopted, and new payouts are not let in yet",
            "payout-gateway db adopt --accept-new, once its references are checked",
        )
    else:
        yield ok("frozen", "no: payouts are taken and handed over")


def _witness(settings: Settings, state_file: StateFile, row: Row) -> Iterator[Finding]:
    if settings.postgres is not None:
        return
    try:
        recorded = state_file.read()
    except StateFileError as error:
        yield failed("state file", str(error), f"make {settings.state_path} readable and writable")
        return
    if recorded is None and row["used"]:
        yield failed(
            "state file",
            f"there is no {settings.state_path}, and this database has had payouts",
            "put it back, or: payout-gateway db moved (docs: Back up and restore)",
        )
        return
    yield ok("state file", f"{settings.state_path} fits the database")


def _rules(settings: Settings, row: Row) -> Iterator[Finding]:
    own, active = OwnRules(settings).digest, row["rules_digest"]
    if active not in {None, own}:
        yield failed(
            "rules",
            f"this configuration has the rules {own}, and {active} are active: a gateway with it hands "
            "nothing over",
            "payout-gateway rules show, then rules activate --reason …, or use the active configuration",
        )
    else:
        yield ok("rules", f"{own} are active" if active else f"{own}; none are active so far")


def _clock(theirs: int, runtime: Runtime) -> Finding:
    skew = (runtime.clock.moment().wall - theirs) / _US
    told = f"this machine is {skew:+.1f} s off the database's clock"
    if abs(skew) > _CLOCK_S:
        return warning("clock of the database", told, "synchronise both machines (chrony, NTP)")
    return ok("clock of the database", told)


async def _gateways(
    db: Database, settings: Settings, runtime: Runtime, *, wait: bool
) -> list[Finding]:
    """Check the versions and configurations of every gateway that runs on the database."""
    rows = {row["id"]: row for row in await db.read(running_gateways)}
    watch, begin = Watch(), runtime.clock.moment().elapsed
    while rows and wait:
        elapsed = runtime.clock.moment().elapsed
        watch.look({each: row["counter"] for each, row in rows.items()}, elapsed)
        if not rows.keys() - watch.moved() or elapsed - begin >= STALE_S * _US:
            break
        await runtime.clock.sleep(BEAT_S / 10)
        rows = {row["id"]: row for row in await db.read(running_gateways)}
    alive = [row for each, row in rows.items() if each in watch.moved() or not wait]
    if not alive:
        gone = f"; {len(rows)} ended without signing off" if rows else ""
        return [ok("gateways", f"none runs on this database{gone}")]
    revision, gate = await db.read(migrate.revision), (await db.read(state_row))["gate_version"]
    own = config_digest(settings, runtime.ids)
    return judge([dict(row) for row in alive], str(revision), gate, own)


def judge(
    rows: Sequence[Mapping[str, Any]], revision: str, gate_version: int, own: str
) -> list[Finding]:
    """Compare the gateways of a database with it, with each other and with this program. Pure.

    `own`: the digest of this configuration. It holds the rules: the same digest is the same rules.
    """
    findings = []
    for row in rows:
        name = f"{row['id']} ({row['host']}, process {row['pid']}, version {row['version']})"
        if not row["schema_from"] <= revision <= row["schema_to"]:
            findings.append(
                failed(
                    "gateways",
                    f"{name} works with the schemas {row['schema_from']} to {row['schema_to']}, and the "
                    f"database has {revision}",
                    "start it again with the version that fits",
                )
            )
        elif row["gate_version"] < gate_version:
            findings.append(
                failed(
                    "gateways",
                    f"{name} is too old to hand payouts over: it has gate version "
                    f"{row['gate_version']}, and the database needs {gate_version}",
                    f"upgrade it to {__version__}",
                )
            )
        elif row["version"] != __version__:
            findings.append(
                warning(
                    "gateways",
                    f"{name} has another version than this program ({__version__})",
                    "run one version everywhere, once an upgrade is over",
                )
            )
        elif row["config_digest"] != own:
            findings.append(
                warning(
                    "gateways",
                    f"{name} has another configuration than this one ({row['config_digest']}, here "
                    f"{own}); so its rules may be others",
                    "start it again with this configuration; its own /readyz says whether it hands payouts "
                    "over",
                )
            )
        else:
            findings.append(
                ok("gateways", f"{name}: same version, configuration and rules as here")
            )
    return findings
