"""A PostgreSQL server of the tests' own: Debian's package, a Unix socket and nothing else, an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from .tools import missing
from .users import NOBODY

_VERSIONS = Path("/usr/lib/postgresql")
_USER = "holdfast"
_START_TIMEOUT_S = 60.0


class PostgresServer:
    """A server whose data lies in ``folder``. Made by :func:`postgres_server`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._options: dict[str, Any] = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
        self._programs = _programs()
        if self._options:
            os.chown(folder, NOBODY, NOBODY)
        make = ("initdb", "--no-sync", "--auth=trust", f"--username={_USER}", "--encoding=UTF8", "--locale=C.UTF-8")
        self._run(*make, "-D", str(folder / "data"))

    def start(self) -> None:
        """Start it, again after a kill; ready when this returns."""
        settings = ("listen_addresses=", f"unix_socket_directories={self._folder}", "fsync=off", "autovacuum=off")
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data")]
        command += [part for setting in settings for part in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, **self._options
            )
        give_up = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return self._execute("SELECT 1")
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.05)

    def kill(self) -> None:
        """All of its processes at once, as a crash of the host does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # "immediate": no clean-up at all, recovery at the next start
            self._process.wait(30)

    def restart(self) -> None:
        """As an upgrade of its packages does: connections are ended, what is committed is on disk."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)  # "fast"
        self._process.wait(30)
        self.start()

    def database(self) -> str:
        """A new, empty database; its name."""
        name = f"t{secrets.token_hex(6)}"
        self._execute(f"CREATE DATABASE {name}")
        return name

    def empty(self, url: str, tables: Sequence[str]) -> None:
        """Remove all rows of ``tables``, and begin their numbers anew."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY".encode())

    def drop(self, name: str) -> None:
        """Remove a database, whoever is still connected."""
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """What a manager's configuration says to use it."""
        return f"postgresql://{_USER}@/{name}?host={self._folder}"

    def cut_connections(self, name: str) -> None:
        """End every connection to a database, in the middle of whatever it does."""
        self._execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)

    def _execute(self, statement: str, *values: str) -> None:
        with psycopg.connect(dbname="postgres", user=_USER, host=str(self._folder), autocommit=True) as connection:
            connection.execute(statement.encode(), values or None)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._folder, **self._options)
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that runs; gone afterwards with all that it held. Skips the test where PostgreSQL is missing."""
    _programs()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))  # short: a socket's path has at most 107 bytes
    server = None
    try:
        server = PostgresServer(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(folder)


def _programs() -> Path:
    """Where the newest version's programs are: Debian keeps them off the PATH."""
    found = sorted(_VERSIONS.glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    if not found:
        missing("PostgreSQL is not installed; Debian and Ubuntu: apt install postgresql")
    return found[-1].parent
