"""Every fenced block and every command on every page: it parses, and the product accepts it.

What a block does when it is run is tested elsewhere: `tests/e2e/test_tutorial.py` (tutorial, quickstart),
`tests/test_docs.py` (the programs of the how-tos). Blocks that cannot pass are listed here with the
reason; a listed block that passes fails the test.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.cli import main as command_line
from gateway.config.settings import load
from gateway.custodians.registry import find_adapters

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("adapters/**/*.md"),
        *ROOT.glob("deploy/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
    )
)
#: Page, first characters of the block, why it is no JSON document.
NOT_JSON = {
    ("docs/reference/protocols/fireblocks.md", "POST /v1"): "a request and its response",
    ("docs/reference/protocols/dfns.md", '{"action":"Confirm"'): "three bodies, one per line",
}
#: Page, first characters of the block, why it is no configuration of the gateway.
NOT_SETTINGS = {
    ("docs/how-to/add-an-adapter.md", "[project.entry-points"): "a part of pyproject.toml",
}
#: What a block that shows one section leaves out: the rest of an installation.
_FRAME = {
    "PAYOUT_GATEWAY_PUBLIC_URL": "https://pay.example",
    "PAYOUT_GATEWAY_SERVER_KEY": "A" * 43 + "=",
    "PAYOUT_GATEWAY_CUSTODIANS__DFNS__ADAPTER": "dfns",
    "PAYOUT_GATEWAY_CUSTODIANS__FB_EU__ADAPTER": "fireblocks",
    "PAYOUT_GATEWAY_CUSTODIANS__ORANGE__ADAPTER": "card_passcode",
}
_SHELLS = {"", "bash", "sh", "console"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str

    def __str__(self) -> str:
        """Return where it is, for the id of a test."""
        return f"{self.page}:{self.text.splitlines()[0][:30] if self.text else ''}"

    def listed(self, reasons: dict[tuple[str, str], str]) -> bool:
        """Whether a list of exceptions names it."""
        return any(self.page == page and self.text.startswith(begin) for page, begin in reasons)


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in one of these languages."""
    return [
        Block(path.relative_to(ROOT).as_posix(), language, textwrap.dedent(text))
        for path in PAGES
        for language, text in re.findall(r"(?ms)^ *```(\w*)\n(.*?)^ *```$", path.read_text("utf-8"))
        if language in languages
    ]


def test_blocks_are_found() -> None:
    """The pages have blocks in every language that is tested here."""
    for language in ("json", "toml", "python", "py", "bash", "sh", "console", ""):
        assert blocks(language), language


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    """A block is a document, or members of an object."""
    text = "{" + block.text + "}" if block.text.startswith('"') else block.text
    try:
        json.loads(text)
    except ValueError:
        assert block.listed(NOT_JSON), text
    else:
        assert not block.listed(NOT_JSON), "it parses: take it off the list"


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_the_gateway_accepts_the_settings(block: Block, tmp_path: Path) -> None:
    """A block is accepted by the loader, alone or with what a shown section leaves out."""
    values = tomllib.loads(block.text)
    if block.listed(NOT_SETTINGS):
        assert "project" in values
        return
    file = tmp_path / "gateway.toml"
    file.write_text(
        re.sub(r'(\w+)_file = "[^"]+"', rf'\1_file = "{tmp_path}/\1"', block.text), "utf-8"
    )
    for name in re.findall(r"(\w+)_file = ", block.text):
        (tmp_path / name).write_text(_secret(name), "utf-8")
    settings = load(file, _FRAME)
    adapters: dict[str, Any] = find_adapters()
    for name, instance in values.get("custodians", {}).items():
        if "adapter" in instance and "base_url" in instance:  # a whole one
            kind = adapters[instance["adapter"]]
            kind.Settings.model_validate(settings.custodians[name].model_extra)


def _secret(name: str) -> str:
    """Return what a file of this setting holds."""
    if name == "private_key":
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()
    return "postgresql://gateway@127.0.0.1/payouts" if name == "database" else "A" * 43 + "="


@pytest.mark.parametrize("block", blocks("python", "py"), ids=str)
def test_python_compiles(block: Block) -> None:
    """A program, or a part of one, is Python."""
    ast.parse(block.text)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("block", blocks("js", "javascript"), ids=str)
def test_javascript_parses(block: Block, tmp_path: Path) -> None:
    """A program, or a part of one, is a JavaScript module."""
    file = tmp_path / "page.mjs"
    file.write_text(block.text, "utf-8")
    ran = subprocess.run(["node", "--check", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("block", blocks("bash", "sh"), ids=str)
def test_shell_parses(block: Block) -> None:
    """A block that is called a script is one."""
    ran = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def commands(page: str) -> Iterator[str]:
    """Yield the lines of a page's blocks that call the gateway's command."""
    for block in blocks(*_SHELLS):
        if block.page != page:
            continue
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            found = re.search(r"(?:^ *|\$ |[(&;|] *)(?:\S+/)?payout-gateway (?=[a-z-])(.*)", line)
            if found:
                yield re.split(r" (?:[|>&;]|2>)|\) ?\||\)$", found[1])[0]


@cache
def _root() -> Any:
    return typer.main.get_command(command_line.app)


def _command(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """Return a command, its path and the words after it."""
    command: Any = _root()
    path: list[str] = []
    while words and words[0] in getattr(command, "commands", {}):
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return command, path, words


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_commands_are_commands(page: str) -> None:
    """Every command of a block is accepted as it stands: names, options, choices, what is required."""
    for line in commands(page):
        command, path, words = _command(shlex.split(line, comments=True))
        assert path, line
        try:
            command.make_context(" ".join(path), words)
        except click.exceptions.NoArgsIsHelpError:
            assert command.invoke_without_command, line
        except click.ClickException as error:
            pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in PAGES])
def test_commands_in_sentences_exist(page: str) -> None:
    """A command that a sentence names exists, and has the options that it names."""
    for code in re.findall(r"`payout-gateway ([a-z][^`]*)`", (ROOT / page).read_text("utf-8")):
        for each in _alternatives(re.sub(r"[\[\]]", "", code)):
            command, path, words = _command(shlex.split(each, comments=True))
            assert path, each
            assert not hasattr(command, "commands") or words in ([], ["…"]), each
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            named = {word.split("=")[0] for word in words if word.startswith("--")}
            assert named <= {*known, "--help"}, each


def _alternatives(code: str) -> Iterator[str]:
    """Yield `a b` and `a c` for `a b|c`."""
    found = re.search(r"([\w-]+(?:\|[\w-]+)+)", code)
    if found is None:
        yield code
        return
    for each in found[1].split("|"):
        yield from _alternatives(code[: found.start()] + each + code[found.end() :])
