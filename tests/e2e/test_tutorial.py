"""The tutorial, run as it stands."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from tests.e2e.scripts import run_script

_PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.timeout(180)
async def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Every block in order, in one shell, in an empty folder: a payout, a batch and its report."""
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```$", _PAGE.read_text("utf-8"))
    assert len(blocks) > 8
    script = "set -euo pipefail\n" + "\n".join(blocks)
    text = await run_script(script, tmp_path)
    with (tmp_path / "report.csv").open(newline="") as report:
        lines = {row["external_ref"]: row["status"] for row in csv.DictReader(report)}
    assert lines == {"emp-2208": "delivered", "emp-2209": "delivered"}
    payout = json.loads((tmp_path / "payout.json").read_text())
    assert payout["status"] == "delivered"
    assert payout["id"] in text
    types = [each["type"] for each in json.loads((tmp_path / "events.json").read_text())["data"]]
    assert types == ["payout.created", "payout.broadcast", "payout.delivered"]
