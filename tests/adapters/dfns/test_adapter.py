"""The Dfns adapter on its twin: both ways, from the order to the ledger."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest

from adapters.dfns.adapter import Dfns
from adapters.dfns.twin.world import EVM_WALLET, SOLANA_WALLET, THROUGH
from adapters.dfns.twin.world import WALLETS as WALLETS_OF_TWIN
from gateway.adapter import (
    Absent,
    AddressDestination,
    BankAccountDestination,
    CannotLook,
    FundsMoved,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Report,
    SubStatus,
)
from tests.adapters.dfns.organisation import (
    PAYEE,
    SOLANA_PAYEE,
    Organisation,
    confirm_body,
)
from tests.adapters.dfns.rig import (
    WALLETS,
    TwinTime,
    adapter_for,
    bank_order,
    confirmed,
    look,
    pair,
    set_wrong,
    solana_order,
    transfer_order,
)
from tests.adapters.orders import Elapsed, OrderForTest


async def test_a_deposit_that_arrived_does_not_deliver() -> None:
    """While the provider pays out, the payout is settling, although its transfer is confirmed."""
    async with pair() as (adapter, org):
        order = await confirmed(adapter, org, bank_order("43.000513"))
        await org.steps(5)
        assert len(await org.ledger()) == 1
        await org.steer("POST", "clock", {"advance_s": 0})
        report = await look(adapter, order)
        assert report.sub_status in {SubStatus.SETTLING, SubStatus.DELIVERED}


async def ended_alone(adapter: Dfns, org: Organisation, amount: str) -> OrderForTest:
    """Return a confirmed off-ramp that has ended and shows no transfer, as it is first seen."""
    order = await confirmed(adapter, org, bank_order(amount))
    await org.steps(1)
    report = await look(adapter, order)
    assert (report.sub_status, report.failure) == (SubStatus.OUTCOME_UNKNOWN, None)
    return order.again()


ALONE = ["43.000506", "43.000507"]


@pytest.mark.parametrize("amount", ALONE)
async def test_an_end_without_a_transfer_is_believed_after_a_minute(amount: str) -> None:
    """A transfer may be listed late: until then the outcome is unknown."""
    async with pair() as (adapter, org):
        order = await ended_alone(adapter, org, amount)
        order.time.advance(59)
        assert (await look(adapter, order)).sub_status is SubStatus.OUTCOME_UNKNOWN
        order.time.advance(1)
        report = await look(adapter, order.again())
        assert report.failure is not None
        assert report.failure.funds_moved is FundsMoved.NO


async def fill_pages(org: Organisation, count: int, to: str) -> None:
    """Let the wallet have so many more transfers, the first of them to an address of its own."""
    wallet = WALLETS_OF_TWIN[EVM_WALLET]
    for number in range(count):
        request = {"kind": "Erc20", "amount": "1", "to": PAYEE if number else to}
        org.twin.transfers.start(wallet, wallet.tokens[0], request, 1, THROUGH, None)


async def test_an_end_is_searched_for_on_every_page() -> None:
    """The tokens of pages are opaque and hold `=`, `+` and `/`; 120 transfers are three pages."""
    async with pair() as (adapter, org):
        order = await ended_alone(adapter, org, ALONE[0])
        await fill_pages(org, 120, PAYEE)
        before = await org.calls("list")
        order.time.advance(60)
        report = await look(adapter, order.again())
        assert report.failure is not None
        assert report.failure.funds_moved is FundsMoved.NO
        assert await org.calls("list") == before + 3


async def test_a_transfer_on_the_last_page_is_found() -> None:
    """The oldest of 120 transfers went to the deposit address: the money has moved."""
    async with pair() as (adapter, org):
        order = await ended_alone(adapter, org, ALONE[0])
        await fill_pages(org, 120, str(order.notes["deposit_address"]))
        await org.steps(3)
        order.time.advance(60)
        report = await look(adapter, order.again())
        assert report.failure is not None
        assert report.failure.funds_moved is FundsMoved.YES


@pytest.mark.parametrize("paid", [False, True])
async def test_a_wallet_with_more_than_a_thousand_transfers_is_searched_to_its_end(
    *, paid: bool
) -> None:
    """1,100 transfers are 22 pages: the payout ends, by the oldest of them or because none is its own."""
    async with pair() as (adapter, org):
        order = await ended_alone(adapter, org, ALONE[0])
        deposit = str(order.notes["deposit_address"])
        await fill_pages(org, 1100, deposit if paid else PAYEE)
        await org.steps(3)
        before = await org.calls("list")
        order.time.advance(60)
        report = await look(adapter, order.again())
        assert report.failure is not None
        assert report.failure.funds_moved is (FundsMoved.YES if paid else FundsMoved.NO)
        assert await org.calls("list") == before + 22


async def test_a_search_that_reaches_its_bound_proves_nothing() -> None:
    """Not even late: an operator hears of it, and the transfer that was not read is found with more."""
    async with pair({"most_transfers_searched": 100}) as (adapter, org):
        order = await ended_alone(adapter, org, ALONE[0])
        await fill_pages(org, 101, str(order.notes["deposit_address"]))
        await org.steps(3)
        order.time.advance(3600)
        found = await adapter.fetch(order.again())
        assert isinstance(found, CannotLook)
        assert found.repeat_is_safe is False
        assert "more than 100 transfers" in found.reason
        assert str(order.notes["deposit_address"]) in found.reason
        again = order.again()
        with pytest.raises(NotSent, match="more than 100 transfers"):
            await adapter.submit(again)
        assert again.marks == order.marks


@pytest.mark.parametrize("amount", ALONE)
@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_stepped_wall_clock_neither_proves_nor_delays_it(
    amount: str, seconds: float
) -> None:
    """A minute is a minute of elapsed time, whatever the wall clock is set to."""
    async with pair() as (adapter, org):
        order = await ended_alone(adapter, org, amount)
        set_wrong(adapter, seconds)
        order.time.advance(30)
        assert (await look(adapter, order)).sub_status is SubStatus.OUTCOME_UNKNOWN
        set_wrong(adapter, -seconds)
        order.time.advance(30)
        assert (await look(adapter, order)).failure is not None


@pytest.mark.parametrize("after", ["/payouts/", "/wallets/"])
async def test_a_look_counts_from_its_beginning(after: str) -> None:
    """A process that was suspended after a call of its look judges what was seen before, not now."""
    async with pair() as (adapter, org):
        order = await ended_alone(adapter, org, ALONE[0])
        get = adapter._client.get

        async def slow(path: str) -> Any:
            found = await get(path)
            if path.startswith(after):
                order.time.advance(100)
            return found

        adapter._client.get = slow  # type: ignore[method-assign]
        assert (await look(adapter, order)).sub_status is SubStatus.OUTCOME_UNKNOWN
        assert (await look(adapter, order)).failure is not None


async def test_after_a_reboot_the_minute_begins_anew() -> None:
    """The old elapsed time says nothing on another clock."""
    async with pair() as (adapter, org):
        order = await ended_alone(adapter, org, ALONE[0])
        order.time = Elapsed()
        order.time.advance(1000)
        order.time.reboot()
        assert (await look(adapter, order)).sub_status is SubStatus.OUTCOME_UNKNOWN
        order.time.advance(61)
        assert (await look(adapter, order)).failure is not None


async def test_a_note_from_before_is_no_proof() -> None:
    """It was a wall-clock time; the minute begins with the first stamp."""
    async with pair() as (adapter, org):
        order = await confirmed(adapter, org, bank_order(ALONE[0]))
        await org.steps(1)
        await order.remember(ended_seen_at="2026-01-01T00:00:00+00:00")
        assert (await look(adapter, order)).sub_status is SubStatus.OUTCOME_UNKNOWN
        order.time.advance(61)
        assert (await look(adapter, order)).failure is not None


@pytest.mark.parametrize(
    "at",
    [
        None,
        5,
        "",
        "soon",
        "2026-03-02T10:00:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2999-01-01T00:00:00Z",
    ],
)
async def test_a_vendors_time_that_is_none_changes_nothing(at: object) -> None:
    """Naive, missing or beyond the calendar: the payout waits, and every time has a zone."""
    async with pair() as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        told = (await org.get(f"/payouts/{order.notes['payout_id']}")).json
        report = adapter._payouts._reader.wait(order, {**told, "dateCreated": at}, "Initializing")
        assert report.again_after_s is not None
        assert 1 <= report.again_after_s <= 60
        mine = transfer_order(payout_id="pay_2")
        await adapter.submit(mine)
        (transfer,) = (await org.get(f"/wallets/{EVM_WALLET}/transfers")).json["items"]
        dates = dict.fromkeys(("dateRequested", "dateBroadcasted", "dateConfirmed"), at)
        seen = adapter._transfers._report(mine.again(), {**transfer, **dates})
        assert seen.transactions[0].at.tzinfo is not None


@pytest.mark.parametrize("where", ["externalId", "requestBody"])
async def test_another_external_id_is_a_difference(where: str) -> None:
    """Ours is told back: a transfer under another one is not this payout's."""
    async with pair() as (adapter, org):
        order = transfer_order()
        report = await adapter.submit(order)
        assert report.echo is not None
        assert report.echo.reference == order.key("transfer")
        (told,) = (await org.get(f"/wallets/{EVM_WALLET}/transfers")).json["items"]
        if where == "externalId":
            told["externalId"] = "another"
        else:
            told["requestBody"]["externalId"] = "another"
        echo = adapter._transfers._report(order.again(), told).echo
        assert echo is not None
        assert echo.differences() == (
            f"reference: ordered {order.key('transfer')}, custodian says another",
        )


