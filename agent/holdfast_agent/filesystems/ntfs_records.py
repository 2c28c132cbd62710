"""Records of NTFS: update sequences, attributes, and the runs of clusters in which what is large lies."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from holdfast_agent.model.geometry import Extent

from .reading import MAX_READ_BYTES, Doubt, Volume

FILE_NAME_SPACE = "utf-16-le"
_STRIDE = 512  # whatever the sectors are
_END = 0xFFFFFFFF
_IN_USE = 1
_MOST_RUNS = 1 << 16


class Attribute(NamedTuple):
    """``value`` if it is resident, else ``runs`` in clusters of the volume, None for holes."""

    kind: int
    name: str
    flags: int
    value: bytes
    runs: tuple[tuple[int | None, int], ...]
    first_cluster: int
    data_bytes: int
    initialised_bytes: int


def protected(raw: bytes, magic: bytes) -> bytes:
    """A structure of several sectors as it was before the ends of them gave way to a number that proves them whole."""
    if not raw or len(raw) % _STRIDE:
        raise Doubt("a record ends in the middle of a sector")
    kind, place, count = struct.unpack_from("<4s2H", raw)
    if kind != magic:
        raise Doubt(f"something that must be a record of the kind {magic.decode()} is not one")
    if count != len(raw) // _STRIDE + 1 or place % 2 or place + 2 * count > _STRIDE - 2:
        raise Doubt("a record has no sound update sequence")
    number = raw[place : place + 2]
    whole = bytearray(raw)
    for sector in range(1, count):
        end = sector * _STRIDE
        if raw[end - 2 : end] != number:
            raise Doubt("a record was written in part")
        whole[end - 2 : end] = raw[place + 2 * sector : place + 2 * sector + 2]
    return bytes(whole)


def is_in_use(record: bytes) -> bool:
    """Also one that was written in part."""
    return record[:4] != bytes(4) and bool(record[22] & _IN_USE)


def attributes(record: bytes, number: int) -> list[Attribute]:
    """Of a file record in use, which must be the one with this number."""
    first, flags, used = struct.unpack_from("<2HI", record, 20)
    (own,) = struct.unpack_from("<I", record, 44)
    if not flags & _IN_USE or own != number or not 48 <= first < used <= len(record):
        raise Doubt(f"its file record {number} is not sound")
    found: list[Attribute] = []
    at = first
    while True:
        kind, length = struct.unpack_from("<2I", record, at) if at + 8 <= used else (_END, 0)
        if kind == _END:
            return found
        if length % 8 or not 24 <= length <= used - at:
            raise Doubt(f"an attribute of its file record {number} is not sound")
        found.append(_attribute(record[at : at + length], kind))
        at += length


def the_one(found: list[Attribute], kind: int, name: str = "") -> Attribute:
    """The attribute of this kind and name, which must be there once and begin with its first cluster."""
    fitting = [each for each in found if (each.kind, each.name) == (kind, name)]
    if len(fitting) != 1 or fitting[0].first_cluster:
        raise Doubt(f"a file record has not one attribute {kind:#x}")
    return fitting[0]


def read_pieces(
    volume: Volume, attribute: Attribute, cluster_bytes: int, piece_bytes: int, most_bytes: int = MAX_READ_BYTES
) -> Iterator[bytes]:
    """What was ever written of an attribute without holes, in pieces of so many bytes, the last one shorter."""
    if not attribute.runs:
        yield attribute.value
        return
    if attribute.initialised_bytes > most_bytes:
        raise Doubt("an attribute is larger than what is looked at")
    left = attribute.initialised_bytes
    extents = places(attribute, cluster_bytes)
    if attribute.flags or not left <= attribute.data_bytes <= sum(extent.length for extent in extents):
        raise Doubt("an attribute is not laid out as its kind must be")
    pending = b""
    for extent in extents:
        for at in range(extent.start, extent.end, piece_bytes):
            length = min(piece_bytes, extent.end - at, left)
            pending += volume.read(at, length)
            left -= length
            while len(pending) >= piece_bytes:
                yield pending[:piece_bytes]
                pending = pending[piece_bytes:]
    if pending:
        yield pending


def read_all(volume: Volume, attribute: Attribute, cluster_bytes: int) -> bytearray:
    """What was ever written of an attribute that is not large, in memory once."""
    whole = bytearray()
    for piece in read_pieces(volume, attribute, cluster_bytes, 1 << 20):
        whole += piece
    return whole


def places(attribute: Attribute, cluster_bytes: int) -> list[Extent]:
    """Where it lies, in bytes of the volume."""
    found = []
    for first, count in attribute.runs:
        if first is None:
            raise Doubt("an attribute has holes that its kind cannot have")
        found.append(Extent(first * cluster_bytes, count * cluster_bytes))
    return found


def _attribute(raw: bytes, kind: int) -> Attribute:
    apart, name_length, name_place, flags = struct.unpack_from("<2B2H", raw, 8)
    name = raw[name_place : name_place + 2 * name_length].decode(FILE_NAME_SPACE, "replace") if name_length else ""
    if not apart:
        length, place = struct.unpack_from("<IH", raw, 16)
        if place + length > len(raw):
            raise Doubt("an attribute is longer than its record")
        return Attribute(kind, name, flags, raw[place : place + length], (), 0, length, length)
    if len(raw) < 64:
        raise Doubt("an attribute is shorter than its kind can be")
    first, last, place = struct.unpack_from("<2QH", raw, 16)
    data_bytes, initialised_bytes = struct.unpack_from("<2Q", raw, 48)
    runs = tuple(_runs(raw[place:]))
    if sum(count for _, count in runs) != last + 1 - first:
        raise Doubt("the runs of an attribute are not as long as it is")
    return Attribute(kind, name, flags, b"", runs, first, data_bytes, initialised_bytes)


def _runs(raw: bytes) -> Iterator[tuple[int | None, int]]:
    """Each: one byte that tells the lengths of the other two, the number of clusters, the distance from the last."""
    at = cluster = 0
    for _ in range(_MOST_RUNS):
        sizes = raw[at] if at < len(raw) else 0
        if not sizes:
            return
        length_bytes, distance_bytes = sizes & 0xF, sizes >> 4
        end = at + 1 + length_bytes + distance_bytes
        count = int.from_bytes(raw[at + 1 : at + 1 + length_bytes], "little")
        if not 0 < length_bytes <= 8 or distance_bytes > 8 or end > len(raw) or not count:
            raise Doubt("the runs of an attribute are not sound")
        cluster += int.from_bytes(raw[at + 1 + length_bytes : end], "little", signed=True)
        if cluster < 0:
            raise Doubt("the runs of an attribute are not sound")
        yield (cluster if distance_bytes else None), count
        at = end
