"""The process that checks files: it ends with whoever needs it, and its end is told."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.assets import AssetRegistry
from gateway.batches import child
from gateway.batches.elsewhere import ANSWER_S, COMMAND, IDLE_S, FileChecks, NoProcessError
from gateway.batches.frames import LENGTH, Page, Work
from gateway.batches.schemas import BatchSource
from gateway.caller import Caller
from gateway.errors import Refused
from gateway.model import Account
from gateway.quotes import Quotes
from gateway.routing.durations import Durations
from gateway.routing.facts import KnownFacts
from gateway.routing.router import Router
from gateway.runtime import real_runtime

HEADER = "external_ref,asset,amount,destination\n"
SILENT = (sys.executable, "-c", "import time; time.sleep(600)")


def work(path: Path, lines: int = 3) -> Work:
    """Return a file to check; no route pays any of it."""
    path.write_text(HEADER + "u,USDC,1,0x52908400098527886E0F7030069857D2E4169EE7\n" * lines)
    facts = KnownFacts({}, Durations())
    quotes = Quotes(Router([], []), AssetRegistry(), real_runtime(), {}, facts=facts)
    source = BatchSource(custodian="acme", account=Account(id="A1", type="VAULT"))
    return Work(path, quotes.still(), Caller("acme", "live", "key_1"), source)


@asynccontextmanager
async def checks(
    *command: str, answer_s: float = ANSWER_S, idle_s: float = IDLE_S
) -> AsyncIterator[FileChecks]:
    """Have the process, or another one in its place."""
    made = FileChecks(command or COMMAND, answer_s=answer_s, idle_s=idle_s)
    try:
        yield made
    finally:
        await made.close()
        await made.close()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked for its exit code has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(20):
        while not is_gone(pid):
            await asyncio.sleep(0.02)


async def counted(made: FileChecks, each: Work) -> int:
    """Check a file; return how many lines it had."""
    async with made.checking(each) as check:
        return sum([page.head["count"] async for page in check.pages()])


async def test_files_are_checked_in_turn_by_one_process(tmp_path: Path) -> None:
    """Two at once, page by page; the process is kept for the next one."""
    async with checks() as made:
        assert made.pid is None
        order = []

        async def read(name: str) -> None:
            async with made.checking(work(tmp_path / name, 1600)) as check:
                async for page in check.pages():
                    order.append((name, page.head["count"]))  # noqa: PERF401 - in the order of both

        await asyncio.gather(read("a"), read("b"))
        pid = made.pid
        assert [count for _, count in order if _ == "a"] == [500, 500, 500, 100]
        # Neither waited for the end of the other one.
        assert {name for name, _ in order[:4]} == {"a", "b"}
        assert await counted(made, work(tmp_path / "c")) == 3
        assert made.pid == pid


def test_nothing_is_read_after_the_most_that_a_file_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line more, by which it is known to have too many."""
    monkeypatch.setattr(child, "MOST_IN_FILE", 1200)
    checking = child.Checking(work(tmp_path / "a", 3000))
    heads = [Page.of(checking.page()[LENGTH + 1 :]).head for _ in range(3)]
    assert [each["count"] for each in heads] == [500, 500, 201]
    assert [each["last"] for each in heads] == [False, False, True]


async def test_a_process_without_a_file_ends(tmp_path: Path) -> None:
    """After a while, and another one is started for the next file."""
    async with checks(idle_s=0) as made:
        async with made.checking(work(tmp_path / "a")) as check:
            pid = made.pid
            assert [page.head["last"] async for page in check.pages()] == [True]
        assert pid is not None
        await gone(pid)
        assert await counted(made, work(tmp_path / "a")) == 3


async def test_a_process_is_started_for_a_file_that_is_expected(tmp_path: Path) -> None:
    """It is there when the file is, and ends like any other where the file does not come."""
    async with checks(idle_s=0) as made:
        with made.expecting():
            async with asyncio.timeout(20):
                while made.pid is None:
                    await asyncio.sleep(0)
            pid = made.pid
            assert await counted(made, work(tmp_path / "a")) == 3
            assert made.pid == pid
        assert pid is not None
        await gone(pid)
    async with checks("/nowhere/python") as made:
        with made.expecting():
            await asyncio.sleep(0.1)
        assert made.pid is None


