"""Fireblocks' webhooks: genuine, forged, with keys that rotate or cannot be reached."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA512

from adapters.fireblocks.webhook import Verifier, load_public_key, parse
from gateway.adapter import CannotVerify, InvalidSignature, Ref, SubStatus, Tools
from gateway.assets import AssetRegistry
from gateway.runtime import Ids, SystemClock, offload
from tests.adapters.fireblocks.workspace import Workspace, eventually, open_workspace
from tests.clock import SetClock

Got = list[tuple[dict[str, str], bytes]]


def verifier(space: Workspace, clock: SetClock, **members: Any) -> Verifier:
    """Return a verifier that takes the twin's keys."""
    tools = Tools(space.http, clock, Ids(SystemClock()), offload, AssetRegistry())
    jwks_url = members.get("jwks_url", space.twin.credentials(space.root)["jwks_url"])
    return Verifier(jwks_url, members.get("v1_key"), tools, members.get("workspace_id"))


async def deliveries(space: Workspace, count: int = 2) -> Got:
    """Return genuine webhooks of a payout."""
    async with space.receiver() as receiver:
        await space.started("1")
        await space.steps(6)
        await eventually(lambda: len(receiver.got) >= count)
        return [
            ({name.lower(): value for name, value in headers.items()}, body)
            for headers, body in receiver.got
        ]


async def test_genuine_and_forged() -> None:
    """The twin's own are accepted; any other byte, header or algorithm is not."""
    async with open_workspace() as space:
        got = await deliveries(space)
        check = verifier(space, SetClock())
        for headers, body in got:
            await check.verify(headers, body)
        headers, body = got[0]
        protected, _, signature = headers["fireblocks-webhook-signature"].partition("..")
        known = json.loads(base64.urlsafe_b64decode(protected + "=="))

        def header(**change: Any) -> str:
            changed = json.dumps({**known, **change}).encode()
            return base64.urlsafe_b64encode(changed).rstrip(b"=").decode()

        for bad, content in (
            (f"{protected}..{signature}", body + b" "),
            (f"{protected}..{signature[:-4]}AAAA", body),
            (f"{header(alg='none')}..", body),
            (f"{header(alg='HS512')}..{signature}", body),
            (f"{header(alg='RS256')}..{signature}", body),
            (f"{header(kid=7)}..{signature}", body),
            ("nonsense", body),
            (base64.urlsafe_b64encode(b"[" * 6000).decode() + "..AAAA", body),
            (base64.urlsafe_b64encode(b"[]").decode() + "..AAAA", body),
            ("", body),
            ("é..é", body),
        ):
            with pytest.raises(InvalidSignature):
                await check.verify({"fireblocks-webhook-signature": bad}, content)
        with pytest.raises(InvalidSignature):
            await check.verify({}, body)


def signed(space: Workspace, body: bytes, **header: Any) -> dict[str, str]:
    """Return the headers of a body that Fireblocks itself has signed, under this protected header."""
    ((kid, key),) = space.twin._signer._keys.items()
    protected = _base64url(json.dumps({"alg": "RS512", "kid": kid, **header}).encode())
    made = key.sign(f"{protected}.{_base64url(body)}".encode(), PKCS1v15(), SHA512())
    return {"fireblocks-webhook-signature": f"{protected}..{_base64url(made)}"}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("crit", [["b64"], ["exp"], [], "b64", None])
async def test_critical_extensions_are_refused(crit: object) -> None:
    """RFC 7515, 4.1.11: genuine or not, whoever does not understand one must not accept it."""
    async with open_workspace() as space:
        body = b'{"eventType":"transaction.created"}'
        check = verifier(space, SetClock())
        await check.verify(signed(space, body), body)
        # Parameters that are not marked critical may be ignored.
        await check.verify(signed(space, body, exp=1), body)
        with pytest.raises(InvalidSignature, match="critical"):
            await check.verify(signed(space, body, crit=crit, exp=1), body)


