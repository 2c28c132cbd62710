"""A stream sealed under a passphrase: what is read back is what was written, whole and in order, or an error.

Layout: magic, version, length of the slot, the slot (argon2id around a random key, as a repository's), then chunks of
1 MiB under AES-256-GCM. Each chunk's nonce is its number and whether it is the last, so that chunks cannot be swapped,
dropped or cut off; the key is used for this one stream only.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, WrongPassphrase
from holdfast_agent.sealing.keys import MasterKey, new_repository_id
from holdfast_agent.sealing.slots import DEFAULT_MEMORY_KIB, MOST_SLOT_BYTES, open_slots, wrap_master

from .errors import ConfigBackupLocked, ConfigBackupUnreadable

CHUNK_BYTES = 1 << 20
_MAGIC = b"HFCB"
_VERSION = 1
_HEADER = struct.Struct("<4sBxxxI16s")
_NONCE = struct.Struct(">QI")
_TAG_BYTES = 16


class SealingWriter(io.RawIOBase):
    """Seals what is written to it; :meth:`finish` makes it whole. Does not close ``target``."""

    def __init__(self, target: BinaryIO, passphrase: str, memory_kib: int = DEFAULT_MEMORY_KIB) -> None:
        """Takes about half a second and ``memory_kib`` of memory."""
        super().__init__()
        master, stream_id = MasterKey.generate(), new_repository_id()
        slot = wrap_master(master, passphrase, stream_id, memory_kib=memory_kib)
        front = _HEADER.pack(_MAGIC, _VERSION, len(slot), bytes.fromhex(stream_id)) + slot
        self._target = target
        self._cipher = AESGCM(master.reveal())
        self._associated = blake3(front).digest()
        self._buffer = bytearray()
        self._number = 0
        target.write(front)

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # io's own signature has a private buffer type
        self._buffer += view
        while len(self._buffer) > CHUNK_BYTES:  # one chunk stays: the last is told from the others
            self._seal(bytes(self._buffer[:CHUNK_BYTES]), last=False)
            del self._buffer[:CHUNK_BYTES]
        return len(view)

    def finish(self) -> None:
        """Write the last chunk. Nothing may be written afterwards."""
        self._seal(bytes(self._buffer), last=True)
        self._buffer.clear()

    def _seal(self, chunk: bytes, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_NONCE.pack(self._number, last), chunk, self._associated))
        self._number += 1


class OpeningReader(io.RawIOBase):
    """Reads what :class:`SealingWriter` wrote. Raises typed errors naming ``file``; never hands out unproved bytes."""

    def __init__(self, source: BinaryIO, passphrase: str, file: str) -> None:
        """Raises :class:`ConfigBackupLocked` and :class:`ConfigBackupUnreadable`."""
        super().__init__()
        self._source = source
        self._file = file
        head = source.read(_HEADER.size)
        if len(head) < _HEADER.size or head[:4] != _MAGIC:
            raise self._unreadable("it does not begin like one")
        _, version, slot_bytes, stream_id = _HEADER.unpack(head)
        if version != _VERSION or slot_bytes > MOST_SLOT_BYTES:
            raise self._unreadable(f"its version {version} is not known here")
        slot = source.read(slot_bytes)
        try:
            master = open_slots({"passphrase": slot}, passphrase, stream_id.hex())
        except WrongPassphrase as error:
            raise ConfigBackupLocked(file=file) from error
        except (ObjectDamaged, FormatUnsupported) as error:
            raise self._unreadable(error.text) from error
        self._cipher = AESGCM(master.reveal())
        self._associated = blake3(head + slot).digest()
        self._number = 0
        self._plain = b""
        self._ahead = source.read(CHUNK_BYTES + _TAG_BYTES)
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # io's own signature has a private buffer type
        while not self._plain and not self._ended:
            self._open_next()
        taken = min(len(view), len(self._plain))
        view[:taken] = self._plain[:taken]
        self._plain = self._plain[taken:]
        return taken

    def _open_next(self) -> None:
        sealed, self._ahead = self._ahead, self._source.read(CHUNK_BYTES + _TAG_BYTES)
        self._ended = not self._ahead
        try:
            self._plain = self._cipher.decrypt(_NONCE.pack(self._number, self._ended), sealed, self._associated)
        except (InvalidTag, ValueError) as error:
            raise self._unreadable("it was cut or altered") from error
        self._number += 1

    def _unreadable(self, reason: str) -> ConfigBackupUnreadable:
        return ConfigBackupUnreadable(file=self._file, reason=reason)
