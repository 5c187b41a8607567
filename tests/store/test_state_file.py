"""The state file: what it concludes about a database, and that what it records is never lost."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import StateFileError
from gateway.store.state_file import (
    MISSING,
    MOVED,
    FileId,
    Judgement,
    Recorded,
    Seen,
    StateFile,
    behind,
    judge,
    next_step,
)

HERE = FileId(device=7, inode=100, filesystem=9, clock_id="boot-1")


@pytest.fixture
def state_file(tmp_path: Path) -> StateFile:
    """The state file of an empty file that stands for a database."""
    database = tmp_path / "g.db"
    database.touch()
    return StateFile(tmp_path / "g.db.state", database, "boot-1")


@pytest.mark.parametrize(
    ("recorded", "marks", "witnessed", "used", "expected"),
    [
        pytest.param(None, 0, False, False, Judgement(write=True), id="first start"),
        pytest.param(None, 3, False, True, Judgement(write=True), id="never had a file"),
        pytest.param(None, 0, True, False, Judgement(write=True), id="deleted, nothing in it yet"),
        pytest.param(None, 3, True, True, Judgement(frozen=MISSING), id="file is missing"),
        pytest.param(Recorded(3, HERE), 3, True, True, Judgement(), id="equal"),
        pytest.param(Recorded(3, HERE), 4, True, True, Judgement(write=True), id="crash before it"),
        pytest.param(
            Recorded(3, replace(HERE, inode=101)), 3, True, True, Judgement(frozen=MOVED), id="copy"
        ),
        pytest.param(
            Recorded(3, replace(HERE, device=8)),
            3,
            True,
            True,
            Judgement(frozen=MOVED),
            id="device",
        ),
        pytest.param(
            Recorded(0, replace(HERE, inode=101)), 0, True, False, Judgement(write=True), id="empty"
        ),
        pytest.param(Recorded(3, HERE, "x"), 9, True, True, Judgement(frozen="x"), id="restored"),
    ],
)
def test_what_a_comparison_concludes(
    recorded: Recorded | None, marks: int, witnessed: bool, used: bool, expected: Judgement
) -> None:
    """Every case of the table."""
    assert judge(recorded, HERE, marks, witnessed=witnessed, used=used) == expected


@pytest.mark.parametrize("used", [True, False])
def test_a_database_that_lacks_marks_is_frozen(used: bool) -> None:
    """Also an empty one: it may be that the real one was lost."""
    reason = judge(Recorded(5, HERE), HERE, 4, witnessed=True, used=used).frozen
    assert reason is not None
    assert "4" in reason
    assert "5" in reason


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"clock_id": "boot-2"}, True),
        ({"inode": 101}, False),
        ({"device": 8}, False),
        ({"device": 8, "clock_id": "boot-2"}, True),
        ({"device": 8, "clock_id": "boot-2", "filesystem": 10}, False),
        ({"inode": 101, "clock_id": "boot-2"}, False),
    ],
)
def test_a_device_may_get_another_number_at_a_boot(change: dict[str, object], same: bool) -> None:
    """Then the file system's own identifier counts; within one boot another device is another file."""
    assert HERE.same_file(replace(HERE, **change)) is same  # type: ignore[arg-type]


def test_without_an_identifier_of_the_file_system_the_device_decides() -> None:
    """Zero means that the file system has none."""
    nameless = replace(HERE, filesystem=0)
    assert not nameless.same_file(replace(nameless, device=8, clock_id="boot-2"))


def test_marks_are_recorded_and_never_lowered(state_file: StateFile) -> None:
    """A lower number comes late from another process; the file keeps the higher one."""
    state_file.rewrite(0)
    for mark, expected in ((3, 3), (2, 3), (7, 7)):
        state_file.record(mark)
        recorded = state_file.read()
        assert recorded is not None
        assert recorded.marks == expected
    state_file.rewrite(1)
    recorded = state_file.read()
    assert recorded is not None
    assert recorded.marks == 7
    assert state_file.seen.check(6) is not None
    assert state_file.seen.check(7) is None


def test_a_missing_file_is_not_made_up(state_file: StateFile) -> None:
    """The first file is written after a comparison; a mark alone does not create one."""
    with pytest.raises(StateFileError, match="missing"):
        state_file.record(1)
    assert not state_file.path.exists()
    assert state_file.failing is not None


def test_a_database_that_was_replaced_meanwhile(state_file: StateFile, tmp_path: Path) -> None:
    """A process that still writes to the old file records nothing for the new one."""
    state_file.rewrite(1)
    (tmp_path / "other").touch()
    (tmp_path / "other").replace(tmp_path / "g.db")
    with pytest.raises(StateFileError, match="another database file"):
        state_file.record(2)


def test_after_a_restore_nothing_is_recorded(state_file: StateFile) -> None:
    """Until the database is adopted, which rewrites the file."""
    state_file.rewrite(1, frozen="restored")
    with pytest.raises(StateFileError, match="restored"):
        state_file.record(2)
    state_file.rewrite(2)
    state_file.record(3)
    assert state_file.failing is None


