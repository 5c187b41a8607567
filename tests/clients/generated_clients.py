"""Clients that generators make of the OpenAPI description: part of `make e2e-clients`.

`openapi-generator` (Python and typescript-fetch), `openapi-typescript` with `openapi-fetch`, and
`openapi-python-client` read the description of a running gateway, without any option but where to write.
Each client has to compile, make a quote, pay it, be refused a second payout with a typed problem, and read
the payout's events. Exit 0 only if every one did and the twins paid once for each; 2 where a tool is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.demo.stack import Stack, running_stack

_HERE = Path(__file__).parent / "generated"
_TOOLS = Path(__file__).parents[2] / "build" / "clients" / "bin"
_LIMIT_S = 180
#: What every client has to see of its payout.
_WANTED = {
    "status": "delivered",
    "refusal": "quote_already_used",
    "kinds": ["payout.created", "payout.broadcast", "payout.delivered"],
    "amount": "43",
    "dated": True,
}


class StepFailedError(Exception):
    """A tool or a client ended with an error; its output is the message."""


def main() -> int:
    """Generate, compile, pay, compare."""
    missing = [each for each in ("java", "node", "npm") if shutil.which(each) is None]
    if not (_TOOLS / "openapi-generator-cli").exists():
        missing.append("openapi-generator-cli")
    if missing:
        sys.stderr.write(f"e2e-clients: missing: {', '.join(missing)}; see scripts/clients\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="payout-gateway-generated-") as name:
        return asyncio.run(_run(Path(name)))


async def _run(folder: Path) -> int:
    work, state = folder / "clients", folder / "stack"
    state.mkdir()
    shutil.copytree(_HERE, work)
    async with running_stack(state) as stack:
        clients = {
            "openapi-generator, python": _generator_python,
            "openapi-generator, typescript-fetch": _typescript,
            "openapi-typescript, openapi-fetch": _openapi_fetch,
            "openapi-python-client": _python_client,
        }
        async with stack.http.get(stack.url + "/openapi.json") as answer:
            (work / "openapi.json").write_bytes(await answer.read())
        failed = 0
        for name, pay in clients.items():
            try:
                told = await asyncio.to_thread(pay, work, stack)
            except StepFailedError as error:
                print(f"{name}: failed\n{error}")
                failed += 1
                continue
            failed += told != _WANTED
            print(f"{name}: {'compiled, quoted, paid' if told == _WANTED else told}")
        paid = [each["amount"] for each in await stack.transfers()]
    if failed or paid != ["43"] * len(clients):
        sys.stderr.write(f"e2e-clients: {failed} failed; the ledger has {paid}\n")
        return 1
    print(f"{len(clients)} clients; the ledger has {len(paid)} transfers")
    return 0


def _generator_python(work: Path, stack: Stack) -> Any:
    _generate(work, "python", "python")
    _compile_python(work, "python/openapi_client", "pay_openapi_generator.py")
    return _pay(work, stack, [_TOOLS / "python", "pay_openapi_generator.py"], "python")


def _typescript(work: Path, stack: Stack) -> Any:
    _generate(work, "typescript-fetch", "fetch")
    _call(work, ["npm", "ci", "--silent"])
    _call(work, ["node_modules/.bin/openapi-typescript", "openapi.json", "-o", "schema.d.ts"])
    # Both TypeScript clients at once, with `strict`.
    _call(work, ["node_modules/.bin/tsc", "-p", "."])
    return _pay(work, stack, ["node", "built/pay_typescript_fetch.js"])


def _openapi_fetch(work: Path, stack: Stack) -> Any:
    return _pay(work, stack, ["node", "built/pay_openapi_fetch.js"])


def _python_client(work: Path, stack: Stack) -> Any:
    _call(
        work,
        [
            _TOOLS / "openapi-python-client",
            *("generate", "--path", "openapi.json", "--output-path", "made"),
        ],
    )
    _compile_python(work, "made/payout_gateway_client", "pay_openapi_python_client.py")
    # This one is typed: its caller is checked as well.
    _call(work, [_TOOLS / "mypy", "pay_openapi_python_client.py"], "made")
    return _pay(work, stack, [_TOOLS / "python", "pay_openapi_python_client.py"], "made")


def _generate(work: Path, generator: str, target: str) -> None:
    tool = _TOOLS / "openapi-generator-cli"
    _call(work, [tool, "generate", "-i", "openapi.json", "-g", generator, "-o", target])


def _compile_python(work: Path, *paths: str) -> None:
    _call(work, [_TOOLS / "python", "-m", "compileall", "-q", *paths])


def _pay(work: Path, stack: Stack, command: Sequence[Path | str], path: str = "") -> Any:
    out = _call(work, command, path, URL=stack.url, KEY=stack.key)
    return json.loads(out.strip().splitlines()[-1])


def _call(work: Path, command: Sequence[Path | str], path: str = "", **variables: str) -> str:
    """Run a command in the folder; StepFailedError with its output where it ends with an error."""
    found = {**os.environ, **variables}
    found["PATH"] = f"{_TOOLS}{os.pathsep}{found['PATH']}"
    if path:
        found["PYTHONPATH"] = found["MYPYPATH"] = str(work / path)
    ran = subprocess.run(
        [str(each) for each in command],
        cwd=work,
        env=found,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    if ran.returncode != 0:
        raise StepFailedError((ran.stdout + ran.stderr)[-6000:])
    return ran.stdout


if __name__ == "__main__":
    sys.exit(main())
