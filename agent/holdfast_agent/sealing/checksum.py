"""CRC-32 (zlib's polynomial), which every header and payload carries.

By ISA-L: 0.02 ms a MiB, where zlib 1.2 takes 0.25 to 0.35. A payload passes it when it is sealed, stored, read and
opened.
"""

from __future__ import annotations

from isal.isal_zlib import crc32

__all__ = ["crc32"]
