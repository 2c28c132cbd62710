"""The database file of a local index: found, opened, replaced. A cache: anything odd about it means a new file.

A rollback journal, not WAL: SQLite 3.40 (Python's, here) has the WAL-reset bug with several connections. A file is
never replaced under its name while others have it open, which SQLite does not survive: each new one has a new number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from holdfast_agent.errors import Locked, RepositoryFull, RepositoryIoError

SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 60.0
_NAME = re.compile(r"index-(\d+)\.sqlite")
_SCHEMA = f"""
CREATE TABLE meta (repository_id TEXT NOT NULL);
CREATE TABLE segments (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE packs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE records (
    id BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, kind INTEGER NOT NULL,
    PRIMARY KEY (id, pack)
) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
"""


class IndexOdd(Exception):
    """The file is cut, damaged, foreign or of another version. Internal: the answer is a new file."""


def open_current(folder: Path, repository_id: str) -> tuple[Path, sqlite3.Connection]:
    """The newest database file in ``folder``, made if there is none or the newest is odd."""
    with _exclusive(folder):
        path = _newest(folder)
        if path is not None:
            with contextlib.suppress(IndexOdd):
                return path, _connect(path, repository_id)
        return _make(folder, repository_id)


def replace(folder: Path, repository_id: str, odd: Path) -> tuple[Path, sqlite3.Connection]:
    """A new, empty database in place of ``odd``; or the one by which another process has replaced it already."""
    with _exclusive(folder):
        newest = _newest(folder)
        if newest is not None and newest != odd:
            with contextlib.suppress(IndexOdd):
                return newest, _connect(newest, repository_id)
        return _make(folder, repository_id)


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Translates the errors of a database in ``folder``: damage into :class:`IndexOdd`, a busy file into
    :class:`Locked`, a full disk into :class:`RepositoryFull`."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise Locked(what="the local index", holder="another process") from error
        if name == "SQLITE_READONLY_DBMOVED":
            raise IndexOdd("another process has begun a new file") from error
        if name == "SQLITE_FULL":
            raise RepositoryFull(path=f"{folder}, where its local index is") from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise RepositoryIoError(operation="updating", name="the local index", reason=str(error)) from error
        raise IndexOdd(str(error)) from error


def _newest(folder: Path) -> Path | None:
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return max(numbered)[1] if numbered else None


def _make(folder: Path, repository_id: str) -> tuple[Path, sqlite3.Connection]:
    newest = _newest(folder)
    match = _NAME.fullmatch(newest.name) if newest else None
    number = int(match[1]) + 1 if match else 1
    for old in folder.glob("index-*.sqlite*"):
        old.unlink()  # whoever has it open keeps its own file and journal, whose names never come back
    path = folder / f"index-{number}.sqlite"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with guarded(folder):
        database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            database.execute("INSERT INTO meta VALUES (?)", (repository_id,))
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
    return path, database


def _connect(path: Path, repository_id: str) -> sqlite3.Connection:
    with guarded(path.parent):
        uri = f"{path.absolute().as_uri()}?mode=rw"
        database = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            rows = database.execute("SELECT repository_id FROM meta").fetchall()
            if version != SCHEMA_VERSION or rows != [(repository_id,)]:
                raise IndexOdd("another version, or the index of another repository")
        except BaseException:
            database.close()
            raise
        return database


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Alone among processes in choosing and making database files. Translates errors of the cache's file system."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RepositoryIoError(operation="opening", name=f"the local index in {folder}", reason=reason) from error
