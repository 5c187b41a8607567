"""A standby that was promoted: whether anything can be missing from it, and who says so.

A synchronous standby has everything that the primary has acknowledged, as long as the primary waits for
*this* standby with every commit. The store holds `synchronous_standby_names`, written by the first commit
that finds it changed. That alone is no proof: a standby that was detached later still says what was true
before. So every gateway that ran on the old primary also has to find its own last heartbeat and its own last
mark, and to remember no other setting. Until all of them have said so the database is frozen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import Boolean, Column, Integer, MetaData, Table, Text, bindparam, delete, select
from sqlalchemy import literal_column as raw
from sqlalchemy import update as change

from gateway.runtime import Ids
from gateway.store.audit import GATEWAY, add_audit
from gateway.store.database import Query, Tx, upsert
from gateway.store.gateways import running_gateways
from gateway.store.postgres.schema import IDENTITY, STANDBYS
from gateway.store.state import DATABASE, state_row, unfreeze
from gateway.store.state_file import PROMOTED

#: Act in the audit log.
ACT = "standby_promoted"
_tables = MetaData()
cluster = Table(
    "store_cluster",
    _tables,
    Column("id", Integer, primary_key=True),
    Column("identity", Text),
    #: `synchronous_standby_names`, as the last commit that looked has found it
    Column("standbys", Text),
    #: names and states of the standbys, where the role may see them
    Column("standby_states", Text),
)
_vouched = Table(
    "store_vouched",
    _tables,
    Column("gateway_id", Text, primary_key=True),
    Column("identity", Text),
    #: whether it ran on the old primary
    Column("remembers", Boolean),
)
_STATES = (
    "(SELECT string_agg(application_name || '=' || sync_state, ', ' ORDER BY application_name) "
    "FROM pg_stat_replication WHERE sync_state IS NOT NULL)"
)
_HERE = Query(
    select(
        raw(f"({IDENTITY})", Text).label("here"),
        raw(STANDBYS, Text).label("standbys"),
        raw(_STATES, Text).label("standby_states"),
        raw("current_setting('cluster_name')", Text).label("name"),
    )
)
_KNOWN = Query(select(cluster).where(cluster.c.id == 1))
_NOTE = Query(
    change(cluster)
    .where(cluster.c.id == 1)
    .values(standbys=bindparam("new_standbys"), standby_states=bindparam("new_states"))
)
_MOVE = Query(change(cluster).where(cluster.c.id == 1).values(identity=bindparam("new")))
_ADD = upsert(_vouched)
_VOUCH = Query(
    _ADD.on_conflict_do_update(
        index_elements=["gateway_id"],
        set_={name: _ADD.excluded[name] for name in ("identity", "remembers")},
    )
)
_VOUCHED = Query(select(_vouched).where(_vouched.c.identity == bindparam("here")))
_FORGET = Query(delete(_vouched).returning(_vouched.c.gateway_id))


@dataclass(frozen=True)
class Place:
    """A server, or what is known of the one that the database was used on last."""

    identity: str
    standbys: str
    states: str | None
    name: str = ""  #: `cluster_name`; of the present server only

    @property
    def parts(self) -> tuple[str, int, str]:
        """System identifier, timeline, database and tables."""
        system, timeline, database = self.identity.split("/", 2)
        return system, int(timeline, 16), database


def waits_for(standbys: str, name: str) -> bool:
    """Whether a primary with this `synchronous_standby_names` waits for a standby with every commit. Pure.

    Only where it needs all that are named: of `FIRST 1 (a, b)` it waits for either.
    """
    found = re.fullmatch(
        r"\s*(?:(?:FIRST|ANY)\s+)?(\d+)\s*\((.*)\)\s*", standbys, re.IGNORECASE | re.DOTALL
    )
    count, listed = (int(found[1]), found[2]) if found else (1, standbys)
    names = [each.strip().strip('"').lower() for each in listed.split(",")]
    return bool(name) and "*" not in names and name.lower() in names and count >= len(names)


def may_be_complete(known: Place, here: Place, remembered: str | None) -> bool:
    """Whether a server can have everything that the one before has acknowledged. Pure.

    `remembered`: the setting that this process saw last on the old primary; None: it never ran there.
    """
    (system, timeline, database), (system_now, timeline_now, database_now) = known.parts, here.parts
    return (
        (system, database) == (system_now, database_now)
        and timeline_now > timeline
        and waits_for(known.standbys, here.name)
        and (remembered is None or waits_for(remembered, here.name))
    )


async def look(tx: Tx) -> tuple[Place | None, Place]:
    """Store function: return which server the database was used on last, and which it is."""
    row, now = await tx.one(_KNOWN), await tx.one(_HERE)
    assert now is not None  # noqa: S101 - one row, always
    here = Place(now["here"], now["standbys"], now["standby_states"], now["name"])
    if row is None:
        return None, here
    return Place(row["identity"], row["standbys"] or "", row["standby_states"]), here


async def note_standbys(tx: Tx) -> None:
    """Store function: write down which standbys the server waits for, if that has changed."""
    known, here = await look(tx)
    if known is None or known.identity != here.identity:
        return
    if (known.standbys, known.states) != (here.standbys, here.states):
        await tx.all(_NOTE, new_standbys=here.standbys, new_states=here.states)


async def move_to(tx: Tx, here: Place) -> None:
    """Take a server for the right one from now on."""
    await tx.all(_MOVE, new=here.identity)
    await tx.all(_NOTE, new_standbys=here.standbys, new_states=here.states)
    await tx.all(_FORGET)


async def vouch(tx: Tx, gateway_id: str, *, remembers: bool) -> None:
    """Store function: say for a gateway that it misses nothing on a promoted standby. May be called twice."""
    _, here = await look(tx)
    await tx.all(_VOUCH, gateway_id=gateway_id, identity=here.identity, remembers=remembers)


async def thaw(tx: Tx, ids: Ids, at: int, gone: set[str]) -> set[str]:
    """Store function: go on with a promoted standby once every gateway has vouched for it.

    Return whom it waits for; the empty text: a gateway that ran on the old primary. `gone`: gateways that
    were seen to stand still.
    """
    if (await state_row(tx))["frozen"] != PROMOTED:
        return set()
    known, here = await look(tx)
    if known is None or not may_be_complete(known, here, None):
        return {""}
    vouched = {
        row["gateway_id"]: row["remembers"] for row in await tx.all(_VOUCHED, here=here.identity)
    }
    missing = {row["id"] for row in await running_gateways(tx)} - set(vouched) - gone
    if not any(vouched.values()):
        missing.add("")
    if not missing:
        await go_on(tx, ids, at, here, GATEWAY, f"{len(vouched)} gateways miss nothing on it")
    return missing


async def go_on(tx: Tx, ids: Ids, at: int, here: Place, actor: str, detail: str) -> None:  # noqa: PLR0913 - as the audit log
    """Take a promoted standby for the right server, and let marks be set."""
    await move_to(tx, here)
    await unfreeze(tx)
    detail = f"timeline {here.parts[1]}: {detail}"
    await add_audit(tx, ids, at, actor=actor, act=ACT, subject=DATABASE, detail=detail)
