"""`payouts acknowledge`: what an operator has seen to leaves the list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    fail,
    operator_name,
    say,
    with_store,
)

if TYPE_CHECKING:
    from gateway.store.database import Database, Row


def acknowledge(
    payout_id: Annotated[str, typer.Argument(help="Payout id.")],
    *,
    reason: Annotated[str, typer.Option(help="What you found; kept in the audit log.")],
    code: Annotated[
        str | None, typer.Option(help="Only this attention code; everything open otherwise.")
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
) -> None:
    """Take a payout off the operator's list. It changes nothing else about it.

    What is noted again with the same words stays acknowledged; anything new opens the list again.
    """
    from gateway.attention import acknowledge as close
    from gateway.model import Attention
    from gateway.runtime import real_runtime
    from gateway.store.audit import Act

    if not reason.strip():
        fail("--reason must say what you found", 2)
    if code is not None and code not in set(Attention):
        fail(f"there is no attention code {code}; codes: {', '.join(Attention)}", 2)
    runtime = real_runtime()

    async def work(db: Database) -> list[Row] | None:
        by = Act(operator_name())
        return await db.run(close, runtime, payout_id, code, reason.strip(), by)

    closed = with_store(config, work, runtime)
    if closed is None:
        fail(f"there is no payout {payout_id}")
    if not closed:
        fail(f"nothing of {payout_id} is open on the list")
    for row in closed:
        say(f"acknowledged {row['code']}: {row['detail']}")
