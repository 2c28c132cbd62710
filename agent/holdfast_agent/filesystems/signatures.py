"""What else a volume may be than what it looks like. Offsets: libblkid of util-linux.

Many systems leave the first sectors of a volume as they find them, and whoever makes one does not always wipe them: so
below the pool, the cache or the array that is in use there may be the whole beginning of a file system or of swap that
is not. One of these marks beside a known one means that one of the two is a leftover, and nobody here knows which.
"""

from __future__ import annotations

from .reading import Volume

_RAID = b"\xfc\x4e\x2b\xa9"
_BCACHE = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_BCACHEFS = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")
_MARKS = (
    (0, b"LUKS\xba\xbe", "LUKS"),
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"ReFS\0", "ReFS"),
    *((sector * 512, b"LABELONE", "LVM") for sector in range(4)),
    (512, b"\x57\x45\x56\x82", "a BSD disk label"),
    (516, b"!Stra0tis\x86\xff\x02^\x41rh", "Stratis"),
    (1024, b"\x10\x20\xf5\xf2", "F2FS"),
    (0, _RAID, "RAID"),
    (4096, _RAID, "RAID"),
    *((4096 + 24, magic, "bcache") for magic in (_BCACHE, _BCACHEFS)),
    *((block, b"OCFSV2", "OCFS2") for block in (1024, 2048, 4096, 8192)),
    (8192 + 1372, b"\x54\x19\x01\x00", "UFS"),
    (65536 + 1372, b"\x19\x01\x54\x19", "UFS"),
    *((place + 52, b"ReIsEr", "ReiserFS") for place in (8192, 65536)),
    (32768, b"JFS1", "JFS"),
    (65536, b"\x01\x16\x19\x70", "GFS2"),
    (65600, b"_BHRfS_M", "Btrfs"),
)
_VMFS_PLACE, _VMFS = 1 << 20, b"\x0d\xd0\x01\xc0"
_HEAD_BYTES = 512 << 10
# Each of ZFS's two labels at the start is half a ring of uberblocks, each of them at a multiple of 1 KiB.
_ZFS_RINGS = (128 << 10, 384 << 10)
_ZFS_RING_BYTES, _ZFS_STEP = 128 << 10, 1 << 10
_ZFS_UBERBLOCKS = tuple((0x00BAB10C).to_bytes(8, order) for order in ("little", "big"))


def marks(volume: Volume) -> set[str]:
    """What it bears the marks of, other than what has free blocks that are known. Raises errors of the disk."""
    head = volume.read(0, min(_HEAD_BYTES, volume.extent.length))
    found = {name for offset, magic, name in _MARKS if head.startswith(magic, offset)}
    if any(
        head.startswith(_ZFS_UBERBLOCKS, place)
        for ring in _ZFS_RINGS
        for place in range(ring, ring + _ZFS_RING_BYTES, _ZFS_STEP)
    ):
        found.add("ZFS")
    if volume.has(_VMFS_PLACE, _VMFS):
        found.add("VMFS")
    return found | _raid_at_end(volume)


def _raid_at_end(volume: Volume) -> set[str]:
    """A member of a Linux RAID with its superblock at the end (0.90, 1.0) looks like the file system on the array."""
    size = volume.extent.length
    places = (size // 65536 * 65536 - 65536, (size - 8192) // 4096 * 4096)
    return {"RAID"} if any(volume.has(place, _RAID) for place in places) else set()
