"""The programs in the documentation run, and say what the product does."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from jsonschema import Draft202012Validator
from standardwebhooks.webhooks import WebhookVerificationError

from gateway.adapter import Adapter
from gateway.api.openapi import document
from gateway.api.problems import PROBLEMS
from gateway.api.reference import reference_page, sections
from gateway.custodians.registry import missing_verbs
from gateway.pages import guide
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
    """`GET /docs` is made of the OpenAPI document alone: each call on one page, each model on one."""
    made = document("https://gateway.example")
    pages = {
        name: bytes(page("reference.html", **reference_page(made, name)).body).decode()
        for name in sections(made)
    }
    overview = bytes(page("reference.html", **reference_page(made, None)).body).decode()
    for path, item in made["paths"].items():
        assert path in overview
        for call in item.values():
            found = [name for name, html in pages.items() if f'id="{call["operationId"]}"' in html]
            assert found == call["tags"]
    for kind in EVENT_TYPES:
        assert f"<code>{kind}</code>" in pages["webhooks"]
    for name in made["components"]["schemas"]:
        assert f'id="{name}"' in pages["models"]
    for name, html in {"": overview, **pages}.items():
        assert _foreign(html) == []
        # Links to models and to codes lead to pages that have them.
        for model in re.findall(r'href="models#(\w+)"', html):
            assert model in made["components"]["schemas"], name
        assert set(re.findall(r'href="problems#(\w+)"', html)) <= set(PROBLEMS)


def test_examples_of_every_call_are_programs() -> None:
    """Python compiles, the shell reads the curl line, node parses the TypeScript (it has no types)."""
    made = document("https://gateway.example")
    typescript = []
    for name in sections(made):
        for call in reference_page(made, name)["calls"]:
            if not call["samples"]:
                assert name == "webhooks"
                continue
            compile(call["samples"]["Python"], call["id"], "exec")
            read = subprocess.run(
                ["bash", "-n"], input=call["samples"]["curl"], text=True, check=False
            )
            assert read.returncode == 0, call["id"]
            typescript.append(call["samples"]["TypeScript"])
    if node := shutil.which("node"):
        blocks = "\n".join(f"async () => {{ {each} }};" for each in typescript)
        read = subprocess.run(
            [node, "--check", "--input-type=module", "-"],
            input=blocks,
            text=True,
            capture_output=True,
            check=False,
        )
        assert read.returncode == 0, read.stderr


def test_no_example_names_an_id_of_the_documentation() -> None:
    """Pasted, it would be not found: ids come from variables."""
    made = document("https://gateway.example")
    for name in sections(made):
        for call in reference_page(made, name)["calls"]:
            for language, text in (call["samples"] or {}).items():
                found = re.findall(r"\b(?:quo|pay|bat|whe|evt|rec|pau)_[0-9a-z]{26}\b", text)
                assert found == [], (call["id"], language)


def test_the_first_example_pays_with_the_quote_that_it_got(tmp_path: Path) -> None:
    """Run as it stands, in each language, against a gateway that keeps what it is sent."""
    begin = reference_page(document("https://gateway.example"), None)["begin"]
    sent: list[tuple[str, Any]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            sent.append((self.path, json.loads(self.rfile.read(length))))
            body = b'{"amount": "12.50", "quote_id": "quo_real", "id": "pay_real"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    programs = {"curl": ["bash"], "Python": [sys.executable], "TypeScript": ["node"]}
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for language, program in programs.items():
            if shutil.which("curl" if language == "curl" else program[0]) is None:
                continue
            if language == "Python" and importlib.util.find_spec("requests") is None:
                continue
            sent.clear()
            path = tmp_path / ("example.mjs" if language == "TypeScript" else "example")
            path.write_text(begin[language])
            done = subprocess.run(
                [*program, path],
                env={**os.environ, "URL": url, "KEY": "sk_live_x"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert [each for each, _ in sent] == ["/payouts/quote", "/payouts"], language
            assert sent[1][1] == {"quote_id": "quo_real"}
        server.shutdown()


def test_the_guide_has_every_page_and_every_link_of_it_leads_somewhere() -> None:
    """As `/guide` serves it: pages, anchors, images, schemas; and each page is in the contents."""
    paths = guide.contents()
    told: dict[str, dict[str, Any]] = {
        path: guide.guide_page(path) for path, kind in paths.items() if kind is None
    }
    listed = {each["href"] for group in told["index"]["nav"] for each in group["links"]}
    # The pages of the runbook are listed by its own first page.
    apart = ("runbook/alerts/", "runbook/attention/")
    own = {path for path in told if not path.startswith(apart)}
    assert listed == {"guide" if path == "index" else f"guide/{path}" for path in own}
    anchors = {path: set(re.findall(r' id="([^"]+)"', each["text"])) for path, each in told.items()}
    for path, each in told.items():
        assert _foreign(each["text"]) == []
        base = f"/guide/{path}" if path != "index" else "/guide"
        for link in re.findall(r' (?:href|src)="([^"]+)"', each["text"]):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = urljoin(base, link).partition("#")
            target = place.removeprefix("/guide").strip("/") or "index"
            assert target in paths, f"{path}: {link}"
            assert not anchor or anchor in anchors[target], f"{path}: {link}"


def test_the_guide_is_in_the_wheel(tmp_path: Path) -> None:
    """As files of the package, so that an installed gateway serves it."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    copied = tmp_path / "source"
    shutil.copytree(
        DOCS.parent,
        copied,
        symlinks=True,
        ignore=shutil.ignore_patterns(".*", "build", "site", "tests", "bench", "*.egg-info"),
    )
    built = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(tmp_path), str(copied)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as found:
        names = set(found.namelist())
    kept = {f"gateway/guide/{path}.md" for path, kind in guide.contents().items() if kind is None}
    assert kept <= names
    assert "gateway/guide/nav.json" in names


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
