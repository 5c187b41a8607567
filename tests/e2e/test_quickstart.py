"""The quickstart, run as it stands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.e2e.scripts import run_script

_PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
#: Blocks that are not run here, and why.
_NOT_RUN = {
    "make demo": "tests/e2e/test_demo.py runs the demo",
    'make setup && export PATH="$PWD/.venv/bin:$PATH"': "this test runs in what it sets up",
}
#: What runs in a terminal of its own until it is stopped, and what shows that it is ready.
_TERMINALS = {
    "payout-gateway sandbox": "until [ -s terminal-1 ]; do sleep 0.2; done",
    "payout-gateway serve": """until curl -sf "$(sed -n 's/^public_url = "\\(.*\\)"/\\1/p' payout-gateway.toml)/readyz"; do sleep 0.2; done""",
}
_UNTIL_DELIVERED = """
until curl -s $URL/payouts/$PAYOUT -H "Authorization: Bearer $KEY" | tee payout.json | grep -q '"status":"delivered"'
do sleep 0.2; done
"""


def commands(text: str) -> list[str]:
    """Return what a reader types: the commands of every block, without what they print."""
    found = []
    for language, block in re.findall(r"(?ms)^```(sh|console)\n(.*?)^```$", text):
        if language == "sh":
            found.append(block.strip())
            continue
        lines = block.splitlines()
        while lines:
            line = lines.pop(0)
            if not line.startswith("$ "):
                continue
            command = line.removeprefix("$ ")
            while command.endswith("\\") or _is_open(command):
                command += "\n" + lines.pop(0)
            found.append(command)
    return found


def _is_open(command: str) -> bool:
    """Whether a quotation goes on in the next line."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def script() -> str:
    """Return the page as one script: its terminals in the background, the last step as it says."""
    text = _PAGE.read_text("utf-8")
    lines = ["set -euo pipefail"]
    for number, command in enumerate(commands(text)):
        if command in _NOT_RUN:
            continue
        ready = [wait for begin, wait in _TERMINALS.items() if command.startswith(begin)]
        lines += [f"{command} > terminal-{len(lines)} &", *ready] if ready else [command]
        if "/_twin/faults" in command:
            assert number == len(commands(text)) - 1
    steps = re.split(r"(?m)^### (\d)\. ", text)
    by_number = dict(zip(steps[1::2], steps[2::2], strict=True))
    again = [each.replace("tour-1", "tour-2") for n in "45" for each in commands(by_number[n])]
    ledger = "curl -s $CONTROL/_twin/ledger > ledger.json"
    return "\n".join([*lines, *again, _UNTIL_DELIVERED, ledger, "kill $(jobs -p)", "wait"])


@pytest.mark.timeout(180)
async def test_the_quickstart_runs(tmp_path: Path) -> None:
    """Every command in order: a payout, then one whose reply is lost; each is paid once."""
    await run_script(script(), tmp_path)
    payout = json.loads((tmp_path / "payout.json").read_text())
    assert payout["final_recipient_amount"] == "42.5"
    assert "outcome_unknown" in {each["sub_status"] for each in payout["timeline"]}
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["code"], again["payout_id"]) == ("quote_already_used", payout["id"])
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert [each["amount"] for each in ledger["transfers"]] == ["43", "43"]


def test_blocks_that_are_not_run_are_on_the_page() -> None:
    """The list of exceptions names only what is there."""
    assert set(_NOT_RUN) <= set(commands(_PAGE.read_text("utf-8")))
