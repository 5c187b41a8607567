"""The order that an adapter receives: an execution with its payouts, its durable notes and its moving mark."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol

from uuid_utils import UUID

from gateway.adapter import Capabilities, Ref
from gateway.assets import AssetRegistry
from gateway.errors import (
    AdapterFault,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    WitnessFailed,
    kind_of,
)
from gateway.execution.decide import microseconds
from gateway.execution.expected import expect_refs
from gateway.execution.gate import MarkRefused, Refusal
from gateway.execution.mark import Terms, set_mark
from gateway.execution.proof import Evidence, Kind, open_calls, waited
from gateway.execution.state import Job
from gateway.model import Account, Attention, Destination, Payout
from gateway.runtime import Failpoint, Moment, Runtime
from gateway.store import evidence as stored
from gateway.store import executions
from gateway.store.database import Database


@lru_cache(maxsize=1024)
def step_key(seed: str, step: str) -> str:
    """Return the key of one POST: UUIDv4-shaped, stable per execution (its seed) and step."""
    digest = bytearray(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(digest)))


def _expect_json(name: str, value: object) -> None:
    """Raise AdapterFault if a note is not JSON, because it would be read back as something else."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        same = None
    plain = list(value) if isinstance(value, tuple) else value
    if same != plain:
        raise AdapterFault(
            f"remember({name}=…) is given {kind_of(value)}, which is not JSON; remember texts, "
            "whole numbers, lists and dicts of texts, an amount as format_amount(…)"
        )


def expect_refs_sound(refs: Iterable[object]) -> None:
    """Raise AdapterFault if an expected id is not a Ref of two texts, because no webhook would match it."""
    for each in refs:
        if not isinstance(each, Ref):
            raise AdapterFault(f"expect(…) is given {kind_of(each)}; give Ref(kind, value)")
        for name, text in (("kind", each.kind), ("value", each.value)):
            if not isinstance(text, str):
                raise AdapterFault(f"expect(Ref): its {name} is {kind_of(text)}; give str")
            if not text:
                raise AdapterFault(
                    f"expect(Ref): its {name} is empty; give the id that webhooks name"
                )


class Witness(Protocol):
    """Remembers the newest committed mark outside the database."""

    failing: str | None  #: why it cannot be written now

    def behind(self, marks: int) -> str | None:
        """Return why a database with so many marks is an older copy, or None."""


class LiveTerms:
    """The amount, payee and source of a payout."""

    def __init__(self, payout: Payout, assets: AssetRegistry) -> None:
        self._payout = payout
        self._assets = assets

    @property
    def payout_id(self) -> str:
        """The gateway's id of the payout."""
        return self._payout.id

    @property
    def asset(self) -> str:
        """The asset code."""
        return self._payout.terms.recipient_asset

    @property
    def network(self) -> str | None:
        """The network on which the recipient is paid."""
        return self._payout.terms.route.to_network

    @property
    def decimals(self) -> int:
        """The decimals of the asset on that network."""
        return self._assets.find(self.asset).decimals_on(self.network)

    @property
    def amount(self) -> Decimal:
        """What the custodian is asked to transfer."""
        return self._payout.terms.recipient_gets

    @property
    def source(self) -> Account:
        """The account that pays."""
        return self._payout.account

    @property
    def destination(self) -> Destination:
        """Who is paid."""
        return self._payout.terms.destination

    @property
    def reference(self) -> str | None:
        """The partner's own reference."""
        return self._payout.reference


class LiveItem(LiveTerms):
    """One payout of an execution."""

    @property
    def key(self) -> str:
        """A key of its own within the set."""
        return step_key(f"{self._payout.id}/1", "instruction")


