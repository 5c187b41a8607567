"""The kinds of runs that are searched: some at every commit, the larger ones by `make model`."""

from __future__ import annotations

from dataclasses import replace

from tests.model.world import Profile

_PLAIN = Profile("calls and looks", looks=3)
_KEYS = replace(
    _PLAIN, name="repeats under one key", repeat_is_safe=True, remembers_keys=True, looks=2
)
_SETS = Profile("sets", items=2, answers=("paid", "failed", "partly"), looks=2, ticks=4)
_OPERATOR = Profile("an operator", answers=("paid", "failed", "queued"), looks=2, act_count=2)
_COPIES = Profile("an old copy of the database", restores=1, looks=2, answers=("paid", "failed"))
_ASKS = Profile(
    "a person answers",
    asks=True,
    answers=("paid", "failed", "refused_code", "wrong"),
    looks=2,
    ticks=4,
)

_FAILOVER = Profile(
    "failover",
    fails_over=1,
    down=True,
    answers=("paid", "failed", "submitted"),
    looks=2,
    ticks=4,
    call_life=1,
)

#: Searched at every commit.
PER_COMMIT = (
    Profile(
        "one machine, with webhooks",
        answers=("paid", "failed", "submitted"),
        webhooks=1,
        looks=2,
        ticks=4,
    ),
    Profile(
        "two machines, suspended workers",
        clocks=(0, 1),
        stale_workers=True,
        answers=("paid", "failed"),
        looks=2,
        ticks=4,
    ),
    replace(
        _FAILOVER,
        name="failover, with webhooks",
        webhooks=1,
        answers=("paid", "failed"),
    ),
    replace(
        _SETS,
        name="sets, an item resolved alone",
        acts=frozenset({"unknown", "unpaid", "reopen"}),
        act_count=1,
    ),
)

