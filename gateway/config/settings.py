"""Settings: one TOML file, with the environment taking precedence; all errors are listed at once.

`PAYOUT_GATEWAY_<NAME>` overrides a setting, with `__` between levels
(`PAYOUT_GATEWAY_CUSTODIANS__FB_EU__API_KEY`). Any setting may be read from a file by adding `_file` to its
name: that is how secrets are best given.
"""

from __future__ import annotations

import base64
import binascii
import os
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.networks import IPvAnyNetwork

from gateway.config.funds import BalanceSettings
from gateway.config.rates import LimitSettings
from gateway.config.routes import OrgNames, RouteSettings, RoutingSettings, route_faults
from gateway.config.section import InstanceName, OrgName, Section
from gateway.config.spending import PriceSettings, SpendingSettings, limit_faults
from gateway.database_url import SCHEMES, PostgresUrl
from gateway.errors import ConfigError
from gateway.faults import names_at, words_of
from gateway.model import Network, Text

ENV_PREFIX = "PAYOUT_GATEWAY_"
#: Variables that the command line reads; they are not settings, though their names look alike.
CLIENT_ENV = frozenset(
    ENV_PREFIX + name for name in ("CONFIG", "URL", "API_KEY", "WEBHOOK_SECRET", "OPERATOR")
)
#: Settings whose names end in `_file` and that are not read from the file that they name.
_NAMED_FILE = frozenset({("state_file",)})
#: Suffixes of the database's name: those of SQLite, and those of the locks of migrations and users.
_BESIDE_DATABASE = ("-wal", "-shm", "-journal", ".lock", ".in-use")
Mode = Literal["live", "test"]


def _network_name(text: str) -> str:
    """Return an address or a network in its usual spelling. ValueError if it is neither."""
    return str(ip_network(text))


NetworkName = Annotated[str, AfterValidator(_network_name)]


