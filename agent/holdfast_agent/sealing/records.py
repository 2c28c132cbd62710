"""Records: one block, tree node or blob with a header of 96 bytes, sealed.

Who holds no keys can still check a record's header and payload for damage; who holds them can open it and
prove that it is what its id says. The byte layout stands in docs/repository-format.md.
"""

from __future__ import annotations

import enum
import os
import struct

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged, WrongKey
from holdfast_agent.model.geometry import MAX_BLOCK_LOG2
from holdfast_agent.model.ids import BlockId
from holdfast_agent.model.rules import Compression

from . import xaes
from .buffers import ThreadBuffer
from .checksum import crc32
from .codecs import DEFAULT_ZSTD_LEVEL, Codec, compress, decompress_prefix, decompress_to_view
from .keys import Cipher, DataKeys, repository_id_bytes
from .xaes import Buffer

MAGIC = b"HFRC"
HEADER_BYTES = 96
MOST_PLAIN_BYTES = 1 << MAX_BLOCK_LOG2
MOST_RECORD_BYTES = HEADER_BYTES + MOST_PLAIN_BYTES + xaes.TAG_BYTES
_VERSION = 1
_HEADER = struct.Struct("<4sBBBBIIII32s24s8sII")
_ASSOCIATED_BYTES = HEADER_BYTES - 8
_NO_NONCE = bytes(xaes.NONCE_BYTES)
Pieces = tuple[Buffer, Buffer]
"""Header and payload of one record. They travel and are stored as they are: joining them would copy."""


class RecordKind(enum.IntEnum):
    DATA = 1
    NODE = 2
    BLOB = 3


_OPENED_KINDS = frozenset((RecordKind.DATA, RecordKind.BLOB))
_CODECS, _CIPHERS = frozenset(Codec), frozenset(Cipher)


class RecordHeader(msgspec.Struct, frozen=True):
    """A parsed header. ``kind``, ``codec`` and ``cipher`` are plain numbers: newer ones than ours are carried along."""

    kind: int
    codec: int
    cipher: int
    epoch: int
    flags: int
    plain_length: int
    payload_length: int
    id: BlockId
    nonce: bytes
    payload_crc: int

    @property
    def record_length(self) -> int:
        return HEADER_BYTES + self.payload_length


def seal_record(
    kind: RecordKind,
    plain: Buffer,
    block_id: BlockId,
    keys: DataKeys,
    compression: Compression = Compression.LZ4,
    level: int = DEFAULT_ZSTD_LEVEL,
) -> tuple[bytes, bytes]:
    """Compress (kept if at least 3 % smaller) and seal one block or blob.

    Returns (header, payload), which follow each other in a record; they are not joined, which would copy. ``plain`` is
    free afterwards.
    Thread-safe; all heavy parts release the GIL. Raises :class:`BlockNotVerified` if ``keys.verify_decode`` is
    set and the compressed bytes do not decode to ``plain``.
    """
    codec, packed = compress(plain, compression, level, verify=keys.verify_decode)
    if keys.cipher == Cipher.NONE:
        payload = bytes(packed)  # out of a buffer that is used again
        return _header(kind, codec, Cipher.NONE, 0, len(plain), payload, block_id, _NO_NONCE), payload
    nonce = os.urandom(xaes.NONCE_BYTES)
    length = len(packed) + xaes.TAG_BYTES
    front = _front(kind, codec, Cipher.XAES_256_GCM, keys.epoch, len(plain), length, block_id, nonce)
    payload = xaes.encrypt(keys.enc_key, nonce, packed, repository_id_bytes(keys.repository_id) + front)
    return _finish(front, payload), payload


def plain_record(kind: RecordKind, plain: bytes, record_id: BlockId) -> tuple[bytes, bytes]:
    """(header, payload) of something that is neither compressed nor encrypted: tree nodes. Needs no keys."""
    return _header(kind, Codec.NONE, Cipher.NONE, 0, len(plain), plain, record_id, _NO_NONCE), plain


