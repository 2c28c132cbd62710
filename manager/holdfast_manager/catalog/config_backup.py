"""The manager's configuration in one encrypted file: database, sealing key and identity, and back from it.

With it a new host takes the place of a lost one: agents know it by the same key, repositories are unlocked, history and
obligations are there. The manager's TOML file is not in it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from blake3 import blake3

from holdfast_agent.durable import new_file, sync_folder
from holdfast_agent.errors import AlreadyExists, Denied, UsageError
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.sealing.slots import DEFAULT_MEMORY_KIB

from ..settings import ManagerSettings
from .database import Database, url_of
from .errors import CatalogMissing, CatalogUnavailable, ConfigBackupUnreadable
from .schema import migrate
from .sealed_stream import OpeningReader, SealingWriter

_MANIFEST = "manifest.json"
_DATABASE = "catalog.db"
_BUSY_S = 30.0
_MOST_MANIFEST_BYTES = 1 << 16
_COPY_BYTES = 1 << 20


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds: name of each member to its BLAKE3 in hex. ``created``: Unix time."""

    created: float
    members: dict[str, str]
    version: int = 1


def back_up(settings: ManagerSettings, file: Path, passphrase: str, memory_kib: int = DEFAULT_MEMORY_KIB) -> Manifest:
    """Write a backup to the new file ``file`` (0600); whole and durable when this returns, absent after an error.

    Sessions may run: the copy of the database is one state of it. Raises ``AlreadyExists``, ``CatalogMissing``,
    ``UsageError`` (a database server has tools of its own), and ``Denied`` or ``CatalogUnavailable`` for the files.
    """
    database = _database_file(settings)
    if not database.exists():
        raise CatalogMissing(place=str(database))
    with _as_denied(settings.home), _scratch(settings.home, "backup") as scratch:
        _copy_database(database, scratch / _DATABASE)
        members = {_DATABASE: scratch / _DATABASE} | _key_files(settings)
        manifest = Manifest(time.time(), {name: _digest(path) for name, path in members.items()})
        with _as_denied(file):
            _write(file, passphrase, memory_kib, manifest, members)
    return manifest


def restore(settings: ManagerSettings, file: Path, passphrase: str) -> Manifest:
    """Put a backup where ``settings`` say that the configuration is. Nothing that exists is ever overwritten.

    Everything is read, proved and looked at before anything is put in its place, the database last; repeated after a
    crash it goes on. Raises ``AlreadyExists``, ``ConfigBackupLocked``, ``ConfigBackupUnreadable``, ``CatalogNewer``.
    """
    database = _database_file(settings)
    places = _key_files(settings) | {_DATABASE: database}
    if database.exists() and database.stat().st_size:
        raise AlreadyExists(kind="configuration database", name=str(database))
    with _as_denied(settings.home):
        for folder in {path.parent for path in places.values()}:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _as_denied(settings.home), _scratch(settings.home, "restore") as scratch:
        manifest = _read(file, passphrase, scratch, set(places))
        _check_database(scratch / _DATABASE, file)
        for name, place in places.items():
            _check_place(scratch / name, place)
        for name, place in places.items():  # in this order: without a database there is no configuration yet
            _put(scratch / name, place)
    return manifest


def _key_files(settings: ManagerSettings) -> dict[str, Path]:
    return {"catalog.key": settings.sealing_key_file, "manager.key": settings.identity_file}


def _database_file(settings: ManagerSettings) -> Path:
    url = url_of(settings)
    if url.get_backend_name() != "sqlite" or not url.database:
        reason = "the configuration is on a database server: back that up by its own tools, and the keys in"
        raise UsageError(reason=f"{reason} {settings.home} with it")
    return Path(url.database)


@contextlib.contextmanager
def _scratch(home: Path, what: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=f".{what}-", dir=home) as folder:
        yield Path(folder)


