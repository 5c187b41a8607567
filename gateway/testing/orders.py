"""An order for adapter tests, which remembers as the store does: through JSON, per execution."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gateway.adapter import (
    Account,
    CustodianAccountDestination,
    Destination,
    LeaseLost,
    NotSent,
    Ref,
)
from gateway.execution.order import expect_refs_sound


def step_key(seed: str, step: str) -> str:
    """Return a key as the engine makes it: UUIDv4-shaped, stable per seed and step."""
    digest = bytearray(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))


class Elapsed:
    """Elapsed time, which only goes forward and is no wall clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.clock_id = "clock-1"
        self._firsts: dict[str, float] = {}

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    def reboot(self) -> None:
        """Start a new clock, as after a boot or on another machine: old stamps count from zero."""
        self.clock_id += "'"
        self._firsts.clear()

    def stamp(self) -> str:
        """Return this moment."""
        return f"{self.now_s} {self.clock_id}"

    def passed_s(self, stamp: str) -> float:
        """Return how much time has certainly passed since a stamp."""
        at, clock_id = stamp.split(" ", 1)
        if clock_id == self.clock_id:
            return self.now_s - float(at)
        return self.now_s - self._firsts.setdefault(stamp, self.now_s)


#: The elapsed time of orders that were given none. Only differences matter, so tests can share it.
ELAPSED = Elapsed()


@dataclass(frozen=True)
class Mark:
    """A moving mark as an adapter asked for it."""

    reference: str | None = None
    call_life_s: float | None = None


@dataclass
class _Terms:
    amount: Decimal = Decimal("43.5")
    destination: Destination = field(
        default_factory=lambda: CustodianAccountDestination(account_type="ACCOUNT", id="SHOP")
    )
    source: Account = field(default_factory=lambda: Account(id="MAIN", type="ACCOUNT"))
    asset: str = "USDC"
    network: str | None = "Ethereum"
    decimals: int = 6
    payout_id: str = "pay_01hzz0000000000000000000001"
    reference: str | None = None


@dataclass
class ItemForTest(_Terms):
    """One payout of a set."""

    @property
    def key(self) -> str:
        """The key of its own."""
        return step_key(f"{self.payout_id}/1", "instruction")


@dataclass
class OrderForTest(_Terms):
    """One execution, of one payout or many. `again()` is what a later call of a verb is handed.

    It judges marks as the gateway's gate does, from what the test says: whether the adapter vouched
    for what was sent before (`own_word`), and whether that is proven closed (`closed`).
    """

    attempt: int = 1
    set_id: str = "exe_01hzz0000000000000000000001"
    #: The payouts of a set; none: the order's own.
    payouts: Sequence[ItemForTest] = ()
    time: Elapsed = field(default_factory=lambda: ELAPSED)
    moved: bool = False
    moved_now: bool = False
    #: Whether it is proven that nothing sent before can pay.
    closed: bool = False
    #: The lease passes to another worker at this very moment: remembering, or moving.
    lose_lease_at: str | None = None
    #: The gate refuses marks from this one on, counted from 0.
    refuse_from: int | None = None
    #: Called with `remember` or `moving` when it is about to happen.
    watch: Callable[[str], None] = lambda _: None
    #: What happened, in order: `remember <names>`, `moving`, `moving again` (the same request).
    story: list[str] = field(default_factory=list)
    #: Every mark of the execution.
    marks: list[Mark] = field(default_factory=list)
    #: Ids that the adapter expects the custodian to report back.
    expected: list[Ref] = field(default_factory=list)
    #: The wall clock, to date the first mark by.
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    #: When the first mark was set, by the wall clock.
    marked_at: datetime | None = None
    #: References of calls that may have arrived.
    unknown: list[str | None] = field(default_factory=list)
    _notes: dict[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> Sequence[ItemForTest]:
        """Every payout of it."""
        if self.payouts:
            return self.payouts
        return [
            ItemForTest(
                amount=self.amount,
                destination=self.destination,
                source=self.source,
                asset=self.asset,
                network=self.network,
                decimals=self.decimals,
                payout_id=self.payout_id,
                reference=self.reference,
            )
        ]

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was remembered."""
        return self._notes

    def key(self, step: str) -> str:
        """Return the key of one POST."""
        return step_key(f"{self.payout_id}/{self.attempt}", step)

    def stamp(self) -> str:
        """Return this moment."""
        return self.time.stamp()

    def passed_s(self, stamp: str) -> float:
        """Return how many seconds have certainly passed since a stamp."""
        return self.time.passed_s(stamp)

    async def remember(self, **notes: Any) -> None:
        """Add notes; only JSON survives."""
        self.watch("remember")
        if self.lose_lease_at == "remember":
            raise LeaseLost(self.payout_id)
        self._notes = json.loads(json.dumps({**self._notes, **notes}))
        self.story.append("remember " + " ".join(sorted(notes)))

    async def expect(self, *refs: Ref, payout_id: str | None = None) -> None:
        """Note ids that the custodian will report back."""
        self.watch("expect")
        if self.lose_lease_at == "expect":
            raise LeaseLost(self.payout_id)
        expect_refs_sound(refs)
        owners = {each.payout_id for each in self.items}
        assert payout_id in owners or (payout_id is None and len(owners) == 1), (
            f"expect(payout_id={payout_id!r}) names none of the {len(owners)} payouts of the set"
        )
        self.expected.extend(each for each in refs if each not in self.expected)
        self.story.append("expect " + " ".join(f"{each.kind}:{each.value}" for each in refs))

    async def moving(
        self,
        *,
        reference: str | None = None,
        call_life_s: float | None = None,
        same_request: bool = False,
    ) -> None:
        """Set the mark, or refuse it."""
        self.watch("moving")
        if self.lose_lease_at == "moving":
            raise LeaseLost(self.payout_id)
        asked = sum(each.startswith("moving") for each in self.story)
        if self.refuse_from is not None and asked >= self.refuse_from:
            raise NotSent("the gateway made no call (refused)")
        if same_request:
            # One signed request is one call, however often it is sent.
            assert self.moved_now, "the same request as which one?"
            self.story.append("moving again")
            return
        if not self.closed and any(each != reference for each in self.unknown):
            raise NotSent("the gateway made no call (not_closed)")
        self.story.append("moving")
        self.marks.append(Mark(reference, call_life_s))
        self.marked_at = self.marked_at or self.now()
        self.unknown.append(reference)
        self.moved_now = True

    def again(self, *, own_word: bool = False, closed: bool = False) -> OrderForTest:
        """Return the order as the next call of a verb sees it, perhaps in another process.

        `own_word`: the last call did nothing, as the adapter said (NotSent, WrongAnswer). `closed`:
        it is proven that nothing sent before can pay.
        """
        unknown = list(self.unknown)
        if own_word and self.moved_now:
            unknown.pop()
        return replace(
            self,
            moved=bool(unknown) or (self.moved and not self.unknown),
            moved_now=False,
            closed=closed,
            lose_lease_at=None,
            refuse_from=None,
            story=[],
            marks=list(self.marks),
            expected=list(self.expected),
            unknown=unknown,
            _notes=json.loads(json.dumps(self._notes)),
        )