async def test_a_payout_under_another_external_id_is_never_confirmed() -> None:
    """The id is compared with the rest of the order."""
    async with pair() as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        told = (await org.get(f"/payouts/{order.notes['payout_id']}")).json
        assert told["externalId"] == order.key("payout")
        reader = adapter._payouts._reader
        assert reader.unfit(order.again(), told) is None
        unfit = reader.unfit(order.again(), {**told, "externalId": "another"})
        assert unfit is not None
        assert "reference: ordered" in str(unfit.detail)


async def test_an_expired_payout_whose_transfer_waits_is_unknown() -> None:
    """A late policy approval still moves money: failed only when the transfer is final, too."""
    async with pair() as (adapter, org):
        order = await confirmed(adapter, org, bank_order("43.000514"))
        await org.steps(1)
        await org.steer("POST", "clock", {"advance_s": 61})
        report = await look(adapter, order)
        assert report.sub_status is SubStatus.OUTCOME_UNKNOWN
        assert report.custodian_word == "Expired/Expired"
        assert await org.ledger() == []
        await org.steps(5)
        report = await look(adapter, order)
        assert report.failure is not None
        assert (report.sub_status, report.failure.funds_moved) == (
            SubStatus.EXPIRED,
            FundsMoved.YES,
        )
        assert len(await org.ledger()) == 1


