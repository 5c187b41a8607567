"""The configuration: every fault at once, secrets from files and environment, never shown."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from gateway.config.settings import load
from gateway.errors import ConfigError

KEY = base64.b64encode(bytes(range(32))).decode()
GOOD = f"""
server_key = "{KEY}"
[custodians.fb_eu]
adapter = "fireblocks"
api_key_file = "api-key"
[[routes]]
destination = "custodian_account"
custodian = "fb_eu"
account = {{ id = "7", type = "VAULT_ACCOUNT" }}
fee = {{ flat = "0.5", basis_points = "10" }}
"""


def write(folder: Path, text: str) -> Path:
    """Write a configuration and return its path."""
    path = folder / "g.toml"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path) -> None:
    """Secrets from files, relative paths beside the file, the adapter's members kept apart."""
    (tmp_path / "api-key").write_text("k-123")
    settings = load(write(tmp_path, GOOD), {})
    assert settings.custodians["fb_eu"].adapter_settings == {"api_key": "k-123"}
    assert settings.custodians["fb_eu"].modes == ("live",)
    assert settings.database == tmp_path / "payout-gateway.db"
    assert str(settings.routes[0].fee.flat) == "0.5"
    assert KEY not in repr(settings)


def test_the_environment_wins(tmp_path: Path) -> None:
    """Two underscores between levels; the variable that names the file is no setting."""
    (tmp_path / "api-key").write_text("k-123")
    environ = {
        "PAYOUT_GATEWAY_LISTEN__PORT": "9000",
        "PAYOUT_GATEWAY_CUSTODIANS__FB_EU__API_KEY": "other",
        "PAYOUT_GATEWAY_CONFIG": "g.toml",
        "UNRELATED": "x",
    }
    settings = load(write(tmp_path, GOOD.replace("api_key_file", "secret_file")), environ)
    assert settings.listen.port == 9000
    assert settings.custodians["fb_eu"].adapter_settings["api_key"] == "other"


def test_where_the_state_file_is(tmp_path: Path) -> None:
    """Beside the database, or where it is set: the name of the setting is not that of a file to read."""
    (tmp_path / "api-key").write_text("k-123")
    plain = load(write(tmp_path, GOOD), {})
    assert plain.state_path == tmp_path / "payout-gateway.db.state"
    placed = load(write(tmp_path, 'state_file = "there/state"\n' + GOOD), {})
    assert placed.state_path == tmp_path / "there" / "state"
    environ = {"PAYOUT_GATEWAY_STATE_FILE": "/var/lib/state", "PAYOUT_GATEWAY_DATABASE": "/db"}
    elsewhere = load(write(tmp_path, GOOD), environ)
    assert (elsewhere.state_path, elsewhere.database) == (Path("/var/lib/state"), Path("/db"))


@pytest.mark.parametrize(
    "named",
    [
        *("g.db", "./g.db", "sub/../g.db", "link", "hard"),
        *("g.db-wal", "g.db-shm", "g.db-journal", "g.db.lock", "g.db.in-use"),
    ],
)
def test_the_state_file_is_no_file_of_the_database(tmp_path: Path, named: str) -> None:
    """It would be written over it; also by another name of the same file."""
    (tmp_path / "api-key").write_text("k")
    (tmp_path / "g.db").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("g.db")
    (tmp_path / "hard").hardlink_to(tmp_path / "g.db")
    text = f'database = "g.db"\nstate_file = "{named}"\n' + GOOD
    with pytest.raises(ConfigError, match=r"state_file: .* would be written over"):
        load(write(tmp_path, text), {})


def test_the_lock_of_the_state_file_is_no_file_of_the_database(tmp_path: Path) -> None:
    """A database that is called like one."""
    (tmp_path / "api-key").write_text("k")
    text = 'database = "state.lock"\nstate_file = "state"\n' + GOOD
    with pytest.raises(ConfigError, match="would be written over"):
        load(write(tmp_path, text), {})


def test_every_fault_at_once(tmp_path: Path) -> None:
    """All of them, by name, each with what to do; no value."""
    text = """
    surprise = 1
    public_url = "no-url-at-all"
    [listen]
    port = "very-secret-port"
    [custodians.fb_eu]
    modes = ["lives"]
    private_key_file = "nowhere.pem"
    """
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), {})
    faults = "\n".join(caught.value.faults)
    for name in (
        "server_key is not set",
        "PAYOUT_GATEWAY_SERVER_KEY",
        "surprise",
        "public_url",
        "listen.port",
        "custodians.fb_eu.adapter is not set",
        "custodians.fb_eu.modes",
        "custodians.fb_eu.private_key_file: cannot read",
    ):
        assert name in faults, faults
    assert "very-secret-port" not in faults


