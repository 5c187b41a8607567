"""`payouts erase`: erases recipients' personal data from named payouts, or from all that ended before a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    frozen_reason,
    microseconds_of,
    operator_name,
    print_json,
    say,
    with_store,
)

if TYPE_CHECKING:
    from gateway.runtime import Runtime
    from gateway.store.database import Database

_AT_ONCE = 500


@dataclass
class _Done:
    """The payouts that were or would be erased, and those that were not, with the reason."""

    erased: int = 0
    kept: dict[str, list[str]] = field(default_factory=dict)
    frozen: str | None = None


def erase(  # noqa: PLR0913 - one argument per option
    payout_ids: Annotated[
        list[str] | None, typer.Argument(help="Payout ids; without any give --ended-before.")
    ] = None,
    *,
    ended_before: Annotated[
        str | None,
        typer.Option(help="All payouts that ended before this time, such as 2026-03-02T10:00:00Z."),
    ] = None,
    org: Annotated[str | None, typer.Option(help="With --ended-before: only this org's.")] = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Erase; without this option, only show what would be erased."),
    ] = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Erase the recipient, and whatever else may name a person, from ended payouts, permanently.

    Ids, references, amounts, statuses, times and hashes stay. A payout stays unchanged while anything
    still needs it; with --ended-before, so does one that failed while money may have moved.
    """
    from gateway.runtime import real_runtime

    named = payout_ids or []
    if bool(named) == (ended_before is not None):
        fail("name payouts, or give --ended-before", 2)
    if org is not None and ended_before is None:
        fail("--org goes with --ended-before", 2)
    before = None if ended_before is None else microseconds_of("--ended-before", ended_before)
    runtime = real_runtime()

    async def work(db: Database) -> _Done:
        reason = await frozen_reason(db)
        if reason is not None:
            return _Done(frozen=reason)
        if before is None:
            return await _named(db, runtime, named, yes=yes)
        return await _ended(db, runtime, before, org, yes=yes)

    done = with_store(config, work, runtime)
    if done.frozen is not None:
        fail(f"nothing was erased: {done.frozen}")
    if as_json:
        print_json(
            {"erased": done.erased if yes else 0, "would_erase": done.erased, "kept": done.kept}
        )
    else:
        many = f"{done.erased} payout" + ("" if done.erased == 1 else "s")
        say(f"{many}: personal data was erased" if yes else f"{many} would be erased; give --yes")
        for payout_id, reasons in done.kept.items():
            say(f"{payout_id} was kept as it is: {'; '.join(reasons)}")
    if done.kept:
        raise typer.Exit(1)


async def _named(db: Database, runtime: Runtime, named: list[str], *, yes: bool) -> _Done:
    from gateway.erasure import erase as act
    from gateway.store.erasure import needs_of, standing

    done, at = _Done(), runtime.clock.moment().wall
    for payout_id in dict.fromkeys(named):
        row = await db.read(standing, payout_id)
        if row is None:
            done.kept[payout_id] = ["there is no such payout"]
            continue
        needs = (
            await db.run(act, runtime.ids, at, payout_id, operator_name()) if yes else needs_of(row)
        )
        if needs:
            done.kept[payout_id] = needs
        else:
            done.erased += 1
    return done


async def _ended(
    db: Database, runtime: Runtime, before: int, org: str | None, *, yes: bool
) -> _Done:
    from gateway.erasure import erase as act
    from gateway.store.erasure import erasable, erasable_count

    if not yes:
        return _Done(erased=await db.scan(erasable_count, before, org))
    done, at = _Done(), runtime.clock.moment().wall
    while found := await db.scan(erasable, before, _AT_ONCE, org):
        gone = 0
        for payout_id in found:
            needs = await db.run(act, runtime.ids, at, payout_id, operator_name())
            gone += not needs
        done.erased += gone
        if not gone:
            break
    return done