async def test_a_process_that_dies_fails_what_is_in_progress(tmp_path: Path) -> None:
    """Clearly, and only that: the next file gets another process."""
    async with checks() as made:
        async with made.checking(work(tmp_path / "a", 5000)) as check:
            pages = check.pages()
            await anext(pages)
            pid = made.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(Refused, match="Nothing was stored") as caught:
                _ = [page async for page in pages]
            assert caught.value.code == "internal_error"
        assert made.pid is None
        assert await counted(made, work(tmp_path / "a")) == 3


async def test_a_process_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    """Its time for one answer is bounded."""
    async with checks(*SILENT, answer_s=0.1) as made:
        with pytest.raises(Refused, match="did not answer in time"):
            await counted(made, work(tmp_path / "a"))
        assert made.pid is None


@pytest.mark.parametrize("said", ["\\0\\0\\0\\1P", "\\xff\\xff\\xff\\xff", "\\0\\0\\0\\2FX"])
async def test_a_process_that_says_nonsense(tmp_path: Path, said: str) -> None:
    """An answer that nobody has asked for, one without end, and that it has failed."""
    talk = f"import sys; sys.stdin.buffer.read(1); sys.stdout.buffer.write(b'{said}' * 5)"
    async with checks(sys.executable, "-c", talk, answer_s=20) as made:
        with pytest.raises(Refused, match="Nothing was stored"):
            await counted(made, work(tmp_path / "a"))


async def test_a_file_that_is_gone_fails_alone(tmp_path: Path) -> None:
    """The process goes on, and says only what kind of error it was."""
    async with checks() as made:
        each = work(tmp_path / "a")
        each.path.unlink()
        with pytest.raises(Refused, match=r"\(FileNotFoundError\)"):
            await counted(made, each)
        pid = made.pid
        assert await counted(made, work(tmp_path / "b")) == 3
        assert made.pid == pid


async def test_where_no_process_can_be_started(tmp_path: Path) -> None:
    """Whoever asks for it is told before anything was done."""
    async with checks("/nowhere/python") as made:
        with pytest.raises(NoProcessError):
            await counted(made, work(tmp_path / "a"))


async def test_the_process_has_no_secret_and_few_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the environment of the gateway, in which there may be a key; no file to write, no high priority."""
    monkeypatch.setenv("PAYOUT_GATEWAY_SERVER_KEY", "not-for-everybody")
    async with checks() as made:
        await counted(made, work(tmp_path / "a"))
        folder = Path(f"/proc/{made.pid}")
        if not folder.exists():
            pytest.skip("this system has no /proc")
        assert b"PAYOUT_GATEWAY" not in (folder / "environ").read_bytes()
        limits = (folder / "limits").read_text().splitlines()
        assert [each.split()[3] for each in limits if each.startswith("Max file size")] == ["0"]
        assert int((folder / "stat").read_text().rpartition(")")[2].split()[16]) == 19
        assert os.sched_getscheduler(int(folder.name)) == os.SCHED_IDLE


async def test_the_process_ends_with_the_gateway(tmp_path: Path) -> None:
    """Also where that is killed."""
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from gateway.batches.elsewhere import FileChecks\n"
        "from tests.batches.test_elsewhere import counted, work\n"
        "async def main():\n"
        "    made = FileChecks()\n"
        "    await counted(made, work(Path(sys.argv[1])))\n"
        "    print(made.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout, done.stderr
    await gone(int(done.stdout))


def test_the_process_starts_with_little(tmp_path: Path) -> None:
    """It imports no database, server or HTTP client, nor does what it is given: they took most of its start."""
    program = (
        "import pickle, sys, gateway.batches.child\n"
        "pickle.loads(sys.stdin.buffer.read())\n"
        "heavy = {'sqlalchemy', 'aiohttp', 'starlette', 'structlog', 'cryptography', 'asyncio'}\n"
        "print(*(each for each in sys.modules if each in heavy or each.startswith('gateway.store')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps(work(tmp_path / "a")),
        capture_output=True,
        check=True,
    )
    assert done.stdout.split() == []
