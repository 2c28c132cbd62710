"""What clients write to an export: a copy-on-write overlay on a restore point's disk, durable as NBD promises.

Two files: ``data``, sparse and as large as the disk, and ``map``, which tells the cells of it that count. Invariants:

- The map on the storage never names a cell whose bytes are not on the storage. So what was not flushed is, after a
  crash, as it was before or as it was written, never anything else.
- A cell of which a part is written is first completed from the restore point.
- The file ``overlay`` tells of which disk all this is, and is there only once the others are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast_agent.descriptors import read_at, write_at
from holdfast_agent.disks.sparse import extents_of, punch_hole, reserve_zeros
from holdfast_agent.durable import replaced_file, sync_folder
from holdfast_agent.errors import Denied, UsageError
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.wire.specs import ExportDisk

from .cells import WrittenCells
from .image import DATA, HOLE, Part, PointImage, Run
from .readahead import ReadAhead

CELL_LOG2 = 12
CELL_BYTES = 1 << CELL_LOG2
_ZEROS = bytes(1 << 20)
_VERSION = 1


class OverlayFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The file ``overlay``. ``root``: hex id of the disk's tree."""

    version: int
    disk: str
    root: str
    size_bytes: int
    cell_log2: int


class OverlayImage:
    """See :class:`~holdfast_agent.export.image.WritableImage`. Closed once, after the last request."""

    writable = True

    def __init__(self, base: PointImage, disk: ExportDisk, folder: Path) -> None:
        """Make the overlay in ``folder``, or go on with the one that is there.

        Raises :class:`UsageError` if it belongs to another disk or version, :class:`Denied` where the file system takes
        no file of that size, OSError.
        """
        self.name = base.name
        self.size_bytes = base.size_bytes
        self.preferred_bytes = base.preferred_bytes
        self._base = base
        self._lock = threading.Lock()  # of the cells, and of every change to the data
        self._flushing = threading.Lock()
        self._written = self._flushed = 0  # changes so far, and those that are durable
        self._broken: OSError | None = None
        with contextlib.ExitStack() as stack:
            self._data = _prepare(folder, _facts(disk))
            stack.callback(os.close, self._data)
            self._map = os.open(folder / "map", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, self._map)
            self._cells = WrittenCells(self._map, _cell_after(self.size_bytes))
            self._files = stack.pop_all()

    def close(self, *, still_used: bool = False) -> None:
        """Make durable what is not, as far as that goes. Never raises. ``still_used``: a thread hangs in it, so that
        its files stay open: another file must not get their numbers."""
        with contextlib.suppress(OSError):
            self.flush()
        if not still_used:
            self._files.close()

    def course(self) -> ReadAhead:
        return self._base.course()

    def read_ahead(self, course: ReadAhead, offset: int, length: int) -> None:
        self._base.read_ahead(course, offset, length)

    def at_hand(self, offset: int, length: int) -> list[Part] | None:
        parts: list[Part] = []
        for start, count, written in self._runs(offset, length):
            found = [self._read_data(start, count)] if written else self._base.at_hand(start, count)
            if found is None:
                return None
            parts += found
        return parts

    def read(self, offset: int, length: int) -> list[Part]:
        runs = list(self._runs(offset, length))
        if len(runs) > 1:
            for start, count, written in runs:
                if not written:
                    self._base.begin(start, count)
        parts: list[Part] = []
        for start, count, written in runs:
            parts += [self._read_data(start, count)] if written else self._base.read(start, count)
        return parts

    def waits_for_read(self, offset: int, length: int) -> bool:
        return self._base.waits_for_read(offset, length)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        for start, count, written in self._runs(offset, length):
            if not written:
                yield from self._base.runs(start, count)
                continue
            for extent in extents_of(self._data, start, start + count):
                yield Run(extent.length, DATA if extent.data else HOLE)

    def waits_for_write(self, offset: int, length: int) -> bool:
        with self._lock:
            return bool(self._incomplete(offset, length))

    def write(self, offset: int, data: memoryview) -> None:
        with self._changing(offset, len(data)):
            write_at(self._data, offset, data)

    def zero(self, offset: int, length: int, *, keep_space: bool, fast: bool) -> None:
        with self._changing(offset, length):
            zeroed = (reserve_zeros if keep_space else punch_hole)(self._data, offset, length)
            if not zeroed and fast:
                raise OSError(errno.ENOTSUP, "the storage of the overlay cannot do this fast")
            if not zeroed:
                _write_zeros(self._data, offset, length)

    def flush(self) -> None:
        with self._flushing:
            with self._lock:
                if self._broken is not None:
                    raise OSError(self._broken.errno, f"an earlier flush failed: {self._broken.strerror}")
                now = self._written
                pages = self._cells.take_dirty()
            if now == self._flushed:
                return
            try:
                os.fdatasync(self._data)
                if pages:
                    self._cells.store(pages)
            except OSError as error:
                # The kernel may have dropped what it could not write, and would call the next try a success.
                self._broken = error
                raise
            self._flushed = now

    @contextlib.contextmanager
    def _changing(self, offset: int, length: int) -> Iterator[None]:
        """Around a change of the data: completes the cells that it touches in part, and marks all of them."""
        with self._lock:
            incomplete = self._incomplete(offset, length)
        completed = {cell: self._whole_cell(cell) for cell in incomplete}
        with self._lock:
            if self._broken is not None:
                raise OSError(self._broken.errno, f"an earlier flush failed: {self._broken.strerror}")
            for cell in self._incomplete(offset, length):
                # (a cell never becomes incomplete again, so that all of these were fetched)
                write_at(self._data, cell << CELL_LOG2, completed[cell])
            yield
            self._written += 1
            self._cells.mark(offset >> CELL_LOG2, _cell_after(offset + length))

    def _incomplete(self, offset: int, length: int) -> list[int]:
        """Cells that are not written yet and of which the range is only a part: its first and its last at most."""
        end = offset + length
        edges = []
        first, last = offset >> CELL_LOG2, (end - 1) >> CELL_LOG2
        if offset & CELL_BYTES - 1 and not self._cells.any(first, first + 1):
            edges.append(first)
        if (
            end & CELL_BYTES - 1
            and end != self.size_bytes
            and last not in edges
            and not self._cells.any(last, last + 1)
        ):
            edges.append(last)
        return edges

    def _whole_cell(self, cell: int) -> memoryview:
        start = cell << CELL_LOG2
        parts = self._base.read(start, min(CELL_BYTES, self.size_bytes - start))
        return memoryview(b"".join(bytes(part) for part in parts))

    def _runs(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """(first byte, number of bytes, whether they were written) of a range."""
        end = offset + length
        first = offset >> CELL_LOG2
        with self._lock:
            runs = list(self._cells.runs(first, _cell_after(end)))
        for count, written in runs:
            first += count
            stop = min(first << CELL_LOG2, end)
            yield offset, stop - offset, written
            offset = stop

    def _read_data(self, offset: int, length: int) -> memoryview:
        buffer = memoryview(bytearray(length))
        if read_at(self._data, offset, buffer) < length:
            raise OSError(errno.EIO, "the overlay's data were cut off")
        return buffer


def _cell_after(offset: int) -> int:
    """The first cell that begins at ``offset`` or later."""
    return (offset + CELL_BYTES - 1) >> CELL_LOG2


def _facts(disk: ExportDisk) -> OverlayFacts:
    root, size = disk.tree.root.hex(), disk.tree.geometry.size_bytes
    return OverlayFacts(version=_VERSION, disk=disk.name, root=root, size_bytes=size, cell_log2=CELL_LOG2)


def _prepare(folder: Path, facts: OverlayFacts) -> int:
    """The data's descriptor, of an overlay that was made now or found. See :class:`OverlayImage`."""
    told = folder / "overlay"
    try:
        found = msgspec.json.decode(told.read_bytes(), type=OverlayFacts)
    except FileNotFoundError:
        return _make(folder, told, facts)
    except NOT_DECODED as error:
        raise UsageError(reason=f"{told} cannot be read: {error}") from error
    if found != facts:
        raise UsageError(
            reason=f"the overlay in {folder} belongs to another disk: {found.disk}, tree {found.root[:16]}"
        )
    fd = os.open(folder / "data", os.O_RDWR | os.O_CLOEXEC)
    if os.fstat(fd).st_size != facts.size_bytes:
        os.close(fd)
        raise UsageError(reason=f"{folder / 'data'} is not of its disk's size any more")
    return fd


def _make(folder: Path, told: Path, facts: OverlayFacts) -> int:
    folder.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    os.close(os.open(folder / "map", flags, 0o600))
    fd = os.open(folder / "data", flags, 0o600)
    try:
        try:
            os.ftruncate(fd, facts.size_bytes)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise Denied(reason=f"the file system of {folder} takes no file of {facts.size_bytes} bytes") from error
        os.fsync(fd)
        with replaced_file(told) as file:
            file.write(msgspec.json.encode(facts))
        for each in (folder.parent, folder.parent.parent):
            sync_folder(each)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_zeros(fd: int, offset: int, length: int) -> None:
    for at in range(offset, offset + length, len(_ZEROS)):
        write_at(fd, at, memoryview(_ZEROS)[: min(len(_ZEROS), offset + length - at)])
