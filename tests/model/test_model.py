"""The money rules, searched: with all of them nothing goes wrong; without any of them something does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.model import FundsMoved, Status
from tests.model.fair import DeadEnd, FairRuns
from tests.model.profiles import LARGE, PER_COMMIT
from tests.model.rules import RULES, Rule, missed
from tests.model.search import Result, explore
from tests.model.world import Profile

PAGE = Path(__file__).parent.parent.parent / "docs/explanation/never-twice.md"
#: Rules of the page that guard against what is not in the model's world: an old release, a state file
#: that cannot be written, a reply that was mixed up with another payout's, another configuration, an account
#: that does not cover a payout (`tests/funds/test_runs.py` switches off the rules of balances).
ELSEWHERE = {"knows_the_gate", "witness_works", "fits_order", "rules_are_active", "is_funded"}
#: So many states, evenly spread, are the beginnings of fair runs.
SAMPLE = 1000


def _name(case: Profile | Rule) -> str:
    return case.name if isinstance(case, Profile) else f"{case.name}: {case.what}"


def _way(found: Result, dead: DeadEnd | None) -> str:
    if dead is None:
        return ""
    return "\n".join([*found.way_to(dead.state), f"-- {dead.luck.name} --", *dead.says[:20]])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("profile", PER_COMMIT, ids=_name)
def test_nothing_goes_wrong(profile: Profile, capsys: pytest.CaptureFixture[str]) -> None:
    """No explored run pays twice or says "not paid" wrongly, and each can still come to an end."""
    found = explore(profile)
    with capsys.disabled():
        print(f"\n{found.line()}")
    assert found.wrong is None, found.story()
    # The search has been everywhere: ends of both kinds, and more than one call.
    items = {item for state in found.met for item in state.store.items}
    assert {each.status for each in items} >= {Status.DELIVERED, Status.FAILED}
    assert FundsMoved.NO in {each.moved for each in items}
    assert max(state.made for state in found.met) == profile.calls
    # Where everything arrives, it ends without a person; where nothing ever does, a person is told.
    dead = FairRuns(profile, alone=True).dead_end(found.sample(SAMPLE))
    assert dead is None, _way(found, dead)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_every_rule_is_missed(rule: Rule, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the rule something goes wrong: a rule that nobody misses protects nothing."""
    found = missed(rule)
    with capsys.disabled():
        print(f"\n{rule.name}, {rule.what}: {len(found.trace)} steps, {found.states} states")
    assert found.wrong == rule.expects, found.story()


def test_every_rule_of_the_page_is_switched_off() -> None:
    """The table of rules that people read has no rule that the model does not know."""
    (table,) = re.findall(
        r"<!-- generated: money-rules -->(.*?)<!-- /generated -->",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    told = set(re.findall(r"^\| `([a-z_]+)` \|", table, flags=re.MULTILINE))
    assert told - {name for rule in RULES for name in rule.instead} == ELSEWHERE


def test_profiles_have_names_of_their_own() -> None:
    """A count is found again by its name."""
    names = [each.name for each in (*PER_COMMIT, *LARGE)]
    assert len(names) == len(set(names))
