"""The adapter against its twin over real sockets: kinds, faults, echoes, error shapes."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from adapters.fireblocks.adapter import PAYEE_TYPES, SOURCE_TYPES, Fireblocks
from adapters.fireblocks.sandbox_world import PAYEES, SOURCES
from adapters.fireblocks.settings import FireblocksSettings
from gateway.adapter import (
    Absent,
    Account,
    CannotLook,
    CustodianAccountDestination,
    FailureCode,
    LeaseLost,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
    Tools,
)
from gateway.assets import AssetRegistry
from gateway.seams import Ids, SystemClock, offload
from tests.adapters.fireblocks.workspace import (
    EXTERNAL_WALLET,
    Workspace,
    open_workspace,
    pooled_keys,
)
from tests.adapters.orders import OrderForTest

ASSETS = {"USDC": {"asset_id": "USDC", "network": "Ethereum"}, "USD": {"asset_id": "USD"}}


@asynccontextmanager
async def adapter_for(url: str, clock: Any, **settings: Any) -> AsyncIterator[Fireblocks]:
    """Return an adapter for an address."""
    async with aiohttp.ClientSession() as http:
        tools = Tools(http, clock, Ids(SystemClock()), offload, AssetRegistry())
        members = {"base_url": url, "assets": ASSETS, "timeout_s": 5, **settings}
        yield Fireblocks(FireblocksSettings.model_validate(members), tools)


class TwinClock:
    """The twin's time as the gateway's clock: tokens are judged by it."""

    def __init__(self, space: Workspace) -> None:
        self._space = space

    def now(self) -> Any:
        """Return the time that both sides share; the twin's life can be advanced without it."""
        return datetime.fromtimestamp(self._space.twin.clock.shared(), UTC)

    def monotonic(self) -> float:
        """Return the twin's time in seconds."""
        return self._space.twin.clock.now()

    async def sleep(self, seconds: float) -> None:
        """Sleep by the twin's time."""
        await self._space.twin.clock.sleep(seconds)


@asynccontextmanager
async def pair(**switches: Any) -> AsyncIterator[tuple[Fireblocks, Workspace]]:
    """Run a twin and an adapter that talks to it."""
    async with open_workspace(**switches) as space:
        credentials = space.twin.credentials(space.root)
        keys = {name: credentials[name] for name in ("api_key", "private_key", "jwks_url")}
        async with adapter_for(space.root + "/v1", TwinClock(space), **keys) as adapter:
            yield adapter, space


def order(**members: Any) -> OrderForTest:
    """Return an order that Fireblocks can pay."""
    payee = CustodianAccountDestination(account_type="EXTERNAL_WALLET", id=EXTERNAL_WALLET)
    source = Account(id="EX_SUB3", type="EXCHANGE_ACCOUNT")
    return OrderForTest(
        **{"amount": Decimal(43), "destination": payee, "source": source, **members}
    )


async def executes(space: Workspace) -> int:
    """Return how many executes the twin has received."""
    return sum(each.path.endswith("/actions/execute") for each in space.twin.calls)


async def test_create_execute_deliver() -> None:
    """Remembered before it moves, executed once, followed to its end with hash and ids."""
    async with pair() as (adapter, space):
        mine = order()
        report = await adapter.submit(mine)
        assert mine.story == ["remember instruction_id payout_id", "moving"]
        assert report.sub_status is SubStatus.SUBMITTED
        seen = []
        for _ in range(12):
            found = await adapter.fetch(mine.again())
            if isinstance(found, Report):
                seen.append(found)
                assert found.echo is not None
                assert found.echo.differences() == ()
            await space.steps(1)
        words = [each.sub_status for each in seen]
        assert words[-1] is SubStatus.DELIVERED
        assert {SubStatus.BROADCAST, SubStatus.CONFIRMING} <= set(words)
        (transaction,) = seen[-1].transactions
        assert transaction.tx_hash
        assert {ref.kind for ref in seen[-1].refs} == {"payout", "instruction", "transaction"}
        assert [each["amount"] for each in await space.ledger()] == ["43"]


