"""Every secret is changed while payouts go on: no request fails, no event is lost, nothing is paid twice.

Real processes; a new gateway starts before the old one stops, as behind a reverse proxy.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.testing.processes import Process
from tests.e2e.stack import DUMMY, Stack, eventually, stack, subscribe
from tests.e2e.test_scenarios_custodian import attention, edit
from tests.e2e.witness import evidence

pytestmark = [pytest.mark.timeout(240), pytest.mark.e2e, pytest.mark.slow]
NEW_KEY, NEW_SECRET = "a-new-api-key-of-dummy", "a-new-webhook-secret-of-dummy"


class Load:
    """Pays without end, and notes what became of it."""

    def __init__(self, made: Stack) -> None:
        self._made = made
        self._stopping = False
        self.paid: list[str] = []

    async def run(self) -> None:
        """Pay one after the other. Any answer that is not a payout ends the test."""
        while not self._stopping:
            self.paid.append(await self._made.pay(f"1.{len(self.paid) % 90 + 10}"))
            await asyncio.sleep(0.02)

    async def more(self, count: int = 5) -> None:
        """Wait until so many more were accepted."""
        wanted = len(self.paid) + count

        async def reached() -> bool:
            return len(self.paid) >= wanted

        await eventually(reached, 60)

    def stop(self) -> None:
        """Let the payment in progress be the last one."""
        self._stopping = True


@asynccontextmanager
async def under_load(made: Stack) -> AsyncIterator[Load]:
    """Pay all the while; at the end everything is delivered, once, and every webhook has verified."""
    load = Load(made)
    await subscribe(made)
    task = asyncio.create_task(load.run())
    try:
        await load.more()
        yield load
        await load.more()
    finally:
        load.stop()
        await task
    for payout_id in load.paid:
        await made.reaches(payout_id, "delivered", seconds=60)

    async def all_told() -> bool:
        return all(made.receiver.types(each)[-1:] == ["payout.delivered"] for each in load.paid)

    await eventually(all_told, 60)
    assert made.receiver.unverified == 0
    keys = [each["reference"] for each in await made.ledger()]
    assert len(keys) == len(set(keys)) >= len(load.paid)


async def replaced(made: Stack, load: Load, change: Callable[[dict[str, Any]], None]) -> Process:
    """Replace the gateway by one with another configuration; there is always one that answers."""
    before = list(made.gateways)
    edit(made, change)
    # Beside the old one, on another port; then one in the old one's place, where webhooks come in.
    between = await made.start_second("--quick")
    await load.more(3)
    for gateway in before:
        made.gateways.remove(gateway)
        await gateway.stop()
    made.gateways.remove(between)
    after = await made.start_gateway("--quick")
    made.url = made.own_url
    await load.more(3)
    await between.stop()
    return after


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Stack]:
    """Dummy's twin and one gateway."""
    async with stack(tmp_path, rail=DUMMY) as built:
        edit(built, _patient)
        await built.start_gateway("--quick")
        yield built


def _patient(document: dict[str, Any]) -> None:
    """Keep paying beside looks that all fail: they are the fault that is wanted here."""
    document.setdefault("engine", {})["breaker_faults"] = 1_000_000


