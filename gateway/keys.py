"""API keys: mint, list, revoke, recognise. A key is shown once and stored as a digest.

A key has scopes, and may do nothing else; no scope implies another one. It may end at a time, and may
be bound to networks. A key of the operator belongs to no org: it acts on instances, accounts and orgs,
and never reads or starts an org's payouts.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from gateway.caller import Caller
from gateway.config.section import ORG
from gateway.config.settings import Mode
from gateway.errors import Refused
from gateway.model import format_time
from gateway.runtime import Runtime
from gateway.store import keys as rows
from gateway.store.audit import INSTALLATION, add_audit
from gateway.store.database import Row, Tx
from gateway.store.rows import from_us, maybe_from_us, to_json, to_us
from gateway.vault import digest_of

_FORM = re.compile(r"sk_(live|test)_[A-Za-z0-9_-]{43}", re.ASCII)
_LONGEST_WORDS = 100
_MOST_NETWORKS = 100
_LONGEST_LIFE = timedelta(days=36_500)
#: The prefix of IPv4 addresses in their IPv6 form, `::ffff:0:0/96`.
_MAPPED_BITS = 96
#: Written at most so often.
USE_NOTED_US = 60_000_000


class Scope(StrEnum):
    """What a key may do. No scope implies another one."""

    QUOTES_WRITE = "quotes:write"  #: request quotes
    PAYOUTS_READ = "payouts:read"  #: read payouts, batches, reports and custodians
    PAYOUTS_WRITE = "payouts:write"  #: execute quotes, answer and cancel payouts
    BATCHES_WRITE = "batches:write"  #: create, execute and cancel batches
    WEBHOOKS_WRITE = "webhooks:write"  #: change webhook endpoints, send events again
    EVENTS_READ = "events:read"  #: read events, webhook endpoints and deliveries
    PAYOUTS_APPROVE = "payouts:approve"  #: approve payouts
    ADDRESSES_WRITE = "addresses:write"  #: change allowed destinations
    LIMITS_WRITE = "limits:write"  #: change limits
    KEYS_WRITE = "keys:write"  #: create and revoke keys
    PAYOUTS_OPERATE = "payouts:operate"  #: stop, resume, retry and resolve


#: The default scopes of a key: what every key could do before there were scopes.
USUAL: tuple[Scope, ...] = (
    Scope.QUOTES_WRITE,
    Scope.PAYOUTS_READ,
    Scope.PAYOUTS_WRITE,
    Scope.BATCHES_WRITE,
    Scope.WEBHOOKS_WRITE,
    Scope.EVENTS_READ,
)
#: The default scope of an operator key.
USUAL_OF_OPERATORS: tuple[Scope, ...] = (Scope.PAYOUTS_OPERATE,)
#: The actor if no name is known.
OPERATOR = "operator"
#: Actions in the audit log.
CREATED, ROTATED, REVOKED = "key_created", "key_rotated", "key_revoked"
ENDS_SOONER = "key_ends_sooner"


@dataclass(frozen=True)
class KeyTerms:
    """What a key is for, who answers for it, and what bounds it."""

    scopes: tuple[Scope, ...] = USUAL
    name: str | None = None
    owner: str | None = None
    #: networks that it may be used from, such as `203.0.113.0/24`; empty: any
    networks: tuple[str, ...] = ()
    #: how long it lives from now on; None: until it is revoked
    life: timedelta | None = None


@dataclass(frozen=True)
class MintedKey:
    """A new key. `key` exists here and nowhere else."""

    id: str
    key: str
    org: str | None
    mode: Mode
    terms: KeyTerms = KeyTerms()
    expires_at: datetime | None = None


@dataclass(frozen=True)
class KeyInfo:
    """What is known of a key afterwards. `org` is None for a key of the operator."""

    id: str
    org: str | None
    mode: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None
    name: str | None
    owner: str | None
    scopes: tuple[str, ...]
    networks: tuple[str, ...]
    expires_at: datetime | None
    last_used_at: datetime | None


async def mint_key(  # noqa: PLR0913 - whose key it is, and who mints it
    tx: Tx,
    runtime: Runtime,
    org: str | None,
    mode: Mode,
    terms: KeyTerms | None = None,
    *,
    actor: str = OPERATOR,
    replaces: str | None = None,
) -> MintedKey:
    """Mint a key; `org` None makes one of the operator. ValueError where a part is not usable."""
    if org is not None and not ORG.fullmatch(org):
        msg = "an org's name has 1 to 63 letters, digits, dots, dashes or underscores"
        raise ValueError(msg)
    terms = checked(terms or KeyTerms(scopes=USUAL if org else USUAL_OF_OPERATORS))
    if replaces is None:
        refuse_wrong_scopes(org, terms.scopes)
    secret = base64.urlsafe_b64encode(runtime.ids.random_bytes(32)).rstrip(b"=").decode()
    key = f"sk_{mode}_{secret}"
    key_id = runtime.ids.new("key")
    now = runtime.clock.now()
    expires_at = None if terms.life is None else now + terms.life
    await rows.insert_key(
        tx,
        key_id=key_id,
        org=org,
        mode=mode,
        digest=digest_of(key),
        hint=f"sk_{mode}_…{key[-4:]}",
        at=to_us(now),
        name=terms.name,
        owner=terms.owner,
        scopes=to_json(list(terms.scopes)),
        networks=to_json(list(terms.networks)),
        expires_at=None if expires_at is None else to_us(expires_at),
    )
    minted = MintedKey(key_id, key, org, mode, terms, expires_at)
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=actor,
        act=CREATED if replaces is None else ROTATED,
        subject=key_id,
        org=org or INSTALLATION,
        before=None if replaces is None else {"id": replaces},
        after={"id": key_id, "mode": mode, **_told(terms, expires_at)},
    )
    return minted


async def rotate_key(
    tx: Tx, runtime: Runtime, key_id: str, changes: dict[str, Any], *, actor: str
) -> MintedKey | None:
    """Mint a key in the place of another one, which lives on until it is revoked. None: there is none.

    It has what the old one has, and as long a life as that one had, but for `changes` (members of
    KeyTerms). ValueError where a part is not usable, or where the old one was revoked.
    """
    row = await rows.key_by_id(tx, key_id)
    if row is None:
        return None
    if row["revoked_at"] is not None:
        msg = f"the key {key_id} was revoked; mint a new one with: payout-gateway keys create"
        raise ValueError(msg)
    life = None if row["expires_at"] is None else row["expires_at"] - row["created_at"]
    terms = KeyTerms(
        scopes=tuple(Scope(each) for each in json.loads(row["scopes"])),
        name=row["name"],
        owner=row["owner"],
        networks=tuple(json.loads(row["networks"])),
        life=None if life is None else timedelta(microseconds=life),
    )
    mode: Mode = "live" if row["mode"] == "live" else "test"
    # A key of before keeps what it has, whatever a new one may have.
    refuse_wrong_scopes(row["org"], changes.get("scopes", ()))
    terms = replace(terms, **changes)
    return await mint_key(tx, runtime, row["org"], mode, terms, actor=actor, replaces=key_id)


def refuse_wrong_scopes(org: str | None, scopes: Sequence[Scope]) -> None:
    """Raise ValueError where a scope could never be used by a key of this kind. `org` None: operator's."""
    wrong = [each for each in scopes if each in (USUAL if org is None else USUAL_OF_OPERATORS)]
    if not wrong:
        return
    names = ", ".join(wrong)
    msg = (
        f"a key of the operator may not have {names}: it belongs to no org, and can neither read nor start "
        "what an org has. Create a key with --org for that"
        if org is None
        else f"a key of an org may not have {names}: only keys of the operator act on instances, accounts "
        "and other orgs. Create one with --operator for that"
    )
    raise ValueError(msg)


