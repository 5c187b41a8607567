"""The demo as a newcomer runs it, and what is left when it is stopped or cannot start."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, all_gone, descendants, started

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]
Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start demos that end with the test, with their temporary files in a folder of it."""
    async with AsyncExitStack() as stack:

        async def one(
            folder: Path, *arguments: str, cwd: Path = ROOT
        ) -> asyncio.subprocess.Process:
            demo = started("demo", *arguments, cwd=cwd, one_stream=True, TMPDIR=str(folder))
            return await stack.enter_async_context(demo)

        yield one


async def read_until(process: asyncio.subprocess.Process, words: str) -> str:
    """Return what was printed up to the line with those words."""
    assert process.stdout is not None
    text = ""
    while words not in text:
        line = await asyncio.wait_for(process.stdout.readline(), 40)
        assert line, f"it ended before {words!r}:\n{text}"
        text += line.decode()
    return text


async def test_the_demo_delivers(start: Start, tmp_path: Path) -> None:
    """Exit 0, every payout delivered and every webhook verified, within its own limit."""
    process = await start(tmp_path)
    out, _ = await asyncio.wait_for(process.communicate(), 80)
    text = out.decode()
    assert process.returncode == 0, text
    assert text.count("signature verified") == 24
    assert text.count("timeline delivered/delivered") == 7
    assert "batch.finalized        2 of 2 delivered" in text
    assert "paid once, and reported by verified webhooks" in text
    assert "\x1b" not in text  # no colours where nobody can see them
    assert list(tmp_path.iterdir()) == []


async def test_the_demo_with_one_custodian_refusing(start: Start, tmp_path: Path) -> None:
    """What is proven unpaid goes on and is paid once; in doubt, or refused later, nothing does.

    What `routes explain` prints on the way is in the docs, word for word.
    """
    process = await start(tmp_path, "--refusing")
    out, _ = await asyncio.wait_for(process.communicate(), 80)
    text = out.decode()
    assert process.returncode == 0, text
    for line in (
        "refused at once 40 USDC delivered dummy → dfns dfns",
        "reply lost 41 USDC delivered dummy dummy",
        "accepted, refused later 42.000402 USDC failed, funds moved: no dummy nobody",
    ):
        assert line in [
            " ".join(each.strip("│").replace("│", " ").split()) for each in text.splitlines()
        ]
    assert text.count("signature verified") == 8
    assert "timeline pending/queued           not paid by dummy; goes on at dfns" in text
    assert "timeline pending/outcome_unknown" in text
    assert "What was proven unpaid went on and was paid once; nothing else went on." in text
    explained = text[text.index("Could pay") : text.index("\n2. ")]
    page = (ROOT / "docs/how-to/choose-routes.md").read_text(encoding="utf-8")
    assert "\n".join(each.rstrip() for each in explained.splitlines()).strip() in page
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_a_stopped_demo_leaves_nothing(
    start: Start, tmp_path: Path, sign: signal.Signals
) -> None:
    """Ctrl-C or a supervisor's signal in the middle: exit 130, no process, no file."""
    process = await start(tmp_path)
    await read_until(process, "quoted")
    started = descendants(process.pid)
    assert len(started) >= 5  # sandbox, three twins, gateway
    process.send_signal(sign)
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 130
    assert await all_gone(started) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="the session is pasted with curl")
async def test_the_stack_is_kept_until_it_is_stopped(start: Start, tmp_path: Path) -> None:
    """The session that it prints works when it is pasted, as it is; SIGTERM ends it with 0."""
    process = await start(tmp_path, "--serve")
    text = await read_until(process, "Ctrl-C")
    started = descendants(process.pid)
    session = text[text.index("export GATEWAY") : text.index("API reference")]
    assert "sleep 8" in session
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-ec", session.replace("sleep 8", "sleep 0.1")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    out, _ = await asyncio.wait_for(shell.communicate(), 40)
    told = out.decode()
    assert shell.returncode == 0, told
    for word in ('"recipient_gets":"12.5"', '"status":"pending"', "payout.created", "/track/"):
        assert word in told
    assert "12.5 USDC to custodian_account EXTERNAL_WALLET" in told
    process.terminate()
    await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert await all_gone(started) == set()
    assert list(tmp_path.iterdir()) == []


async def test_a_demo_that_cannot_start_says_why(start: Start, tmp_path: Path) -> None:
    """Exit 1 with the end of the log; here the twin in the way of ours does not run."""
    twin = tmp_path / "here" / "adapters" / "fireblocks" / "twin" / "app.py"
    twin.parent.mkdir(parents=True)
    for folder in list(twin.parents)[:3]:
        (folder / "__init__.py").touch()
    twin.write_text("raise SystemExit('no twin today')\n")
    (tmp_path / "tmp").mkdir()
    process = await start(tmp_path / "tmp", cwd=tmp_path / "here")
    out, _ = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 1
    assert "missing: the sandbox did not start" in out.decode()
    assert "no twin today" in out.decode()
    assert list((tmp_path / "tmp").iterdir()) == []
