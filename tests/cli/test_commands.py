"""The command line, on a real database: what it prints, how it ends, what it never stores."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters.card_passcode.adapter import CardPasscode
from gateway import __version__
from gateway.app import custodian_of
from gateway.caller import Caller
from gateway.cli.main import app
from gateway.cli.words import FundsMovedWord, ScopeWord, StatusWord
from gateway.config.settings import load
from gateway.custodians.registry import find_adapters
from gateway.keys import Scope, is_within
from gateway.model import FundsMoved, Status
from gateway.runtime import real_runtime
from gateway.signing import secret_text
from gateway.store import idempotency, migrate
from gateway.store.opening import open_database
from gateway.vault import vault_of
from gateway.webhooks.endpoints import Endpoints
from gateway.webhooks.subscriptions import EndpointRequest
from tests.store.rows import add_payout

RUNNER = CliRunner()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration without custodians."""
    path = tmp_path / "g.toml"
    key = base64.b64encode(bytes(32)).decode()
    path.write_text(f'server_key = "{key}"\ndatabase = "g.db"\n')
    return path


def run(*arguments: object, code: int = 0) -> str:
    """Run a command and return what it printed, on either stream."""
    result = RUNNER.invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def create(config: Path, org: str = "acme", mode: str = "live") -> dict[str, Any]:
    """Mint a key."""
    made: dict[str, Any] = json.loads(
        run("keys", "create", "--org", org, "--mode", mode, "--json", "--config", config)
    )
    return made


def test_version_and_help() -> None:
    """Every group is named."""
    assert run("version").strip() == __version__
    text = run("--help")
    for name in ("serve", "sandbox", "demo", "init", "keys", "payouts", "db", "adapters"):
        assert name in text


def test_a_key_is_shown_once_and_stored_as_a_digest(config: Path) -> None:
    """The exact shape for scripts; neither the database nor its log has the key."""
    made = create(config)
    assert set(made) == {"id", "key", "org", "mode"}
    assert made["key"].startswith("sk_live_")
    assert (made["org"], made["mode"]) == ("acme", "live")
    stored = b"".join(each.read_bytes() for each in config.parent.glob("g.db*"))
    assert made["id"].encode() in stored
    assert made["key"].encode() not in stored
    assert made["key"] not in run("keys", "list", "--config", config)


def test_keys_are_listed_rotated_revoked(config: Path) -> None:
    """Rotation mints another one of the same org and mode; the old one lives until it is revoked."""
    first = create(config, mode="test")
    second = json.loads(run("keys", "rotate", first["id"], "--json", "--config", config))
    assert (second["org"], second["mode"]) == ("acme", "test")
    run("keys", "revoke", first["id"], "--config", config)
    listed = json.loads(run("keys", "list", "--json", "--config", config))["data"]
    assert [(each["id"], each["revoked_at"] is None) for each in listed] == [
        (first["id"], False),
        (second["id"], True),
    ]
    assert "no active key" in run("keys", "revoke", first["id"], "--config", config, code=1)
    assert "no key" in run("keys", "rotate", "key_nope", "--config", config, code=1)
    assert "org's name" in run(
        "keys", "create", "--org", "a b", "--mode", "live", "--config", config, code=2
    )


def test_init_writes_once(tmp_path: Path) -> None:
    """A configuration that works, secrets readable by their owner only; never overwritten."""
    path = tmp_path / "payout-gateway.toml"
    told = run("init", "--config", path)
    assert "next: configure a custodian and a route" in told
    assert f"payout-gateway doctor --config {path}" in told
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text(), (tmp_path / "server.key").read_text()
    assert "exists" in run("init", "--config", path, code=1)
    path.unlink()
    assert "exists" in run("init", "--config", path, code=1)  # the key alone is not replaced either
    path.write_text(before[0])
    assert (path.read_text(), (tmp_path / "server.key").read_text()) == before
    create(path)
    nowhere = tmp_path / "no" / "g.toml"
    assert "cannot be written" in run("init", "--config", nowhere, code=2)