@pytest.mark.parametrize(
    ("make", "amount"), [(transfer_order, "43.000606"), (bank_order, "43.000515")]
)
async def test_a_word_that_nobody_knows_changes_nothing(make: Any, amount: str) -> None:
    """It is kept raw, for the operator."""
    async with pair() as (adapter, org):
        order = make(amount)
        if make is transfer_order:
            await adapter.submit(order)
            order = order.again()
        else:
            order = await confirmed(adapter, org, order)
            await org.steps(5)
        report = await look(adapter, order)
        assert report.sub_status is None
        assert report.unknown_words


async def test_a_cancel_before_the_confirmation_ends_it() -> None:
    """Afterwards Dfns refuses, and that is no outcome of the payout."""
    async with pair() as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        await org.steps(1)
        report = await adapter.cancel(order.again())
        assert report.failure is not None
        assert (report.sub_status, report.failure.funds_moved) == (
            SubStatus.CANCELED,
            FundsMoved.NO,
        )
        late = await confirmed(adapter, org, bank_order(payout_id="pay_2"))
        with pytest.raises(OutcomeUnknown):
            await adapter.cancel(late)


@pytest.mark.parametrize("what", ["deposit_address", "amount", "asset", "wallet"])
async def test_an_altered_payout_is_never_confirmed(what: str) -> None:
    """The API tells another deposit address than at first, another amount, token or wallet (P7)."""
    async with pair() as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        await org.steps(1)
        order = order.again()
        if what == "deposit_address":
            await order.remember(deposit_address="0x" + "55" * 20)
        await org.fault("payout", "alter", what=what, times=None)
        report = await adapter.submit(order)
        assert report.sub_status is SubStatus.AWAITING_APPROVAL
        assert report.again_after_s is None
        assert report.echo is not None
        (line,) = report.echo.differences()
        assert "ordered" in line
        assert report.detail is not None
        assert await org.calls("confirm") == 0
        assert order.story == [each for each in order.story if each != "moving"]


