"""One SQLite connection that can always be used again, whatever failed on it."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

from gateway.logs import get_logger
from gateway.store.pinned import AWAY, FileReplaced

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from gateway.store.statements import Row

#: Statements that the driver keeps compiled. The store has about 250.
_KEPT_STATEMENTS = 512
#: Steps of SQLite's virtual machine between two looks at the clock, where a statement has a limit. A row that is
#: returned takes about 40 of them, one that is passed over about 15.
_STEPS_PER_LOOK = 250
_log = get_logger("store")


def is_busy(error: BaseException) -> bool:
    """Whether a statement failed only because another connection holds a lock."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "database is locked" in str(error)
    return bool(code & 0xFF == sqlite3.SQLITE_BUSY)


def gave_up(error: BaseException) -> bool:
    """Whether a statement ended because it took longer than its limit (`Connection.limited`)."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT


#: Why a database cannot be written, by SQLite's code. Other errors are those of one statement.
_UNWRITABLE = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the database file cannot be read or written",
    sqlite3.SQLITE_READONLY: "the database file is read-only",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged",
    sqlite3.SQLITE_NOTADB: "the database file is damaged",
    sqlite3.SQLITE_BUSY: "another process keeps the database locked",
}


@dataclass(frozen=True)
class WriteFault:
    """Why the database cannot be written now."""

    words: str
    full: bool  #: the disk is full: it is written again once there is room

    @classmethod
    def of(cls, error: BaseException) -> WriteFault | None:
        """Return what an error means for the whole database; None if it is about one statement."""
        if isinstance(error, FileReplaced) and str(error) == AWAY:
            return cls(AWAY, full=False)
        code = getattr(error, "sqlite_errorcode", None)
        if code is None or code & 0xFF not in _UNWRITABLE:
            return None
        return cls(_UNWRITABLE[code & 0xFF], full=code & 0xFF == sqlite3.SQLITE_FULL)


class Connection:
    """A connection for one thread at a time. It opens no transaction by itself.

    After an error nothing is left open: `rollback` closes a connection whose ROLLBACK fails, and
    `open` makes a new one.
    """

    def __init__(  # noqa: PLR0913 - the hooks are independent of each other
        self,
        path: Path,
        *,
        busy_s: float = 0.0,
        read_only: bool = False,
        fault: Callable[[str], None] | None = None,
        turn: threading.Lock | None = None,
        verify: Callable[[], None] | None = None,
        untouched: bool = False,
    ) -> None:
        self._path = path
        self._busy_s = busy_s
        self._read_only = read_only
        self._fault = fault
        #: held by the thread that uses the connection, except while SQLite works
        self._turn = turn
        #: raises where what was opened is not the database
        self._verify = verify
        #: nothing is written to any file, whatever is read
        self._untouched = untouched
        self._raw: sqlite3.Connection | None = None
        #: by their text, statements that were given up, as they are written from then on
        self._rewritten: dict[str, str] = {}
        #: how many Query statements were run, an `executemany` as one
        self.statements = 0
        #: how often it was opened
        self.opened = 0

    @property
    def is_open(self) -> bool:
        """Whether the connection can be used as it is."""
        return self._raw is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._raw is not None and self._raw.in_transaction

    @property
    def changes(self) -> int:
        """How many rows were written since the connection was opened, rolled back ones included."""
        return 0 if self._raw is None else self._raw.total_changes

    def open(self, wait_s: float | None = None) -> None:
        """Connect; nothing happens where the connection is open.

        `wait_s`: how long to wait for another process that holds the database, if not `busy_s`.
        """
        if self._raw is not None:
            return
        # mode=rw: a database that went away is an error, and not an empty database.
        raw = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?{self._mode()}",
            uri=True,
            timeout=self._busy_s if wait_s is None else wait_s,
            # The driver opens no transaction of its own; BEGIN is ours, always.
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_KEPT_STATEMENTS,
        )
        try:
            raw.row_factory = sqlite3.Row
            if not self._untouched:
                self._prepare(raw)
            if self._read_only:
                raw.execute("PRAGMA query_only=ON")
            _wait(raw, self._busy_s)
            if self._verify is not None:
                self._verify()
        except BaseException:
            raw.close()
            raise
        self._raw = raw
        self.opened += 1

    def _mode(self) -> str:
        """Return how the file is opened.

        Without a write-ahead log no process has it open: SQLite must know that, or it would leave an empty log.
        """
        if not self._untouched:
            return "mode=rw"
        log = self._path.with_name(self._path.name + "-wal")
        return "mode=ro" if log.exists() else "mode=ro&immutable=1"

    def _prepare(self, raw: sqlite3.Connection) -> None:
        (mode,) = raw.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            # Without it a commit would wait for every reader.
            raise sqlite3.OperationalError(
                f"{self._path} cannot have a write-ahead log (journal mode {mode}); "
                "put the database on a local file system"
            )
        raw.execute("PRAGMA synchronous=FULL")
        raw.execute("PRAGMA foreign_keys=ON")
        # What is deleted or erased is overwritten in the file, too, whatever the library's default is.
        raw.execute("PRAGMA secure_delete=ON")

    def close(self) -> None:
        """Disconnect; an open transaction is undone. May be called twice."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()

    def execute(self, text: str, values: Any = ()) -> list[Row]:
        """Run one statement; return its rows."""
        raw = self._usable()
        if self._turn is None and self._fault is None:
            return raw.execute(text, values).fetchall()
        with self._sqlite_works(text):
            return raw.execute(text, values).fetchall()

    def query(self, text: str, values: dict[str, Any]) -> list[Row]:
        """Run a statement of a store function inside the open transaction; return its rows."""
        raw = self._raw
        if raw is None or not raw.in_transaction:
            raw = self.require_transaction()
        self.statements += 1
        written = self._rewritten.get(text, text)
        try:
            if self._turn is None and self._fault is None:
                return raw.execute(written, values).fetchall()
            with self._sqlite_works(text):
                return raw.execute(written, values).fetchall()
        except sqlite3.OperationalError as error:
            if gave_up(error):
                # Python 3.11 takes a statement that failed for one in use, for ever, and compiles its text again
                # at every run. Another text is compiled once.
                self._rewritten[text] = f"{text} /* {self.statements} */"
            raise

    def query_many(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement of a store function once for each row of values, which are given by their places."""
        raw = self.require_transaction()
        self.statements += 1
        with self._sqlite_works(text):
            raw.executemany(text, rows)

    def require_transaction(self) -> sqlite3.Connection:
        """Refuse a statement that SQLite would commit by itself.

        After some errors (a full disk, an I/O error) SQLite itself rolls the transaction back. A
        function that swallowed the error must not go on as if nothing had happened.
        """
        raw = self._usable()
        if not raw.in_transaction:
            raise sqlite3.OperationalError("the transaction was rolled back by an earlier error")
        return raw

    def begin_waiting(self, text: str, seconds: float) -> None:
        """Begin a transaction; wait up to so many seconds for another process to finish its own."""
        self.open(seconds)
        raw = self._usable()
        _wait(raw, seconds)
        try:
            self.execute(text)
        finally:
            _wait(raw, self._busy_s)

    def rollback(self) -> None:
        """Leave the transaction, if one is open, whatever it takes. Raises nothing that SQLite may."""
        if not self.in_transaction:
            return
        try:
            self.execute("ROLLBACK")
        except Exception as error:  # noqa: BLE001 - closing the connection rolls back as well
            _log.error("rollback_failed", error=str(error))
        finally:
            if self.in_transaction:
                self.close()

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Have SQLite give up each statement that still runs after so much CPU time; `gave_up` tells the error.

        A process that has to wait for a core is not late by that, and one that waits for the disk is: after ten
        times as long.
        """
        raw = self._usable()
        begun, cpu = perf_counter(), thread_time()

        def is_late() -> bool:
            # The cheaper clock first: elapsed time is never less.
            took = perf_counter() - begun
            return took >= seconds and (thread_time() - cpu >= seconds or took >= 10 * seconds)

        raw.set_progress_handler(is_late, _STEPS_PER_LOOK)
        try:
            yield
        finally:
            # A connection that was closed meanwhile has no limit any more.
            with suppress(sqlite3.ProgrammingError):
                raw.set_progress_handler(None, 0)

    def data_version(self) -> int:
        """Return a number that changes once another connection has committed; by its own, it stays."""
        (version,) = self._usable().execute("PRAGMA data_version").fetchone()
        return int(version)

    def schema_version(self) -> int:
        """Return SQLite's counter of schema changes, by whichever process."""
        (version,) = self._usable().execute("PRAGMA schema_version").fetchone()
        return int(version)

    @contextmanager
    def _sqlite_works(self, text: str) -> Iterator[None]:
        if self._turn is not None:
            self._turn.release()
        try:
            if self._fault is not None:
                self._fault(text)
            yield
        finally:
            if self._turn is not None:
                self._turn.acquire()

    def _usable(self) -> sqlite3.Connection:
        if self._raw is None:
            raise sqlite3.OperationalError("the connection to the database is closed")
        return self._raw


def _wait(raw: sqlite3.Connection, seconds: float) -> None:
    raw.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")
