"""What holds after chaos: the database, the custodian's ledger and what the receiver got, compared.

Each check has the number of its invariant and the count that it was made on; any difference is an
AssertionError.

- I1 every acknowledged payout is there, and has ended once
- I2 each has one transfer at most, of its amount, and none is of anybody else
- I3 a request that was sent again got the same answer, another one under its key none (counted on the way)
- I4 what is reserved is the sum of the rows (looked at on the way), and what was paid has left the account
- I5 each transfer has the row of a call that was marked before, under a number of its own
- I6 no payout has a second reference at the custodian
- I7 states follow the graph, and nothing follows a final one
- I8 there is one event for each change that is told
- I9 each event has its delivery, and each delivery its receipt
- I10 attempts are numbered without a gap, and repeat the same body under the same id
- I11 each delivery verifies, and was signed at most 300 s before it came, by the sender's own clock
- I12 rows of evidence are numbered without a gap: no worker wrote past another one's lease
- I13 no forged webhook was accepted, and none waits
- I14 nothing is left open after the faults
- I15 no redirect was followed
- I16 no secret is in the log
- I17 and I18 are the run itself: two processes of each role, one of them an hour ahead
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.e2e.stack import eventually

if TYPE_CHECKING:
    from tests.chaos import Chaos

_TOLD = {
    "delivered": ["payout.created", "payout.broadcast", "payout.delivered"],
    "failed": ["payout.created", "payout.failed"],
}
_STATUSES = {"delivered": ["pending", "broadcast", "delivered"], "failed": ["pending", "failed"]}
_PATIENCE_S = 120
#: How far apart a signature's time and the receiver's clock may be, and how far ahead one sender is.
_AGE_S, _AHEAD_S = 300, 3600
#: What the twin's account begins with.
_SEEDED = Decimal(1_000_000)


async def settle(chaos: Chaos) -> float:
    """Stop the faults; return how many seconds it takes until nothing is left to be done (I14)."""
    made, begin = chaos.made, time.monotonic()
    made.receiver.answer = 204
    made.receiver.headers.clear()
    await made.steer("DELETE", "faults")

    async def none_of(query: str) -> bool:
        await chaos.replace_the_dead()
        found = await asyncio.to_thread(made.rows, query)
        await asyncio.sleep(0.2)
        return not found

    async def all_told() -> bool:
        await chaos.replace_the_dead()
        told: dict[str, set[str]] = {}
        for each in list(made.receiver.received):
            told.setdefault(each["data"]["id"], set()).add(each["type"])
        return all(
            told.get(payout_id, set()) >= set(_TOLD[end])
            for payout_id, end in chaos.payouts.items()
        )

    async def ends(look: Any, what: str) -> None:
        try:
            await eventually(look, _PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{what}: {await _left_over(chaos)}") from error

    open_payouts = "SELECT 1 FROM payouts WHERE status NOT IN ('delivered', 'failed') LIMIT 1"
    await ends(lambda: none_of(open_payouts), "payouts are open")
    await ends(all_told, "events were not received")
    # A sender that was killed after the receiver's answer: it is sent once more.
    pending = "SELECT 1 FROM deliveries WHERE state <> 'delivered' LIMIT 1"
    await ends(lambda: none_of(pending), "deliveries are open")
    await ends(lambda: none_of("SELECT 1 FROM inbox WHERE state = 'new' LIMIT 1"), "webhooks wait")
    return time.monotonic() - begin


async def _left_over(chaos: Chaos) -> str:
    """Say what is open, for whoever looks for the cause."""
    rows = chaos.made.rows
    return json.dumps(
        {
            "payouts": rows(
                "SELECT id, status, sub_status FROM payouts "
                "WHERE status NOT IN ('delivered', 'failed') LIMIT 5"
            ),
            "executions": rows("SELECT * FROM executions WHERE ended_at IS NULL LIMIT 5"),
            "deliveries": rows("SELECT * FROM deliveries WHERE state <> 'delivered' LIMIT 5"),
            "endpoints": rows("SELECT id, status, disabled_reason, failing_since FROM endpoints"),
            "log": (chaos.made.folder / "gateway.log").read_text(errors="replace")[-4000:],
        },
        default=str,
        indent=1,
    )


async def compare(chaos: Chaos) -> None:
    """Wait until all is settled, then compare rows, ledger and what was received."""
    chaos.counts["I14 s until nothing was left open after the faults"] = round(await settle(chaos))
    found = _Found(chaos, await chaos.made.ledger())
    found.payouts_and_transfers()
    found.calls()
    found.events()
    found.deliveries()
    found.nothing_is_left()
    await found.balances()
    await found.webhooks()
    found.no_secrets()


class _Found:
    """What was found at the end, read once."""

    def __init__(self, chaos: Chaos, ledger: list[dict[str, Any]]) -> None:
        self.chaos = chaos
        self.made = chaos.made
        self.counts = chaos.counts
        self.ledger = ledger
        rows = self.made.rows("SELECT id, status, sub_status, terms, document FROM payouts")
        self.payouts = {row["id"]: row for row in rows}

    def payouts_and_transfers(self) -> None:
        """I1, I2, I6, I7."""
        assert self.payouts.keys() == self.chaos.payouts.keys()
        ends = {row["id"]: row["status"] for row in self.payouts.values()}
        assert ends == self.chaos.payouts
        self.counts["I1 payouts acknowledged, there, and ended"] = len(ends)
        paid = Counter(each["reference"] for each in self.ledger)
        doubles = {reference: n for reference, n in paid.items() if n > 1}
        assert not doubles, doubles
        keys = self.made.rows("SELECT value, payout_id FROM refs WHERE kind = 'key'")
        payout_of = {row["value"]: row["payout_id"] for row in keys}
        assert len(set(payout_of.values())) == len(keys) == len(ends), (len(keys), len(ends))
        self.counts["I6 references at the custodian, one for each payout"] = len(keys)
        amounts = {payout_of[each["reference"]]: each["amount"] for each in self.ledger}
        wanted = {
            each: json.loads(self.payouts[each]["terms"])["amount"]
            for each, end in ends.items()
            if end == "delivered"
        }
        assert amounts == wanted
        self.counts["I2 transfers in the ledger, one for each delivered payout"] = len(self.ledger)
        for row in self.payouts.values():
            timeline = [each["status"] for each in json.loads(row["document"])["timeline"]]
            changes = [
                now for now, last in zip(timeline, [None, *timeline], strict=False) if now != last
            ]
            assert changes == _STATUSES[row["status"]], (row["id"], timeline)
        self.counts["I7 payouts whose states follow the graph"] = len(ends)

    def calls(self) -> None:
        """I5, I12."""
        marks = self.made.rows("SELECT execution_id, mark FROM evidence WHERE kind = 'call'")
        assert len({row["mark"] for row in marks}) == len(marks)
        (state,) = self.made.rows("SELECT marks, frozen FROM store_state")
        assert state["frozen"] is None
        assert state["marks"] >= max((row["mark"] for row in marks), default=0)
        marked = {row["execution_id"] for row in marks}
        items = self.made.rows("SELECT execution_id, payout_id FROM execution_items")
        called = {row["payout_id"] for row in items if row["execution_id"] in marked}
        assert called >= {each for each, end in self.chaos.payouts.items() if end == "delivered"}
        self.counts["I5 moving calls, each marked before under its own number"] = len(marks)
        gaps = self.made.rows(
            "SELECT e.id FROM executions e LEFT JOIN (SELECT execution_id, count(*) AS n, "
            "max(number) AS most FROM evidence GROUP BY execution_id) v ON v.execution_id = e.id "
            "WHERE e.rows <> coalesce(v.n, 0) OR e.rows <> coalesce(v.most, 0)"
        )
        assert not gaps, gaps
        (row,) = self.made.rows("SELECT count(*) AS n FROM evidence")
        self.counts["I12 rows of evidence, without a gap"] = row["n"]

    def events(self) -> None:
        """I8, I9: each told change is one event, numbered, and each event was received."""
        rows = self.made.rows("SELECT id, type, payout_id, sequence FROM events ORDER BY position")
        of: dict[str, list[tuple[int, str]]] = {}
        for row in rows:
            if row["payout_id"] is not None:
                of.setdefault(row["payout_id"], []).append((row["sequence"], row["type"]))
        assert of.keys() == self.payouts.keys()
        for payout_id, told in of.items():
            wanted = _TOLD[self.payouts[payout_id]["status"]]
            assert told == list(enumerate(wanted, 1)), (payout_id, told)
        self.counts["I8 events, one for each change, in order and without a gap"] = len(rows)
        received = self.made.receiver.received
        assert {row["id"] for row in rows} == {each["id"] for each in received}
        self.counts["I9 events received"] = len({each["id"] for each in received})

    def deliveries(self) -> None:
        """I9, I10, I11, I15."""
        missing = self.made.rows(
            "SELECT e.id FROM events e LEFT JOIN deliveries d ON d.position = e.position "
            "WHERE d.state IS NULL OR d.state <> 'delivered'"
        )
        assert not missing, missing
        gaps = self.made.rows(
            "SELECT d.position FROM deliveries d LEFT JOIN (SELECT position, endpoint_id, count(*) AS n, "
            "max(attempt) AS most FROM delivery_attempts GROUP BY position, endpoint_id) a "
            "ON a.position = d.position AND a.endpoint_id = d.endpoint_id "
            "WHERE d.attempts <> coalesce(a.n, 0) OR d.attempts <> coalesce(a.most, 0)"
        )
        assert not gaps, gaps
        received = self.made.receiver.received
        bodies: dict[str, set[bytes]] = {}
        for each in received:
            bodies.setdefault(each["id"], set()).add(each["body"])
        assert all(len(each) == 1 for each in bodies.values())
        self.counts["I10 deliveries received, the same bytes under the same id"] = len(received)
        assert self.made.receiver.unverified == 0
        odd = [
            each["age_s"]
            for each in received
            if abs(each["age_s"]) > _AGE_S and abs(each["age_s"] + _AHEAD_S) > _AGE_S
        ]
        assert not odd, odd
        self.counts["I11 deliveries verified, with the sender's time"] = len(received)
        assert self.chaos.tripped == 0
        self.counts["I15 requests to where a redirect pointed"] = self.chaos.tripped

    def nothing_is_left(self) -> None:
        """I14."""
        (left,) = self.made.rows(
            "SELECT (SELECT count(*) FROM executions WHERE ended_at IS NULL) AS executions, "
            "(SELECT count(*) FROM account_locks) AS locks, "
            "(SELECT count(*) FROM deliveries WHERE state <> 'delivered') AS deliveries, "
            "(SELECT count(*) FROM payouts WHERE quote_id IS NOT NULL) "
            "- (SELECT count(*) FROM quotes WHERE payout_id IS NOT NULL) AS quotes, "
            "(SELECT count(*) FROM batches WHERE state <> 'finalized') AS batches"
        )
        assert not any(left.values()), left

    async def balances(self) -> None:
        """I4: nothing is reserved any more, and what was delivered has left the account."""
        if not self.made.rows("SELECT 1 FROM fund_accounts WHERE reserving = 1"):
            return
        spent = sum((Decimal(each["amount"]) for each in self.ledger), Decimal(0))

        async def shown() -> bool:
            await asyncio.sleep(0.2)
            (row,) = self.made.rows("SELECT reserved, balances FROM fund_accounts")
            held = self.made.rows("SELECT 1 FROM reservations LIMIT 1")
            (balance,) = json.loads(row["balances"])
            left = Decimal(balance["available"])
            return row["reserved"] == "[]" and not held and left == _SEEDED - spent

        await eventually(shown, _PATIENCE_S)
        self.counts["I4 USDC that left the account, as the payouts say"] = int(spent)

    async def webhooks(self) -> None:
        """I13."""
        sent = (await self.made.steer("GET", "webhooks"))["deliveries"]
        forged = [each for each in sent if each["forged"]]
        for each in forged:
            assert all(tried["status"] != 200 for tried in each["attempts"]), each
        self.counts["I13 forged webhooks of the custodian, none accepted"] = len(forged)
        (row,) = self.made.rows("SELECT count(*) AS n FROM inbox")
        self.counts["I13 webhooks of the custodian, each applied once"] = row["n"]

    def no_secrets(self) -> None:
        """I16."""
        log = (self.made.folder / "gateway.log").read_text(errors="replace")
        for secret in (self.made.key, self.made.receiver.secret, *self.made.credentials.values()):
            assert secret not in log
        self.counts["I16 lines of the log, without a secret"] = log.count("\n")


def reserved_is_the_sum(chaos: Chaos) -> None:
    """I4, at any moment: what an account has reserved is the sum of its rows, in one snapshot."""
    rows = chaos.made.rows(
        "SELECT f.reserved, r.amount, r.fee, r.released, r.state FROM fund_accounts f "
        "LEFT JOIN reservations r ON r.account_key = f.id WHERE f.reserving = 1"
    )
    if not rows:
        return
    total = sum((Decimal(each[2]) for each in json.loads(rows[0]["reserved"])), Decimal(0))
    held = [row for row in rows if row["state"] == "held"]
    wanted = sum(
        (Decimal(row["amount"]) + Decimal(row["fee"]) - Decimal(row["released"]) for row in held),
        Decimal(0),
    )
    assert total == wanted, (total, wanted)
    assert total >= 0
    chaos.counts["I4 times that the reserved sum was that of the rows"] += 1
