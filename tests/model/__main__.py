"""Search the larger profiles and switch every rule off: `make model`.

python -m tests.model              everything
python -m tests.model sets         the profiles and rules whose name has this word
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.model.fair import FairRuns
from tests.model.profiles import LARGE, PER_COMMIT
from tests.model.rules import RULES, Rule, missed
from tests.model.search import explore
from tests.model.world import Profile

#: So many states, evenly spread, are the beginnings of fair runs.
_SAMPLE = 3000


def _searched(profile: Profile) -> tuple[bool, str]:
    """Return whether nothing went wrong, and what is printed of a profile."""
    found = explore(profile)
    if found.wrong is not None:
        return False, f"{found.line()}\n{found.story()}"
    dead = FairRuns(profile).dead_end(found.sample(_SAMPLE))
    if dead is None:
        return True, found.line()
    way = "\n".join([*found.way_to(dead.state), f"-- {dead.luck.name} --", *dead.says[:20]])
    return False, f"{found.line()}; but a fair run does not end:\n{way}"


def _switched_off(rule: Rule) -> tuple[bool, str]:
    """Return whether a rule was missed, and a line of the table."""
    found = missed(rule)
    right = found.wrong == rule.expects
    cells = [
        f"`{rule.name}`",
        rule.what,
        rule.profile.name,
        found.wrong or "NOTHING GOES WRONG",
        len(found.trace),
        found.states,
    ]
    return right, "| " + " | ".join(str(each) for each in cells) + " |"


def main() -> int:
    """Print the counts of every profile, and the table of rules; 1 where something is wrong."""
    word = sys.argv[1] if sys.argv[1:] else ""
    began = time.perf_counter()
    profiles = [each for each in (*PER_COMMIT, *LARGE) if word in each.name]
    rules = [each for each in RULES if word in each.name]
    right = True
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for fine, line in pool.map(_searched, profiles):
            right = right and fine
            print(line, flush=True)
        if rules:
            print("\n| rule | switched off | runs | what goes wrong | steps | states |")
            print("| --- | --- | --- | --- | --- | --- |")
        for fine, line in pool.map(_switched_off, rules):
            right = right and fine
            print(line, flush=True)
    print(
        f"\n{'all as expected' if right else 'NOT AS EXPECTED'}, {time.perf_counter() - began:.0f} s"
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
