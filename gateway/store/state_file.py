"""The state file: the newest mark, recorded outside the database.

A database that was restored from a copy looks healthy. It would make calls again that it does not
remember. The state file beside it holds the number of the newest mark, so that an older database is
recognised before it sets one. For each mark the order is: COMMIT, then this file, then the call.

The file also names the database file (device and inode): two copies of one database must not both go
on from the same mark.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.errors import StateFileError
from gateway.store.files import mode_like, private
from gateway.store.pinned import AWAY, FileReplaced, PinnedFile

FORMAT = 1
#: How often, and how long each time, a lock is waited for: 10 s together.
_LOCK_TRIES, _LOCK_WAIT_S = 2000, 0.005
MISSING = "the state file is missing, although the database was used under one"
MOVED = "the state file names another database file: this one was copied, moved or restored"

#: Until every gateway has found its last mark; see `gateway.store.postgres.failover`.
PROMOTED = (
    "a standby was promoted that should have every mark; gateways that ran on the old primary have not all "
    "confirmed it yet"
)
#: How the reason begins where one was promoted that may lack marks.
OTHER_TIMELINE = "this is timeline "
#: How the reason begins of a file whose rows were moved to another database.
MOVED_TO = "the database was moved to"


#: What an operator runs next where nothing can be concluded from a state file, or a mark is missing.
ADOPT = "payout-gateway db adopt"
_LOST = f"put the right one back; if it is lost, move this one away, and then: {ADOPT}"


def next_step(frozen: str) -> str:
    """Return what an operator does about a frozen database, by the reason. Pure."""
    if frozen == MOVED:
        return (
            "stop every gateway; then, if the file was moved as it is and no other copy is in use: "
            f"payout-gateway db moved; otherwise: {ADOPT}"
        )
    if frozen == MISSING:
        return (
            "stop every gateway; then put the state file back, and: payout-gateway db moved; "
            f"if it is lost: {ADOPT}"
        )
    if frozen == PROMOTED:
        return (
            "nothing, while one of them runs; otherwise stop every gateway and the old primary for good, and "
            "then: payout-gateway db promoted"
        )
    if frozen.startswith(OTHER_TIMELINE):
        return (
            f"stop every gateway and the old primary for good, and then: {ADOPT}; or, only if nothing can be "
            "missing: payout-gateway db promoted"
        )
    if frozen.startswith(MOVED_TO):
        return "name the database that it was moved to in the configuration; this file knows nothing newer"
    return f"stop every gateway, and then: {ADOPT}"


def behind(marks: int, known: int, where: str) -> str:
    """Return the reason to freeze a database that lacks marks."""
    return f"the database is an older copy: its newest mark is {marks}, {where} {known}"


@dataclass(frozen=True)
class FileId:
    """What tells one database file from another one."""

    device: int
    inode: int
    filesystem: int  #: the identifier that the file system itself reports; 0: none
    clock_id: str  #: the boot in which the other members were read

    @classmethod
    def of(cls, path: Path, clock_id: str) -> FileId:
        """Read them. OSError if there is no such file."""
        found = path.stat()
        return cls(found.st_dev, found.st_ino, os.statvfs(path).f_fsid, clock_id)

    def same_file(self, other: FileId) -> bool:
        """Whether both are the same file.

        The number of a device may change when the machine boots or the volume is attached elsewhere.
        The identifier of the file system counts in its place then, and only then: within one boot,
        another device is another file.
        """
        if self.inode != other.inode:
            return False
        if self.device == other.device:
            return True
        booted = self.clock_id != other.clock_id
        return booted and self.filesystem == other.filesystem != 0


@dataclass(frozen=True)
class Recorded:
    """What a state file says."""

    marks: int  #: the number of the newest mark
    file: FileId
    frozen: str | None = None  #: why the database may not be used before it is adopted


@dataclass(frozen=True)
class Judgement:
    """What follows from comparing a database with its state file."""

    frozen: str | None = None  #: why nothing may move
    write: bool = False  #: whether the file has to be written


def judge(
    recorded: Recorded | None, here: FileId, marks: int, *, witnessed: bool, used: bool
) -> Judgement:
    """Compare what the state file says with the database. Pure.

    `here`, `marks`: the database file and its newest mark. `witnessed`: whether a state file was
    written for this database before. `used`: whether there was ever a payout in it. A database that
    is ahead of the file is an ordinary crash between the commit and the file.
    """
    if recorded is None:
        return Judgement(frozen=MISSING) if witnessed and used else Judgement(write=True)
    if recorded.frozen is not None:
        return Judgement(frozen=recorded.frozen)
    if marks < recorded.marks:
        return Judgement(frozen=behind(marks, recorded.marks, "the state file has"))
    if not here.same_file(recorded.file):
        return Judgement(frozen=MOVED) if used else Judgement(write=True)
    return Judgement(write=marks > recorded.marks or here != recorded.file)


class Seen:
    """The newest mark that this process has seen committed."""

    def __init__(self) -> None:
        self._marks = 0
        self._lock = threading.Lock()

    def note(self, marks: int) -> None:
        """Remember a number that is committed. Never one of a transaction that may be undone."""
        with self._lock:
            self._marks = max(self._marks, marks)

    def check(self, marks: int) -> str | None:
        """Return why the database must be frozen, or None.

        `marks` is what the database holds, read in a transaction that writes: marks that this process
        has seen committed cannot be missing there.
        """
        known = self._marks
        return behind(marks, known, "this process has seen") if marks < known else None


class StateFile:
    """The state file of one database: the witness of its marks. Safe for threads and processes."""

    def __init__(self, path: Path, database: Path, clock_id: str) -> None:
        self.path = path
        self._database = database
        self._clock_id = clock_id
        self._pinned: PinnedFile | None = None
        self.seen = Seen()
        #: why marks cannot be recorded now; None: they can
        self.failing: str | None = None

    def pin(self, file: PinnedFile | None) -> None:
        """Hold to the database file that this process has open; None: to whichever is at the path."""
        self._pinned = file

    def before_commit(self, mark: int | None) -> None:
        """Raise FileReplaced if nothing may be committed to the database that is open.

        It was moved away or replaced; or, for a mark, the state file holds another file for the
        database, which may have given this number as well. What else is wrong, `record` finds.
        """
        try:
            if self._pinned is not None:
                self._pinned.check()
            if mark is not None:
                self._refuse_another_file()
        except FileReplaced as error:
            self.failing = str(error)
            raise

    def _refuse_another_file(self) -> None:
        with suppress(StateFileError):
            known = self._read()
            if known is not None and not self.database_file().same_file(known.file):
                raise FileReplaced(MOVED)

    def behind(self, marks: int) -> str | None:
        """Return why a database with so many marks is older than what this process has seen, or None."""
        return self.seen.check(marks)

    def database_file(self) -> FileId:
        """Return what names the database file now.

        StateFileError if there is none, or another one than this process has open.
        """
        try:
            found = FileId.of(self._database, self._clock_id)
        except OSError as error:
            raise StateFileError(f"the database cannot be found: {error.strerror}") from None
        if self._pinned is not None and not self._pinned.is_file(found.device, found.inode):
            self.failing = AWAY
            raise StateFileError(AWAY)
        return found

    def read(self) -> Recorded | None:
        """Return what the file says; None if there is none. StateFileError: it cannot be read."""
        try:
            return self._read()
        except StateFileError as error:
            self.failing = str(error)
            raise

    def record(self, mark: int) -> None:
        """Record a mark that is committed; durable when this returns.

        The number in the file never gets lower. StateFileError: it is not recorded, so that the call
        must not be made. Nothing is made up here: a missing file, or one that names another database
        file, is an error.
        """
        with self._changing():
            known = self._read()
            if known is None:
                raise StateFileError("the state file is missing")
            if known.frozen is not None:
                raise StateFileError(known.frozen)
            here = self.database_file()
            if not here.same_file(known.file):
                raise StateFileError(MOVED)
            # After a failure it is written in any case: only that shows that it works again.
            if mark > known.marks or here != known.file or self.failing is not None:
                self._replace(Recorded(max(mark, known.marks), here))
        self.seen.note(mark)

    def catch_up(self, read: Recorded | None, marks: int, here: FileId) -> None:
        """Write what a comparison found the file to lack; nothing if it was changed since it was read."""
        with self._changing():
            if self._read() == read:
                known = 0 if read is None else read.marks
                self._replace(Recorded(max(marks, known), here))

    def rewrite(self, marks: int, *, frozen: str | None = None, file: FileId | None = None) -> None:
        """Write the file for a database file, the present one if none is given, whatever it named.

        The number in the file never gets lower. For adopting, moving and restoring a database.
        """
        with self._changing():
            known = self._read()
            marks = max(marks, 0 if known is None else known.marks)
            self._replace(Recorded(marks, file or self.database_file(), frozen))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be the only one who changes the file, among all processes; note whether it worked."""
        try:
            with open(self._lock_path(), "a", opener=private) as lock:
                self._match_owner(lock.fileno())
                _lock(lock.fileno())
                yield
        except StateFileError as error:
            self.failing = str(error)
            raise
        except OSError as error:
            self.failing = f"the state file cannot be written: {error.strerror}"
            raise StateFileError(self.failing) from error
        self.failing = None

    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    def _read(self) -> Recorded | None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise StateFileError(
                f"the state file is not readable as a state file: {_LOST}"
            ) from None
        except OSError as error:
            raise StateFileError(
                f"the state file cannot be read: {error.strerror}. Make it readable, or {_LOST}"
            ) from None
        return parse(text)

    def _replace(self, recorded: Recorded) -> None:
        """Put a new file in place: a reader sees either the old or the new one, also after a crash."""
        text = json.dumps({"format": FORMAT, **asdict(recorded)}, indent=1) + "\n"
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with open(temporary, "wb", opener=private) as file:
                self._match_owner(file.fileno())
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(self.path.parent)

    def _match_owner(self, descriptor: int) -> None:
        """Give a file the owner and mode of the database: a command may be run by another user.

        Whatever the database's mode is, not every user of the machine gets a right.
        """
        try:
            model = self._database.stat()
        except FileNotFoundError:
            return
        found = os.fstat(descriptor)
        mode = mode_like(model.st_mode)
        if mode_like(found.st_mode) != mode:
            with suppress(PermissionError):
                os.fchmod(descriptor, mode)
        if (found.st_uid, found.st_gid) != (model.st_uid, model.st_gid):
            with suppress(PermissionError):
                os.fchown(descriptor, model.st_uid, model.st_gid)


def _lock(descriptor: int) -> None:
    """Take a lock that other processes take as well. OSError: one of them keeps it.

    Not without end: a process that is suspended just now must not hold up every commit of this one.
    """
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_WAIT_S)
        else:
            return
    raise OSError(errno.EAGAIN, "another process keeps it locked")


def parse(text: str) -> Recorded:
    """Return what the text of a state file says. StateFileError if it is none of this version."""
    try:
        told = json.loads(text)
        version, marks = int(told["format"]), int(told["marks"])
        file = FileId(**told["file"])
        frozen = told["frozen"]
    except (ValueError, KeyError, TypeError):
        raise StateFileError(f"the state file is not readable as a state file: {_LOST}") from None
    if version != FORMAT:
        raise StateFileError(f"the state file has format {version}: another version wrote it")
    return Recorded(marks, file, frozen)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: what was renamed stays renamed after a crash."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
