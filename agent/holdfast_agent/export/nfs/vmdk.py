"""Disks as VMware has them: a descriptor in text, and a flat file of the bytes.

Its keys: "Virtual Disk Format 1.1" (VMware). ESXi writes to a descriptor itself, so it is given one once and keeps it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from holdfast_agent.errors import DiskUnsupported

SECTOR_BYTES = 512
_MOST_STEM = 80
_HEADS, _SECTORS = 255, 63
_DESCRIPTOR = """\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={content:08x}
parentCID=ffffffff
createType="vmfs"

# Extent description
RW {sectors} VMFS "{flat}"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{heads}"
ddb.geometry.sectors = "{per_track}"
ddb.virtualHWVersion = "13"
"""


def stems_of(disks: Sequence[str]) -> list[str]:
    """What the files of disks of these names are called, without ``.vmdk``; no two alike."""
    stems: list[str] = []
    for name in disks:
        plain = re.sub(r"[^0-9A-Za-z._-]", "_", name).lstrip(".-")[:_MOST_STEM].removesuffix(".vmdk") or "disk"
        others = sum(stem == plain or stem.startswith(f"{plain}+") for stem in stems)
        stems.append(f"{plain}+{others}" if others else plain)
    return stems


def descriptor(disk: str, size_bytes: int, flat: str) -> bytes:
    """Of a disk whose bytes are in the file ``flat``. Raises :class:`DiskUnsupported`."""
    if size_bytes % SECTOR_BYTES or not size_bytes:
        advice = "Restore it to a file"
        raise DiskUnsupported(disk=disk, reason=f"it has {size_bytes} bytes, which are no whole sectors", advice=advice)
    content = int.from_bytes(hashlib.sha256(f"{disk}\0{size_bytes}".encode()).digest()[:4], "big") & 0xFFFFFFFD
    sectors = size_bytes // SECTOR_BYTES
    text = _DESCRIPTOR.format(
        content=content, sectors=sectors, flat=flat, heads=_HEADS, per_track=_SECTORS,
        cylinders=max(1, min(65535, sectors // (_HEADS * _SECTORS))),
    )  # fmt: skip
    return text.encode()
