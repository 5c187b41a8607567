"""Finds adapters by entry point, and builds custodian instances with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from gateway.adapter import Adapter, Capabilities, Tools
from gateway.capabilities import KEY_LENGTH
from gateway.config.settings import ENV_PREFIX, EngineSettings
from gateway.custodians.dates import Dates, NotedClock
from gateway.custodians.instance import CustodianInstance, Fingerprints, Previous
from gateway.custodians.pacer import Pacer
from gateway.errors import BrokenPackage, ConfigError
from gateway.faults import names_at, words_of
from gateway.logs import SCRUBBER, scrub
from gateway.metrics import Metrics

GROUP = "payout_gateway.adapters"
#: What the engine calls for every payout, by whether the adapter declares `capabilities.batch`.
_VERBS = {False: ("submit", "fetch"), True: ("submit_batch", "fetch_batch")}


@dataclass(frozen=True)
class BrokenAdapter:
    """An adapter that is installed and failed to import."""

    name: str
    reason: str


def find_adapters() -> dict[str, type[Adapter[Any]] | BrokenAdapter]:
    """Return every installed adapter by name; broken ones come with the reason."""
    found: dict[str, type[Adapter[Any]] | BrokenAdapter] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        found[entry.name] = _load(entry)
    return found


def _load(entry: EntryPoint) -> type[Adapter[Any]] | BrokenAdapter:
    """Import an adapter. Whatever its package does, no other adapter stops working."""
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's package may fail in any way
        return BrokenAdapter(entry.name, f"{type(error).__name__}: {error}")
    if not (isinstance(loaded, type) and issubclass(loaded, Adapter)):
        return BrokenAdapter(
            entry.name, f"{entry.value} is not a subclass of gateway.adapter.Adapter"
        )
    settings = getattr(loaded, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        reason = f"{entry.value}.Settings is missing; name its pydantic class: Settings = …"
        return BrokenAdapter(entry.name, reason)
    can = getattr(loaded, "capabilities", None)
    if can is not None and not isinstance(can, Capabilities):
        reason = f"{entry.value}.capabilities is a {type(can).__name__}; use Capabilities(…)"
        return BrokenAdapter(entry.name, reason)
    return loaded


@dataclass(frozen=True)
class Wanted:
    """A custodian instance as the configuration names it."""

    instance: str
    adapter: str
    settings: Mapping[str, Any]
    #: the settings with other values before, during a change of credentials
    previous: Mapping[str, Any] | None = None


def build(  # noqa: PLR0913 - the parts of an instance
    wanted: Wanted,
    tools: Tools,
    metrics: Metrics,
    engine: EngineSettings,
    *,
    dates: Dates | None = None,
    pacer: Pacer | None = None,
    digest: Callable[[bytes], str] = lambda text: hashlib.sha256(text).hexdigest(),
    digest_before: Callable[[bytes], str] | None = None,
) -> CustodianInstance:
    """Return a custodian instance. ConfigError names every fault of its settings, never a value.

    `digest` makes the fingerprints of accounts, which are stored and derive from credentials.
    `digest_before` made them under the previous server key.
    """
    instance, adapter, settings = wanted.instance, wanted.adapter, wanted.settings
    where = f"custodians.{instance}"
    # Only configured adapters are imported, so a package that nobody uses can do no harm.
    entry = next((each for each in entry_points(group=GROUP) if each.name == adapter), None)
    kind = None if entry is None else _load(entry)
    if kind is None:
        adapters = find_adapters()
        known = ", ".join(
            f"{name} (failed to import)" if isinstance(each, BrokenAdapter) else name
            for name, each in adapters.items()
        )
        raise ConfigError(
            [f"{where}.adapter: there is no adapter {adapter!r}; installed: {known or 'none'}"]
        )
    if isinstance(kind, BrokenAdapter):
        raise BrokenPackage(
            [f"{where}.adapter: {adapter!r} is installed but failed to import: {kind.reason}"]
        )
    tools = replace(tools, clock=NotedClock(tools.clock))
    digests = (digest,) if digest_before is None else (digest, digest_before)
    made, fingerprints = _made(kind, where, settings, tools, digests)
    before = None
    if wanted.previous is not None:
        old = {**settings, **wanted.previous}
        before = Previous(*_made(kind, f"{where}.previous", old, tools, digests))
        if old == settings:
            raise ConfigError([f"{where}.previous changes nothing: take it out"])
    missing = missing_verbs(kind, batch=made.capabilities.batch)
    if missing:
        fault = (
            f"{where}.adapter: {adapter!r} does not define {' and '.join(missing)}; an adapter "
            "defines submit and fetch, or submit_batch and fetch_batch with capabilities.batch=True"
        )
        raise BrokenPackage([fault])
    if made.capabilities.keys.max_length < KEY_LENGTH:
        fault = (
            f"{where}.adapter: {adapter!r} declares keys of {made.capabilities.keys.max_length} "
            f"characters at most, and order.key() has {KEY_LENGTH}: pay under an id of the custodian's own"
        )
        raise BrokenPackage([fault])
    if pacer is not None:
        pacer.obey(made.capabilities.rate)
    return CustodianInstance(
        instance,
        adapter,
        made,
        tools,
        metrics,
        engine.call_deadline_s,
        fingerprints=fingerprints,
        dates=dates or Dates(tools.clock),
        previous=before,
        pacer=pacer,
    )


def _made(
    kind: type[Adapter[Any]],
    where: str,
    settings: Mapping[str, Any],
    tools: Tools,
    digests: Sequence[Callable[[bytes], str]],
) -> tuple[Adapter[Any], Fingerprints]:
    """Return an adapter, and what makes fingerprints of its accounts. ConfigError names every fault."""
    try:
        checked = kind.Settings.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(
            [_fault_line(where, kind.Settings, each) for each in error.errors()]
        ) from None
    _register_secrets(checked)
    try:
        made = kind(checked, tools)
    except Exception as error:  # noqa: BLE001 - a stranger's constructor may fail in any way
        raise BrokenPackage(
            [scrub(f"{where}: {kind.name!r} cannot start: {type(error).__name__}: {error}")]
        ) from None
    if not isinstance(getattr(made, "capabilities", None), Capabilities):
        raise BrokenPackage([f"{where}: {kind.name!r} declares no capabilities = Capabilities(…)"])
    names = kind.account_settings
    return made, tuple(_fingerprints(checked, names, each) for each in digests)


def _fingerprints(
    settings: BaseModel, names: Sequence[str] | None, digest: Callable[[bytes], str]
) -> Callable[..., str]:
    """Return what makes fingerprints of an instance's accounts."""
    chosen = sorted(type(settings).model_fields if names is None else names)
    whose = {name: _revealed(getattr(settings, name)) for name in chosen}

    # Cached, because every call needs one of the same few fingerprints.
    @lru_cache(maxsize=256)
    def fingerprint(*parts: str) -> str:
        document = json.dumps([whose, parts], sort_keys=True, default=str)
        return digest(document.encode())

    return fingerprint


