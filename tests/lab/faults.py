"""A layer over the system calls of a repository in which each call can fail, or be the last one of the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast_agent.repository.file_writing import Buffer


class FaultySystem:
    """Calls :mod:`os`; before the ``at``-th call (from 1) ``fault`` is called with that call's name.

    The fault raises an OSError, or kills the process. ``kinds``: only these calls count, all by default.
    """

    def __init__(
        self, at: int = 0, fault: Callable[[str], None] | None = None, kinds: frozenset[str] | None = None
    ) -> None:
        self.calls = 0
        self.faults = 0
        self._at = at
        self._fault = fault
        self._kinds = kinds

    def _before(self, kind: str) -> bool:
        if self._kinds is not None and kind not in self._kinds:
            return False
        self.calls += 1
        if self.calls == self._at and self._fault is not None:
            self.faults += 1
            self._fault(kind)
        return True

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        self._before("open")
        return os.open(path, flags, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def writev(self, fd: int, buffers: Sequence[Buffer], /) -> int:
        if self.calls + 1 == self._at:  # a torn write: half of it arrives
            half = b"".join(buffers)
            os.write(fd, half[: len(half) // 2])
        self._before("writev")
        return os.writev(fd, buffers)

    def fsync(self, fd: int) -> None:
        self._before("fsync")
        os.fsync(fd)

    def link(self, src: str, dst: str) -> None:
        self._before("link")
        os.link(src, dst)

    def unlink(self, path: str) -> None:
        self._before("unlink")
        Path(path).unlink()


class PowerLoss(FaultySystem):
    """Kills the process before its ``at``-th call; what was not synced by then is lost.

    Unsynced bytes are cut off, links and removals in folders that were not synced are undone: the worst that a file
    system may do. ``stash`` (outside the repository) keeps removed files until their folder is synced.
    """

    def __init__(self, at: int, stash: Path, lose: bool) -> None:
        super().__init__(at, lambda kind: self._die())
        self._stash = stash
        self._lose = lose
        self._files: dict[int, str] = {}
        self._synced_bytes: dict[str, int] = {}
        self._folders: dict[int, str] = {}
        self._linked: list[str] = []
        self._unlinked: list[tuple[str, Path]] = []

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        fd = super().open(path, flags, mode)
        if flags & os.O_DIRECTORY:
            self._folders[fd] = path
        else:
            self._files[fd] = path
            self._synced_bytes[path] = 0
        return fd

    def close(self, fd: int) -> None:
        super().close(fd)
        self._files.pop(fd, None)
        self._folders.pop(fd, None)

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        folder = self._folders.get(fd)
        if folder is None:
            self._synced_bytes[self._files[fd]] = os.fstat(fd).st_size
        else:
            self._linked = [path for path in self._linked if str(Path(path).parent) != folder]
            self._unlinked = [pair for pair in self._unlinked if str(Path(pair[0]).parent) != folder]

    def link(self, src: str, dst: str) -> None:
        super().link(src, dst)
        self._linked.append(dst)
        self._synced_bytes[dst] = self._synced_bytes[src]

    def unlink(self, path: str) -> None:
        kept = self._stash / f"{len(self._unlinked)}-{Path(path).name}"
        if Path(path).exists() and not kept.exists():
            kept.hardlink_to(path)
        super().unlink(path)
        self._unlinked.append((path, kept))

    def _die(self) -> None:
        if self._lose:
            for path, kept in self._unlinked:
                if not Path(path).exists():
                    Path(path).hardlink_to(kept)
            for path, length in self._synced_bytes.items():
                if Path(path).exists():
                    os.truncate(path, length)
            for path in self._linked:
                Path(path).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
