"""`keys`: creates, lists, rotates and revokes API keys."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    say,
    told_time,
    with_store,
)
from gateway.cli.words import ScopeWord

if TYPE_CHECKING:
    from gateway.keys import KeyInfo, MintedKey
    from gateway.store.database import Database

app = typer.Typer(help="API keys of orgs, and of the operator.", no_args_is_help=True)

ScopeOption = Annotated[
    list[ScopeWord] | None,
    typer.Option(
        "--scope",
        help="What it may do; may be given several times. Not given: all that changes and reads "
        "payouts, batches, webhooks and events (a key of the operator: payouts:operate).",
    ),
]
NameOption = Annotated[str | None, typer.Option(help="Purpose of the key; shown in the list.")]
OwnerOption = Annotated[
    str | None,
    typer.Option(help="Person responsible for the key. Not given: the user who runs this command."),
]
NetworkOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-network",
        help="Network or address that it may be used from, such as 203.0.113.0/24; may be given "
        "several times. Not given: any.",
    ),
]
LifeOption = Annotated[
    float | None,
    typer.Option("--expires-in-days", help="Days until the key expires. Not given: never."),
]


def _life(days: float | None) -> timedelta | None:
    if days is not None and days <= 0:
        fail("--expires-in-days must be more than 0", 2)
    try:
        return None if days is None else timedelta(days=days)
    except (OverflowError, ValueError):
        fail(f"--expires-in-days {days:g} is no number of days that a key can live", 2)


class KeyMode(StrEnum):
    """What a key may do."""

    LIVE = "live"
    TEST = "test"


def _show(minted: MintedKey, *, as_json: bool) -> None:
    whose, terms = minted.org or "the operator", minted.terms
    print_result(
        {"id": minted.id, "key": minted.key, "org": minted.org, "mode": minted.mode},
        minted.key,
        "",
        f"Key {minted.id} of {whose} ({minted.mode}). It is shown this once: keep it safe.",
        f"scopes: {', '.join(terms.scopes)}",
        f"networks: {', '.join(terms.networks) or 'any'}",
        f"ends: {told_time(minted.expires_at) or 'when it is revoked'}",
        f"owner: {terms.owner or 'unknown'}",
        as_json=as_json,
    )


@app.command()
def create(  # noqa: PLR0913 - one argument per option
    *,
    org: Annotated[
        str | None, typer.Option(help="The org that owns the key; letters, digits, dots, dashes.")
    ] = None,
    operator: Annotated[
        bool,
        typer.Option(
            "--operator",
            help="Instead of --org: a key of the operator, which acts on instances, accounts and "
            "orgs, and reads or starts no payouts.",
        ),
    ] = False,
    mode: Annotated[KeyMode, typer.Option(help="live moves money; test reaches sandboxes only.")],
    scope: ScopeOption = None,
    name: NameOption = None,
    owner: OwnerOption = None,
    allow_network: NetworkOption = None,
    expires_in_days: LifeOption = None,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Create a key. It is shown once and stored as a digest."""
    from gateway.keys import USUAL, USUAL_OF_OPERATORS, KeyTerms, Scope, mint_key
    from gateway.runtime import real_runtime

    if (org is None) != operator:
        fail("give --org for a key of an org, or --operator for one of the operator", 2)
    scopes = tuple(Scope(each.value) for each in scope or ())
    terms = KeyTerms(
        scopes=scopes or (USUAL_OF_OPERATORS if operator else USUAL),
        name=name,
        owner=owner or operator_name(),
        networks=tuple(allow_network or ()),
        life=_life(expires_in_days),
    )

    async def work(db: Database) -> MintedKey:
        return await db.run(mint_key, real_runtime(), org, mode.value, terms, actor=operator_name())

    try:
        minted = with_store(config, work, creates=True)
    except ValueError as error:
        fail(str(error), 2)
    _show(minted, as_json=as_json)


@app.command(name="list")
def list_(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """List keys, without the keys themselves."""
    from gateway.keys import list_keys

    async def work(db: Database) -> list[KeyInfo]:
        return await db.scan(list_keys)

    found = reading_store(config, work)
    rows = [
        {
            "id": each.id,
            "org": each.org,
            "operator": each.org is None,
            "mode": each.mode,
            "key": each.hint,
            "name": each.name,
            "owner": each.owner,
            "scopes": list(each.scopes),
            "networks": list(each.networks),
            "created_at": told_time(each.created_at),
            "expires_at": told_time(each.expires_at),
            "last_used_at": told_time(each.last_used_at),
            "revoked_at": told_time(each.revoked_at),
        }
        for each in found
    ]
    if as_json:
        print_json({"data": rows})
        return
    told = [{name: _cell(row, name) for name in (*_HEAD, *_MORE)} for row in rows]
    print_records(told, _HEAD, _MORE)


_HEAD = ("id", "org", "mode", "key")
_MORE = (
    *("name", "owner", "scopes", "networks"),
    *("created_at", "expires_at", "last_used_at", "revoked_at"),
)


def _cell(row: dict[str, Any], name: str) -> Any:
    if name == "org" and row["operator"]:
        return "(operator)"
    value = row[name]
    return " ".join(value) if isinstance(value, list) else value


@app.command()
def rotate(  # noqa: PLR0913 - one argument per option
    key_id: Annotated[str, typer.Argument(help="The id of the key to replace.")],
    *,
    scope: Annotated[
        list[ScopeWord] | None,
        typer.Option("--scope", help="Scopes of the new key. Not given: those of the old one."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Not given: the old one's.")] = None,
    owner: Annotated[str | None, typer.Option(help="Not given: the old one's.")] = None,
    allow_network: Annotated[
        list[str] | None, typer.Option("--allow-network", help="Not given: those of the old one.")
    ] = None,
    any_network: Annotated[
        bool, typer.Option("--any-network", help="Allow the new key from any network.")
    ] = False,
    expires_in_days: Annotated[
        float | None,
        typer.Option("--expires-in-days", help="Not given: the same lifetime as the old one."),
    ] = None,
    no_expiry: Annotated[
        bool, typer.Option("--no-expiry", help="The new key does not expire.")
    ] = False,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Create a new key for the same org and mode. The old one works until you revoke it."""
    from gateway.keys import Scope, rotate_key
    from gateway.runtime import real_runtime

    given: dict[str, Any] = {"name": name, "owner": owner}
    given["scopes"] = tuple(Scope(each.value) for each in scope or ()) or None
    given["networks"] = tuple(allow_network) if allow_network else None
    given["life"] = _life(expires_in_days)
    changes = {member: value for member, value in given.items() if value is not None}
    if any_network:
        changes["networks"] = ()
    if no_expiry:
        changes["life"] = None

    async def work(db: Database) -> MintedKey | None:
        return await db.run(rotate_key, real_runtime(), key_id, changes, actor=operator_name())

    try:
        minted = with_store(config, work)
    except ValueError as error:
        fail(str(error), 2)
    if minted is None:
        fail(f"there is no key {key_id}; payout-gateway keys list shows them all")
    _show(minted, as_json=as_json)
    if not as_json:
        say(f"When nothing uses the old one any more: payout-gateway keys revoke {key_id}")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id of the key.")],
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Revoke a key at once."""
    from gateway.keys import revoke_key
    from gateway.runtime import real_runtime

    async def work(db: Database) -> bool:
        return await db.run(revoke_key, real_runtime(), key_id, actor=operator_name())

    if not with_store(config, work):
        fail(f"there is no active key {key_id}; payout-gateway keys list shows them all")
    print_result({"id": key_id, "revoked": True}, f"revoked {key_id}", as_json=as_json)
