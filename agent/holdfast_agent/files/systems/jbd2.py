"""The journal of ext3 and ext4, carried out for reading: what a kernel would do at the next mount, and nothing written.

Facts: https://docs.kernel.org/filesystems/ext4/ ("Journal (jbd2)"); fs/jbd2/recovery.c and include/linux/jbd2.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from holdfast_agent.filesystems.crc32c import crc32c
from holdfast_agent.filesystems.reading import Doubt

from ..sources import Source, Unreadable

_MAGIC = b"\xc0\x3b\x39\x98"
_DESCRIPTOR, _COMMIT, _SUPERBLOCK, _REVOKE = 1, 2, 4, 5
_HEADER = struct.Struct(">4sII")
_REVOKES, _64BIT, _ASYNC_COMMIT, _CSUM_V2, _CSUM_V3, _FAST_COMMIT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
_KNOWN = _REVOKES | _64BIT | _ASYNC_COMMIT | _CSUM_V2 | _CSUM_V3 | _FAST_COMMIT
_CRC32C = 4
_SUPERBLOCK_BYTES, _CHECKSUM_AT = 1024, 252
_FAST_COMMIT_BLOCKS = 256  # where the superblock does not say how many
_FAST_COMMIT_HEAD = 9
_LEAST_BLOCKS = 1024
_ESCAPED, _SAME_UUID, _LAST = 0x1, 0x2, 0x8
_MOST_BLOCK_BYTES = 65536

ReadBlock = Callable[[int], bytes]


class _Write(NamedTuple):
    """What is to stand in a block of the file system: a block of the journal, whose magic may have been taken away."""

    block: int
    escaped: bool
    sequence: int
    checksum: int


class Outcome(NamedTuple):
    """``view``: the file system as it would be. ``left_out``: what was not carried out, "" if all was."""

    view: Source
    transactions: int
    left_out: str


class _Form(NamedTuple):
    """``end``: the block behind the ring; one further on are fast commits. ``mask``: of checksums in tags, 0 without
    any. ``seed``: of all checksums."""

    block_bytes: int
    first: int
    end: int
    start: int
    sequence: int
    incompatible: int
    seed: int
    mask: int

    @property
    def tail_bytes(self) -> int:
        """What a checksum takes at the end of a block of the journal's own."""
        return 4 if self.mask else 0


def replayed(source: Source, read: ReadBlock, blocks: int, block_bytes: int) -> Outcome:
    """``read``: a block of the journal, which has ``blocks`` of ``block_bytes``, by its number.

    Raises :class:`Doubt` for a journal that a kernel would not take either, or that is not understood,
    :class:`Unreadable`, and errors of the disk. Its checksums of content are compared when that is read.
    """
    form = _form(read(0), blocks, block_bytes)
    if not form.start:
        return Outcome(source, 0, "")
    log = _Log(form, read)
    committed = list(log.transactions())
    newest: dict[int, int] = {}
    for number, (_, revoked) in enumerate(committed):
        newest |= dict.fromkeys(revoked, number)
    writes: dict[int, _Write] = {}
    for number, (written, _) in enumerate(committed):
        writes |= {block: write for block, write in written.items() if newest.get(block, -1) < number}
    left_out = ""
    if form.incompatible & _FAST_COMMIT and _has_fast_commit(read(form.end + 1), form.sequence + len(committed)):
        left_out = "its fast commits, which are not carried out here"
    return Outcome(_Replayed(source, form, read, writes), len(committed), left_out)


def _form(raw: bytes, blocks: int, block_bytes: int) -> _Form:
    magic, kind, _ = _HEADER.unpack_from(raw)
    told_bytes, length, first, sequence, start, _, _, incompatible = struct.unpack_from(">8I", raw, 12)
    if (magic, kind) != (_MAGIC, _SUPERBLOCK):
        raise Doubt("its journal has no superblock of a known form")
    if incompatible & ~_KNOWN:
        raise Doubt(f"its journal has unknown features ({incompatible & ~_KNOWN:#x})")
    fast = int.from_bytes(raw[84:88], "big") or _FAST_COMMIT_BLOCKS if incompatible & _FAST_COMMIT else 0
    end = length - fast
    possible = (
        told_bytes == block_bytes and 1024 <= block_bytes <= _MOST_BLOCK_BYTES,
        1 <= first < end <= length <= blocks and (not fast or end >= _LEAST_BLOCKS),
        not start or first <= start < end,
    )
    if not all(possible):
        raise Doubt("the superblock of its journal tells a shape that is not possible")
    seed = mask = 0
    if incompatible & (_CSUM_V2 | _CSUM_V3):
        plain = raw[:_CHECKSUM_AT] + bytes(4) + raw[_CHECKSUM_AT + 4 : _SUPERBLOCK_BYTES]
        if raw[80] != _CRC32C or crc32c(plain) != int.from_bytes(raw[_CHECKSUM_AT : _CHECKSUM_AT + 4], "big"):
            raise Doubt("the checksum of its journal's superblock is wrong")
        seed = crc32c(raw[48:64])
        mask = 0xFFFFFFFF if incompatible & _CSUM_V3 else 0xFFFF
    elif incompatible & _ASYNC_COMMIT:
        raise Doubt("its journal commits without waiting, and has checksums of an old form")
    return _Form(block_bytes, first, end, start, sequence, incompatible, seed, mask)


