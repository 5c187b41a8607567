"""`db adopt`: go on with a database that may be an older copy, without paying anything twice.

What happened between the copy and now is unknown: a payout that looks untouched may have been paid.
So every open execution gets a call of unknown outcome, made now, and is looked for. It may also have
ended: its partner may have heard "not paid" and have paid it in another way. So nothing is sent again by
itself; what cannot be found, an operator ends, with the proof that any lost call needs.

The lost call may have been made under a reference that only the lost database knew: an id that the
custodian gave, or that of a later try. So absence proves something only where the adapter declares that it
asks by keys which this copy has, too (`Capabilities.finds_lost_calls`), and where no payout may have gone on
at another custodian meanwhile (`failover` of a route). Otherwise, and for a payout without
an execution (an item that waits in a batch), absence proves nothing, and an operator decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from gateway.capabilities import Capabilities
from gateway.config.routes import FailoverPolicy
from gateway.execution.history import columns_of
from gateway.execution.proof import NO_ACCOUNT, lost_call
from gateway.execution.reports import ADOPTED_BLIND, unknown_report
from gateway.model import Attention, Status, format_time
from gateway.payouts import Payouts
from gateway.runtime import Moment, Runtime
from gateway.store import adoption as rows
from gateway.store import payouts as payout_rows
from gateway.store import state
from gateway.store.audit import add_audit
from gateway.store.database import Database, Tx
from gateway.store.funds import distrust_balances
from gateway.store.postgres import failover
from gateway.store.rows import from_us, terms_of, to_json
from gateway.store.rules import active_rules
from gateway.store.state_file import (
    ADOPT,
    MISSING,
    OTHER_TIMELINE,
    PROMOTED,
    StateFile,
    behind,
    next_step,
)
from gateway.store.state_file import MOVED as MOVED_FILE

#: Executions or payouts per transaction.
_AT_ONCE = 200
_US = 1_000_000
#: The account of a call that is looked for as any other: the one that is configured.
_CONFIGURED = ""
_REASON = "the database was restored from a copy, and it may have been paid since"
#: Acts in the audit log.
ADOPTED, ACCEPTING, MOVED = "database_adopted", "accepting_again", "database_moved"


class Custodian(Protocol):
    """A custodian instance, for what it declares."""

    @property
    def capabilities(self) -> Capabilities:
        """How long its calls live."""


class NotAdoptedError(Exception):
    """The database cannot be adopted as asked; the message says why."""


@dataclass(frozen=True)
class Window:
    """The time of which marks may be missing."""

    mark: int  #: the newest mark that the database has
    #: when it was set, by the wall clock of then; without a mark, when the newest row was created; None:
    #: the database is empty
    since: int | None
    until: int  #: the time that the operator gave


@dataclass(frozen=True)
class Adopted:
    """What an adoption did."""

    window: Window
    marks: int  #: the number of the newest mark now
    executions: int  #: open executions that got a call of unknown outcome
    without_execution: int  #: payouts that waited in a batch, and got an execution with such a call
    attention: int  #: payouts that an operator has to look at
    quotes: int  #: unused quotes that were ended
    batches: int  #: batches that nothing more is handed over of

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        told = asdict(self)
        window = told.pop("window")
        since = window["since"]
        return {
            "last_mark": window["mark"],
            "missing_from": None if since is None else format_time(from_us(since)),
            "missing_until": format_time(from_us(window["until"])),
            **told,
        }


class Adoption:
    """One run of `db adopt`. The database stays frozen until the end."""

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        payouts: Payouts,
        custodians: Mapping[str, Custodian],
        state_file: StateFile,
        operator: str,
        left: frozenset[str] = frozenset(),
    ) -> None:
        #: instances that payouts may have gone on from, after the copy was taken
        self._left = left
        self._db = db
        self._runtime = runtime
        self._payouts = payouts
        self._custodians = custodians
        self._state_file = state_file
        self._operator = operator

    async def run(self, until: int) -> Adopted:
        """Adopt the database. `until`: when the last mark that may be missing was set, by wall clock.

        May be run again after it was interrupted, and on a database that is not frozen: a snapshot
        of a whole machine brings the state file back as well. NotAdoptedError, StateFileError.
        """
        recorded = self._state_file.read()
        known = 0 if recorded is None else recorded.marks
        base, window = await self._db.run(self._begin, known, until)
        counts = {"executions": 0, "without_execution": 0, "attention": 0}
        while True:
            for name, page in (("executions", self._add_calls), ("without_execution", self._open)):
                while True:
                    done, noted = await self._db.run(page, base)
                    counts[name] += done
                    counts["attention"] += noted
                    if done < _AT_ONCE:
                        break
            marks = (await self._db.read(state.state_row))["marks"]
            # While the database is still frozen: from the moment it is not, both agree.
            self._state_file.rewrite(marks)
            finished = await self._db.run(self._finish, base, marks, window, counts)
            if finished is not None:
                return finished

    async def _begin(self, tx: Tx, known: int, until: int) -> tuple[int, Window]:
        """Store function: freeze the database, and count on from above every mark that is known of."""
        now = self._runtime.clock.moment().wall
        row = await state.state_row(tx)
        self._left |= await _left_by_rules(tx)
        call = await rows.last_call(tx)
        created = await rows.newest_creation(tx)
        since = created if call is None else int(call["wall"])
        if until > now:
            raise NotAdoptedError("the time of the last mark lies in the future")
        newest = max(since or 0, created or 0)
        if until < newest:
            raise NotAdoptedError(
                f"the database itself was in use at {format_time(from_us(newest))}, when the newest thing in "
                "it was created: --last-mark-at is when the lost database was last in use, and not before"
            )
        await state.freeze(tx, self._runtime.ids, now, "it is being adopted", self._operator)
        base = max(int(row["marks"]), known) + 1
        await state.set_marks(tx, base)
        return base, Window(int(row["marks"]), since, until)

    async def _add_calls(self, tx: Tx, base: int) -> tuple[int, int]:
        """Store function: some open executions; return how many, and how many need an operator."""
        found = await rows.untouched_executions(tx, base, _AT_ONCE)
        at, due = self._runtime.clock.moment(), self._runtime.timeline.now()
        marks = int((await state.state_row(tx))["marks"])
        lives = await rows.longest_lives(tx)
        calls = [
            self._call(
                row["id"],
                row["custodian"],
                row["rows"] + 1,
                marks + offset,
                at,
                _CONFIGURED if self._finds_lost_calls(row["custodian"]) else NO_ACCOUNT,
                lives,
            )
            for offset, row in enumerate(found, 1)
        ]
        await rows.add_unknown_calls(tx, [dict(row) for row in found], calls, due)
        await state.set_marks(tx, marks + len(found))
        noted = 0
        for row in found:
            payout_ids = await rows.payouts_of(tx, row["id"])
            await self._tell(tx, payout_ids)
            if not self._finds_lost_calls(row["custodian"]):
                for payout_id in payout_ids:
                    await self._note(tx, payout_id, at)
                    noted += 1
        return len(found), noted

    async def _open(self, tx: Tx, base: int) -> tuple[int, int]:
        """Store function: some payouts that wait in a batch; each gets an execution of its own."""
        del base
        found = await rows.payouts_without_execution(tx, _AT_ONCE)
        at, due = self._runtime.clock.moment(), self._runtime.timeline.now()
        marks = int((await state.state_row(tx))["marks"])
        lives = await rows.longest_lives(tx)
        for offset, row in enumerate(found, 1):
            if row["sequence"] == 0:
                # Of a batch that was not executed in this copy: it may have been since.
                await self._payouts.announce(tx, [(row, terms_of(row["terms"]))])
            execution_id = self._runtime.ids.new("exe")
            call = self._call(
                execution_id, row["custodian"], 1, marks + offset, at, NO_ACCOUNT, lives
            )
            await rows.open_unknown(tx, execution_id, row, call, at, due)
            await self._tell(tx, [row["id"]])
            await self._note(tx, row["id"], at)
        await state.set_marks(tx, marks + len(found))
        return len(found), len(found)

    async def _finish(
        self, tx: Tx, base: int, marks: int, window: Window, counts: Mapping[str, int]
    ) -> Adopted | None:
        """Store function: end quotes and batches, let marks be set. None: there is more to do before."""
        if (
            (await state.state_row(tx))["marks"] != marks
            or await rows.untouched_executions(tx, base, 1)
            or await rows.payouts_without_execution(tx, 1)
        ):
            return None
        moment = self._runtime.clock.moment()
        now = moment.wall
        # What left the accounts after the copy was made is reserved nowhere.
        await distrust_balances(tx, moment.clock_id, moment.elapsed)
        adopted = Adopted(
            window=window,
            marks=marks,
            executions=counts["executions"],
            without_execution=counts["without_execution"],
            attention=counts["attention"],
            quotes=await rows.void_quotes(tx),
            batches=await rows.stop_handing_over(tx, now),
        )
        await state.set_accepting(tx, accepting=False)
        await state.note_witnessed(tx)
        await state.unfreeze(tx)
        await self._audit(tx, ADOPTED, to_json(adopted.as_json()))
        return adopted

    def _finds_lost_calls(self, custodian: str) -> bool:
        """Whether looks of a custodian instance find a call that this copy does not know of."""
        instance = self._custodians.get(custodian)
        if custodian in self._left:
            # Another custodian may have paid it: that this one does not know it proves nothing.
            return False
        return instance is not None and instance.capabilities.finds_lost_calls

    def _call(  # noqa: PLR0913 - what tells the calls apart
        self,
        execution_id: str,
        custodian: str,
        number: int,
        mark: int,
        at: Moment,
        account: str,
        lives: Mapping[str, int],
    ) -> Mapping[str, object]:
        """Return a row of evidence: a call made now, of which nothing is known.

        It lives as long as the adapter declares, or as any call of this custodian so far (`lives`): an
        adapter may set how long each call lives, such as until the end of its session.
        """
        instance = self._custodians.get(custodian)
        can = None if instance is None else instance.capabilities
        life = None if can is None else _us(can.call_life_s)
        call = lost_call(
            number,
            mark,
            at,
            account=account,
            call_life=None if life is None else max(life, lives.get(custodian, 0)),
            visibility=0 if can is None else _us(can.visibility_s) or 0,
            absence_looks=1 if can is None else can.absence_looks,
        )
        detail = "the database was adopted: a call that it does not know may have been made"
        return columns_of(execution_id, call, detail)

    async def _tell(self, tx: Tx, payout_ids: Sequence[str]) -> None:
        """Tell payouts that their outcome is unknown; what is on its way, or has ended, stays that."""
        for payout_id in payout_ids:
            payout = await payout_rows.find_payout(tx, payout_id)
            if payout is not None and payout.status is Status.PENDING:
                await self._payouts.apply(tx, payout_id, unknown_report(_REASON))

    async def _note(self, tx: Tx, payout_id: str, at: Moment) -> None:
        await payout_rows.add_attention(tx, payout_id, Attention.ADOPTED, ADOPTED_BLIND, at.wall)

    async def _audit(self, tx: Tx, act: str, detail: str) -> None:
        await add_audit(
            tx,
            self._runtime.ids,
            self._runtime.clock.moment().wall,
            actor=self._operator,
            act=act,
            subject=state.DATABASE,
            detail=detail,
        )


async def _left_by_rules(tx: Tx) -> frozenset[str]:
    """Return the instances that payouts may have gone on from, by the rules that were active in the copy.

    The lost gateways went by them, whatever is configured now.
    """
    active = await active_rules(tx)
    routes = [] if active is None else json.loads(active["document"]).get("routes", [])
    usual = FailoverPolicy.NEVER.value
    return frozenset(each["custodian"] for each in routes if each.get("failover", usual) != usual)


def _us(seconds: float | None) -> int | None:
    """Return microseconds; None, which means without end, stays None."""
    return None if seconds is None else round(seconds * _US)


async def accept_again(tx: Tx, runtime: Runtime, operator: str, *, checked: bool) -> list[str]:
    """Store function: let new quotes, payouts and batches in again after an adoption.

    Return the references that custodians reported and that belong to no payout. If there are any, new
    work is accepted only if the operator has `checked` them. NotAdoptedError while the database is frozen.
    """
    reason = await state.frozen(tx)
    if reason is not None:
        raise NotAdoptedError(
            f"the database is frozen ({reason}): adopt it first, with --last-mark-at"
        )
    found = await state.unmatched(tx)
    if found and not checked:
        return found
    now = runtime.clock.moment().wall
    await state.note_checked(tx, runtime.ids, now, operator)
    await state.set_accepting(tx, accepting=True)
    await add_audit(
        tx,
        runtime.ids,
        now,
        actor=operator,
        act=ACCEPTING,
        subject=state.DATABASE,
        detail=f"{len(found)} references without a payout",
    )
    return found


async def move(db: Database, runtime: Runtime, state_file: StateFile, operator: str) -> str | None:
    """Go on with a database whose file was moved, or whose state file was away for a while.

    Return why not and what to do, or None. Nothing is missing from such a database: its state file is there, knows
    no newer mark, and does not say that the database was restored.
    """
    recorded = state_file.read()
    if recorded is None:
        return (
            f"there is no state file {state_file.path}: put it back, and try again; "
            f"if it is lost: {ADOPT}"
        )
    if recorded.frozen is not None:
        return f"{recorded.frozen}. Next: {ADOPT}"
    row = await db.read(state.state_row)
    if row["frozen"] is None:
        return "the database is not frozen"
    if row["frozen"] not in {MOVED_FILE, MISSING}:
        return f"{row['frozen']}. Next: {ADOPT}"
    if row["marks"] < recorded.marks:
        missing = behind(row["marks"], recorded.marks, "the state file has")
        return f"{missing}. Next: {ADOPT}"
    state_file.rewrite(row["marks"])
    await db.run(_moved, runtime, operator)
    return None


async def _moved(tx: Tx, runtime: Runtime, operator: str) -> None:
    await state.unfreeze(tx)
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=operator,
        act=MOVED,
        subject=state.DATABASE,
        detail="the operator says that no other copy of it is in use",
    )


async def go_on_promoted(
    db: Database, runtime: Runtime, operator: str, *, accept_async: bool
) -> str | None:
    """Go on with a standby that was promoted, on an operator's word that the old primary is stopped.

    Return why not and what to do, or None. `accept_async`: also where marks may be missing.
    """
    return await db.run(_go_on_promoted, runtime, operator, accept_async=accept_async)


async def _go_on_promoted(
    tx: Tx, runtime: Runtime, operator: str, *, accept_async: bool
) -> str | None:
    reason = await state.frozen(tx)
    if reason is None:
        return "the database is not frozen"
    if reason != PROMOTED and not reason.startswith(OTHER_TIMELINE):
        return f"{reason}. Next: {next_step(reason)}"
    known, here = await failover.look(tx)
    complete = known is not None and failover.may_be_complete(known, here, None)
    if not complete and not accept_async:
        standbys = "" if known is None else known.standbys
        return (
            f"the old primary did not wait for this server with every commit: its synchronous_standby_names "
            f"was {standbys!r}, and the cluster_name of this server is {here.name!r}. Marks may be missing, "
            f"and their payouts would be paid twice. Next: {ADOPT}; or take that risk: --accept-async"
        )
    detail = (
        "the operator says that the old primary is stopped"
        if complete
        else "the operator takes the risk that marks are missing"
    )
    await failover.go_on(tx, runtime.ids, runtime.clock.moment().wall, here, operator, detail)
    return None
