"""The tutorial, run as it stands."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

_PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.timeout(180)
async def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Every block in order, in one shell, in an empty folder: a payout, a batch and its report."""
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```$", _PAGE.read_text("utf-8"))
    assert len(blocks) > 8
    script = "set -euo pipefail\n" + "\n".join(blocks)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if "PAYOUT_GATEWAY" not in name}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script),
        cwd=tmp_path,
        env={**kept, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 150)
    finally:
        # The sandbox and the gateway are of its group, where the script did not get to its end.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = out.decode()
    assert process.returncode == 0, text[-4000:]
    with (tmp_path / "report.csv").open(newline="") as report:
        lines = {row["external_ref"]: row["status"] for row in csv.DictReader(report)}
    assert lines == {"emp-2208": "delivered", "emp-2209": "delivered"}
    payout = json.loads((tmp_path / "payout.json").read_text())
    assert payout["status"] == "delivered"
    assert payout["id"] in text
    types = [each["type"] for each in json.loads((tmp_path / "events.json").read_text())["data"]]
    assert types == ["payout.created", "payout.broadcast", "payout.delivered"]
