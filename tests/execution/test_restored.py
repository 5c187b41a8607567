"""After a restore and `db adopt`: what the lost database paid is never called unpaid, on any rail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from adapters.card_passcode.adapter import CardPasscode
from adapters.card_passcode.settings import CardPasscodeSettings
from adapters.dfns.adapter import Dfns
from adapters.dfns.settings import DfnsSettings
from adapters.dfns.twin.world import EUR_BANK_ACCOUNT, EVM_WALLET
from gateway.errors import Refused
from gateway.model import Account
from tests.adapters.card_passcode.merchant import DEVICE, Merchant, open_merchant
from tests.adapters.dfns.organisation import Organisation, open_organisation
from tests.adapters.dfns.rig import WALLETS
from tests.execution.conftest import Bench
from tests.execution.rails import Rail, settings_of, tools_of


@pytest.fixture
async def merchant(bench: Bench) -> AsyncIterator[Merchant]:
    """A card-passcode twin by the bench's clock."""
    async with open_merchant(lambda: bench.clock.now().timestamp()) as opened:
        yield opened


@pytest.fixture
async def card(bench: Bench, merchant: Merchant) -> AsyncIterator[Rail]:
    """The card rail, where people give the passcode."""
    async with aiohttp.ClientSession() as http:
        settings = settings_of(
            CardPasscodeSettings,
            {name: each for name, each in merchant.credentials.items() if name != "passcode"},
            base_url=merchant.root + "/v1",
            timeout_s=5,
            device=DEVICE,
            passcode_mode="caller",
        )
        adapter = CardPasscode(settings, tools_of(bench, http))
        payee = {"type": "payout_account", "payout_account_id": "18"}
        wanted = {"destination": payee, "asset": "USD"}
        yield Rail(bench, adapter, Account(id="3", type="WALLET"), wanted)


@pytest.fixture
async def org(bench: Bench) -> AsyncIterator[Organisation]:
    """A Dfns twin by the bench's clock."""
    async with open_organisation(lambda: bench.clock.now().timestamp()) as opened:
        yield opened


@pytest.fixture
async def off_ramp(bench: Bench, org: Organisation) -> AsyncIterator[Rail]:
    """The off-ramp of Dfns."""
    async with aiohttp.ClientSession() as http:
        settings = settings_of(
            DfnsSettings,
            org.twin.credentials(org.root),
            base_url=org.root,
            wallets=WALLETS,
            timeout_s=5,
        )
        payee = {
            "type": "bank_account",
            "payment_instructions_id": EUR_BANK_ACCOUNT,
            "country": "DE",
            "fiat_currency": "EUR",
            "purpose": "salary payment",
        }
        wanted = {"destination": payee, "asset": "USDC", "network_hint": "EthereumSepolia"}
        adapter = Dfns(settings, tools_of(bench, http))
        yield Rail(bench, adapter, Account(id=EVM_WALLET, type="WALLET"), wanted)


async def pay_off_ramp(rail: Rail, org: Organisation) -> None:
    """Let the off-ramp go on until it has paid."""
    for _ in range(12):
        await rail.turns(1, 60)
        org.twin.clock.advance(100)
    assert len(await org.ledger()) == 1, await rail.stand()


async def test_an_off_ramp_that_was_created_since_is_not_canceled_as_unpaid(
    off_ramp: Rail, org: Organisation, tmp_path: Path
) -> None:
    """The copy is from before the payout was created at Dfns; then it was confirmed and paid.

    That the copy remembers no payout does not mean that none was created.
    """
    payout_id = await off_ramp.accept("43")
    off_ramp.back_up(tmp_path / "copy.db")
    await off_ramp.turn()
    await pay_off_ramp(off_ramp, org)
    async with off_ramp.restored(tmp_path / "copy.db") as (rail, _):
        with pytest.raises(Refused) as refused:
            await rail.cancel(payout_id)
        assert refused.value.code == "cancel_too_late"
        assert not await rail.says_unpaid(payout_id)


async def test_a_card_payout_that_was_paid_since_does_not_expire_as_unpaid(
    card: Rail, merchant: Merchant, tmp_path: Path
) -> None:
    """A wrong code, the copy, then the right code: it was paid under another reference.

    That the first reference is absent proves nothing of the second one, which the copy does not know.
    """
    payout_id = await card.accept("75.00")
    await card.turn()
    with pytest.raises(Refused, match="wrong"):
        await card.confirm(payout_id, "wrong")
    card.back_up(tmp_path / "copy.db")
    await card.confirm(payout_id, merchant.passcode)
    merchant.twin.clock.advance(1000)
    assert len(await merchant.ledger()) == 1
    async with card.restored(tmp_path / "copy.db") as (rail, adopted):
        assert adopted.attention == 1
        assert "adopted" in await rail.bench.attention(payout_id)
        await rail.turns(60, 1800)
        assert not await rail.says_unpaid(payout_id)
        assert (await rail.bench.payout(payout_id)).status == "pending"
