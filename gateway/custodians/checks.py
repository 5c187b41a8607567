"""Checks of an installed adapter that need no call of it, against the rules of the contract.

`payout-gateway adapters check` prints the errors, and the kit's first test demands that there are none.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from gateway.adapter import Adapter
from gateway.custodians.registry import GROUP, BrokenAdapter, find_adapters, missing_verbs
from gateway.model import DestinationType

TWINS = "payout_gateway.twins"
_SECRET_WORDS = ("secret", "password", "passcode", "private_key", "api_key", "auth_token")
#: Libraries that open connections of their own; an adapter must use the session that it is given.
_OTHER_CLIENTS = frozenset({"requests", "httpx", "urllib3", "http"})


def faults_of(name: str) -> list[str]:
    """Return the errors of an installed adapter, one line each; each says what to do."""
    found = find_adapters().get(name)
    if found is None:
        where = f'[project.entry-points."{GROUP}"] in the pyproject.toml of its package'
        return [f"no adapter {name!r} is installed: declare it under {where}, and install that"]
    if isinstance(found, BrokenAdapter):
        return [f"the adapter {name!r} does not load: {found.reason}"]
    return [
        *_identity(name, found),
        *_settings(found),
        *_declared(found),
        *_imports(found),
        *_twin(name, found),
    ]


def _identity(name: str, kind: type[Adapter[Any]]) -> Iterator[str]:
    if getattr(kind, "name", None) != name:
        told = getattr(kind, "name", None)
        yield f"its name is {told!r} and its entry point {name!r}: give both the same"
    if not kind.__doc__ or kind.__doc__ == Adapter.__doc__:
        yield f"{kind.__name__} has no docstring: say which custodian it speaks to"
    module = importlib.util.find_spec(kind.__module__.partition(".")[0])
    folder = Path(module.origin).parent if module and module.origin else None
    if folder is None or not (folder / "py.typed").is_file():
        yield f"the package {kind.__module__.partition('.')[0]!r} ships no py.typed"


def _settings(kind: type[Adapter[Any]]) -> Iterator[str]:
    settings = getattr(kind, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        yield "Settings is no pydantic model"
        return
    fields = settings.model_fields
    if "base_url" not in fields:
        yield "Settings has no base_url: the gateway and the sandbox set the address by it"
    elif not fields["base_url"].is_required():
        yield "Settings.base_url has a default: a configuration without it would call an unintended host"
    if settings.model_config.get("extra") != "forbid":
        yield 'Settings takes unknown members: set model_config = ConfigDict(extra="forbid")'
    for field, info in fields.items():
        looks_secret = any(word in field for word in _SECRET_WORDS) and not field.endswith("_url")
        if looks_secret and info.annotation in {str, bytes, str | None}:
            yield f"Settings.{field} looks like a secret: make it a SecretStr"
    yield from _account(kind, frozenset(fields))


def _account(kind: type[Adapter[Any]], fields: frozenset[str]) -> Iterator[str]:
    whose = kind.account_settings
    if whose is None:
        yield "account_settings is not declared: name the settings that say whose account it is"
        return
    for each in whose:
        if each not in fields:
            yield f"account_settings names {each!r}, which Settings does not have"
    if "base_url" in fields and "base_url" not in whose:
        yield "account_settings does not name base_url: another address is another account"
    if len(whose) < 2:  # noqa: PLR2004 - the address, and whose account it is there
        yield "account_settings names no credential: another customer is another account"


def _declared(kind: type[Adapter[Any]]) -> Iterator[str]:
    can = kind.capabilities
    for verb in missing_verbs(kind, batch=can.batch):
        yield f"{verb} is not defined"
    for each in sorted(can.destination_types - set(get_args(DestinationType))):
        yield f"capabilities.destination_types has {each!r}, which no order can have"
    pairs = (
        ("cancel", can.cancel, "cancel"),
        ("quotes", can.quotes, "offers"),
        ("step_up", can.step_up, "confirm"),
        ("webhooks", can.webhooks, "verify"),
        ("webhooks", can.webhooks, "parse"),
        ("dated_by_clock", can.dated_by_clock, "probe"),
    )
    for capability, declared, verb in pairs:
        defined = getattr(kind, verb) is not getattr(Adapter, verb)
        if declared and not defined:
            yield f"capabilities.{capability} is declared, and {verb}() is not defined"
        if defined and not declared:
            yield f"{verb}() is defined, and capabilities.{capability} is not declared"
    if can.call_life_s is None and not (can.keys.repeat_is_safe and can.keys.life_s is None):
        yield (
            "call_life_s is None, so that absence is never proven, and keys.repeat_is_safe is not "
            "declared for ever: every lost reply would wait for a person"
        )


def _imports(kind: type[Adapter[Any]]) -> Iterator[str]:
    package = kind.__module__.rpartition(".")[0]
    for path in _sources(kind.__module__):
        if "twin" in path.parent.parts[-2:]:
            continue
        for module in _imported(path):
            top = module.partition(".")[0]
            if top == "gateway" and module != "gateway.adapter":
                yield f"{path.name} imports {module}: gateway.adapter is the whole contract"
            if module == f"{package}.twin" or module.startswith(f"{package}.twin."):
                yield f"{path.name} imports its twin {module}"
            if top in _OTHER_CLIENTS:
                yield f"{path.name} imports {module}: call by self.tools.http, which is handed in"


def _twin(name: str, kind: type[Adapter[Any]]) -> Iterator[str]:
    entry = _entry(TWINS, name)
    if entry is None:
        yield f'no twin {name!r} is installed: declare it under [project.entry-points."{TWINS}"]'
        return
    if entry.attr != "main":
        yield f"the twin's entry point is {entry.value}: its function must be called main"
    try:
        entry.load()
        spec = importlib.util.find_spec(entry.module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's package
        yield f"the twin {entry.value} does not load: {type(error).__name__}: {error}"
        return
    if spec is None or spec.origin is None:
        yield f"the twin {entry.module} is no file"
        return
    if not (Path(spec.origin).parent / "sandbox.toml").is_file():
        yield "there is no sandbox.toml beside the twin: it has the routes and settings to use it"
    package = kind.__module__.rpartition(".")[0]
    for path in _sources(entry.module):
        for module in _imported(path):
            if module.partition(".")[0] == "gateway":
                yield f"the twin's {path.name} imports {module}: put the twin in a package of its own, which shares no code with the gateway"
            own = module.startswith(f"{package}.") and not module.startswith(f"{package}.twin")
            if own or module == kind.__module__:
                yield f"the twin's {path.name} imports {module}, which it is the witness of"


def _entry(group: str, name: str) -> EntryPoint | None:
    return next((each for each in entry_points(group=group) if each.name == name), None)


def _sources(module: str) -> list[Path]:
    """Return the files of a module's package."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("*.py"))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
