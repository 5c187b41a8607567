"""The rules of the project, each switched off in turn: the model must find what then goes wrong.

A rule is a named predicate of the engine's pure modules, such as `proof`, `gate` and `decide`. It is replaced in every module that looks it
up, and one profile is searched, within which it is the only protection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gateway.execution import alerts, claims, decide, gate, interpret, late, proof, unsent
from gateway.execution.gate import may_fail_over
from gateway.execution.proof import Evidence, History
from gateway.execution.state import View
from gateway.runtime import Moment
from tests.model.fair import FairRuns
from tests.model.search import Result, explore
from tests.model.world import Profile

_MODULES = (proof, gate, alerts, claims, interpret, decide, late, unsent)
TWICE = "paid twice"
LIVE = "failed/no, with a live call"
PAID = "failed/no, and paid"
STRANGER = "delivered without its transfer"
AFTER_NEWS = "a mark after news"
PAUSED = "a mark while paused"
NO_END = "a fair run that needs a person"


def always(value: object) -> Callable[..., Any]:
    """Return what a rule is replaced by: it says the same of everything."""

    def says(*_: object, **__: object) -> object:
        return value

    return says


@dataclass(frozen=True)
class Rule:
    """A rule that is switched off, and where it is missed."""

    name: str
    what: str  #: what is switched off
    instead: Mapping[str, Callable[..., Any]]  #: by name, in whichever module it is
    profile: Profile
    expects: str  #: what goes wrong then


@contextmanager
def switched_off(rule: Rule) -> Iterator[None]:
    """Replace the functions of a rule in every module that looks them up."""
    kept = [
        (module, name, getattr(module, name))
        for module in _MODULES
        for name in rule.instead
        if hasattr(module, name)
    ]
    assert {name for _, name, _ in kept} == set(rule.instead), "a rule lost its function"
    try:
        for module, name, _ in kept:
            setattr(module, name, rule.instead[name])
        yield
    finally:
        for module, name, function in kept:
            setattr(module, name, function)


def missed(rule: Rule, *, most: int = 1_000_000) -> Result:
    """Search the profile of a rule without the rule."""
    with switched_off(rule):
        found = explore(rule.profile, most=most)
        if rule.expects != NO_END or found.wrong is not None:
            return found
        runs = FairRuns(rule.profile, alone=True)
        dead = runs.dead_end(found.sample(1000))
        if dead is None:
            return found
        return replace(found, wrong=NO_END, trace=(*found.way_to(dead.state), *dead.says))


# --- Replacements that are not a constant -----------------------------------------------------------


def _by_wall(history: History, call: Evidence, row: Evidence | Moment) -> int:
    at = row.at if isinstance(row, Evidence) else row
    return at.wall - call.at.wall


def _at_writing(view: View) -> Moment:
    return view.now


def _visibility_only(call: Evidence) -> int:
    return call.visibility


def _life_only(call: Evidence) -> int:
    return call.call_life or 0


def _as_set_now(call: Evidence) -> int:
    return 1 + call.visibility


def _with_an_answer(call: Evidence) -> bool:
    return call.answer is not None and call.answer not in proof.OWN_WORD


def _in_any_copy(*rows: Any, **known: Any) -> bool:
    return may_fail_over(*rows, **{**known, "frozen": False})


# --- Profiles: small, because each has one thing to show ---------------------------------------------

_ONE = Profile("one call after another", answers=("paid",), looks=2, ticks=4)
_TWO_MACHINES = replace(_ONE, name="two machines", clocks=(0, 1))
_KEYS = Profile(
    "repeats under one key",
    answers=("paid", "submitted"),
    repeat_is_safe=True,
    remembers_keys=True,
    key_life=4,
    looks=2,
    calls=2,
    ticks=6,
)
_REFUSED_LATE = replace(
    _KEYS,
    name="a late refusal",
    answers=("paid", "failed", "queued"),
    key_life=None,
    webhooks=1,
)
_OPERATOR = Profile(
    "an operator",
    answers=("paid",),
    acts=frozenset({"look", "unpaid", "retry", "cancel"}),
    act_count=2,
    looks=2,
    ticks=4,
)
_SETS = Profile(
    "sets",
    items=2,
    answers=("paid", "failed", "partly"),
    acts=frozenset({"unknown", "unpaid", "reopen"}),
    act_count=2,
    looks=2,
    ticks=4,
)
_COPIES = Profile("an old copy", answers=("paid",), restores=1, looks=2, ticks=4)

RULES = (
    # evidence: what looks prove
    Rule(
        "same_clock",
        "the clock of another machine counts",
        {"same_clock": always(True)},
        _TWO_MACHINES,
        TWICE,
    ),
    Rule(
        "waited",
        "the wall clock counts as elapsed time",
        {"waited": _by_wall},
        replace(_ONE, name="a wall clock that is set", wall_steps=1),
        TWICE,
    ),
    Rule(
        "date_of",
        "a look is dated when it is written",
        {"date_of": _at_writing},
        _ONE,
        TWICE,
    ),
    Rule(
        "names_call",
        "a row counts although its process had not read the call",
        {"names_call": always(True)},
        replace(
            _TWO_MACHINES, name="two machines, three calls", calls=3, looks=1, call_life=1, ticks=2
        ),
        TWICE,
    ),
    Rule(
        "beat_knows_call",
        "a heartbeat from before the mark counts",
        {"beat_knows_call": always(True)},
        replace(
            _TWO_MACHINES,
            name="two machines, a heartbeat",
            calls=3,
            looks=1,
            heartbeats=1,
            call_life=1,
            ticks=2,
        ),
        TWICE,
    ),
    Rule(
        "waited_out",
        "a look counts however early it started",
        {"waited_out": always(True)},
        _ONE,
        TWICE,
    ),
    Rule(
        "life_of",
        "the call's life is not waited for",
        {"life_of": _visibility_only},
        _ONE,
        TWICE,
    ),
    Rule(
        "life_of",
        "the visibility is not waited for",
        {"life_of": _life_only},
        _ONE,
        TWICE,
    ),
    Rule(
        "life_of",
        "the settings of now count for a call of before",
        {"life_of": _as_set_now},
        replace(_ONE, name="lowered settings", lowered=1, call_life=3, ticks=5),
        TWICE,
    ),
    Rule(
        "enough_looks",
        "one look is enough, and it breaks the declared visibility",
        {"enough_looks": always(True)},
        replace(_ONE, name="one look lies", absence_looks=2, lies=1, looks=3),
        TWICE,
    ),
    Rule(
        "uncontradicted",
        "absence counts although our transfer was seen",
        {"uncontradicted": always(True)},
        replace(
            _ONE, name="a look lies after news", lies=1, looks=3, answers=("submitted", "paid")
        ),
        TWICE,
    ),
    Rule(
        "same_account",
        "the answers of another account count",
        {"same_account": always(True)},
        replace(_ONE, name="another account", repoints=1),
        TWICE,
    ),
    Rule(
        "at_account",
        "a key counts at another account",
        {"at_account": always(True)},
        replace(_KEYS, name="keys at another account", key_life=None, repoints=1),
        TWICE,
    ),
    Rule(
        "call_can_die",
        "absence is proven of a request that never dies",
        {"call_can_die": always(True)},
        replace(_ONE, name="requests that never die", call_life=None),
        TWICE,
    ),
    Rule(
        "may_have_arrived",
        "a mark without an outcome counts as not sent",
        {"may_have_arrived": _with_an_answer},
        _OPERATOR,
        LIVE,
    ),
    # words: what the custodian and the adapter say
    Rule(
        "only_call",
        "a failed word counts for every call under its reference",
        {"only_call": always(True)},
        _REFUSED_LATE,
        LIVE,
    ),
    Rule(
        "late_look",
        "a failed word of any look counts for every call",
        {"late_look": always(True)},
        _REFUSED_LATE,
        LIVE,
    ),
    Rule(
        "ruled_out",
        "a word about the last call ends those before it",
        {"ruled_out": always(True)},
        replace(
            _REFUSED_LATE, name="an old copy, and a late refusal", restores=1, answers=("failed",)
        ),
        LIVE,
    ),
    Rule(
        "ruled_out",
        "a first call that was proven absent needs a word of its own",
        {"ruled_out": always(False)},
        replace(_ONE, name="two references", own_references=True, answers=("failed",)),
        NO_END,
    ),
    Rule(
        "names_execution",
        "a webhook that names no reference is about the newest execution",
        {"names_execution": always(True)},
        Profile(
            "a second session",
            asks=True,
            names_reference=False,
            webhooks=1,
            answers=("refused_code",),
            looks=1,
            call_life=1,
            ticks=2,
        ),
        LIVE,
    ),
    Rule(
        "sent_once",
        "the answer to the same bytes sent again counts",
        {"sent_once": always(True)},
        replace(_ONE, name="the same bytes again", resends=1),
        PAID,
    ),
    Rule(
        "speaks_for_call",
        "a refusal of a repeat at the door counts",
        {"speaks_for_call": always(True)},
        replace(_REFUSED_LATE, name="a repeat turned away", doors=True, answers=("paid", "failed")),
        PAID,
    ),
    Rule(
        "is_ours",
        "a stranger's transfer counts",
        {"is_ours": always(True)},
        replace(_ONE, name="a stranger's transfer", foreign=1),
        STRANGER,
    ),
    Rule(
        "covers_calls",
        "a list that begins after the call counts",
        {"covers_calls": always(True)},
        replace(_ONE, name="a list of the last hour", lists=2),
        TWICE,
    ),
    Rule(
        "has_mark",
        "news counts although no call was ever marked",
        {"has_mark": always(True)},
        replace(_ONE, name="a stranger's webhook before the first mark", strays=1),
        STRANGER,
    ),
    # the gate
    Rule(
        "is_current",
        "an old token writes",
        {"is_current": always(True)},
        replace(
            _SETS,
            name="suspended between two items",
            clocks=(0, 0),
            stale_workers=True,
            pages=True,
            answers=("failed",),
            acts=frozenset({"retry"}),
            act_count=1,
        ),
        LIVE,
    ),
    Rule(
        "store_is_current",
        "an old copy sets marks",
        {"store_is_current": always(True)},
        _COPIES,
        TWICE,
    ),
    Rule(
        "nothing_blocks",
        "an adopted copy goes on by itself",
        # `decide` does not have it submitted again, either: each alone keeps it from a call.
        {"nothing_blocks": always(True), "is_adopted": always(False)},
        replace(_COPIES, name="an old copy, and an end", acts=frozenset({"cancel"}), act_count=1),
        LIVE,
    ),
    Rule(
        "not_paused",
        "a pause does not hold a mark",
        {"not_paused": always(True)},
        replace(
            _KEYS,
            name="paused between repeats",
            acts=frozenset({"pause"}),
            act_count=1,
            key_life=None,
        ),
        PAUSED,
    ),
    Rule(
        "no_news",
        "news does not forbid a mark",
        {"no_news": always(True)},
        replace(_KEYS, name="news between repeats", key_life=None, webhooks=1),
        AFTER_NEWS,
    ),
    Rule(
        "items_are_pending",
        "a set is marked although an item has ended",
        {"items_are_pending": always(True)},
        _SETS,
        LIVE,
    ),
    Rule(
        "others_are_closed",
        "other executions are not asked",
        {"others_are_closed": always(True), "may_reopen": always(True)},
        replace(_ONE, name="another execution", acts=frozenset({"reopen"}), act_count=1),
        TWICE,
    ),
    Rule(
        "may_fail_over",
        "a refusal or an absent look is enough to go on elsewhere",
        {"may_fail_over": always(True), "others_are_closed": always(True)},
        replace(_ONE, name="failover without proof", fails_over=1),
        TWICE,
    ),
    Rule(
        "may_fail_over",
        "an old copy of the database goes on elsewhere",
        {"may_fail_over": _in_any_copy},
        replace(
            _COPIES,
            name="never sent, in an old copy",
            fails_over=1,
            down=True,
            acts=frozenset({"unpaid"}),
            act_count=1,
            call_life=1,
            ticks=3,
        ),
        PAID,
    ),
    Rule(
        "contradicts_closing",
        "what the first custodian says later changes nothing",
        {"contradicts_closing": always(False)},
        # A look that breaks the declared visibility: the second line of defence is that one listens.
        replace(
            _ONE,
            name="failover, and a late word",
            fails_over=1,
            lies=1,
            webhooks=1,
            answers=("queued",),
        ),
        AFTER_NEWS,
    ),
    Rule(
        "earlier_is_closed",
        "a stored permission is trusted",
        {"earlier_is_closed": always(True)},
        _KEYS,
        TWICE,
    ),
    Rule(
        "repeat_is_harmless",
        "every repeat counts as harmless",
        {"repeat_is_harmless": always(True)},
        _OPERATOR,
        TWICE,
    ),
    Rule(
        "key_is_alive",
        "a key counts after its life",
        {"key_is_alive": always(True)},
        _KEYS,
        TWICE,
    ),
    # people and copies
    Rule(
        "may_reopen",
        "the other items of a set go on at once",
        {"may_reopen": always(True), "others_are_closed": always(True)},
        _SETS,
        TWICE,
    ),
    Rule(
        "may_cancel",
        "a cancel asks for nothing",
        {"may_cancel": always(True)},
        _OPERATOR,
        LIVE,
    ),
    Rule(
        "may_end_unpaid",
        "an operator may say 'not paid' at any time",
        {"may_end_unpaid": always(True)},
        _OPERATOR,
        LIVE,
    ),
    Rule(
        "never_sent",
        "a payout that waited too long ends, whatever was sent",
        # That it is looked at which was sent is asked twice: each alone keeps it from an end.
        {"never_sent": always(True), "may_wait_too_long": always(True)},
        replace(_KEYS, name="the time to be sent is over", key_life=None, expires=True),
        LIVE,
    ),
    Rule(
        "operator_looked",
        "an operator's look counts although a call was made since",
        {"operator_looked": always(True)},
        _OPERATOR,
        LIVE,
    ),
    Rule(
        "console_look",
        "an operator's look counts while a call may arrive",
        {"console_look": always(0)},
        _OPERATOR,
        LIVE,
    ),
    Rule(
        "lost_call",
        "an adopted copy misses nothing",
        {"lost_call": always(None)},
        _COPIES,
        TWICE,
    ),
    Rule(
        "speaks_of",
        "a word that names no reference is about a call that an adopted copy misses, too",
        {"speaks_of": lambda _, word, call: word.reference in {None, call.reference}},
        replace(
            _REFUSED_LATE,
            name="an adopted copy, and a word without a reference",
            restores=1,
            answers=("failed",),
            names_reference=False,
        ),
        LIVE,
    ),
    Rule(
        "knows_every_call",
        "words count in a copy that nobody has adopted",
        {"knows_every_call": always(True)},
        replace(
            _REFUSED_LATE, name="an old copy, and a late refusal", restores=1, answers=("failed",)
        ),
        LIVE,
    ),
)
