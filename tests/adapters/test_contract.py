"""What every adapter of the project declares, and what none of them may do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.custodians.registry import find_adapters

ADAPTERS = Path(__file__).parents[2] / "adapters"
KINDS = {name: kind for name, kind in find_adapters().items() if isinstance(kind, type)}

#: Every place where an adapter reads a clock, by file and function, with what for. None of them decides
#: that something did not happen: that is elapsed time, from the order.
CLOCKS = {
    ("card_passcode/adapter.py", "_pause"): "pace: no standing passcode for a while",
    ("card_passcode/adapter.py", "_pay"): "pace: the same",
    ("card_passcode/adapter.py", "_read"): "the date of a transaction",
    ("card_passcode/adapter.py", "_session"): "when a session ends, for people",
    ("card_passcode/client.py", "_obtain"): "when a token is refreshed; a 401 replaces it, too",
    ("card_passcode/client.py", "_token"): "the same",
    ("dfns/adapter.py", "balances"): "the date of a balance, for people",
    ("dfns/reading.py", "wait"): "pace: when a payout is looked at again",
    ("dfns/transfers.py", "transaction_of"): "the date of a transaction that tells none",
    ("dfns/webhook.py", "verify"): "the age of a webhook",
    ("dummy/adapter.py", "_report"): "the date of a transaction",
    ("dummy/adapter.py", "balances"): "the date of a balance, for people",
    ("fireblocks/adapter.py", "balances"): "the date of a balance, for people",
    ("fireblocks/client.py", "prepare"): "the date of a token; declared as `dated_by_clock`",
    ("fireblocks/reading.py", "_transactions"): "the date of a transaction that tells none",
    ("fireblocks/webhook.py", "_is_fresh"): "how long the webhook keys are kept",
    ("fireblocks/webhook.py", "_refresh"): "the same",
}


def test_which_looks_find_a_call_that_a_copy_of_the_database_does_not_know_of() -> None:
    """Only those by our own keys. An id that the custodian gave, and the reference of a later try, are lost."""
    assert {name: kind.capabilities.finds_lost_calls for name, kind in KINDS.items()} == {
        "card_passcode": False,
        "dfns": False,
        "dummy": True,
        "fireblocks": False,
    }


def test_every_clock_that_an_adapter_reads_is_known() -> None:
    """A wall clock can be set, and a process can be suspended: elapsed time comes from the order."""
    assert set(_clocks()) == set(CLOCKS)


def _clocks() -> Iterator[tuple[str, str]]:
    for path in sorted(ADAPTERS.glob("*/*.py")):
        if path.parent.name == "twin":
            continue
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                map(_reads_a_clock, ast.walk(function))
            ):
                yield f"{path.parent.name}/{path.name}", function.name


def _reads_a_clock(node: Any) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in {
        "now",
        "utcnow",
        "monotonic",
        "moment",
        "perf_counter",
        "time_ns",
    }
