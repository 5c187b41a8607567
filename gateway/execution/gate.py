"""The gate: whether a moving mark may be set, and whether a payout may get another execution. Pure.

One store function (`gateway.execution.mark.set_mark`) reads everything that the gate asks, in the
transaction that writes the mark. There is no other way to obtain a mark, whether for a single payout, a
set or a person's answer. Each rule is one named predicate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import NotSent
from gateway.execution.proof import (
    NEVER_PROCESSED,
    Evidence,
    History,
    at_account,
    calls,
    closed,
    has_news,
    is_adopted,
    open_calls,
    operator_looked,
)
from gateway.model import GATE_VERSION, Attention, Status
from gateway.runtime import Moment


class Refusal(StrEnum):
    """Why a mark was refused."""

    LEASE_LOST = "lease_lost"  #: another worker owns the execution, or it has ended
    FROZEN = "database_frozen"  #: the database may be an old copy
    STATE_FILE = "state_file"  #: the state file beside the database cannot be written
    GATE_VERSION = "gate_version"  #: this program does not know every condition
    BLOCKED = "blocked"  #: a mismatch, a foreign reference, an adoption, a canceled batch
    RULES = "rules"  #: this gateway's limits and routes are not the active ones
    FUNDS = "awaiting_funds"  #: its account does not cover it yet
    PAUSED = "paused"  #: an operator, or the org itself, has paused it
    NEWS = "news"  #: our transfer was seen already
    NOT_PENDING = "not_pending"  #: an item has ended, or its money is on its way
    NOT_CLOSED = "not_closed"  #: an earlier call may still pay
    KEY_LIFE = "key_life"  #: the custodian may have forgotten the key of the first call


#: The alert for each refusal that does not pass by itself.
_ALERTS = {
    Refusal.GATE_VERSION: Attention.GATE_VERSION,
    Refusal.STATE_FILE: Attention.STATE_FILE,
    Refusal.KEY_LIFE: Attention.KEY_LIFE,
}


class MarkRefused(NotSent):
    """The gate refused the mark: the call was not made, and the custodian had no part in it."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(f"the gateway made no call ({refusal})", alert=_ALERTS.get(refusal))


@dataclass(frozen=True)
class Other:
    """Another execution that ever held one of the items, with the items that both have."""

    history: History
    items: tuple[str, ...]
    #: whether it is at another custodian, which the payout has left
    elsewhere: bool = False


@dataclass(frozen=True)
class Request:
    """A moving call that requests its mark, and everything the permission depends on."""

    token_current: bool  #: the fencing token is the newest, and the execution has not ended
    frozen: bool
    #: why the witness beside the database cannot be written, if it cannot
    state_file: str | None
    gate_version: int  #: the lowest version that may set marks, by the database
    #: a mismatch, a foreign reference, an adoption, or a canceled batch that nothing was sent for
    blocked: str | None
    history: History
    #: the status of every item of the fixed content, by id
    items: Mapping[str, Status]
    others: tuple[Other, ...] = ()
    reference: str | None = None  #: our reference that the call is made under
    fingerprint: str = ""  #: which account at the custodian the call is made at
    #: whether a repeat under the same reference, with the same content, cannot pay a second time
    repeat_is_safe: bool = False
    #: whether all credentials of the account share the same keys
    keys_shared: bool = False
    #: the call whose exact bytes this process sends again, with a single-use credential
    same_call: int | None = None
    key_life: int | None = None
    call_life: int | None = None
    #: whether it waits until its account covers it
    awaits_funds: bool = False
    #: the pause that holds one of the items, if one does
    paused: str | None = None
    #: whether this process uses the active limits and routes
    rules_active: bool = True


def is_current(token: int, newest: int, *, ended: bool) -> bool:
    """Whether a worker's fencing token still allows it to write: no other worker took over since.

    Every takeover raises the token. The end of a lease is no evidence: a worker may be suspended.
    Without this rule a suspended worker records what it knew before another one proved and marked.
    """
    return token == newest and not ended


