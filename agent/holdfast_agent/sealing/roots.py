"""Restore points made canonical and authentic.

The MAC of a point vouches, through its roots and their nodes, for every id and so for all its data.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import msgspec
from blake3 import blake3

from holdfast_agent.errors import FormatUnsupported, PointNotAuthentic
from holdfast_agent.model.ids import ID_BYTES, BlockId
from holdfast_agent.model.points import Point, PointEntry
from holdfast_agent.model.strict import NOT_DECODED

from .keys import RepositoryKeys

MAC_BYTES = 32
POINT_VERSION = 1
MOST_BODY_BYTES = 4 << 20


class _Version(msgspec.Struct):
    version: int


def seal_point(point: Point, keys: RepositoryKeys) -> PointEntry:
    """``point`` as canonical JSON with its MAC, ready for ``Repository.commit``. Called by the manager.

    ``origin`` stands in it for copies only, so that all other points are the bytes that they always were.
    """
    if point.repository_id != keys.repository_id:
        raise ValueError("the point belongs to another repository than the keys")
    fields = msgspec.to_builtins(point)
    if point.origin is None:
        del fields["origin"]
    body = msgspec.json.encode(fields, order="sorted")
    return PointEntry(point.sid, body, _mac(body, keys))


def open_point(entry: PointEntry, keys: RepositoryKeys) -> Point:
    """The point behind ``entry``, once its MAC has been checked.

    Raises :class:`PointNotAuthentic` (altered, of another repository, or filed under another sid), or
    :class:`FormatUnsupported` for a later version.
    """
    if not hmac.compare_digest(_mac(entry.body, keys), entry.mac):
        raise PointNotAuthentic(point=entry.sid)
    point = read_point(entry)
    if point.repository_id != keys.repository_id:
        raise PointNotAuthentic(point=entry.sid)
    return point


def read_point(entry: PointEntry) -> Point:
    """The point behind ``entry`` **without** checking its MAC: for repository hosts, which hold no keys.

    Raises as :func:`open_point` where the body is no point, or the point of another sid.
    """
    try:
        version = msgspec.json.decode(entry.body, type=_Version).version
        if version != POINT_VERSION:
            raise FormatUnsupported(name=f"points/{entry.sid}", feature=f"points of version {version}")
        point = msgspec.json.decode(entry.body, type=Point)
        for disk in point.disks:
            root_id(disk.root)
            _ = disk.geometry
    except NOT_DECODED as error:
        raise PointNotAuthentic(point=entry.sid) from error
    if point.sid != entry.sid:
        raise PointNotAuthentic(point=entry.sid)
    return point


def root_id(text: str) -> BlockId:
    """The id behind 64 hex digits of a point. Raises ValueError."""
    raw = bytes.fromhex(text)
    if len(raw) != ID_BYTES:
        raise ValueError("an id has 64 hex digits")
    return BlockId(raw)


def pack_set_digest(names: Iterable[str]) -> str:
    """The field ``packs`` of a point: hex BLAKE3 over the sorted pack names, each ended by a line feed."""
    return blake3("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()


def _mac(body: bytes, keys: RepositoryKeys) -> bytes:
    return blake3(body, key=keys.root_key).digest()