async def test_a_webhook_with_another_deposit_address_stops_the_confirmation() -> None:
    """The webhook's word is a witness, too: both values are shown, nothing is signed."""
    async with pair() as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        await org.steps(1)
        order = order.again()
        await order.remember(told={"deposit_address": ["0x" + "66" * 20]})
        report = await adapter.submit(order)
        assert report.sub_status is SubStatus.AWAITING_APPROVAL
        assert report.echo is not None
        assert "0x" + "66" * 20 in str(report.echo.differences())
        assert await org.calls("confirm") == 0


async def test_it_can_wait_for_the_webhook() -> None:
    """With `confirm_after_webhook` the API's word alone is not enough."""
    async with pair({"confirm_after_webhook": True}) as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        await org.steps(1)
        order = order.again()
        report = await adapter.submit(order)
        assert report.again_after_s is not None
        assert await org.calls("confirm") == 0
        payout = org.twin.payouts.payouts[str(order.notes["payout_id"])]
        await order.remember(
            told={"deposit_address": [str(payout.deposit_address).upper().replace("0X", "0x")]}
        )
        report = await adapter.submit(order.again())
        assert report.sub_status is SubStatus.SUBMITTED


async def test_a_confirmed_payout_is_looked_at_by_others_too() -> None:
    """Somebody confirmed it in the vendor's console: it is followed, and not confirmed again."""
    async with pair() as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        await org.steps(1)
        order = order.again()
        payout = (await org.get(f"/payouts/{order.notes['payout_id']}")).json
        done = await org.act(f"/payouts/{payout['id']}/action", confirm_body(payout))
        assert done.status == 200
        report = await adapter.submit(order)
        assert report.sub_status is SubStatus.SUBMITTED
        assert await org.calls("confirm") == 1


async def test_offers_are_net_of_fees() -> None:
    """A rate per unit, from the vendor's number, without a float in between."""
    async with pair() as (adapter, _):
        (offer,) = await adapter.offers(bank_order("100"))
        assert offer.fx_rate == Decimal("0.92")
        assert await adapter.offers(transfer_order()) == ()