def token_is_current(request: Request) -> bool:
    """Whether the asking worker still owns the execution; see `is_current`."""
    return request.token_current


def store_is_current(request: Request) -> bool:
    """Whether the database is not known to be an old copy.

    Without this rule a restored copy pays again what was paid after it was taken.
    """
    return not request.frozen


def witness_works(request: Request) -> bool:
    """Whether the mark can be recorded outside the database.

    Without this rule an old copy is not recognised.
    """
    return request.state_file is None


def knows_the_gate(request: Request) -> bool:
    """Whether this program knows every condition that the database asks for.

    Without this rule an older release sets marks that a newer one would refuse.
    """
    return request.gate_version <= GATE_VERSION


def nothing_blocks(request: Request) -> bool:
    """Whether there is no mismatch, no foreign reference, no adoption and no canceled batch.

    Without this rule a payout that ended after a copy was taken is paid by the copy.
    """
    return request.blocked is None


def rules_are_active(request: Request) -> bool:
    """Whether this gateway uses the limits and routes that an operator has activated.

    Without this rule two gateways with different configurations pay by the laxer one.
    """
    return request.rules_active


def not_paused(request: Request) -> bool:
    """Whether none of the items is paused: first calls, repeats, sets and answers wait alike.

    It is read in the transaction of the mark. A call that is marked before the pause is committed may
    still be made, and no later one.
    Without this rule money moves after an emergency stop.
    """
    return request.paused is None


def is_funded(request: Request) -> bool:
    """Whether the account covers it, if it was accepted before the account did.

    Without this rule a payout that waits for funds uses those that others have reserved.
    """
    return not request.awaits_funds


def no_news(request: Request) -> bool:
    """Whether our own transfer was never seen. Once it was seen, this execution is never marked again.

    Without this rule a harmless repeat is made although the money is on its way.
    """
    return not has_news(request.history)


def items_are_pending(request: Request) -> bool:
    """Whether no item of the content has ended or is on its way.

    Without this rule an item that was ended as "not paid" is paid with its set.
    """
    return all(status == Status.PENDING for status in request.items.values())


def others_are_closed(request: Request) -> bool:
    """Whether every other execution that ever held one of the items is closed for it.

    Without this rule a payout is paid by its second execution, and then by its first.
    """
    return all(closed(other.history, item) for other in request.others for item in other.items)


def earlier_is_closed(request: Request) -> bool:
    """Whether nothing that this execution sent before can pay any of its items.

    It is recomputed from the rows, because a permission that was computed earlier may be out of date.
    Without this rule a worker is suspended with its permission, the key ends, and it pays again.
    """
    return all(closed(request.history, item) for item in request.items)


def repeat_is_harmless(request: Request) -> bool:
    """Whether this is the same request or key and content as everything that may have arrived.

    The account must be the same, because the same key means another payment at another account. So must
    the credentials, unless keys belong to the account: new credentials may have keys of their own.
    Without this rule a call is repeated although the custodian would pay it a second time.
    """
    unknown = open_calls(request.history)
    if request.same_call is not None:
        # The gate has already allowed this call, so everything before it was closed or harmless.
        return bool(unknown) and unknown[-1].number == request.same_call
    return request.repeat_is_safe and all(
        each.reference == request.reference
        and at_account(request.history, each, request.fingerprint)
        and (request.keys_shared or with_same_credentials(each, request.fingerprint))
        for each in unknown
    )


def with_same_credentials(call: Evidence, fingerprint: str) -> bool:
    """Whether a call was made with exactly the credentials of this fingerprint, as far as is known."""
    return not call.fingerprint or call.fingerprint == fingerprint


