"""Payouts over every custodian from quote to delivered, every webhook verified.

Twins and gateway run as processes of their own; this process is the platform and its subscriber. It
trusts nobody: webhooks are verified with an independent library, and the custodian's own ledger is
asked what was paid.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape

from gateway.demo import refusing
from gateway.demo.judge import BATCH_EVENTS, EVENTS, Case, judge, judge_batch
from gateway.demo.stack import DemoFailedError, Stack, log_tails, running_stack
from gateway.demo.subscriber import Subscriber, listening_subscriber

#: The whole run ends after so many seconds, whatever happens.
LIMIT_S = 60
#: How long of that the payouts are watched; then the summary says what is missing.
_WATCH_S = 40
_ENDED_BY_SIGNAL = 130
_WELL = "Every payout was delivered, paid once, and reported by verified webhooks."
_REFUSED_WELL = "What was proven unpaid went on and was paid once; nothing else went on."
#: The account that the twin of the custodian with instruction sets is seeded with.
_SOURCE = {"id": "EX_SUB3", "type": "EXCHANGE_ACCOUNT"}


def custodian_account(amount: str, kind: str, account: str) -> Case:
    """Return a payout to an account that the custodian knows."""
    destination = {"type": "custodian_account", "account_type": kind, "id": account}
    return Case(amount, f"{kind} {account[:8]}…", destination, account, batched=True)


def address(amount: str, network: str, payee: str) -> Case:
    """Return a payout to an address."""
    destination = {"type": "address", "network": network, "address": payee}
    return Case(amount, f"{network} {payee[:8]}…", destination, payee)


def bank_account(amount: str, account: str) -> Case:
    """Return a payout to a bank account through an off-ramp."""
    destination = {
        "type": "bank_account",
        "payment_instructions_id": account,
        "country": "DE",
        "fiat_currency": "EUR",
        "purpose": "salary payment",
    }
    return Case(amount, f"EUR bank account {account[:8]}…", destination, None)


def payout_account(amount: str, account: str) -> Case:
    """Return a payout by passcode."""
    destination = {"type": "payout_account", "payout_account_id": account}
    return Case(amount, f"payout account {account}", destination, account, asset="USD")


def seeded_cases() -> list[Case]:
    """Return one payout of each kind, to the payees that the twins are seeded with."""
    return [
        custodian_account("43", "EXTERNAL_WALLET", "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3"),
        custodian_account("4423", "NETWORK_CONNECTION", "3adc1f92-e791-44a8-9aee-7f31c2108b78"),
        address("120.50", "EthereumSepolia", "0x52908400098527886E0F7030069857D2E4169EE7"),
        address("75.25", "SolanaDevnet", "7v91N7iZ9mNicL8WfG6cgSCKyRXydQjLh6UYBWwm6y1Q"),
        bank_account("250", "c2b7a3de-51d0-4c38-8a07-9b1de0a7f302"),
        payout_account("75", "18"),
        payout_account("90", "19"),
    ]


def run(*, keep: bool, refuses: bool = False) -> int:
    """Run the demo, or with `keep` the stack alone until Ctrl-C; return the exit code.

    `refuses`: the demo of two custodians of which the first one refuses.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    if keep:
        work = _keep(console)
    elif refuses:
        work = _demo(console, refusing.deliver, _REFUSED_WELL)
    else:
        work = _demo(console, _deliver, _WELL)
    try:
        return asyncio.run(_until_signal(work, keep=keep))
    except KeyboardInterrupt:
        return _ENDED_BY_SIGNAL


