"""What an adapter declares of its custodian: what it can do, and how it treats keys."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The length of every key that an adapter is handed.
KEY_LENGTH = 36


@dataclass(frozen=True)
class KeySemantics:
    """How the custodian treats an idempotency key or external id. Declared, because they differ.

    Every fact changes what the engine does.
    """

    #: how long a key is remembered; None: for ever. No repeat is made that could arrive later; after half of
    #: it an unknown outcome that no look-up settles is on the operator's list
    life_s: float | None = None
    #: an adapter whose custodian takes no 36 characters does not start
    max_length: int = KEY_LENGTH
    #: what a key did can be asked for by the key, so that a look that finds nothing is an answer
    look_up: bool = False
    #: repeating the moving call with the same key and content can never move money a second time
    repeat_is_safe: bool = False
    #: every credential of the account meets the same keys; else a repeat under new credentials is not the
    #: same call, and is never made
    shared_by_credentials: bool = False
    #: what failed under a key is never tried again under it, so that a failed word is about every call
    #: that was made with it
    failure_is_final: bool = False


@dataclass(frozen=True)
class Rate:
    """How many requests the custodian takes: `per_s` a second, and `burst` at once after a pause.

    The instance keeps below it: it begins no verb without a token for it, so that nothing waits between
    the moving mark and its call. A quarter of the tokens is offered to looks first, the rest to calls
    that move money. A 429 pauses the instance in any case.
    """

    per_s: float | None = None  #: None: the custodian publishes no number
    burst: int = 1
    #: the custodian's documents say that a moving call answered 429 was not executed. Believed of the
    #: first moving call alone; of a repeat a 429 proves nothing
    refusal_proves_unsent: bool = False


@dataclass(frozen=True)
class Capabilities:
    """What an adapter can do. Shown to partners and operators, and obeyed by the engine."""

    destination_types: frozenset[str]
    #: account types a destination of the type `custodian_account` may have; empty: not checked
    payee_types: frozenset[str] = frozenset()
    #: account types that may pay; empty: not checked
    source_types: frozenset[str] = frozenset()
    batch: bool = False
    cancel: bool = False
    quotes: bool = False
    step_up: bool = False
    webhooks: bool = False
    #: one payout at a time may be executing per source account; the others wait as `queued`
    one_at_a_time: bool = False
    keys: KeySemantics = field(default_factory=KeySemantics)
    #: how long a request that was already signed can still be accepted, until its credentials expire; None:
    #: for ever, and absence is never proven
    call_life_s: float | None = 120.0
    visibility_s: float = 60.0  #: how long a done thing may stay invisible to `fetch`
    absence_looks: int = 3  #: how many times absence must be seen before it is believed
    #: whether `fetch` asks by our own keys alone (`order.key`), the only references that anything is ever
    #: sent under: so it also finds a call that an older copy of the database does not know of. False where
    #: it needs an id that the custodian gave, or where a later try has a reference of its own: then nothing
    #: that such a copy "does not find" is proven unpaid
    finds_lost_calls: bool = False
    #: whether the wall clock dates the credentials of a moving call (a JWT, a signed timestamp): no mark is
    #: made then while that clock differs from the custodian's by more than `clock_skew_s`
    dated_by_clock: bool = False
    clock_skew_s: float = 30.0
    #: whether the custodian's own console may show old data for `visibility_s`
    console_lags: bool = True
    polling_s: tuple[float, ...] = (2, 4, 8, 15, 30, 60, 120, 300)  #: delays; the last one repeats
    #: for how long a payout that was delivered is still looked at, because its money may come back and the
    #: webhook that reports it may be lost: at growing intervals, the last time at the end. 0: only after a webhook
    #: about it that says nothing itself, if the adapter has such
    looked_after_delivery_s: float = 0.0
    in_flight: int = 16  #: how many payouts are worked on at once at this custodian
    #: how many requests it takes; None: nothing is known, a 429 pauses all the same
    rate: Rate | None = None
