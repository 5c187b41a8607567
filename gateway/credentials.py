"""The change of a custodian's credentials: what was asked under the old ones counts under the new ones.

A look proves nothing about a call that was made at another account, and whose account it is shows only
in the credentials. So two of them are declared to be of one account: where the custodian's own id reads
the same with both, or on the word of an operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.config.settings import Settings
from gateway.errors import GatewayError, NotSent, Unsupported
from gateway.model import Account
from gateway.runtime import Runtime
from gateway.store import executions
from gateway.store.accounts import declare_same_account
from gateway.store.audit import GATEWAY
from gateway.store.database import Database, Tx


class NotDeclaredError(GatewayError):
    """The credentials are not declared to be of one account; the message says why."""


class Custodian(Protocol):
    """A custodian instance whose credentials are changed."""

    name: str

    def fingerprint(self, account: Account, *, livemode: bool) -> str:
        """Name an account under the credentials of now."""

    def fingerprints_of_keys(self, account: Account, *, livemode: bool) -> list[tuple[str, str]]:
        """Name it under the previous and the present server key."""

    def fingerprint_before(self, account: Account, *, livemode: bool) -> str | None:
        """Return its fingerprint under the previous credentials; None if none are configured."""

    async def identities(self) -> tuple[str, str]:
        """Return the custodian's own id as both read it."""


@dataclass(frozen=True)
class Declared:
    """What was declared. `identity`: the custodian's own id, if both credentials read it."""

    accounts: int
    identity: str | None


async def declare_credentials(  # noqa: PLR0913 - the declaration and its circumstances
    db: Database,
    runtime: Runtime,
    custodian: Custodian,
    accounts: Sequence[Account],
    *,
    operator: str,
    evidence: str | None,
) -> Declared:
    """Declare that an instance's old and new credentials are of one account. May be called twice.

    Reads the custodian's own id with both first. NotDeclaredError if the ids differ, or if they
    cannot be read and there is no `evidence`.
    """
    identity: str | None = None
    try:
        before, now = await custodian.identities()
    except (Unsupported, NotSent) as error:
        if not evidence:
            raise NotDeclaredError(
                f"{error}. If you know that both are of one account, say how: --evidence"
            ) from None
    else:
        if before != now:
            raise NotDeclaredError(
                f"the old credentials are of {before!r} and the new ones of {now!r}: not one account"
            )
        identity = now
    read = f"both read the id {identity!r}" if identity else "the ids could not be read"
    words = f"{read}; {evidence}" if evidence else read
    done = await db.run(_declare, runtime, custodian, accounts, operator, words)
    return Declared(done, identity)


async def _declare(  # noqa: PLR0913 - the declaration and its circumstances
    tx: Tx,
    runtime: Runtime,
    custodian: Custodian,
    accounts: Sequence[Account],
    operator: str,
    evidence: str,
) -> int:
    """Store function: declare every account that is configured or has an open execution."""
    done = 0
    for account in await _accounts(tx, custodian, accounts):
        for livemode in (True, False):
            before = custodian.fingerprint_before(account, livemode=livemode)
            now = custodian.fingerprint(account, livemode=livemode)
            if before is None or before == now:
                continue
            mode = "live" if livemode else "test"
            done += await declare_same_account(
                tx,
                runtime.ids,
                runtime.clock.moment().wall,
                operator,
                custodian=custodian.name,
                fingerprint=before,
                same_as=now,
                evidence=f"{account.type} {account.id} ({mode}): {evidence}",
            )
    return done


async def carry_over(
    tx: Tx, runtime: Runtime, custodian: Custodian, accounts: Sequence[Account]
) -> None:
    """Store function: have the fingerprints under the previous server key count. May be called twice.

    Nobody has to say that they are of one account: both are made of the same settings.
    """
    for account in await _accounts(tx, custodian, accounts):
        for livemode in (True, False):
            for before, now in custodian.fingerprints_of_keys(account, livemode=livemode):
                await declare_same_account(
                    tx,
                    runtime.ids,
                    runtime.clock.moment().wall,
                    GATEWAY,
                    custodian=custodian.name,
                    fingerprint=before,
                    same_as=now,
                    evidence=f"{account.type} {account.id}: the server key was changed",
                )


async def _accounts(tx: Tx, custodian: Custodian, accounts: Sequence[Account]) -> list[Account]:
    """Return the accounts, and those that open executions pay from, each once."""
    found = {(each.type, each.id): each for each in accounts}
    for text in await executions.accounts_of_open(tx, custodian.name):
        account = Account.model_validate_json(text)
        found[account.type, account.id] = account
    return list(found.values())


def accounts_of(settings: Settings, name: str) -> list[Account]:
    """Return the accounts that are configured for a custodian instance."""
    accounts = [route.account for route in settings.routes if route.custodian == name]
    named = settings.accounts.get(name, ())
    return [*accounts, *(Account(id=each.id, type=each.type) for each in named)]
