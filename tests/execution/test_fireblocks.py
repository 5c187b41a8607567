"""Fireblocks below the real engine: sets that wait for their account, and a clock that is set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import aiohttp
import jwt
import pytest

from adapters.fireblocks.adapter import Fireblocks
from adapters.fireblocks.settings import FireblocksSettings
from gateway.adapter import Capabilities
from gateway.errors import Refused
from gateway.execution.proof import Kind
from gateway.model import Account, FundsMoved
from tests.adapters.fireblocks.rig import ASSETS
from tests.adapters.fireblocks.workspace import EXTERNAL_WALLET, Workspace, open_workspace
from tests.execution.conftest import LEASE_S, Bench
from tests.execution.rails import Rail, settings_of, tools_of
from tests.execution.script import as_set


@pytest.fixture
def capabilities() -> Capabilities:
    """As the adapter declares."""
    return Fireblocks.capabilities


@pytest.fixture
async def space(bench: Bench) -> AsyncIterator[Workspace]:
    """A twin by the bench's clock."""
    async with open_workspace(lambda: bench.clock.now().timestamp()) as opened:
        yield opened


@pytest.fixture
async def rail(bench: Bench, space: Workspace) -> AsyncIterator[Rail]:
    """The rail."""
    async with aiohttp.ClientSession() as http:
        settings = settings_of(
            FireblocksSettings,
            space.twin.credentials(space.root),
            base_url=space.root + "/v1",
            assets=ASSETS,
            timeout_s=5,
        )
        payee = {
            "type": "custodian_account",
            "account_type": "EXTERNAL_WALLET",
            "id": EXTERNAL_WALLET,
        }
        adapter = Fireblocks(settings, tools_of(bench, http))
        source = Account(id="EX_SUB3", type="EXCHANGE_ACCOUNT")
        yield Rail(bench, adapter, source, {"destination": payee, "asset": "USDC"})


# --- Sets that wait for their account look as if they had not been executed ------------------------


async def advance(rail: Rail, space: Workspace, hours: float) -> None:
    """Let so much of the twin's life pass."""
    for _ in range(round(hours * 4)):
        space.twin.clock.advance(900)


async def paid(rail: Rail, space: Workspace, amount: str) -> int:
    """Return how often an amount was paid until the next day."""
    await advance(rail, space, 24)
    return [Decimal(each["amount"]) for each in await space.ledger()].count(Decimal(amount))


def executes(space: Workspace) -> int:
    """Return how many executes the twin has had."""
    return sum(each.path.endswith("/actions/execute") for each in space.twin.calls)


async def strangers_payout(rail: Rail, space: Workspace) -> None:
    """Occupy the account: a payout that was begun at the console waits for funds until midnight."""
    await space.started("1.000401")


async def payout_ended_by_hand(rail: Rail, space: Workspace) -> None:
    """Occupy the account by a payout of the gateway that waits for funds, and that a person ended."""
    stuck = await rail.accept("1.000401")
    await rail.turn()
    await rail.bench.clock.advance(LEASE_S)
    await rail.resolve(stuck, FundsMoved.UNKNOWN)


BUSY = pytest.mark.parametrize("occupy", [strangers_payout, payout_ended_by_hand])
Occupy = Callable[[Rail, Workspace], Awaitable[None]]


@BUSY
async def test_the_other_item_of_a_waiting_set_is_paid_once(
    rail: Rail, space: Workspace, occupy: Occupy
) -> None:
    """The answer to execute is lost, the set waits, and one of its items is ended by hand.

    Nothing proves that the set was not executed: the other item does not go on in another set. Nor is
    this one executed again, as one of its items has ended: it is looked at, ever more slowly.
    """
    bench = rail.bench
    await occupy(rail, space)
    ids = [await rail.accept("5"), await rail.accept("7")]
    await bench.db.run(as_set, bench, ids, "bat_1")
    await space.fault("execute", "lose_reply")
    before = executes(space)
    await rail.turn()
    assert (await bench.execution(ids[1]))["state"] == "unknown"
    await rail.resolve(ids[0], FundsMoved.UNKNOWN)
    await rail.turns(12, 40)
    assert "item_ended" in await bench.attention(ids[1])
    looks = len(await rail.rows())
    await rail.turns(600, 1)
    assert len(await rail.rows()) - looks <= 6
    assert executes(space) == before + 1
    assert await paid(rail, space, "7") == 1