class ListenSettings(Section):
    """Where the API listens."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    trusted_proxies: tuple[NetworkName, ...] = Field(
        default=(),
        description="Addresses or networks of your reverse proxies. Only their `X-Forwarded-For` is trusted, and "
        "their connections are not limited per address.",
    )
    max_connections: int = Field(
        default=1000,
        ge=16,
        description="Maximum number of open connections; lower if the process may not open that many files.",
    )
    max_connections_per_address: int = Field(
        default=200,
        ge=1,
        description="Maximum number of open connections per client address (IPv6: per /64).",
    )
    max_header_bytes: int = Field(
        default=16_384,
        ge=1024,
        description="Maximum size of a request's address and headers together, in bytes.",
    )
    header_s: float = Field(
        default=10, gt=0, description="Time limit for the headers of a request, in seconds."
    )
    body_s: float = Field(
        default=30,
        gt=0,
        description="Time limit for the body of a request, in seconds. A CSV file gets another second for each "
        "16 KiB, 300 at most.",
    )
    write_s: float = Field(
        default=30,
        gt=0,
        description="A client that reads less than 64 KiB of a response in this many seconds is disconnected.",
    )


class MetricsSettings(Section):
    """Where the metrics are read."""

    host: str = Field(default="127.0.0.1", description="Address of the listener for metrics.")
    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of a separate listener for `/metrics`, `/healthz` and `/readyz`. Not set: no such "
        "listener.",
    )
    public: bool = Field(
        default=False, description="Serve `/metrics` on the API's listener, to everybody."
    )


class ProcessSettings(Section):
    """A process of the gateway."""

    stop_within_s: float = Field(
        default=20,
        ge=2,
        le=600,
        description="Time limit for a graceful stop, in seconds. Requests have half of it, and work in progress "
        "has the rest. Whatever has not ended by then is cut off, and another process continues it.",
    )


class PageSettings(Section):
    """The pages for people."""

    frame_origins: tuple[
        Annotated[str, StringConstraints(pattern=r"^https?://[^/\s*;,'\"]+$")], ...
    ] = Field(
        default=(),
        description="Origins whose pages may embed the tracking page in a frame. Not set: none.",
    )


class PanelSettings(Section):
    """The panel for operators."""

    enabled: bool = Field(
        default=True,
        description="Serve the panel under `/admin`. Nobody can sign in until a user is created.",
    )


class OrgSettings(Section):
    """What recipients see of an org."""

    display_name: Annotated[str, StringConstraints(min_length=1, max_length=80)] | None = Field(
        default=None,
        description="Name of the org on the tracking page. Not set: the page says `the sender`.",
    )


class LogSettings(Section):
    """How the gateway logs."""

    format: Literal["json", "console"] = Field(
        default="json",
        description="`json`: one JSON object per line. `console`: colours, for people.",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged."
    )


class WebhookSettings(Section):
    """How events are delivered."""

    allow_private_addresses: bool = Field(
        default=False,
        description="Deliver to addresses that are not public (loopback, private networks). "
        "For development and closed networks only.",
    )
    egress_proxy: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s@]+/?$",
        description="Filtering HTTP proxy for every delivery. The proxy resolves the names, and must itself "
        "refuse internal addresses.",
    )
    denied_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(),
        description="Further networks that receive no deliveries, such as `198.51.100.0/24`: your own public "
        "addresses behind NAT, hosts that trust this machine's address, your own NAT64 prefix.",
    )
    endpoints_per_org: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Maximum number of webhook endpoints per org and mode. An org that already has more keeps "
        "them and cannot add any.",
    )
    in_flight: int = Field(
        default=128, ge=4, le=1000, description="Maximum number of deliveries in progress."
    )
    in_flight_per_endpoint: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Maximum number of deliveries in progress to one endpoint.",
    )
    retry_plan_s: tuple[float, ...] = Field(
        default=(5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400),
        description="Seconds between the attempts of a delivery; each varies by 20 %.",
    )
    slow_down_s: float = Field(
        default=60,
        ge=0,
        description="Minimum wait after a timeout or a response 429, 502, 503 or 504, in seconds.",
    )
    timeout_s: float = Field(
        default=15, gt=0, le=30, description="Total time for one delivery, in seconds."
    )
    lookup_timeout_s: float = Field(
        default=8,
        gt=0,
        le=30,
        description="Time limit for resolving the name of an endpoint, in seconds; a part of `timeout_s`.",
    )
    lookups_per_org: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Maximum number of name look-ups in progress for one org, including those that never end.",
    )
    warn_after_s: float = Field(
        default=3 * 86_400,
        gt=0,
        description="An endpoint that has failed for this long is reported, in seconds.",
    )
    disable_after_s: float = Field(
        default=5 * 86_400,
        gt=0,
        description="An endpoint that has failed for this long, in seconds, and has exhausted the attempts for "
        "an event, is disabled.",
    )
    keep_attempts_days: float = Field(
        default=30,
        gt=0,
        description="How long delivery attempts are kept once the delivery has ended. On PostgreSQL those of a "
        "month are deleted together, once the newest of them is that old.",
    )
    keep_events_days: float = Field(
        default=90,
        gt=0,
        description="How long events are kept. Events of open payouts and pending deliveries stay. On PostgreSQL "
        "a month of events is deleted as a whole, once its newest one is that old.",
    )


class RetentionSettings(Section):
    """How long what is over is kept. What belongs to an open payout or batch stays, however old it is."""

    unmatched_webhooks_days: float = Field(
        default=30,
        ge=1,
        description="How long a custodian's webhook is kept that matches no payout or cannot be read.",
    )
    webhooks_days: float = Field(
        default=90,
        ge=1,
        description="How long a custodian's webhook is kept after it was applied. Webhooks of open payouts stay.",
    )
    quotes_days: float = Field(
        default=30,
        ge=2,
        description="How long an expired, unused quote is kept. A used quote is kept as long as its payout.",
    )
    personal_data_days: float | None = Field(
        default=None,
        ge=1,
        description="Days after the end of a payout until its recipient's personal data is erased; ids, "
        "references, amounts and times stay. Not set: only `payouts erase` erases.",
    )


class EngineSettings(Section):
    """How payouts are worked on."""

    lease_s: float = Field(
        default=60,
        gt=0,
        description="Duration of a lease on an execution, in seconds; renewed while the execution is worked on.",
    )
    call_deadline_s: float = Field(
        default=45, gt=0, description="Time limit for one call of an adapter's verb, in seconds."
    )
    action_life_s: float = Field(
        default=86_400,
        gt=0,
        description="Time limit for a person's answer, in seconds, if the custodian sets none.",
    )
    submit_within_s: float = Field(
        default=21_600,
        gt=0,
        description="How long an accepted payout may wait to be sent, in seconds of elapsed time. Then it fails "
        "as `not_sent_in_time`, without money moved. At most half the lifetime of an idempotency key "
        "of any instance on a route.",
    )
    breaker_faults: int = Field(
        default=5,
        ge=1,
        description="Errors in a row (no connection, no response, 500 or above) after which a custodian gets "
        "nothing that moves money until it answers a read.",
    )
    breaker_open_s: float = Field(
        default=30,
        gt=0,
        description="Seconds until the custodian is tried again with a read; doubled after each failure, up to 5 "
        "minutes.",
    )
    sweep_s: float = Field(
        default=60, gt=0, description="Seconds between two searches for payouts without an owner."
    )
    idle_s: float = Field(
        default=60,
        gt=0,
        description="Maximum time that an idle worker sleeps, in seconds. Work added by other processes wakes it "
        "within 5 s.",
    )


class CustodianSettings(BalanceSettings):
    """One custodian instance. Members beyond these are the adapter's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    adapter: str = Field(description="Name of the adapter that speaks to it.")
    display_name: Annotated[str, StringConstraints(min_length=1, max_length=80)] | None = Field(
        default=None,
        description="Name of the provider on the tracking page. Not set: the page names none.",
    )
    modes: tuple[Mode, ...] = Field(
        default=("live",),
        min_length=1,
        description="Key modes that may use the instance; use `test` only for a sandbox.",
    )
    previous: dict[str, Any] | None = Field(
        default=None,
        description="During a change of credentials: the previous ones, under the names of the adapter's "
        "settings. They still verify webhooks. Remove them when the custodian no longer uses them.",
    )

    @property
    def adapter_settings(self) -> Mapping[str, Any]:
        """The members that belong to the adapter."""
        return dict(self.model_extra or {})


