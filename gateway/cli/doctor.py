"""`doctor`: checks the whole installation, and says what to do about each problem."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, print_json, say

if TYPE_CHECKING:
    from gateway.doctor import Finding


def doctor(
    *,
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait",
            help="Do not watch for up to 11 s which of the registered gateways run; all of them count.",
        ),
    ] = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Check everything that this gateway needs, and say how to fix each problem.

    Configuration, disk, permissions, open files, database, schema, server key, frozen state, rules,
    custodians that were removed with open payouts, every gateway on the database, each custodian with its credentials and clock, and the egress guard. It changes
    nothing, makes one harmless read at each custodian, and prints no secret. Exit code 1 if a check failed;
    warnings do not count.
    """
    from gateway import logs
    from gateway.doctor import Level, examine
    from gateway.runtime import real_runtime

    logs.configure("json", "critical")

    async def run() -> list[Finding]:
        found = []
        async for each in examine(config, real_runtime(), wait=not no_wait):
            found.append(each)
            if not as_json:
                _print(each)
        return found

    found = asyncio.run(run())
    failures = sum(each.level is Level.FAILED for each in found)
    if as_json:
        print_json({"ok": not failures, "findings": [each.as_json() for each in found]})
    else:
        warnings = sum(each.level is Level.WARNING for each in found)
        say("", f"{len(found)} checks: {failures} failed, {warnings} with a warning")
    if failures:
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    say(f"{finding.level.value:<8} {finding.check}: {finding.detail}")
    if finding.fix:
        say(f"         fix: {finding.fix}")
