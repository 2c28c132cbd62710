"""Packs: header, records, table of contents, footer; how they are read back, whole and by parts.

Everything here is checked without keys. The byte layout stands in docs/repository-format.md.
"""

from __future__ import annotations

import struct

import msgspec
from blake3 import blake3

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, RepositoryError, RepositoryIoError
from holdfast_agent.model.ids import ID_BYTES, BlockId, Sid
from holdfast_agent.sealing.checksum import crc32
from holdfast_agent.sealing.records import (
    HEADER_BYTES,
    MAGIC,
    MOST_RECORD_BYTES,
    RecordHeader,
    check_payload,
    parse_header,
)

from .file_writing import Buffer
from .layout import PackName, pack_object, parse_pack_name
from .store import ObjectStore

DATA_PACK_BYTES = 64 << 20
META_PACK_BYTES = 16 << 20
MOST_PACK_BYTES = 1 << 32
DIGEST_BYTES = 32
_PACK_MAGIC = b"HFPK"
_FOOTER_MAGIC = b"HFFT"
_VERSION = 1
_PACK_HEADER = struct.Struct("<4sBcH16s16sIIQII")
_FOOTER = struct.Struct("<4sB3sQII32sII")
_ENTRY = struct.Struct("<32sQIIBBBBI")
PACK_HEADER_BYTES = _PACK_HEADER.size
FOOTER_BYTES = _FOOTER.size
ENTRY_BYTES = _ENTRY.size


class Entry(msgspec.Struct, frozen=True):
    """Where a record stands in its pack. ``length`` counts its header too."""

    id: BlockId
    offset: int
    length: int
    plain_length: int
    kind: int
    codec: int
    cipher: int
    epoch: int

    def pack(self) -> bytes:
        return _ENTRY.pack(
            self.id, self.offset, self.length, self.plain_length, self.kind, self.codec, self.cipher, 0, self.epoch
        )


class PackContents(msgspec.Struct, frozen=True):
    """What a published pack holds. ``digest``: BLAKE3 of all before the footer."""

    name: str
    size_bytes: int
    digest: bytes
    entries: tuple[Entry, ...]


def pack_header(name: PackName, repository_id: bytes, created_s: int) -> bytes:
    front = _PACK_HEADER.pack(
        _PACK_MAGIC, _VERSION, name.pack_class.encode(), 0, repository_id, bytes.fromhex(name.sid), name.mover,
        name.seq, created_s, 0, 0,
    )[:-4]  # fmt: skip
    return front + crc32(front).to_bytes(4, "little")


def pack_footer(toc_offset: int, table: bytes, digest: bytes) -> bytes:
    """``digest``: BLAKE3 of all before the footer."""
    front = _FOOTER.pack(
        _FOOTER_MAGIC, _VERSION, b"", toc_offset, len(table) // ENTRY_BYTES, crc32(table), digest, 0, 0
    )[:-4]  # fmt: skip
    return front + crc32(front).to_bytes(4, "little")


def entry_of(header: RecordHeader, offset: int) -> Entry:
    return Entry(
        header.id, offset, header.record_length, header.plain_length, header.kind, header.codec, header.cipher,
        header.epoch,
    )  # fmt: skip


def unpack_entries(data: Buffer, name: str) -> tuple[Entry, ...]:
    """Entries of a table of contents; each is bounded, so that none can make a reader allocate or seek at will."""
    entries = tuple(
        Entry(BlockId(identity), offset, length, plain, kind, codec, cipher, epoch)
        for identity, offset, length, plain, kind, codec, cipher, _, epoch in _ENTRY.iter_unpack(data)
    )
    for entry in entries:
        if not HEADER_BYTES <= entry.length <= MOST_RECORD_BYTES or entry.offset > MOST_PACK_BYTES:
            raise ObjectDamaged(name=name, offset_bytes=entry.offset, reason="an entry is out of bounds")
    return entries


def read_contents(store: ObjectStore, name: str, repository_id: bytes) -> PackContents:
    """Table of contents of a pack by its footer: three small reads.

    Raises :class:`ObjectDamaged` if header, table or footer is damaged (then :func:`scan_contents` still finds
    whole records), :class:`FormatUnsupported`, :class:`ObjectMissing`.
    """
    path = pack_object(name)
    size = store.size(path)
    _check_pack_header(store.read_range(path, 0, PACK_HEADER_BYTES), name, repository_id)
    raw = store.read_range(path, max(0, size - FOOTER_BYTES), FOOTER_BYTES)
    toc_offset, count, toc_crc, digest = _parse_footer(raw, name, size)
    if toc_offset + count * ENTRY_BYTES + FOOTER_BYTES != size:
        raise ObjectDamaged(name=name, offset_bytes=size, reason="its size is not what its footer says")
    table = store.read_range(path, toc_offset, count * ENTRY_BYTES)
    if len(table) != count * ENTRY_BYTES or crc32(table) != toc_crc:
        raise ObjectDamaged(name=name, offset_bytes=toc_offset, reason="its table of contents is damaged")
    return PackContents(name, size, digest, unpack_entries(table, name))