class AccountSettings(Section):
    """A source account that a partner may name in `route`, beside those of the routes."""

    id: Text = Field(description="The custodian's id of the account.")
    type: Text = Field(description="The custodian's type of the account.")
    orgs: OrgNames | None = Field(
        default=None,
        description="Orgs that may name the account. Not set: all. Required as soon as any route has `orgs`.",
    )
    reserve: bool | None = Field(
        default=None,
        description="Whether payouts reserve from this account. Not set: the value of the custodian instance. "
        "The account may also be that of a route.",
    )


class AssetSettings(Section):
    """An asset beyond the built-in ones, or another reading of one."""

    code: str = Field(pattern=r"^[A-Z0-9_.]{2,16}$", description="Asset code.")
    decimals: int = Field(ge=0, le=30, description="Decimals.")
    usd_pegged: bool = Field(default=False, description="Whether one unit counts as one US dollar.")
    networks: dict[str, dict[str, Any]] = Field(
        default={},
        description="Per network: `contract` (or mint) and, if they differ, `decimals`.",
    )


class Settings(Section):
    """The whole configuration."""

    database: Path = Field(
        default=Path("payout-gateway.db"),
        description="Path of the SQLite database, or the URL of a PostgreSQL database "
        "(`postgresql://user@host:5432/name`). Put a URL with a password into its own file, named by "
        "`database_file`.",
    )
    state_file: Path | None = Field(
        default=None,
        description="Path of the state file, which holds the number of the newest moving mark, so that an older "
        "copy of the database is recognised. Not set: beside the database, with `.state` added to "
        "its name. Not for PostgreSQL.",
    )
    public_url: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+(/\S*)?$")] = Field(
        default="http://127.0.0.1:8080",
        description="The address under which partners reach the gateway.",
    )
    browser_origins: tuple[
        Annotated[str, StringConstraints(pattern=r"^https?://[^/\s*]+$")], ...
    ] = Field(
        default=(),
        description="Origins whose pages may answer a required action with its client secret (CORS).",
    )
    server_key: SecretStr = Field(
        description="32 random bytes as base64. Seals secrets at rest and derives tokens. Create one with: head "
        "-c 32 /dev/urandom | base64"
    )
    previous_server_key: SecretStr | None = Field(
        default=None,
        description="During a change of the server key: the previous one, which still opens and verifies. Remove "
        "it after `payout-gateway db reseal`, when its tracking links may stop working.",
    )
    listen: ListenSettings = ListenSettings()
    metrics: MetricsSettings = MetricsSettings()
    process: ProcessSettings = ProcessSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    pages: PageSettings = PageSettings()
    panel: PanelSettings = PanelSettings()
    orgs: dict[OrgName, OrgSettings] = Field(default={}, description="Orgs by name.")
    explorers: dict[
        Network, Annotated[str, StringConstraints(pattern=r"^(https?://[^\s]*\{hash\}[^\s]*)?$")]
    ] = Field(
        default={},
        description="Per network, the address of a transaction's page at a block explorer, with `{hash}` in it. "
        "Overrides the built-in one on the tracking page; an empty address removes the link.",
    )
    webhooks: WebhookSettings = WebhookSettings()
    engine: EngineSettings = EngineSettings()
    retention: RetentionSettings = RetentionSettings()
    spending: SpendingSettings = SpendingSettings()
    prices: PriceSettings = PriceSettings()
    custodians: dict[InstanceName, CustodianSettings] = Field(
        default={}, description="Custodian instances by name."
    )
    routes: tuple[RouteSettings, ...] = Field(
        default=(), description="Routes, in order of preference."
    )
    routing: RoutingSettings = RoutingSettings()
    assets: tuple[AssetSettings, ...] = Field(default=(), description="Additional assets.")
    accounts: dict[InstanceName, tuple[AccountSettings, ...]] = Field(
        default={},
        description="Additional source accounts per custodian that a partner may name in `route`.",
    )

    _postgres: PostgresUrl | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _take_url(cls, data: Any, handler: ModelWrapValidatorHandler[Settings]) -> Settings:
        url = data.get("database") if isinstance(data, dict) else None
        if not isinstance(url, str) or not url.strip().startswith(SCHEMES):
            return handler(data)
        postgres = PostgresUrl.parse(url.strip())
        settings = handler({**data, "database": postgres.label})
        settings._postgres = postgres  # noqa: SLF001 - its own
        return settings

    @property
    def postgres(self) -> PostgresUrl | None:
        """The PostgreSQL database; None if it is SQLite. `database` is then its display name."""
        return self._postgres

    @property
    def state_path(self) -> Path:
        """Where the state file is."""
        return self.state_file or self.database.with_name(self.database.name + ".state")

    def server_key_bytes(self) -> bytes:
        """Return the server key. ConfigError if it is not base64."""
        return _key_bytes("server_key", self.server_key)

    def previous_server_key_bytes(self) -> bytes | None:
        """Return the previous server key, if one is set. ConfigError if it is not base64."""
        key = self.previous_server_key
        return None if key is None else _key_bytes("previous_server_key", key)


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the configuration. ConfigError lists every fault, never a value.

    Conflicts between settings are listed once each setting is valid by itself.
    """
    faults: list[str] = []
    raw: dict[str, Any] = {}
    base = Path()
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
            base = path.resolve().parent
        except FileNotFoundError:
            raise ConfigError(
                [f"there is no configuration file {path}; `payout-gateway init` writes one"]
            ) from None
        except OSError as error:
            raise ConfigError([f"{path} cannot be read ({error.strerror})"]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([f"{path} is not valid TOML: {error}"]) from None
    for name, text in sorted((os.environ if environ is None else environ).items()):
        if name.startswith(ENV_PREFIX) and name not in CLIENT_ENV:
            _put(raw, name.removeprefix(ENV_PREFIX).lower().split("__"), text)
    raw = _read_files(raw, base, faults, ())
    faults += _url_faults(raw)
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        faults += [
            _fault_line(each) for each in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(faults) from None
    # A relative path is beside the configuration; an absolute one stays as it is.
    paths = {} if settings.postgres is not None else {"database": base / settings.database}
    if settings.state_file is not None:
        paths["state_file"] = base / settings.state_file
    settings = settings.model_copy(update=paths)
    faults += _cross_faults(settings)
    faults += _state_file_faults(settings)
    if faults:
        raise ConfigError(faults)
    return settings


def _url_faults(raw: dict[str, Any]) -> list[str]:
    """Return the errors of a PostgreSQL database's URL, and of settings that conflict with it.

    A wrong URL is removed, so that the other settings can still be checked.
    """
    url = raw.get("database")
    if not isinstance(url, str) or not url.strip().startswith(SCHEMES):
        return []
    faults = []
    try:
        PostgresUrl.parse(url.strip())
    except ValueError as error:
        faults.append(f"database: {error}")
        del raw["database"]
    if raw.get("state_file") is not None:
        faults.append("state_file: it is for SQLite; PostgreSQL tells an older copy by other means")
    return faults


def _put(raw: dict[str, Any], keys: list[str], text: str) -> None:
    for key in keys[:-1]:
        inner = raw.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        raw = inner
    raw[keys[-1]] = text


def _read_files(
    raw: dict[str, Any], base: Path, faults: list[str], at: tuple[str, ...]
) -> dict[str, Any]:
    """Replace each `x_file = "path"` by `x` with the file's text."""
    read: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, dict):
            read[key] = _read_files(value, base, faults, (*at, key))
        elif key.endswith("_file") and isinstance(value, str) and (*at, key) not in _NAMED_FILE:
            try:
                read[key.removesuffix("_file")] = (base / value).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                faults.append(
                    f"{'.'.join((*at, key))}: cannot read the file ({type(error).__name__})"
                )
        else:
            read[key] = value
    return read


