"""The main job on one machine: two payouts from quote to delivered, every webhook verified.

Twins and gateway run as processes of their own; this process is the platform and its subscriber. It
trusts nobody: webhooks are verified with an independent library, and the custodian's own ledger is
asked what was paid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from rich.console import Console
from rich.table import Table
from standardwebhooks import Webhook

from gateway.config import load

#: The whole run ends after so many seconds, whatever happens.
LIMIT_S = 60
_EVENTS = ("payout.created", "payout.broadcast", "payout.delivered")
_CASE = (
    ("43", "EXTERNAL_WALLET", "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3"),
    ("4423", "NETWORK_CONNECTION", "3adc1f92-e791-44a8-9aee-7f31c2108b78"),
)


class DemoFailedError(Exception):
    """Something did not come out as promised."""


@dataclass
class Subscriber:
    """The platform's webhook endpoint."""

    console: Console
    secret: str = ""
    url: str = ""
    #: event types per payout, by webhook id, so that a double is seen as one
    verified: dict[str, tuple[str, str]] = field(default_factory=dict)
    refused: int = 0

    async def receive(self, request: web.Request) -> web.Response:
        """Verify a delivery and say so."""
        body = await request.read()
        message_id = request.headers.get("webhook-id", "")
        try:
            event = Webhook(self.secret).verify(body, dict(request.headers))
        except Exception as error:  # noqa: BLE001 - the library has several
            self.refused += 1
            self.console.print(
                f"  webhook  {message_id} [red]not verified[/red]: {type(error).__name__}"
            )
            return web.Response(status=400)
        payout = event["data"]
        self.verified[message_id] = (payout["id"], event["type"])
        self.console.print(
            f"  webhook  {event['type']:<18} {payout['quote']['recipient_gets']:>5} "
            f"{payout['quote']['recipient_asset']}  no. {payout['sequence']}  [green]signature verified[/green]"
        )
        return web.Response(status=204)

    def types(self, payout_id: str) -> set[str]:
        """Return the event types that arrived for a payout, verified."""
        return {kind for owner, kind in self.verified.values() if owner == payout_id}


@dataclass
class Stack:
    """What runs."""

    folder: Path
    config: Path
    url: str
    control_url: str
    key: str
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Call the partner API; DemoFailedError with its problem where it refuses."""
        sent = {"Authorization": f"Bearer {self.key}", **headers}
        async with self.http.request(method, self.url + path, json=body, headers=sent) as answer:
            told = await answer.json(content_type=None)
            if answer.status >= 300:  # noqa: PLR2004 - every call of the demo succeeds
                message = f"{method} {path} answered {answer.status}: {told}"
                raise DemoFailedError(message)
            return told


def run(*, keep: bool) -> int:
    """Run the demo, or with `keep` the stack alone until Ctrl-C; return the exit code."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        return asyncio.run(_keep(console) if keep else _demo(console))
    except (DemoFailedError, TimeoutError, aiohttp.ClientError) as error:
        console.print(
            f"[red]The demo failed:[/red] {str(error) or type(error).__name__}", markup=True
        )
        return 1
    except KeyboardInterrupt:
        return 130


async def _demo(console: Console) -> int:
    async with (
        asyncio.timeout(LIMIT_S),
        _stack(console) as stack,
        _subscriber(console) as subscriber,
    ):
        endpoint = await stack.call("POST", "/webhook-endpoints", {"url": subscriber.url})
        subscriber.secret = endpoint["secret"]
        console.print(f"registered the receiver {subscriber.url} as {endpoint['id']}\n")
        payouts = [await _pay(stack, console, *each) for each in _CASE]
        console.print()
        await asyncio.gather(*(_follow(stack, console, each) for each in payouts))
        await _all_told(subscriber, payouts)
        return await _judge(stack, console, subscriber, payouts)


