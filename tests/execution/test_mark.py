"""The moving mark: one way to obtain it, for every call, and nothing else writes the moving state."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from functools import cache
from pathlib import Path

import pytest

import gateway
import gateway.store
from gateway.execution.proof import Answer
from gateway.store import state
from gateway.store.database import Query
from tests.execution.conftest import Bench

pytestmark = pytest.mark.both_stores

ROOT = Path(gateway.__file__).parent


@cache
def trees(folder: Path) -> tuple[tuple[str, ast.Module], ...]:
    """Return the modules under a folder, by their path within the package."""
    return tuple(
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(folder.rglob("*.py"))
    )


def users_of(*names: str) -> set[tuple[str, str]]:
    """Return who names a function of the store, other than where it is defined: (module, name)."""
    found = set()
    for module, tree in trees(ROOT):
        for node in ast.walk(tree):
            name: object = None
            if isinstance(node, ast.Attribute):
                name = node.attr
            elif isinstance(node, ast.Name):
                name = node.id
            elif isinstance(node, ast.alias):
                name = node.name
            elif isinstance(node, ast.Constant):
                name = node.value  # by name, as in getattr
            if name in names:
                found.add((module, str(name)))
    return found


def _names_moving(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Constant) and each.value == "moving" for each in ast.walk(node))


def test_gate_is_the_only_way() -> None:
    """One statement writes the moving state; only the function that runs the gate uses it."""
    named, kept = [], []
    for module, tree in trees(ROOT / "store"):
        if module.startswith("store/migrations/"):
            continue  # they turn what an older program has left into an unknown outcome
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value == "moving":
                named.append(module)
            elif isinstance(node, ast.If) and _names_moving(node.test):
                kept.append(module)
    # Once in the statement, and once where any other change is kept from writing it.
    assert (named, kept) == (["store/executions.py"] * 2, ["store/executions.py"])
    assert users_of("write_mark", "next_mark") == {
        ("execution/mark.py", "write_mark"),
        ("execution/mark.py", "next_mark"),
    }
    assert users_of("set_mark") == {("execution/order.py", "set_mark")}
    assert users_of("_MARK") == {("store/executions.py", "_MARK")}


def test_one_compiled_statement_writes_the_moving_state() -> None:
    """The same, asked of the statements themselves, however they were written down."""
    found = []
    for each in pkgutil.walk_packages(gateway.store.__path__, "gateway.store."):
        if ".migrations" in each.name:
            continue
        module = importlib.import_module(each.name)
        for name, query in vars(module).items():
            if not isinstance(query, Query):
                continue
            text, fixed = query.compiled()
            if "moving" in fixed.values() or "'moving'" in text:
                found.append(f"{each.name}.{name}")
    assert sorted(set(found)) == ["gateway.store.executions._MARK"]


async def test_no_other_change_of_an_execution_writes_it(bench: Bench) -> None:
    """A column change that would write it is a fault of ours, and undone."""
    payout_id = await bench.accept()
    with pytest.raises(ValueError, match="behind the gate"):
        await bench.write(payout_id, state="moving")
    assert (await bench.execution(payout_id))["state"] == "prepared"


async def test_a_mark_is_a_row_a_number_and_a_state(bench: Bench) -> None:
    """All three in one commit, with the terms that were declared when the call was made."""
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    now = bench.clock.moment()
    await order.moving(reference="r-1", call_life_s=5)
    (call,) = await bench.evidence(payout_id)
    assert (call.number, call.mark, call.at, call.answer) == (1, 1, now, None)
    assert (call.reference, call.fingerprint) == ("r-1", "acme/A")
    assert (call.call_life, call.visibility, call.absence_looks) == (5_000_000, 30_000_000, 3)
    assert call.key_life == 86_400_000_000
    execution = await bench.execution(payout_id)
    assert (execution["state"], execution["rows"], execution["open_calls"]) == ("moving", 1, 1)
    assert (await bench.db.read(state.state_row))["marks"] == 1


async def test_the_same_request_sent_once_more_is_one_call(bench: Bench) -> None:
    """The bytes and the single-use credential of the call before: no other call, no longer life."""
    payout_id = await bench.accept()
    order = bench.order(await bench.begin())
    await order.moving()
    await bench.clock.advance(10)
    await order.moving(same_request=True)
    (call,) = await bench.evidence(payout_id)
    assert bench.clock.moment().elapsed - call.at.elapsed == 10_000_000
    # The first time may have arrived, whatever the second is told.
    assert call.answer == Answer.UNKNOWN
    with pytest.raises(Exception, match="not_closed"):
        await order.moving()
    assert len(await bench.evidence(payout_id)) == 1