def _fault_line(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    env = ENV_PREFIX + "__".join(str(part).upper() for part in error["loc"])
    if error["type"] == "missing":
        return f"{where} is not set: set it in the file, or {env} in the environment"
    return f"{where} {words_of(error, names_at(Settings, error['loc']))}"


def _cross_faults(settings: Settings) -> list[str]:
    """Return the conflicts between settings that are each valid."""
    known = ", ".join(sorted(settings.custodians)) or "none"
    faults = [
        f"routes.{index}.custodian: {route.custodian!r} is not configured; custodians: {known}"
        for index, route in enumerate(settings.routes)
        if route.custodian not in settings.custodians
    ]
    faults += [
        f"accounts.{name}: no custodian of that name; custodians: {known}"
        for name in settings.accounts
        if name not in settings.custodians
    ]
    restricted = [
        f"routes.{index}" for index, each in enumerate(settings.routes) if each.orgs is not None
    ]
    if restricted:
        faults += [
            f"accounts.{name}.{index}: orgs is not set, so every org could pay from this account, and "
            f"{restricted[0]} is only for some orgs. List the orgs that may name it: "
            'orgs = ["..."]'
            for name, accounts in settings.accounts.items()
            for index, account in enumerate(accounts)
            if account.orgs is None
        ]
    faults += route_faults(settings.routes)
    faults += limit_faults(settings.spending, frozenset(settings.custodians))
    faults += [
        f"custodians.{name}.balance_max_age_s: {each.balance_max_age_s:g} is less than twice "
        f"balance_every_s ({each.balance_every_s:g}): every balance would be too old at times"
        for name, each in settings.custodians.items()
        if each.balance_max_age_s < 2 * each.balance_every_s
    ]
    keys = {"server_key": settings.server_key, "previous_server_key": settings.previous_server_key}
    for name, key in keys.items():
        try:
            if key is not None and len(_key_bytes(name, key)) != 32:  # noqa: PLR2004 - AES-256
                faults.append(f"{name} has the wrong length: 32 bytes are needed, as base64")
        except ConfigError as error:
            faults += error.faults
    return faults


def _state_file_faults(settings: Settings) -> list[str]:
    """Return the errors of the state file's path, which must not be a file of the database."""
    if settings.postgres is not None:
        return []
    taken = [_beside(settings.database, suffix) for suffix in ("", *_BESIDE_DATABASE)]
    # The state file's lock file beside it is opened as well.
    own = [_beside(settings.state_path, suffix) for suffix in ("", ".lock")]
    faults = [
        f"state_file: {settings.state_path} would be written over {found}, which the database needs. "
        "Name another file, or leave the setting out"
        for found in taken
        if any(_same_file(found, each) for each in own)
    ]
    return faults[:1]


def _beside(path: Path, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths are the same file, through any links."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False


def _key_bytes(name: str, key: SecretStr) -> bytes:
    try:
        return base64.b64decode(key.get_secret_value().strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(
            [f"{name} is not base64. Make one with: head -c 32 /dev/urandom | base64"]
        ) from None
