"""The API's description of itself: valid, complete, and true under fuzzing."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.api import docs
from gateway.api.application import ROUTES
from gateway.api.openapi import document
from gateway.api.problems import PROBLEMS
from gateway.pages.files import HASHED
from gateway.views import EVENT_TYPES
from tests.api.conftest import Api

_UNDESCRIBED = {"/metrics", "/openapi.json", "/docs", "/docs/problems", "/docs/style.css"}
_UNDESCRIBED |= {"/assets/{name}"}


def test_the_document_is_valid_and_complete() -> None:
    """OpenAPI 3.1; every route and method, every event, every problem that a call can answer."""
    described = document("https://pay.example")
    OpenAPIV31SpecValidator(described).validate()
    routes = {
        (route.path, method.lower())
        for route in ROUTES
        if route.path not in _UNDESCRIBED
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {
        (path, method) for path, item in described["paths"].items() for method in item
    } == routes
    assert set(described["webhooks"]) == set(EVENT_TYPES)
    told = str(described["paths"])
    undocumented = {code for code in PROBLEMS if code not in told}
    # What the router or the connection itself refuses belongs to no one call.
    assert undocumented <= {
        "not_found",
        "method_not_allowed",
        "request_timeout",
    }


async def test_the_pages_load_nothing_from_elsewhere(api: Api) -> None:
    """No script at all, one style sheet of our own, and a policy that allows nothing else."""
    for path in ("/docs", "/docs/problems"):
        answer, raw = await api.send("GET", path, authorization=None)
        text = raw.decode()
        assert answer.status == 200
        assert "<script" not in text
        assert re.findall(r'<link[^>]+href="([^"]+)"', text) == [
            ("../" if path.count("/") > 1 else "") + f"assets/{HASHED[name]}"
            for name in ("style.css", "icon.svg")
        ]
        assert not re.findall(r'\bsrc="', text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for code in PROBLEMS:
        assert f'id="{code}"' in text
    answer, _ = await api.send("GET", "/docs/style.css", authorization=None)
    assert answer.headers["content-type"].startswith("text/css")


@pytest.mark.timeout(240)
async def test_no_input_breaks_it(api: Api, tmp_path: Path) -> None:
    """Hundreds of generated requests: never 5xx, and every answer is as the document says."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            api.url + "/openapi.json",
            "--url",
            api.url,
        ),
        *("-H", f"Authorization: Bearer {await api.key()}", "--max-examples", "15", "--no-color"),
        *("--phases", "examples,coverage,fuzzing", "--generation-deterministic"),
        *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
        *("--checks", "response_schema_conformance"),
        *("--suppress-health-check", "all"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text[-6000:]
    found = re.search(r"(\d+) generated", text)
    assert found is not None, text[-2000:]
    assert int(found[1]) > 200


async def test_documents_are_made_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, for the first of many that ask at the same time; nobody's headers are another's."""
    made: list[int] = []
    real = docs._MAKERS["reference"]

    def counted(public_url: str) -> object:
        made.append(threading.get_ident())
        return real(public_url)

    monkeypatch.setitem(docs._MAKERS, "reference", counted)
    answers = await asyncio.gather(
        *(api.send("GET", "/docs", authorization=None) for _ in range(5))
    )
    answers.append(await api.send("GET", "/docs", authorization=None))
    assert len(made) == 1
    assert made[0] != threading.get_ident()
    assert len({raw for _, raw in answers}) == 1
    assert len({answer.headers["request-id"] for answer, _ in answers}) == 6
    for answer, raw in answers:
        assert answer.headers.getall("content-length") == [str(len(raw))]
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert len(answer.headers.getall("request-id")) == 1