async def _until_signal(work: Coroutine[Any, Any, int], *, keep: bool) -> int:
    """Do the work; a signal to stop unwinds it, so that no process of ours is left behind."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(name, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return 0 if keep else _ENDED_BY_SIGNAL


async def _demo(
    console: Console, deliver: Callable[[Path, Console], Awaitable[list[str]]], well: str
) -> int:
    with tempfile.TemporaryDirectory(prefix="payout-gateway-demo-") as name:
        folder = Path(name)
        try:
            async with asyncio.timeout(LIMIT_S):
                missing = await deliver(folder, console)
        except (DemoFailedError, TimeoutError, aiohttp.ClientError) as error:
            missing = [str(error) or f"not finished after {LIMIT_S} s ({type(error).__name__})"]
        for line in missing:
            console.print(f"[red]missing:[/red] {escape(line)}", soft_wrap=True)
        if missing:
            console.print(log_tails(folder), markup=False, soft_wrap=True)
            return 1
    console.print(f"[green]{well}[/green]")
    return 0


async def _deliver(folder: Path, console: Console) -> list[str]:
    """Run the case; return what did not come out as promised."""
    cases = seeded_cases()
    async with running_stack(folder) as stack, listening_subscriber(console) as subscriber:
        _say(
            console,
            f"custodian twins: {', '.join(stack.twins)}; gateway: {stack.url}; "
            "minted a live key for acme",
        )
        endpoint = await stack.call("POST", "/webhook-endpoints", {"url": subscriber.url})
        subscriber.secret = endpoint["secret"]
        _say(console, f"registered the receiver {subscriber.url} as {endpoint['id']}\n")
        batch_id = await _pay_together(stack, console, [each for each in cases if each.batched])
        for case in (each for each in cases if not each.batched):
            case.payout = await _pay(stack, console, case)
        console.print()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_S):
                await asyncio.gather(*(_follow(stack, console, case) for case in cases))
                await _all_told(subscriber, cases, batch_id)
        missing = judge(console, subscriber, cases, await stack.transfers())
        batch = await stack.call("GET", f"/payout-batches/{batch_id}")
        return [*missing, *judge_batch(subscriber, batch)]


async def _pay_together(stack: Stack, console: Console, cases: list[Case]) -> str:
    """Pay two payees by one instruction set: create a batch, and execute it."""
    listed = await stack.call("GET", "/custodians")
    custodian = next(each["name"] for each in listed["data"] if each["batch"])
    batch = await stack.call(
        "POST",
        "/payout-batches",
        {
            "source": {"custodian": custodian, "account": _SOURCE},
            "payouts": [
                {
                    "external_ref": "demo-user",
                    "asset": case.asset,
                    "amount": case.amount,
                    "destination": case.destination,
                }
                for case in cases
            ],
        },
        **{"Idempotency-Key": secrets.token_hex(16)},
    )
    await stack.call("POST", f"/payout-batches/{batch['id']}/execute", {})
    listed = await stack.call("GET", f"/payout-batches/{batch['id']}/payouts")
    _say(console, f"executed {batch['id']} by {custodian}, {len(cases)} payouts:")
    for case, payout in zip(cases, listed["data"], strict=True):
        case.payout = payout
        _say(
            console,
            f"         {case.amount} {case.asset} -> payout {payout['id']} to {case.payee}",
        )
    return str(batch["id"])


async def _pay(stack: Stack, console: Console, case: Case) -> dict[str, Any]:
    quote = await stack.call(
        "POST",
        "/payouts/quote",
        {
            "external_ref": "demo-user",
            "asset": case.asset,
            "amount": case.amount,
            "destination": case.destination,
        },
        **{"Idempotency-Key": secrets.token_hex(16)},
    )
    payout: dict[str, Any] = await stack.call("POST", "/payouts", {"quote_id": quote["quote_id"]})
    _say(
        console,
        f"quoted   {quote['user_sends']} {case.asset} by {quote['route']['custodian']}, recipient gets "
        f"{quote['recipient_gets']}{_rate(quote)} -> payout {payout['id']} to {case.payee}",
    )
    return payout


def _rate(quote: dict[str, Any]) -> str:
    if quote["fx_rate"] is None:
        return ""
    return (
        f" ({quote['price']}: 1 USDC is {quote['fx_rate']} {quote['destination']['fiat_currency']})"
    )


async def _follow(stack: Stack, console: Console, case: Case) -> None:
    """Print each timeline entry of a payout as it comes, until it ends."""
    assert case.payout is not None  # noqa: S101 - paid before it is followed
    shown = 0
    while True:
        seen: dict[str, Any] = await stack.call("GET", f"/payouts/{case.payout['id']}")
        case.payout = seen
        for entry in seen["timeline"][shown:]:
            word = f"{entry['status']}/{entry['sub_status']}"
            tail = f"  tx {entry['tx_hash'][:18]}…" if entry["tx_hash"] else ""
            _say(
                console,
                f"  timeline {word:<22} {case.amount:>6} {case.asset:<4}  {entry['at']}{tail}",
            )
        shown = len(seen["timeline"])
        if seen["requires_action"]:
            await _answer(stack, console, seen)
        if seen["status"] in {"delivered", "failed"}:
            return
        await asyncio.sleep(0.1)


async def _answer(stack: Stack, console: Console, payout: dict[str, Any]) -> None:
    """Be the person: read the code that was sent, and answer with it and the client secret."""
    action = payout["requires_action"]
    code = await stack.newest_code(payout["custodian"])
    _say(
        console,
        f"  asked    {action['type']} by {action['channel']} to {action['masked_target']}: "
        f"answered with the code from the inbox",
    )
    body = {"client_secret": action["client_secret"], "passcode": {"token": {"code": code}}}
    await stack.call("POST", f"/payouts/{payout['id']}/confirm", body)


async def _all_told(subscriber: Subscriber, cases: list[Case], batch_id: str) -> None:
    """Wait for the last webhooks; deliveries are sent at once, so this is short."""
    for _ in range(100):
        if subscriber.types(batch_id) >= BATCH_EVENTS and all(
            subscriber.types(case.payout["id"]) >= set(EVENTS) for case in cases if case.payout
        ):
            return
        await asyncio.sleep(0.1)


def _say(console: Console, line: str) -> None:
    """Print a line of the story; nothing in it is markup, and no line is broken in two."""
    console.print(line, markup=False, soft_wrap=True)


async def _keep(console: Console) -> int:
    with tempfile.TemporaryDirectory(prefix="payout-gateway-demo-") as name:
        folder = Path(name)
        try:
            async with running_stack(folder) as stack:
                text = _SESSION.format(
                    url=stack.url, key=stack.key, config=stack.config, program=_program()
                )
                _say(console, text + _control(stack))
                await asyncio.Event().wait()
        except (DemoFailedError, TimeoutError, aiohttp.ClientError) as error:
            _say(console, f"the stack did not start: {error}\n{log_tails(folder)}")
            return 1
    return 0


def _program() -> str:
    """Return how to call the command line in another terminal, whatever its PATH."""
    script = Path(sys.executable).with_name("payout-gateway")
    return str(script) if script.exists() else f"{sys.executable} -m gateway"


def _control(stack: Stack) -> str:
    ledgers = "\n".join(
        f"What {name} paid: curl -s {twin['control_url']}/_twin/ledger"
        for name, twin in stack.twins.items()
    )
    return f"{ledgers}\nCtrl-C ends it.\n"


_SESSION = """
Paste this in another terminal:

