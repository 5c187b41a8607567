"""Settings: one TOML file, the environment over it, every fault listed at once.

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
#: What the command line reads from the environment; no settings, though they are called alike.
CLIENT_ENV = frozenset(
    ENV_PREFIX + name for name in ("CONFIG", "URL", "API_KEY", "WEBHOOK_SECRET", "OPERATOR")
)
#: Settings that are called so, and are not read from the file that they name.
_NAMED_FILE = frozenset({("state_file",)})
#: What is added to the database's name by SQLite, and for the locks of migrations and of its users.
_BESIDE_DATABASE = ("-wal", "-shm", "-journal", ".lock", ".in-use")
Mode = Literal["live", "test"]


def _network_name(text: str) -> str:
    """Return an address or a network in its usual spelling. ValueError where it is neither."""
    return str(ip_network(text))


NetworkName = Annotated[str, AfterValidator(_network_name)]


class ListenSettings(Section):
    """Where the API listens."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    trusted_proxies: tuple[NetworkName, ...] = Field(
        default=(),
        description="Addresses or networks of your reverse proxies. Only their `X-Forwarded-For` is "
        "believed, and their connections are not limited per address.",
    )
    max_connections: int = Field(
        default=1000,
        ge=16,
        description="Open connections in total; fewer where the process may not have so many files.",
    )
    max_connections_per_address: int = Field(
        default=200, ge=1, description="Open connections of one client address (IPv6: /64)."
    )
    max_header_bytes: int = Field(
        default=16_384, ge=1024, description="Bytes of a request's address and headers together."
    )
    header_s: float = Field(
        default=10, gt=0, description="How long the headers of a request may take, in seconds."
    )
    body_s: float = Field(
        default=30,
        gt=0,
        description="How long the body of a request may take, in seconds. That of a CSV file may take a "
        "second more for each 16 KiB, and at most 300.",
    )
    write_s: float = Field(
        default=30,
        gt=0,
        description="A client that takes less than 64 KiB of an answer in so many seconds is cut off.",
    )


class MetricsSettings(Section):
    """Where the metrics are read."""

    host: str = Field(default="127.0.0.1", description="Address of the listener for metrics.")
    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of a listener for `/metrics`, `/healthz` and `/readyz` only; none, if not set.",
    )
    public: bool = Field(
        default=False, description="Answer `/metrics` on the API's own listener, to everybody."
    )


class ProcessSettings(Section):
    """A process of the gateway."""

    stop_within_s: float = Field(
        default=20,
        ge=2,
        le=600,
        description="How long a process that is told to stop may take. Requests have half of it, work under "
        "way the rest; what has not ended by then is cut off, and another process goes on with it.",
    )


class PageSettings(Section):
    """The pages for people."""

    frame_origins: tuple[
        Annotated[str, StringConstraints(pattern=r"^https?://[^/\s*;,'\"]+$")], ...
    ] = Field(
        default=(),
        description="Origins whose pages may embed the tracking page in a frame; none, if not set.",
    )


class PanelSettings(Section):
    """The panel for operators."""

    enabled: bool = Field(
        default=True,
        description="Serve the panel under `/admin`. Nobody can sign in before a user is created.",
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
        default="json", description="One JSON object per line, or colours."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level shown."
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
        description="Filtering HTTP proxy that every delivery goes through. It resolves the names then, "
        "and must refuse inner addresses itself.",
    )
    denied_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(),
        description="Further networks that no delivery goes to, such as `198.51.100.0/24`: your own public "
        "addresses behind NAT, hosts that trust this machine's address, a NAT64 prefix of your own.",
    )
    endpoints_per_org: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Webhook endpoints that an org may have in each mode. An org that has more keeps them "
        "and cannot add any.",
    )
    in_flight: int = Field(default=128, ge=4, le=1000, description="Deliveries under way at once.")
    in_flight_per_endpoint: int = Field(
        default=4, ge=1, le=100, description="Deliveries under way at once to one endpoint."
    )
    retry_plan_s: tuple[float, ...] = Field(
        default=(5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400),
        description="Seconds from one try of a delivery to the next; each varies by 20 %.",
    )
    slow_down_s: float = Field(
        default=60,
        ge=0,
        description="Least wait after a timeout or an answer 429, 502, 503 or 504, in seconds.",
    )
    timeout_s: float = Field(
        default=15, gt=0, le=30, description="Total time for one delivery, in seconds."
    )
    lookup_timeout_s: float = Field(
        default=8,
        gt=0,
        le=30,
        description="Longest wait for the name of an endpoint to resolve, in seconds; a part of `timeout_s`.",
    )
    lookups_per_org: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Look-ups of names under way at once for one org, those included that never end.",
    )
    warn_after_s: float = Field(
        default=3 * 86_400,
        gt=0,
        description="An endpoint that has failed for so long is warned of, in seconds.",
    )
    disable_after_s: float = Field(
        default=5 * 86_400,
        gt=0,
        description="An endpoint that has failed for so long, with an event given up, is disabled.",
    )
    keep_attempts_days: float = Field(
        default=30,
        gt=0,
        description="How long tries of deliveries that have ended are kept. On PostgreSQL those of a month are "
        "deleted together, once the newest of them is that old.",
    )
    keep_events_days: float = Field(
        default=90,
        gt=0,
        description="How long events are kept. Those of open payouts and pending deliveries stay. On PostgreSQL "
        "a month of events is deleted as a whole, once its newest one is that old.",
    )


