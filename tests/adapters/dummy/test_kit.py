"""Dummy by the kit: its twin's calls, its lives, its refusals."""

from __future__ import annotations

from decimal import Decimal

import pytest

from adapters.dummy.adapter import Dummy
from gateway.adapter import (
    AddressDestination,
    CustodianAccountDestination,
    FailureCode,
    FundsMoved,
    Ref,
    SubStatus,
)
from gateway.testing import AdapterKit, Bench, Life, Refusal, account

PAYEE = "0x52908400098527886E0F7030069857D2E4169EE7"
SHOP = CustodianAccountDestination(account_type="ACCOUNT", id="SHOP")


class TestDummy(AdapterKit):
    """One POST that pays, one GET to look, webhooks by HMAC."""

    adapter = Dummy
    terms = {
        "amount": Decimal("43.5"),
        "asset": "USDC",
        "network": "EthereumSepolia",
        "decimals": 6,
        "source": account("MAIN", "ACCOUNT"),
        "destination": AddressDestination(network="EthereumSepolia", address=PAYEE),
    }
    moving = "transfer"
    looking = ("status",)
    lives = (
        Life("delivered", words=(SubStatus.SUBMITTED, SubStatus.BROADCAST)),
        Life(
            "refused by policy",
            {"amount": Decimal("5.000402")},
            end=SubStatus.FAILED,
            code=FailureCode.POLICY_REJECTED,
            funds_moved=FundsMoved.NO,
        ),
        Life("an unknown word", {"amount": Decimal("5.000408")}, end=None),
        Life("to an account", {"destination": SHOP, "network": None}),
        Life("it comes back", {"amount": Decimal("5.000409")}, returned=Decimal("5.000409")),
    )
    refusals = (
        Refusal("no funds", {"amount": Decimal(2_000_000)}, FailureCode.INSUFFICIENT_FUNDS),
        Refusal(
            "a memo",
            {
                "destination": AddressDestination(
                    network="EthereumSepolia", address=PAYEE, memo="42"
                )
            },
            FailureCode.DESTINATION_REJECTED,
            early=True,
            says="memo",
        ),
    )
    quick_settings = {"timeout_s": 1}

    # Tests of this custodian's own features, beside the inherited ones.

    @pytest.mark.asyncio
    async def test_a_webhook_names_the_key_that_is_expected(self, bench: Bench) -> None:
        """The key is registered before the mark; money that came back is in the webhook, too."""
        async with bench.receiver() as receiver:
            order = bench.order(amount=Decimal("5.000409"))
            await bench.instance.submit(order)
            key = order.key("transfer")
            assert order.story == [f"expect key:{key}", "moving"]
            await bench.step(3)
            bodies = [body for _, body in await receiver.wait_for(3)]
        notices = [each for body in bodies for each in bench.adapter.parse(body)]
        assert {each.refs for each in notices} == {(Ref("key", key),)}
        returned = {each.id: each.amount for notice in notices for each in notice.returned}
        assert list(returned.values()) == [Decimal("5.000409")]

    @pytest.mark.asyncio
    async def test_another_payouts_transfer_is_a_difference(self, bench: Bench) -> None:
        """Whatever the API answers with: the key in the response must be ours."""
        other = self.course(bench)
        await other.until_handed_over()
        key = other.order.key("transfer")
        _, payload = await bench.adapter._call("GET", f"/transfers/{key}")
        report = bench.adapter._report(bench.order(), payload)
        (line,) = report.echo.differences()
        assert line.startswith("reference: ordered ")

    @pytest.mark.asyncio
    async def test_what_arrived_is_the_amount_that_dummy_shows(self, bench: Bench) -> None:
        """Of a transfer that is DONE, and of none before."""
        course = self.course(bench)
        await course.until_handed_over()
        _, payload = await bench.adapter._call("GET", f"/transfers/{course.order.key('transfer')}")
        for state, amount in (("ACCEPTED", None), ("SENT", None), ("DONE", Decimal("43.5"))):
            report = bench.adapter._report(course.order, {**payload, "state": state})
            assert report.final_recipient_amount == amount

    @pytest.mark.asyncio
    async def test_an_address_names_its_network(self, bench: Bench) -> None:
        """The same address on another network is another payee."""
        place = AddressDestination(network="Solana", address="So1anaAddress")
        await self.course(bench, destination=place, network="Solana").until_ended()
        assert [each["destination"] for each in await bench.ledger()] == ["Solana:So1anaAddress"]
