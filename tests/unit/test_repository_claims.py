"""One agent for each repository on network storage; which storage that is, as the kernel says."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from holdfast_agent.errors import Locked, RepositoryClaimed, RepositoryNotFound
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.ids import new_sid
from holdfast_agent.repository.claims import serving_host, take_over
from holdfast_agent.repository.configuration import Config
from holdfast_agent.repository.file_systems import file_system_type, network_file_system
from holdfast_agent.repository.file_writing import System
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from lab import repositories as lab
from lab.faults import FaultySystem

FIRST = RepositoryHost("f" * 40, "first")
SECOND = RepositoryHost("s" * 40, "second")
PROC_MAGIC = 0x9FA0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lab.create(tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says of every path that it lies on NFS."""
    monkeypatch.setattr("holdfast_agent.repository.store.network_file_system", lambda path: "NFS")


@contextlib.contextmanager
def opened(path: Path, host: RepositoryHost, system: System = os) -> Iterator[Repository]:
    cache = path.parent / f"cache of {host.name}"
    repository = Repository.open(path, cache, system, host=host)
    with contextlib.closing(repository):
        yield repository


def configurations(path: Path) -> list[str]:
    return sorted(each.name for each in (path / "config").iterdir())


def test_the_kernel_tells_the_file_system(tmp_path: Path) -> None:
    assert file_system_type(Path("/proc")) == PROC_MAGIC
    assert network_file_system(tmp_path) == ""
    with pytest.raises(FileNotFoundError):
        file_system_type(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("magic", "name"),
    [(0x6969, "NFS"), (0xFF534D42, "SMB"), (0xFE534D42, "SMB"), (0x65735546, "FUSE"), (0xEF53, ""), (0x58465342, "")],
)
def test_network_storage_is_known_by_its_number(
    magic: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast_agent.repository.file_systems.file_system_type", lambda path: magic)
    found = network_file_system(tmp_path)
    assert found.startswith(name)
    assert bool(found) == bool(name)


def test_local_storage_is_not_claimed(path: Path) -> None:
    for host in (FIRST, SECOND):
        with opened(path, host):
            assert serving_host(path) is None
    assert configurations(path) == ["000001"]


@pytest.mark.usefixtures("network")
def test_on_network_storage_the_first_agent_serves_and_others_are_refused(path: Path) -> None:
    with opened(path, FIRST), pytest.raises(RepositoryClaimed) as refused, opened(path, SECOND):
        pass
    assert "served by the agent first" in str(refused.value)
    assert f"holdfast-agent take-over {path}" in str(refused.value)
    assert not refused.value.retryable
    with opened(path, RepositoryHost(FIRST.key, "renamed")) as again:
        assert verify(again, 0).ok
    assert serving_host(path) == FIRST
    assert configurations(path) == ["000001", "000002"]


@pytest.mark.usefixtures("network")
def test_a_claim_counts_where_the_storage_is_local(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path, FIRST):
        pass
    monkeypatch.undo()
    with pytest.raises(RepositoryClaimed), opened(path, SECOND):
        pass
    with opened(path, FIRST):
        pass


@pytest.mark.usefixtures("network")
def test_of_two_that_claim_at_once_one_wins(path: Path) -> None:
    def second_is_quicker(_kind: str) -> None:
        with opened(path, SECOND):
            pass

    system = FaultySystem(1, second_is_quicker, frozenset({"link"}))
    with pytest.raises(RepositoryClaimed, match="second"), opened(path, FIRST, system):
        pass
    assert system.faults == 1
    assert serving_host(path) == SECOND
    assert configurations(path) == ["000001", "000002"]


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_storage_that_takes_no_claim_can_be_read(path: Path, number: int) -> None:
    def refuse(_kind: str) -> None:
        raise OSError(number, os.strerror(number))

    system = FaultySystem(1, refuse, frozenset({"open"}))
    with opened(path, FIRST, system) as repository:
        assert repository.points() == []
    assert system.faults == 1
    assert serving_host(path) is None


@pytest.mark.usefixtures("network")
def test_changes_of_the_configuration_keep_the_claim(path: Path) -> None:
    with opened(path, FIRST) as repository:
        repository.raise_epoch(2)
    with opened(path, FIRST) as repository:
        assert repository.epoch == 2
    assert serving_host(path) == FIRST


@pytest.mark.usefixtures("network")
def test_take_over(path: Path) -> None:
    with opened(path, FIRST) as repository:
        repository.raise_epoch(2)
        lock = repository.begin_session(new_sid())
        with pytest.raises(Locked, match="the session"):
            take_over(path, SECOND)
        assert serving_host(path) == FIRST
        lock.close()  # as when that host dies
    take_over(path, SECOND)
    with opened(path, SECOND) as repository:
        assert repository.epoch == 2
        assert len(repository.recover().fenced) == 1
    with pytest.raises(RepositoryClaimed, match="second"), opened(path, FIRST):
        pass


def test_nothing_to_take_over(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFound):
        take_over(tmp_path, SECOND)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_without_a_claim_has_the_bytes_that_it_always_had() -> None:
    body = msgspec.json.decode(msgspec.json.encode(Config(lab.REPOSITORY_ID, 1.0)))
    assert "host" not in body
    claimed = Config(lab.REPOSITORY_ID, 1.0, host=FIRST)
    assert msgspec.json.decode(msgspec.json.encode(claimed), type=Config) == claimed
