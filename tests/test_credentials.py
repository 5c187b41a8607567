"""Credentials are declared to be of one account only where that is read, or an operator says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.adapter import Account
from gateway.config.settings import Settings
from gateway.credentials import NotDeclaredError, accounts_of, carry_over, declare_credentials
from gateway.errors import NotSent, Unsupported
from gateway.runtime import Runtime, real_runtime
from gateway.store import migrate
from gateway.store.audit import newest_acts
from gateway.store.database import Database
from gateway.store.evidence import declared_accounts
from gateway.store.opening import open_database

ACCOUNT = Account(id="A", type="VAULT")
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@dataclass
class Custodian:
    """A custodian instance with old and new credentials."""

    reads: tuple[str, str] | Exception
    name: str = "acme"
    old: str = "old"
    new: str = "new"

    def fingerprint(self, account: Account, *, livemode: bool) -> str:
        """Name an account."""
        return f"{self.new}/{account.id}/{livemode}"

    def fingerprint_before(self, account: Account, *, livemode: bool) -> str | None:
        """Name it as before."""
        return f"{self.old}/{account.id}/{livemode}"

    def fingerprints_of_keys(self, account: Account, *, livemode: bool) -> list[tuple[str, str]]:
        """Name it under both server keys."""
        return [
            (f"k0/{self.new}/{account.id}/{livemode}", self.fingerprint(account, livemode=livemode))
        ]

    async def identities(self) -> tuple[str, str]:
        """Read the ids."""
        if isinstance(self.reads, Exception):
            raise self.reads
        return self.reads


@pytest.fixture
def runtime() -> Runtime:
    """The machine's."""
    return real_runtime()


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database."""
    settings = Settings.model_validate({"database": tmp_path / "g.db", "server_key": KEY})
    migrate.prepare(settings.database)
    async with open_database(settings) as opened:
        yield opened


async def same(db: Database, one: str, other: str) -> bool:
    """Whether two fingerprints are declared to be one account."""
    names = await db.read(declared_accounts, "acme")
    return names.get(one, one) == names.get(other, other)


@pytest.mark.parametrize(
    ("reads", "evidence", "words"),
    [
        (("org-1", "org-2"), None, "not one account"),
        (("org-1", "org-2"), "I am sure", "not one account"),
        (Unsupported("acme cannot read it"), None, "acme cannot read it. If you know"),
        (NotSent("with the previous credentials: HTTP 401"), None, "HTTP 401. If you know"),
    ],
)
async def test_what_is_not_known_is_not_declared(
    db: Database,
    runtime: Runtime,
    reads: tuple[str, str] | Exception,
    evidence: str | None,
    words: str,
) -> None:
    """Two ids that differ are two accounts, whatever an operator says; silence is no proof."""
    with pytest.raises(NotDeclaredError, match=words):
        await declare_credentials(
            db, runtime, Custodian(reads), [ACCOUNT], operator="ann", evidence=evidence
        )
    assert await db.read(declared_accounts, "acme") == {}
    assert await db.scan(newest_acts, 10) == []


@pytest.mark.parametrize(
    ("reads", "evidence", "words"),
    [
        (("org-1", "org-1"), None, "both read the id 'org-1'"),
        (Unsupported("no"), "ticket 7", "could not be read; ticket 7"),
        (NotSent("gone"), "ticket 7", "could not be read; ticket 7"),
    ],
)
async def test_what_is_known_is_declared_once(
    db: Database,
    runtime: Runtime,
    reads: tuple[str, str] | Exception,
    evidence: str | None,
    words: str,
) -> None:
    """Every account in every mode; the audit log says how it is known; a repeat changes nothing."""
    accounts = [ACCOUNT, Account(id="B", type="VAULT")]
    for expected in (4, 0):
        done = await declare_credentials(
            db, runtime, Custodian(reads), accounts, operator="ann", evidence=evidence
        )
        assert done.accounts == expected
    assert await same(db, "old/A/True", "new/A/True")
    assert not await same(db, "old/A/True", "new/B/True")
    assert not await same(db, "old/A/True", "new/A/False")
    rows = await db.scan(newest_acts, 10)
    assert len(rows) == 4
    assert all(words in row["detail"] and row["actor"] == "ann" for row in rows)


async def test_a_chain_of_changes_names_one_account(db: Database, runtime: Runtime) -> None:
    """A second change of credentials, and of the server key: the first name still counts."""
    reads = ("org-1", "org-1")
    for old, new in (("one", "two"), ("two", "three")):
        custodian = Custodian(reads, old=old, new=new)
        await declare_credentials(db, runtime, custodian, [ACCOUNT], operator="ann", evidence=None)
    for _ in range(2):
        await db.run(carry_over, runtime, custodian, [ACCOUNT])
    for name in ("one/A/True", "two/A/True", "k0/three/A/True"):
        assert await same(db, name, "three/A/True")
    (row, *_) = await db.scan(newest_acts, 1)
    assert row["actor"] == "gateway"


def test_accounts_that_are_configured() -> None:
    """Of routes, and those that partners may name."""
    route = {"destination": "address", "custodian": "acme", "account": {"id": "A", "type": "VAULT"}}
    settings = Settings.model_validate(
        {
            "server_key": KEY,
            "custodians": {name: {"adapter": "dummy"} for name in ("acme", "other")},
            "routes": [route, {**route, "custodian": "other", "account": {"id": "X", "type": "V"}}],
            "accounts": {"acme": [{"id": "B", "type": "VAULT"}]},
        }
    )
    assert [each.id for each in accounts_of(settings, "acme")] == ["A", "B"]
    assert json.loads(settings.custodians["acme"].model_dump_json())["previous"] is None
