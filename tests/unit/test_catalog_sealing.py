"""Secrets at rest: readable with the key file only, bound to their row, never shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from sqlalchemy import select

from holdfast_manager.catalog import Catalog
from holdfast_manager.catalog.errors import SealingKeyUnusable, SecretUnreadable
from holdfast_manager.catalog.sealing import Sealer, make_key_file, read_key_file
from holdfast_manager.catalog.tables import servers
from holdfast_manager.catalog.values import ServerEntry
from holdfast_manager.settings import ManagerSettings

PASSWORD = "correct horse battery staple"  # noqa: S105 # a test's


@pytest.fixture
def sealed(stocked: Catalog) -> Catalog:
    stocked.servers.set_secret("lab", {"password": PASSWORD})
    stocked.repositories.set_master_key("main", b"master-key-of-thirty-two-bytes!!")
    return stocked


def test_neither_the_database_nor_a_repr_tells_a_secret(sealed: Catalog, manager_settings: ManagerSettings) -> None:
    sealed.close()
    content = b"".join(path.read_bytes() for path in manager_settings.home.iterdir())
    assert PASSWORD.encode() not in content
    assert b"master-key-of" not in content
    assert PASSWORD not in repr(sealed.servers.list())
    assert sealed.servers.secret("lab") == {"password": PASSWORD}
    assert sealed.repositories.master_key("main") == b"master-key-of-thirty-two-bytes!!"


def test_without_the_key_file_all_but_secrets_works(sealed: Catalog, manager_settings: ManagerSettings) -> None:
    manager_settings.sealing_key_file.unlink()
    with Catalog.open(manager_settings) as again:
        assert again.servers.get("lab").has_secret
        with pytest.raises(SealingKeyUnusable, match="give each secret again"):
            again.servers.secret("lab")


def test_another_key_does_not_open(sealed: Catalog, manager_settings: ManagerSettings) -> None:
    manager_settings.sealing_key_file.write_bytes(bytes(32))
    with Catalog.open(manager_settings) as again, pytest.raises(SecretUnreadable) as raised:
        again.repositories.master_key("main")
    assert raised.value.exit_code == 12


def test_any_altered_byte_is_noticed(tmp_path: Path) -> None:
    make_key_file(tmp_path / "key")
    sealer = Sealer(tmp_path / "key")
    whole = sealer.seal(b"secret", "server", "lab", "credentials")
    assert sealer.unseal(whole, "server", "lab", "credentials") == b"secret"
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 0x40
        with pytest.raises(SecretUnreadable):
            sealer.unseal(bytes(altered), "server", "lab", "credentials")
    for cut in (0, 1, 12, 13, 28, len(whole) - 1):
        with pytest.raises(SecretUnreadable):
            sealer.unseal(whole[:cut], "server", "lab", "credentials")


def test_a_secret_moved_to_another_row_does_not_open(sealed: Catalog) -> None:
    sealed.servers.add(ServerEntry(name="evil", plugin="images"))
    with sealed.database.writing() as connection:
        stolen = connection.scalar(select(servers.c.secret).where(servers.c.name == "lab"))
        connection.execute(servers.update().where(servers.c.name == "evil").values(secret=stolen))
    with pytest.raises(SecretUnreadable, match="'evil'"):
        sealed.servers.secret("evil")


def test_the_same_secret_never_looks_the_same(tmp_path: Path) -> None:
    make_key_file(tmp_path / "key")
    sealer = Sealer(tmp_path / "key")
    assert len({sealer.seal(b"secret", "server", "lab", "credentials") for _ in range(20)}) == 20


def test_nobody_else_may_read_what_the_manager_keeps(catalog: Catalog, manager_settings: ManagerSettings) -> None:
    home = manager_settings.home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
    assert modes == {"catalog.db": 0o600, "catalog.key": 0o600}


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    make_key_file(key_file)
    key_file.chmod(0o640)
    with pytest.raises(SealingKeyUnusable, match=f"chmod 600 {key_file}"):
        read_key_file(key_file)


def test_a_key_file_is_made_once_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    make_key_file(key_file)
    first = read_key_file(key_file)
    make_key_file(key_file)
    assert read_key_file(key_file) == first
    os.truncate(key_file, 31)
    with pytest.raises(SealingKeyUnusable, match="32 bytes"):
        make_key_file(key_file)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
