"""`batches`: a file in, a batch executed and followed, a report out; against a running API."""

from __future__ import annotations

import asyncio
import csv
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from gateway.cli.main import app


class Service:
    """The batch calls of a gateway, as a script: what came, and what is answered."""

    def __init__(self) -> None:
        self.valid_count = 2
        self.calls: list[tuple[str, str, dict[str, str], bytes]] = []
        self.state = ["requested", "verifying", "executing", "finalized"]
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.executed = False
        self.failed = 0
        self.url = ""

    def batch(self, state: str) -> dict[str, Any]:
        """Return a batch in a state."""
        delivered = 2 - self.failed if state == "finalized" else 0
        by_status = {"delivered" if delivered else "pending": {"count": 2, "amount": "3"}}
        return {
            "id": "bat_1",
            "state": state,
            "item_count": 2,
            "delivered_count": delivered,
            "failed_count": self.failed,
            "totals": [{"asset": "USDC", "count": 2, "amount": "3", "by_status": by_status}],
            "failure": None,
        }

    async def handle(self, request: web.Request) -> web.Response:  # noqa: PLR0911 - one per call
        """Answer."""
        body = await request.read()
        self.calls.append((request.method, request.path_qs, dict(request.headers), body))
        if self.refusal is not None:
            return web.json_response(self.refusal[1], status=self.refusal[0])
        if request.path.endswith("report.csv"):
            text = "position,status\r\n1,delivered\r\n2,delivered\r\n"
            return web.Response(text=text, headers={"Report-Final": "true"})
        if request.query.get("validate") == "true":
            count = self.valid_count
            return web.json_response({"item_count": count, "totals": {"USDC": "3"}})
        if request.path.endswith("/execute"):
            if self.executed:
                problem = {"code": "batch_already_executed", "detail": "It was executed."}
                return web.json_response(problem, status=409)
            self.executed = True
            return web.json_response(self.batch("requested"), status=202)
        if request.method == "POST":
            return web.json_response(self.batch("requested"), status=201)
        state = self.state.pop(0) if len(self.state) > 1 else self.state[0]
        return web.json_response(self.batch(state))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Run the service in a thread: the command has a loop of its own."""
    made, ready, done = Service(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", made.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await done.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    monkeypatch.setenv("PAYOUT_GATEWAY_API_KEY", "sk_live_x")
    monkeypatch.setenv("PAYOUT_GATEWAY_URL", made.url)
    monkeypatch.setattr("gateway.cli.batch_client._LOOK_S", 0.01)
    yield made
    loop.call_soon_threadsafe(done.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of two payouts."""
    path = tmp_path / "march.csv"
    path.write_text("external_ref,asset,amount,destination\nu-1,USDC,1.5,0x1\nu-2,USDC,1.5,0x2\n")
    return path


def run(*arguments: object, code: int = 0) -> str:
    """Run a command of the group."""
    result = CliRunner().invoke(app, ["batches", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


_SOURCE = ("--custodian", "fb", "--account-id", "7", "--account-type", "VAULT_ACCOUNT")


def test_created_executed_watched_reported(service: Service, file: Path, tmp_path: Path) -> None:
    """In one command; the same file again is the same batch."""
    into = tmp_path / "report.csv"
    for _ in range(2):
        out = run("create", file, *_SOURCE, "--execute", "--watch", "--report", into)
        assert "bat_1 is finalized" in out
        # No bar, which would be one line that is written over again and again.
        assert "bat_1: finalized, 2 delivered and 0 failed of 2\n" in out
    assert len(list(csv.reader(into.read_text().splitlines()))) == 3
    creates = [each for each in service.calls if each[:1] == ("POST",) and "custodian" in each[1]]
    assert len({each[2]["Idempotency-Key"] for each in creates}) == 1
    assert {each[3] for each in creates} == {file.read_bytes()}
    assert {each[2]["Authorization"] for each in service.calls} == {"Bearer sk_live_x"}
    assert creates[0][2]["Content-Type"] == "text/csv"


def test_a_dry_run(service: Service, file: Path) -> None:
    """Checks, and executes nothing."""
    assert "2 payouts could be paid: 3 USDC\n" in run(
        "create", file, *_SOURCE, "--dry-run", "--execute"
    )
    assert len(service.calls) == 1
    service.valid_count = 1
    assert "1 payout could be paid: 3 USDC\n" in run("create", file, *_SOURCE, "--dry-run")


def test_json_for_scripts(service: Service, file: Path) -> None:
    """One document, no bar."""
    told = json.loads(run("create", file, *_SOURCE, "--execute", "--watch", "--json"))
    assert told["state"] == "finalized"
    assert json.loads(run("show", "bat_1", "--json"))["id"] == "bat_1"
    assert "final" in run("report", "bat_1", file.with_name("r.csv"))


@pytest.mark.parametrize("end", ["failed", "canceled"])
def test_an_end_that_is_none_of_ours(service: Service, file: Path, end: str) -> None:
    """Exit 3, for scripts: nothing is wrong with the command, and not everybody was paid."""
    service.state = ["executing", end]
    assert f"is {end}" in run("create", file, *_SOURCE, "--execute", "--watch", code=3)


def test_the_exit_code_tells_whether_everybody_was_paid(service: Service, file: Path) -> None:
    """A batch that ended with a failed payout is no success."""
    service.state, service.failed = ["finalized"], 1
    told = run("create", file, *_SOURCE, "--execute", "--watch", code=3)
    assert "1 delivered and 1 failed of 2" in told
    assert json.loads(run("show", "bat_1", "--watch", "--json", code=3))["failed_count"] == 1
    run("show", "bat_1")  # only shown: that has worked
    service.failed = 0
    run("show", "bat_1", "--watch")


def test_a_refused_file(service: Service, file: Path) -> None:
    """With its faults, line by line."""
    faults = [{"pointer": f"/lines/{n}", "code": "x", "detail": "is wrong"} for n in range(30)]
    service.refusal = (422, {"code": "invalid_batch", "detail": "30 faults.", "errors": faults})
    out = run("create", file, *_SOURCE, code=1)
    assert "invalid_batch: 30 faults." in out
    assert "/lines/19: is wrong" in out
    assert "10 more" in out


def test_what_cannot_be(service: Service, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no gateway, no key, no such batch."""
    assert "cannot be read" in run("create", file.with_name("none.csv"), *_SOURCE, code=2)
    service.refusal = (404, {"code": "batch_not_found", "detail": "There is no batch."})
    assert "batch_not_found" in run("cancel", "bat_x", code=1)
    assert "http://" in run("execute", "bat_1", "--gateway", "localhost", code=1)
    out = run("execute", "bat_1", "--gateway", "http://127.0.0.1:9", code=1)
    assert "does not answer" in out
    monkeypatch.delenv("PAYOUT_GATEWAY_API_KEY")
    assert "PAYOUT_GATEWAY_API_KEY" in run("show", "bat_1", code=2)