def new_key() -> str:
    """Return a server key."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


async def lost(made: Stack) -> str:
    """Pay, and lose the call: the custodian does not know the payout, and looks fail for now."""
    await made.steer("POST", "faults", {"call": "transfer", "fault": "drop_before", "times": 1})
    await made.steer("POST", "faults", {"call": "status", "fault": "error_before", "times": 10_000})
    payout_id = await made.pay("77")

    async def unknown() -> bool:
        return bool(evidence(made, payout_id, "call"))

    await eventually(unknown)
    return await _unknown(made, payout_id)


async def _unknown(made: Stack, payout_id: str) -> str:
    await made.reaches(payout_id, "outcome_unknown")
    return payout_id


async def calm(made: Stack) -> None:
    """Let looks succeed again."""
    await made.steer("DELETE", "faults")


async def test_the_server_key_is_changed_under_load(made: Stack) -> None:
    """In three steps, so that no gateway meets a value that it cannot open; then everything is resealed.

    An idempotent answer of before is replayed after, a client secret and tracking links keep working
    for as long as the old key is configured, and an unknown outcome of before is still followed.
    """
    old, new = "", new_key()

    def open_new(document: dict[str, Any]) -> None:
        nonlocal old
        old = document["server_key"]
        document["previous_server_key"] = new

    def seal_new(document: dict[str, Any]) -> None:
        document["server_key"], document["previous_server_key"] = new, old

    def forget_old(document: dict[str, Any]) -> None:
        del document["previous_server_key"]

    payout_id = await lost(made)
    async with under_load(made) as load:
        quote = {"quote_id": await made.quote("3")}
        first = await made.call("POST", "/payouts", quote, idempotency_key="before")
        load.paid.append(first[1]["id"])
        link = first[1]["tracking_url"]
        await replaced(made, load, open_new)
        await replaced(made, load, seal_new)
        said = await made.run("db", "reseal")
        assert "endpoints.secret: 1 sealed, 1 of them resealed" in said
        async with made.http.get(link.replace(made.own_url, made.url)) as page:
            assert page.status == 200
        await replaced(made, load, forget_old)
        assert await made.call("POST", "/payouts", quote, idempotency_key="before") == first
        assert "endpoints.secret: 1 sealed, 0 of them resealed" in await made.run("db", "reseal")
        # Looks count under the new key for the call that was made under the old one.
        await calm(made)
        await made.reaches(payout_id, "delivered", seconds=60)
    assert "same_account" not in attention(made, payout_id)
    assert [each["amount"] for each in await made.ledger()].count("77") == 1
    acts = [each["act"] for each in made.rows("SELECT act FROM audit_log ORDER BY id")]
    assert acts.count("resealed") == 2
    await made.run("audit", "verify")


async def test_a_custodians_credentials_are_changed_under_load(made: Stack) -> None:
    """The old webhook secret verifies until it is removed, and an unknown outcome stays provable.

    Under the new API key a call made with the old one is neither repeated nor called absent, until both
    keys have read the same account.
    """
    old = dict(made.credentials)

    def change(document: dict[str, Any]) -> None:
        instance = document["custodians"]["dummy"]
        instance |= {"api_key": NEW_KEY, "webhook_secret": NEW_SECRET}
        instance["previous"] = {name: old[name] for name in ("api_key", "webhook_secret")}

    def forget(document: dict[str, Any]) -> None:
        del document["custodians"]["dummy"]["previous"]

    await subscribe(made)
    payout_id = await lost(made)
    async with under_load(made) as load:
        await made.steer("PUT", "settings", {"more_api_keys": [NEW_KEY]})
        await replaced(made, load, change)
        await calm(made)

        async def asked_elsewhere() -> bool:
            return "same_account" in attention(made, payout_id)

        await eventually(asked_elsewhere, 60)
        assert (await made.payout(payout_id))["sub_status"] == "outcome_unknown"
        assert len(evidence(made, payout_id, "call")) == 1
        # The custodian still signs with the old secret; then it signs with the new one.
        assert await webhook(made, old["webhook_secret"]) == 200
        assert await webhook(made, NEW_SECRET) == 200
        assert await webhook(made, "another") == 401
        said = await made.run("custodians", "same-account", "dummy")
        assert "both credentials read the id acc-MAIN" in said
        assert "nothing to declare" in await made.run("custodians", "same-account", "dummy")
        await made.reaches(payout_id, "delivered", seconds=60)
        await made.steer("PUT", "settings", {"webhook_secret": NEW_SECRET, "first_api_key": False})
        await load.more()
        await replaced(made, load, forget)
        assert await webhook(made, old["webhook_secret"]) == 401
        assert await webhook(made, NEW_SECRET) == 200
    assert [each["amount"] for each in await made.ledger()].count("77") == 1
    (row, *_) = made.rows("SELECT * FROM audit_log WHERE act = 'same_account'")
    assert "acc-MAIN" in row["detail"]
    log = (made.folder / "gateway.log").read_text()
    assert '"by_previous": true' in log.replace('":true', '": true')
    for secret in (NEW_KEY, NEW_SECRET, *old.values()):
        assert secret not in log
        assert not made.rows("SELECT 1 FROM audit_log WHERE instr(detail, ?) > 0", secret)


async def webhook(made: Stack, secret: str) -> int:
    """Send a webhook as the custodian signs it; return the status of the answer."""
    body = json.dumps(
        {"id": secrets.token_hex(8), "transfer": {"key": "k-x", "id": "t-x"}}
    ).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    async with made.http.post(
        f"{made.url}/custodians/dummy/webhooks", data=body, headers={"Dummy-Signature": signature}
    ) as answer:
        return answer.status


async def test_a_signing_secret_is_rotated_under_load(made: Stack) -> None:
    """A receiver that has the old secret, then the new one, verifies every delivery."""
    async with under_load(made) as load:
        _, page = await made.call("GET", "/webhook-endpoints")
        path = f"/webhook-endpoints/{page['data'][0]['id']}"
        status, rotated = await made.call(
            "POST", f"{path}/rotate-secret", {"overlap_seconds": 3600}
        )
        assert status == 200
        # The receiver does not know the new one yet: the old one signs, too.
        await load.more(10)
        made.receiver.secret = rotated["secret"]
        await load.more(10)
        status, _ = await made.call("DELETE", f"{path}/previous-secrets")
        assert status == 204
        await load.more(10)


async def test_an_api_key_is_rotated_under_load(made: Stack) -> None:
    """Both keys work until the old one is revoked; then it is refused at once."""
    async with under_load(made) as load:
        old = made.key
        (row,) = made.rows("SELECT id FROM api_keys")
        new = json.loads(await made.run("keys", "rotate", row["id"], "--json"))["key"]
        await load.more(3)
        made.key = new
        await load.more(3)
        await made.run("keys", "revoke", row["id"])
        await load.more(3)
        # The load goes on meanwhile, with the new key.
        status, problem = await made.call("GET", "/payouts", authorization=f"Bearer {old}")
        assert (status, problem["code"]) == (401, "api_key_revoked")
