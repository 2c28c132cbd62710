"""Which files are disk images, of which format, and how large the disk in them is.

The content of an image belongs to the guest, so nothing in it is believed further than needed: a file called
``*.raw`` is raw whatever its first bytes say, and a qcow2 image that refers to any other file is refused, since its
header could name a file of the host.
"""

from __future__ import annotations

import os
import struct
from enum import StrEnum
from pathlib import Path

import msgspec

from holdfast_agent.errors import DiskUnsupported

PROBE_BYTES = (64 << 10) + 128
_QCOW2_MAGIC = b"QFI\xfb"
_OTHER_FORMATS = (b"KDMV", b"COWD", b"vhdxfile", b"conectix", b"<<< Oracle VM", b"QED\0")
_OTHER_NAMES = frozenset({".vmdk", ".vdi", ".vhd", ".vhdx", ".qed", ".qcow", ".parallels", ".hdd"})
_RAW_SIGNS = (
    (510, b"\x55\xaa"),
    (512, b"EFI PART"),
    (1080, b"\x53\xef"),
    (0, b"XFSB"),
    (0, b"LUKS\xba\xbe"),
    (536, b"LVM2 001"),
    (4086, b"SWAPSPACE2"),
    ((64 << 10) + 64, b"_BHRfS_M"),
)
"""Offset and bytes: of boot sector and GUID partition table, and of what a disk may be as a whole (ext2 to ext4, XFS,
LUKS, LVM, swap, btrfs)."""
_LEAST_DISK_BYTES = 1 << 20
_PARTIAL = (".part", ".partial", ".tmp", ".crdownload", ".filepart", "~")
_MAX_QCOW2_BYTES = 1 << 56
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))


class ImageFormat(StrEnum):
    """The formats that are backed up."""

    RAW = "raw"
    QCOW2 = "qcow2"


class Image(msgspec.Struct, frozen=True):
    """An image file and the size of the disk that a guest sees in it."""

    path: Path
    format: ImageFormat
    size_bytes: int

    @property
    def name(self) -> str:
        return self.path.name


def recognise(path: Path) -> ImageFormat | None:
    """The format of the file ``path``, or None when it is no image: hidden, half-written, a link, or something else."""
    if path.name.startswith(".") or path.name.endswith(_PARTIAL) or path.is_symlink() or not path.is_file():
        return None
    if path.suffix == ".raw":
        return ImageFormat.RAW
    head = _head(path)
    if head.startswith(_QCOW2_MAGIC) or path.suffix == ".qcow2":
        return ImageFormat.QCOW2  # without a header it is damaged, which whoever opens it is told
    if path.suffix == ".img":
        return ImageFormat.RAW
    if head.startswith(_OTHER_FORMATS) or path.stat().st_size % 512:
        return None
    is_raw = any(head[offset : offset + len(sign)] == sign for offset, sign in _RAW_SIGNS)
    return ImageFormat.RAW if is_raw else None


def overlooked(path: Path) -> str:
    """Why the file or folder ``path`` in a VM's folder, which may be a disk of it, is none here; else empty."""
    if path.name.startswith(".") or path.name.endswith(_PARTIAL):
        return ""
    if path.is_dir():
        inner = any(recognise(each) for each in path.iterdir()) if not path.is_symlink() else False
        return "a folder with images: only those in the VM's own folder are its disks" if inner else ""
    if not path.is_file() or recognise(path) is not None:
        return ""
    if path.is_symlink():
        return "a link: put the image itself there" if recognise(path.resolve()) is not None else ""
    if path.suffix in _OTHER_NAMES or _head(path).startswith(_OTHER_FORMATS):
        return "neither raw nor qcow2: qemu-img convert makes it so"
    size = path.stat().st_size
    if not path.suffix and size >= _LEAST_DISK_BYTES and size % 512 == 0:
        return f"nothing in it says that it is a disk: if it is one, call it {path.name}.raw"
    return ""


def open_image(path: Path, image_format: ImageFormat) -> Image:
    """The image with its size. Raises :class:`DiskUnsupported` for a qcow2 image that cannot be backed up alone."""
    if image_format is ImageFormat.RAW:
        return Image(path, image_format, path.stat().st_size)
    return Image(path, image_format, _qcow2_size(path))


def _head(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(PROBE_BYTES)


def _qcow2_size(path: Path) -> int:
    """The virtual size. Layout: docs/interop/qcow2.txt of QEMU, section Header."""
    head = _head(path)
    if len(head) < 72 or not head.startswith(_QCOW2_MAGIC):
        raise _unsupported(path, "its qcow2 header is cut off or none", "Check the file with `qemu-img check`")
    version, backing, _, cluster_bits, size, encryption = struct.unpack_from(">IQIIQI", head, 4)
    if version not in (2, 3):
        raise _unsupported(path, f"it is qcow version {version}", "Convert it: qemu-img convert -O qcow2")
    if backing:
        advice = "Make it whole first: qemu-img rebase -b '' IMAGE (with the VM stopped), or qemu-img convert"
        raise _unsupported(path, "it is an overlay and holds only what differs from its backing file", advice)
    if encryption:
        raise _unsupported(path, "it is encrypted by QEMU", "Encrypt in the guest instead; Holdfast encrypts backups")
    features = struct.unpack_from(">Q", head, 72)[0] if version == 3 and len(head) >= 104 else 0
    if features & _CORRUPT:
        raise _unsupported(path, "it is marked corrupt", "Repair it: qemu-img check -r all")
    if features & _DATA_FILE:
        raise _unsupported(path, "its data is in another file", "Convert it: qemu-img convert -O qcow2")
    if features & ~(_DIRTY | _COMPRESSION | _EXTENDED_L2):
        raise _unsupported(
            path, f"it needs unknown features ({features:#x})", "Convert it with a plain qemu-img convert"
        )
    if not 9 <= cluster_bits <= 21 or size > _MAX_QCOW2_BYTES:
        raise _unsupported(path, "its qcow2 header makes no sense", "Check the file with `qemu-img check`")
    return int(size)


def _unsupported(path: Path, reason: str, advice: str) -> DiskUnsupported:
    return DiskUnsupported(disk=os.fspath(path), reason=reason, advice=advice)