def test_the_schema_is_kept_in_step(config: Path) -> None:
    """A fresh database is made; one of another version is refused with what to do."""
    assert "no schema -> " in run("db", "upgrade", "--config", config)
    assert "up to date" in run("db", "upgrade", "--config", config)
    with sqlite3.connect(config.with_name("g.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        # What an addition alone would not do: programs of before cannot go on.
        connection.execute("UPDATE store_schema SET works_from = '9999'")
    connection.close()
    for command in (("serve",), ("keys", "list"), ("payouts", "list")):
        assert "schema 9999" in run(*command, "--config", config, code=2)
    assert "was not changed" in run("db", "upgrade", "--config", config, code=2)


def test_an_old_schema_is_refused_by_serve(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the command that upgrades it is named."""
    run("db", "upgrade", "--config", config)
    monkeypatch.setattr(migrate, "head_revision", lambda: "9000")
    assert "payout-gateway db upgrade" in run("serve", "--config", config, code=2)


def test_faults_are_listed_and_end_with_2(tmp_path: Path) -> None:
    """All at once, without a traceback and without values."""
    path = tmp_path / "bad.toml"
    path.write_text('listen = { port = "secret-value" }\n[custodians.a]\nadapter = "nope"\n')
    text = run("serve", "--config", path, code=2)
    assert "server_key is not set" in text
    assert "listen.port" in text
    assert "secret-value" not in text
    assert "Traceback" not in text
    path.write_text(
        f'server_key = "{base64.b64encode(bytes(32)).decode()}"\n[custodians.a]\nadapter = "nope"\n'
    )
    text = run("serve", "--config", path, code=2)
    assert "there is no adapter 'nope'" in text
    assert "fireblocks" in text
    path.write_text(
        f'server_key = "{base64.b64encode(bytes(32)).decode()}"\n[custodians.a]\nadapter = "fireblocks"\nprivate_key = "x"\n'
    )
    text = run("serve", "--config", path, code=2)
    for name in (
        "custodians.a.base_url",
        "custodians.a.api_key",
        "custodians.a.private_key",
        "custodians.a.assets",
    ):
        assert name in text
    assert "no configuration file" in run("serve", "--config", tmp_path / "none.toml", code=2)


@pytest.mark.parametrize("database", ["junk", "folder", "junk/g.db"])
def test_a_database_that_cannot_be_used(config: Path, database: str) -> None:
    """Said in one line of words with its path, exit 2, by every command that opens it."""
    (config.parent / "junk").write_bytes(b"not a database, but long enough to be read" * 100)
    (config.parent / "folder").mkdir()
    config.write_text(config.read_text().replace("g.db", database))
    for command in (("serve",), ("keys", "list"), ("payouts", "show", "pay_x"), ("db", "upgrade")):
        text = run(*command, "--config", config, code=2)
        assert str(config.parent / database) in text
        assert len(text.splitlines()) == 1


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    """Said in words, exit 2."""
    text = run("serve", "--config", tmp_path, code=2)
    assert text == f"config: {tmp_path} cannot be read (Is a directory)\n"


def test_a_taken_port_is_said_so(config: Path) -> None:
    """In words, exit 2."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = run("serve", "--config", config, "--port", port, code=2)
    assert f"127.0.0.1:{port} cannot be used" in text


def test_payouts_that_do_not_exist(config: Path) -> None:
    """Said in words, exit 1."""
    run("db", "upgrade", "--config", config)
    assert "there is no payout pay_x" in run("payouts", "show", "pay_x", "--config", config, code=1)
    assert json.loads(run("payouts", "list", "--json", "--config", config)) == {"data": []}
    assert "'failed'" in run("payouts", "list", "--status", "lost", "--config", config, code=2)
    assert "of all orgs" in run(
        "payouts", "list", "--attention", "--org", "acme", "--config", config, code=2
    )
    retried = run("payouts", "retry", "pay_x", "--config", config, code=1)
    assert retried == "not retried: there is no payout pay_x\n"
    resolve = ("payouts", "resolve", "pay_x", "--as", "failed", "--config", config, "--evidence")
    assert "no payout pay_x" in run(*resolve, "seen", code=1)
    assert "must say" in run(*resolve, " ", code=2)
    assert json.loads(run("payouts", "list", "--attention", "--json", "--config", config)) == {
        "data": []
    }


def test_personal_data_is_erased_by_name_and_by_time(config: Path) -> None:
    """Only with --yes; what is still needed is named and kept; the story says so afterwards."""
    run("db", "upgrade", "--config", config)

    async def some() -> list[str]:
        async with open_database(load(config)) as db:
            ends = ("delivered", "delivered", "pending", "failed")
            return [await db.run(add_payout, end) for end in ends]

    first, second, open_one, uncertain = asyncio.run(some())
    erase = ("payouts", "erase", "--config", config)
    for wrong in ((), (first, "--ended-before", "2026-01-01T00:00:00Z"), (first, "--org", "acme")):
        assert run(*erase, *wrong, code=2)
    assert "with a zone" in run(*erase, "--ended-before", "2026-01-01", code=2)
    assert "give --yes" in run(*erase, first)
    text = run(*erase, first, open_one, "pay_none", "--yes", code=1)
    assert "1 payout: personal data was erased" in text
    assert f"{open_one} was kept as it is: it has not ended" in text
    assert "pay_none was kept as it is: there is no such payout" in text
    assert "personal data was erased at" in run("payouts", "show", first, "--config", config)
    assert "personal data" not in run("payouts", "show", second, "--config", config)
    by_time = (*erase, "--ended-before", "2026-01-01T00:00:00Z", "--json")
    for scope, would in (((), 1), (("--org", "acme"), 1), (("--org", "other"), 0)):
        told = json.loads(run(*by_time, *scope))
        assert told == {"erased": 0, "would_erase": would, "kept": {}}
    assert json.loads(run(*by_time, "--yes")) == {"erased": 1, "would_erase": 1, "kept": {}}
    assert json.loads(run(*by_time, "--yes")) == {"erased": 0, "would_erase": 0, "kept": {}}
    # It failed while money may have moved: only by name.
    assert "1 payout: personal data was erased" in run(*erase, uncertain, "--yes")
    with sqlite3.connect(config.with_name("g.db")) as db:
        db.execute("UPDATE store_state SET frozen = 'an older copy'")
    db.close()
    assert "frozen" in run(*erase, first, "--yes", code=1)


async def test_a_retry_asks_the_instance_and_not_its_class(config: Path) -> None:
    """Where people are asked for codes, the instance declares that no repeat is harmless."""
    card = """
[custodians.card]
adapter = "card_passcode"
base_url = "http://127.0.0.1:1/v1"
client_id = "c"
client_secret = "s"
passcode_mode = "caller"
device = { client_ip = "127.0.0.1" }
phone = "231770000001"
"""
    config.write_text(config.read_text() + card)
    async with custodian_of(load(config), "card", real_runtime()) as custodian:
        assert not custodian.capabilities.keys.repeat_is_safe
        assert CardPasscode.capabilities.keys.repeat_is_safe


def test_adapters_are_listed() -> None:
    """Installed ones with everything that they declare."""
    listed = {each["name"]: each for each in json.loads(run("adapters", "list", "--json"))["data"]}
    assert listed["fireblocks"]["works"]
    assert listed["dummy"]["works"]
    assert "fireblocks" in run("adapters", "list")
    for name, told in listed.items():
        declared = asdict(find_adapters()[name].capabilities)  # type: ignore[union-attr]
        assert set(told) == {"name", "works", *declared}, name
    assert listed["fireblocks"]["keys"]["life_s"] == 86_400


def test_an_adapter_is_begun_as_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code and tests under the new name; the twin's header is still the one that the adapter reads."""
    for folder in ("adapters/dummy", "tests/adapters/dummy"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    text = run("adapters", "new", "acme_bank")
    assert 'acme_bank = "adapters.acme_bank.adapter:AcmeBank"' in text
    assert 'acme_bank = "adapters.acme_bank.twin.app:main"' in text
    copied = {
        str(path.relative_to(tmp_path)): path.read_text(encoding="utf-8")
        for path in tmp_path.rglob("acme_bank/**/*.*")
    }
    assert {path.replace("acme_bank", "dummy") for path in copied} == {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("dummy/**/*.*")
        if path.suffix != ".pyc"
    }
    assert not [path for path, content in copied.items() if "dummy" in content.lower()]
    assert "class AcmeBank(" in copied["adapters/acme_bank/adapter.py"]
    assert '"acme-bank-signature"' in copied["adapters/acme_bank/adapter.py"]
    assert '"Acme-Bank-Signature"' in copied["adapters/acme_bank/twin/app.py"]
    for path, content in copied.items():
        if path.endswith(".py"):
            compile(content, path, "exec")
    assert "exists" in run("adapters", "new", "acme_bank", code=1)
    assert "lowercase" in run("adapters", "new", "Acme!", code=2)
    assert "checkout" in run("adapters", "new", "acme", "--into", tmp_path / "none", code=2)


def test_the_models_words() -> None:
    """The command line takes the model's own words, though it does not load the model for them."""
    assert [each.value for each in StatusWord] == [each.value for each in Status]
    assert [each.value for each in ScopeWord] == [each.value for each in Scope]
    assert {each.value for each in FundsMovedWord} == {each.value for each in FundsMoved}


def test_help_is_quick() -> None:
    """Nothing heavy is loaded before a command runs."""
    heavy = "pydantic", "sqlalchemy", "aiohttp", "starlette", "alembic", "cryptography"
    program = f"import sys, gateway.cli.main; print([n for n in {heavy!r} if n in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert out.stdout.strip() == "[]"


_KEY = idempotency.KeyScope("acme", "live", "r", "k")


async def _stored(config: Path) -> dict[str, Any]:
    """Make one of everything that is sealed; return what to look at later."""
    settings, runtime = load(config), real_runtime()
    vault = vault_of(settings, runtime.ids)
    use, caller = Endpoints(runtime, vault, settings), Caller("acme", "live", "k")
    request = EndpointRequest(
        url="https://hooks.example.com/", sensitive_headers={"X-Token": "a-token"}
    )
    async with open_database(settings) as db:
        made = await db.run(use.create, caller, request)
        rotated = await db.run(use.rotate, caller, made.id, 3600)
        await db.run(idempotency.claim_key, _KEY, fingerprint="f", token=1, claimant="gwy_1", now=0)
        await db.run(
            idempotency.answer_key,
            _KEY,
            1,
            answer=vault.seal(b"an answer", bound_to=_KEY.name),
            created_id=None,
            expires_at=2**60,
        )
        # An open claim has nothing that is sealed.
        await db.run(
            idempotency.claim_key,
            replace(_KEY, key="open"),
            fingerprint="f",
            token=1,
            claimant="gwy_1",
            now=0,
        )
    token = vault.tracking_token("pay_01k74z3g00e008000000000001")
    return {"id": made.id, "secrets": [rotated.secret, made.secret], "token": token}


async def _seen(config: Path, endpoint_id: str, token: str) -> dict[str, Any]:
    settings, runtime = load(config), real_runtime()
    vault = vault_of(settings, runtime.ids)
    async with open_database(settings) as db:
        found = await db.read(Endpoints(runtime, vault, settings).target, endpoint_id)
        kept = await db.read(idempotency.find_key, _KEY)
    assert found is not None
    assert kept is not None
    return {
        "secrets": [secret_text(each) for each in found.target.secrets],
        "headers": dict(found.target.headers),
        "answer": vault.open(kept["answer"], bound_to=_KEY.name),
        "token": vault.payout_of_token(token) is not None,
    }


def test_the_server_key_is_changed(config: Path) -> None:
    """Old and new side by side, all resealed, then the new one alone; nothing is lost in between."""
    run("db", "upgrade", "--config", config)
    stored = asyncio.run(_stored(config))
    expected = {
        "secrets": stored["secrets"],
        "headers": {"X-Token": "a-token"},
        "answer": b"an answer",
        "token": True,
    }
    old = load(config).server_key.get_secret_value().strip()
    new = base64.b64encode(bytes(range(32, 64))).decode()
    text = re.sub(r"(?m)^server_key(_file)? = .*$", f'server_key = "{new}"', config.read_text())
    config.write_text(text)
    assert "does not open" in run("db", "reseal", "--config", config, code=2)
    both = text.replace("server_key =", f'previous_server_key = "{old}"\nserver_key =', 1)
    config.write_text(both)
    assert asyncio.run(_seen(config, stored["id"], stored["token"])) == expected
    said = run("db", "reseal", "--config", config)
    assert "endpoints.secret: 1 sealed, 1 of them resealed" in said
    assert "idempotency.answer: 1 sealed, 1 of them resealed" in said
    assert "endpoints.secret: 1 sealed, 0 of them resealed" in run(
        "db", "reseal", "--config", config
    )
    assert asyncio.run(_seen(config, stored["id"], stored["token"])) == expected
    config.write_text(text)
    assert asyncio.run(_seen(config, stored["id"], stored["token"])) == {**expected, "token": False}
    assert old not in said
    assert new not in said
    config.write_text(both.replace(old, "AAAA"))
    assert "previous_server_key has the wrong length" in run(
        "db", "reseal", "--config", config, code=2
    )


@pytest.mark.parametrize("days", ["3000000", "1e15", "nan", "inf"])
def test_a_life_that_no_key_can_have(config: Path, days: str) -> None:
    """Said in words, exit 2; for a new key and for one that replaces another."""
    made = create(config)
    at = ("--expires-in-days", days, "--config", config)
    for command in (("create", "--org", "a", "--mode", "live"), ("rotate", made["id"])):
        assert "days" in run("keys", *command, *at, code=2)
        for none in ("-1", "0"):
            below = run("keys", *command, f"--expires-in-days={none}", "--config", config, code=2)
            assert below == "--expires-in-days must be more than 0\n"
    assert len(json.loads(run("keys", "list", "--json", "--config", config))["data"]) == 1


def test_scopes_that_a_key_could_never_use(config: Path) -> None:
    """Refused with the reason: those of operators in a key of an org, and the other way round."""
    create(config)
    at = ("--mode", "live", "--config", config)
    said = run("keys", "create", "--org", "a", "--scope", "payouts:operate", *at, code=2)
    assert "only keys of the operator" in said
    said = run("keys", "create", "--operator", "--scope", "payouts:read", *at, code=2)
    assert "belongs to no org" in said
    run("keys", "create", "--org", "a", "--scope", "payouts:approve", *at)
    run("keys", "create", "--operator", "--scope", "payouts:operate", *at)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("::ffff:127.0.0.0/104", "127.0.0.0/8"), ("::ffff:203.0.113.7", "203.0.113.7/32")],
)
def test_a_network_in_its_ipv6_form_is_ipv4(config: Path, given: str, kept: str) -> None:
    """What counts is the address of the client, which is compared as IPv4."""
    run(
        *("keys", "create", "--org", "a", "--mode", "live", "--allow-network", given),
        *("--config", config),
    )
    (row,) = json.loads(run("keys", "list", "--json", "--config", config))["data"]
    assert row["networks"] == [kept]
    address = kept.partition("/")[0]
    # Of a key from before as well.
    assert is_within(address, [given])
    assert is_within(f"::ffff:{address}", [given])
    assert not is_within("198.51.100.1", [given])