class RetentionSettings(Section):
    """How long what is over is kept. What belongs to an open payout or batch stays, however old it is."""

    unmatched_webhooks_days: float = Field(
        default=30,
        ge=1,
        description="How long a custodian's webhook that matches no payout, or cannot be read, is kept.",
    )
    webhooks_days: float = Field(
        default=90,
        ge=1,
        description="How long a custodian's webhook is kept after it was applied. Those of open payouts stay.",
    )
    quotes_days: float = Field(
        default=30,
        ge=2,
        description="How long an expired quote that was never used is kept. A used one lives as long as its "
        "payout.",
    )
    personal_data_days: float | None = Field(
        default=None,
        ge=1,
        description="How long after its end a payout's recipient can still be read: then the personal data "
        "is erased, and ids, references, amounts and times stay. Not set: only `payouts erase` erases.",
    )


class EngineSettings(Section):
    """How payouts are worked on."""

    lease_s: float = Field(
        default=60, gt=0, description="Life of a lease on a payout; renewed while it is worked on."
    )
    call_deadline_s: float = Field(
        default=45, gt=0, description="Longest time for one call of an adapter's verb."
    )
    action_life_s: float = Field(
        default=86_400,
        gt=0,
        description="How long a person may take to answer, where the custodian says nothing of it.",
    )
    submit_within_s: float = Field(
        default=21_600,
        gt=0,
        description="How long after it was accepted a payout may wait to be sent, in seconds of elapsed "
        "time. Then it fails as `not_sent_in_time`; no money moved. At most half the life of a key of any "
        "instance on a route.",
    )
    breaker_faults: int = Field(
        default=5,
        ge=1,
        description="Faults in a row (no connection, no answer, 500 or above) after which nothing that moves "
        "money is sent to a custodian, until it answers a read.",
    )
    breaker_open_s: float = Field(
        default=30,
        gt=0,
        description="Seconds until it is asked again; each failure doubles them, up to 5 minutes.",
    )
    sweep_s: float = Field(
        default=60, gt=0, description="Seconds between two looks for payouts that nobody owns."
    )
    idle_s: float = Field(
        default=60,
        gt=0,
        description="Longest sleep of a worker that nobody wakes; what other processes add wakes it within 5 s.",
    )


