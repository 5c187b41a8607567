"""`keys`: mint, list, rotate, revoke."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    fail,
    print_json,
    print_table,
    say,
    told_time,
    with_store,
)

if TYPE_CHECKING:
    from gateway.keys import KeyInfo, MintedKey
    from gateway.store.database import Database, Tx

app = typer.Typer(help="API keys of orgs.", no_args_is_help=True)


class KeyMode(StrEnum):
    """What a key may do."""

    LIVE = "live"
    TEST = "test"


def _show(minted: MintedKey, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": minted.id, "key": minted.key, "org": minted.org, "mode": minted.mode})
        return
    say(
        minted.key,
        "",
        f"Key {minted.id} of {minted.org} ({minted.mode}). It is shown this once: keep it safe.",
    )


@app.command()
def create(
    *,
    org: Annotated[str, typer.Option(help="Whose key it is; letters, digits, dots, dashes.")],
    mode: Annotated[KeyMode, typer.Option(help="live moves money; test reaches sandboxes only.")],
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Mint a key. It is shown once and stored as a digest."""
    from gateway.keys import mint_key
    from gateway.runtime import real_runtime

    async def work(db: Database) -> MintedKey:
        return await db.run(mint_key, real_runtime(), org, mode.value)

    try:
        minted = with_store(config, work)
    except ValueError as error:
        fail(str(error), 2)
    _show(minted, as_json=as_json)


@app.command(name="list")
def list_(*, config: ConfigOption = Path(DEFAULT_CONFIG), as_json: JsonOption = False) -> None:
    """List keys, without the keys themselves."""
    from gateway.keys import list_keys

    async def work(db: Database) -> list[KeyInfo]:
        return await db.scan(list_keys)

    found = with_store(config, work)
    rows = [
        {
            "id": each.id,
            "org": each.org,
            "mode": each.mode,
            "key": each.hint,
            "created_at": told_time(each.created_at),
            "revoked_at": told_time(each.revoked_at),
        }
        for each in found
    ]
    if as_json:
        print_json({"data": rows})
        return
    columns = ["id", "org", "mode", "key", "created_at", "revoked_at"]
    print_table("API keys", columns, [[row[name] for name in columns] for row in rows])


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="The id of the key to replace.")],
    *,
    config: ConfigOption = Path(DEFAULT_CONFIG),
    as_json: JsonOption = False,
) -> None:
    """Mint a new key for the same org and mode. The old one lives until you revoke it."""
    from gateway.keys import list_keys, mint_key
    from gateway.runtime import real_runtime

    async def change(tx: Tx) -> MintedKey | None:
        old = next((each for each in await list_keys(tx) if each.id == key_id), None)
        if old is None:
            return None
        return await mint_key(tx, real_runtime(), old.org, "live" if old.mode == "live" else "test")

    async def work(db: Database) -> MintedKey | None:
        return await db.run(change)

    minted = with_store(config, work)
    if minted is None:
        fail(f"there is no key {key_id}; payout-gateway keys list shows them all")
    _show(minted, as_json=as_json)
    if not as_json:
        say(f"When nothing uses the old one any more: payout-gateway keys revoke {key_id}")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id of the key.")],
    config: ConfigOption = Path(DEFAULT_CONFIG),
) -> None:
    """Revoke a key at once."""
    from gateway.keys import revoke_key
    from gateway.runtime import real_runtime

    async def work(db: Database) -> bool:
        return await db.run(revoke_key, real_runtime(), key_id)

    if not with_store(config, work):
        fail(f"there is no living key {key_id}; payout-gateway keys list shows them all")
    say(f"revoked {key_id}")