class LiveOrder(LiveTerms):
    """An execution backed by the store, for one payout or many. Each call of a verb gets its own object.

    The members of a payout are those of its first item.
    """

    def __init__(  # noqa: PLR0913 - built in one place
        self,
        *,
        db: Database,
        runtime: Runtime,
        job: Job,
        lease_s: float,
        assets: AssetRegistry,
        capabilities: Capabilities,
        fingerprint: str,
        before_mark: Callable[[], Awaitable[None]],
        witness: Witness | None = None,
        rules: str | None = None,
    ) -> None:
        self._witness = witness
        self._rules = rules
        super().__init__(job.items[0], assets)
        self._db = db
        self._runtime = runtime
        self._job = job
        self._lease = microseconds(lease_s) or 0
        self._items = [LiveItem(each, assets) for each in job.items]
        self._can = capabilities
        self._before_mark = before_mark
        self._notes = dict(job.notes)
        self._history = job.history
        self.fingerprint = fingerprint
        #: the row of the newest mark that was set through this object
        self.call: int | None = None

    @property
    def set_id(self) -> str:
        """The gateway's id of the execution."""
        return self._job.lease.execution_id

    @property
    def attempt(self) -> int:
        """The number of the execution among those of its payout, from 1."""
        return self._job.number

    @property
    def items(self) -> Sequence[LiveItem]:
        """Every payout of the execution, always in the same order."""
        return self._items

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was remembered for this execution."""
        return self._notes

    @property
    def moved(self) -> bool:
        """Whether a call made before this call of the verb may have arrived."""
        return bool(open_calls(self._job.history))

    @property
    def moved_now(self) -> bool:
        """Whether a moving mark was set through this very object."""
        return self.call is not None

    @property
    def seen(self) -> int:
        """The newest row of evidence that this process has read."""
        return self._history.last_number

    def key(self, step: str) -> str:
        """Return the key of one POST."""
        return step_key(self._job.key_seed, step)

    def stamp(self) -> str:
        """Return this moment as a note."""
        now = self._runtime.clock.moment()
        return f"{self.seen} {now.elapsed} {now.clock_id}"

    def passed_s(self, stamp: str) -> float:
        """Return how many seconds have certainly passed since a stamp."""
        number, elapsed, clock_id = stamp.split(" ", 2)
        stamped = Evidence(
            number=int(number),
            kind=Kind.CALL,
            seen=int(number),
            at=Moment(clock_id, int(elapsed), 0),
        )
        # Count only rows that were written under a lease: a webhook's row may be older than the stamp.
        done = [each for each in self._history.rows if each.kind in {Kind.CALL, Kind.LOOK}]
        history = replace(self._history, rows=tuple(done))
        return waited(history, stamped, self._runtime.clock.moment()) / 1e6

    async def remember(self, **notes: Any) -> None:
        """Add durable notes; they are committed when this returns. Raises LeaseLost."""
        for name, value in notes.items():
            _expect_json(name, value)
        self._runtime.failpoint(Failpoint.REMEMBERING)
        lease = self._job.lease
        merged = await self._db.run(executions.add_notes, lease.execution_id, lease.token, notes)
        if merged is None:
            raise LeaseLost(lease.execution_id)
        self._notes = merged
        self._runtime.failpoint(Failpoint.REMEMBERED)

    async def expect(self, *refs: Ref, payout_id: str | None = None) -> None:
        """Register ids that the custodian will report back; they are committed when this returns.

        Raises LeaseLost, or NotSent (OutcomeUnknown after a mark of this verb) if an id is another
        payout's.
        """
        expect_refs_sound(refs)
        items = [each.payout_id for each in self._items]
        owner = payout_id or (items[0] if len(items) == 1 else None)
        if owner not in items:
            raise AdapterFault(
                f"expect(payout_id={payout_id!r}) names none of the {len(items)} payouts of the set; "
                "give payout_id=item.payout_id"
            )
        lease, pairs = self._job.lease, [(each.kind, each.value) for each in refs]
        done = await self._db.run(
            expect_refs,
            lease.execution_id,
            lease.token,
            str(owner),
            self._job.custodian,
            pairs,
            self._runtime.clock.moment().wall,
        )
        if done is None:
            raise LeaseLost(lease.execution_id)
        if done:
            message = f"not sent: {done}"
            if self.call is not None:
                raise OutcomeUnknown(message)
            raise NotSent(message, alert=Attention.FOREIGN_REF)

    async def moving(
        self,
        *,
        reference: str | None = None,
        call_life_s: float | None = None,
        same_request: bool = False,
    ) -> None:
        """Set the durable moving mark. Raises LeaseLost, NotSent or OutcomeUnknown: make no call then.

        OutcomeUnknown means that an earlier call of this verb was made, and the mark for the next one
        was refused.
        """
        before = self.call
        try:
            await self._mark(reference, call_life_s, same_request=same_request)
        except NotSent as error:
            if before is None or self.call != before:
                raise
            # "Not sent" would be recorded as the answer to the previous call, which was sent.
            raise OutcomeUnknown(f"not repeated: {error}") from error

    async def _mark(
        self, reference: str | None, call_life_s: float | None, *, same_request: bool
    ) -> None:
        await self._before_mark()
        self._runtime.failpoint(Failpoint.MOVING)
        lease, can = self._job.lease, self._can
        life = can.call_life_s if call_life_s is None else call_life_s
        wanted = Evidence(
            number=0,
            kind=Kind.CALL,
            seen=0,
            # The credentials exist already, so they expire `call_life` after this moment at the latest.
            at=self._runtime.clock.moment(),
            fingerprint=self.fingerprint,
            reference=reference,
            call_life=microseconds(life),
            visibility=microseconds(can.visibility_s) or 0,
            absence_looks=can.absence_looks,
            key_life=microseconds(can.keys.life_s),
            one_key=can.keys.failure_is_final,
        )
        witnessed: dict[str, Any] = {}
        if self._witness is not None:
            witnessed = {"behind": self._witness.behind, "state_file": self._witness.failing}
        terms = Terms(
            until=self._runtime.timeline.now() + self._lease,
            repeat_is_safe=can.keys.repeat_is_safe,
            keys_shared=can.keys.shared_by_credentials,
            same_call=self.call if same_request else None,
            rules=self._rules,
            **witnessed,
        )
        try:
            marked = await self._db.run(set_mark, lease.execution_id, lease.token, wanted, terms)
        except WitnessFailed as error:
            # The mark is committed and its call is never made, so the gateway itself knows that nothing
            # was sent.
            self.call = await self._db.read(stored.call_of_mark, self.set_id, error.mark)
            raise NotSent(str(error), alert=Attention.STATE_FILE) from None
        if marked is Refusal.LEASE_LOST:
            raise LeaseLost(lease.execution_id)
        if isinstance(marked, Refusal):
            raise MarkRefused(marked)
        self._history = self._history.having(marked)
        self.call = marked.number
        self._runtime.failpoint(Failpoint.MOVED)