export GATEWAY={url} KEY={key}
QUOTE=$(curl -s $GATEWAY/payouts/quote -H "Authorization: Bearer $KEY" -H "Idempotency-Key: $(date +%s%N)" \\
  -H 'Content-Type: application/json' -d '{{"external_ref":"me","asset":"USDC","amount":"12.50",
  "destination":{{"type":"custodian_account","account_type":"EXTERNAL_WALLET","id":"bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3"}}}}')
echo "$QUOTE"
QUOTE_ID=$(echo "$QUOTE" | sed 's/.*"quote_id":"\\([^"]*\\)".*/\\1/')
PAYOUT=$(curl -s $GATEWAY/payouts -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' -d "{{\\"quote_id\\":\\"$QUOTE_ID\\"}}")
echo "$PAYOUT"
PAYOUT_ID=$(echo "$PAYOUT" | sed 's/^{{"id":"\\([^"]*\\)".*/\\1/')
sleep 8
curl -s $GATEWAY/payouts/$PAYOUT_ID -H "Authorization: Bearer $KEY"; echo
curl -s $GATEWAY/events -H "Authorization: Bearer $KEY"; echo
echo "$PAYOUT" | sed 's/.*"tracking_url":"\\([^"]*\\)".*/page for the recipient: \\1/'
{program} payouts show $PAYOUT_ID --config {config}

API reference: {url}/docs
"""
