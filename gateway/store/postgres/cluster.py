"""Whether the server is the one that the database was used on: the witness of marks on PostgreSQL.

A database that came back from a copy looks healthy, and would make calls again that it does not remember.
On PostgreSQL the copy runs in another cluster, on another timeline (each promotion of a standby and each
recovery to a point in time begins one), under another database, or in tables that were made again: a dump
that was restored into the same database. The store holds what it was last, and each commit compares it with
what the server says in the same statement. A copy of a whole volume keeps all four, and so does a restore
of the rows alone; they need `db adopt`.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import BigInteger, select
from sqlalchemy import literal_column as raw

from gateway.runtime import Runtime
from gateway.store.database import Query, Tx, upsert
from gateway.store.postgres import failover
from gateway.store.postgres.errors import Conflict
from gateway.store.postgres.failover import Place
from gateway.store.state import freeze, state_row
from gateway.store.state_file import OTHER_TIMELINE, PROMOTED, FileId, Recorded, StateFile
from gateway.store.transaction import StoreFunction

_FIRST = Query(upsert(failover.cluster).on_conflict_do_nothing())
_TIME = Query(
    select(raw("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint", BigInteger).label("at"))
)


async def database_time(tx: Tx) -> int:
    """Return the wall clock of the database, in microseconds since 1970."""
    row = await tx.one(_TIME)
    assert row is not None  # noqa: S101 - one row, always
    return int(row["at"])


def difference(known: str, here: str) -> str:
    """Return the reason to freeze a database that is not where it was."""
    before, now = known.split("/"), here.split("/")
    if before[0] != now[0]:
        told = "this is another PostgreSQL cluster: the database was dumped and restored, or copied"
    elif before[1] != now[1]:
        told = (
            f"{OTHER_TIMELINE}{int(now[1], 16)} of the cluster, and the database was used on timeline "
            f"{int(before[1], 16)}: a standby was promoted, or it was recovered to a point in time"
        )
    elif before[2] != now[2]:
        told = "this is another database of the cluster: it was copied or restored"
    else:
        told = (
            "the tables of the database are not those that were used: a dump was restored into it"
        )
    return f"{told}; marks may be missing"


def _names(known: str, here: str) -> bool:
    """Whether a server was stored without its tables, as an earlier program did it, and is this one."""
    return here.rpartition("/")[0] == known


class Cluster(StateFile):
    """What is known of the server; in the place of a state file, which PostgreSQL does not have."""

    def __init__(self, label: str, runtime: Runtime) -> None:
        super().__init__(Path(label), Path(label), "")
        self._runtime = runtime
        #: what the store holds; None: it was not compared yet
        self._known: str | None = None
        #: what the server is instead
        self._elsewhere: str | None = None
        self._adopting = False
        #: `synchronous_standby_names` as this process saw it last; None: not yet
        self._standbys: str | None = None
        #: whether the store has to hear of it
        self._noting = False

    # --- For the writers --------------------------------------------------------------------------

    def check_identity(self, here: str, standbys: str) -> None:
        """Undo a group whose server is not the known one, once; it runs again behind the guard.

        The same where the server waits for other standbys than it did.
        """
        if self._known is None:
            return
        if here == self._known:
            if standbys != self._standbys:
                self._standbys, self._noting = standbys, True
                raise Conflict
        elif here != self._elsewhere:
            self._elsewhere = here
            raise Conflict

    def guard(self) -> StoreFunction[[], None] | None:
        """Return the store function that runs before every group, or None."""
        if self._adopting:
            return self._adopt
        if self._elsewhere is not None:
            return self._freeze
        return failover.note_standbys if self._noting else None

    @property
    def remembers(self) -> bool:
        """Whether this process ran on the server before the one that it is on now."""
        return self._known is not None and self._elsewhere is not None

    async def _freeze(self, tx: Tx) -> None:
        """Store function: freeze the database, unless an operator has adopted it meanwhile.

        One in which there was never a payout has nothing to lose: it is taken as it is.
        """
        known, here = await self.look(tx)
        if known is None or known.identity == here.identity:
            return
        if not (await state_row(tx))["used"]:
            await failover.move_to(tx, here)
            return
        remembered = self._standbys if self._known == known.identity else None
        reason = (
            PROMOTED
            if failover.may_be_complete(known, here, remembered)
            else difference(known.identity, here.identity)
        )
        await freeze(tx, self._runtime.ids, self._runtime.clock.moment().wall, reason)

    async def _adopt(self, tx: Tx) -> None:
        """Store function: this server is the one from now on."""
        _, here = await self.look(tx)
        await failover.move_to(tx, here)

    async def look(self, tx: Tx) -> tuple[Place | None, Place]:
        """Store function: return which server the database was used on last, and which it is."""
        return await failover.look(tx)

    async def meet(self, tx: Tx) -> None:
        """Store function: note the server of a new database; freeze one that is not where it was."""
        known, here = await self.look(tx)
        if known is None:
            await tx.all(
                _FIRST,
                id=1,
                identity=here.identity,
                standbys=here.standbys,
                standby_states=here.states,
            )
        elif _names(known.identity, here.identity):
            await failover.move_to(tx, here)
        elif known.identity == here.identity:
            await failover.note_standbys(tx)
        else:
            await self._freeze(tx)

    def met(self, known: Place, here: Place) -> None:
        """Remember which server it is, once it was compared."""
        self._known, self._elsewhere = here.identity, None
        self._standbys = here.standbys
        self._noting = known.standbys != here.standbys

    # --- In the place of a state file -------------------------------------------------------------

    def record(self, mark: int) -> None:
        """Remember a mark that is committed. The database itself is the witness for all processes."""
        self.seen.note(mark)

    def read(self) -> Recorded | None:
        """Return None: there is no file."""
        return None

    def catch_up(self, read: Recorded | None, marks: int, here: FileId) -> None:
        """Do nothing: there is no file."""

    def rewrite(self, marks: int, *, frozen: str | None = None, file: FileId | None = None) -> None:
        """Take this server for the right one, with the next group of changes. For `db adopt`."""
        del marks, frozen, file
        self._adopting = True
