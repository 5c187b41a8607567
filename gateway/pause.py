"""Pauses: what an operator, or an org for itself, has stopped. Pure.

While a pause holds a payout, no call that may move its money is begun: the gate reads the pauses in the
transaction of the mark. Looks, custodians' webhooks and events go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from gateway.model import Account


class PauseScope(StrEnum):
    """What a pause stops."""

    ALL = "all"  #: every payout
    CUSTODIAN = "custodian"  #: every payout through one custodian instance
    ACCOUNT = "account"  #: every payout from one source account
    ASSET = "asset"  #: every payout in one asset
    ORG = "org"  #: every payout of one org


_WIDEST_FIRST = (
    PauseScope.ALL,
    PauseScope.ORG,
    PauseScope.ASSET,
    PauseScope.CUSTODIAN,
    PauseScope.ACCOUNT,
)


@dataclass(frozen=True)
class Pause:
    """One pause. There is at most one of each scope, target, mode and owner."""

    id: str
    scope: PauseScope
    #: the custodian, asset or org; of an account what `account_target` returns; empty for `all`
    target: str
    #: the org that paused itself; empty: the operator
    owner: str
    #: `live` or `test`; empty: both
    mode: str
    reason: str
    actor: str
    #: whether new quotes are given, and their payouts wait
    keep_accepting: bool
    #: by the wall clock, in microseconds
    since: int

    @property
    def name(self) -> str:
        """What is paused, for people."""
        if self.scope is PauseScope.ALL:
            return "all payouts"
        if self.scope is PauseScope.ACCOUNT:
            custodian, kind, account_id = json.loads(self.target)
            return f"account {kind} {account_id} of {custodian}"
        return f"{self.scope} {self.target}"


@dataclass(frozen=True)
class Subject:
    """What a pause may stop: a payout, or what a quote would become."""

    org: str
    mode: str
    custodian: str
    account: Account
    asset: str


def account_target(custodian: str, account: Account) -> str:
    """Return what names a source account as the target of a pause."""
    return json.dumps([custodian, account.type, account.id], ensure_ascii=False)


def parts_of(pause: Pause) -> tuple[str | None, Account | None, str | None, str | None]:
    """Return the custodian, account, asset and org of a pause; what it does not name is None."""
    if pause.scope is PauseScope.ACCOUNT:
        custodian, kind, account_id = json.loads(pause.target)
        return custodian, Account(id=account_id, type=kind), None, None
    parts = [
        pause.target if pause.scope is scope else None
        for scope in (PauseScope.CUSTODIAN, PauseScope.ASSET, PauseScope.ORG)
    ]
    return parts[0], None, parts[1], parts[2]


def holds(pause: Pause, subject: Subject) -> bool:
    """Whether a pause stops a payout."""
    if pause.mode not in {"", subject.mode}:
        return False
    targets = {
        PauseScope.ALL: "",
        PauseScope.CUSTODIAN: subject.custodian,
        PauseScope.ACCOUNT: account_target(subject.custodian, subject.account),
        PauseScope.ASSET: subject.asset,
        PauseScope.ORG: subject.org,
    }
    return pause.target == targets[pause.scope]


def held_by(pauses: Iterable[Pause], subjects: Iterable[Subject]) -> Pause | None:
    """Return the widest pause that stops one of the payouts, or None: of a set, one is enough.

    The widest: to end a narrower one would not let the payout go on, nor another route be taken.
    """
    wanted = tuple(subjects)
    found = [each for each in pauses if any(holds(each, one) for one in wanted)]
    return min(found, key=lambda each: _WIDEST_FIRST.index(each.scope), default=None)
