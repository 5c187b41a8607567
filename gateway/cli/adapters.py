"""`adapters`: what is installed, and a new one to begin with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.common import JsonOption, fail, print_json, print_table

app = typer.Typer(help="Custodian adapters.", no_args_is_help=True)


@app.command(name="list")
def list_(*, as_json: JsonOption = False) -> None:
    """List installed adapters with what they can do."""
    from gateway.registry import BrokenAdapter, find_adapters

    rows = []
    for name, found in find_adapters().items():
        if isinstance(found, BrokenAdapter):
            rows.append({"name": name, "works": False, "reason": found.reason})
            continue
        can = found.capabilities
        rows.append(
            {
                "name": name,
                "works": True,
                "destination_types": sorted(can.destination_types),
                "payee_types": sorted(can.payee_types),
                "source_types": sorted(can.source_types),
                "batch": can.batch,
                "cancel": can.cancel,
                "webhooks": can.webhooks,
                "one_at_a_time": can.one_at_a_time,
            }
        )
    if as_json:
        print_json({"data": rows})
        return
    print_table(
        "Adapters",
        ["name", "destinations", "batch", "cancel", "webhooks", "note"],
        [
            [
                row["name"],
                ", ".join(row.get("destination_types", ())),  # type: ignore[arg-type]
                row.get("batch"),
                row.get("cancel"),
                row.get("webhooks"),
                row.get("reason"),
            ]
            for row in rows
        ],
    )


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Name of the adapter: lowercase letters, digits, underscores.")
    ],
    into: Annotated[Path, typer.Option(help="The folder of the adapters.")] = Path("adapters"),
) -> None:
    """Copy the dummy adapter under a new name, to begin with."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,40}", name):
        fail("a name has lowercase letters, digits and underscores, and begins with a letter", 2)
    source, target = into / "dummy", into / name
    if not source.is_dir():
        fail(f"there is no {source}; run this in a checkout of the project", 2)
    if target.exists():
        fail(f"{target} exists; nothing was written")
    kind = "".join(part.title() for part in name.split("_"))
    target.mkdir()
    for file in sorted(source.iterdir()):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            text = text.replace("Dummy", kind).replace("DUMMY", name.upper()).replace("dummy", name)
            (target / file.name).write_text(text, encoding="utf-8")
            shutil.copymode(file, target / file.name)
    typer.echo(f"wrote {target}. Next, in pyproject.toml:")
    typer.echo(
        f'  [project.entry-points."payout_gateway.adapters"]\n  {name} = "adapters.{name}.adapter:{kind}"'
    )
    typer.echo(
        f'  [project.entry-points."payout_gateway.twins"]\n  {name} = "adapters.{name}.sandbox:main"'
    )
    typer.echo("then: make setup check test")
