"""Writes a package for a new adapter: the dummy's code under a new name, with a kit test."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

#: The adapter that a new one is copied from; it is installed with the gateway.
_MODEL = ("adapters", "dummy")


def renamed(text: str, name: str) -> str:
    """Return a text of the dummy with its names replaced."""
    dashed, kind = name.replace("_", "-"), kind_of(name)
    # Header names have dashes; the twin writes them capitalised, and the adapter reads them in lower
    # case.
    text = text.replace("Dummy-", f"{dashed.title()}-").replace("dummy-", f"{dashed}-")
    return text.replace("Dummy", kind).replace("DUMMY", name.upper()).replace("dummy", name)


def kind_of(name: str) -> str:
    """Return the class name of an adapter."""
    return "".join(part.title() for part in name.split("_"))


def write_package(folder: Path, name: str) -> list[Path]:
    """Write the package into a folder that is empty or does not exist; return the files."""
    made = package_files(name)
    for path, text in made.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return [folder / path for path in made]


def package_files(name: str) -> dict[str, str]:
    """Return every file of the package by its path."""
    package = f"payout_gateway_{name}"
    template = files("gateway.cli").joinpath("package_template")
    model = files(_MODEL[0]).joinpath(_MODEL[1])
    made = {
        "pyproject.toml": _text(template.joinpath("pyproject.toml.txt")),
        "README.md": _text(template.joinpath("README.md.txt")),
        "tests/conftest.py": _text(template.joinpath("conftest.py.txt")),
        "tests/test_kit.py": _text(template.joinpath("test_kit.py.txt")),
        f"{package}/py.typed": "",
    }
    made = {path: renamed(text, name) for path, text in made.items()}
    # A distribution's name has dashes; its package's name does not.
    made["pyproject.toml"] = made["pyproject.toml"].replace(
        f'name = "payout-gateway-{name}"', f'name = "payout-gateway-{name.replace("_", "-")}"'
    )
    for path in (
        "__init__.py",
        "adapter.py",
        "twin/__init__.py",
        "twin/app.py",
        "twin/sandbox.toml",
    ):
        made[f"{package}/{path}"] = renamed(_text(model.joinpath(path)), name)
    old = f"{_MODEL[0]}.{name}"
    return {path: text.replace(old, package) for path, text in made.items()}


def _text(file: Traversable) -> str:
    return file.read_text(encoding="utf-8")
