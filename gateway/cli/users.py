"""`users`: manages who may sign in to the panel."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    operator_name,
    print_json,
    print_records,
    print_result,
    reading_store,
    settings_of,
    told_time,
    with_store,
)

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.users import Enrolment, UserInfo

app = typer.Typer(help="Users of the panel.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The user's name.")]
PasswordOption = Annotated[
    bool,
    typer.Option("--password-stdin", help="Read the password from standard input, for scripts."),
]


class RoleWord(StrEnum):
    """What a user may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command()
def create(  # noqa: PLR0913 - one argument per option
    name: NameArgument,
    *,
    role: Annotated[
        RoleWord,
        typer.Option(
            help="viewer reads; operator also acts on payouts and batches; admin also changes keys and "
            "webhook endpoints."
        ),
    ],
    org: Annotated[str | None, typer.Option(help="The org that the user sees.")] = None,
    all_orgs: Annotated[
        bool,
        typer.Option(
            "--all-orgs",
            help="Instead of --org: a user of the whole gateway, who may also retry and resolve payouts.",
        ),
    ] = False,
    password_stdin: PasswordOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Create a user, and print the authenticator secret once."""
    from gateway.runtime import real_runtime
    from gateway.store.audit import Act
    from gateway.users import Role, UserError
    from gateway.users import create as make
    from gateway.vault import vault_of

    if (org is None) != all_orgs:
        fail("give --org for a user of one org, or --all-orgs for one of the whole gateway", 2)
    settings, runtime = settings_of(config), real_runtime()
    hashed = _hashed(name, from_stdin=password_stdin)

    async def work(db: Database) -> Enrolment:
        vault = vault_of(settings, runtime.ids)
        act, site = Act(operator_name()), settings.public_url
        chosen = Role(role.value)
        return await db.run(make, runtime, vault, name, org, chosen, hashed, site=site, act=act)

    try:
        made = with_store(config, work, runtime, creates=True)
    except UserError as error:
        fail(f"not created: {error}", 2)
    _show(made, settings.public_url, as_json=as_json)


@app.command(name="list")
def list_(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """List users, including removed ones."""
    from gateway.users import list_users

    async def work(db: Database) -> list[UserInfo]:
        return await db.scan(list_users)

    rows = [
        {
            "id": each.id,
            "name": each.name,
            "org": each.org,
            "role": each.role,
            "created_at": told_time(each.created_at),
            "signed_in_at": told_time(each.signed_in_at),
            "removed_at": told_time(each.removed_at),
        }
        for each in reading_store(config, work)
    ]
    if as_json:
        print_json({"data": rows})
        return
    for row in rows:
        row["org"] = row["org"] or "(all orgs)"
    print_records(rows, ("name", "org", "role"), ("created_at", "signed_in_at", "removed_at"))


@app.command()
def remove(
    name: NameArgument,
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Remove a user. Open sessions of the user end at once."""
    from gateway.runtime import real_runtime
    from gateway.store.audit import Act
    from gateway.users import UserError
    from gateway.users import remove as take_away

    async def work(db: Database) -> None:
        await db.run(take_away, real_runtime(), name, Act(operator_name()))

    try:
        with_store(config, work)
    except UserError as error:
        fail(f"not removed: {error}")
    print_result({"name": name, "removed": True}, f"removed {name}", as_json=as_json)


@app.command()
def reset(
    name: NameArgument,
    *,
    password_stdin: PasswordOption = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Give a user a new password and a new authenticator secret; sessions of the user end."""
    from gateway.runtime import real_runtime
    from gateway.store.audit import Act
    from gateway.users import UserError
    from gateway.users import reset as renew
    from gateway.vault import vault_of

    settings, runtime = settings_of(config), real_runtime()
    hashed = _hashed(name, from_stdin=password_stdin)

    async def work(db: Database) -> Enrolment:
        vault = vault_of(settings, runtime.ids)
        act, site = Act(operator_name()), settings.public_url
        return await db.run(renew, runtime, vault, name, hashed, site=site, act=act)

    try:
        made = with_store(config, work, runtime)
    except UserError as error:
        fail(f"not reset: {error}")
    _show(made, settings.public_url, as_json=as_json)


def _hashed(name: str, *, from_stdin: bool) -> str:
    """Ask for a password, and return its hash; exit with 2 if it is not usable."""
    from gateway.users import hash_of, password_fault

    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        _no_terminal()
    fault = password_fault(name, password)
    if fault is not None:
        fail(fault, 2)
    return hash_of(password)


def _no_terminal() -> NoReturn:
    fail("there is no terminal to ask for a password; give it with --password-stdin", 2)


def _show(made: Enrolment, public_url: str, *, as_json: bool) -> None:
    print_result(
        {"id": made.id, "name": made.name, "totp_secret": made.secret, "totp_link": made.link},
        f"User {made.name} ({made.id}). Add this to an authenticator app; it is shown this once:",
        *(_code_of(made.link) if sys.stdout.isatty() else ()),
        f"  secret: {made.secret}",
        f"  link:   {made.link}",
        f"Sign in at {public_url.rstrip('/')}/admin",
        as_json=as_json,
    )


def _code_of(link: str) -> list[str]:
    """Return a QR code as terminal lines, two rows of modules in each, with its quiet zone.

    Light modules are drawn, so the code looks as printed on a dark background; apps read the inverted
    one as well.
    """
    import segno

    rows = [list(row) for row in segno.make(link, error="l").matrix_iter(border=2)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    blocks = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    return [
        "".join(blocks[upper & 1, lower & 1] for upper, lower in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    ]
