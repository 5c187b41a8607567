"""A primary and its standby: two real servers that are killed, promoted and made again by a test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.testing.stack import free_port
from tests import postgres
from tests.e2e.processes import descendants, still_run

_SECONDS = 60
_SETTINGS = """
listen_addresses = '127.0.0.1'
port = {port}
cluster_name = '{name}'
unix_socket_directories = ''
wal_level = replica
max_wal_senders = 5
hot_standby = on
shared_buffers = 32MB
max_wal_size = 128MB
wal_keep_size = 64MB
synchronous_standby_names = ''
"""


class Node:
    """One server."""

    def __init__(self, folder: Path, name: str, programs: Path, user: str | None) -> None:
        self.name = name
        self.port = free_port()
        self.data = folder / name
        self._programs = programs
        self._user = user

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL."""
        environment = {**os.environ, "PGCONNECT_TIMEOUT": "5", "LC_ALL": "C"}
        log = self.data.with_suffix(".out")
        with log.open("ab") as out:
            done = subprocess.run(
                [str(self._programs / program), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                user=self._user,
                env=environment,
                cwd=self.data.parent,
                timeout=_SECONDS,
            )
        assert done.returncode == 0, f"{program} {arguments}: {log.read_text()[-2000:]}"

    def configure(self) -> None:
        """Write its settings, and forget what came with a copy."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS.format(port=self.port, name=self.name))
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write("synchronous_standby_names = ''\n")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = str(self.data.with_suffix(".log"))
        self.run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-t", str(_SECONDS), "start")

    def kill(self) -> None:
        """Kill it as a power cut would: all of its processes at once."""
        with suppress(FileNotFoundError):
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            for each in (pid, *descendants(pid)):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            while still_run({pid}):
                time.sleep(0.02)
            (self.data / "postmaster.pid").unlink()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database on it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


class Pair:
    """A primary and a standby, and which is which."""

    def __init__(self, folder: Path, programs: Path, user: str | None) -> None:
        self.primary = Node(folder, "a", programs, user)
        self.standby = Node(folder, "b", programs, user)

    @property
    def url(self) -> str:
        """The URL of the database on whichever is the primary."""
        # In one order for ever: it is in the configuration.
        first, second = sorted((self.primary, self.standby), key=lambda each: each.name)
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        return f"postgresql://postgres@{hosts}/payouts?target_session_attrs=read-write"

    def begin(self) -> None:
        """Make the primary."""
        node = self.primary
        node.run("initdb", "-D", str(node.data), "-U", "postgres", "-A", "trust", "-E", "UTF8")
        node.configure()
        node.start()
        postgres.execute(node.url(), "CREATE DATABASE payouts")

    def copy(self) -> None:
        """Make the standby, from the primary as it is."""
        node, source = self.standby, self.primary
        shutil.rmtree(node.data, ignore_errors=True)
        node.run(
            "pg_basebackup",
            *("-D", str(node.data), "-h", "127.0.0.1", "-p", str(source.port)),
            *("-U", "postgres", "-R", "-X", "stream", "-c", "fast"),
        )
        node.configure()
        node.start()

    def synchronous(self, *, wait: bool = True) -> None:
        """Let the primary wait for the standby with every commit."""
        name = self.standby.name
        postgres.execute(
            self.primary.url(),
            f"ALTER SYSTEM SET synchronous_standby_names = '{name}'",
            "SELECT pg_reload_conf()",
        )
        while wait and not postgres.execute(
            self.primary.url(), "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        ):
            pass

    def promote(self) -> None:
        """Make the standby the primary; the other one is to be copied again."""
        self.standby.run("pg_ctl", "-D", str(self.standby.data), "-w", "promote")
        self.primary, self.standby = self.standby, self.primary

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby."""
        self.primary.kill()
        self.promote()

    def end(self) -> None:
        """Kill both."""
        self.primary.kill()
        self.standby.kill()


@contextmanager
def pair(*, standby: bool = True, synchronous: bool = True) -> Iterator[Pair]:
    """Have a primary and a standby, or the primary alone."""
    programs, user = postgres.programs(), postgres.system_user()
    with postgres.short_folder(user) as folder:
        made = Pair(folder, programs, user)
        try:
            made.begin()
            if standby:
                made.copy()
            if standby and synchronous:
                made.synchronous()
            yield made
        finally:
            made.end()
