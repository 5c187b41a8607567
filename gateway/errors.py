"""Every error the gateway raises.

GatewayError
├── ConfigError            every fault of the configuration at once; exit code 2
│   └── BrokenPackage      an adapter's package cannot be used; the other custodians can
├── SchemaMismatch         the database is older or newer than this program; exit code 2
├── StoreUnusable          the database cannot be opened or written as it is now; exit code 2
│   └── InUse              other processes use the database, or one has it alone
├── StateFileError         the state file cannot be read or written, or names another database
├── WitnessFailed          a moving mark is committed, but the state file could not be written
├── Refused                a partner's request is refused; carries the stable problem code
│   └── ClaimLost          another gateway took over the request's idempotency key; nothing is written
└── AdapterError           what a custodian adapter may raise (re-exported by `gateway.adapter`)
    ├── Rejected           the custodian said no, finally; nothing moved
    ├── NotSent            the call never left; nothing moved; may be tried again
    │   ├── UnreadableAnswer   what a person answered lacks something or has too much
    │   ├── WrongAnswer        what a person answered is wrong; the payout asks again
    │   ├── CustodianDown      the custodian does not answer: the gateway made no call
    │   └── TurnedAway         the custodian refused the call at its door, before it looked at it
    │       ├── RateLimited        too many requests (HTTP 429)
    │       ├── CredentialsRefused     our credentials or rights are not accepted (401, 403)
    │       └── Misconfigured      no such call there (404): a wrong base address, a proxy, a plan
    ├── OutcomeUnknown     the call may or may not have arrived; never read as a failure
    │   └── AdapterFault       the adapter said what it must not say; names member and fix
    ├── LeaseLost          another worker owns the payout now; stop at once
    ├── Unsupported        this adapter does not have the verb
    ├── InvalidSignature   a custodian's webhook is not authentic (answered 401)
    └── CannotVerify       the verification keys are out of reach (answered 503, the sender retries)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GatewayError(Exception):
    """Base of everything the gateway raises on purpose."""


class ConfigError(GatewayError):
    """The configuration has errors; all of them are listed at once, each with its fix."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class BrokenPackage(ConfigError):
    """An adapter's package cannot be used: its import, its class or its constructor fails.

    The custodian instances of other packages still work.
    """


class SchemaMismatch(GatewayError):
    """The database schema does not fit this program; the message says what to run."""


class StoreUnusable(GatewayError):
    """The database cannot be opened or written as it is now; the message says why, and what to do."""


class StoreEmpty(StoreUnusable):
    """There is no database yet, or it has no tables."""


class InUse(StoreUnusable):
    """Other processes use the database, or one of them has it alone."""

    def __init__(self, database: object, holders: Sequence[str]) -> None:
        self.holders = ", ".join(holders) or "another process"
        super().__init__(f"the database {database} is in use by {self.holders}; try again after it")


class StateFileError(GatewayError):
    """The state file cannot be read or written, or it names another database file."""


class WitnessFailed(GatewayError):
    """The change is committed, but the state file could not be written: the call must not be made."""

    def __init__(self, mark: int) -> None:
        self.mark = mark
        super().__init__(
            f"moving mark {mark} is committed, but the state file could not be written"
        )


