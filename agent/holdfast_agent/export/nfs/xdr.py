"""XDR (RFC 4506): what calls and replies are made of. Every length is bounded before anything is taken for it."""

from __future__ import annotations

import struct

_UINT, _UHYPER = struct.Struct(">I"), struct.Struct(">Q")


class XdrError(Exception):
    """Arguments that are cut off, too long, or no such value."""


class Reader:
    """Takes values from the front of one message."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def uint(self) -> int:
        return int(_UINT.unpack(self._take(4))[0])

    def uhyper(self) -> int:
        return int(_UHYPER.unpack(self._take(8))[0])

    def boolean(self) -> bool:
        value = self.uint()
        if value > 1:
            raise XdrError(f"{value} is no boolean")
        return value == 1

    def fixed(self, length: int) -> bytes:
        """``length`` bytes and what pads them."""
        return bytes(self._padded(length))

    def opaque(self, most: int) -> memoryview:
        """Bytes with their length before them; a part of the message, not copied."""
        length = self.uint()
        if length > most:
            raise XdrError(f"{length} bytes where at most {most} may be")
        return self._padded(length)

    def end(self) -> None:
        """Nothing may follow."""
        if self.left:
            raise XdrError(f"{self.left} bytes more than the arguments have")

    def _padded(self, length: int) -> memoryview:
        data = self._take(length)
        self._take(-length % 4)
        return data

    def _take(self, length: int) -> memoryview:
        if length > self.left:
            raise XdrError("cut off")
        self._at += length
        return self._data[self._at - length : self._at]


def uint(value: int) -> bytes:
    return _UINT.pack(value)


def uhyper(value: int) -> bytes:
    return _UHYPER.pack(value)


def boolean(value: bool) -> bytes:
    return _UINT.pack(value)


def opaque(data: bytes) -> bytes:
    return _UINT.pack(len(data)) + data + padding(len(data))


def padding(length: int) -> bytes:
    return bytes(-length % 4)