def scan_contents(store: ObjectStore, name: str) -> PackContents:
    """Every whole record that can be found in a pack by its header; for packs whose table or footer is lost.

    The digest of the result is empty. Raises :class:`ObjectMissing`.
    """
    path = pack_object(name)
    size = store.size(path)
    entries: list[Entry] = []
    offset = PACK_HEADER_BYTES
    while offset + HEADER_BYTES <= size:
        entry = _whole_record(store, path, name, offset)
        if entry is not None:
            entries.append(entry)
            offset += entry.length
        else:
            offset = _next_magic(store, path, offset + 1, size)
    return PackContents(name, size, b"", tuple(entries))


class PackCheck(msgspec.Struct, frozen=True):
    """What a whole reading of a pack found. ``bad``: (record id, what is wrong); ``problem``: the pack itself."""

    contents: PackContents
    bad: tuple[tuple[BlockId, str], ...]
    problem: str | None


def check_table(store: ObjectStore, name: str, repository_id: bytes) -> PackCheck:
    """Check a pack's header, table of contents and footer alone: three small reads. Never raises damage."""
    try:
        return PackCheck(read_contents(store, name, repository_id), (), None)
    except (ObjectDamaged, FormatUnsupported) as error:
        return PackCheck(PackContents(name, 0, b"", ()), (), error.text)


def check_pack(store: ObjectStore, name: str, repository_id: bytes) -> PackCheck:
    """Read a pack from end to end and check its digest and every record's CRCs. Needs no keys; never raises damage.

    A record that the storage cannot read is bad, and the others are still looked at.
    """
    problem: str | None = None
    try:
        contents = read_contents(store, name, repository_id)
    except (ObjectDamaged, FormatUnsupported) as error:
        problem = error.text
        contents = scan_contents(store, name)
    bad: list[tuple[BlockId, str]] = []
    hasher = blake3(store.read_range(pack_object(name), 0, PACK_HEADER_BYTES))
    end = PACK_HEADER_BYTES
    for entry in sorted(contents.entries, key=lambda entry: entry.offset):
        try:
            raw = store.read_range(pack_object(name), entry.offset, entry.length)
        except RepositoryIoError as error:
            bad.append((entry.id, error.text))
            end = entry.offset + entry.length
            continue
        hasher.update(raw)
        if entry.offset != end:
            problem = problem or "its records do not follow each other without gaps"
        end = entry.offset + entry.length
        reason = _record_problem(raw, entry, name)
        if reason:
            bad.append((entry.id, reason))
    if contents.digest and problem is None and not bad:  # a bad record explains a wrong digest
        hasher.update(b"".join(entry.pack() for entry in contents.entries))
        if hasher.digest() != contents.digest:
            problem = "its BLAKE3 does not match its footer"
    return PackCheck(contents, tuple(bad), problem)


def _record_problem(raw: bytes, entry: Entry, name: str) -> str | None:
    try:
        header = parse_header(raw, name, entry.offset)
        if entry_of(header, entry.offset) != entry:
            return f"the record at byte {entry.offset} is not the one that the table of contents names"
        check_payload(header, memoryview(raw)[HEADER_BYTES:], name, entry.offset)
    except RepositoryError as error:
        return error.text
    return None


def _whole_record(store: ObjectStore, path: str, name: str, offset: int) -> Entry | None:
    try:
        header = parse_header(store.read_range(path, offset, HEADER_BYTES), name, offset)
        payload = store.read_range(path, offset + HEADER_BYTES, header.payload_length)
        check_payload(header, payload, name, offset)
    except (ObjectDamaged, FormatUnsupported):
        return None
    return entry_of(header, offset)


def _next_magic(store: ObjectStore, path: str, offset: int, size: int) -> int:
    """Offset of the next thing that looks like a record header, or ``size``."""
    step = 1 << 20
    while offset < size:
        found = store.read_range(path, offset, step + len(MAGIC) - 1).find(MAGIC)
        if found >= 0:
            return offset + found
        offset += step
    return size


def _check_pack_header(raw: bytes, name: str, repository_id: bytes) -> None:
    if len(raw) < PACK_HEADER_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its header is cut off")
    magic, version, pack_class, _, repository, sid, mover, seq, _, incompatible, crc = _PACK_HEADER.unpack(raw)
    if magic != _PACK_MAGIC or crc32(raw[:-4]) != crc:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its header is damaged")
    if version != _VERSION or incompatible:
        raise FormatUnsupported(name=name, feature=f"packs of version {version}, features {incompatible:#x}")
    if PackName(Sid(sid.hex()), mover, pack_class.decode("latin-1"), seq) != parse_pack_name(name):
        raise ObjectDamaged(name=name, offset_bytes=0, reason="another pack stands under this name")
    if repository != repository_id:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="it belongs to another repository")


def _parse_footer(raw: bytes, name: str, size: int) -> tuple[int, int, int, bytes]:
    if len(raw) < FOOTER_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=size, reason="its footer is cut off")
    magic, version, _, toc_offset, count, toc_crc, digest, _, crc = _FOOTER.unpack(raw)
    if magic != _FOOTER_MAGIC or crc32(raw[:-4]) != crc:
        raise ObjectDamaged(name=name, offset_bytes=size - FOOTER_BYTES, reason="its footer is damaged or missing")
    if version != _VERSION:
        raise FormatUnsupported(name=name, feature=f"pack footers of version {version}")
    return toc_offset, count, toc_crc, digest


assert PACK_HEADER_BYTES == FOOTER_BYTES == 64 and ENTRY_BYTES == 56 and ID_BYTES == DIGEST_BYTES  # noqa: S101 -- layout
