"""Two custodians for one address, and the first one refuses: what may go on at the second one, and what may not.

Three payouts: refused before anything moved, a reply that is lost, and accepted but refused later. The
custodians' own ledgers say what was paid.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gateway.demo.stack import DemoFailedError, Stack, running_stack
from gateway.demo.subscriber import Subscriber, listening_subscriber

FIRST, SECOND = "dummy", "dfns"
_NETWORK, _PAYEE = "EthereumSepolia", "0x52908400098527886E0F7030069857D2E4169EE7"
_FUNDS = 1_000_000
#: Of the whole run, after the processes have started.
_WATCH_S = 40
CREATED, BROADCAST = "payout.created", "payout.broadcast"
DELIVERED, FAILED = "payout.delivered", "payout.failed"


@dataclass
class Case:
    """One payout: what goes wrong at the first custodian, and what must become of it."""

    title: str
    amount: str
    status: str
    #: the custodians that had it, in their order
    custodians: tuple[str, ...]
    #: which of them has paid it
    paid_by: str | None
    events: frozenset[str]
    quote_id: str = ""
    payout: dict[str, Any] | None = None


def cases() -> list[Case]:
    """Return the three payouts."""
    paid = frozenset({CREATED, BROADCAST, DELIVERED})
    return [
        Case("refused at once", "40", "delivered", (FIRST, SECOND), SECOND, paid),
        Case("reply lost", "41", "delivered", (FIRST,), FIRST, paid),
        # The twin accepts such an amount, and refuses it a moment later.
        Case(
            "accepted, refused later",
            "42.000402",
            "failed",
            (FIRST,),
            None,
            frozenset({CREATED, FAILED}),
        ),
    ]


def with_two_routes(settings: dict[str, Any]) -> None:
    """Change the configuration of the sandbox: both custodians pay one address, the first one first."""
    place = {"destination": "address", "assets": ["USDC"], "networks": [_NETWORK]}
    wallet = next(
        each["account"]
        for each in settings["routes"]
        if each["custodian"] == SECOND and _NETWORK in each["networks"]
    )
    main = {"id": "MAIN", "type": "ACCOUNT"}
    settings["routes"] = [
        {**place, "name": "first", "custodian": FIRST, "account": main, "failover": "on_absence"},
        {**place, "name": "second", "custodian": SECOND, "account": wallet},
    ]
    # So that what the account holds is known soon.
    settings["custodians"][FIRST]["balance_every_s"] = 1


async def deliver(folder: Path, console: Console) -> list[str]:
    """Run the three payouts; return what did not come out as promised."""
    wanted = cases()
    async with (
        running_stack(folder, twins=(FIRST, SECOND), change=with_two_routes) as stack,
        listening_subscriber(console) as subscriber,
    ):
        endpoint = await stack.call("POST", "/webhook-endpoints", {"url": subscriber.url})
        subscriber.secret = endpoint["secret"]
        _say(console, f"{FIRST} pays first; with failover = on_absence, {SECOND} is next\n")
        for case in wanted:
            # All of them now: later, a quote leaves out an account that is known to be empty.
            case.quote_id = await _quote(stack, case)
        refused, lost, late = wanted
        async with asyncio.timeout(_WATCH_S):
            _say(console, f"1. {FIRST} has no funds: it refuses on the first call, nothing moved")
            await stack.steer(FIRST, "PUT", "balances", _balance(0))
            await _follow(stack, console, refused)
            _say(console, "\nwhat a quote would take now, and why:\n")
            _say(console, await _explained(stack))
            await stack.steer(FIRST, "PUT", "balances", _balance(_FUNDS))
            _say(console, f"2. {FIRST} pays, and its reply is lost: in doubt, nobody else may pay")
            fault = {"fault": "lose_reply", "call": "transfer", "times": 1}
            await stack.steer(FIRST, "POST", "faults", fault)
            await _follow(stack, console, lost)
            _say(console, f"\n3. {FIRST} accepts, and refuses later: the partner decides")
            await _follow(stack, console, late)
            await _told(subscriber, wanted)
        ledgers = {name: await stack.ledger(name) for name in (FIRST, SECOND)}
        return judge(console, subscriber, wanted, ledgers)


def judge(
    console: Console,
    subscriber: Subscriber,
    wanted: list[Case],
    ledgers: dict[str, list[dict[str, Any]]],
) -> list[str]:
    """Print the summary; return what is missing, nothing if everything is as promised."""
    table = Table(title="Summary", title_justify="left")
    for column in ("at the first custodian", "amount", "status", "custodians", "paid by"):
        table.add_column(column)
    missing = []
    for case in wanted:
        payout = case.payout or {}
        had = tuple(each["custodian"] for each in payout["executions"] or [payout])
        paid = [
            name
            for name, transfers in ledgers.items()
            for each in transfers
            if Decimal(each["amount"]) == Decimal(case.amount)
        ]
        failure = payout["failure"] or {"funds_moved": None}
        facts = (payout["status"], had, paid, failure["funds_moved"])
        owed = [] if case.paid_by is None else [case.paid_by]
        promised = (case.status, case.custodians, owed, None if owed else "no")
        if facts != promised:
            missing.append(f"{payout['id']} ({case.title}): {facts}, not {promised}")
        told = subscriber.types(payout["id"])
        if told != case.events:
            missing.append(f"{payout['id']} ({case.title}): webhooks {sorted(told)}")
        status = case.status if owed else f"{payout['status']}, funds moved: {facts[3]}"
        table.add_row(
            case.title, f"{case.amount} USDC", status, " → ".join(had), ", ".join(paid) or "nobody"
        )
    if subscriber.refused:
        missing.append(f"{subscriber.refused} webhooks did not verify")
    console.print()
    console.print(table)
    return missing


def _balance(amount: int) -> dict[str, Any]:
    return {"balances": [{"account": "MAIN", "asset": "USDC", "amount": str(amount)}]}


async def _quote(stack: Stack, case: Case) -> str:
    quote = await stack.call(
        "POST",
        "/payouts/quote",
        {
            "external_ref": "demo-user",
            "asset": "USDC",
            "amount": case.amount,
            "destination": {"type": "address", "network": _NETWORK, "address": _PAYEE},
        },
        **{"Idempotency-Key": secrets.token_hex(16)},
    )
    if quote["route"]["custodian"] != FIRST:
        raise DemoFailedError(f"quoted by {quote['route']['custodian']}, not by {FIRST}")
    return str(quote["quote_id"])


async def _follow(stack: Stack, console: Console, case: Case) -> None:
    """Execute a quote and print each timeline entry as it comes, until the payout ends."""
    payout = await stack.call("POST", "/payouts", {"quote_id": case.quote_id})
    shown = 0
    while True:
        payout = await stack.call("GET", f"/payouts/{payout['id']}")
        for entry in payout["timeline"][shown:]:
            word = f"{entry['status']}/{entry['sub_status']}"
            _say(console, f"  timeline {word:<24} {entry['detail'] or ''}".rstrip())
        shown = len(payout["timeline"])
        if payout["status"] in {"delivered", "failed"}:
            case.payout = payout
            return
        await asyncio.sleep(0.1)


async def _explained(stack: Stack) -> str:
    """Return what `routes explain` prints, once the gateway has read that the account is empty."""
    words = ("routes", "explain", _PAYEE, "--org", "acme", "--asset", "USDC", "--amount", "40")
    while True:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *words, "--network", _NETWORK),
            *("--config", str(stack.config)),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise DemoFailedError(f"routes explain ended with {process.returncode}")
        if b"shortage" in said:
            return said.decode()
        await asyncio.sleep(0.2)


async def _told(subscriber: Subscriber, wanted: list[Case]) -> None:
    """Wait for the last webhooks; what has ended is told at once, so this is short."""
    for _ in range(100):
        if all(
            case.payout is not None and subscriber.types(case.payout["id"]) >= case.events
            for case in wanted
        ):
            return
        await asyncio.sleep(0.1)


def _say(console: Console, line: str) -> None:
    """Print a line of the story; nothing in it is markup, and no line is broken in two."""
    console.print(line, markup=False, soft_wrap=True)