@pytest.mark.parametrize(
    ("source", "payee"), list(itertools.product(SOURCES, PAYEES)), ids="-".join
)
async def test_every_source_and_payee_kind(source: tuple[str, str], payee: tuple[str, str]) -> None:
    """Three kinds of source, six kinds of payee."""
    fiat = source[0] == "FIAT_ACCOUNT"
    async with pair() as (adapter, _):
        mine = order(
            source=Account(type=source[0], id=source[1]),
            destination=CustodianAccountDestination(account_type=payee[0], id=payee[1]),
            asset="USD" if fiat else "USDC",
            network=None if fiat else "Ethereum",
        )
        assert (await adapter.submit(mine)).sub_status is SubStatus.SUBMITTED
    assert {each[0] for each in SOURCES} == SOURCE_TYPES
    assert {each[0] for each in PAYEES} == PAYEE_TYPES


@pytest.mark.parametrize(
    "fault", ["lose_reply", "error_after", "error_before", "half_response", "bad_json", "burn_key"]
)
async def test_a_lost_create_is_made_again_under_a_fresh_key(fault: str) -> None:
    """Nothing has moved: not sent, a fresh step key, and only the remembered set is executed."""
    async with pair() as (adapter, space):
        await space.fault("create", fault)
        mine = order()
        with pytest.raises(NotSent):
            await adapter.submit(mine)
        assert mine.story == ["remember create_step"]
        again = mine.again()
        await adapter.submit(again)
        assert await executes(space) == 1
        await space.steps(12)
        assert len(await space.ledger()) == 1


@pytest.mark.parametrize("fault", ["lose_reply", "error_after", "half_response", "hang_after"])
async def test_a_lost_execute_is_settled_by_reading(fault: str) -> None:
    """Unknown outcome; the remembered payout id tells."""
    async with pair() as (adapter, space):
        await space.fault("execute", fault)
        if fault == "hang_after":
            adapter._client._timeout = aiohttp.ClientTimeout(total=0.2)
        mine = order()
        with pytest.raises((OutcomeUnknown, aiohttp.ClientError, TimeoutError)):
            await adapter.submit(mine)
        assert "moving" in mine.story
        await space.steps(1)
        assert isinstance(await adapter.fetch(mine.again()), Report)


async def test_a_repeat_after_5xx_is_never_a_refusal() -> None:
    """Executed, 500; the repeat is refused (once only): still unknown, and paid once."""
    async with pair() as (adapter, space):
        await space.fault("execute", "error_after")
        mine = order()
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(mine)
        again = mine.again()
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(again)
        # The second one used a fresh key on the same payout id.
        assert again.notes["payout_id"] == mine.notes["payout_id"]
        assert again.notes["execute_step"] == 3
        await space.steps(12)
        assert len(await space.ledger()) == 1


async def test_an_unexecuted_set_is_absent_not_failed() -> None:
    """The mark was set and nothing arrived: the custodian knows the set and has not executed it."""
    async with pair() as (adapter, space):
        await space.fault("execute", "drop_before")
        mine = order()
        with pytest.raises((OutcomeUnknown, aiohttp.ClientError)):
            await adapter.submit(mine)
        assert await adapter.fetch(mine.again()) == Absent("REQUESTED/REGISTERED")
        await adapter.submit(mine.again())
        await space.steps(12)
        assert len(await space.ledger()) == 1


async def test_without_an_id_there_is_nothing_to_look_by() -> None:
    """And an id that is not known there is absent."""
    async with pair() as (adapter, _):
        assert isinstance(await adapter.fetch(order()), CannotLook)
        lost = order()
        await lost.remember(payout_id="0c0f4a4e-0000-4000-8000-000000000001")
        assert isinstance(await adapter.fetch(lost), Absent)


async def test_a_lost_lease_stops_before_the_call() -> None:
    """Without the mark no execute leaves."""
    async with pair() as (adapter, space):
        mine = order(lose_lease_at="moving")
        with pytest.raises(LeaseLost):
            await adapter.submit(mine)
        assert await executes(space) == 0


@pytest.mark.parametrize(
    ("members", "code"),
    [
        (
            {
                "destination": CustodianAccountDestination(
                    account_type="EXTERNAL_WALLET", id="nobody"
                )
            },
            "destination",
        ),
        ({"source": Account(id="nothing", type="VAULT_ACCOUNT")}, "source"),
    ],
)
@pytest.mark.parametrize("validate_at", ["create", "execute"])
async def test_refusals_are_final_and_nothing_moved(
    members: dict[str, Any], code: str, validate_at: str
) -> None:
    """An unknown payee or account is refused, wherever the custodian looks."""
    async with pair(validate_at=validate_at) as (adapter, space):
        with pytest.raises(Rejected) as caught:
            await adapter.submit(order(**members))
        assert caught.value.code == f"{code}_rejected"
        assert await space.ledger() == []


