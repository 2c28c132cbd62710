"""Small objects (configuration, points, session records, the log of the collector) in one envelope.

The envelope names its type, so that a FENCED outcome can never be taken for a point, and ends with a digest over
its own name and bytes, so that an altered, cut or swapped object is told from a good one.
"""

from __future__ import annotations

import enum
import struct
from typing import TypeVar

import msgspec
from blake3 import blake3

from holdfast_agent.errors import FormatUnsupported, ObjectDamaged
from holdfast_agent.model.strict import NOT_DECODED

from .store import ObjectStore

T = TypeVar("T")
MOST_DOCUMENT_BYTES = 64 << 20
_MAGIC = b"HFDC"
_VERSION = 1
_HEADER = struct.Struct("<4sBBBBII")
_DIGEST_BYTES = 32


class DocumentType(enum.IntEnum):
    CONFIG = 1
    POINT = 2
    FENCED = 3
    SESSION = 4
    TOMBSTONE = 5
    QUARANTINE = 6
    GC_BEGIN = 7
    GC_CONDEMNED = 8
    GC_SWEEP = 9
    GC_DONE = 10
    KEY_SLOT = 11
    UNDONE = 12
    RETIRED = 13
    RETENTION = 14


def encode_document(name: str, document_type: DocumentType, body: bytes, mac: bytes = b"") -> bytes:
    """The bytes of the object ``name``. ``mac`` (up to 255 bytes) follows the body: points carry one."""
    data = _HEADER.pack(_MAGIC, _VERSION, document_type, len(mac), 0, len(body), 0) + body + mac
    return data + _digest(name, data)


def decode_document(name: str, data: bytes) -> tuple[DocumentType, bytes, bytes]:
    """(type, body, MAC) of the object ``name``.

    Raises :class:`ObjectDamaged`, or :class:`FormatUnsupported` for a later version or an unknown type.
    """
    if len(data) < _HEADER.size + _DIGEST_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=len(data), reason="it is cut off")
    magic, version, kind, mac_bytes, _, body_bytes, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC or _digest(name, data[:-_DIGEST_BYTES]) != data[-_DIGEST_BYTES:]:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its digest does not match its name and content")
    if version != _VERSION or kind not in tuple(DocumentType):
        raise FormatUnsupported(name=name, feature=f"documents of version {version}, type {kind}")
    if len(data) != _HEADER.size + body_bytes + mac_bytes + _DIGEST_BYTES:
        raise ObjectDamaged(name=name, offset_bytes=0, reason="its length is not what it says")
    end = _HEADER.size + body_bytes
    return DocumentType(kind), data[_HEADER.size : end], data[end : end + mac_bytes]


def read_document(store: ObjectStore, name: str, expected: DocumentType) -> bytes:
    """The body of a document of the type ``expected``. Raises as :func:`decode_document`."""
    found, body, _ = decode_document(name, store.read(name, MOST_DOCUMENT_BYTES))
    if found is not expected:
        raise ObjectDamaged(name=name, offset_bytes=5, reason=f"it is a {found.name}, not a {expected.name}")
    return body


def read_value(store: ObjectStore, name: str, expected: DocumentType, to: type[T]) -> T:
    """The body of a document as the struct ``to``. Raises as :func:`decode_document`."""
    try:
        return msgspec.json.decode(read_document(store, name, expected), type=to)
    except NOT_DECODED as error:
        raise ObjectDamaged(name=name, offset_bytes=_HEADER.size, reason=str(error)) from error


def _digest(name: str, data: bytes) -> bytes:
    return blake3(name.encode() + b"\0").update(data).digest()