async def _pay(
    stack: Stack, console: Console, amount: str, account_type: str, account: str
) -> dict[str, Any]:
    quote = await stack.call(
        "POST",
        "/payouts/quote",
        {
            "external_ref": "demo-user",
            "asset": "USDC",
            "amount": amount,
            "destination": {
                "type": "custodian_account",
                "account_type": account_type,
                "id": account,
            },
        },
        **{"Idempotency-Key": secrets.token_hex(16)},
    )
    payout: dict[str, Any] = await stack.call("POST", "/payouts", {"quote_id": quote["quote_id"]})
    console.print(
        f"quoted   {quote['user_sends']} USDC by {quote['route']['custodian']}, recipient gets "
        f"{quote['recipient_gets']} -> payout {payout['id']} to {account_type} {account[:8]}…"
    )
    return payout


async def _follow(stack: Stack, console: Console, payout: dict[str, Any]) -> None:
    """Print each timeline entry of a payout as it comes, until it ends."""
    shown = 0
    while True:
        seen = await stack.call("GET", f"/payouts/{payout['id']}")
        for entry in seen["timeline"][shown:]:
            word = f"{entry['status']}/{entry['sub_status']}"
            tail = f"  tx {entry['tx_hash'][:18]}…" if entry["tx_hash"] else ""
            console.print(
                f"  timeline {word:<22} {seen['quote']['recipient_gets']:>5} USDC  {entry['at']}{tail}"
            )
        shown = len(seen["timeline"])
        payout |= seen
        if seen["status"] in {"delivered", "failed"}:
            return
        await asyncio.sleep(0.1)


async def _all_told(subscriber: Subscriber, payouts: list[dict[str, Any]]) -> None:
    """Give the last webhooks a moment."""
    for _ in range(100):
        if all(subscriber.types(each["id"]) >= set(_EVENTS) for each in payouts):
            return
        await asyncio.sleep(0.1)


async def _judge(
    stack: Stack, console: Console, subscriber: Subscriber, payouts: list[dict[str, Any]]
) -> int:
    """Print the summary; 0 only if everything is as promised."""
    async with stack.http.get(stack.control_url + "/_twin/ledger") as answer:
        transfers = (await answer.json())["transfers"]
    table = Table(title="Summary", title_justify="left")
    for column in ("payout", "amount", "status", "custodian's ledger", "webhooks verified"):
        table.add_column(column)
    missing: list[str] = []
    for payout in payouts:
        amount, reference = payout["quote"]["recipient_gets"], payout["custodian_reference"]
        paid = [each for each in transfers if reference and each["reference"].startswith(reference)]
        told = subscriber.types(payout["id"])
        if payout["status"] != "delivered":
            missing.append(f"{payout['id']} is {payout['status']}: {payout['failure']}")
        if [each["amount"] for each in paid] != [amount]:
            missing.append(
                f"{payout['id']}: the ledger has {paid} instead of one transfer of {amount}"
            )
        if told != set(_EVENTS):
            missing.append(f"{payout['id']}: webhooks missing: {sorted(set(_EVENTS) - told)}")
        row = (
            payout["id"],
            f"{amount} USDC",
            payout["status"],
            f"{len(paid)} transfer",
            f"{len(told)} of 3",
        )
        table.add_row(*row)
    if len(transfers) != len(payouts):
        missing.append(f"the ledger has {len(transfers)} transfers, not {len(payouts)}")
    if subscriber.refused:
        missing.append(f"{subscriber.refused} webhooks did not verify")
    console.print()
    console.print(table)
    for line in missing:
        console.print(f"[red]missing:[/red] {line}")
    if not missing:
        console.print(
            "[green]Every payout delivered, paid once, and told by verified webhooks.[/green]"
        )
    return 1 if missing else 0


async def _keep(console: Console) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    async with _stack(console) as stack:
        console.print(
            _SESSION.format(url=stack.url, key=stack.key, config=stack.config),
            markup=False,
            soft_wrap=True,
        )
        await stop.wait()
    return 0