#: Searched by `make model`.
LARGE = (
    _PLAIN,
    replace(_PLAIN, name="two machines", clocks=(0, 1), answers=("paid", "failed")),
    replace(
        _PLAIN,
        name="two machines, and heartbeats",
        clocks=(0, 1),
        heartbeats=1,
        answers=("paid",),
        looks=2,
    ),
    replace(_PLAIN, name="a reboot", reboots=1, answers=("paid", "failed")),
    replace(_PLAIN, name="wall clocks that are set", wall_steps=1, looks=2),
    replace(_PLAIN, name="late, doubled webhooks", webhooks=2, looks=2, answers=("paid", "failed")),
    replace(_PLAIN, name="several references", own_references=True, calls=3, looks=2, ticks=6),
    replace(
        _PLAIN,
        name="several references, never named",
        own_references=True,
        names_reference=False,
        webhooks=1,
        looks=2,
    ),
    replace(_PLAIN, name="another account", repoints=1, answers=("paid", "failed")),
    replace(_PLAIN, name="lowered settings", lowered=1, looks=2, absence_looks=2),
    replace(_PLAIN, name="a stranger's transfer", foreign=1, looks=2),
    replace(
        _KEYS,
        name="the time to be sent may be over",
        expires=True,
        answers=("paid", "failed"),
        ticks=4,
    ),
    replace(
        _KEYS,
        name="paused and resumed",
        acts=frozenset({"pause"}),
        act_count=2,
        answers=("paid", "failed"),
        ticks=4,
    ),
    replace(_PLAIN, name="requests that never die", call_life=None, webhooks=1, looks=2),
    replace(_PLAIN, name="the same bytes again", resends=1, webhooks=1, looks=2),
    replace(
        _PLAIN,
        name="suspended before the mark, or killed",
        crashes=1,
        slow_marks=True,
        stale_workers=True,
        clocks=(0, 0),
        answers=("paid", "failed"),
        looks=2,
        ticks=4,
    ),
    replace(_KEYS, calls=3, ticks=4, answers=("paid", "failed")),
    replace(_KEYS, name="keys that end", key_life=4, ticks=7, wall_steps=1),
    replace(_KEYS, name="refused at the door", doors=True, webhooks=1, ticks=4),
    replace(_KEYS, name="keys that a failure uses up", burnt_keys=True, webhooks=1, ticks=4),
    replace(
        _KEYS,
        name="keys on two machines",
        key_life=4,
        clocks=(0, 1),
        ticks=6,
        answers=("paid", "failed"),
    ),
    replace(_KEYS, name="keys at another account", repoints=1, looks=3, answers=("paid", "failed")),
    replace(
        _KEYS,
        name="keys without an end, requests too",
        call_life=None,
        webhooks=1,
        answers=("paid", "failed"),
        ticks=4,
    ),
    replace(_KEYS, name="nothing to look by", can_look=False, key_life=4, ticks=6),
    replace(_PLAIN, name="nothing to look by, and no keys", can_look=False, webhooks=1, looks=2),
    replace(
        _OPERATOR,
        name="an operator's looks",
        acts=frozenset({"look", "unpaid", "retry"}),
        answers=("paid", "failed"),
        ticks=4,
    ),
    replace(
        _OPERATOR, name="an operator's words", acts=frozenset({"unknown", "delivered", "cancel"})
    ),
    replace(
        _OPERATOR,
        name="an operator at a console that lags",
        console_lags=True,
        acts=frozenset({"look", "unpaid"}),
        answers=("paid", "failed"),
    ),
    replace(
        _OPERATOR,
        name="an operator on another machine",
        operator_clock=2,
        heartbeats=2,
        acts=frozenset({"look", "unpaid"}),
        answers=("paid", "failed"),
        ticks=4,
    ),
    replace(
        _OPERATOR,
        name="an operator and suspended workers",
        clocks=(0, 0),
        stale_workers=True,
        acts=frozenset({"look", "cancel", "retry"}),
        answers=("paid",),
        ticks=3,
        act_count=1,
    ),
    replace(
        _SETS,
        name="sets, an operator looks",
        acts=frozenset({"look", "unknown"}),
        act_count=2,
        answers=("paid", "partly"),
    ),
    replace(
        _SETS,
        name="sets under one key",
        repeat_is_safe=True,
        remembers_keys=True,
        acts=frozenset({"unknown", "unpaid", "retry"}),
        act_count=1,
    ),
    replace(_SETS, name="sets, with webhooks", webhooks=2),
    replace(
        _SETS,
        name="sets, suspended between two items",
        pages=True,
        clocks=(0, 0),
        stale_workers=True,
        acts=frozenset({"retry"}),
        act_count=1,
        answers=("failed", "partly"),
    ),
    _FAILOVER,
    replace(_FAILOVER, name="failover, twice", fails_over=2, calls=3, answers=("paid", "failed")),
    replace(
        _FAILOVER,
        name="failover on two machines, suspended workers",
        clocks=(0, 1),
        stale_workers=True,
        answers=("paid", "failed"),
        ticks=3,
    ),
    replace(
        _FAILOVER,
        name="failover, and keys",
        repeat_is_safe=True,
        remembers_keys=True,
        webhooks=1,
        answers=("paid", "failed"),
    ),
    replace(
        _FAILOVER,
        name="failover in an old copy",
        restores=1,
        answers=("paid",),
        acts=frozenset({"unpaid"}),
        act_count=1,
        ticks=3,
    ),
    replace(
        _FAILOVER,
        name="failover, and an operator",
        acts=frozenset({"look", "unpaid", "cancel", "retry"}),
        act_count=1,
        answers=("paid", "failed"),
        ticks=3,
    ),
    _COPIES,
    replace(
        _COPIES,
        name="an old copy in the same file",
        same_file=True,
        acts=frozenset({"cancel"}),
        act_count=1,
        answers=("paid", "failed"),
    ),
    replace(
        _COPIES,
        name="an old copy, and an end",
        acts=frozenset({"cancel"}),
        act_count=1,
        answers=("paid",),
    ),
    replace(
        _COPIES,
        name="an old copy, and keys",
        repeat_is_safe=True,
        remembers_keys=True,
        key_life=4,
        answers=("paid",),
    ),
    _ASKS,
    replace(
        _ASKS, name="a person answers, with webhooks", webhooks=1, answers=("paid", "refused_code")
    ),
    replace(
        _ASKS,
        name="a person answers, webhooks that name nothing",
        webhooks=1,
        names_reference=False,
        answers=("paid", "refused_code"),
    ),
    replace(_ASKS, name="a person answers or cancels", acts=frozenset({"cancel"}), act_count=1),
)
