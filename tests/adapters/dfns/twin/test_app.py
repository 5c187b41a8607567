"""The Dfns twin's strictness: user actions, patterns, external ids, rate, webhooks, its worst cases."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.dfns.twin.world import EVM_WALLET, MAGIC_PAYOUTS, MAGIC_TRANSFERS
from tests.adapters.dfns.organisation import (
    Organisation,
    confirm_body,
    dump,
    encode,
    open_organisation,
    payout_body,
    transfer_body,
)

TRANSFERS = f"/wallets/{EVM_WALLET}/transfers"


async def waiting(org: Organisation, units: str = "43000000") -> dict[str, Any]:
    """Return a payout that waits for its Confirm."""
    made = await org.act("/payouts", payout_body(units))
    assert made.status == 200, made
    await org.steps(1)
    return dict((await org.get(f"/payouts/{made.json['id']}")).json)


async def test_a_token_is_for_one_call_with_the_same_bytes() -> None:
    """Another method, path or byte is refused; the true call then works, once."""
    async with open_organisation() as org:
        body = dump(transfer_body())
        token = await org.token("POST", TRANSFERS, body.decode())
        for path, raw in (
            ("/payouts", body),
            (TRANSFERS, body.replace(b"43000000", b"44000000")),
            (TRANSFERS, json.dumps(transfer_body()).encode()),
        ):
            reply = await org.send("POST", path, raw, X_DFNS_USERACTION=token)
            assert reply.status == 403, reply
        assert (await org.send("POST", TRANSFERS, body)).status == 403
        assert (await org.send("POST", TRANSFERS, body, X_DFNS_USERACTION="x")).status == 403
        assert (await org.send("POST", TRANSFERS, body, X_DFNS_USERACTION=token)).status == 200
        used = await org.send("POST", TRANSFERS, body, X_DFNS_USERACTION=token)
        assert (used.status, "already used" in used.message) == (400, True)
        assert len(org.twin.transfers.transfers) == 1


async def test_equal_json_is_enough_where_it_is_switched() -> None:
    """The vendor leaves open whether bytes or JSON are compared."""
    async with open_organisation(payload_check="json") as org:
        token = await org.token("POST", TRANSFERS, dump(transfer_body()).decode())
        raw = json.dumps(transfer_body(), indent=1).encode()
        assert (await org.send("POST", TRANSFERS, raw, X_DFNS_USERACTION=token)).status == 200


@pytest.mark.parametrize(
    "change",
    [
        {"credId": "cr-00000-00000-0000000000000000"},
        {"signature": encode(b"s" * 64)},
        {"signature": encode(b"s" * 64) + "=="},
        {"clientData": encode(dump({"type": "key.get", "challenge": "other"}))},
    ],
)
async def test_a_wrong_assertion_gets_no_token(change: dict[str, str]) -> None:
    """Another credential, a wrong signature, padding, another challenge; and the challenge is used up."""
    async with open_organisation() as org:
        challenge = await org.challenge("POST", TRANSFERS, "{}")
        refused = await org.send("POST", "/auth/action", dump(org.assertion(challenge, **change)))
        assert refused.status in {400, 401}
        again = await org.send("POST", "/auth/action", dump(org.assertion(challenge)))
        assert again.status == 401


async def test_client_data_of_another_kind_is_refused() -> None:
    """It must be `key.get`, signed with the registered key."""
    async with open_organisation() as org:
        key = Ed25519PrivateKey.generate()
        for data in (
            dump({"type": "key.create", "challenge": "x"}),
            dump(["key.get"]),
        ):
            challenge = await org.challenge("POST", TRANSFERS, "{}")
            signed = {"clientData": encode(data), "signature": encode(key.sign(data))}
            body = dump(org.assertion(challenge, **signed))
            assert (await org.send("POST", "/auth/action", body)).status == 401


async def test_challenges_and_tokens_end() -> None:
    """A challenge that is too old, and a token past its life."""
    async with open_organisation(token_life_s=1e-6) as org:
        challenge = await org.challenge("POST", TRANSFERS, "{}")
        await org.steer("POST", "challenges/expire")
        old = await org.send("POST", "/auth/action", dump(org.assertion(challenge)))
        assert old.status == 401
        assert (await org.act(TRANSFERS, transfer_body())).status == 403


async def test_one_token_sent_a_hundred_times_is_accepted_once() -> None:
    """Consumption is atomic with acceptance."""
    async with open_organisation() as org:
        payout = await waiting(org)
        path, raw = f"/payouts/{payout['id']}/action", dump(confirm_body(payout))
        token = await org.token("POST", path, raw.decode())
        replies = await asyncio.gather(
            *(org.send("POST", path, raw, X_DFNS_USERACTION=token) for _ in range(100))
        )
        assert sorted(each.status for each in replies) == [200, *[400] * 99]
        await org.steps(8)
        assert len(await org.ledger()) == 1


@pytest.mark.parametrize(
    ("second", "status", "entries"),
    [("pays_again", 200, 2), ("refused", 409, 1), ("accepted", 200, 1)],
)
async def test_a_second_confirm(second: str, status: int, entries: int) -> None:
    """At its worst it pays again."""
    async with open_organisation(second_confirm=second) as org:
        payout = await waiting(org)
        path = f"/payouts/{payout['id']}/action"
        assert (await org.act(path, confirm_body(payout))).status == 200
        assert (await org.act(path, confirm_body(payout))).status == status
        await org.steps(8)
        assert len(await org.ledger()) == entries


@pytest.mark.parametrize(
    "change",
    [{"to": "0x" + "11" * 20}, {"amount": "1"}, {"contract": "0x" + "22" * 20}],
)
async def test_a_confirm_must_echo_the_payout(change: dict[str, str]) -> None:
    """Deposit address, amount and token; a refusal leaves it waiting."""
    async with open_organisation() as org:
        payout = await waiting(org)
        refused = await org.act(f"/payouts/{payout['id']}/action", confirm_body(payout, **change))
        assert refused.status == 400
        seen = (await org.get(f"/payouts/{payout['id']}")).json
        assert seen["data"]["executionStatus"] == "AwaitingPayoutConfirmation"


async def test_patterns_are_checked() -> None:
    """Wallet ids, digits, countries, currencies, purposes, unknown members."""
    async with open_organisation() as org:
        for change in (
            {"walletId": "wa-1"},
            {"country": "de"},
            {"fiatCurrency": "euro"},
            {"paymentPurpose": "fun"},
            {"provider": "CircleMint"},
            {"extra": 1},
            {"asset": {"kind": "Erc20", "amount": "1.5", "contract": "0x"}},
        ):
            assert (await org.act("/payouts", {**payout_body(), **change})).status == 400, change
        for change in ({"to": "nobody"}, {"amount": "-1"}, {"kind": "Erc721"}, {"memo": "x"}):
            assert (await org.act(TRANSFERS, transfer_body(**change))).status == 400, change
        assert (
            await org.act("/wallets/wa-aaaaa-bbbbb-cccccccccccccc/transfers", transfer_body())
        ).status == 404
        assert org.twin.transfers.transfers == {}


async def test_external_ids_are_permanent() -> None:
    """The same body answers the first; another one is refused, with the duplicate named."""
    async with open_organisation(payout_other_body="refuse") as org:
        body = transfer_body(externalId="e-1")
        first = await org.act(TRANSFERS, body)
        assert (await org.act(TRANSFERS, body)).json["id"] == first.json["id"]
        other = await org.act(TRANSFERS, {**body, "amount": "1"})
        assert other.status == 409
        assert other.json["error"]["details"]["duplicate"]["id"] == first.json["id"]
        made = await org.act("/payouts", payout_body(externalId="e-2"))
        assert (await org.act("/payouts", payout_body("1", externalId="e-2"))).status == 409
        await org.steer("PUT", "settings", {"payout_other_body": "return"})
        again = await org.act("/payouts", payout_body("1", externalId="e-2"))
        assert again.json["id"] == made.json["id"]


async def test_the_rate_is_limited() -> None:
    """429 with Retry-After; strangers are counted, too."""
    async with open_organisation(requests_per_minute=3) as org:
        for _ in range(3):
            assert (await org.get("/payouts")).status == 200
        limited = await org.get("/payouts")
        assert limited.status == 429
        assert 0 < int(limited.headers["Retry-After"]) <= 61


async def test_strangers_and_odd_requests_are_refused() -> None:
    """Token, content type, unknown path, page size."""
    async with open_organisation() as org:
        assert (await org.send("GET", "/payouts", Authorization="Bearer x")).status == 401
        assert (await org.send("GET", "/payouts", Authorization=None)).status == 401
        odd = await org.send("POST", "/payouts/quote", b"{}", Content_Type="text/plain")
        assert odd.status == 400
        assert (await org.get("/nowhere")).status == 404
        assert (await org.get("/payouts?limit=51")).status == 400
        assert (await org.get("/payouts/pyt-1")).status == 404


async def test_page_tokens_are_opaque_and_of_one_list() -> None:
    """Percent-encoded they give the next page; as they are, of another list, or made up, they do not."""
    async with open_organisation() as org:
        for _ in range(3):
            await org.act(TRANSFERS, transfer_body())
            await org.act("/payouts", payout_body())
        first = (await org.get(f"{TRANSFERS}?limit=2")).json
        assert first["walletId"] == EVM_WALLET
        token = first["nextPageToken"]
        assert set("=+/") <= set(token)
        page = "limit=2&paginationToken="
        rest = (await org.get(f"{TRANSFERS}?{page}{quote(token, safe='')}")).json
        assert len(rest["items"]) == 1
        assert "nextPageToken" not in rest
        assert {each["id"] for each in rest["items"]}.isdisjoint(e["id"] for e in first["items"])
        assert (await org.get(f"{TRANSFERS}?{page}{token}")).status == 400
        assert (await org.get(f"/payouts?{page}{quote(token, safe='')}")).status == 400
        assert (await org.get(f"{TRANSFERS}?{page}2")).status == 400


@pytest.mark.parametrize("amount", sorted(MAGIC_TRANSFERS))
async def test_every_magic_transfer_has_its_end(amount: Any) -> None:
    """The last status of its course, and a ledger entry only where it is Confirmed."""
    async with open_organisation(step_s=1) as org:
        made = await org.act(TRANSFERS, transfer_body(str(43_000_000 + int(amount * 10**6))))
        await org.steer("POST", "clock", {"advance_s": 4000})
        seen = (await org.get(f"{TRANSFERS}/{made.json['id']}")).json
        course = MAGIC_TRANSFERS[amount]
        assert seen["status"] == course.legs[-1][0]
        assert len(await org.ledger()) == (seen["status"] == "Confirmed")
        assert ("txHash" in seen) == course.reached_chain


@pytest.mark.parametrize("amount", sorted(MAGIC_PAYOUTS))
async def test_every_magic_payout_has_its_end(amount: Any) -> None:
    """Its end by the table, and money only where its transfer was Confirmed."""
    course = MAGIC_PAYOUTS[amount]
    async with open_organisation(step_s=1) as org:
        made = await org.act("/payouts", payout_body(str(43_000_000 + int(amount * 10**6))))
        path = f"/payouts/{made.json['id']}"
        await org.steer("POST", "clock", {"advance_s": 40})
        seen = (await org.get(path)).json
        if course.before_end is None:
            assert (await org.act(path + "/action", confirm_body(seen))).status in {200, 202}
            await org.steer("POST", "clock", {"advance_s": 4000})
            seen = (await org.get(path)).json
        end = course.before_end or course.after_end or course.end
        if course.overtaken:
            end = course.overtaken[0]
        assert (seen["status"], seen["data"]["executionStatus"]) == (end, end)
        assert seen["dateFinalized"]
        moved = len(await org.ledger())
        ended_early = course.before_end or course.after_end
        legs = course.transfer.legs if course.transfer else (("Confirmed", None),)
        assert moved == (0 if ended_early else int(legs[-1][0] == "Confirmed"))


async def test_an_unconfirmed_payout_expires() -> None:
    """After its window."""
    async with open_organisation(confirm_window_s=500) as org:
        payout = await waiting(org)
        await org.steer("POST", "clock", {"advance_s": 501})
        assert (await org.get(f"/payouts/{payout['id']}")).json["status"] == "Expired"


async def test_what_lacks_funds_fails_without_a_hash() -> None:
    """And gives nothing away."""
    async with open_organisation() as org:
        row = {"account": EVM_WALLET, "asset": "USDC", "amount": "1"}
        await org.steer("PUT", "balances", {"balances": [row]})
        made = await org.act(TRANSFERS, transfer_body())
        assert (made.json["status"], made.json["reason"]) == ("Failed", "insufficient balance")
        assert await org.ledger() == []


@pytest.mark.parametrize("call", ["confirm", "transfer"])
async def test_accepted_and_the_old_state_shown(call: str) -> None:
    """For so long; the list tells the truth."""
    async with open_organisation() as org:
        await org.fault(call, "show_old", seconds=250)
        if call == "transfer":
            path = f"{TRANSFERS}/{(await org.act(TRANSFERS, transfer_body())).json['id']}"
            old = "Executing"
        else:
            payout = await waiting(org)
            path, old = f"/payouts/{payout['id']}", "Processing"
            await org.act(path + "/action", confirm_body(payout))
        await org.steps(2)
        seen = (await org.get(path)).json
        assert seen["status"] == old
        if call == "confirm":
            assert seen["data"]["executionStatus"] == "AwaitingPayoutConfirmation"
        await org.steps(8)
        assert (await org.get(path)).json["status"] in {"Confirmed", "Completed"}


@pytest.mark.parametrize("named", ["first", "previous"])
async def test_webhooks_are_signed_and_tried_five_times(named: str) -> None:
    """HMAC over the raw bytes, a fresh id each time, by the delays of the sheet; only 200 is a receipt."""
    got: list[tuple[str, bytes]] = []

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        got.append((request.headers["X-DFNS-WEBHOOK-SIGNATURE"], body))
        return web.Response(status=204)  # no receipt

    app = web.Application()
    app.router.add_post("/hook", handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with open_organisation(retry_of=named) as org:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
            await org.steer("PUT", "webhooks", {"url": url})
            await waiting(org)
            for count, delay in enumerate((60, 660, 6_480, 79_200), start=1):
                await _until(got, count)
                await org.steer("POST", "clock", {"advance_s": delay + 1})
            await _until(got, 5)
            await org.steer("POST", "clock", {"advance_s": 10**6})
            events = [json.loads(body) for _, body in got]
            for told, body in got:
                digest = hmac.new(org.twin.signer.secret.encode(), body, hashlib.sha256)
                assert told == f"sha256={digest.hexdigest()}"
            assert {each["kind"] for each in events} == {"payout.action.required"}
            assert [each["deliveryAttempt"] for each in events] == [1, 2, 3, 4, 5]
            ids = [each["id"] for each in events]
            assert len(set(ids)) == 5
            wanted = [None, *([ids[0]] * 4 if named == "first" else ids[:4])]
            assert [each.get("retryOf") for each in events] == wanted
            shared = org.twin.clock.shared()
            assert all(abs(each["timestampSent"] - shared) < 60 for each in events)
            (delivery,) = (await org.steer("GET", "webhooks"))["deliveries"]
            assert delivery["state"] == "failed"
    finally:
        await runner.cleanup()


async def test_reset_forgets_what_was_made() -> None:
    """Keys and the receiver stay."""
    async with open_organisation() as org:
        await org.act(TRANSFERS, transfer_body())
        await org.steps(4)
        assert len(await org.ledger()) == 1
        await org.steer("POST", "reset")
        assert await org.ledger() == []
        assert (await org.get(TRANSFERS)).json == {"walletId": EVM_WALLET, "items": []}
        assert (await org.act(TRANSFERS, transfer_body())).status == 200


async def _until(got: list[Any], count: int) -> None:
    end = time.monotonic() + 10
    while len(got) < count:
        assert time.monotonic() < end, f"{len(got)} of {count}"
        await asyncio.sleep(0.01)


async def test_lost_replies_and_burnt_tokens() -> None:
    """Done and cut off; refused as used although nothing was done."""
    async with open_organisation() as org:
        await org.fault("transfer", "lose_reply")
        with pytest.raises(aiohttp.ClientError):
            await org.act(TRANSFERS, transfer_body())
        assert len(org.twin.transfers.transfers) == 1
        await org.fault("transfer", "burn_key")
        burnt = await org.act(TRANSFERS, transfer_body())
        assert "already used" in burnt.message
        assert len(org.twin.transfers.transfers) == 1
        await org.fault("transfer", "burn_key", done=True)
        assert "already used" in (await org.act(TRANSFERS, transfer_body())).message
        assert len(org.twin.transfers.transfers) == 2
