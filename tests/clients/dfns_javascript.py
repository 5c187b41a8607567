"""Run the official JavaScript client of Dfns against the twin: `make e2e-clients`.

A job of its own: it needs node and npm, and npm may download. Exit 0 only if every step passed and
the twin's ledger has exactly the two transfers that the client made; 2 where node is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

_HERE = Path(__file__).parent / "dfns"
_ROOT = Path(__file__).parents[2]
_LIMIT_S = 180


def main() -> int:
    """Install, run, and compare the ledger."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        sys.stderr.write("e2e-clients: node and npm are needed (Debian: apt-get install npm)\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="payout-gateway-clients-") as name:
        folder = Path(name)
        for each in ("package.json", "package-lock.json", ".npmrc", "run.mjs"):
            shutil.copy(_HERE / each, folder)
        subprocess.run([npm, "ci", "--silent"], cwd=folder, check=True, timeout=_LIMIT_S)
        arguments = ["adapters.dfns.twin.app", "--port", "0", "--step-s", "0.05"]
        twin = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=_ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            assert twin.stdout is not None
            told = json.loads(twin.stdout.readline())
            environment = {**os.environ, "DFNS_TWIN": json.dumps(told)}
            ran = subprocess.run(
                [node, "run.mjs"], cwd=folder, env=environment, check=False, timeout=_LIMIT_S
            )
            with urllib.request.urlopen(told["control_url"] + "/_twin/ledger") as answer:
                amounts = sorted(each["amount"] for each in json.load(answer)["transfers"])
        finally:
            twin.terminate()
            twin.wait(10)
    if ran.returncode != 0 or amounts != ["1", "43"]:
        sys.stderr.write(f"e2e-clients: failed; the ledger has {amounts}, not ['1', '43']\n")
        return 1
    print(f"every step passed; the ledger has {amounts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