@pytest.mark.parametrize("form", ["v2", "v1", "v2_and_v1_header"])
async def test_a_webhook_of_another_workspace_is_refused(form: str) -> None:
    """Fireblocks signs all workspaces with the same keys: the signature alone says not whose it is."""
    async with open_workspace(webhook_format=form) as space:
        pem = space.twin.credentials(space.root)["webhook_v1_public_key"]
        mine = space.twin.credentials(space.root)["workspace_id"]
        v1_key = load_public_key(pem)

        def door(workspace_id: str | None) -> Verifier:
            return verifier(space, SetClock(), v1_key=v1_key, workspace_id=workspace_id)

        for headers, body in await deliveries(space):
            await door(None).verify(headers, body)
            await door(mine).verify(headers, body)
            await door(mine.upper()).verify(headers, body)
            with pytest.raises(InvalidSignature, match="another workspace"):
                await door("9f2c0f4a-0000-4000-8000-000000000000").verify(headers, body)
            # The signature is checked first: nothing that a stranger wrote is read.
            with pytest.raises(InvalidSignature, match="does not fit"):
                await door(mine).verify(headers, body + b" ")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"workspaceId": 7}', b'{"workspaceId": null}', b"[" * 6000]
)
async def test_a_webhook_that_names_no_workspace_is_refused(body: bytes) -> None:
    """Where ours is configured, signed as it may be."""
    async with open_workspace() as space:
        headers = signed(space, body)
        await verifier(space, SetClock()).verify(headers, body)
        with pytest.raises(InvalidSignature, match="another workspace"):
            await verifier(space, SetClock(), workspace_id="w-1").verify(headers, body)


async def test_rotated_keys_are_fetched_again() -> None:
    """An unknown key id brings a new look at the keys, but not in a flood; reached or not is told apart."""
    async with open_workspace() as space:
        clock = SetClock()
        check = verifier(space, clock)
        for headers, body in await deliveries(space):
            await check.verify(headers, body)
        async with space.http.post(
            space.root + "/_twin/webhook-keys", json={"keep_old": False}
        ) as answer:
            assert answer.status == 200
        async with space.receiver() as receiver:
            await space.steer("POST", "reset")
            await space.started("1")
            await space.steps(6)
            await eventually(lambda: receiver.got)
            raw, body = receiver.got[0]
        headers = {name.lower(): value for name, value in raw.items()}
        with pytest.raises(CannotVerify):
            await check.verify(headers, body)
        await clock.advance(6)
        fetched = sum(each.call == "jwks" for each in space.twin.calls)
        await check.verify(headers, body)
        await check.verify(headers, body)
        assert sum(each.call == "jwks" for each in space.twin.calls) == fetched + 1


async def test_unreachable_keys_are_not_a_forgery() -> None:
    """503 for the sender, who then tries again."""
    async with open_workspace() as space:
        headers, body = (await deliveries(space))[0]
        gone = verifier(space, SetClock(), jwks_url="http://127.0.0.1:9/jwks.json")
        with pytest.raises(CannotVerify):
            await gone.verify(headers, body)
        await space.fault("jwks", "error_before")
        with pytest.raises(CannotVerify):
            await verifier(space, SetClock()).verify(headers, body)


async def test_a_silent_key_host_is_not_hammered() -> None:
    """A failed fetch is not repeated at once, and many at a time ask once; then it heals."""
    async with open_workspace() as space:
        headers, body = (await deliveries(space))[0]
        clock = SetClock()
        check = verifier(space, clock)

        def fetches() -> int:
            return sum(each.call == "jwks" for each in space.twin.calls)

        before = fetches()
        await space.fault("jwks", "error_before")
        results = await asyncio.gather(
            *(check.verify(headers, body) for _ in range(20)), return_exceptions=True
        )
        assert {type(each) for each in results} == {CannotVerify}
        assert fetches() == before + 1
        await clock.advance(6)
        await asyncio.gather(*(check.verify(headers, body) for _ in range(20)))
        assert fetches() == before + 2
        # Old keys go on being used while the host is away, and are asked for again later.
        await clock.advance(3601)
        await space.fault("jwks", "error_before")
        for _ in range(3):
            await check.verify(headers, body)
        assert fetches() == before + 3
        await clock.advance(6)
        await check.verify(headers, body)
        await check.verify(headers, body)
        assert fetches() == before + 4


