"""What an adapter declares about its custodian: its capabilities, and how it treats keys."""

from __future__ import annotations

from dataclasses import dataclass, field

#: The length of every key that an adapter receives.
KEY_LENGTH = 36


@dataclass(frozen=True)
class KeySemantics:
    """How the custodian treats an idempotency key or external id. It is declared, because custodians differ.

    Every value changes what the engine does.
    """

    #: how long a key is remembered; None: forever. No repeat is made that could arrive later. After half of
    #: this time, an unknown outcome that no look-up settles is on the operator's list
    life_s: float | None = None
    #: an adapter does not start if its custodian accepts fewer than 36 characters
    max_length: int = KEY_LENGTH
    #: the result of a call can be looked up by its key, so a look-up that finds nothing is an answer
    look_up: bool = False
    #: repeating the moving call with the same key and content can never move money a second time
    repeat_is_safe: bool = False
    #: all credentials of the account share the same keys; otherwise a repeat under new credentials is not
    #: the same call, and is never made
    shared_by_credentials: bool = False
    #: the custodian never retries what failed under a key, so a failed status covers every call that was
    #: made with it
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
    #: the custodian's documents say that a moving call answered with 429 was not executed. This counts for
    #: the first moving call only; for a repeat, a 429 proves nothing
    refusal_proves_unsent: bool = False


@dataclass(frozen=True)
class Capabilities:
    """What an adapter can do. Partners and operators see it, and the engine obeys it."""

    destination_types: frozenset[str]
    #: account types that a destination of the type `custodian_account` may have; empty: not checked
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
    #: forever, and absence is never proven
    call_life_s: float | None = 120.0
    visibility_s: float = 60.0  #: how long a completed action may stay invisible to `fetch`
    absence_looks: int = 3  #: how many look-ups must find nothing before absence counts as proven
    #: whether `fetch` looks up by the gateway's own keys alone (`order.key`), and every call is sent under
    #: one of them. It then also finds a call that an older copy of the database does not know. False if it
    #: needs an id that the custodian assigned, or if a later attempt has its own reference: then a look-up
    #: with such a copy that finds nothing does not prove that nothing was paid
    finds_lost_calls: bool = False
    #: whether the wall clock dates the credentials of a moving call (a JWT, a signed timestamp). If so, no
    #: mark is set while that clock differs from the custodian's by more than `clock_skew_s`
    dated_by_clock: bool = False
    clock_skew_s: float = 30.0
    #: whether the custodian's own console may show old data for `visibility_s`
    console_lags: bool = True
    polling_s: tuple[float, ...] = (2, 4, 8, 15, 30, 60, 120, 300)  #: delays; the last one repeats
    #: for how long a delivered payout is still polled, because its money may come back and the webhook that
    #: reports it may be lost: at growing intervals, the last time at the end. 0: only after a webhook about
    #: the payout that has no details itself, if the adapter has such webhooks
    looked_after_delivery_s: float = 0.0
    in_flight: int = 16  #: how many payouts are in progress at once at this custodian
    #: how many requests the custodian takes; None: unknown (a 429 still pauses the instance)
    rate: Rate | None = None
