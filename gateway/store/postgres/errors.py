"""What PostgreSQL's errors say: of one statement, of a conflict, of the connection, of the server.

The rest of the gateway knows the errors of the standard library's database driver; a statement's error
becomes the one of the same meaning.
"""

from __future__ import annotations

import asyncio
import sqlite3

import asyncpg

from gateway.store.connection import WriteFault


class Unavailable(sqlite3.OperationalError):
    """PostgreSQL cannot be used now; nothing was written."""


class OutcomeUnknown(sqlite3.OperationalError):
    """The connection was lost in the commit, and PostgreSQL does not answer: it may have been written."""

    outcome_unknown = True


class Conflict(Exception):
    """The transaction was undone because of another one; it is run again.

    `ordered`: it needs the turn of those that write events, and another transaction has it.
    """

    def __init__(self, *, ordered: bool = False) -> None:
        self.ordered = ordered
        super().__init__()


class ConnectionLost(Exception):
    """The connection is gone, and the transaction with it, unless it was committing."""


_GONE = (
    OSError,
    EOFError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
#: Errors that are about the whole server, by code.
_WORDS = {
    "08": "PostgreSQL cannot be reached",
    "28": "PostgreSQL does not let this role in",
    "3D000": "PostgreSQL has no such database",
    "53100": "PostgreSQL's disk is full",
    "53200": "PostgreSQL is out of memory",
    "53300": "PostgreSQL has no free connection",
    "57P01": "PostgreSQL is stopped or restarted",
    "57P02": "PostgreSQL is stopped or restarted",
    "57P03": "PostgreSQL is starting or stopping",
    "25006": "PostgreSQL is read-only: it is a standby, or set to be so",
    "42501": "PostgreSQL refuses it to this role",
    "57014": "a statement took too long, or waited too long for another transaction",
    "55P03": "another transaction kept a lock for too long",
    "58": "PostgreSQL cannot read or write its files",
    "XX": "PostgreSQL reports damaged data",
}
#: Of these the connection is closed by the server.
_CLOSING = ("08", "57P01", "57P02", "57P03", "25P03", "53300", "28", "3D000")


def words_of(error: BaseException) -> str | None:
    """Return what an error means for the whole server, or None if it is about one statement."""
    code = getattr(error, "sqlstate", None)
    if code is not None:
        for length in (5, 2):
            if code[:length] in _WORDS:
                return _WORDS[code[:length]]
        return None
    if isinstance(error, _GONE) and not isinstance(error, ValueError):
        return "PostgreSQL cannot be reached"
    return None


def write_fault(error: BaseException) -> WriteFault | None:
    """Return what an error means for the whole store; None if it is about one statement."""
    cause = error.__cause__ if isinstance(error, (Unavailable, OutcomeUnknown)) else error
    words = words_of(cause or error)
    if words is None:
        return None
    return WriteFault(words, full=getattr(cause, "sqlstate", None) == "53100")


def translated(error: BaseException) -> BaseException:
    """Return an error of asyncpg as the one that the gateway knows; any other one as it is."""
    code = getattr(error, "sqlstate", None)
    new: Exception
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        # A value that the statement cannot take; the connection is as it was.
        new = sqlite3.DataError(str(error))
    elif code in {"40001", "40P01"}:
        new = Conflict()
    elif code is not None and code.startswith(_CLOSING):
        new = ConnectionLost()
    elif code is not None and code.startswith("23"):
        new = sqlite3.IntegrityError(str(error))
    elif code is not None and (words := words_of(error)) is not None:
        new = Unavailable(f"{words}; nothing was written")
    elif isinstance(error, asyncpg.PostgresError) and not isinstance(error, _GONE):
        new = sqlite3.ProgrammingError(f"{code}: {error}")
    elif isinstance(error, _GONE):
        new = ConnectionLost()
    else:
        return error
    new.__cause__ = error
    return new
