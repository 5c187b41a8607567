"""The house rules that no linter knows: entry points, locks, witnesses, decision pages, tests' words."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

import gateway

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
#: In two halves, so that this file does not name what it looks for.
REGISTRIES = tuple(
    name + "." + top
    for name, top in (
        ("pypi", "org"),
        ("pypi", "io"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("deb.debian", "org"),
    )
)
MOST_LINES = 700
_SKIPPED = {"__pycache__", "build", "dist", "site", "node_modules"}


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _files(suffix: str = "", under: str = "") -> Iterator[Path]:
    """Yield the project's own files, without what tools leave behind."""
    for folder, names, files in os.walk(ROOT / under):
        names[:] = [
            name
            for name in names
            if name not in _SKIPPED
            and not name.endswith(".egg-info")
            and (not name.startswith(".") or name == ".ci")
        ]
        yield from (Path(folder) / name for name in files if name.endswith(suffix))


def _adapter_names() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "adapters").glob("*/adapter.py"))


def test_every_adapter_has_its_entry_points() -> None:
    """A folder with an adapter is declared in pyproject.toml, and so is its twin."""
    declared = _project()["project"]["entry-points"]
    for name in _adapter_names():
        assert name in declared["payout_gateway.adapters"], f"no entry point for adapters/{name}"
        assert name in declared["payout_gateway.twins"], f"no twin for adapters/{name}"


@pytest.mark.parametrize("group", ["payout_gateway.adapters", "payout_gateway.twins"])
def test_entry_points_are_installed_and_load(group: str) -> None:
    """What pyproject.toml declares is what is installed, and each of it can be imported."""
    installed = {each.name: each for each in entry_points(group=group)}
    declared = _project()["project"]["entry-points"][group]
    for name, value in declared.items():
        assert installed[name].value == value, "the metadata is old: run make setup"
        assert callable(installed[name].load())


def test_version_is_told_once() -> None:
    """The distribution's version is the package's own."""
    assert gateway.__version__ == version("payout-gateway"), "the metadata is old: run make setup"


def test_types_and_data_are_shipped() -> None:
    """The package is typed, and templates, static files and migrations go with it."""
    data = _project()["tool"]["setuptools"]["package-data"]["gateway"]
    shipped = {path for pattern in data for path in (ROOT / "gateway").glob(pattern)}
    assert ROOT / "gateway" / "py.typed" in shipped
    # Authors import `gateway` for the contract and the kit, and `adapters.twin` for their twins.
    assert "py.typed" in _project()["tool"]["setuptools"]["package-data"]["adapters"]
    assert (ROOT / "adapters" / "py.typed").is_file()
    for folder in ("store/migrations", "pages/templates", "pages/static"):
        for path in _files(under=f"gateway/{folder}"):
            assert path in shipped or path.suffix == ".py", f"{path} is not in package-data"


@pytest.mark.parametrize("name", LOCKS)
def test_locks_are_pinned_hashed_and_name_no_host(name: str) -> None:
    """Each requirement is one version with hashes; no line says where to download from."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?:|--index-url|--extra-index|--find-links|\bfile:", text)
    blocks = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    assert blocks
    for block in blocks:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,-]+\])?==\S+", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]


def test_what_runs_is_what_was_tested() -> None:
    """The runtime lock pins the same versions as the lock that the tests use."""
    pins = {
        name: set(re.findall(r"^[a-z0-9._-]+==\S+", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in LOCKS
    }
    assert pins["requirements.lock"] <= pins["requirements-dev.lock"]
    assert pins["requirements-build.lock"] <= pins["requirements-dev.lock"]


def test_no_registry_is_named() -> None:
    """No file of the project depends on one package registry's address."""
    found = [
        (path.relative_to(ROOT), host)
        for path in _files()
        for host in REGISTRIES
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_every_module_of_the_gateway_has_a_layer() -> None:
    """The layers name every module or package of the gateway, and nothing twice."""
    (contract,) = (
        each for each in _project()["tool"]["importlinter"]["contracts"] if each["id"] == "layers"
    )
    named = [name.strip(" ()") for layer in contract["layers"] for name in re.split(r"[|:]", layer)]
    modules = {
        path.stem
        for path in (ROOT / "gateway").iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
    }
    assert len(named) == len(set(named))
    assert modules - set(named) == set()


def _is_witness(module: str) -> bool:
    """Whether a module belongs to a twin: it is in `adapters.twin` or `adapters.<name>.twin`."""
    return "twin" in module.split(".")[1:3]


def test_witnesses_and_adapters_share_nothing() -> None:
    """No twin imports the gateway or an adapter's module, no adapter imports a twin or another one."""
    graph = grimp.build_graph("gateway", "adapters", cache_dir=None)
    wrong = []
    for module in graph.modules:
        if module.count(".") < 1 or not module.startswith("adapters."):
            continue
        for imported in graph.find_modules_directly_imported_by(module):
            if imported == "adapters":
                continue
            if imported.startswith("gateway"):
                lawful = not _is_witness(module) and imported == "gateway.adapter"
            else:
                home, other = module.split(".")[1], imported.split(".")[1]
                same = other in {home, "twin"}
                package = len(imported.split(".")) == 2 and other != "twin"
                lawful = same and (package or _is_witness(module) == _is_witness(imported))
            if not lawful:
                wrong.append(f"{module} -> {imported}")
    assert wrong == []


def test_every_page_is_in_the_navigation() -> None:
    """Each page under docs/ can be reached, those of the runbook by its index; decisions have no gap."""
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(_leaves(navigation))
    pages = {str(path.relative_to(ROOT / "docs")) for path in _files(".md", "docs")}
    index = (ROOT / "docs/runbook/index.md").read_text(encoding="utf-8")
    listed |= {f"runbook/{path}" for path in re.findall(r"\]\((\w+/\w+\.md)\)", index)}
    assert pages == listed
    decisions = sorted(Path(page).name for page in pages if page.startswith("decisions/"))
    assert [name[:4] for name in decisions] == [f"{n + 1:04}" for n in range(len(decisions))]


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from _leaves(each)


@pytest.mark.parametrize("name", [".ci/run", "scripts/setup", "scripts/lock"])
def test_scripts_can_be_run(name: str) -> None:
    """The scripts of a fresh clone are executable."""
    assert os.access(ROOT / name, os.X_OK)


def test_ci_runs_the_front_door() -> None:
    """CI calls the same targets as a person, and each target explains itself."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, flags=re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert explained == set(phony.split())
    assert {"test", "check", "demo"} <= explained
    for target in ("test", "check", "demo"):
        assert re.search(rf"\b{target}\b", ci)


def test_files_stay_small() -> None:
    """A file that outgrows its subject becomes a folder."""
    long = [
        str(path.relative_to(ROOT))
        for folder in ("gateway", "adapters")
        for path in _files(".py", folder)
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    ]
    assert long == []


def test_every_test_says_what_it_shows() -> None:
    """Each test has a docstring: a failure is read before the code is."""
    silent = [
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in _files(".py", "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_a_gateway_loads_nothing_that_it_may_never_need() -> None:
    """Alembic, the API's document and Markdown take a tenth of its memory and of its start."""
    program = "import sys, gateway.app, gateway.cli.main, gateway.server; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "gateway.store.migrate" in loaded
    assert not loaded & {"alembic", "gateway.api.openapi", "markdown_it"}
