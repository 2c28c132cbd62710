"""The work of a restore on records: open, prove by the id, write wherever the block belongs."""

from __future__ import annotations

from holdfast_agent.disks.disk import ReservingDisk, WritableDisk
from holdfast_agent.errors import ObjectDamaged, RestoredBlockWrong
from holdfast_agent.model.geometry import Geometry
from holdfast_agent.model.ids import BlockId
from holdfast_agent.sealing.keys import DataKeys
from holdfast_agent.sealing.records import Pieces, view_pieces

from .conversation import Run
from .stages import StageClock


class RestoreWork:
    """The work of a writer's threads. Thread-safe: holds constants only."""

    def __init__(
        self, keys: DataKeys, geometry: Geometry, disk: WritableDisk | None, proxy: StageClock, target: StageClock
    ) -> None:
        self._keys = keys
        self._geometry = geometry
        self._disk = disk
        self._proxy = proxy
        self._target = target

    def restore(self, record: Pieces, block_id: BlockId, places: list[int], cost_bytes: int) -> tuple[int, int, int]:
        """Open a record, prove it, write it wherever it belongs: (blocks, bytes of the disk, cost of the message).

        Raises :class:`RestoredBlockWrong`, :class:`WrongKey`, :class:`FormatUnsupported`, :class:`DiskUnwritable`.
        """
        with self._proxy:
            try:
                plain = view_pieces(record, self._keys, block_id)
            except ObjectDamaged as error:
                raise self._wrong(places[0]) from error
            if len(plain) != self._geometry.block_bytes:
                raise self._wrong(places[0])
        total = 0
        with self._target:
            for block in places:
                extent = self._geometry.extent(block)
                if self._disk is not None:
                    self._disk.write(extent.start, memoryview(plain)[: extent.length])
                total += extent.length
        return len(places), total, cost_bytes

    def reserve(self, run: Run) -> None:
        """A run of blocks will be written. Raises :class:`DiskUnwritable`."""
        if isinstance(self._disk, ReservingDisk):
            with self._target:
                self._disk.reserve(*self._bytes_of(run))

    def zeros(self, run: Run) -> int:
        """Make a run of blocks zeros; the bytes of the disk that it covers."""
        start, length = self._bytes_of(run)
        if self._disk is not None:
            with self._target:
                self._disk.write_zeros(start, length)
        return length

    def finish(self) -> None:
        """All is written: make it durable and visible."""
        if self._disk is not None:
            with self._target:
                self._disk.finish()

    def _bytes_of(self, run: Run) -> tuple[int, int]:
        """Where it begins, and its length."""
        start = run[0] << self._geometry.block_log2
        return start, self._geometry.extent(sum(run) - 1).end - start

    def _wrong(self, block: int) -> RestoredBlockWrong:
        return RestoredBlockWrong(block=block, disk=self._disk.url if self._disk is not None else "the restore point")
