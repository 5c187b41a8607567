"""`audit`: read, check and export the audit log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    print_records,
    print_table,
    reading_store,
    told_time,
)

if TYPE_CHECKING:
    from gateway.store.audit import Head
    from gateway.store.database import Database, Row

app = typer.Typer(help="The audit log: who did what, and when.", no_args_is_help=True)
#: Rows per read; reads are short, because the gateway runs meanwhile.
_AT_ONCE = 1000
_GONE = "it has keys or payouts, and no chain any more: every row of it was taken out"

OrgOption = Annotated[str | None, typer.Option(help="Only the chain of this org.")]
InstallationOption = Annotated[
    bool,
    typer.Option(
        "--installation", help="Only the chain of the installation, which belongs to no org."
    ),
]


@app.command(name="list")
def list_(  # noqa: PLR0913 - one argument per option
    *,
    org: OrgOption = None,
    installation: InstallationOption = False,
    subject: Annotated[
        str | None, typer.Option(help="Only what was done to this payout, key, endpoint or batch.")
    ] = None,
    act: Annotated[
        str | None, typer.Option(help="Only this action, such as payout_resolved.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")] = 50,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """List actions, newest first."""
    from gateway.store.audit import newest_acts

    chain = _chain(org, installation=installation)

    async def work(db: Database) -> list[Row]:
        return await db.scan(newest_acts, limit, org=chain, subject=subject, act=act)

    rows = [_told(row) for row in reading_store(config, work)]
    if as_json:
        print_json({"data": rows})
        return
    head = ("at", "org", "act", "subject")
    more = ("actor", "detail", "before", "after", "request_id")
    told = [{name: _cell(row[name]) for name in (*head, *more)} for row in rows]
    for each in told:
        each["org"] = each["org"] or "(installation)"
    print_records(told, head, more)


@app.command()
def verify(
    *,
    heads: Annotated[
        Path | None,
        typer.Option(
            help="A file with what `audit verify --json` printed earlier: each head in it must still be "
            "in its chain. Without it, rows that were cut off at the end are not noticed."
        ),
    ] = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Check every chain. Exits with 1 if a row was changed, removed or inserted.

    Keep the heads that it prints outside of the database, and check them the next time.
    """
    known = {} if heads is None else _read_heads(heads)

    async def work(db: Database) -> list[tuple[Head, str | None]]:
        from gateway.store.audit import Head, chains, orgs_without_chain

        orgs = dict.fromkeys([*await db.scan(chains), *known])
        followed = [await _follow(db, org, known.get(org)) for org in orgs]
        gone = [each for each in await db.scan(orgs_without_chain) if each not in orgs]
        return [*followed, *((Head(org, 0, ""), _GONE) for org in gone)]

    found = reading_store(config, work)
    faults = [f"{head.org or 'installation'}: {wrong}" for head, wrong in found if wrong]
    rows = [
        {"org": head.org or None, "number": head.number, "hash": head.hash, "fault": wrong}
        for head, wrong in found
    ]
    if as_json:
        print_json({"heads": rows})
    else:
        columns = ["org", "number", "hash", "fault"]
        title = "Chains, and the last row of each that fits"
        cells = [
            [row["org"] or "(installation)", *(row[name] for name in columns[1:])] for row in rows
        ]
        print_table(title, columns, cells)
    if faults:
        fail(faults)


@app.command()
def export(
    *,
    org: OrgOption = None,
    installation: InstallationOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
) -> None:
    """Print every stored row as one line of JSON, chain by chain, oldest first."""
    from gateway.store.audit import chains

    chain = _chain(org, installation=installation)

    async def work(db: Database) -> None:
        for each in await db.scan(chains) if chain is None else [chain]:
            async for rows in _pages(db, each):
                for row in rows:
                    # The row is printed as stored, so that its hash can be checked elsewhere.
                    print_json(dict(row))

    reading_store(config, work)


def _chain(org: str | None, *, installation: bool) -> str | None:
    from gateway.store.audit import INSTALLATION

    if org is not None and installation:
        fail("give --org or --installation, not both", 2)
    return INSTALLATION if installation else org


async def _pages(db: Database, org: str) -> AsyncIterator[list[Row]]:
    from gateway.store.audit import chain_page

    after = 0
    while rows := await db.scan(chain_page, org, after, _AT_ONCE):
        yield rows
        after = rows[-1]["number"]


async def _follow(db: Database, org: str, known: Head | None) -> tuple[Head, str | None]:
    """Follow a chain to its end; return the last valid row, and the error after it."""
    from gateway.store.audit import Head, broken

    head, wrong = Head(org, 0, ""), None
    seen = known is None or known.number == 0
    async for rows in _pages(db, org):
        for row in rows:
            head, wrong = broken([row], head)
            if wrong is not None:
                return head, wrong
            if known is not None and head.number == known.number:
                if head.hash != known.hash:
                    return head, f"row {known.number} is not the one that was noted earlier"
                seen = True
    if known is not None and not seen:
        return head, f"it ends with row {head.number}, and had {known.number} rows earlier"
    return head, wrong


def _read_heads(path: Path) -> dict[str, Head]:
    from gateway.store.audit import Head

    try:
        told = json.loads(path.read_text(encoding="utf-8"))["heads"]
        return {
            each["org"] or "": Head(each["org"] or "", int(each["number"]), str(each["hash"]))
            for each in told
        }
    except (OSError, ValueError, KeyError, TypeError):
        fail(f"{path} has no heads: write it with `audit verify --json`", 2)


def _told(row: Row) -> dict[str, Any]:
    from gateway.store.rows import from_us

    told = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row iterates over its values
    for name in ("before", "after"):
        # A tampered value may be anything; it is shown unchanged.
        with suppress(ValueError, TypeError):
            told[name] = None if row[name] is None else json.loads(row[name])
    at = str(row["at"])
    with suppress(ValueError, TypeError, OverflowError):
        at = told_time(from_us(row["at"])) or at
    return {**told, "org": row["org"] or None, "at": at}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
