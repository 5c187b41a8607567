"""A Dfns twin in the test's own loop, and a client of it whose every byte a test can choose."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from adapters.dfns.twin.app import DfnsTwin
from adapters.dfns.twin.world import (
    BORDERLESS_ACCOUNT,
    EUR_BANK_ACCOUNT,
    EVM_WALLET,
    SOLANA_WALLET,
    WALLETS,
    DfnsSettings,
)
from adapters.twin.control import make_app

#: A life-cycle step in most tests: only advancing the clock gets there.
STEP_S = 100.0
PAYEE = "0x52908400098527886E0F7030069857D2E4169EE7"
SOLANA_PAYEE = "7v91N7iZ9mNicL8WfG6cgSCKyRXydQjLh6UYBWwm6y1Q"
USDC = WALLETS[EVM_WALLET].tokens[0].place or ""
USDC_MINT = WALLETS[SOLANA_WALLET].tokens[0].place or ""


def noon() -> Callable[[], float]:
    """Return a clock that starts at noon of a fixed day: no test may depend on the time of day."""
    start = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp() - time.monotonic()
    return lambda: start + time.monotonic()


@dataclass(frozen=True)
class Reply:
    """What the twin answered."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.text)

    @property
    def message(self) -> str:
        """Return the words of a refusal."""
        return str(self.json["error"]["message"])


class Organisation:
    """A running twin and an API client of its organisation."""

    def __init__(self, twin: DfnsTwin, root: str, http: aiohttp.ClientSession) -> None:
        self.twin = twin
        self.root = root
        self.http = http

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str | None) -> Reply:
        """Send a request with the bearer token; a header of None is left out."""
        told: dict[str, str | None] = {
            "Authorization": f"Bearer {self.twin.token}",
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        kept = {name: value for name, value in told.items() if value is not None}
        async with self.http.request(
            method, self.root + path, data=body or None, headers=kept
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.text())

    async def challenge(self, method: str, path: str, payload: str) -> dict[str, Any]:
        """Ask for a challenge."""
        reply = await self.send(
            "POST",
            "/auth/action/init",
            dump(
                {
                    "userActionPayload": payload,
                    "userActionHttpMethod": method,
                    "userActionHttpPath": path,
                    "userActionServerKind": "Api",
                }
            ),
        )
        assert reply.status == 200, reply
        return dict(reply.json)

    def assertion(self, challenge: dict[str, Any], **change: Any) -> dict[str, Any]:
        """Return the body of the second call, signed with the service account's key."""
        data = dump({"type": "key.get", "challenge": challenge["challenge"]})
        key: Any = serialization.load_pem_private_key(
            self.twin.credentials(self.root)["private_key"].encode(), None
        )
        credential = {
            "credId": self.twin.credential_id,
            "clientData": encode(data),
            "signature": encode(key.sign(data)),
            **change,
        }
        return {
            "challengeIdentifier": challenge["challengeIdentifier"],
            "firstFactor": {"kind": "Key", "credentialAssertion": credential},
        }

    async def token(self, method: str, path: str, payload: str) -> str:
        """Return a user action token for a call."""
        challenge = await self.challenge(method, path, payload)
        reply = await self.send("POST", "/auth/action", dump(self.assertion(challenge)))
        assert reply.status == 200, reply
        return str(reply.json["userAction"])

    async def act(self, path: str, body: dict[str, Any]) -> Reply:
        """Make a state-changing call with a fresh user action."""
        raw = dump(body)
        token = await self.token("POST", path, raw.decode())
        return await self.send("POST", path, raw, X_DFNS_USERACTION=token)

    async def get(self, path: str) -> Reply:
        """Read something."""
        return await self.send("GET", path)

    async def steer(
        self, method: str, what: str, body: Any = None, status: int | None = None
    ) -> Any:
        """Use the control API."""
        async with self.http.request(method, f"{self.root}/_twin/{what}", json=body) as answer:
            document = await answer.json()
            wanted = status or (201 if what == "faults" and body else 200)
            assert answer.status == wanted, document
            return document

    async def fault(self, call: str, fault: str, **more: Any) -> Any:
        """Let something go wrong."""
        return await self.steer("POST", "faults", {"call": call, "fault": fault, **more})

    async def steps(self, count: int) -> None:
        """Let so many life-cycle steps pass."""
        await self.steer("POST", "clock", {"advance_s": STEP_S * count + 1})

    async def ledger(self) -> list[dict[str, str]]:
        """Return every transfer that moved money."""
        return list((await self.steer("GET", "ledger"))["transfers"])

    async def calls(self, name: str) -> int:
        """Return how many requests of one kind were received."""
        return sum(
            1 for each in (await self.steer("GET", "calls"))["calls"] if each["call"] == name
        )


def dump(document: Any) -> bytes:
    """Return JSON as the vendor's clients send it."""
    return json.dumps(document, separators=(",", ":")).encode()


def encode(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payout_body(units: str = "43000000", **change: Any) -> dict[str, Any]:
    """Return the body of a create call for an off-ramp payout of USDC."""
    return {
        "walletId": EVM_WALLET,
        "asset": {"kind": "Erc20", "amount": units, "contract": USDC},
        "fiatCurrency": "EUR",
        "country": "DE",
        "provider": "Borderless",
        "borderlessAccountId": BORDERLESS_ACCOUNT,
        "paymentInstructionsId": EUR_BANK_ACCOUNT,
        "paymentPurpose": "salary payment",
        **change,
    }


def transfer_body(units: str = "43000000", **change: Any) -> dict[str, Any]:
    """Return the body of a wallet transfer of USDC."""
    return {"kind": "Erc20", "to": PAYEE, "amount": units, "contract": USDC, **change}


def confirm_body(payout: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return the body of a Confirm that echoes a payout."""
    asset = payout["asset"]
    names = ("kind", "amount", "contract", "mint")
    transfer = {name: asset[name] for name in names if name in asset}
    transfer |= {"to": payout["data"].get("depositAddress"), **change}
    return {"action": "Confirm", "walletId": payout["walletId"], "transfer": transfer}


@asynccontextmanager
async def open_organisation(
    base_time: Callable[[], float] | None = None, **settings: Any
) -> AsyncIterator[Organisation]:
    """Run a twin in this loop."""
    twin = DfnsTwin(DfnsSettings(**{"step_s": STEP_S, **settings}), base_time or noon())
    runner = web.AppRunner(make_app(twin), shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as http:
            yield Organisation(twin, f"http://127.0.0.1:{runner.addresses[0][1]}", http)
    finally:
        await runner.cleanup()
