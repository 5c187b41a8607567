"""`payouts acknowledge`: takes what an operator has dealt with off the list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    OperatorOption,
    fail,
    operator_name,
    print_json,
    say,
    with_store,
)

if TYPE_CHECKING:
    from gateway.store.database import Database, Row


def acknowledge(  # noqa: PLR0913 - one argument per option
    payout_id: Annotated[str, typer.Argument(help="Payout id.")],
    *,
    reason: Annotated[str, typer.Option(help="What you found; kept in the audit log.")],
    code: Annotated[
        str | None, typer.Option(help="Only this attention code. Not given: every open entry.")
    ] = None,
    operator: OperatorOption = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Take a payout off the operator's list. It changes nothing else about it.

    If the same entry is recorded again, it stays acknowledged; anything new opens a new entry.
    """
    from gateway.attention import acknowledge as close
    from gateway.model import Attention
    from gateway.runtime import real_runtime
    from gateway.store.audit import Act

    if not reason.strip():
        fail("--reason must say what you found", 2)
    if code is not None and code not in set(Attention):
        fail(f"there is no attention code {code}; codes: {', '.join(Attention)}", 2)
    runtime, name = real_runtime(), operator_name(operator)

    async def work(db: Database) -> list[Row] | None:
        by = Act(name)
        return await db.run(close, runtime, payout_id, code, reason.strip(), by)

    closed = with_store(config, work, runtime)
    if closed is None:
        fail(f"there is no payout {payout_id}")
    if not closed:
        fail(f"nothing of {payout_id} is open on the list")
    if as_json:
        rows = [{"code": row["code"], "detail": row["detail"]} for row in closed]
        print_json({"payout_id": payout_id, "acknowledged": rows, "operator": name})
        return
    for row in closed:
        say(f"acknowledged {row['code']}: {row['detail']}")
