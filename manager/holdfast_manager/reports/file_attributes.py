"""Extended attributes and access lists of files as text."""

from __future__ import annotations

import struct
from collections.abc import Iterator

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_VERSION, _ENTRY = 2, struct.Struct("<HHI")  # include/uapi/linux/posix_acl_xattr.h
_TAGS = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
_NAMED = (0x02, 0x08)
_ENCODED = ("0x", "0X", "0s", "0S")


def attribute_texts(attributes: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    """By name. Access lists are told as `getfacl` and `setfacl` write them in one line; other values as they are, if
    they are text (a zero byte at the end is left out), and in hexadecimal with `0x` if not, as `setfattr` takes it."""
    return {name.decode("utf-8", "backslashreplace"): _text(name, value) for name, value in sorted(attributes)}


def _text(name: bytes, value: bytes) -> str:
    if name.decode("ascii", "replace") in (ACCESS, DEFAULT):
        entries = ",".join(_entries(value))
        if entries:
            return entries
    try:
        text = value.removesuffix(b"\0").decode()
    except UnicodeDecodeError:
        text = "\0"
    return text if text.isprintable() and not text.startswith(_ENCODED) else f"0x{value.hex()}"


def _entries(value: bytes) -> Iterator[str]:
    """None for what is no access list."""
    if len(value) % _ENTRY.size != 4 or value[:4] != _VERSION.to_bytes(4, "little"):
        return
    for tag, permissions, who in _ENTRY.iter_unpack(value[4:]):
        letters = "".join(letter if permissions & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        yield f"{_TAGS.get(tag, hex(tag))}:{who if tag in _NAMED else ''}:{letters}"