def test_a_change_in_between_is_not_overwritten(state_file: StateFile) -> None:
    """What a comparison found to be lacking is written only if the file is still as it was read."""
    state_file.rewrite(1)
    read = state_file.read()
    state_file.rewrite(1, frozen="restored")
    state_file.catch_up(read, 5, state_file.database_file())
    assert state_file.read() == Recorded(1, state_file.database_file(), "restored")
    state_file.rewrite(1)
    state_file.catch_up(state_file.read(), 5, state_file.database_file())
    assert state_file.read() == Recorded(5, state_file.database_file())


def test_a_file_that_cannot_be_written(state_file: StateFile) -> None:
    """An error says so, and goes away once a write has worked; a write is tried in any case then."""
    state_file.rewrite(1)
    lock = Path(f"{state_file.path}.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StateFileError, match="cannot be written"):
        state_file.record(2)
    assert "cannot be written" in str(state_file.failing)
    lock.rmdir()
    before = state_file.path.stat().st_ino
    state_file.record(1)
    assert "cannot be written" not in str(state_file.failing)
    assert state_file.path.stat().st_ino != before


@pytest.mark.parametrize("kind", ["folder", "text", "json", "newer", "list", "half"])
def test_what_is_no_state_file_is_not_overwritten(state_file: StateFile, kind: str) -> None:
    """A setting that names the wrong file, or the file of a newer version, must not destroy it."""
    if kind == "folder":
        state_file.path.mkdir()
    else:
        state_file.rewrite(4)
        whole = json.loads(state_file.path.read_text())
        texts = {
            "text": "not JSON",
            "json": '{"database": "g.db"}',
            "newer": json.dumps({**whole, "format": 2}),
            "list": "[]",
            "half": json.dumps({**whole, "file": {"device": 1}}),
        }
        state_file.path.write_text(texts[kind])
    before = None if kind == "folder" else state_file.path.read_text()
    for act in (state_file.read, lambda: state_file.record(5), lambda: state_file.rewrite(5)):
        with pytest.raises(StateFileError):
            act()
    assert kind == "folder" or state_file.path.read_text() == before


def test_nothing_is_left_behind_by_a_failed_write(
    state_file: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file stays whole, and no temporary file stays beside it."""
    state_file.rewrite(1)
    with monkeypatch.context() as patched:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr(os, "fsync", full)
        with pytest.raises(StateFileError, match="No space left"):
            state_file.record(2)
    recorded = state_file.read()
    assert recorded is not None
    assert recorded.marks == 1
    names = sorted(path.name for path in state_file.path.parent.iterdir())
    assert names == ["g.db", "g.db.state", "g.db.state.lock"]


def test_threads_and_processes_at_once(state_file: StateFile) -> None:
    """Whichever comes last, the highest number stays."""
    state_file.rewrite(0)
    program = (
        "import sys; from pathlib import Path; from gateway.store.state_file import StateFile\n"
        "file = StateFile(Path(sys.argv[1]), Path(sys.argv[2]), 'boot-1')\n"
        "for mark in range(int(sys.argv[3]), 60, 3): file.record(mark)\n"
    )
    database = state_file.path.with_name("g.db")
    children = [
        subprocess.Popen([sys.executable, "-c", program, state_file.path, database, str(first)])
        for first in (1, 2)
    ]

    def record() -> None:
        for mark in range(0, 60, 3):
            state_file.record(mark)

    threads = [threading.Thread(target=record) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait(30) for child in children] == [0, 0]
    recorded = state_file.read()
    assert recorded is not None
    assert recorded.marks == 59


def test_a_process_that_keeps_the_lock(
    state_file: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is suspended just then: an error after a while, so that commits go on."""
    state_file.rewrite(1)
    monkeypatch.setattr("gateway.store.state_file._LOCK_TRIES", 3)
    with Path(f"{state_file.path}.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StateFileError, match="keeps it locked"):
            state_file.record(2)
    state_file.record(2)


def test_the_file_belongs_to_whom_the_database_belongs(state_file: StateFile) -> None:
    """A command that another user runs must not shut the gateway out."""
    database = state_file.path.with_name("g.db")
    database.chmod(0o640)
    state_file.rewrite(1)
    lock = Path(f"{state_file.path}.lock")
    for path in (state_file.path, lock):
        assert path.stat().st_mode == database.stat().st_mode
        assert path.stat().st_uid == database.stat().st_uid


def test_seen_marks_cannot_vanish() -> None:
    """Numbers may be noted in any order."""
    seen = Seen()
    assert seen.check(0) is None
    seen.note(4)
    seen.note(2)
    assert seen.check(3) is not None
    assert seen.check(4) is None


@pytest.mark.parametrize("reason", [MOVED, MISSING, behind(1, 2, "the state file has"), "other"])
def test_every_reason_to_freeze_names_a_command(reason: str) -> None:
    """The log and `/readyz` name the command to run."""
    assert next_step(reason).endswith("payout-gateway db adopt")
    assert ("db moved" in next_step(reason)) == (reason in {MOVED, MISSING})
