"""The vendor's own Python client on the Fireblocks twin, unchanged and without one warning."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from adapters.fireblocks.twin.auth import ApiUser
from tests.adapters.fireblocks import official as sdk
from tests.adapters.fireblocks.workspace import (
    EXTERNAL_WALLET,
    NETWORK_CONNECTION,
    Workspace,
    open_workspace,
    payout_body,
    stranger_key,
)


@pytest.fixture
def no_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail when the client warns or logs a warning: it then hands back a loose UnknownModel."""
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        yield
    # asyncio's own debug notes and others' resource notes are not the client's.
    assert [str(w.message) for w in caught if "deserialize" in str(w.message)] == []
    assert [str(w.message) for w in caught if "fireblocks" in w.filename] == []
    assert [r.getMessage() for r in caplog.records if r.name.startswith("fireblocks")] == []


@asynccontextmanager
async def _open() -> AsyncIterator[tuple[Workspace, Any]]:
    async with open_workspace(time.time, step_s=0.01) as workspace:
        pem = workspace.twin.user.private_pem()
        with _client(workspace.root + "/v1", workspace.twin.user.api_key, pem) as client:
            yield workspace, client


def _client(url: str, api_key: str, pem: str) -> Any:
    return sdk.Fireblocks(sdk.ClientConfiguration(api_key=api_key, secret_key=pem, base_path=url))


def _create(client: Any, body: dict[str, Any], key: str | None = None) -> Any:
    request = sdk.CreatePayoutRequest.from_dict(body)
    assert request is not None
    future = client.payments_payout.create_payout(
        create_payout_request=request, idempotency_key=key
    )
    return future.result().data


def _pay_and_read(client: Any, body: dict[str, Any]) -> tuple[Any, list[Any], list[Any]]:
    """Create, execute, read to the end; return the answers in order, and the transactions."""
    made = _create(client, body, "k-create")
    executed = client.payments_payout.execute_payout_action(
        made.payout_id, idempotency_key="k-exec"
    )
    assert executed.result().data.payout_id == made.payout_id
    looks: list[Any] = []
    end = time.monotonic() + 10
    while not looks or looks[-1].state.value not in ("FINALIZED", "FAILED"):
        looks.append(client.payments_payout.get_payout(made.payout_id).result().data)
        assert time.monotonic() < end
    transactions = [
        client.transactions.get_transaction(transaction.id).result().data
        for instruction in looks[-1].instruction_set
        for transaction in instruction.transactions
    ]
    return made, looks, transactions


@pytest.mark.usefixtures("no_warning")
async def test_pays_and_reads_to_the_end() -> None:
    """The seed's case: 43 USDC to an external wallet, 4 423 to a network connection, in one set."""
    body = payout_body("43", "4423")
    body["instructionSet"][1]["payeeAccount"] = {
        "type": "NETWORK_CONNECTION",
        "id": NETWORK_CONNECTION,
    }
    async with _open() as (workspace, client):
        made, looks, transactions = await asyncio.to_thread(_pay_and_read, client, body)
        assert len(await workspace.ledger()) == 2
    assert type(made) is sdk.PayoutResponse
    assert (made.state.value, made.status.value) == ("REQUESTED", "REGISTERED")
    assert {type(look) for look in looks} == {sdk.PayoutResponse}
    assert (looks[-1].state.value, looks[-1].status.value) == ("FINALIZED", "DONE")
    assert {i.state.value for i in looks[-1].instruction_set} == {"COMPLETED"}
    assert [type(t) for t in transactions] == [sdk.TransactionResponse] * 2
    assert {t.status for t in transactions} == {"COMPLETED"}
    assert {t.amount_info.amount for t in transactions} == {"43", "4423"}
    assert {t.destination.id for t in transactions} == {EXTERNAL_WALLET, NETWORK_CONNECTION}
    assert all(t.tx_hash and t.source.id == "EX_SUB3" for t in transactions)


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("fraction", ["401", "402", "403", "404", "405", "406", "407", "409"])
async def test_reads_the_unhappy_ends(fraction: str) -> None:
    """Whatever a magic amount brings, the client reads it into its own models."""
    async with _open() as (workspace, client):
        await workspace.steer("PUT", "settings", {"step_s": 1})
        body = payout_body(f"1.000{fraction}")
        made = await asyncio.to_thread(_create, client, body)
        assert (await workspace.execute(made.payout_id)).status == 200
        for _ in range(8):
            await workspace.steer("POST", "clock", {"advance_s": 1})
            future = client.payments_payout.get_payout(made.payout_id)
            assert type((await asyncio.to_thread(future.result)).data) is sdk.PayoutResponse