def key_is_alive(
    history: History,
    reference: str | None,
    key_life: int | None,
    call_life: int | None,
    now: Moment,
) -> bool:
    """Whether the custodian certainly remembers the key of the first call until this one has expired.

    A key that never expires is always valid. Otherwise the longer of wall time and elapsed time since
    the first call, on one clock, must leave room for this call. The wall clock can therefore only
    forbid. Without this rule the payout is paid twice after the key's life.
    """
    known = [
        each
        for each in calls(history)
        if each.reference == reference and each.answer not in NEVER_PROCESSED
    ]
    lives = [each.key_life for each in known] + [key_life]
    finite = [each for each in lives if each is not None]
    if not finite or not known:
        return True
    if call_life is None or any(each.at.clock_id != now.clock_id for each in known):
        return False
    first = known[0].at
    since = max(now.wall - first.wall, now.elapsed - first.elapsed)
    return since + call_life < min(finite)


def gate(request: Request, now: Moment) -> Refusal | None:
    """Return why a moving mark must not be set, or None."""
    refused = (
        (token_is_current(request), Refusal.LEASE_LOST),
        (store_is_current(request), Refusal.FROZEN),
        (witness_works(request), Refusal.STATE_FILE),
        (knows_the_gate(request), Refusal.GATE_VERSION),
        (nothing_blocks(request), Refusal.BLOCKED),
        (rules_are_active(request), Refusal.RULES),
        (not_paused(request), Refusal.PAUSED),
        (is_funded(request), Refusal.FUNDS),
        (no_news(request), Refusal.NEWS),
        (items_are_pending(request), Refusal.NOT_PENDING),
        (others_are_closed(request), Refusal.NOT_CLOSED),
    )
    for allowed, refusal in refused:
        if not allowed:
            return refusal
    if earlier_is_closed(request):
        return None
    if not repeat_is_harmless(request):
        return Refusal.NOT_CLOSED
    alive = key_is_alive(
        request.history, request.reference, request.key_life, request.call_life, now
    )
    return None if alive else Refusal.KEY_LIFE


def may_reopen(history: History, item: str, others: tuple[Other, ...] = ()) -> bool:
    """Whether a payout may get another execution: everything that was sent for it is closed.

    The second gate applies to the other items of a set, to a new session and to a failover.
    Without this rule the other items of a set are paid under a new key, and then by the old set.
    """
    return closed(history, item) and all(
        closed(other.history, item) for other in others if item in other.items
    )


def may_fail_over(  # noqa: PLR0913 - what the right depends on
    history: History,
    item: str,
    status: Status,
    others: tuple[Other, ...] = (),
    *,
    frozen: bool,
    blocked: str | None,
    rules_active: bool = True,
) -> bool:
    """Whether a payout may continue at another custodian: nothing that was ever sent for it can pay it.

    It may only while it is pending and no transfer of it was seen. It may not in a database that is or
    was an old copy, while an operator has to check first, or by a gateway whose limits and routes are
    not the active ones. Without this rule a payout is paid by a second custodian, and then by the first
    one.
    """
    known = (history, *(each.history for each in others))
    return (
        not frozen
        and blocked is None
        and rules_active
        and status == Status.PENDING
        and not any(has_news(each) or is_adopted(each) for each in known)
        and may_reopen(history, item, others)
    )


def may_cancel(history: History, item: str, others: tuple[Other, ...] = ()) -> bool:
    """Whether a payout may be canceled here: nothing that was sent for it can pay it.

    Otherwise only the custodian can cancel it.
    Without this rule a payout is canceled as "not paid" while a signed request is on its way.
    """
    return may_reopen(history, item, others)


def may_end_unpaid(  # noqa: PLR0913 - what the right depends on
    history: History,
    item: str,
    others: tuple[Other, ...] = (),
    *,
    looked: int | None = None,
    lag: bool = True,
    frozen: bool = False,
) -> bool:
    """Whether an operator may say that a payout failed and that no money moved.

    Either everything that was sent for it is closed, or the operator has looked at the custodian's own
    records (row `looked`) after no call could arrive any more, and no transfer of it was ever seen. It
    is never allowed while the database may be an old copy (`frozen`), because a copy may lack a call.
    Without this rule a payout is ended as "not paid" while a signed request is on its way.
    """
    if frozen or not all(closed(other.history, item) for other in others if item in other.items):
        return False
    if closed(history, item):
        return True
    return not has_news(history) and operator_looked(history, looked, lag=lag)
