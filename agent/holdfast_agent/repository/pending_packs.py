"""Packs that fill: their bytes stand in memory as they will on disk, and are written while more of them come.

So the disk is at work from a pack's first step on, and little is left to write when its last record is there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from blake3 import blake3

from holdfast_agent.sealing.buffers import PAGE_BYTES
from holdfast_agent.sealing.records import RecordHeader

from .file_writing import Buffer
from .layout import PackName, pack_object
from .packs import ENTRY_BYTES, FOOTER_BYTES, PACK_HEADER_BYTES, Entry, PackContents, entry_of, pack_footer, pack_header
from .store import ObjectStore

_STEP_BYTES = 4 << 20  # written at once: in steps of 1 MiB it takes nearly twice the processor time


class PackAbandoned(Exception):
    """Nobody wants the pack any more. Internal to the repository: ends the thread that writes it."""


def room_bytes(record_bytes: int) -> int:
    """What a pack of one record takes."""
    return _size_bytes(PACK_HEADER_BYTES + record_bytes, 1)


class PendingPack:
    """Records waiting in memory to become a pack; they stay there until the pack is durable, for a second attempt.

    One thread adds and seals or abandons, another one writes meanwhile.
    """

    def __init__(self, name: PackName, repository_id: bytes, created_s: int, room: memoryview) -> None:
        """``room``: memory from a page on, this pack's alone until it is durable or given up."""
        self.name = name
        self.room = room
        self._repository_id = repository_id
        self._created_s = created_s
        self._entries: list[Entry] = []
        self._filled = PACK_HEADER_BYTES
        self._hasher = blake3(pack_header(name, repository_id, created_s))
        self._changed = threading.Condition()
        self._wake_at = 0
        self._digest = b""
        self._sealed = self._abandoned = False

    @property
    def filled_bytes(self) -> int:
        return self._filled

    def takes(self, record_bytes: int) -> bool:
        """Whether a record of this length has room beside those that are there."""
        return _size_bytes(self._filled + record_bytes, len(self._entries) + 1) <= len(self.room)

    def add(self, header: RecordHeader, pieces: Sequence[Buffer]) -> None:
        """Copy a checked record that the pack takes; ``pieces`` are free afterwards."""
        start = end = self._filled
        for piece in pieces:
            self.room[end : end + len(piece)] = piece
            end += len(piece)
        self._hasher.update(self.room[start:end])  # here, so that the writing thread has nothing to do but write
        self._entries.append(entry_of(header, start))
        with self._changed:
            self._filled = end
            if end >= self._wake_at:
                self._changed.notify()

    def seal(self) -> None:
        """All is there."""
        with self._changed:
            self._sealed = True
            self._changed.notify()

    def abandon(self) -> None:
        """Nobody will seal it: whoever writes it ends with :class:`PackAbandoned`."""
        with self._changed:
            self._abandoned = True
            self._changed.notify()

    def write(self, store: ObjectStore, name: PackName) -> PackContents:
        """Make it durable under ``name`` while it fills; returns some time after :meth:`seal`.

        Raises as ``store.create``, and may be called again with another name then; and :class:`PackAbandoned`.
        """
        self._wait_beyond(0)  # what is abandoned before its first step is there needs no file
        self.room[:PACK_HEADER_BYTES] = pack_header(name, self._repository_id, self._created_s)
        store.create(pack_object(str(name)), self._steps(name))
        return PackContents(
            str(name), _size_bytes(self._filled, len(self._entries)), self._digest, tuple(self._entries)
        )

    def _steps(self, name: PackName) -> Iterator[Buffer]:
        """All bytes in their order, as they come; whole pages but at the end."""
        done = 0
        while not self._wait_beyond(done):
            end = self._filled - self._filled % PAGE_BYTES
            yield self.room[done:end]
            done = end
        yield self.room[done : self._finish(name)]

    def _wait_beyond(self, done: int) -> bool:
        """Wait for a step more than ``done``, or for all; whether it is all. Raises :class:`PackAbandoned`."""
        with self._changed:
            self._wake_at = done + _STEP_BYTES
            self._changed.wait_for(lambda: self._filled >= self._wake_at or self._sealed or self._abandoned)
            if self._abandoned:
                raise PackAbandoned
            return self._sealed

    def _finish(self, name: PackName) -> int:
        """Put table of contents and footer after the last record; where they end."""
        table = b"".join(entry.pack() for entry in self._entries)
        # What was hashed on the way begins with the first name's header.
        hasher = self._hasher.copy() if name == self.name else blake3(self.room[: self._filled])
        self._digest = hasher.update(table).digest()
        tail = table + pack_footer(self._filled, table, self._digest)
        end = self._filled + len(tail)
        self.room[self._filled : end] = tail
        return end


def _size_bytes(filled: int, entries: int) -> int:
    return filled + entries * ENTRY_BYTES + FOOTER_BYTES
