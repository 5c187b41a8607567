"""The quota of webhook endpoints of an org in each mode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config.settings import Mode, Settings
from tests.api.conftest import Api, open_api

_PATH = "/webhook-endpoints"
_QUOTA = 3


def _limited(settings: Settings, quota: int) -> Settings:
    webhooks = settings.webhooks.model_copy(update={"endpoints_per_org": quota})
    return settings.model_copy(update={"webhooks": webhooks})


@pytest.fixture
async def limited(settings: Settings) -> AsyncIterator[Api]:
    """A gateway with a small quota."""
    async with open_api(_limited(settings, _QUOTA)) as api:
        yield api


async def _create(api: Api, org: str = "acme", mode: Mode = "live") -> tuple[int, Any]:
    body = {"url": "https://hooks.example.com/in"}
    return await api.call("POST", _PATH, body=body, org=org, mode=mode)


async def _count(api: Api) -> int:
    return len((await api.call("GET", _PATH))[1]["data"])


async def test_fifty_unless_it_is_set(settings: Settings) -> None:
    """The default."""
    assert settings.webhooks.endpoints_per_org == 50


async def test_an_org_at_its_quota(limited: Api) -> None:
    """Cannot add any until it deletes one; a disabled one counts; other orgs and modes have their own."""
    made = [await _create(limited) for _ in range(_QUOTA)]
    assert [status for status, _ in made] == [201] * _QUOTA
    last = f"{_PATH}/{made[-1][1]['id']}"
    assert (await limited.call("PATCH", last, body={"status": "disabled"}))[0] == 200
    problem = await limited.problem("POST", _PATH, body={"url": "https://hooks.example.com/in"})
    assert (problem["status"], problem["code"]) == (409, "endpoint_quota_reached")
    assert f"{_QUOTA} webhook endpoints in live mode" in problem["detail"]
    assert "DELETE /webhook-endpoints/{id}" in problem["detail"]
    assert (await _create(limited, mode="test"))[0] == 201
    assert (await _create(limited, org="other"))[0] == 201
    assert (await limited.call("DELETE", last))[0] == 204
    assert (await _create(limited))[0] == 201
    assert (await _create(limited))[0] == 409
    assert await _count(limited) == _QUOTA


async def test_an_org_above_its_quota_keeps_what_it_has(settings: Settings) -> None:
    """After an update that brings the quota, or a smaller one: they are changed and enabled as before."""
    async with open_api(settings) as before:
        made = [(await _create(before))[1]["id"] for _ in range(_QUOTA + 2)]
        keys = before.keys
    async with open_api(_limited(settings, _QUOTA)) as after:
        after.keys = keys
        assert await _count(after) == _QUOTA + 2
        path = f"{_PATH}/{made[0]}"
        for status in ("disabled", "enabled"):
            assert (await after.call("PATCH", path, body={"status": status}))[0] == 200
        assert (await after.call("POST", path + "/rotate-secret", body={}))[0] == 200
        for each in made[2:]:
            assert (await _create(after))[0] == 409
            assert (await after.call("DELETE", f"{_PATH}/{each}"))[0] == 204
        assert (await _create(after))[0] == 201


async def test_requests_at_once_at_two_gateways(settings: Settings) -> None:
    """Exactly as many are made as there are places: each is counted in the transaction that makes it."""
    few = _limited(settings, _QUOTA)
    async with open_api(few) as first, open_api(few) as second:
        await first.key()
        second.keys = first.keys
        made = await asyncio.gather(*(_create(api) for _ in range(10) for api in (first, second)))
        statuses = sorted(status for status, _ in made)
        assert statuses == [201] * _QUOTA + [409] * (20 - _QUOTA)
        assert await _count(first) == _QUOTA
