"""`adapters`: lists and checks installed adapters, and starts a new one."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.common import JsonOption, fail, print_json, print_table, say
from gateway.cli.packages import kind_of, renamed

app = typer.Typer(help="Custodian adapters.", no_args_is_help=True)


@app.command(name="list")
def list_(*, as_json: JsonOption = False) -> None:
    """List installed adapters with what they can do."""
    from gateway.custodians.registry import BrokenAdapter, find_adapters

    rows: list[dict[str, Any]] = []
    for name, found in find_adapters().items():
        if isinstance(found, BrokenAdapter):
            rows.append({"name": name, "works": False, "reason": found.reason})
            continue
        declared = getattr(found, "capabilities", None)
        # An adapter may declare its capabilities when it is built, depending on its settings.
        declared = {} if declared is None else asdict(declared)
        can = {name: _plain(value) for name, value in declared.items()}
        rows.append({"name": name, "works": True, **can})
    if as_json:
        print_json({"data": rows})
        return
    columns = ["destination_types", "payee_types", "source_types", "batch", "cancel", "webhooks"]
    print_table(
        "Adapters",
        ["name", *(column.replace("_", " ") for column in columns), "note"],
        [
            [row["name"], *(_words(row.get(column)) for column in columns), row.get("reason")]
            for row in rows
        ],
    )


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if value else ""


def _plain(value: Any) -> Any:
    """Return a capability as JSON, in a stable order."""
    return sorted(value) if isinstance(value, set | frozenset) else value


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(help="Name of the adapter: lowercase letters, digits, underscores.")
    ],
    into: Annotated[Path, typer.Option(help="The folder of the adapters.")] = Path("adapters"),
    package: Annotated[
        Path | None,
        typer.Option(
            help="Write a separate package to this folder, outside a checkout of the project."
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Start an adapter: the dummy's code under a new name, here or as a separate package."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,40}", name):
        fail("a name has lowercase letters, digits and underscores, and begins with a letter", 2)
    if package is not None:
        _new_package(name, package, as_json=as_json)
        return
    if not (into / "dummy").is_dir():
        fail(f"there is no {into / 'dummy'}; run this in a checkout of the project", 2)
    tests = into.parent / "tests" / into.name
    for folder in (into / name, tests / name):
        if folder.exists():
            fail(f"{folder} exists; nothing was written")
    kind = kind_of(name)
    written = [_copy(folder, name) for folder in (into, tests) if (folder / "dummy").is_dir()]
    if as_json:
        print_json({"name": name, "written": [str(each) for each in written]})
        return
    say(f"wrote {' and '.join(map(str, written))}. Next, in pyproject.toml:")
    say(
        '  [project.entry-points."payout_gateway.adapters"]',
        f'  {name} = "adapters.{name}.adapter:{kind}"',
        '  [project.entry-points."payout_gateway.twins"]',
        f'  {name} = "adapters.{name}.twin.app:main"',
        "then: make setup fmt docs check test",
    )


def _new_package(name: str, folder: Path, *, as_json: bool) -> None:
    """Write a package for an adapter."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fail(f"{folder} exists and is no empty folder; nothing was written")
    from gateway.cli.packages import write_package

    written = write_package(folder, name)
    if as_json:
        print_json({"name": name, "written": [str(each) for each in written]})
        return
    say(f"wrote {len(written)} files to {folder}. Next:")
    say(
        f"  cd {folder}",
        "  pip install -e '.[test]'",
        f"  payout-gateway adapters check {name} --e2e",
    )


def _copy(folder: Path, name: str) -> Path:
    """Copy the dummy's folder beside it, with its names replaced; return the new folder."""
    target = folder / name
    target.mkdir()
    for file in sorted((folder / "dummy").rglob("*")):
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        copy = target / file.relative_to(folder / "dummy")
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(renamed(file.read_text(encoding="utf-8"), name), encoding="utf-8")
        shutil.copymode(file, copy)
    return target


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of an installed adapter.")],
    *,
    e2e: Annotated[
        bool, typer.Option("--e2e", help="Also run a real gateway, which is killed and restarted.")
    ] = False,
    tests: Annotated[
        Path,
        typer.Option(help="The kit's test: a file test_kit.py, or a folder above it."),
    ] = Path("tests"),
    as_json: JsonOption = False,
) -> None:
    """Check an adapter: the rules of the contract, then the kit; print what it has shown."""
    from gateway.cli.check import check as run
    from gateway.custodians.checks import faults_of

    faults = faults_of(name)
    if faults:
        fail(f"{name}: {each}" for each in faults)
    raise typer.Exit(run(name, tests, e2e=e2e, as_json=as_json))
