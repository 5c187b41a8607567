"""All checks, one after the other: what one of them cannot read is no reason not to make the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from gateway import logs
from gateway.app import unknown_assets
from gateway.assets import Asset, AssetRegistry
from gateway.config import settings as configuration
from gateway.config.settings import Settings
from gateway.doctor import custodians, database, egress, machine
from gateway.doctor.findings import Finding, failed, ok, skipped
from gateway.errors import ConfigError
from gateway.runtime import Runtime

CONFIGURATION = "configuration"


async def examine(config: Path, runtime: Runtime, *, wait: bool = True) -> AsyncIterator[Finding]:
    """Yield what each check finds. Nothing is changed, on this machine or elsewhere.

    `wait`: watch for some seconds which of the registered gateways run.
    """
    try:
        settings = configuration.load(config)
    except ConfigError as error:
        for each in error.faults:
            yield failed(CONFIGURATION, each, f"correct it in {config} or in the environment")
        yield skipped("everything else", "the configuration cannot be used")
        return
    _hide_secrets(settings)
    faults = _faults(settings)
    for each in faults:
        yield failed(CONFIGURATION, each, f"correct it in {config} or in the environment")
    if not faults:
        yield ok(CONFIGURATION, f"{config} can be used")
    for finding in machine.check(config, settings):
        yield finding
    async for finding in database.check(settings, runtime, wait=wait):
        yield finding
    async for finding in custodians.check(settings, runtime):
        yield finding
    for finding in await egress.check(settings.webhooks):
        yield finding


def _faults(settings: Settings) -> list[str]:
    """Return what only the whole gateway finds wrong with its settings."""
    try:
        assets = AssetRegistry(Asset.model_validate(each.model_dump()) for each in settings.assets)
    except ValueError as error:
        return [f"assets: {error}"]
    faults = unknown_assets(settings, assets)
    if not settings.custodians:
        faults.append("no custodian is configured: nothing can be paid. Add a [custodians.NAME]")
    elif not settings.routes:
        faults.append("no route is configured: every quote is refused. Add a [[routes]]")
    return faults


def _hide_secrets(settings: Settings) -> None:
    """Have every secret of the settings taken out of whatever is printed."""
    for key in (settings.server_key, settings.previous_server_key):
        if key is not None:
            logs.SCRUBBER.register(key.get_secret_value())
    if settings.postgres is not None and settings.postgres.password:
        logs.SCRUBBER.register(settings.postgres.password)
