"""`custodians`: what an operator declares about custodian accounts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    fail,
    operator_name,
    settings_of,
    with_store,
)

if TYPE_CHECKING:
    from gateway.store.database import Database

app = typer.Typer(help="Custodian instances, for operators.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Custodian instances, for operators."""


@app.command(name="same-account")
def same_account(
    name: Annotated[str, typer.Argument(help="Name of the custodian instance.")],
    *,
    fingerprint: Annotated[str, typer.Option(help="The fingerprint that earlier calls carry.")],
    same_as: Annotated[str, typer.Option(help="The fingerprint that looks carry now.")],
    evidence: Annotated[
        str, typer.Option(help="How you know that both are one account at the custodian; kept.")
    ],
    config: ConfigOption = Path(DEFAULT_CONFIG),
) -> None:
    """Declare that two fingerprints are one account, after its credentials or address were changed.

    Looks made now then count for calls made before. If they are not one account, a payout may be
    paid twice.
    """
    from gateway.execution.proof import NO_ACCOUNT
    from gateway.runtime import real_runtime
    from gateway.store.accounts import declare_same_account

    if not evidence.strip():
        fail("--evidence must say how you know", 2)
    if NO_ACCOUNT in {fingerprint, same_as}:
        fail(f"{NO_ACCOUNT!r} is no account: no look finds the calls that an adoption recorded", 2)
    settings, runtime = settings_of(config), real_runtime()
    if name not in settings.custodians:
        known = ", ".join(sorted(settings.custodians)) or "none"
        fail(f"there is no custodian {name}; custodians: {known}", 2)

    async def work(db: Database) -> bool:
        return await db.run(
            declare_same_account,
            runtime.ids,
            runtime.clock.moment().wall,
            operator_name(),
            custodian=name,
            fingerprint=fingerprint,
            same_as=same_as,
            evidence=evidence.strip(),
        )

    done = with_store(config, work)
    typer.echo("declared" if done else "both are declared the same account already")