def _copy_database(source: Path, target: Path) -> None:
    """One state of a database that others write to: SQLite's own backup, in one step under its read lock."""
    target.touch(0o600)
    try:
        uri = f"{source.absolute().as_uri()}?mode=ro"
        with (
            contextlib.closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        raise CatalogUnavailable(place=str(source), reason=str(error)) from error


def _write(file: Path, passphrase: str, memory_kib: int, manifest: Manifest, members: dict[str, Path]) -> None:
    if file.exists():
        raise AlreadyExists(kind="file", name=str(file))
    try:
        with new_file(file) as target:
            _write_sealed(target, passphrase, memory_kib, manifest, members)
    except FileExistsError:
        raise AlreadyExists(kind="file", name=str(file)) from None


def _write_sealed(
    target: BinaryIO, passphrase: str, memory_kib: int, manifest: Manifest, members: dict[str, Path]
) -> None:
    """A stream: the manifest first, so that whoever reads knows what is to come."""
    sealed = SealingWriter(target, passphrase, memory_kib)
    with tarfile.open(fileobj=sealed, mode="w|", bufsize=_COPY_BYTES) as archive:
        body = msgspec.json.encode(manifest)
        archive.addfile(_entry(_MANIFEST, len(body)), io.BytesIO(body))
        for name, path in members.items():
            with path.open("rb") as member:
                archive.addfile(_entry(name, path.stat().st_size), member)
    sealed.finish()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o600
    return entry


def _read(file: Path, passphrase: str, scratch: Path, wanted: set[str]) -> Manifest:
    """Unpack exactly the members that are ``wanted``; all proved by the stream and against the manifest."""
    try:
        with file.open("rb") as source:
            opened = io.BufferedReader(OpeningReader(source, passphrase, str(file)), _COPY_BYTES)
            with tarfile.open(fileobj=opened, mode="r|", bufsize=_COPY_BYTES) as archive:
                manifest = _read_members(archive, scratch, wanted, file)
            while opened.read(_COPY_BYTES):  # to the last chunk: what was cut off behind the archive is cut too
                pass
    except OSError as error:
        raise Denied(reason=f"{file} cannot be read: {error.strerror or error}") from error
    except (tarfile.TarError, *NOT_DECODED) as error:
        raise ConfigBackupUnreadable(file=str(file), reason=str(error)) from error
    found = {name: _digest(scratch / name) for name in wanted if (scratch / name).exists()}
    if found != manifest.members or manifest.version != 1:
        raise ConfigBackupUnreadable(file=str(file), reason="it does not hold what its manifest says")
    return manifest


def _read_members(archive: tarfile.TarFile, scratch: Path, wanted: set[str], file: Path) -> Manifest:
    manifest: Manifest | None = None
    for entry in archive:
        content = archive.extractfile(entry) if entry.isreg() else None
        if content is None or entry.name not in wanted | {_MANIFEST}:
            raise ConfigBackupUnreadable(file=str(file), reason=f"it holds {entry.name!r}, which has no place here")
        if entry.name == _MANIFEST:
            manifest = msgspec.json.decode(content.read(_MOST_MANIFEST_BYTES), type=Manifest)
            continue
        handle = os.open(scratch / entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as member:
            while piece := content.read(_COPY_BYTES):
                member.write(piece)
            member.flush()
            os.fsync(handle)
    if manifest is None:
        raise ConfigBackupUnreadable(file=str(file), reason="it has no manifest")
    return manifest


def _check_database(copy: Path, file: Path) -> None:
    """Whole by SQLite's own check, and brought to this version's schema. Raises ``CatalogNewer``."""
    try:
        with contextlib.closing(sqlite3.connect(copy)) as database:
            found = database.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        raise ConfigBackupUnreadable(file=str(file), reason=str(error)) from error
    if found != "ok":
        raise ConfigBackupUnreadable(file=str(file), reason=f"its database is damaged: {found}")
    opened = Database(url_of(ManagerSettings(data_dir=str(copy.parent))))
    try:
        migrate(opened)
    finally:
        opened.close()


def _check_place(source: Path, place: Path) -> None:
    if place.exists() and place.stat().st_size and _digest(place) != _digest(source):
        raise AlreadyExists(kind="file", name=str(place))


def _put(source: Path, place: Path) -> None:
    """Give a file its place, without ever replacing one; the same bytes already there are fine."""
    if place.exists() and not place.stat().st_size:
        place.unlink()  # an empty database, as `init` leaves it when it is cut off
    with source.open("rb") as file:
        os.fsync(file.fileno())  # of the database: the migration has written to it
    try:
        os.link(source, place)
    except FileExistsError:
        _check_place(source, place)
    except OSError as error:
        if error.errno != errno.EXDEV:  # of a database that the configuration puts on another file system
            raise
        with new_file(place) as target, source.open("rb") as content:
            shutil.copyfileobj(content, target, _COPY_BYTES)
    sync_folder(place.parent)


def _digest(path: Path) -> str:
    hasher = blake3()
    with path.open("rb") as file:
        while piece := file.read(_COPY_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()


@contextlib.contextmanager
def _as_denied(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Denied(reason=f"{place}: {error.strerror or error}") from error