async def test_a_key_that_cannot_be_read_does_not_spoil_the_others() -> None:
    """Another kind, another use, another algorithm, nonsense: skipped."""
    async with open_workspace() as space:
        headers, body = (await deliveries(space))[0]
        (*_, good) = space.twin._signer.jwks()["keys"]
        strange = [
            7,
            {"kid": 7},
            {"kid": "a", "kty": "RSA"},
            {"kid": "b", "kty": "RSA", "n": 7, "e": "AQAB"},
            {"kid": "c", "kty": "EC", "crv": "P-256"},
            {**good, "use": "enc"},
            {**good, "alg": "RS256"},
        ]
        listed: dict[str, object] = {"keys": strange}

        async def keys(_: web.Request) -> web.Response:
            return web.json_response(listed)

        app = web.Application()
        app.router.add_get("/keys", keys)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
            with pytest.raises(CannotVerify):
                await verifier(space, SetClock(), jwks_url=url).verify(headers, body)
            listed["keys"] = [*strange, *space.twin._signer.jwks()["keys"]]
            await verifier(space, SetClock(), jwks_url=url).verify(headers, body)
        finally:
            await runner.cleanup()


async def test_the_legacy_form() -> None:
    """v1: one static key, and a bare signature; refused unless it is configured."""
    async with open_workspace(webhook_format="v1") as space:
        got = await deliveries(space)
        pem = space.twin.credentials(space.root)["webhook_v1_public_key"]
        check = verifier(space, SetClock(), jwks_url=None, v1_key=load_public_key(pem))
        for headers, body in got:
            assert "fireblocks-signature" in headers
            await check.verify(headers, body)
            with pytest.raises(InvalidSignature):
                await check.verify(headers, body + b" ")
            with pytest.raises(InvalidSignature):
                await verifier(space, SetClock()).verify(headers, body)
            (notice,) = parse(body, lambda _: "Ethereum")
            assert notice.refs[0].kind == "transaction"


def envelope(status: str, **data: Any) -> bytes:
    """Return a v2 envelope."""
    return json.dumps(
        {
            "id": "n-1",
            "eventType": "transaction.status.updated",
            "createdAt": 1790000000123,
            "data": {"id": "t-1", "status": status, "assetId": "USDC", **data},
        }
    ).encode()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("BROADCASTING", SubStatus.BROADCAST),
        (" CONFIRMING", SubStatus.CONFIRMING),
        ("COMPLETED", SubStatus.SETTLING),
        ("FAILED", None),
        ("REJECTED", None),
        ("SUBMITTED", None),
        ("A_NEW_WORD", None),
    ],
)
def test_a_webhook_never_ends_a_payout(status: str, expected: SubStatus | None) -> None:
    """It brings broadcast, a hash, and an earlier look; the end is read from the instruction."""
    (notice,) = parse(envelope(status, txHash="0xab"), {"USDC": "Ethereum"}.get)
    assert notice.refs == (Ref("transaction", "t-1"),)
    assert notice.dedup_key == "n-1"
    assert (notice.report.sub_status if notice.report else None) == expected
    if notice.report is not None:
        assert notice.report.transactions[0].tx_hash == "0xab"
        assert notice.report.transactions[0].network == "Ethereum"


def test_other_events_are_kept_without_effect() -> None:
    """They have no payout to speak of."""
    body = json.dumps(
        {"id": "n-2", "eventType": "vault_account.created", "data": {"id": "v"}}
    ).encode()
    (notice,) = parse(body, lambda _: None)
    assert (notice.refs, notice.dedup_key) == ((), "n-2")


def test_an_empty_id_is_none() -> None:
    """Else every notification without one would be the same."""
    first, second = (
        parse(json.dumps({**json.loads(envelope(status)), "id": ""}).encode(), lambda _: None)[0]
        for status in ("BROADCASTING", "CONFIRMING")
    )
    assert "" != first.dedup_key != second.dedup_key


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"7", b"{}", b'{"data": 7}', b"\xff", b'{"eventType": 7}']
)
def test_what_cannot_be_read_is_a_value_error(body: bytes) -> None:
    """The engine keeps it, unread."""
    with pytest.raises(ValueError, match=r"."):
        parse(body, lambda _: None)
