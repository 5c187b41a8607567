"""Cursors carry a MAC: only what a list gave out, to whom it gave it, is taken back."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from gateway.config.settings import Settings
from tests.api.conftest import Api, open_api

_KEYS = tuple(base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def _cut(cursor: str) -> bytes:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))


def _pack(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def _cursor(api: Api, path: str = "/payouts?limit=1", org: str = "acme") -> str:
    _, page = await api.call("GET", path, org=org)
    return str(page["next_cursor"])


async def test_a_cursor_that_was_made_elsewhere_is_refused(api: Api) -> None:
    """An unsigned one, one with another position, one with another MAC, and a cut one."""
    for _ in range(2):
        await api.pay()
    genuine = await _cursor(api)
    mac, raw = _cut(genuine)[:16], _cut(genuine)[16:]
    at, payout_id = json.loads(raw)
    # What an earlier version gave out: the position and a digest of the filters, unsigned.
    unsigned = [at, payout_id, hashlib.sha256(json.dumps([]).encode()).hexdigest()[:16]]
    forged = [
        _pack(json.dumps(unsigned, separators=(",", ":")).encode()),
        _pack(mac + json.dumps([at + 1, payout_id], separators=(",", ":")).encode()),
        _pack(bytes(16) + raw),
        _pack(mac),
        genuine[:-4],
    ]
    for each in forged:
        problem = await api.problem("GET", f"/payouts?limit=1&cursor={each}")
        assert (problem["code"], problem["status"]) == ("invalid_cursor", 400)
    status, page = await api.call("GET", f"/payouts?limit=1&cursor={genuine}")
    assert (status, len(page["data"])) == (200, 1)


async def test_a_cursor_is_bound_to_its_list_and_its_org(api: Api) -> None:
    """Another org and another list refuse it, although their positions look alike."""
    for _ in range(2):
        await api.pay()
        for number in range(2):
            body = {"url": f"https://{number}.example"}
            assert (await api.call("POST", "/webhook-endpoints", body=body))[0] == 201
    payouts = await _cursor(api, "/payouts?limit=1")
    endpoints = await _cursor(api, "/webhook-endpoints?limit=1")
    for path, org in (
        (f"/payouts?limit=1&cursor={payouts}", "rival"),
        (f"/payout-batches?limit=1&cursor={endpoints}", "acme"),
    ):
        assert (await api.problem("GET", path, org=org))["code"] == "invalid_cursor"


async def test_a_cursor_is_bound_to_its_mode(api: Api) -> None:
    """A test key does not go on with a list of live payouts."""
    for mode in ("live", "test"):
        for _ in range(2):
            await api.pay(mode=mode)
    cursor = await _cursor(api, "/payouts?limit=1")
    path = f"/payouts?limit=1&cursor={cursor}"
    assert (await api.problem("GET", path, mode="test"))["code"] == "invalid_cursor"
    assert (await api.call("GET", path))[0] == 200


@pytest.mark.parametrize("kept", [True, False])
async def test_a_cursor_outlives_a_change_of_the_server_key(
    settings: Settings, tmp_path: Path, *, kept: bool
) -> None:
    """As long as the key before is configured; a feed is asked for with a cursor of yesterday."""
    old = settings.model_dump() | {"server_key": _KEYS[0], "database": tmp_path / "keys.db"}
    async with open_api(Settings.model_validate(old)) as api:
        await api.pay()
        key, cursor = await api.key(), await _cursor(api, "/events")
    new = old | {"server_key": _KEYS[1], "previous_server_key": _KEYS[0] if kept else None}
    async with open_api(Settings.model_validate(new)) as api:
        api.keys["acme", "live"] = key
        status, _ = await api.call("GET", f"/events?cursor={cursor}")
        assert status == (200 if kept else 400)
