"""Names of the objects in a repository. Every name is used once; what it names never changes."""

from __future__ import annotations

import re

import msgspec
from blake3 import blake3

from holdfast_agent.errors import ObjectDamaged
from holdfast_agent.model.ids import Sid

CONFIG = "config"
KEYS = "keys"
PACKS = "packs"
INDEX = "index"
SESSIONS = "sessions"
POINTS = "points"
TOMBSTONES = "tombstones"
RETENTION = "retention"
GC = "gc"
QUARANTINE = "quarantine"
TMP = "tmp"
RESERVE = "space-reserve"
DATA_CLASS = "d"
META_CLASS = "m"
PACK_CLASSES = (DATA_CLASS, META_CLASS)
FAN_OUT = tuple(f"{byte:02x}" for byte in range(256))

_PACK_NAME = re.compile(r"([0-9a-f]{32})-(\d{1,9})-([dm])(\d{1,9})")
_SLOT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class PackName(msgspec.Struct, frozen=True):
    """A pack's name taken apart: session, mover within it, class ("d" data, "m" nodes and blobs), running number."""

    sid: Sid
    mover: int
    pack_class: str
    seq: int

    def __str__(self) -> str:
        return f"{self.sid}-{self.mover}-{self.pack_class}{self.seq}"


def parse_pack_name(name: str) -> PackName:
    """Take a pack's name apart. Raises :class:`ObjectDamaged` for anything else (also from a hostile peer)."""
    match = _PACK_NAME.fullmatch(name)
    if match is None:
        raise ObjectDamaged(name=name[:80], offset_bytes=0, reason="this is not the name of a pack")
    parsed = PackName(Sid(match[1]), int(match[2]), match[3], int(match[4]))
    if str(parsed) != name:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="this is not the name of a pack (leading zeros)")
    return parsed


def pack_object(name: str) -> str:
    """Object name of a pack; 256 directories a class keep them short."""
    return f"{PACKS}/{parse_pack_name(name).pack_class}/{blake3(name.encode()).digest()[0]:02x}/{name}"


def point_object(sid: Sid) -> str:
    return f"{POINTS}/{sid}"


def session_object(sid: Sid) -> str:
    return f"{SESSIONS}/{sid}"


def segment_object(sid: Sid, mover: int, number: int) -> str:
    return f"{INDEX}/{sid}-{mover}-{number}"


def base_segment_object(generation: int, shard: int) -> str:
    """A segment that the collector made out of others."""
    return f"{INDEX}/base-{generation}-{shard}"


def collector_object(generation: int, stage: str) -> str:
    """One step of a generation: "begin", "condemned", "sweep" or "done"."""
    return f"{GC}/{generation}.{stage}"


def is_slot_name(name: str) -> bool:
    """Lower-case letters, digits, dot, underscore and hyphen; 1 to 64 of them, beginning with a letter or digit."""
    return _SLOT_NAME.fullmatch(name) is not None