@pytest.mark.parametrize("fault", ["error_before", "bad_json", "rate_limit"])
async def test_a_refused_execute_that_cannot_be_looked_at_is_unknown(fault: str) -> None:
    """Unseen is not unexecuted: never a refusal, and never "not sent"."""
    async with pair() as (adapter, space):
        await space.fault("execute", "reject")
        await space.fault("status", fault)
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(order())


async def test_a_locked_account_waits() -> None:
    """Where execute on a busy account is refused, it is not a failure: later, with a fresh key."""
    async with pair(locked_source="refused") as (adapter, space):
        await adapter.submit(order(payout_id="pay_01hzz0000000000000000000001"))
        second = order(payout_id="pay_01hzz0000000000000000000002")
        with pytest.raises(NotSent) as caught:
            await adapter.submit(second)
        assert caught.value.again_after_s
        await space.steps(12)
        await adapter.submit(second.again())
        await space.steps(12)
        assert len(await space.ledger()) == 2


async def test_orders_it_could_never_pay() -> None:
    """Refused without a call."""
    async with pair() as (adapter, space):
        for members in (
            {"asset": "EURC"},
            {"network": "Polygon"},
            {"source": Account(id="x", type="WALLET")},
            {"destination": CustodianAccountDestination(account_type="MERCHANT", id="x")},
        ):
            with pytest.raises(Rejected):
                await adapter.submit(order(**members))
        assert space.twin.calls == []


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {"message": "JWT is missing", "code": -3}, NotSent),
        (403, {"error": {"type": "FORBIDDEN", "message": "no"}}, NotSent),
        (429, {"message": "slow down", "code": 429}, NotSent),
        (400, {"error": {"type": "VALIDATION", "message": "bad payee account"}}, Rejected),
        (404, {"error": {"type": "NOT_FOUND", "message": "payment account"}}, Rejected),
        (
            400,
            {"message": "the Idempotency-Key cannot be reused after an internal error", "code": 1},
            NotSent,
        ),
        (409, {"message": "conflict", "code": 2}, NotSent),
        (502, "<html>bad gateway</html>", NotSent),
        (201, {"payoutId": "p"}, NotSent),
        (200, {"no": "id"}, NotSent),
        (200, [1], NotSent),
    ],
)
async def test_every_answer_to_create(status: int, body: Any, expected: type[Exception]) -> None:
    """All three error shapes; what is our fault or theirs never fails the payout."""
    async with _answering({"create": (status, body)}) as (adapter, calls):
        with pytest.raises(expected):
            await adapter.submit(order())
        assert len(calls) == 1


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, {"payoutId": "other"}, OutcomeUnknown),
        (200, "half", OutcomeUnknown),
        (202, {}, OutcomeUnknown),
        (302, "", OutcomeUnknown),
        (401, {"message": "expired", "code": -10}, NotSent),
        (429, {"message": "slow", "code": 1}, NotSent),
        (400, {"message": "cannot be reused after an internal error", "code": 1}, OutcomeUnknown),
        (400, {"error": {"type": "VALIDATION", "message": "payee"}}, Rejected),
        (500, {"error": {"type": "INTERNAL", "message": "x"}}, OutcomeUnknown),
        (502, "<html>bad gateway</html>", OutcomeUnknown),
        (504, "", OutcomeUnknown),
    ],
)
async def test_every_answer_to_execute(status: int, body: Any, expected: type[Exception]) -> None:
    """A clear no to the first call is one; everything else is unknown, or was stopped at the door."""
    async with _answering({"execute": (status, body)}) as (adapter, _):
        with pytest.raises(expected):
            await adapter.submit(order())


@pytest.mark.parametrize(
    "change",
    [
        {"amount": {"amount": "430", "assetId": "USDC"}},
        {"amount": {"amount": "43", "assetId": "USDT"}},
        {"amount": {"amount": 43, "assetId": "USDC"}},
        {"payeeAccount": {"id": "another", "type": "EXTERNAL_WALLET"}},
        {"payeeAccount": {"id": EXTERNAL_WALLET, "type": "VAULT_ACCOUNT"}},
        {"payeeAccount": None},
        {"double": True},
        {"source": "another"},
    ],
)
async def test_another_echo_is_never_executed(change: dict[str, Any]) -> None:
    """What create registered is compared with the order; a difference waits for a person."""
    async with _answering({}, change) as (adapter, calls):
        mine = order()
        report = await adapter.submit(mine)
        assert report.sub_status is SubStatus.AWAITING_APPROVAL
        assert report.detail
        assert len(calls) == 1
        assert "payout_id" not in mine.notes
        assert mine.story == []


