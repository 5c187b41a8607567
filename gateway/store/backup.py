"""Copies of the database file: made while the gateway runs, and put back in place.

The files are worked on directly. A backup may be of an older schema than this program, and what a
restore replaces may be damaged.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError
from gateway.runtime import Ids
from gateway.store import migrate
from gateway.store.audit import add_to_copy
from gateway.store.files import close_to_others, mode_like, private
from gateway.store.state import DATABASE
from gateway.store.state_file import FileId, Recorded, StateFile, sync_folder
from gateway.store.unusable import why

#: Acts in the audit log.
BACKED_UP, RESTORED = "backed_up", "restored"
#: What a database file has beside it while it is open, or after a crash.
_BESIDE = ("-wal", "-shm")
_MAGIC = b"SQLite format 3\0"
_IN_USE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NEWEST_EVENT = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"


class BackupError(GatewayError):
    """A backup cannot be made or put in place; the message says why. The database is still there."""


@dataclass(frozen=True)
class Copy:
    """What is known of a copy of the database."""

    revision: str | None
    marks: int  #: the number of the newest mark in it; 0 where its schema knows none
    events: int  #: the position of the newest event


@dataclass(frozen=True)
class Restored:
    """What a restore did."""

    copy: Copy
    frozen: str | None  #: why the database has to be adopted; None: nothing is missing
    kept: Path | None  #: where the database that was replaced is


@dataclass(frozen=True)
class Operator:
    """Who acts, when by the wall clock (microseconds), and where the ids of audit rows come from."""

    name: str
    at: int
    ids: Ids


def back_up(database: Path, target: Path, operator: Operator) -> Copy:
    """Copy the database to a new file, whole and as of one moment, while gateways may write to it.

    The copy is one file without a write-ahead log, checked and down on the disk when this returns.
    Its own audit log says when it was made. BackupError.
    """
    if target.exists():
        raise BackupError(f"{target} exists already; name another file")
    if not database.exists():
        raise BackupError(f"there is no database {database}")
    part = target.with_name(target.name + ".part")
    try:
        copy = _copy(database, part)
        _note(part, operator, BACKED_UP, f"newest mark {copy.marks}")
        _sync(part)
        part.rename(target)
        sync_folder(target.absolute().parent)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"{target} cannot be made: {_reason(error, target)}") from None
    finally:
        part.unlink(missing_ok=True)
    return copy


def restore(  # noqa: PLR0913 - where from, where to, and who
    source: Path,
    database: Path,
    state_file: StateFile,
    operator: Operator,
    *,
    clock_id: str,
    replace: bool,
) -> Restored:
    """Put a copy in the database's place, at once or not at all. No gateway may run on either.

    The state file then says that the database has to be adopted, unless nothing can be missing: the
    copy has the newest mark that the state file knows, and no fewer events than what it replaces. A
    database that is replaced is kept beside it. BackupError, StoreUnusable, StateFileError.
    """
    _check_source(source, database, replace=replace)
    recorded = state_file.read()
    part = database.with_name(f".{database.name}.restoring")
    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        copy = _copy(source, part)
        _note(part, operator, RESTORED, f"from {source}, newest mark {copy.marks}")
        _sync(part)
        frozen = _missing(copy, recorded, _newest_event(database))
        _checkpoint(database)
        close_to_others(_beside(database, each) for each in ("", *_BESIDE))
        _match_owner(part, database)
        # Before the file: should this end in between, the database that is still there is frozen.
        state_file.rewrite(copy.marks, frozen=frozen, file=FileId.of(part, clock_id))
        kept = _put_aside(database)
        part.replace(database)
        sync_folder(database.absolute().parent)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"{database} was not restored: {_reason(error, database)}") from None
    finally:
        part.unlink(missing_ok=True)
    return Restored(copy, frozen, kept)


def _reason(error: OSError | sqlite3.Error, path: Path) -> str:
    """Return in words why a file cannot be written."""
    folder = path.absolute().parent
    if isinstance(error, FileNotFoundError) and not folder.exists():
        return f"there is no folder {folder}"
    if isinstance(error, PermissionError):
        return f"this user may not write in {folder}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return why(path, error)


def _check_source(source: Path, database: Path, *, replace: bool) -> None:
    revision = migrate.current_revision(source)
    if revision is None:
        raise BackupError(f"there is no backup {source}")
    if revision not in migrate.known_revisions():
        raise BackupError(f"{source} has schema {revision}, which this program does not know")
    if not database.exists():
        return
    if database.samefile(source):
        raise BackupError(f"{source} is the database itself")
    if not replace:
        raise BackupError(
            f"there is a database {database}. With --force the backup takes its place, "
            "and it is kept beside it"
        )


def _missing(copy: Copy, recorded: Recorded | None, events: int) -> str | None:
    """Return why something may be missing from a copy that is put in place, or None. Pure.

    `events`: the newest event of the database that it replaces.
    """
    if recorded is None:
        return "the database was restored, and there was no state file to compare it with"
    if recorded.frozen is not None:
        return recorded.frozen
    if copy.marks != recorded.marks:
        return (
            f"the database was restored from a copy with newest mark {copy.marks}, "
            f"and the state file had {recorded.marks}"
        )
    if copy.events < events:
        return "the database was restored from a copy that is older than what it replaced"
    return None


def _copy(source: Path, target: Path) -> Copy:
    """Copy a database of whatever schema into a new file; check the copy."""
    target.unlink(missing_ok=True)
    os.close(private(str(target), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    with closing(_connect(source, "ro")) as old, closing(_connect(target, "rw")) as new:
        # In one step: a writer beside us would make a copy in several steps begin again and again.
        old.backup(new)
        # One file that can be moved alone.
        new.execute("PRAGMA journal_mode=DELETE")
        (found,) = new.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged, and so may the database be: {found}")
        return Copy(
            revision=_value(new, "SELECT version_num FROM alembic_version", None),
            marks=_value(new, "SELECT marks FROM store_state WHERE id = 1", 0),
            events=_value(new, _NEWEST_EVENT, 0),
        )


def _note(path: Path, operator: Operator, act: str, detail: str) -> None:
    """Write to the audit log of a copy, if its schema has one."""
    row = {
        "id": operator.ids.new("aud"),
        "at": operator.at,
        "actor": operator.name,
        "act": act,
        "subject": DATABASE,
        "detail": detail,
    }
    with closing(_connect(path, "rw")) as copy:
        add_to_copy(copy, row)


def _newest_event(database: Path) -> int:
    """Return the position of the newest event; 0 where the database is missing or cannot be read."""
    if not _is_sqlite(database):
        return 0
    with suppress(sqlite3.Error), closing(_connect(database, "ro")) as found:
        return int(_value(found, _NEWEST_EVENT, 0))
    return 0


def _is_sqlite(database: Path) -> bool:
    """Whether a file begins as a database does. Of another one SQLite would throw the log away."""
    try:
        with database.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except FileNotFoundError:
        return False


def _checkpoint(database: Path) -> None:
    """Bring what is in the write-ahead log into the present database. BackupError: it is in use."""
    if not _is_sqlite(database):
        return
    try:
        with closing(_connect(database, "rw")) as old:
            old.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _IN_USE:
            raise BackupError(f"{database} is in use: stop what uses it") from None
        # It cannot be read, which may be why it is replaced: it is kept with its log, as it is.


def _put_aside(database: Path) -> Path | None:
    """Keep the present database under another name, so that nothing of it gets into the new one.

    A write-ahead log that stayed would be taken for one of the new file.
    """
    kept = _free_name(database)
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            _beside(database, suffix).rename(_beside(kept, suffix))
    if not database.exists():
        return None
    try:
        # A second name, then the new file over the first: there is a database at every moment.
        kept.hardlink_to(database)
    except OSError:
        database.rename(kept)
    return kept


def _match_owner(path: Path, database: Path) -> None:
    """Give a file the owner and mode of the present database, so that the gateway can use it."""
    if database.exists():
        model = database.stat()
        path.chmod(mode_like(model.st_mode))
        if os.geteuid() == 0:
            os.chown(path, model.st_uid, model.st_gid)


def _free_name(database: Path) -> Path:
    number = 1
    while any(_beside(database, f".replaced-{number}{each}").exists() for each in ("", *_BESIDE)):
        number += 1
    return _beside(database, f".replaced-{number}")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)


def _value(connection: sqlite3.Connection, text: str, default: Any) -> Any:
    """Return one value; the default where the schema does not have it."""
    try:
        row = connection.execute(text).fetchone()
    except sqlite3.OperationalError:
        return default
    return default if row is None else row[0]


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
