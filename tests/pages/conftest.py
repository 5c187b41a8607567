"""A running API whose configuration names what the tracking page shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.adapter import Action, Report, SubStatus
from gateway.config.settings import Settings
from tests.api.conftest import RATES, Api, open_api

BASE = "https://pay.example/base"


def page_settings(path: Path, **members: Any) -> Settings:
    """Return the configuration, with an org that has a name."""
    return Settings.model_validate(
        {
            "database": path / "pages.db",
            "public_url": BASE,
            "server_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "custodians": {
                "acme_eu": {
                    "adapter": "acme",
                    "modes": ["live", "test"],
                    "display_name": "Orange Money",
                }
            },
            "orgs": {"acme": {"display_name": "Northwind Payroll"}},
            "explorers": {"Ethereum": "https://explorer.example/tx/{hash}"},
            "routes": [
                {
                    "destination": kind,
                    "custodian": "acme_eu",
                    "account": {"id": "A1", "type": "VAULT"},
                    "networks": ["Ethereum"],
                    "estimated_seconds": 395,
                }
                for kind in ("custodian_account", "address")
            ],
            "accounts": {"acme_eu": [{"id": "A2", "type": "VAULT"}]},
            "limits": {f"{name}_burst": 100_000 for name in RATES}
            | {"batch_jobs": 100, "batch_jobs_per_org": 100, "streams_per_address": 10_000},
            **members,
        }
    )


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A running API."""
    async with open_api(page_settings(tmp_path)) as made:
        yield made


def path_of(payout: dict[str, Any]) -> str:
    """Return the path of a payout's page."""
    return str(payout["tracking_url"]).removeprefix(BASE)


async def tell(api: Api, payout: dict[str, Any], state: SubStatus, **members: Any) -> None:
    """Bring a payout news, as its custodian does."""
    report = Report(state, f"word-{state}", **members)
    await api.context.db.run(api.context.payouts.apply, payout["id"], report)


def asks(api: Api, **members: Any) -> Action:
    """Return what a custodian asks of a person: a one-time code."""
    wanted: dict[str, Any] = {
        "type": "enter_passcode",
        "channel": "sms",
        "masked_target": "+231••••0041",
        "attempts_left": 3,
        "expires_at": api.clock.now() + timedelta(minutes=8, seconds=12),
    }
    return Action(**(wanted | members))


async def page_of(api: Api, payout: dict[str, Any], **headers: Any) -> str:
    """Return the text of a payout's page."""
    answer, raw = await api.send("GET", path_of(payout), authorization=None, **headers)
    assert answer.status == 200, raw
    return raw.decode()