def checked(terms: KeyTerms) -> KeyTerms:
    """Return the terms in their usual form. ValueError says what is not usable. Pure."""
    for what, words in (("name", terms.name), ("owner", terms.owner)):
        if words is not None and not (
            0 < len(words.strip()) <= _LONGEST_WORDS and words.isprintable()
        ):
            msg = f"{what} has 1 to {_LONGEST_WORDS} printable characters"
            raise ValueError(msg)
    if not terms.scopes:
        msg = "a key needs a scope: " + ", ".join(Scope)
        raise ValueError(msg)
    if terms.life is not None and terms.life <= timedelta(0):
        msg = "a key must expire after more than 0 days"
        raise ValueError(msg)
    if terms.life is not None and terms.life > _LONGEST_LIFE:
        msg = f"a key may expire after {_LONGEST_LIFE.days} days at most; without an expiry it is valid until it is revoked"
        raise ValueError(msg)
    if len(terms.networks) > _MOST_NETWORKS:
        msg = f"a key may have {_MOST_NETWORKS} networks"
        raise ValueError(msg)
    return replace(
        terms,
        scopes=tuple(each for each in Scope if each in terms.scopes),
        networks=tuple(str(_network(each)) for each in terms.networks),
    )


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return a network; one of IPv4 addresses in their IPv6 form as what it is. ValueError."""
    try:
        found = ip_network(text)
    except ValueError:
        msg = f"{text!r} is not a network, such as 203.0.113.0/24 or 2001:db8::/32, or an address"
        raise ValueError(msg) from None
    if isinstance(found, IPv6Network) and found.prefixlen >= _MAPPED_BITS:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, found.prefixlen - _MAPPED_BITS))
    return found


def is_within(address: str | None, networks: Iterable[str]) -> bool:
    """Whether a client's address is in one of the networks. Pure.

    An IPv4 address may come in its IPv6 form. An address that cannot be read is in none.
    """
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    # Of two versions, `in` is False.
    return any(found in _network(each) for each in networks)


async def list_keys(tx: Tx) -> list[KeyInfo]:
    """Return all keys, oldest first."""
    return [
        KeyInfo(
            id=row["id"],
            org=row["org"],
            mode=row["mode"],
            hint=row["hint"],
            created_at=from_us(row["created_at"]),
            revoked_at=maybe_from_us(row["revoked_at"]),
            name=row["name"],
            owner=row["owner"],
            scopes=tuple(json.loads(row["scopes"])),
            networks=tuple(json.loads(row["networks"])),
            expires_at=maybe_from_us(row["expires_at"]),
            last_used_at=maybe_from_us(row["last_used_at"]),
        )
        for row in await rows.all_keys(tx)
    ]


async def revoke_key(tx: Tx, runtime: Runtime, key_id: str, *, actor: str = OPERATOR) -> bool:
    """Revoke a key; False if there is none of that id, or it is revoked."""
    row = await rows.key_by_id(tx, key_id)
    at = to_us(runtime.clock.now())
    if row is None or not await rows.revoke_key(tx, key_id, at):
        return False
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=actor,
        act=REVOKED,
        subject=key_id,
        org=row["org"] or INSTALLATION,
        before={"revoked_at": None},
        after={"revoked_at": format_time(from_us(at))},
    )
    return True


async def limit_life(
    tx: Tx, runtime: Runtime, key_id: str, life: timedelta, *, actor: str = OPERATOR
) -> None:
    """Have a key end after a time from now at the latest; at once, if that is nothing. Store function.

    A key that ends sooner anyway, that was revoked, or that there is not, stays as it is.
    """
    if life <= timedelta(0):
        await revoke_key(tx, runtime, key_id, actor=actor)
        return
    row = await rows.key_by_id(tx, key_id)
    at = to_us(runtime.clock.now() + life)
    if row is None or not await rows.end_key(tx, key_id, at):
        return
    await add_audit(
        tx,
        runtime.ids,
        runtime.clock.moment().wall,
        actor=actor,
        act=ENDS_SOONER,
        subject=key_id,
        org=row["org"] or INSTALLATION,
        before={
            "expires_at": None
            if row["expires_at"] is None
            else format_time(from_us(row["expires_at"]))
        },
        after={"expires_at": format_time(from_us(at))},
    )


async def recognise(tx: Tx, runtime: Runtime, key: str, address: str | None = None) -> Caller:
    """Return whose key it is. `address`: where the client is.

    Refused: `invalid_api_key`, `api_key_revoked`, `api_key_expired`, `client_network_not_allowed`.
    """
    row = await rows.key_by_digest(tx, digest_of(key)) if _FORM.fullmatch(key) else None
    if row is None:
        raise Refused(
            "invalid_api_key",
            "This API key is not known. Ask the operator of the gateway for a key.",
        )
    if row["revoked_at"] is not None:
        raise Refused("api_key_revoked", f"The API key {row['hint']} was revoked. Use another one.")
    _refuse_if_out_of_bounds(row, runtime, address)
    return Caller(
        org=row["org"] or "",
        mode=row["mode"],
        key_id=row["id"],
        scopes=_members(row["scopes"]),
        operator=row["org"] is None,
        used_at=row["last_used_at"],
    )


@lru_cache(maxsize=1024)
def _members(text: str) -> frozenset[str]:
    """Return the members of a JSON list in a column. Most keys have the same ones."""
    return frozenset(json.loads(text))


def _refuse_if_out_of_bounds(row: Row, runtime: Runtime, address: str | None) -> None:
    expires_at = row["expires_at"]
    if expires_at is not None and expires_at <= to_us(runtime.clock.now()):
        raise Refused(
            "api_key_expired",
            f"The API key {row['hint']} ended at {format_time(from_us(expires_at))}. Use another one.",
        )
    networks = _members(row["networks"])
    if networks and not is_within(address, networks):
        raise Refused(
            "client_network_not_allowed",
            f"The API key {row['hint']} may not be used from {address or 'this address'}.",
        )


def refuse_without(scope: Scope, caller: Caller) -> None:
    """Raise Refused: `insufficient_scope`, naming the scope."""
    if scope not in caller.scopes:
        raise Refused(
            "insufficient_scope",
            f"This needs an API key with the scope {scope}.",
            # (RFC 6750, 3.1)
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            scope=str(scope),
        )


async def note_use(tx: Tx, key_id: str, at: int) -> None:
    """Write when a key was used, at most once a minute. `at`: wall clock, in microseconds."""
    await rows.note_use(tx, key_id, at, at - USE_NOTED_US)


def _told(terms: KeyTerms, expires_at: datetime | None) -> dict[str, Any]:
    """Return a key's fields for the audit log."""
    return {
        "scopes": list(terms.scopes),
        "name": terms.name,
        "owner": terms.owner,
        "networks": list(terms.networks),
        "expires_at": None if expires_at is None else format_time(expires_at),
    }
