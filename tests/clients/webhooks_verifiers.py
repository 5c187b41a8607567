"""Deliveries of the gateway's own sender, judged by libraries of others: part of `make e2e-clients`.

JavaScript: `standardwebhooks`, `svix` and the function of the documentation, in a real receiver. Go: the
function of the documentation, by its vectors. Exit 2 where node or npm is missing; Go is left out where
it is missing, and that is said.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway.config.settings import WebhookSettings
from gateway.runtime import real_runtime
from gateway.signing import secret_text
from gateway.webhooks.sender import DeliveryOutcome, Sender, Target, client_for
from tests.vectors import block, cases

_HERE = Path(__file__).parent / "webhooks"
_LIMIT_S = 180
_MINE, _OTHER = bytes(range(32)), bytes(range(32, 64))
_BODIES = (b'{"type":"payout.delivered","data":{}}', '{"note":"Zoë ✓"}'.encode(), b"{}")


def main() -> int:
    """Install, run, compare."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        sys.stderr.write("e2e-clients: node and npm are needed (Debian: apt-get install npm)\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="payout-gateway-verifiers-") as name:
        folder = Path(name)
        for each in ("package.json", "package-lock.json", ".npmrc", "receive.mjs"):
            shutil.copy(_HERE / each, folder)
        (folder / "page.mjs").write_text(block("javascript"), encoding="utf-8")
        subprocess.run([npm, "ci", "--silent"], cwd=folder, check=True, timeout=_LIMIT_S)
        javascript = _javascript(node, folder)
        go = _go(folder)
    if not javascript or go is False:
        sys.stderr.write(f"e2e-clients: failed (JavaScript: {javascript}, Go: {go})\n")
        return 1
    return 0


def _javascript(node: str, folder: Path) -> bool:
    environment = {**os.environ, "WEBHOOK_SECRET": secret_text(_MINE)}
    receiver = subprocess.Popen(
        [node, "receive.mjs"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert receiver.stdout is not None
        url = f"http://127.0.0.1:{int(receiver.stdout.readline())}/"
        wanted = [
            ((_MINE,), True),
            ((_OTHER, _MINE), True),
            ((_MINE, _OTHER), True),
            ((_OTHER,), False),
        ]
        ok = True
        for secrets, verifies in wanted:
            for body in _BODIES:
                outcome = asyncio.run(_send(url, secrets, body))
                verdicts = json.loads(receiver.stdout.readline())
                ok = ok and verdicts == [verifies] * 3
                ok = ok and (outcome is DeliveryOutcome.SUCCEEDED) is verifies
        told = f"{len(wanted) * len(_BODIES)} deliveries: standardwebhooks, svix and the page's function agree"
        print(f"JavaScript: {told if ok else 'they do not agree'}")
        return ok
    finally:
        receiver.terminate()
        receiver.wait(10)


async def _send(url: str, secrets: tuple[bytes, ...], body: bytes) -> DeliveryOutcome:
    settings = WebhookSettings(allow_private_addresses=True)
    async with client_for(settings) as http:
        sender = Sender(http, settings, real_runtime())
        return (await sender.send(Target(url, secrets), "evt_verify", body)).outcome


def _go(folder: Path) -> bool | None:
    go = shutil.which("go")
    if go is None:
        print("Go: not installed, left out")
        return None
    (folder / "page.go").write_text(
        block("go").replace("package hooks", "package main"), encoding="utf-8"
    )
    shutil.copy(_HERE / "vectors.go", folder)
    (folder / "go.mod").write_text("module hooks\n\ngo 1.18\n", encoding="utf-8")
    ran = subprocess.run(
        [go, "run", "."],
        cwd=folder,
        input=json.dumps(cases()),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off"},
    )
    ok = ran.returncode == 0 and json.loads(ran.stdout) == [case[0] for case in cases()]
    print(f"Go: {len(cases())} vectors {'as expected' if ok else 'failed: ' + ran.stderr}")
    return ok


if __name__ == "__main__":
    sys.exit(main())
