"""The API's description of itself: valid, complete, and true under fuzzing."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.api import documents
from gateway.api.application import ROUTES
from gateway.api.openapi import document
from gateway.api.problems import PROBLEMS
from gateway.pages.files import HASHED
from gateway.views import EVENT_TYPES
from gateway.webhooks import worker
from tests.api.conftest import Api

_UNDESCRIBED = {"/metrics", "/openapi.json", "/docs", "/docs/problems", "/docs/style.css"}
_UNDESCRIBED |= {"/assets/{name}", "/docs/{section}", "/guide", "/guide/{path:path}"}


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


_DESCRIBED = document("https://pay.example")


def _content(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from body.get("content", {}).items()


@pytest.mark.parametrize(
    ("path", "method"),
    [(path, method) for path, item in _DESCRIBED["paths"].items() for method in item],
)
def test_every_operation_has_an_example_that_fits(path: str, method: str) -> None:
    """Its parameters in the path, its body and every answer with a body; each fits its schema."""
    call = _DESCRIBED["paths"][path][method]
    assert all("example" in each for each in call.get("parameters", ()) if each.get("in") == "path")
    bodies = [call.get("requestBody", {}), *call["responses"].values()]
    media = [each for body in bodies for each in _content(body)]
    for media_type, each in media:
        if "example" not in each:
            # A page, or a probe's other answer.
            assert media_type == "text/html" or path in {
                "/healthz",
                "/readyz",
                "/track/{token}/stream",
            }
        elif "json" in media_type:
            _validator(each["schema"]).validate(each["example"])


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    whole = {**schema, "components": _DESCRIBED["components"]}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_event_has_an_example_that_fits_one_branch_of_the_union(kind: str) -> None:
    """Its own schema and the union of all, with its id; an example of another type is refused."""
    name = _DESCRIBED["webhooks"][kind]["$ref"].rsplit("/", 1)[-1]
    request = _DESCRIBED["components"]["pathItems"][name]["post"]
    content = request["requestBody"]["content"]["application/json"]
    for schema in (content["schema"], {"$ref": "#/components/schemas/Event"}):
        _validator(schema).validate(content["example"])
    assert content["example"]["id"].startswith("evt_")
    other = {**content["example"], "type": "payout.lost"}
    assert not _validator({"$ref": "#/components/schemas/Event"}).is_valid(other)


def _schemas(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema inside another with its path; examples are none."""
    if isinstance(schema, dict):
        yield path, schema
        for name, each in schema.items():
            if name not in {"example", "examples", "enum", "mapping"}:
                yield from _schemas(each, f"{path}/{name}")
    elif isinstance(schema, list):
        for number, each in enumerate(schema):
            yield from _schemas(each, f"{path}/{number}")


def test_schemas_are_what_generators_want() -> None:
    """No member that can only be null, no titles, dates with their format, unions with a discriminator."""
    schemas = _DESCRIBED["components"]["schemas"]
    for path, each in _schemas(schemas, ""):
        if not re.search(r"/(anyOf|oneOf)/\d+$", path):
            assert each.get("type") != "null", path
        name = path.rsplit("/", 1)[-1]
        if "BatchReportLine" in path:
            continue  # of text cells
        if name in {"timestamp", "since", "until", "at"} or (
            name.endswith(("_at", "_expiry")) and name != "events_looked_at"
        ):
            assert each.get("format") == "date-time", path
        if "oneOf" in each and path != "/DestinationOrAddress":
            assert "discriminator" in each, path
        if "/properties/" not in path.removesuffix("/properties/title"):
            assert "title" not in each.get("properties", {}) or path == "/Problem", path
    for name in ("Destination", "Event"):
        mapping = schemas[name]["discriminator"]["mapping"]
        assert {each.rsplit("/", 1)[-1] for each in mapping.values()} <= set(schemas)
        assert len(mapping) == len(schemas[name]["oneOf"])
    assert set(schemas["Event"]["discriminator"]["mapping"]) == set(EVENT_TYPES)
    assert set(schemas["Problem"]["properties"]["code"]["enum"]) == set(PROBLEMS)


def test_members_that_are_always_there_are_required() -> None:
    """In answers; in requests only those that have no default, whose value is said in words."""
    schemas = _DESCRIBED["components"]["schemas"]
    assert set(schemas["Payout"]["required"]) == set(schemas["Payout"]["properties"])
    assert set(schemas["QuoteRequest"]["required"]) == {
        "external_ref",
        "destination",
        "asset",
        "amount",
    }
    assert "86400" in schemas["RotationRequest"]["properties"]["overlap_seconds"]["description"]
    assert "test" not in schemas["PayoutDeliveredEvent"]["required"]
    assert not [path for path, each in _schemas(schemas, "") if "default" in each]


async def test_the_pages_load_nothing_from_elsewhere(api: Api) -> None:
    """No script at all, style sheets of our own, and a policy that allows nothing else."""
    paths = ("/docs", "/guide", "/guide/how-to/verify-webhooks", "/docs/payouts", "/docs/problems")
    for path in paths:
        answer, raw = await api.send("GET", path, authorization=None)
        text = raw.decode()
        assert answer.status == 200
        assert "<script" not in text
        assert re.findall(r'<link[^>]+href="([^"]+)"', text) == [
            "../" * (path.count("/") - 1) + f"assets/{HASHED[name]}"
            for name in ("style.css", "icon.svg", "docs.css")
        ]
        assert not re.findall(r'\bsrc="', text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    for code in PROBLEMS:
        assert f'id="{code}"' in text
    for path in ("/docs/nothing", "/guide/nothing", "/guide/..%2f..%2fpyproject.toml"):
        answer, _ = await api.send("GET", path, authorization=None)
        assert answer.status == 404, path
    answer, raw = await api.send(
        "GET", "/guide/reference/event-schemas/payout.created.json", authorization=None
    )
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(raw)["properties"]["id"]
    answer, _ = await api.send("GET", "/docs/style.css", authorization=None)
    assert answer.headers["content-type"].startswith("text/css")


@pytest.mark.timeout(240)
async def test_no_input_breaks_it(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of generated requests: never 5xx, and every answer is as the document says."""
    # The endpoints of the examples have names that no resolver is to be asked for.
    real = socket.getaddrinfo

    def local(host: Any, *others: Any, **named: Any) -> Any:
        if isinstance(host, str) and host.endswith(".example.com"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return real(host, *others, **named)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    # The clock stands still: the turn of an endpoint that has used up its rate would never come.
    monkeypatch.setattr(worker, "_TURN_S", 0.2)
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
    real = documents._MAKERS["reference"]

    def counted(public_url: str) -> object:
        made.append(threading.get_ident())
        return real(public_url)

    monkeypatch.setitem(documents._MAKERS, "reference", counted)
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


async def test_what_there_is_not_needs_no_thread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for it, again and again; what there is, is still made in one."""
    offloaded = []
    real = api.app.state.documents._offload

    async def counted(work: Any) -> Any:
        offloaded.append(work)
        return await real(work)

    monkeypatch.setattr(api.app.state.documents, "_offload", counted)
    answer, _ = await api.send("GET", "/guide", authorization=None)
    assert answer.status == 200
    before = len(offloaded)
    for path in ("/guide/nothing", "/guide/a/b", "/guide/index.html.html", "/docs/nothing"):
        for _ in range(3):
            problem = await api.problem("GET", path, authorization=None)
            assert (problem["status"], problem["code"]) == (404, "not_found")
    assert len(offloaded) == before
    answer, _ = await api.send("GET", "/guide/quickstart.html", authorization=None)
    assert (answer.status, len(offloaded)) == (200, before + 1)