async def test_a_waiting_payout_is_accepted_by_its_repeat(rail: Rail, space: Workspace) -> None:
    """Nobody needs to act: the look says that a repeat is harmless, and the custodian executes once."""
    await strangers_payout(rail, space)
    payout_id = await rail.accept("7")
    await space.fault("execute", "lose_reply")
    await rail.turn()
    assert await rail.stand() == ["outcome_unknown"]
    await rail.turns(4, 2)
    assert await rail.stand() == ["submitted"]
    assert len({each.reference for each in await rail.rows() if each.kind is Kind.CALL}) == 1
    assert await paid(rail, space, "7") == 1
    await rail.turns(4, 400)
    assert (await rail.bench.payout(payout_id)).status == "delivered"


async def test_an_execute_that_never_arrived_is_repeated(rail: Rail, space: Workspace) -> None:
    """At once, on the same set: no absence has to be proven before."""
    await rail.accept("7")
    await space.fault("execute", "drop_before")
    await rail.turns(4, 2)
    assert await rail.stand() == ["submitted"]
    assert sum(each.path == "/v1/payments/payout" for each in space.twin.calls) == 1
    assert await paid(rail, space, "7") == 1


@pytest.mark.parametrize("how", ["a day", "reboot"])
async def test_a_day_later_or_after_a_reboot_a_person_decides(
    rail: Rail, space: Workspace, how: str
) -> None:
    """A repeat counts on the custodian's memory for a day, by one clock; then it is on the list."""
    payout_id = await rail.accept("7")
    await space.fault("execute", "drop_before")
    await rail.turn()
    if how == "reboot":
        rail.bench.clock.reboot()
    await rail.turns(3, 86_400 / 2 if how == "a day" else LEASE_S)
    assert executes(space) == 1
    assert "key_life" in await rail.bench.attention(payout_id)
    assert await rail.stand() == ["outcome_unknown"]


async def held_up(rail: Rail, space: Workspace) -> str:
    """Return a payout that was executed and waits; our clock is wrong, so that no repeat is made."""
    await strangers_payout(rail, space)
    payout_id = await rail.accept("7")
    await space.fault("execute", "lose_reply")
    await rail.turn()
    rail.dates.off_s = 60.0
    await rail.turns(12, 40)
    assert executes(space) == 2
    return payout_id


async def test_a_waiting_payout_is_not_called_unpaid_by_an_operator(
    rail: Rail, space: Workspace
) -> None:
    """No look of the gateway is proof: the operator is asked for one of their own."""
    payout_id = await held_up(rail, space)
    await rail.bench.clock.advance(LEASE_S)
    assert await rail.resolve(payout_id, FundsMoved.NO) is not None
    assert await rail.stand() == ["outcome_unknown"]
    assert await paid(rail, space, "7") == 1


async def test_a_waiting_payout_is_not_canceled_as_unpaid(rail: Rail, space: Workspace) -> None:
    """The partner cancels while the repeat is held up."""
    payout_id = await held_up(rail, space)
    with pytest.raises(Refused):
        await rail.cancel(payout_id)
    assert await rail.stand() == ["outcome_unknown"]
    assert await paid(rail, space, "7") == 1


# --- Credentials that a wrong clock has dated -----------------------------------------------------


async def test_a_token_dated_by_a_wrong_clock_is_not_used(rail: Rail) -> None:
    """It is signed while the clock is an hour ahead, and lives an hour too long at the custodian.

    The clock is set right before the mark. The call would be stored with 90 s.
    """
    clock = rail.bench.clock
    payout_id = await rail.accept("7")
    client: Any = rail.adapter._client  # type: ignore[attr-defined]
    prepare = client.prepare
    tokens: list[str] = []

    async def prepared(method: str, path: str, *args: Any, **more: Any) -> Any:
        wrong = path.endswith("/actions/execute") and not tokens
        clock.step(3600 if wrong else 0)
        call = await prepare(method, path, *args, **more)
        clock.step(-3600 if wrong else 0)
        if path.endswith("/actions/execute"):
            tokens.append(call.headers["Authorization"].removeprefix("Bearer "))
        return call

    client.prepare = prepared
    await rail.turn()
    assert not [each for each in await rail.rows() if each.kind is Kind.CALL]
    assert "clock_skew" in await rail.bench.attention(payout_id)
    await rail.turns(3, 40)
    (call,) = [each for each in await rail.rows() if each.kind is Kind.CALL]
    expires = jwt.decode(tokens[-1], options={"verify_signature": False})["exp"]
    assert call.call_life is not None
    assert expires * 1_000_000 <= call.at.wall + call.call_life
