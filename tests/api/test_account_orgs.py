"""Source accounts of one org are not there for another: in quotes, batches and the list of custodians."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.config.settings import Settings
from tests.api.conftest import WALLET, Api, open_api

_QUOTE = {"external_ref": "u-1", "destination": WALLET, "asset": "USDC", "amount": "43"}
#: Its own org's name for each account, in the order: of a route, of `[accounts]`.
_OURS, _THEIRS = ("ACME-1", "ACME-2"), ("OTHER-1", "OTHER-2")
_NOBODYS = "NOBODY-9"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Two orgs at one custodian: each has a route and a further account, and there is one of nobody."""
    document = settings.model_dump(mode="json")
    base = document["routes"][0]
    orgs = {"acme": _OURS, "other": _THEIRS}
    document |= {
        "server_key": settings.server_key.get_secret_value(),
        "routes": [
            {**base, "account": {"id": ids[0], "type": "VAULT"}, "orgs": [org]}
            for org, ids in orgs.items()
        ],
        "accounts": {
            "acme_eu": [
                *({"id": ids[1], "type": "VAULT", "orgs": [org]} for org, ids in orgs.items()),
                {"id": "NOBODY-1", "type": "VAULT", "orgs": ["nobody"]},
            ]
        },
    }
    return Settings.model_validate(document)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """A running API of both orgs."""
    async with open_api(settings) as made:
        yield made


async def _quote(api: Api, account: str, org: str) -> tuple[int, Any]:
    body = {
        **_QUOTE,
        "route": {"custodian": "acme_eu", "account": {"id": account, "type": "VAULT"}},
    }
    return await api.call(
        "POST", "/payouts/quote", body=body, org=org, idempotency_key=secrets.token_hex(8)
    )


async def _batch(api: Api, account: str, org: str, query: str = "") -> tuple[int, Any]:
    source = {"custodian": "acme_eu", "account": {"id": account, "type": "VAULT"}}
    body = {"source": source, "payouts": [{**_QUOTE, "reference": "r-" + secrets.token_hex(4)}]}
    return await api.call(
        "POST", "/payout-batches" + query, body=body, org=org, idempotency_key=secrets.token_hex(8)
    )


def _without(told: Any, account: str) -> Any:
    """Return a problem without what differs from request to request."""
    text = json.dumps({**told, "request_id": "", "instance": ""})
    return text.replace(account, "THE ACCOUNT")


@pytest.mark.parametrize("org", ["acme", "other"])
async def test_an_org_pays_from_its_own_accounts(api: Api, org: str) -> None:
    """That of its route, and that which is listed for it."""
    for account in _OURS if org == "acme" else _THEIRS:
        assert (await _quote(api, account, org))[0] == 200
        assert (await _batch(api, account, org, "?validate=true"))[0] == 200
        status, made = await _batch(api, account, org)
        assert status == 201
        path = f"/payout-batches/{made['id']}/cancel"
        await api.call("POST", path, org=org, idempotency_key=secrets.token_hex(8))


@pytest.mark.parametrize("account", [*_THEIRS, "NOBODY-1"])
async def test_another_orgs_account_is_as_one_that_does_not_exist(api: Api, account: str) -> None:
    """In the same words, so that nobody learns what the others have."""
    for ask in (_quote, _batch):
        status, told = await ask(api, account, "acme")
        none = await ask(api, _NOBODYS, "acme")
        assert status == 422
        assert told["errors"][0]["code"] == "unknown_account"
        assert (status, _without(told, account)) == (none[0], _without(none[1], _NOBODYS))
    assert (await _batch(api, account, "acme", "?validate=true"))[0] == 422


async def test_an_org_without_routes_learns_of_no_custodian(api: Api) -> None:
    """Its batch at an instance of others is refused as one at an instance that does not exist."""
    _, listed = await api.call("GET", "/custodians", org="third")
    assert listed["data"] == []
    status, told = await _batch(api, _OURS[0], "third")
    assert (status, told["errors"][0]["code"]) == (422, "unknown_custodian")
