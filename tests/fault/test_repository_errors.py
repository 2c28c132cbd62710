"""The storage reports errors: every write, sync and link of a history fails once, or from then on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_agent.errors import RepositoryError, RepositoryFull, RepositoryIoError, RepositoryReadOnly
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import new_sid
from holdfast_agent.repository.outcomes import Outcome
from holdfast_agent.repository.verify import verify
from holdfast_agent.sealing.roots import open_point
from lab import repositories as lab
from lab.faults import FaultySystem

GEOMETRY = Geometry(4 * lab.BLOCK, lab.LOG2)
CHANGING = frozenset({"open", "writev", "fsync", "link"})
ERRORS = {
    errno.EIO: RepositoryIoError,
    errno.ENOSPC: RepositoryFull,
    errno.EDQUOT: RepositoryFull,
    errno.EROFS: RepositoryReadOnly,
}


def raising(number: int) -> Callable[[str], None]:
    def fault(kind: str) -> None:
        raise OSError(number, os.strerror(number))

    return fault


class Lasting(FaultySystem):
    """From the ``at``-th call on, all fail, until ``mend`` is called."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__(kinds=CHANGING)
        self._from: int | None = at
        self._number = number

    def mend(self) -> None:
        self._from = None

    def _before(self, kind: str) -> bool:
        counted = super()._before(kind)
        if counted and self._from is not None and self.calls >= self._from:
            self.faults += 1
            raise OSError(self._number, os.strerror(self._number))
        return counted


def blocks_of(seed: object) -> dict[int, bytes]:
    return {number: lab.block((seed, number)) for number in range(3)}


def count_calls(folder: Path) -> int:
    lab.create(folder / "repository")
    system = FaultySystem(kinds=CHANGING)
    repository = lab.open_at(folder, system)
    lab.backup(repository, blocks_of("count"), GEOMETRY)
    repository.close()
    return system.calls


def check_after_error(folder: Path, system: FaultySystem, seed: object, expected: type[RepositoryError]) -> bool:
    """One backup against ``system``: succeeds, or raises ``expected`` and can be given up. Whether it succeeded."""
    repository = lab.open_at(folder, system)
    sid = new_sid()
    failed = False
    try:
        lab.backup(repository, blocks_of(seed), GEOMETRY, sid=sid)
    except expected:
        failed = True
    assert system.faults, "the fault was never exercised"
    if isinstance(system, Lasting):
        system.mend()
    if failed:
        committed = repository.abort(sid) is Outcome.COMMITTED
        assert committed == (sid in {entry.sid for entry in repository.points()})
    assert failed or sid in {entry.sid for entry in repository.points()}
    for entry in repository.points():
        if entry.sid == sid:
            assert lab.restore(repository, open_point(entry, lab.KEYS)) == blocks_of(seed)
    for place in ("sessions", "tmp"):  # clean without any recovery
        assert not list((folder / "repository" / place).iterdir()), place
    repository.close()
    return not failed


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_one_error_at_every_call(tmp_path: Path, number: int) -> None:
    calls = count_calls(tmp_path)
    succeeded = [
        check_after_error(tmp_path, FaultySystem(at, raising(number), CHANGING), (number, at), ERRORS[number])
        for at in range(1, calls + 1)
    ]
    if number == errno.EIO:  # packs and segments get a second attempt; the session record and the point do not
        assert sum(succeeded) > calls / 2
    else:  # a full or read-only disk is told at once
        assert not any(succeeded)
    repository = lab.open_at(tmp_path)
    assert verify(repository, 2, keys=lab.KEYS).ok
    repository.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_lasting_errors_end_in_a_typed_error(tmp_path: Path, number: int) -> None:
    calls = count_calls(tmp_path)
    for at in range(1, calls + 1):
        assert not check_after_error(tmp_path, Lasting(at, number), (number, at), ERRORS[number])
    repository = lab.open_at(tmp_path)
    lab.backup(repository, blocks_of("after"), GEOMETRY)
    assert verify(repository, 2, keys=lab.KEYS).ok
    repository.close()


def test_a_failed_sync_is_never_repeated_on_the_same_file(tmp_path: Path) -> None:
    lab.create(tmp_path / "repository")
    synced: list[str] = []

    class Watched(FaultySystem):
        def fsync(self, fd: int) -> None:
            path = Path(f"/proc/self/fd/{fd}").readlink()
            if path.parent.name == "tmp":
                assert path.name not in synced, "a file was synced again"
                synced.append(path.name)
                if len(synced) == 2:  # the first is the session's record, the second the first pack
                    raise OSError(errno.EIO, "injected")
            super().fsync(fd)

    repository = lab.open_at(tmp_path, Watched())
    point = lab.backup(repository, blocks_of("a"), GEOMETRY)
    assert lab.restore(repository, point) == blocks_of("a")
    assert len(synced) == 8  # session, data (twice), nodes, segment, blob, segment, point
    repository.close()