BANK = bank_order().destination
assert isinstance(BANK, BankAccountDestination)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (transfer_order(network=None), "network"),
        (transfer_order(source=solana_order().source), SOLANA_WALLET),
        (transfer_order(asset="USDT"), "USDT"),
        (
            transfer_order(
                destination=AddressDestination(network="EthereumSepolia", address=PAYEE, memo="7")
            ),
            "memo",
        ),
        (
            transfer_order(
                destination=AddressDestination(network="SolanaDevnet", address=SOLANA_PAYEE)
            ),
            "SolanaDevnet",
        ),
        (bank_order(asset="ETH", decimals=18), "coin"),
        (bank_order(destination=BANK.model_copy(update={"purpose": "fun"})), "purpose"),
    ],
)
async def test_what_can_never_be_paid_is_said_before_anything_is_sent(
    order: OrderForTest, why: str
) -> None:
    """At the quote, and again before the first call."""
    async with pair() as (adapter, org):
        assert why in str(adapter.check(order))
        with pytest.raises(Rejected, match=re.escape(why)):
            await adapter.submit(order)
        assert (await org.steer("GET", "calls"))["calls"] == []


async def test_no_off_ramp_without_an_account_at_the_provider() -> None:
    """The setting is named."""
    async with pair({"borderless_account_id": None}) as (adapter, _):
        assert "borderless_account_id" in str(adapter.check(bank_order()))
        assert adapter.check(transfer_order()) is None


async def test_nothing_to_look_by() -> None:
    """A transfer without a known id may be repeated; a payout without one was never confirmed."""
    async with pair() as (adapter, _):
        assert await adapter.fetch(transfer_order()) == CannotLook(
            "the transfer's id is not known yet", repeat_is_safe=True
        )
        found = await adapter.fetch(bank_order())
        assert isinstance(found, CannotLook)
        assert found.repeat_is_safe is None


async def test_a_refused_transfer_is_rejected_and_a_closed_door_is_not() -> None:
    """A wrong token at the service account never fails a payout."""
    async with pair() as (adapter, org):
        await org.fault("transfer", "reject", status=400)
        with pytest.raises(Rejected):
            await adapter.submit(transfer_order())
        for status in (401, 402, 403):
            await org.fault("transfer", "reject", status=status)
            with pytest.raises(NotSent):
                await adapter.submit(transfer_order(payout_id=f"pay_{status}"))
        await org.fault("transfer", "reject", status=409)
        with pytest.raises(OutcomeUnknown):
            await adapter.submit(transfer_order(payout_id="pay_409"))
    async with pair({"auth_token": "sa-expired"}) as (adapter, _):
        with pytest.raises(NotSent, match="renew auth_token"):
            await adapter.submit(transfer_order())


async def test_waiting_off_ramps_are_absent_to_a_look() -> None:
    """What the engine counts before it believes that a Confirm did nothing."""
    async with pair() as (adapter, org):
        order = bank_order()
        await adapter.submit(order)
        assert await adapter.fetch(order.again()) == Absent("Initializing")
        await org.steps(1)
        assert await adapter.fetch(order.again()) == Absent("AwaitingPayoutConfirmation")


async def test_the_wallet_of_the_route_pays() -> None:
    """The wallet is the order's source account."""
    async with pair() as (adapter, org):
        report = await adapter.submit(transfer_order())
        assert isinstance(report, Report)
        await org.steps(3)
        (entry,) = await org.ledger()
        assert (entry["source"], entry["destination"]) == (EVM_WALLET, PAYEE)


async def test_the_wallets_say_whose_account_it_is() -> None:
    """Each is read with these credentials; one that is another organisation's is not found."""
    async with pair() as (adapter, org):
        found = await adapter.identity()
        assert all(wallet in found for wallet in WALLETS.values())
        stranger = {**WALLETS, "EthereumSepolia": "wa-aaaaa-bbbbb-cccccccccccccccc"}
        async with adapter_for(org, TwinTime(org), wallets=stranger) as other:
            with pytest.raises(NotSent, match="404"):
                await other.identity()
        async with adapter_for(org, TwinTime(org), auth_token="wrong") as revoked:
            with pytest.raises(NotSent, match="401"):
                await revoked.identity()