class _Log:
    """The ring of blocks from its oldest transaction on."""

    def __init__(self, form: _Form, read: ReadBlock) -> None:
        self._form = form
        self._read = read
        self._at = form.start
        self._left = form.end - form.first

    def transactions(self) -> Iterator[tuple[dict[int, _Write], list[int]]]:
        """Of each that was committed what it writes, and which blocks it revokes. The first block that is not of the
        one that is due ends it: that was never written to its end, or is of an earlier round."""
        sequence = self._form.sequence
        writes: dict[int, _Write] = {}
        revoked: list[int] = []
        damaged = False
        committed_at = (0, 0)
        while self._left > 0:
            raw = self._next()
            magic, kind, number = _HEADER.unpack_from(raw)
            if magic != _MAGIC or number != sequence:
                return
            if kind == _COMMIT:
                moment = struct.unpack_from(">QI", raw, 48)
                if damaged or not self._is_sound(raw, 16):
                    if moment < committed_at:
                        return  # of an earlier life of these blocks
                    raise Doubt("its journal is damaged")
                yield writes, revoked
                writes, revoked, committed_at = {}, [], moment
                sequence = sequence + 1 & 0xFFFFFFFF
                continue
            if kind not in (_DESCRIPTOR, _REVOKE):
                return
            damaged = damaged or not self._is_sound(raw, len(raw) - 4)
            if kind == _DESCRIPTOR:
                for block, flags, checksum in self._tags(raw):
                    writes[block] = _Write(self._at, bool(flags & _ESCAPED), sequence, checksum)
                    self._step()
            else:
                revoked += self._revoked(raw)

    def _next(self) -> bytes:
        raw = self._read(self._at)
        self._step()
        return raw

    def _step(self) -> None:
        self._left -= 1
        self._at = self._at + 1 if self._at + 1 < self._form.end else self._form.first

    def _is_sound(self, raw: bytes, at: int) -> bool:
        """Whether the checksum at ``at`` is right, if there are any."""
        if not self._form.mask:
            return True
        told = int.from_bytes(raw[at : at + 4], "big")
        return crc32c(raw[:at] + bytes(4) + raw[at + 4 :], self._form.seed) == told

    def _tags(self, raw: bytes) -> Iterator[tuple[int, int, int]]:
        """(block of the file system, flags, checksum) of a descriptor."""
        incompatible = self._form.incompatible
        wide, third = bool(incompatible & _64BIT), bool(incompatible & _CSUM_V3)
        size = 16 if third else 8 + 2 * bool(incompatible & _CSUM_V2) + 4 * wide
        at, end = _HEADER.size, len(raw) - self._form.tail_bytes
        while at + size <= end:
            if third:
                low, flags, high, checksum = struct.unpack_from(">4I", raw, at)
            else:
                low, checksum, flags = struct.unpack_from(">IHH", raw, at)
                high = int.from_bytes(raw[at + 8 : at + 12], "big") if wide else 0
            yield low | (high << 32 if wide else 0), flags, checksum
            if flags & _LAST:
                return
            at += size if flags & _SAME_UUID else size + 16

    def _revoked(self, raw: bytes) -> Iterator[int]:
        (used,) = struct.unpack_from(">I", raw, _HEADER.size)
        size = 8 if self._form.incompatible & _64BIT else 4
        end = min(used, len(raw) - self._form.tail_bytes)
        for at in range(_HEADER.size + 4, end - size + 1, size):
            yield int.from_bytes(raw[at : at + size], "big")


def _has_fast_commit(raw: bytes, sequence: int) -> bool:
    tag, _, _, number = struct.unpack_from("<HHII", raw)
    return (tag, number) == (_FAST_COMMIT_HEAD, sequence & 0xFFFFFFFF)


class _Replayed:
    """A source in which some blocks are those that the journal has for them."""

    def __init__(self, source: Source, form: _Form, read: ReadBlock, writes: Mapping[int, _Write]) -> None:
        self.size_bytes = source.size_bytes
        self._source = source
        self._form = form
        self._read = read
        self._writes = writes
        self._sound: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        data = self._source.read(offset, length)
        size = self._form.block_bytes
        found = [block for block in range(offset // size, -(-(offset + len(data)) // size)) if block in self._writes]
        if not found:
            return data
        changed = bytearray(data)
        for block in found:
            begin = max(offset, block * size)
            end = min(offset + len(data), (block + 1) * size)
            changed[begin - offset : end - offset] = self._content(block)[begin - block * size : end - block * size]
        return bytes(changed)

    def _content(self, block: int) -> bytes:
        write = self._writes[block]
        raw = self._read(write.block)
        if self._form.mask and block not in self._sound:
            found = crc32c(raw, crc32c(write.sequence.to_bytes(4, "big"), self._form.seed))
            if found & self._form.mask != write.checksum:
                raise Unreadable("a block of the journal has a wrong checksum")
            self._sound.add(block)
        return _MAGIC + raw[4:] if write.escaped else raw
