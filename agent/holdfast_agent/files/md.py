"""Arrays of Linux RAID (md) with metadata of version 1: which members belong together, and how they are read.

Facts: https://docs.kernel.org/admin-guide/md.html , include/uapi/linux/raid/md_p.h (struct mdp_superblock_1) and
md_u.h; how the kernel places data: drivers/md/raid0.c, raid5.c, raid10.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from holdfast_agent.filesystems.reading import Doubt

from .md_places import Layout, Parity, Rows
from .sources import Joined, Part, Source, Striped

_SECTOR = 512
_MAGIC = b"\xfc\x4e\x2b\xa9"
_HEADER_BYTES = 256
_MOST_DEVICES = 1024  # of which roles are told; the kernel has 384
_RECOVERING, _RESHAPING, _JOURNALLED = 0x2, 0x4, 0x200
_MOST_MEMBERS = 256
_LINEAR, _MIRROR, _NEAR = -1, 1, 10
_PARITIES = {4: 1, 5: 1, 6: 2}
_NAMES = {_LINEAR: "linear", 0: "0", 1: "1", 4: "4", 5: "5", 6: "6", 10: "10"}
_OLD, _OLD_GRAIN = struct.Struct("<4sII16xi"), 65536
_CLEAN = (1 << 64) - 1


class Member(NamedTuple):
    """A device of an array, by its superblock. ``role``: its place there, None for a spare or one that failed.

    ``used_bytes``: what the array takes of each member; ``data``: where that lies on this one, and what follows it.
    """

    array: bytes
    name: str
    level: int
    layout: int
    chunk_bytes: int
    disks: int
    used_bytes: int
    number: int
    roles: tuple[int, ...]
    events: int
    features: int
    is_clean: bool
    data: Source


class Array(NamedTuple):
    """``device``: how guests call it. ``source`` None: it cannot be read, for the reason ``note``."""

    name: str
    device: str
    level: str
    size_bytes: int
    source: Source | None
    note: str = ""


def member(source: Source) -> Member | None:
    """What a volume is to Linux RAID; None if it is no member. Raises :class:`Doubt` for a damaged superblock."""
    for at in _places(source.size_bytes):
        raw = source.read(at, _HEADER_BYTES)
        is_one = raw[:8] == _MAGIC + b"\1\0\0\0" and len(raw) == _HEADER_BYTES
        if is_one and int.from_bytes(raw[144:152], "little") * _SECTOR == at:
            return _member(source, at, raw)
    return None


def is_old_member(source: Source) -> bool:
    """Whether it has metadata 0.90, and is no mirror. (Such a one begins as a part of what is on the array: of a mirror
    that is all of it.)"""
    at = source.size_bytes // _OLD_GRAIN * _OLD_GRAIN - _OLD_GRAIN
    raw = source.read(at, _OLD.size) if at >= 0 else b""
    if len(raw) < _OLD.size:
        return False
    magic, major, minor, level = _OLD.unpack(raw)
    return (magic, major, minor) == (_MAGIC, 0, 90) and level != _MIRROR


def _places(size_bytes: int) -> tuple[int, ...]:
    """Of metadata 1.2, 1.1 and 1.0."""
    return 4096, 0, max(0, (size_bytes // _SECTOR - 16) // 8 * 8 * _SECTOR)


def _member(source: Source, at: int, raw: bytes) -> Member:
    (devices,) = struct.unpack_from("<I", raw, 220)
    whole = raw + source.read(at + _HEADER_BYTES, 2 * min(devices, _MOST_DEVICES))
    if devices > _MOST_DEVICES or len(whole) != _HEADER_BYTES + 2 * devices or not _is_sound(whole):
        raise Doubt("its RAID superblock is damaged")
    features, identity, name = struct.unpack_from("<I4x16s32s", raw, 8)
    level, layout, used, chunk, disks = struct.unpack_from("<iIQII", raw, 72)
    data_offset, data_sectors = struct.unpack_from("<QQ", raw, 128)
    (number,) = struct.unpack_from("<I", raw, 160)
    events, resync = struct.unpack_from("<QQ", raw, 200)
    return Member(
        array=identity,
        name=name.split(b"\0")[0].decode("utf-8", "backslashreplace"),
        level=level,
        layout=layout,
        chunk_bytes=chunk * _SECTOR,
        disks=disks,
        used_bytes=used * _SECTOR,
        number=number,
        roles=struct.unpack_from(f"<{devices}H", whole, _HEADER_BYTES),
        events=events,
        features=features,
        is_clean=resync == _CLEAN,
        data=Part(source, data_offset * _SECTOR, data_sectors * _SECTOR),
    )


def _is_sound(raw: bytes) -> bool:
    """The sum of all words, the one that holds it taken as zero."""
    words = raw[:216] + bytes(4) + raw[220:]
    total: int = sum(struct.unpack_from(f"<{len(words) // 4}I", words))
    if len(words) % 4:
        total += int.from_bytes(words[-2:], "little")
    told = int.from_bytes(raw[216:220], "little")
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF == told


def arrays(found: Sequence[Member]) -> Iterator[Array]:
    """All arrays of which there is a member, by name."""
    groups: dict[bytes, list[Member]] = {}
    for each in found[:_MOST_MEMBERS]:
        groups.setdefault(each.array, []).append(each)
    for members in sorted(groups.values(), key=lambda each: (each[0].name, each[0].array)):
        yield _array(members)


def _array(members: Sequence[Member]) -> Array:
    newest = max(members, key=lambda each: each.events)
    _, _, own = newest.name.rpartition(":")  # "host:name"
    device = f"md{own}" if own.isdecimal() else f"md/{own}"
    name = f"md-{own or newest.array.hex()[:8]}"
    level = _NAMES.get(newest.level, str(newest.level))
    try:
        source = _assembled(newest, members)
    except Doubt as doubt:
        return Array(name, device, level, 0, None, str(doubt))
    return Array(name, device, level, source.size_bytes, source)


def _assembled(newest: Member, members: Sequence[Member]) -> Source:
    """Raises :class:`Doubt`."""
    if newest.features & _RESHAPING:
        raise Doubt("it was being reshaped")
    if not 0 < newest.disks <= _MOST_MEMBERS:
        raise Doubt("its superblock tells a shape that is not possible")
    present = _present(newest, members)
    if newest.level == _MIRROR:
        return Part(next(iter(present.values())), 0, newest.used_bytes)
    if newest.level in (0, _LINEAR):
        if len(present) < newest.disks:
            raise Doubt(f"{newest.disks - len(present)} of its {newest.disks} members are not in the restore point")
        whole = [_whole_chunks(newest, present[role]) for role in range(newest.disks)]
        return Joined(whole) if newest.level == _LINEAR else _striped(newest, whole)
    _check_chunks(newest)
    if newest.level == _NEAR:
        return Rows(present, newest.disks, newest.chunk_bytes, newest.used_bytes, newest.layout)
    if newest.level in _PARITIES:
        if newest.features & _JOURNALLED:
            raise Doubt("its last writes are in a journal of its own")
        if len(present) < newest.disks and not newest.is_clean:
            raise Doubt("a member is not there, and it was being written")
        layout = Layout.PARITY_LAST if newest.level == 4 else newest.layout
        return Parity(present, newest.disks, newest.chunk_bytes, newest.used_bytes, layout, _PARITIES[newest.level])
    raise Doubt("it is of a level that cannot be read here")


def _present(newest: Member, members: Sequence[Member]) -> Mapping[int, Source]:
    """Those that are in step, by their places."""
    present: dict[int, Source] = {}
    for each in members:
        role = newest.roles[each.number] if each.number < len(newest.roles) else 0xFFFF
        # The kernel takes one that has missed a single event.
        if role < newest.disks and each.events + 1 >= newest.events and not each.features & _RECOVERING:
            if newest.level in (0, _LINEAR):
                present[role] = each.data
            else:
                present[role] = Part(each.data, 0, newest.used_bytes)
    if not present:
        raise Doubt("none of its members is in step")
    return present


def _striped(newest: Member, parts: Sequence[Source]) -> Source:
    _check_chunks(newest)
    if len({part.size_bytes for part in parts}) > 1:
        raise Doubt("its members are of several sizes")
    return Striped(parts, newest.chunk_bytes)


def _whole_chunks(newest: Member, part: Source) -> Source:
    return Part(part, 0, part.size_bytes // newest.chunk_bytes * newest.chunk_bytes) if newest.chunk_bytes else part


def _check_chunks(newest: Member) -> None:
    size = newest.chunk_bytes
    if not 4096 <= size <= 64 << 20 or size & (size - 1):
        raise Doubt("its superblock tells a shape that is not possible")
