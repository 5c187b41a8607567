"""The programs in the documentation run, and say what the product does."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from standardwebhooks.webhooks import WebhookVerificationError

from gateway.adapter import Adapter
from gateway.api.openapi import document
from gateway.custodians.registry import missing_verbs
from gateway.pages.render import page
from gateway.signing import headers, secret_bytes
from gateway.views import EVENT_TYPES
from tests.vectors import NOW, block, cases, vector

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Return what imports every Python block of a page, in order."""

    def load(page: str) -> list[Any]:
        text = (DOCS / page).read_text("utf-8")
        modules = []
        for number, program in enumerate(re.findall(r"(?ms)^```python\n(.*?)^```$", text)):
            path = tmp_path / f"program_{number}.py"
            path.write_text(program, encoding="utf-8")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, path.stem, module)
            spec.loader.exec_module(module)
            modules.append(module)
        return modules

    return load


def test_verifying_by_hand_in_python(programs: Callable[[str], list[Any]]) -> None:
    """The page's function takes its vectors, and refuses changes, staleness and broken headers."""
    authentic = programs("how-to/verify-webhooks.md")[1].authentic
    for expected, secret, sent, body, now in cases():
        assert authentic(secret, sent, body.encode(), now) is expected, (sent, now)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_verifying_by_hand_in_javascript(tmp_path: Path) -> None:
    """So does the one in JavaScript."""
    (tmp_path / "page.mjs").write_text(block("javascript"), encoding="utf-8")
    (tmp_path / "run.mjs").write_text(
        """
import { readFileSync } from "node:fs";
import { authentic } from "./page.mjs";
const cases = JSON.parse(readFileSync(0, "utf8"));
const seen = cases.map(([, secret, sent, body, now]) => authentic(secret, sent, Buffer.from(body), now));
console.log(JSON.stringify(seen));
""",
        encoding="utf-8",
    )
    assert _run(["node", "run.mjs"], tmp_path) == [case[0] for case in cases()]


def _run(command: list[str], folder: Path) -> Any:
    ran = subprocess.run(
        command,
        cwd=folder,
        input=json.dumps(cases()),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_every_example_fits_its_schema() -> None:
    """The catalogue's examples are valid by the JSON Schema beside them, and by no other type's."""
    folder = DOCS / "reference/event-schemas"
    page = (DOCS / "reference/event-catalogue.md").read_text("utf-8")
    found = re.findall(r"(?ms)^## `([a-z_.]+)`.*?^```json\n(.*?)^```$", page)
    assert [kind for kind, _ in found] == list(EVENT_TYPES)
    schemas = {
        kind: json.loads((folder / f"{kind}.json").read_text("utf-8")) for kind in EVENT_TYPES
    }
    for kind, example in found:
        fits = [
            name
            for name, schema in schemas.items()
            if Draft202012Validator(schema).is_valid(json.loads(example))
        ]
        assert fits == [kind]


def test_vector_of_the_page_is_what_the_gateway_sends() -> None:
    """The headers in the documentation are the ones our own signing makes."""
    secret, sent, body = vector()
    made = headers(
        [secret_bytes(secret)], sent["webhook-id"], datetime.fromtimestamp(NOW, UTC), body
    )
    assert sent == made


def test_verifying_with_the_library_refuses_an_old_delivery(
    programs: Callable[[str], list[Any]],
) -> None:
    """The page's other function hands everything to the library, which judges the time too."""
    receive = programs("how-to/verify-webhooks.md")[0].receive
    secret, sent, body = vector()
    with pytest.raises(WebhookVerificationError, match="old"):
        receive(secret, sent, body)


def test_adapter_of_the_page_is_whole(programs: Callable[[str], list[Any]]) -> None:
    """The adapter in the how-to defines what the contract asks for, and reads its webhook."""
    (module,) = programs("how-to/add-an-adapter.md")
    acme = module.Acme
    assert issubclass(acme, Adapter)
    assert missing_verbs(acme, batch=acme.capabilities.batch) == ()
    adapter = acme(acme.Settings(base_url="http://127.0.0.1:1", api_key="k"), None)
    (notice,) = adapter.parse(b'{"id": "n-1", "transfer": "t-1"}')
    assert notice.dedup_key == "n-1"
    assert [(ref.kind, ref.value) for ref in notice.refs] == [("transfer", "t-1")]


def test_served_reference_shows_every_call_and_loads_nothing_from_elsewhere() -> None:
    """`GET /docs` is made of the OpenAPI document alone."""
    made = document("https://gateway.example")
    html = bytes(page("reference.html", doc=made).body).decode()
    for path in made["paths"]:
        assert path in html
    assert _foreign(html) == []


def test_built_documentation_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """The pages build without a warning, and no font, script or style comes from another host."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        tmp_path,
    ]
    built = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    pages = [*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")]
    assert len(pages) > 10
    assert {
        path.name: _foreign(path.read_text("utf-8"))
        for path in pages
        if _foreign(path.read_text("utf-8"))
    } == {}


def _foreign(text: str) -> list[str]:
    """Return what a browser would load from another host: sources, styles, imports, fonts."""
    return re.findall(
        r"""<(?:script|img|iframe|link)[^>]*(?:src|href)=["'](?:https?:)?//[^"']+"""
        r"""|url\(["']?(?:https?:)?//[^)]+|@import\s+["']https?:[^"']+""",
        text,
    )


def test_the_page_on_isolation_lists_every_attack() -> None:
    """What `make bench-isolation` runs is what the page explains, in the same order."""
    path = DOCS.parent / "bench" / "isolation_attacks.py"
    spec = importlib.util.spec_from_file_location("isolation_attacks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DOCS / "explanation" / "isolation.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\| ([^|]+) \|", text[text.index("| attack |") :].split("\n\n")[0])
    assert rows == ["attack", "---", *module.ATTACKS]


def test_every_generated_table_is_on_a_page() -> None:
    """A merge that takes one side of a page loses a whole region, and no page is stale by that."""
    script = (DOCS.parent / "scripts" / "generate_docs.py").read_text("utf-8")
    _, table = script.split("GENERATORS: dict", 1)
    names = set(
        re.findall(r'^    "([a-z-]+)": [a-z_]+,$', table.partition("\n}\n")[0], re.MULTILINE)
    )
    assert "kit-topics" in names
    pages = "".join(each.read_text("utf-8") for each in DOCS.rglob("*.md"))
    assert {each for each in names if f"<!-- generated: {each} -->" not in pages} == set()