def _revealed(value: object) -> object:
    """Return a setting as plain JSON; secrets included, since it is digested at once."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, SecretBytes):
        return value.get_secret_value().hex()
    if isinstance(value, BaseModel):
        return {name: _revealed(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(name): _revealed(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_revealed(each) for each in value]
    return str(value)


def missing_verbs(kind: type[Adapter[Any]], *, batch: bool) -> tuple[str, ...]:
    """Return the verbs that the engine calls for every payout and the adapter does not define."""
    return tuple(verb for verb in _VERBS[batch] if getattr(kind, verb) is getattr(Adapter, verb))


def _fault_line(where: str, model: type[BaseModel], error: Any) -> str:
    where = ".".join((where, *(str(part) for part in error["loc"])))
    if error["type"] == "missing":
        env = ENV_PREFIX + where.upper().replace(".", "__")
        return (
            f"{where} is not set: set it in the file, as {where}_file, or {env} in the environment"
        )
    if error["type"] == "extra_forbidden":
        return f"{where} {words_of(error, names_at(model, error['loc']))}"
    message = words_of(error)
    # A validator of the adapter may have put the value into its message.
    for text in sorted(_texts(error.get("input")), key=len, reverse=True):
        message = message.replace(text, "…")
    return scrub(f"{where} {message}")


def _texts(value: object) -> set[str]:
    """Return every text in a value, except very short ones: they are not secrets and occur in any sentence."""
    if isinstance(value, Mapping):
        return {text for each in value.values() for text in _texts(each)}
    if isinstance(value, list | tuple | set | frozenset):
        return {text for each in value for text in _texts(each)}
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return {value, value.strip()} if isinstance(value, str) and len(value.strip()) > 3 else set()  # noqa: PLR2004


def _register_secrets(value: object) -> None:
    """Register every secret of a settings value, however deep it lies."""
    if isinstance(value, SecretStr):
        SCRUBBER.register(value.get_secret_value())
    elif isinstance(value, SecretBytes):
        SCRUBBER.register(value.get_secret_value().decode("utf-8", "replace"))
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            _register_secrets(getattr(value, name))
    elif isinstance(value, Mapping):
        for each in value.values():
            _register_secrets(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            _register_secrets(each)