async def test_what_is_sent_is_fixed() -> None:
    """A repeat of create is the same bytes; keys differ per step and fit the vendor's 40 characters."""
    async with _answering({"create": (502, "")}) as (adapter, calls):
        for _ in range(2):
            with pytest.raises(NotSent):
                await adapter.submit(order())
        (first, second) = calls
        assert first["body"] == second["body"]
        assert first["key"] == second["key"]
        assert len(first["key"]) <= 40
        sent = json.loads(first["body"])["instructionSet"][0]
        assert sent["amount"] == {"amount": "43", "assetId": "USDC"}


async def test_unknown_words_are_kept_raw() -> None:
    """A word that no table has changes nothing and is told."""
    async with pair() as (adapter, space):
        mine = order(amount=Decimal("1.000408"))
        await adapter.submit(mine)
        unknown: tuple[str, ...] = ()
        for _ in range(6):
            await space.steps(1)
            found = await adapter.fetch(mine.again())
            unknown = found.unknown_words if isinstance(found, Report) else ()
            if unknown:
                assert isinstance(found, Report)
                assert found.sub_status is None
                break
        assert unknown


async def test_a_failed_look_is_no_news() -> None:
    """5xx and rate limits on status are failures of the look, not of the payout."""
    async with pair() as (adapter, space):
        mine = order()
        await adapter.submit(mine)
        for fault in ("error_before", "rate_limit", "bad_json"):
            await space.fault("status", fault)
            with pytest.raises(NotSent):
                await adapter.fetch(mine.again())


async def test_an_end_waits_for_its_sub_status() -> None:
    """While the transaction cannot be read, completed is not delivered: it may not be credited."""
    async with pair() as (adapter, space):
        mine = order(amount=Decimal("1.000406"))
        await adapter.submit(mine)
        await space.steps(12)
        await space.fault("transaction", "error_before")
        blind = await adapter.fetch(mine.again())
        assert isinstance(blind, Report)
        assert blind.sub_status is SubStatus.SETTLING
        seen = await adapter.fetch(mine.again())
        assert isinstance(seen, Report)
        assert seen.failure is not None
        assert seen.failure.code is FailureCode.THIRD_PARTY_FAILED


@asynccontextmanager
async def _answering(
    answers: dict[str, tuple[int, Any]], change: dict[str, Any] | None = None
) -> AsyncIterator[tuple[Fireblocks, list[dict[str, Any]]]]:
    """Run a server that answers as told, and otherwise as a custodian that has registered the set."""
    calls: list[dict[str, Any]] = []
    registered: dict[str, Any] = {}

    def told(call: str, good: Any) -> web.Response:
        status, body = answers.get(call, (200, good))
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, content_type="application/json")

    async def create(request: web.Request) -> web.Response:
        raw = await request.read()
        calls.append({"body": raw, "key": request.headers["Idempotency-Key"]})
        wanted = json.loads(raw)
        instructions = [
            {**each, "state": "NOT_STARTED", "transactions": []}
            for each in wanted["instructionSet"]
        ]
        account = dict(wanted["paymentAccount"])
        for name, value in (change or {}).items():
            if name == "double":
                instructions.append(instructions[0])
            elif name == "source":
                account["id"] = value
            else:
                instructions[0][name] = value
        registered.update(
            payoutId="p-1",
            paymentAccount=account,
            state="REQUESTED",
            status="REGISTERED",
            instructionSet=instructions,
        )
        return told("create", registered)

    async def execute(_: web.Request) -> web.Response:
        return told("execute", {"payoutId": "p-1"})

    async def status(_: web.Request) -> web.Response:
        return web.json_response(registered)

    app = web.Application()
    app.router.add_post("/v1/payments/payout", create)
    app.router.add_post("/v1/payments/payout/{id}/actions/execute", execute)
    app.router.add_get("/v1/payments/payout/{id}", status)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pem = _pem()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with adapter_for(url, SystemClock(), api_key="k-123456", private_key=pem) as adapter:
            yield adapter, calls
    finally:
        await runner.cleanup()


def _pem() -> str:
    return (
        next(pooled_keys())
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )
