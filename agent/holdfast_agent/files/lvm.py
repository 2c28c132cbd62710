"""Logical volumes of LVM2 across any number of disks: linear, striped, mirrored and thin ones.

Facts: format_text and the label of LVM2, https://sourceware.org/lvm2/ (lib/format_text/layout.h, lib/label).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from holdfast_agent.filesystems.reading import Doubt

from .sources import Joined, Part, Source, Striped
from .thin import Pool

_SECTOR = 512
_LABEL_SECTORS = 4
_MAGIC = b" LVM2 x[5A%r0N*>"
_SEED = 0xF597A6CF
_HEADER_BYTES = 512
_MOST_TEXT_BYTES = 16 << 20
_MOST_DEPTH = 16
_MOST_SEGMENTS = 1 << 16
_TOKEN = re.compile(r'\s+|#[^\n]*|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[\w.+-]+)|(?P<mark>[{}\[\]=,])')


class PhysicalVolume(NamedTuple):
    """``metadata``: the text of its newest description of the group, "" where it keeps none."""

    source: Source
    uuid: str
    metadata: str


class LogicalVolume(NamedTuple):
    """``identity``: its name below /dev/disk/by-id. ``source`` None: it cannot be read, for the reason ``note``."""

    group: str
    name: str
    identity: str
    size_bytes: int
    source: Source | None
    note: str = ""


def physical_volume(source: Source) -> PhysicalVolume | None:
    """What a volume is to LVM; None if it is none of its own. Raises :class:`Doubt` for a damaged one."""
    for sector in range(_LABEL_SECTORS):
        label = source.read(sector * _SECTOR, _SECTOR)
        if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001":
            break
    else:
        return None
    checksum, offset = struct.unpack_from("<II", label, 16)
    if _crc(label[20:]) != checksum or not 32 <= offset <= _SECTOR - 40:
        raise Doubt("its LVM label is damaged")
    uuid = label[offset : offset + 32].decode("ascii", "replace")
    at = offset + 40
    _, at = _areas(label, at)
    metadata, at = _areas(label, at)
    texts = [text for start, size in metadata for text in _text(source, start, size)]
    return PhysicalVolume(source, uuid, max(texts, key=_age, default=""))


def logical_volumes(found: Sequence[PhysicalVolume]) -> Iterator[LogicalVolume]:
    """The visible volumes of all groups that these are part of, by group and name."""
    groups: dict[str, str] = {}
    for volume in found:
        if volume.metadata:
            identity = _group_id(volume.metadata)
            groups[identity] = max(groups.get(identity, ""), volume.metadata, key=_age)
    places = {volume.uuid: volume.source for volume in found}
    for text in sorted(groups.values()):
        yield from _of_group(text, places)


def _of_group(text: str, places: Mapping[str, Source]) -> Iterator[LogicalVolume]:
    name, group = next((key, value) for key, value in _parse(text).items() if isinstance(value, dict))
    builder = _Builder(group, places)
    for each in sorted(builder.volumes):
        volume = builder.volumes[each]
        if "VISIBLE" not in volume.get("status", ()) or builder.is_pool(each):
            continue
        identity = "dm-uuid-LVM-" + f"{group.get('id')}{volume.get('id')}".replace("-", "")
        try:
            source = builder.source(each)
            yield LogicalVolume(name, each, identity, source.size_bytes, source)
        except Doubt as doubt:
            yield LogicalVolume(name, each, identity, 0, None, str(doubt))


class _Builder:
    """Puts the volumes of one group together."""

    def __init__(self, group: dict[str, Any], places: Mapping[str, Source]) -> None:
        self.volumes: dict[str, dict[str, Any]] = _tables(group.get("logical_volumes"))
        self._extent = _number(group, "extent_size", 1, 1 << 32) * _SECTOR
        self._physical = _tables(group.get("physical_volumes"))
        self._places = places
        self._pools: dict[str, Pool] = {}

    def is_pool(self, name: str) -> bool:
        """Whether it is only there for thin volumes to be in."""
        return any(_is_of(each, "thin-pool") for each in self.volumes[name].values())

    def source(self, name: str, depth: int = 0) -> Source:
        """Raises :class:`Doubt`."""
        volume = self.volumes.get(name)
        if volume is None or depth > _MOST_DEPTH:
            raise Doubt(f"its part {name} is missing")
        parts = []
        expected = 0
        for segment in _segments(volume):
            if _number(segment, "start_extent", 0, 1 << 40) != expected:
                raise Doubt("it has a gap")
            count = _number(segment, "extent_count", 1, 1 << 40)
            parts.append(self._segment(segment, count * self._extent, depth))
            expected += count
        return parts[0] if len(parts) == 1 else Joined(parts)

    def _segment(self, segment: dict[str, Any], size: int, depth: int) -> Source:
        kind = segment.get("type")
        if kind in ("striped", "linear"):
            return self._stripes(segment, size)
        if kind in ("raid1", "mirror"):
            legs = segment.get("raids" if kind == "raid1" else "mirrors", [])
            images = [leg for leg in legs if isinstance(leg, str) and "_rmeta" not in leg]
            return self._first_whole(images, size, depth)
        if kind == "thin" and not {"external_origin", "merge"} & segment.keys():
            pool = self._pool(str(segment.get("thin_pool")), depth)
            return pool.volume(_number(segment, "device_id", 0, 1 << 24), size)
        raise Doubt(f"it is of the kind {str(kind)[:40]!r}, which cannot be read here")

    def _first_whole(self, images: list[str], size: int, depth: int) -> Source:
        problem = Doubt("its mirror has no leg")
        for image in images:
            try:
                return Part(self.source(image, depth + 1), 0, size)
            except Doubt as doubt:
                problem = doubt
        raise problem

    def _pool(self, name: str, depth: int) -> Pool:
        if name not in self._pools:
            segment = next((each for each in self.volumes.get(name, {}).values() if _is_of(each, "thin-pool")), None)
            if segment is None:
                raise Doubt(f"its pool {name} is missing")
            parts = (self.source(str(segment.get(part)), depth + 1) for part in ("metadata", "pool"))
            self._pools[name] = Pool(*parts)
        return self._pools[name]

    def _stripes(self, segment: dict[str, Any], size: int) -> Source:
        stripes = segment.get("stripes", [])
        pairs = list(zip(stripes[::2], stripes[1::2], strict=False))
        if not pairs or len(pairs) > 128 or len(stripes) % 2 or size % len(pairs):
            raise Doubt("its stripes have an unknown form")
        parts = [self._place(physical, first, size // len(pairs)) for physical, first in pairs]
        if len(parts) == 1:
            return parts[0]
        stripe = _number(segment, "stripe_size", 1, 1 << 32) * _SECTOR
        if size // len(pairs) % stripe:
            raise Doubt("its stripes have an unknown form")
        return Striped(parts, stripe)

    def _place(self, physical: object, first: object, size: int) -> Source:
        table = self._physical.get(str(physical), {})
        source = self._places.get(str(table.get("id", "")).replace("-", ""))
        if source is None or not isinstance(first, int):
            raise Doubt("one of its disks is not in the restore point")
        return Part(source, _number(table, "pe_start", 0, 1 << 52) * _SECTOR + first * self._extent, size)


def _areas(label: bytes, at: int) -> tuple[list[tuple[int, int]], int]:
    """(offset, bytes) up to the empty one, and where what follows begins."""
    found: list[tuple[int, int]] = []
    while at + 16 <= len(label):
        offset, size = struct.unpack_from("<QQ", label, at)
        at += 16
        if not offset:
            return found, at
        found.append((offset, size))
    raise Doubt("its LVM label is damaged")


def _text(source: Source, start: int, size: int) -> Iterator[str]:
    """The description of the group in one metadata area, if it has a whole one. It may go round its end."""
    header = source.read(start, _HEADER_BYTES)
    if (
        len(header) != _HEADER_BYTES
        or header[4:20] != _MAGIC
        or _crc(header[4:]) != int.from_bytes(header[:4], "little")
    ):
        return
    offset, length, checksum, flags = struct.unpack_from("<QQII", header, 40)
    if flags & 1 or not _HEADER_BYTES <= offset < size or not 0 < length <= min(size - _HEADER_BYTES, _MOST_TEXT_BYTES):
        return
    straight = min(length, size - offset)
    raw = source.read(start + offset, straight) + source.read(start + _HEADER_BYTES, length - straight)
    if _crc(raw) == checksum:
        yield raw.rstrip(b"\0").decode("utf-8", "replace")


def _crc(data: bytes) -> int:
    """CRC-32 as LVM has it: another seed, nothing inverted."""
    return zlib.crc32(data, _SEED ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _age(text: str) -> int:
    """Its sequence number: the larger, the newer."""
    found = re.search(r"\bseqno\s*=\s*(\d{1,18})", text)
    return int(found[1]) if found else -1


def _group_id(text: str) -> str:
    found = re.search(r'\bid\s*=\s*"([^"]{1,64})"', text)
    return found[1] if found else ""


def _parse(text: str) -> dict[str, Any]:
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Doubt("the description of its volume group cannot be read")
        at = match.end()
        if match.lastgroup:
            tokens.append(match[0])
    tokens.reverse()
    try:
        return _section(tokens, 0)
    except (IndexError, ValueError) as error:
        raise Doubt("the description of its volume group cannot be read") from error


def _section(tokens: list[str], depth: int) -> dict[str, Any]:
    """Up to the closing brace, or the end of all."""
    if depth > _MOST_DEPTH:
        raise ValueError("too deep")
    found: dict[str, Any] = {}
    while tokens:
        key = tokens.pop()
        if key == "}":
            return found
        mark = tokens.pop()
        if mark == "{":
            found[key] = _section(tokens, depth + 1)
        elif mark == "=":
            found[key] = _value(tokens)
        else:
            raise ValueError(mark)
    return found


def _value(tokens: list[str]) -> Any:
    first = tokens.pop()
    if first != "[":
        return _scalar(first)
    end = len(tokens) - 1 - tokens[::-1].index("]")
    values = [_scalar(each) for each in reversed(tokens[end + 1 :]) if each != ","]
    del tokens[end:]
    return values


def _scalar(token: str) -> int | str:
    if token.startswith('"'):
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    return int(token) if token.lstrip("-").isdigit() else token


def _segments(volume: dict[str, Any]) -> list[dict[str, Any]]:
    found = [value for key, value in volume.items() if re.fullmatch(r"segment\d+", key) and isinstance(value, dict)]
    if not 0 < len(found) <= _MOST_SEGMENTS:
        raise Doubt("it has no segments")
    return sorted(found, key=lambda segment: _number(segment, "start_extent", 0, 1 << 40))


def _is_of(value: object, kind: str) -> bool:
    """Whether it is a segment of that kind."""
    return isinstance(value, dict) and value.get("type") == kind


def _tables(value: object) -> dict[str, dict[str, Any]]:
    return {key: each for key, each in value.items() if isinstance(each, dict)} if isinstance(value, dict) else {}


def _number(table: dict[str, Any], key: str, least: int, most: int) -> int:
    value = table.get(key)
    if not isinstance(value, int) or not least <= value <= most:
        raise Doubt(f"the description of its volume group has no sound {key}")
    return value
