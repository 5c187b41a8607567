"""The example of an adapter outside the checkout: written, built, installed, checked, run."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from gateway.cli.packages import package_files
from gateway.testing.stack import free_port

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "adapter_acme"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def build(project: Path, into: Path) -> Path:
    """Build a wheel with what is installed, and never with a download."""
    copy = into / "source"
    shutil.copytree(
        project, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
    )
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(into), str(copy))
    (wheel,) = into.glob("*.whl")
    return wheel


def pip(*arguments: str) -> None:
    """Run pip without an index."""
    words = [sys.executable, "-m", "pip", arguments[0], "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*words, "--disable-pip-version-check", *arguments[1:]], check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the example's wheel installed."""
    folder = tmp_path_factory.mktemp("acme")
    wheel = build(EXAMPLE, folder)
    pip("install", "--target", str(folder / "site"), str(wheel))
    return {**os.environ, "PYTHONPATH": str(folder / "site")}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the gateway outside the checkout, where the example is installed."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env=environment,
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_is_what_the_command_writes() -> None:
    """To change it: change the dummy adapter or the template, then write it again."""
    made = package_files("acme")
    found = {
        str(path.relative_to(EXAMPLE)): path.read_text(encoding="utf-8")
        for path in EXAMPLE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".pytest_cache" not in path.parts
    }
    assert found == made, "run: payout-gateway adapters new acme --package examples/adapter_acme"


def test_the_template_is_the_dummys_own_kit() -> None:
    """One text: what is shipped to begin with is what is tested here."""
    template = ROOT / "gateway" / "cli" / "package_template" / "test_kit.py.txt"
    own = ROOT / "tests" / "adapters" / "dummy" / "test_kit.py"
    assert template.read_text(encoding="utf-8") == own.read_text(encoding="utf-8")


def test_wheels_carry_types_twins_and_templates(tmp_path: Path) -> None:
    """Everything that an author imports is typed, and nothing that a command needs is missing."""
    for name in ("example", "gateway"):
        folder = tmp_path / name
        folder.mkdir()
        project = EXAMPLE
        if name == "gateway":
            for part in ("gateway", "adapters", "pyproject.toml", "LICENSE", "README.md"):
                source, target = ROOT / part, folder / "project" / part
                target.parent.mkdir(exist_ok=True)
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, target)
            project = folder / "project"
        with ZipFile(build(project, folder)) as wheel:
            names = set(wheel.namelist())
        packages = {"payout_gateway_acme"} if name == "example" else {"gateway", "adapters"}
        assert {f"{each}/py.typed" for each in packages} <= names
        if name == "example":
            assert "payout_gateway_acme/twin/sandbox.toml" in names
        else:
            assert "gateway/testing/kit.py" in names
            assert {
                f"gateway/cli/package_template/{each}.py.txt" for each in ("conftest", "test_kit")
            } <= names
            assert "adapters/dummy/twin/sandbox.toml" in names


