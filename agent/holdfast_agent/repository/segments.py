"""Index segments: what the packs of one mover hold, sorted by id, published after the packs themselves."""

from __future__ import annotations

import array
import struct
import sys

import msgspec
from blake3 import blake3

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged
from holdfast_agent.model.ids import Sid
from holdfast_agent.sealing.checksum import crc32

from .layout import PackName, parse_pack_name
from .packs import DIGEST_BYTES, ENTRY_BYTES, Entry, PackContents, unpack_entries

MOST_SEGMENT_BYTES = 1 << 30
_MAGIC = b"HFIX"
_VERSION = 1
_HEADER = struct.Struct("<4sB3s16sIII")
_PACK = struct.Struct("<16sIIc7sQ32s")
_PLACE = struct.Struct("<I")


class Segment(msgspec.Struct, frozen=True):
    """A decoded segment."""

    name: str
    packs: tuple[PackContents, ...]


class SegmentTables(msgspec.Struct, frozen=True):
    """A segment's bytes, checked but not taken apart: for those who look at millions of entries and keep few.

    ``packs``: (name, size in bytes, digest). ``entries``: 56 bytes each; ``places``: for each entry the number of its
    pack in ``packs``.
    """

    packs: list[tuple[str, int, bytes]]
    entries: memoryview
    places: array.array[int]


def encode_segment(name: str, repository_id: bytes, packs: tuple[PackContents, ...]) -> bytes:
    """The bytes of the segment ``name``: header, pack table, entries by ascending id, digest."""
    rows = sorted((entry.pack(), place) for place, pack in enumerate(packs) for entry in pack.entries)
    front = _HEADER.pack(_MAGIC, _VERSION, b"", repository_id, len(packs), len(rows), 0)[:-4]
    parts = [front + crc32(front).to_bytes(4, "little")]
    for pack in packs:
        place = parse_pack_name(pack.name)
        parts.append(
            _PACK.pack(
                bytes.fromhex(place.sid), place.mover, place.seq, place.pack_class.encode(), b"",
                pack.size_bytes, pack.digest,
            )
        )  # fmt: skip
    parts.extend(entry for entry, _ in rows)
    parts.extend(_PLACE.pack(place) for _, place in rows)
    data = b"".join(parts)
    return data + _digest(name, data)


def decode_segment(name: str, data: bytes, repository_id: bytes) -> Segment:
    """Check and decode the segment ``name``. Raises :class:`ObjectDamaged` or :class:`FormatUnsupported`."""
    tables = open_segment(name, data, repository_id)
    entries: list[list[Entry]] = [[] for _ in tables.packs]
    for place, entry in zip(tables.places, unpack_entries(tables.entries, name), strict=True):
        entries[place].append(entry)
    return Segment(
        name,
        tuple(
            PackContents(pack_name, size, digest, tuple(mine))
            for (pack_name, size, digest), mine in zip(tables.packs, entries, strict=True)
        ),
    )


def open_segment(name: str, data: bytes, repository_id: bytes) -> SegmentTables:
    """Check the segment ``name`` and find its tables. Raises as :func:`decode_segment`."""
    if len(data) < _HEADER.size + DIGEST_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=len(data), reason="it is cut off")
    magic, version, _, repository, pack_count, row_count, crc = _HEADER.unpack_from(data)
    if magic != _MAGIC or crc32(data[: _HEADER.size - 4]) != crc:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its header is damaged")
    if version != _VERSION:
        raise FormatUnsupported(name=name, feature=f"index segments of version {version}")
    expected = _HEADER.size + pack_count * _PACK.size + row_count * (ENTRY_BYTES + _PLACE.size) + DIGEST_BYTES
    if len(data) != expected or _digest(name, data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its digest does not match its name and content")
    if repository != repository_id:
        raise ObjectDamaged(name=name, offset_bytes=8, reason="it belongs to another repository")
    view = memoryview(data)
    table_end = _HEADER.size + pack_count * _PACK.size
    rows_end = table_end + row_count * ENTRY_BYTES
    packs = _pack_table(view[_HEADER.size : table_end])
    places = array.array("I", view[rows_end:-DIGEST_BYTES].tobytes())
    if sys.byteorder == "big":
        places.byteswap()
    if row_count and max(places) >= pack_count:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="an entry names a pack that is not in its table")
    return SegmentTables(packs, view[table_end:rows_end], places)


def _pack_table(table: memoryview) -> list[tuple[str, int, bytes]]:
    found: list[tuple[str, int, bytes]] = []
    for sid, mover, seq, pack_class, _, size, digest in _PACK.iter_unpack(table):
        pack_name = str(PackName(Sid(sid.hex()), mover, pack_class.decode("latin-1"), seq))
        parse_pack_name(pack_name)
        found.append((pack_name, size, digest))
    return found


def _digest(name: str, data: bytes) -> bytes:
    return blake3(name.encode() + b"\0").update(data).digest()