def parse_header(buffer: Buffer, name: str = "a record", offset_bytes: int = 0) -> RecordHeader:
    """Parse and check the first 96 bytes of ``buffer``: magic, CRC, bounds. Needs no keys.

    ``name`` and ``offset_bytes`` say in errors where the record stands. Raises :class:`ObjectDamaged`, or
    :class:`FormatUnsupported` for a later record version.
    """
    view = memoryview(buffer)[:HEADER_BYTES]
    if len(view) < HEADER_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=offset_bytes, reason="the record's header is cut off")
    fields = _HEADER.unpack(view)
    magic, version, kind, codec, cipher, epoch, flags, plain_length, payload_length = fields[:9]
    if magic != MAGIC or crc32(view[: HEADER_BYTES - 4]) != fields[13]:
        raise ObjectDamaged(name=name, offset_bytes=offset_bytes, reason="this is not a whole record header")
    if version != _VERSION:
        raise FormatUnsupported(name=name, feature=f"records of version {version}")
    if plain_length > MOST_PLAIN_BYTES or payload_length > MOST_PLAIN_BYTES + xaes.TAG_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=offset_bytes, reason="the record claims to be longer than allowed")
    return RecordHeader(
        kind, codec, cipher, epoch, flags, plain_length, payload_length, BlockId(fields[9]), fields[10], fields[12]
    )


def split_record(record: Buffer) -> Pieces:
    """Views of header and payload. Of bytes that are no whole record too: whoever looks at the pieces finds out."""
    view = memoryview(record)
    return view[:HEADER_BYTES], view[HEADER_BYTES:]


def check_record(record: Buffer, name: str = "a record", offset_bytes: int = 0) -> RecordHeader:
    """Check header and payload of exactly one record for damage. Needs no keys. Raises as :func:`parse_header`."""
    return check_pieces(split_record(record), name, offset_bytes)


def check_pieces(pieces: Pieces, name: str = "a record", offset_bytes: int = 0) -> RecordHeader:
    """:func:`check_record` for a record whose header and payload stand apart."""
    header = parse_header(pieces[0], name, offset_bytes)
    if len(pieces[1]) != header.payload_length:
        raise ObjectDamaged(name=name, offset_bytes=offset_bytes, reason="the record's length is not what it says")
    check_payload(header, pieces[1], name, offset_bytes)
    return header


def check_payload(header: RecordHeader, payload: Buffer, name: str = "a record", offset_bytes: int = 0) -> None:
    """Check a payload's CRC. Raises :class:`ObjectDamaged`."""
    if crc32(payload) != header.payload_crc:
        raise ObjectDamaged(name=name, offset_bytes=offset_bytes, reason="the record's payload does not match its CRC")


def open_record(record: Buffer, keys: DataKeys, expected: BlockId | None = None) -> bytes:
    """:func:`open_pieces` for a whole record."""
    return open_pieces(split_record(record), keys, expected)


def open_pieces(pieces: Pieces, keys: DataKeys, expected: BlockId | None = None) -> bytes:
    """The plain bytes of one record, proved: CRC, authenticity, length, and the keyed id computed anew.

    ``expected`` is the id under which the record was asked for. Thread-safe. Raises :class:`ObjectDamaged` (also
    for a record that is not the one asked for), :class:`WrongKey`, :class:`FormatUnsupported`.
    """
    return bytes(view_pieces(pieces, keys, expected))


def view_pieces(pieces: Pieces, keys: DataKeys, expected: BlockId | None = None) -> Buffer:
    """As :func:`open_pieces`, in buffers of this thread that its next call overwrites, or in ``pieces`` themselves.

    For whoever has done with a block before it opens the next: nothing is allocated.
    """
    header = check_pieces(pieces)
    name = _check_usable(header, keys, expected)
    packed = pieces[1]
    if header.cipher == Cipher.XAES_256_GCM:
        packed = _decrypt(header, pieces, keys, name)
    plain = decompress_to_view(Codec(header.codec), packed, header.plain_length)
    if plain is None or keys.block_id(plain) != header.id:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its content does not match its id")
    return plain


def part_of_pieces(pieces: Pieces, keys: DataKeys, expected: BlockId, start: int, end: int) -> bytes:
    """The plain bytes ``[start, end)`` of a sealed record, which lie in its block; no more of it is decoded.

    That it was sealed under this id, by who has a key of the repository, is proved: the tag covers its payload and all
    of its header. Not, as by :func:`open_pieces`, that its content has this id: that is the sealer's word. Thread-safe.
    Raises as :func:`open_pieces`, and ValueError for keys without a cipher, which vouch for nothing.
    """
    if keys.cipher == Cipher.NONE:
        raise ValueError("what is not sealed is proved by its id alone")
    header = parse_header(pieces[0])  # (no CRC could tell more than the tag)
    name = _check_usable(header, keys, expected)
    packed = _decrypt(header, pieces, keys, name)
    prefix = decompress_prefix(Codec(header.codec), packed, header.plain_length, end)
    if prefix is None or end > header.plain_length:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="it does not decode")
    return bytes(prefix[start:])


