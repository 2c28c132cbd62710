"""A repository on a real NFS mount. ``tests/fault/test_nfs.py`` runs this where there is one; else it is skipped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_agent.errors import Locked, RepositoryClaimed
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.hosts import RepositoryHost
from holdfast_agent.model.ids import new_sid
from holdfast_agent.repository import claims, layout
from holdfast_agent.repository.file_systems import network_file_system
from holdfast_agent.repository.gc.collector import collect
from holdfast_agent.repository.repository import Repository
from holdfast_agent.repository.verify import verify
from lab import busy_stage
from lab import repositories as lab
from lab.collecting import Ground
from lab.nfs_guest import MOUNT, OLD_MOUNT

GEOMETRY = Geometry(4 * lab.BLOCK, lab.LOG2)
ONE, OTHER = RepositoryHost("1" * 40, "one"), RepositoryHost("2" * 40, "other")
KILLS, LONGEST_LIFE_S = 6, 4.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if network_file_system(tmp_path) != "NFS":
        pytest.skip("this is no NFS")
    lab.create(tmp_path / "repository")
    yield tmp_path


def open_as(folder: Path, host: RepositoryHost) -> Repository:
    return Repository.open(folder / "repository", folder / "cache", host=host)


def test_one_agent_claims_it_and_all_others_are_refused(folder: Path) -> None:
    open_as(folder, ONE).close()
    open_as(folder, ONE).close()
    with pytest.raises(RepositoryClaimed, match="one"):
        open_as(folder, OTHER)
    claims.take_over(folder / "repository", OTHER)
    open_as(folder, OTHER).close()
    with pytest.raises(RepositoryClaimed, match="other"):
        open_as(folder, ONE)


def test_nobody_takes_over_while_a_process_holds_a_session(folder: Path) -> None:
    """The lock goes with the last process that inherited it, as on a local disk."""
    repository = open_as(folder, ONE)
    lock = repository.begin_session(sid := new_sid())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    lock.close()
    assert repository.recover().fenced == ()
    with pytest.raises(Locked, match=sid):
        claims.take_over(folder / "repository", OTHER)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert repository.recover().fenced == (sid,)
    claims.take_over(folder / "repository", OTHER)
    os.close(writer)
    repository.close()


def test_what_is_removed_while_it_is_open_is_no_object(folder: Path) -> None:
    """A client of NFS 4.0 renames such a file and keeps it until the last descriptor is closed."""
    folder = OLD_MOUNT / folder.relative_to(MOUNT)
    repository = open_as(folder, ONE)
    lock = repository.begin_session(sid := new_sid())
    left = list((folder / "repository" / layout.TMP).iterdir())
    assert [path.name[:4] for path in left] == [".nfs"], "the name under which the session's record was written"
    assert list(repository.store.names(layout.TMP)) == []
    assert repository.recover().leftovers == 0
    collector = threading.Thread(target=collect, args=(repository,))
    collector.start()
    repository.abort(sid)
    collector.join()
    assert verify(repository, 1).ok
    lock.close()
    assert list((folder / "repository" / layout.TMP).iterdir()) == []
    repository.close()


def test_backups_are_collected_and_verified(folder: Path) -> None:
    (folder / "busy").mkdir()
    ground = Ground(folder / "busy")
    for _ in range(2):
        ground.litter()
        repository = lab.open_at(ground.folder)
        assert collect(repository).swept_packs
        assert verify(repository, 2, keys=lab.KEYS).ok
        repository.close()
        ground.check()


def test_kills_of_everybody_leave_every_point_whole(folder: Path) -> None:
    (folder / "busy").mkdir()
    busy_stage.run(folder / "busy", KILLS, LONGEST_LIFE_S)
