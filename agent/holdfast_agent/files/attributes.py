"""Extended attributes and access lists, as Linux tells them of any file system: names and values.

Facts: xattr(7), acl(5) and include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

Attribute = tuple[bytes, bytes]

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
MOST_NAME_BYTES, MOST_VALUE_BYTES = 255, 65536
"""XATTR_NAME_MAX, the prefix counted in, and XATTR_SIZE_MAX."""

_TOLD = (b"user.", b"trusted.", b"security.")
_NOBODY = 0xFFFFFFFF
_VERSION = 2
_NAMED = (0x02, 0x08)  # ACL_USER and ACL_GROUP; all other entries name nobody


def access_list(entries: Iterable[tuple[int, int, int]]) -> bytes:
    """The value of an access list of (tag, permissions, uid or gid)."""
    return struct.pack("<I", _VERSION) + b"".join(
        struct.pack("<HHI", tag & 0xFFFF, permissions & 7, who if tag in _NAMED else _NOBODY)
        for tag, permissions, who in entries
    )


def is_told(name: bytes) -> bool:
    """Whether an attribute is a file's own. Others are the file system's (how btrfs compresses, for one)."""
    if len(name) > MOST_NAME_BYTES or b"\0" in name:
        return False
    return name in (ACCESS, DEFAULT) or any(name.startswith(each) and name != each for each in _TOLD)