_SESSION = """
Paste this in another terminal:

export GATEWAY={url} KEY={key}
QUOTE=$(curl -s $GATEWAY/payouts/quote -H "Authorization: Bearer $KEY" -H "Idempotency-Key: $(date +%s%N)" \\
  -H 'Content-Type: application/json' -d '{{"external_ref":"me","asset":"USDC","amount":"12.50",
  "destination":{{"type":"custodian_account","account_type":"EXTERNAL_WALLET","id":"bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3"}}}}')
echo "$QUOTE"
QUOTE_ID=$(echo "$QUOTE" | sed 's/.*"quote_id":"\\([^"]*\\)".*/\\1/')
curl -s $GATEWAY/payouts -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -d "{{\\"quote_id\\":\\"$QUOTE_ID\\"}}"; echo
curl -s "$GATEWAY/payouts?limit=1" -H "Authorization: Bearer $KEY"; echo
curl -s $GATEWAY/events -H "Authorization: Bearer $KEY"; echo

API reference: {url}/docs
As an operator: payout-gateway payouts list --config {config}
Ctrl-C ends it.
"""


@asynccontextmanager
async def _subscriber(console: Console) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber(console)
    app = web.Application()
    app.router.add_post("/webhooks", subscriber.receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        subscriber.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks"
        yield subscriber
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _stack(console: Console) -> AsyncIterator[Stack]:
    """Start twins and gateway in a temporary folder; end them, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="payout-gateway-demo-") as name:
        folder = Path(name)
        config = folder / "gateway.toml"
        processes: list[asyncio.subprocess.Process] = []
        try:
            sandbox = await _process(
                folder / "sandbox.log", "sandbox", "--json", "--config-out", str(config)
            )
            processes.append(sandbox)
            assert sandbox.stdout is not None  # noqa: S101 - a pipe, see _process
            line = await asyncio.wait_for(sandbox.stdout.readline(), 30)
            twins = _twins_of(line, folder / "sandbox.log")
            processes.append(
                await _process(folder / "gateway.log", "serve", "--config", str(config))
            )
            url = _public_url(config)
            async with aiohttp.ClientSession() as http:
                await _ready(http, url, processes[-1], folder / "gateway.log")
                key = await _mint(config)
                console.print(
                    f"custodian twins: {', '.join(twins)}; gateway: {url}; minted a live key for acme"
                )
                yield Stack(folder, config, url, twins["fireblocks"]["control_url"], key, http)
        except (DemoFailedError, TimeoutError, aiohttp.ClientError):
            for log in (folder / "sandbox.log", folder / "gateway.log"):
                console.print(f"--- the end of {log.name}\n{_tail(log)}", markup=False)
            raise
        finally:
            await asyncio.gather(*(_end(process) for process in reversed(processes)))


async def _process(log: Path, *arguments: str) -> asyncio.subprocess.Process:
    with log.open("wb") as errors:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={
                key: value
                for key, value in os.environ.items()
                if not key.startswith("PAYOUT_GATEWAY_")
            },
            start_new_session=True,
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 15)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _mint(config: Path) -> str:
    process = await _process(
        config.with_name("keys.log"),
        "keys",
        "create",
        "--org",
        "acme",
        "--mode",
        "live",
        "--json",
        "--config",
        str(config),
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise DemoFailedError(config.with_name("keys.log").read_text())
    return str(json.loads(out)["key"])


async def _ready(
    http: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process, log: Path
) -> None:
    for _ in range(300):
        if process.returncode is not None:
            raise DemoFailedError(_tail(log))
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(url + "/readyz") as answer:
                if answer.status == 200:  # noqa: PLR2004
                    return
        await asyncio.sleep(0.1)
    message = "the gateway did not become ready"
    raise DemoFailedError(message)


def _twins_of(line: bytes, log: Path) -> dict[str, Any]:
    """Return the twins that the sandbox told of; its log is the reason where it told nothing."""
    if not line:
        raise DemoFailedError(_tail(log))
    twins: dict[str, Any] = json.loads(line)["twins"]
    return twins


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _public_url(config: Path) -> str:
    return load(config, {}).public_url
