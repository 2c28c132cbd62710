"""Sealed records of the data channel: AES-256-GCM with a counter nonce, the header as associated data.

A record travels as two ZeroMQ frames: a header of 16 bytes and the sealed text. The header names the kind, the
stream, the length of the plain text and the record's number within its direction of its stream. The receiver expects
exactly the next number, so a record that comes twice, out of order, altered or cut is refused before anything of it
is looked at.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast_agent.errors import RecordRejected

_HEADER = struct.Struct("<BBHIQ")
_NONCE = struct.Struct("<IQ")
HEADER_BYTES = _HEADER.size
TAG_BYTES = 16
MAX_PLAIN_BYTES = (4 << 20) + (64 << 10)
"""Bound of one record: the largest block as it is stored, and its message."""

MAX_FRAME_BYTES = MAX_PLAIN_BYTES + TAG_BYTES
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES


class RecordKind(IntEnum):
    """CONFIRM ends the handshake; MESSAGE is the movers'; CREDIT, HEARTBEAT and BYE are the channel's own."""

    CONFIRM = 1
    MESSAGE = 2
    CREDIT = 3
    HEARTBEAT = 4
    BYE = 5


class RecordSealer:
    """Seals the records of one direction of one stream, in order. Owned by the thread that owns the socket."""

    def __init__(self, key: bytes, stream: int) -> None:
        self._cipher = AESGCM(key)
        self._stream = stream
        self._sequence = 0

    def seal(self, kind: RecordKind, plain: bytes) -> tuple[bytes, bytes]:
        """The two frames of the next record."""
        header = _HEADER.pack(kind, self._stream, 0, len(plain), self._sequence)
        sealed = self._cipher.encrypt(_NONCE.pack(0, self._sequence), plain, header)
        self._sequence += 1
        return header, sealed


class RecordOpener:
    """Opens the records of one direction of one stream and accepts each exactly once, in order."""

    def __init__(self, key: bytes, stream: int) -> None:
        self._cipher = AESGCM(key)
        self._stream = stream
        self._sequence = 0

    def open(self, header: bytes, sealed: bytes | memoryview) -> tuple[RecordKind, bytes]:
        """Kind and plain text of the next record.

        Raises :class:`RecordRejected` for anything else than exactly the next record; the connection is then over,
        since nothing that follows can be trusted to be in place.
        """
        size = memoryview(sealed).nbytes
        if len(header) != HEADER_BYTES:
            raise RecordRejected(reason="the header is cut")
        kind, stream, reserved, length, sequence = _HEADER.unpack(header)
        if stream != self._stream or reserved:
            raise RecordRejected(reason="the header names another stream")
        if sequence != self._sequence:
            raise RecordRejected(reason=f"record {sequence} came in the place of {self._sequence}")
        if length > MAX_PLAIN_BYTES or size != length + TAG_BYTES:
            raise RecordRejected(reason="the length is not that of the header")
        try:
            plain = self._cipher.decrypt(_NONCE.pack(0, sequence), sealed, header)
        except InvalidTag:
            raise RecordRejected(reason="it was altered, or sealed under another key") from None
        self._sequence += 1
        try:
            return RecordKind(kind), plain
        except ValueError:
            raise RecordRejected(reason=f"the kind {kind} is unknown") from None
