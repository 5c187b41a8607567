"""The moving mark: one store function sets it, in one transaction, for every call that may move money."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.execution.gate import MarkRefused, Refusal, Request, gate, is_current
from gateway.execution.history import columns_of, history_of, others_of
from gateway.execution.proof import Answer, Evidence, closed
from gateway.model import Status
from gateway.store import evidence as stored
from gateway.store import executions as rows
from gateway.store.database import Tx
from gateway.store.marks import take_turn
from gateway.store.pauses import pause_of_execution


def _never_behind(_: int) -> str | None:
    return None


@dataclass(frozen=True)
class Terms:
    """The terms of a call beside its row of evidence."""

    until: int  #: the end of the lease, which the mark prolongs
    repeat_is_safe: bool  #: as the adapter declares
    keys_shared: bool = False  #: as the adapter declares
    #: why the database is behind the newest mark that this process has seen, if it is
    behind: Callable[[int], str | None] = _never_behind
    #: why the state file cannot be written, if it cannot
    state_file: str | None = None
    #: the call whose exact bytes and single-use credential are sent once more
    same_call: int | None = None
    #: the digest of this process's limits and routes; None if it has none
    rules: str | None = None


async def set_mark(
    tx: Tx, execution_id: str, token: int, call: Evidence, terms: Terms
) -> Evidence | Refusal:
    """Set the mark of a moving call, or return why not. There is no other way to obtain one.

    Everything that the permission depends on is read from the database in this transaction; nothing
    cached in memory counts. `call` brings its date, account, reference and lives; its numbers are given
    here.
    """
    found = await rows.markable(tx, execution_id)
    if found is None:
        return Refusal.LEASE_LOST
    row, statuses = found
    stored.reread(tx, None if row["earlier"] else [execution_id])
    others = await others_of(tx, execution_id, statuses, call.at) if row["earlier"] else ()
    history = await history_of(tx, row, call.at, asked=call.fingerprint)
    said = row["repeat_is_safe"]
    canceled = row["batch_cancel_at"] is not None and all(
        closed(history, each) for each in statuses
    )
    pause = await pause_of_execution(tx, row) if row["pauses"] else None
    behind = terms.behind(row["store_marks"])
    if behind is not None:
        # If this process has committed newer data on another connection meanwhile, this transaction
        # cannot write the row and runs again; then nothing is missing.
        await take_turn(tx)
    refusal = gate(
        Request(
            token_current=is_current(token, row["lease_token"], ended=row["ended_at"] is not None),
            frozen=row["store_frozen"] is not None or behind is not None,
            state_file=terms.state_file,
            gate_version=row["store_gate_version"],
            # Nothing that was sent can pay it. Its batch is about to take it back, so no call is
            # started.
            blocked=row["blocked"] or ("its batch is canceled" if canceled else None),
            history=history,
            items={item: Status(status) for item, status in statuses.items()},
            others=others,
            reference=call.reference,
            fingerprint=call.fingerprint,
            repeat_is_safe=terms.repeat_is_safe if said is None else bool(said),
            keys_shared=terms.keys_shared,
            same_call=terms.same_call,
            key_life=call.key_life,
            call_life=call.call_life,
            paused=None if pause is None else pause.id,
            awaits_funds=bool(row["awaits_funds"]),
            rules_active=terms.rules is None or row["rules_digest"] in {None, terms.rules},
        ),
        call.at,
    )
    if refusal is not None:
        return refusal
    if terms.same_call is not None:
        # A signed request is one call, however often it is sent, because its life ends with its
        # credential. From now on, an answer is about the second transmission; see `decide.sent_once`.
        sent = next(each for each in history.rows if each.number == terms.same_call)
        # The mark gets no new number, and still must not be committed after a pause that it has not
        # read.
        await take_turn(tx)
        await stored.set_answer(tx, execution_id, sent.number, Answer.UNKNOWN)
        return replace(sent, answer=Answer.UNKNOWN)
    number, mark = row["rows"] + 1, await rows.next_mark(tx)
    marked = replace(call, number=number, seen=number - 1, mark=mark)
    await stored.add_evidence(tx, [columns_of(execution_id, marked)])
    if not await rows.write_mark(tx, execution_id, token, number, terms.until):
        # This cannot happen, because the token was checked in this transaction. Writing nothing is
        # safe.
        raise MarkRefused(Refusal.LEASE_LOST)
    tx.mark(mark)
    return marked
