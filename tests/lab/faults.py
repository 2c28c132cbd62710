"""A layer over the system calls of a repository in which each call can fail, or be the last one of the process."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast_agent.repository.file_writing import Buffer

_PAGE_BYTES = 4096


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


Survives = Callable[[], bool]
"""Asked for each page and each change of a folder that was not synced: whether the disk has it all the same."""


def everything() -> bool:
    """The process is killed, and nothing is lost."""
    return True


def nothing() -> bool:
    """Power is lost, and with it all that was not synced."""
    return False


def parts(seed: object) -> Survives:
    """Power is lost, and the disk has written what it liked, in its own order."""
    rng = random.Random(repr(seed))
    return lambda: rng.random() < 0.5


class PowerLoss(FaultySystem):
    """Kills the process before its ``at``-th call; what was not synced by then survives or does not.

    Of a file: each page since its last sync, and its new length. Of a folder: each entry that was made or removed since
    its last sync. ``stash`` (outside the repository) keeps removed files until their folder is synced.
    """

    def __init__(self, at: int, stash: Path, survives: Survives) -> None:
        super().__init__(at, lambda kind: self._die())
        self._stash = stash
        self._survives = survives
        self._files: dict[int, str] = {}
        self._synced_bytes: dict[str, int] = {}
        self._folders: dict[int, str] = {}
        self._made: list[str] = []
        self._unlinked: list[tuple[str, Path]] = []

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        fd = super().open(path, flags, mode)
        if flags & os.O_DIRECTORY:
            self._folders[fd] = path
        else:
            self._files[fd] = path
            self._synced_bytes[path] = 0
            self._made.append(path)
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
            self._made = [path for path in self._made if str(Path(path).parent) != folder]
            self._unlinked = [pair for pair in self._unlinked if str(Path(pair[0]).parent) != folder]

    def link(self, src: str, dst: str) -> None:
        super().link(src, dst)
        self._made.append(dst)
        self._synced_bytes[dst] = self._synced_bytes[src]

    def unlink(self, path: str) -> None:
        kept = self._stash / f"{len(self._unlinked)}-{Path(path).name}"
        if Path(path).exists() and not kept.exists():
            kept.hardlink_to(path)
        super().unlink(path)
        self._unlinked.append((path, kept))

    def _die(self) -> None:
        for path, kept in self._unlinked:
            if not Path(path).exists() and not self._survives():
                Path(path).hardlink_to(kept)
        for path, length in self._synced_bytes.items():
            if Path(path).exists():
                self._tear(Path(path), length)
        for path in self._made:
            if Path(path).exists() and not self._survives():
                Path(path).unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def _tear(self, path: Path, synced_bytes: int) -> None:
        size = path.stat().st_size
        pages = range(synced_bytes, size, _PAGE_BYTES)
        with path.open("r+b") as file:
            for page in pages:
                if not self._survives():
                    file.seek(page)
                    file.write(bytes(min(_PAGE_BYTES, size - page)))
        for page in reversed(pages):
            if self._survives():
                break
            os.truncate(path, page)