def open_plain_record(record: Buffer, expected: BlockId) -> bytes:
    """:func:`open_plain_pieces` for a whole record."""
    return open_plain_pieces(split_record(record), expected)


def open_plain_pieces(pieces: Pieces, expected: BlockId) -> bytes:
    """The bytes of a node record, proved by their plain BLAKE3. Raises :class:`ObjectDamaged`."""
    header = check_pieces(pieces)
    payload = bytes(pieces[1])
    plainly = (header.kind, header.codec, header.cipher) == (RecordKind.NODE, Codec.NONE, Cipher.NONE)
    whole = plainly and header.plain_length == len(payload)
    if not whole or header.id != expected or blake3(payload).digest() != expected:
        raise ObjectDamaged(
            name=f"node {expected.hex()[:16]}", offset_bytes=0, reason="its content does not match its id"
        )
    return payload


def _name(record_id: BlockId) -> str:
    return f"record {record_id.hex()[:16]}"


def _check_usable(header: RecordHeader, keys: DataKeys, expected: BlockId | None) -> str:
    """The record's name for errors. Raises what :func:`open_pieces` raises before anything is opened."""
    name = _name(header.id)
    if expected is not None and header.id != expected:
        raise ObjectDamaged(name=_name(expected), offset_bytes=0, reason="another record stands here")
    if header.kind not in _OPENED_KINDS:
        raise FormatUnsupported(name=name, feature=f"the record kind {header.kind}")
    if header.codec not in _CODECS or header.cipher not in _CIPHERS or header.flags:
        raise FormatUnsupported(
            name=name, feature=f"codec {header.codec}, cipher {header.cipher}, flags {header.flags:#x}"
        )
    if header.cipher != keys.cipher:
        raise WrongKey(name=name, reason=f"it is sealed with cipher {header.cipher}, the key is for {keys.cipher}")
    return name


def _decrypt(header: RecordHeader, pieces: Pieces, keys: DataKeys, name: str) -> memoryview:
    """In this thread's buffer."""
    key = keys.key_of(header.epoch)
    if key is None:
        raise WrongKey(name=name, reason=f"it is sealed at key epoch {header.epoch}, the key is of {keys.epoch}")
    if len(pieces[1]) != header.payload_length:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="the record's length is not what it says")
    associated = repository_id_bytes(keys.repository_id) + bytes(pieces[0][:_ASSOCIATED_BYTES])
    plain = _opened.view(max(0, header.payload_length - xaes.TAG_BYTES))
    try:
        xaes.decrypt_into(key, header.nonce, pieces[1], associated, plain)
    except InvalidTag as error:
        raise WrongKey(name=name, reason="it was sealed with another key, or altered together with its CRC") from error
    return plain


_opened = ThreadBuffer()
"""What one thread decrypted last, before it is decoded."""


def _header(
    kind: RecordKind, codec: Codec, cipher: Cipher, epoch: int, plain_length: int, payload: bytes, record_id: BlockId,
    nonce: bytes,
) -> bytes:  # fmt: skip
    return _finish(_front(kind, codec, cipher, epoch, plain_length, len(payload), record_id, nonce), payload)


def _front(
    kind: RecordKind, codec: Codec, cipher: Cipher, epoch: int, plain_length: int, payload_length: int,
    record_id: BlockId, nonce: bytes,
) -> bytes:  # fmt: skip
    """The header up to the payload's CRC: what is authenticated with the payload."""
    if plain_length > MOST_PLAIN_BYTES:
        raise ValueError(f"a record holds at most {MOST_PLAIN_BYTES} bytes, not {plain_length}")
    packed = _HEADER.pack(
        MAGIC, _VERSION, kind, codec, cipher, epoch, 0, plain_length, payload_length, record_id, nonce, b"", 0, 0
    )
    return packed[:_ASSOCIATED_BYTES]


def _finish(front: bytes, payload: bytes) -> bytes:
    header = front + crc32(payload).to_bytes(4, "little")
    return header + crc32(header).to_bytes(4, "little")
