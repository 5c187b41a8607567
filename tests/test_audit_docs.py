"""The how-to of the audit log names every act that the code writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: What writes a row; `note` is that of `db reseal`, which hands its act to `db.run`.
WRITERS = {"add_audit", "_audit", "note_act"}


def nodes() -> Iterator[ast.AST]:
    """Yield every node of the gateway's source."""
    for path in (ROOT / "gateway").rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def constants() -> dict[str, str]:
    """Return the names that the source gives to texts, also several in one assignment."""
    found = {}
    for each in nodes():
        if not isinstance(each, ast.Assign):
            continue
        target, value = each.targets[0], each.value
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        names = target.elts if both else [target]  # type: ignore[attr-defined]
        texts = value.elts if both else [value]  # type: ignore[attr-defined]
        for name, text in zip(names, texts, strict=False):
            if isinstance(name, ast.Name) and isinstance(text, ast.Constant):
                found[name.id] = str(text.value)
    return found


def written() -> Iterator[str]:
    """Yield the texts and names in whatever is handed to a writer by position, or as `act`."""
    for call in nodes():
        if not isinstance(call, ast.Call):
            continue
        if ast.unparse(call.func).rpartition(".")[2] not in WRITERS:
            continue
        acts = [each.value for each in call.keywords if each.arg == "act"]
        for leaf in (leaf for part in (*call.args, *acts) for leaf in ast.walk(part)):
            if isinstance(leaf, ast.Constant):
                yield str(leaf.value)
            elif isinstance(leaf, ast.Name | ast.Attribute):
                yield constants_of.get(ast.unparse(leaf).rpartition(".")[2], "")


constants_of = constants()


def test_every_act_is_in_the_docs() -> None:
    """The table of acts has whatever the code writes."""
    page = (ROOT / "docs" / "how-to" / "audit-log.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `")]
    told = {act for line in table for act in re.findall(r"`([a-z_]+)`", line.split("|")[1])}
    acts = {each for each in written() if re.fullmatch(r"[a-z]+(_[a-z]+)+", each)}
    assert len(acts) > 12
    assert acts - told == set()
