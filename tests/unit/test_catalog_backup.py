"""The configuration in one sealed file: the whole cycle, and every damage refused before anything is put in place."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.channel.authentication import KeyPair
from holdfast_agent.errors import AlreadyExists, Denied, UsageError
from holdfast_agent.sealing.slots import LEAST_MEMORY_KIB
from holdfast_manager.catalog.catalog import Catalog
from holdfast_manager.catalog.config_backup import Manifest, back_up, restore
from holdfast_manager.catalog.errors import CatalogMissing, ConfigBackupLocked, ConfigBackupUnreadable
from holdfast_manager.catalog.sealed_stream import CHUNK_BYTES, OpeningReader, SealingWriter
from holdfast_manager.catalog.values import AgentEntry, AgentRole, RepositoryEntry
from holdfast_manager.settings import DatabaseSettings, ManagerSettings
from lab.contents import assert_same

PASSPHRASE = "a passphrase for the safe"  # noqa: S105 -- of these tests
MASTER = b"m" * 32


def settings_of(folder: Path) -> ManagerSettings:
    return ManagerSettings(data_dir=str(folder))


def backed_up(settings: ManagerSettings, file: Path) -> Manifest:
    return back_up(settings, file, PASSPHRASE, memory_kib=LEAST_MEMORY_KIB)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> ManagerSettings:
    """A configuration with an agent and a repository whose key is kept."""
    made = settings_of(tmp_path_factory.mktemp("original") / "home")
    key = KeyPair.generate()
    with Catalog.create(made) as catalog:
        agent = AgentEntry(name="a", endpoint="tcp://h:1", public_key=key.public, roles=(AgentRole.REPOSITORY,))
        catalog.agents.add(agent)
        entry = RepositoryEntry(name="main", agent="a", path="/r", repository_id="ab" * 16, encrypted=True)
        catalog.repositories.add(entry, MASTER)
    key.save(made.identity_file)
    return made


@pytest.fixture
def settings(original: ManagerSettings, tmp_path: Path) -> ManagerSettings:
    """Those of a copy, for one test."""
    return settings_of(shutil.copytree(original.home, tmp_path / "old"))


@pytest.fixture(scope="module")
def sealed(original: ManagerSettings, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A backup of it."""
    file = tmp_path_factory.mktemp("sealed") / "config.backup"
    backed_up(original, file)
    return file.read_bytes()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_backup_makes_the_same_manager_again(settings: ManagerSettings, tmp_path: Path) -> None:
    file = tmp_path / "safe" / "config.backup"
    file.parent.mkdir()
    made = backed_up(settings, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert MASTER not in file.read_bytes()
    assert files(file.parent) == {"config.backup"}
    assert not any(name.startswith(".") for name in files(settings.home))

    new = settings_of(tmp_path / "new")
    assert restore(new, file, PASSPHRASE) == made
    assert files(new.home) == files(settings.home) == {"catalog.db", "catalog.key", "manager.key"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in new.home.iterdir())
    with Catalog.open(new) as catalog:
        assert catalog.repositories.master_key("main") == MASTER
    assert KeyPair.load(new.identity_file).public == KeyPair.load(settings.identity_file).public


def test_nothing_that_exists_is_overwritten(settings: ManagerSettings, tmp_path: Path) -> None:
    file = tmp_path / "config.backup"
    backed_up(settings, file)
    before = file.read_bytes()
    with pytest.raises(AlreadyExists):
        backed_up(settings, file)
    with pytest.raises(AlreadyExists):
        restore(settings, file, PASSPHRASE)
    assert_same(file.read_bytes(), before)
    other = settings_of(tmp_path / "other")
    other.home.mkdir()
    KeyPair.generate().save(other.identity_file)
    kept = other.identity_file.read_bytes()
    with pytest.raises(AlreadyExists, match=r"manager\.key"):
        restore(other, file, PASSPHRASE)
    assert files(other.home) == {"manager.key"}
    assert other.identity_file.read_bytes() == kept


def test_a_restore_that_was_cut_off_goes_on(settings: ManagerSettings, tmp_path: Path) -> None:
    """The keys were there already, the database not yet (or empty, as init leaves it when it is killed)."""
    file = tmp_path / "config.backup"
    backed_up(settings, file)
    new = settings_of(tmp_path / "new")
    new.home.mkdir()
    new.identity_file.write_bytes(settings.identity_file.read_bytes())
    new.identity_file.chmod(0o600)
    new.catalog_file.touch(0o600)
    restore(new, file, PASSPHRASE)
    with Catalog.open(new) as catalog:
        assert catalog.repositories.master_key("main") == MASTER


def test_the_wrong_passphrase_opens_nothing(sealed: bytes, tmp_path: Path) -> None:
    file = tmp_path / "config.backup"
    file.write_bytes(sealed)
    new = settings_of(tmp_path / "new")
    with pytest.raises(ConfigBackupLocked):
        restore(new, file, "another passphrase")
    assert files(new.home) == set()


def flip_in(place: float) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        at = int(len(data) * place)
        return data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]

    return flip


