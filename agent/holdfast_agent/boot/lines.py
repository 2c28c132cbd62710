"""JSON by lines over a Unix socket, as QEMU's monitor and its guest agent speak it. Never waits."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

_MOST_LINE_BYTES = 1 << 20  # what a guest sends is bounded; QEMU's own answers have some hundred bytes
_READ_BYTES = 64 << 10
READS_AT_ONCE = 32
"""Whoever talks without end is listened to only so long: there are others, and the time."""


class JsonLines:
    """One connection. What is no JSON is passed over: a guest may send whatever it likes."""

    def __init__(self, path: Path) -> None:
        """Raises OSError while nobody listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self._buffer = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """As far as it is taken at once: who takes nothing gets it another time, or never."""
        with contextlib.suppress(OSError):
            self._socket.send(msgspec.json.encode(message) + b"\n")

    def take(self) -> Iterator[dict[str, Any]]:
        """What has come, as much as one look takes. Nothing more after the end of the stream."""
        with contextlib.suppress(OSError):
            for _ in range(READS_AT_ONCE):
                chunk = self._socket.recv(_READ_BYTES)
                if not chunk:
                    return
                *lines, self._buffer = (self._buffer + chunk).split(b"\n")
                if len(self._buffer) > _MOST_LINE_BYTES:
                    self._buffer = b""
                for line in lines:
                    with contextlib.suppress(msgspec.DecodeError):
                        yield msgspec.json.decode(line.strip(b"\xff"), type=dict[str, Any])

    def close(self) -> None:
        self._socket.close()
