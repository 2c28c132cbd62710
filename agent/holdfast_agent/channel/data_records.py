"""Sealed records of the data channel: AES-256-GCM with a counter nonce, the header as associated data.

A record travels as two ZeroMQ frames: a header of 16 bytes and the sealed text. The header names the kind, the
stream, the length of the plain text and the record's number within its direction of its stream. The receiver expects
exactly the next number, so a record that comes twice, out of order, altered or cut is refused before anything of it
is looked at.

What its maker has encrypted already (the blocks of an encrypted repository) follows as a third frame, authenticated
but not encrypted once more: its tag, AES-GCM over no text with the frame as associated data (GMAC), leads the sealed
text. That takes half the time of encrypting it, and nobody copies it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
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
_TEXT, _CIPHERTEXT = 0, 1  # first word of a nonce: so that a record's two tags never share one
Buffer = bytes | bytearray | memoryview
Frames = tuple[Buffer, ...]


class RecordKind(IntEnum):
    """CONFIRM and ACCEPT end the handshake; MESSAGE and CARRIER (with a frame of ciphertext) are the movers', and so
    are WORDS, which stand outside of their order and count; CREDIT, HEARTBEAT and BYE are the channel's own.

    A message that a limit slows down goes as several PARTs and a LAST, between which others of the stream may come.
    """

    CONFIRM = 1
    MESSAGE = 2
    CREDIT = 3
    HEARTBEAT = 4
    BYE = 5
    CARRIER = 6
    PART = 7
    LAST = 8
    ACCEPT = 9
    WORDS = 10


class RecordSealer:
    """Seals the records of one direction of one stream, in order. Owned by the thread that owns the socket."""

    def __init__(self, key: bytes, stream: int) -> None:
        self._cipher = AESGCM(key)
        self._stream = stream
        self._sequence = 0

    def seal(self, kind: RecordKind, plain: bytes) -> Frames:
        """The two frames of the next record."""
        header = _HEADER.pack(kind, self._stream, 0, len(plain), self._sequence)
        sealed = self._cipher.encrypt(_NONCE.pack(_TEXT, self._sequence), plain, header)
        self._sequence += 1
        return header, sealed

    def seal_carrier(self, plain: bytes, ciphertext: Buffer) -> Frames:
        """The three frames of the next record, a CARRIER; ``ciphertext`` is the third as it is."""
        tag = self._cipher.encrypt(_NONCE.pack(_CIPHERTEXT, self._sequence), b"", ciphertext)
        return *self.seal(RecordKind.CARRIER, tag + plain), ciphertext


class RecordOpener:
    """Opens the records of one direction of one stream and accepts each exactly once, in order."""

    def __init__(self, key: bytes, stream: int) -> None:
        self._cipher = AESGCM(key)
        self._stream = stream
        self._sequence = 0

    def open(self, frames: Sequence[Buffer]) -> tuple[RecordKind, memoryview, Buffer]:
        """Kind, plain text and ciphertext (empty but in a CARRIER) of the next record.

        Raises :class:`RecordRejected` for anything else than exactly the next record; the connection is then over,
        since nothing that follows can be trusted to be in place.
        """
        if not 2 <= len(frames) <= 3 or len(frames[0]) != HEADER_BYTES:
            raise RecordRejected(reason="its frames are not those of a record")
        header, sealed, ciphertext = bytes(frames[0]), frames[1], frames[2] if len(frames) == 3 else b""
        size = len(sealed)
        kind, stream, reserved, length, sequence = _HEADER.unpack(header)
        if stream != self._stream or reserved:
            raise RecordRejected(reason="the header names another stream")
        if sequence != self._sequence:
            raise RecordRejected(reason=f"record {sequence} came in the place of {self._sequence}")
        if length > MAX_PLAIN_BYTES or size != length + TAG_BYTES:
            raise RecordRejected(reason="the length is not that of the header")
        if (kind == RecordKind.CARRIER) != (len(frames) == 3):
            raise RecordRejected(reason="its frames are not those of its kind")
        try:
            plain = memoryview(self._cipher.decrypt(_NONCE.pack(_TEXT, sequence), sealed, header))
            if kind == RecordKind.CARRIER:
                self._cipher.decrypt(_NONCE.pack(_CIPHERTEXT, sequence), plain[:TAG_BYTES], ciphertext)
                plain = plain[TAG_BYTES:]
        except InvalidTag:
            raise RecordRejected(reason="it was altered, or sealed under another key") from None
        self._sequence += 1
        try:
            return RecordKind(kind), plain, ciphertext
        except ValueError:
            raise RecordRejected(reason=f"the kind {kind} is unknown") from None