class Refused(GatewayError):
    """A partner's request is refused.

    `code` is the stable machine word (one row of `gateway/api/problems.py`), `detail` is for people,
    `members` are extra problem members (for example `payout_id`), `errors` name faulty fields.
    `retryable` tells whether the same request may succeed later; None means what the code's row says.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[dict[str, str]] = (),
        headers: dict[str, str] | None = None,
        retryable: bool | None = None,
        **members: Any,
    ) -> None:
        self.code = code
        self.retryable = retryable
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.members = members
        super().__init__(f"{code}: {detail}")


class ClaimLost(Refused):
    """Another request has taken over the idempotency key that this work was done under.

    The transaction that raises it writes nothing.
    """

    def __init__(self) -> None:
        super().__init__(
            "idempotency_in_progress",
            "Another request with this key does the work.",
            headers={"Retry-After": "1"},
        )


class AdapterError(GatewayError):
    """Base of the outcomes an adapter reports by raising."""


class Rejected(AdapterError):
    """The custodian refused finally and nothing moved.

    The engine trusts it only for the first moving call of an attempt. After an unknown outcome it
    counts as unknown, because "already used" may mean that the first call arrived.
    """

    def __init__(self, code: str, message: str = "", *, custodian_code: str | None = None) -> None:
        self.code = code
        self.message = message
        self.custodian_code = custodian_code
        super().__init__(f"{code}: {message}" if message else code)


class NotSent(AdapterError):
    """The call did not reach the custodian: nothing moved, and it may be tried again.

    `again_after_s` is the delay in seconds that the custodian asks for, for example in `Retry-After`.
    `alert` puts the payout on the operator's list at once, under this code.
    """

    def __init__(
        self, message: str = "", *, again_after_s: float | None = None, alert: str | None = None
    ) -> None:
        self.again_after_s = again_after_s
        self.alert = alert
        super().__init__(message)


class UnreadableAnswer(NotSent):
    """A person's answer lacks something or has too much. `fields` name the members, without any value."""

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        super().__init__(f"the answer is not usable: {', '.join(self.fields)}")


class WrongAnswer(NotSent):
    """The custodian refused a person's answer: nothing moved, and the payout asks again.

    `attempts_left` is None if it is not known. With 0 the custodian accepts no more answers for this
    action, and the next action starts again.
    """

    def __init__(self, message: str, attempts_left: int | None = None) -> None:
        self.attempts_left = attempts_left
        super().__init__(message)


class CustodianDown(NotSent):
    """The custodian does not answer, so the gateway made no call: nothing was sent, and it waits."""


class TurnedAway(NotSent):
    """The custodian refused the call before it read the payout, with an error that its documents describe.

    After the moving mark, raise it only for such a body; any other response is `OutcomeUnknown`. Only
    for the first moving call does the engine conclude that nothing was sent: the refusal of a repeat
    says nothing about the first call, so the outcome is unknown.
    """


class RateLimited(TurnedAway):
    """The custodian takes no more requests now (HTTP 429). The whole instance pauses.

    After the moving mark, it proves that nothing was sent only if
    `Capabilities.rate.refusal_proves_unsent` is declared.
    """


class CredentialsRefused(TurnedAway):
    """The custodian does not accept our credentials or rights (401, 403): an operator must act."""

    def __init__(self, message: str = "", *, again_after_s: float | None = None) -> None:
        super().__init__(message, again_after_s=again_after_s, alert="credentials_refused")


class Misconfigured(TurnedAway):
    """The call does not exist there (404): a wrong base address, a proxy, a plan that lacks it.

    This is not a refusal of the payout, which is retried once an operator has fixed the cause.
    """

    def __init__(self, message: str = "", *, again_after_s: float | None = None) -> None:
        super().__init__(message, again_after_s=again_after_s, alert="custodian_misconfigured")


class OutcomeUnknown(AdapterError):
    """The call may have arrived: timeout, reset, most 5xx. A look settles it, never a guess."""


class AdapterFault(OutcomeUnknown):
    """An adapter returned or remembered what the contract does not allow. The gateway uses none of it.

    The message names the member and the fix; the custodian instance puts adapter and verb before it.
    After a moving mark the outcome is unknown. The payout goes to the operator's list as `adapter_error`.
    """

    alert = "adapter_error"

    def __init__(self, message: str, *, where: str | None = None) -> None:
        self.message = message
        self.where = where
        super().__init__(f"{where}: {message}" if where else message)


def kind_of(value: object) -> str:
    """Return the type of a value with its article ("an int"), or "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


class LeaseLost(AdapterError):
    """The lease on this payout ended or passed to another worker: no further call may be made."""


class Unsupported(AdapterError):
    """The adapter does not have this verb."""


class InvalidSignature(AdapterError):
    """A custodian's webhook failed verification."""


class CannotVerify(AdapterError):
    """A custodian's webhook cannot be judged now (keys unreachable); the sender should retry."""
