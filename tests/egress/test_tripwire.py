"""In networks of our own nothing of the gateway reaches an address that is not public, or its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.egress.tripwire import OWN, PUBLIC, TRAPS

_UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]


def _allowed() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    links = "ip link add a0 type veth peer name b0 && unshare --net true"
    done = subprocess.run(
        [*_UNSHARE, "sh", "-c", links], capture_output=True, check=False, timeout=20
    )
    return done.returncode == 0


@pytest.mark.skipif(not _allowed(), reason="this machine allows no network namespaces")
def test_nothing_is_touched() -> None:
    """Each address has a listener and a route, as the run without the guard shows."""
    done = subprocess.run(
        [*_UNSHARE, sys.executable, "-m", "tests.egress.tripwire"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    everywhere = (*OWN, *TRAPS)
    assert found["guarded"] == {each: ["blocked"] * 4 for each in everywhere}
    assert found["public"] == {each: ["succeeded"] * 4 for each in PUBLIC}
    assert found["visits"] == {"near": [], "far": [f"/{each}" for each in PUBLIC for _ in "1234"]}
    assert found["unguarded"] == {each: ["succeeded"] * 4 for each in everywhere}