class CustodianSettings(BalanceSettings):
    """One custodian instance. Members beyond these are the adapter's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    adapter: str = Field(description="Name of the adapter that speaks to it.")
    display_name: Annotated[str, StringConstraints(min_length=1, max_length=80)] | None = Field(
        default=None,
        description="Name of the provider on the tracking page; the page names none, if not set.",
    )
    modes: tuple[Mode, ...] = Field(
        default=("live",),
        min_length=1,
        description="Key modes that may use it; `test` only for a sandbox.",
    )
    previous: dict[str, Any] | None = Field(
        default=None,
        description="While its credentials are changed: those of before, under the names of the adapter's "
        "settings. They still verify webhooks. Take it out when the custodian uses them no more.",
    )

    @property
    def adapter_settings(self) -> Mapping[str, Any]:
        """The members that belong to the adapter."""
        return dict(self.model_extra or {})


class AccountSettings(Section):
    """A source account that a partner may name in `route`, beside those of the routes."""

    id: Text = Field(description="Its id, in the custodian's words.")
    type: Text = Field(description="Its type, in the custodian's words.")
    orgs: OrgNames | None = Field(
        default=None,
        description="Orgs that may name it; all, if not given. Required as soon as any route has `orgs`.",
    )
    reserve: bool | None = Field(
        default=None,
        description="Whether payouts reserve from it; as the custodian instance says, if not given. May also "
        "name the account of a route.",
    )


class AssetSettings(Section):
    """An asset beyond the built-in ones, or another reading of one."""

    code: str = Field(pattern=r"^[A-Z0-9_.]{2,16}$", description="Asset code.")
    decimals: int = Field(ge=0, le=30, description="Decimals.")
    usd_pegged: bool = Field(default=False, description="Whether one unit counts as one US dollar.")
    networks: dict[str, dict[str, Any]] = Field(
        default={},
        description="Per network: `contract` (or mint) and, where they differ, `decimals`.",
    )


class Settings(Section):
    """The whole configuration."""

    database: Path = Field(
        default=Path("payout-gateway.db"),
        description="Path of the SQLite database, or the URL of a PostgreSQL database "
        "(`postgresql://user@host:5432/name`; a URL with a password belongs into a file of its own, named "
        "by `database_file`).",
    )
    state_file: Path | None = Field(
        default=None,
        description="Path of the state file, which holds the number of the newest moving mark: by it an "
        "older copy of the database is recognised. Not set: beside the database, with `.state` added "
        "to its name. Not for PostgreSQL.",
    )
    public_url: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+(/\S*)?$")] = Field(
        default="http://127.0.0.1:8080",
        description="The address under which partners reach the gateway.",
    )
    browser_origins: tuple[
        Annotated[str, StringConstraints(pattern=r"^https?://[^/\s*]+$")], ...
    ] = Field(
        default=(),
        description="Origins whose pages may answer an action with its client secret (CORS).",
    )
    server_key: SecretStr = Field(
        description="32 random bytes as base64; seals secrets at rest and derives tokens. "
        "Make one with: head -c 32 /dev/urandom | base64"
    )
    previous_server_key: SecretStr | None = Field(
        default=None,
        description="While the server key is changed: the one before. It still opens and verifies. "
        "Take it out once `payout-gateway db reseal` is done and its tracking links may end.",
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
        description="Per network, the address of a transaction's page at a block explorer, with "
        "`{hash}` in it. Overrides the built-in one on the tracking page; empty: no link.",
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
        default=(), description="Routes, in the order of preference."
    )
    routing: RoutingSettings = RoutingSettings()
    assets: tuple[AssetSettings, ...] = Field(default=(), description="More assets.")
    accounts: dict[InstanceName, tuple[AccountSettings, ...]] = Field(
        default={},
        description="More source accounts per custodian that a partner may name in `route`.",
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
        """The PostgreSQL database; None where it is SQLite. `database` is then what it is called."""
        return self._postgres

    @property
    def state_path(self) -> Path:
        """Where the state file is."""
        return self.state_file or self.database.with_name(self.database.name + ".state")

    def server_key_bytes(self) -> bytes:
        """Return the server key. ConfigError where it is not base64."""
        return _key_bytes("server_key", self.server_key)

    def previous_server_key_bytes(self) -> bytes | None:
        """Return the server key of before, if one is set. ConfigError where it is not base64."""
        key = self.previous_server_key
        return None if key is None else _key_bytes("previous_server_key", key)


def load(path: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the configuration. ConfigError lists every fault, never a value."""
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
    _refuse_url(raw)
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        faults += [
            _fault_line(each) for each in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(faults) from None
    # Beside the configuration; a path that is absolute stays as it is.
    paths = {} if settings.postgres is not None else {"database": base / settings.database}
    if settings.state_file is not None:
        paths["state_file"] = base / settings.state_file
    settings = settings.model_copy(update=paths)
    faults += _cross_faults(settings)
    faults += _state_file_faults(settings)
    if faults:
        raise ConfigError(faults)
    return settings


def _refuse_url(raw: dict[str, Any]) -> None:
    """Raise ConfigError for a wrong URL of a PostgreSQL database, and for what does not go beside it."""
    url = raw.get("database")
    if not isinstance(url, str) or not url.strip().startswith(SCHEMES):
        return
    faults = []
    try:
        PostgresUrl.parse(url.strip())
    except ValueError as error:
        faults.append(f"database: {error}")
    if raw.get("state_file") is not None:
        faults.append("state_file: it is for SQLite; PostgreSQL tells an older copy by other means")
    if faults:
        raise ConfigError(faults)


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
    """Return what is wrong between settings that are each right."""
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
    """Return what is wrong with where the state file is: it must be no file of the database."""
    if settings.postgres is not None:
        return []
    taken = [_beside(settings.database, suffix) for suffix in ("", *_BESIDE_DATABASE)]
    # It has a lock file beside it, which is opened as well.
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
    """Whether two paths are one file, by whatever links."""
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
