"""CRC-32C (Castagnoli), for which the standard library has nothing. Some 5 MiB/s."""

from __future__ import annotations


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def crc32c(data: bytes, seed: int = 0xFFFFFFFF) -> int:
    """As file systems of Linux use it: begun with all ones, and not inverted at the end."""
    table = _TABLE
    for byte in data:
        seed = seed >> 8 ^ table[(seed ^ byte) & 0xFF]
    return seed


def has_crc32c(data: bytes, at: int) -> bool:
    """Whether XFS's checksum at ``at`` is right: of ``data`` with zeros in its own place, inverted at the end."""
    return crc32c(data[:at] + bytes(4) + data[at + 4 :]) ^ 0xFFFFFFFF == int.from_bytes(data[at : at + 4], "little")