async def test_an_unknown_word_makes_it_warn() -> None:
    """The check above can fail: .000408 brings a word that the client does not know."""
    async with _open() as (workspace, client):
        await workspace.steer("PUT", "settings", {"step_s": 1})
        payout_id = await workspace.started("1.000408")
        await workspace.steer("POST", "clock", {"advance_s": 4.5})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            future = client.payments_payout.get_payout(payout_id)
            answer = (await asyncio.to_thread(future.result)).data
        assert type(answer).__name__ == "UnknownModel"
        assert any("deserialize" in str(w.message) for w in caught)


def _error_type(problem: Any) -> str:
    """Return the type in the body that the client has parsed."""
    data: Any = problem.data
    return str(data.error.type)


@pytest.mark.usefixtures("no_warning")
async def test_refusals_become_its_exceptions() -> None:
    """400, 404 and 5XX come out as the client's own exceptions, bodies parsed."""
    async with _open() as (workspace, client):
        with pytest.raises(sdk.BadRequestException) as refused:
            await asyncio.to_thread(_create, client, payout_body("1.0000001"))
        assert _error_type(refused.value) == "VALIDATION"
        with pytest.raises(sdk.NotFoundException) as missing:
            await asyncio.to_thread(client.payments_payout.get_payout("nothing").result)
        assert _error_type(missing.value) == "NOT_FOUND"
        await workspace.fault("create", "error_after", status=500)
        with pytest.raises(sdk.ServiceException) as broken:
            await asyncio.to_thread(_create, client, payout_body("1"))
        assert _error_type(broken.value) == "INTERNAL"


@pytest.mark.filterwarnings("ignore:Failed to deserialize response of type ErrorResponse")
async def test_a_stranger_gets_its_unauthorized_exception() -> None:
    """401 has the gateway's shape, which the client raises rightly but cannot parse for payouts."""
    async with _open() as (workspace, _):
        stranger = ApiUser(workspace.twin.user.api_key, stranger_key())
        with (
            _client(workspace.root + "/v1", stranger.api_key, stranger.private_pem()) as other,
            pytest.raises(sdk.UnauthorizedException) as refused,
        ):
            await asyncio.to_thread(_create, other, payout_body("1"))
        body: Any = refused.value.body
        assert json.loads(body)["code"] == -1


@pytest.mark.usefixtures("no_warning")
async def test_its_hidden_retries_pass_the_gate() -> None:
    """It repeats a GET with the same token after 429 and after a cut; a POST never."""
    async with _open() as (workspace, client):
        payout_id = (await workspace.create()).json["payoutId"]
        for fault in ("rate_limit", "drop_before"):
            more = {"retry_after_s": 0} if fault == "rate_limit" else {}
            await workspace.fault("status", fault, times=2, **more)
            future = client.payments_payout.get_payout(payout_id)
            answer = await asyncio.to_thread(future.result)
            assert answer.data.payout_id == payout_id
            statuses = [c.status for c in workspace.twin.calls if c.call == "status"]
            assert statuses[-3:] == [*([429] * 2 if more else [None] * 2), 200]
        await workspace.fault("create", "drop_before")
        before = len(workspace.twin.calls)
        with pytest.raises(Exception, match="aborted"):
            await asyncio.to_thread(_create, client, payout_body("1"))
        assert len(workspace.twin.calls) == before + 1
        await workspace.fault("create", "rate_limit")
        with pytest.raises(sdk.ApiException) as limited:
            await asyncio.to_thread(_create, client, payout_body("1"))
        assert limited.value.status == 429


@pytest.mark.usefixtures("no_warning")
async def test_runs_as_a_process() -> None:
    """`python -m` prints one line, serves the client, and ends with 0 on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "adapters.fireblocks.twin.app",
        "--port", "0", "--step-s", "0.01", "--webhook-url", "http://127.0.0.1:1/hook",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert set(told) == {"url", "control_url", "credentials"}
        assert told["url"] == told["control_url"] + "/v1"
        given = told["credentials"]
        assert given["jwks_url"] == told["control_url"] + "/.well-known/jwks.json"
        with _client(told["url"], given["api_key"], given["private_key"]) as client:
            _, looks, _ = await asyncio.to_thread(_pay_and_read, client, payout_body("43"))
        assert looks[-1].state.value == "FINALIZED"
        async with aiohttp.ClientSession() as http:
            async with http.get(told["control_url"] + "/_twin/ledger") as answer:
                assert len((await answer.json())["transfers"]) == 1
            async with http.get(told["control_url"] + "/_twin/webhooks") as answer:
                deliveries = (await answer.json())["deliveries"]
        assert [d["state"] for d in deliveries] == ["waiting"] * 4
        process.send_signal(signal.SIGTERM)
        out, errors = await asyncio.wait_for(process.communicate(), 10)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, out, errors) == (0, b"", b"")