def test_a_package_that_is_not_installed_says_so_once() -> None:
    """Its tests could only fail, each with an error of its own: the run ends with what to do."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    ran = subprocess.run(words, cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert ran.returncode == pytest.ExitCode.USAGE_ERROR
    said = "ERROR: the adapter 'acme' is not installed: run pip install -e '.[test]' first"
    assert (ran.stdout + ran.stderr).strip() == said


def test_an_installed_package_is_listed_and_checked(installed: dict[str, str]) -> None:
    """The gateway finds it beside its own, the kit passes as written, and the matrix says so."""
    listed = json.loads(run(installed, "adapters", "list", "--json").stdout)["data"]
    assert {each["name"]: each["works"] for each in listed}["acme"] is True
    checked = run(installed, "adapters", "check", "acme", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    told = json.loads(checked.stdout)
    (kind,) = told["kit"].values()
    assert kind["destination"] == "address"
    assert kind["topics"]["lives"] == {"passed": 5}
    assert kind["topics"]["returns"] == {"passed": 1}
    assert kind["topics"]["crashes"] == {"passed": 1}


@pytest.mark.e2e
def test_the_sandbox_runs_only_its_twin(installed: dict[str, str], tmp_path: Path) -> None:
    """`--only acme` starts one twin, and writes a configuration for it."""
    config = tmp_path / "g.toml"
    words = ("sandbox", "--only", "acme", "--json", "--config-out", str(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *words], env=installed, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert set(json.loads(process.stdout.readline())["twins"]) == {"acme"}
        assert "[custodians.acme]" in config.read_text(encoding="utf-8")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    unknown = run(installed, "sandbox", "--only", "nobody")
    assert unknown.returncode == 1
    assert "there is no twin nobody; installed: acme, " in unknown.stderr


_BROKEN = {
    "gone": ("no_such_package.adapter:Gone", "no_such_package.twin:main", "No module named"),
    "nothing": ("broken_pkg.good:Nothing", "broken_pkg.good:main", "has no attribute 'Nothing'"),
    "raises": ("broken_pkg.raises:Acme", "broken_pkg.raises:main", "RuntimeError: licence expired"),
    "exits": ("broken_pkg.exits:Acme", "broken_pkg.exits:main", "SystemExit: 3"),
    "silent": ("broken_pkg.silent:Acme", "broken_pkg.silent:main", "has no attribute 'Acme'"),
}


@pytest.fixture
def broken(installed: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The same, with packages beside it that are broken in each way."""
    package = tmp_path / "broken_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "good.py").write_text("")
    (package / "raises.py").write_text('raise RuntimeError("licence expired")\n')
    (package / "exits.py").write_text("raise SystemExit(3)\n")
    (package / "silent.py").write_text("def main(): pass\n")
    info = tmp_path / "broken_pkg-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-pkg\nVersion: 1\n")
    lines = ["[payout_gateway.adapters]", *(f"{k} = {v[0]}" for k, v in _BROKEN.items())]
    lines += ["[payout_gateway.twins]", *(f"{k} = {v[1]}" for k, v in _BROKEN.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {**installed, "PYTHONPATH": f"{tmp_path}:{installed['PYTHONPATH']}"}


def test_a_broken_package_is_listed_beside_the_others(broken: dict[str, str]) -> None:
    """Each says why it does not load; the others work."""
    listed = run(broken, "adapters", "list", "--json")
    found = {each["name"]: each for each in json.loads(listed.stdout)["data"]}
    assert found["acme"]["works"]
    assert found["dummy"]["works"]
    for name, (_, _, reason) in _BROKEN.items():
        assert not found[name]["works"]
        assert reason in found[name]["reason"]
    for name in ("nothing", "exits"):
        checked = run(broken, "adapters", "check", name)
        assert checked.returncode == 1
        assert f"the adapter '{name}' does not load" in checked.stderr
        assert _BROKEN[name][2] in checked.stderr


@pytest.mark.e2e
def test_a_twin_that_does_not_start_is_left_out(broken: dict[str, str]) -> None:
    """The others run; asked for by name it is an error that says which."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "sandbox", "--json"],
        env=broken,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        twins = set(json.loads(process.stdout.readline())["twins"])
        assert "acme" in twins
        assert not twins & set(_BROKEN)
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    for name, (_, twin, _) in _BROKEN.items():
        assert f"left out: the twin of {name} ({twin}) did not start" in said
    alone = run(broken, "sandbox", "--only", "raises")
    assert alone.returncode == 1
    assert (
        "RuntimeError: licence expired\nsandbox: the twin of raises (broken_pkg.raises:main) did not "
        "start: it ended with exit code 1; its error is above"
    ) in alone.stderr
    nothing = run(broken, "sandbox", "--only", "nothing").stderr
    assert "has no attribute" in nothing
    assert f"the twin of nothing ({_BROKEN['nothing'][1]}) did not start" in nothing
    silent = run(broken, "sandbox", "--only", "silent").stderr
    assert "it ended at once, without an error and without its line of JSON" in silent


@pytest.mark.e2e
def test_a_broken_package_does_not_stop_the_others(broken: dict[str, str], tmp_path: Path) -> None:
    """`serve` goes on without that instance, says so, and asks its custodian to deliver again."""
    config = tmp_path / "g.toml"
    route = """
[[routes]]
destination = "address"
custodian = "{name}"
account = {{ id = "MAIN", type = "ACCOUNT" }}
"""
    custodian = """
[custodians.{name}]
adapter = "{name}"
base_url = "http://127.0.0.1:1/v1"
api_key = "k-1234567"
webhook_secret = "s-1234567"
"""
    names = ("raises", "acme")
    config.write_text(
        f'server_key = "{base64.b64encode(bytes(32)).decode()}"\n'
        + "".join(custodian.format(name=each) for each in names)
        + "".join(route.format(name=each) for each in names)
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ("serve", "--config", str(config), "--port", str(port))
    log = tmp_path / "serve.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *words],
            env=broken,
            stdout=stderr,
            stderr=stderr,
        )
    try:
        ready = answered(url + "/readyz", process)
        assert ready["status"] == "ready"
        assert ready["degraded"] == {"raises": "broken_adapter"}
        assert webhook(url, "raises") == 503
        assert webhook(url, "acme") == 401
        assert webhook(url, "nobody") == 404
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert "licence expired" in log.read_text()
    only = config.read_text().split("[custodians.acme]")[0]
    config.write_text(only + route.format(name="raises"))
    alone = run(broken, "serve", "--config", str(config), "--port", "0")
    assert alone.returncode == 2
    assert (
        "'raises' is installed but failed to import: RuntimeError: licence expired" in alone.stderr
    )


def answered(url: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait until a gateway that has just started answers; return that."""
    for _ in range(300):
        assert process.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return dict(json.loads(answer.read()))
        except OSError:
            time.sleep(0.1)
    raise AssertionError("never answered")


def webhook(url: str, name: str) -> int:
    """Send a custodian's webhook; return the status."""
    request = urllib.request.Request(f"{url}/custodians/{name}/webhooks", data=b"{}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