DAMAGE = {
    "empty": lambda data: b"",
    "no backup": lambda data: b"x" * len(data),
    "magic": flip_in(0),
    "slot": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "id": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "huge slot": lambda data: data[:8] + b"\xff\xff\xff\x7f" + data[12:],
    "begin": flip_in(0.1),
    "middle": flip_in(0.5),
    "end": flip_in(0.999),
    "cut by a byte": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "header alone": lambda data: data[:300],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_tampered_backup_is_refused_and_leaves_nothing(sealed: bytes, tmp_path: Path, what: str) -> None:
    file = tmp_path / "config.backup"
    file.write_bytes(DAMAGE[what](sealed))
    new = settings_of(tmp_path / "new")
    with pytest.raises((ConfigBackupUnreadable, ConfigBackupLocked)):
        restore(new, file, PASSPHRASE)
    assert files(new.home) == set()


def test_it_is_one_state_of_a_database_that_is_written_to(settings: ManagerSettings, tmp_path: Path) -> None:
    """Two rows that always change together are never seen apart."""
    stop = threading.Event()
    with sqlite3.connect(settings.catalog_file) as database:
        database.execute("CREATE TABLE pairs (name TEXT PRIMARY KEY, value INTEGER)")
        database.execute("INSERT INTO pairs VALUES ('left', 0), ('right', 0)")
    database.close()

    def write() -> None:
        own = sqlite3.connect(settings.catalog_file, timeout=30)
        while not stop.is_set():
            with own:
                own.execute("UPDATE pairs SET value = value + 1 WHERE name = 'left'")
                own.execute("UPDATE pairs SET value = value + 1 WHERE name = 'right'")
        own.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(3):
            backed_up(settings, tmp_path / f"{turn}.backup")
    finally:
        stop.set()
        writer.join()
    for turn in range(3):
        new = settings_of(tmp_path / f"new{turn}")
        restore(new, tmp_path / f"{turn}.backup", PASSPHRASE)
        copy = sqlite3.connect(new.catalog_file)
        assert len({value for (value,) in copy.execute("SELECT value FROM pairs")}) == 1
        copy.close()


def test_what_cannot_be_backed_up_is_refused(settings: ManagerSettings, tmp_path: Path) -> None:
    with pytest.raises(CatalogMissing):
        backed_up(settings_of(tmp_path / "nowhere"), tmp_path / "x")
    shared = ManagerSettings(data_dir=str(tmp_path), database=DatabaseSettings(url="postgresql://h/d"))
    with pytest.raises(UsageError, match=r"its own tools|not a database"):
        backed_up(shared, tmp_path / "x")
    with pytest.raises(Denied):
        backed_up(settings, tmp_path / "no" / "such" / "folder")
    settings.identity_file.unlink()
    with pytest.raises(Denied):
        backed_up(settings, tmp_path / "without identity")
    assert files(tmp_path) == {"old", "old/catalog.db", "old/catalog.key"}


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_streams_of_any_length_come_back_whole(size: int) -> None:
    plain = os.urandom(size)
    sealed = io.BytesIO()
    writer = SealingWriter(sealed, PASSPHRASE, LEAST_MEMORY_KIB)
    for start in range(0, size, 300_000):
        writer.write(plain[start : start + 300_000])
    writer.finish()
    data = sealed.getvalue()
    assert_same(OpeningReader(io.BytesIO(data), PASSPHRASE, "f").readall(), plain)
    if size > CHUNK_BYTES:  # cut at the boundary of chunks, and chunks swapped
        chunk = CHUNK_BYTES + 16
        front = len(data) - size - 16 * -(-size // CHUNK_BYTES)
        swapped = data[:front] + data[front + chunk : front + 2 * chunk] + data[front : front + chunk]
        for bad in (data[: front + chunk], swapped + data[front + 2 * chunk :]):
            with pytest.raises(ConfigBackupUnreadable):
                OpeningReader(io.BytesIO(bad), PASSPHRASE, "f").readall()