def test_a_wrong_url_is_listed_with_everything_else(tmp_path: Path) -> None:
    """It is no reason to check nothing else, and its password is in no message."""
    text = """
    database = "postgresql://gateway:very-secret@/"
    state_file = "x.state"
    surprise = 1
    [custodians.fb_eu]
    private_key_file = "nowhere.pem"
    """
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), {})
    faults = "\n".join(caught.value.faults)
    for name in ("database: ", "state_file: it is for SQLite", "surprise", "private_key_file"):
        assert name in faults, faults
    assert "very-secret" not in faults


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('custodian = "fb_eu"', 'custodian = "fb_us"'), "'fb_us' is not configured"),
        ((KEY, base64.b64encode(b"short").decode()), "wrong length"),
        ((KEY, "!!"), "not base64"),
        (
            ("[[routes]]", '[accounts]\nnobody = [{ id = "1", type = "X" }]\n[[routes]]'),
            "accounts.nobody",
        ),
    ],
)
def test_faults_between_settings(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    """Settings that are each right and do not fit together."""
    (tmp_path / "api-key").write_text("k")
    with pytest.raises(ConfigError, match=words):
        load(write(tmp_path, GOOD.replace(*change)), {})


_ACCOUNT = (
    '[accounts]\nfb_eu = [{ id = "7", type = "X", orgs = ["a"] }, { id = "8", type = "X" }]\n'
)


def test_an_account_for_every_org_beside_a_route_for_some(tmp_path: Path) -> None:
    """Refused at start, with the account, the route and what to write."""
    (tmp_path / "api-key").write_text("k")
    open_to_all = GOOD.replace("[[routes]]", _ACCOUNT + "[[routes]]")
    accounts = load(write(tmp_path, open_to_all), {}).accounts["fb_eu"]
    assert [each.orgs for each in accounts] == [("a",), None]
    restricted = open_to_all + 'orgs = ["a", "b"]\n'
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, restricted), {})
    (fault,) = caught.value.faults
    assert fault.startswith("accounts.fb_eu.1: orgs is not set")
    for word in ("every org", "routes.0", 'orgs = ["..."]'):
        assert word in fault
    fixed = restricted.replace('{ id = "8", type = "X" }', '{ id = "8", type = "X", orgs = ["c"] }')
    assert load(write(tmp_path, fixed), {}).accounts["fb_eu"][1].orgs == ("c",)


def test_no_file_and_bad_toml(tmp_path: Path) -> None:
    """Said in words."""
    with pytest.raises(ConfigError, match="payout-gateway init"):
        load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(write(tmp_path, "a = = b"), {})


def test_what_the_commands_read_is_no_setting(tmp_path: Path) -> None:
    """A key for the API in the environment does not make the configuration faulty."""
    (tmp_path / "api-key").write_text("k-123")
    environment = {
        "PAYOUT_GATEWAY_CONFIG": "g.toml",
        "PAYOUT_GATEWAY_URL": "http://127.0.0.1:1",
        "PAYOUT_GATEWAY_API_KEY": "sk_live_x",
        "PAYOUT_GATEWAY_WEBHOOK_SECRET": "whsec_x",
    }
    assert load(write(tmp_path, GOOD), environment).public_url
    with pytest.raises(ConfigError, match="nothing"):
        load(write(tmp_path, GOOD), {"PAYOUT_GATEWAY_NOTHING": "x"})


@pytest.mark.parametrize(
    ("orgs", "words"),
    [
        ('"acme"', "orgs must be a list"),
        ("[]", "orgs must not be empty"),
        ('["acme "]', "is not a valid org name"),
        ('["a b"]', "is not a valid org name"),
        ('[""]', "is not a valid org name"),
    ],
)
def test_orgs_that_nobody_could_be(tmp_path: Path, orgs: str, words: str) -> None:
    """Refused for routes and accounts: nobody could use them, and nobody would see why."""
    text = f"""
server_key = "{base64.b64encode(bytes(32)).decode()}"
[custodians.d]
adapter = "dummy"
[[routes]]
destination = "custodian_account"
custodian = "d"
account = {{ id = "a", type = "b" }}
orgs = {orgs}
[[accounts.d]]
id = "x"
type = "y"
orgs = {orgs}
"""
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, text))
    assert len(error.value.faults) == 2
    for where, fault in zip(("routes.0", "accounts.d.0"), error.value.faults, strict=True):
        assert fault.startswith(where)
        assert words in fault
