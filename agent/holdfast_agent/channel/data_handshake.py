"""The handshake of the data channel: pure bytes in, bytes out.

Each stream of a connection shakes hands for itself, under the 32-byte secret of the task:

1. connecting side → :class:`Hello` with fresh random bytes, authenticated by HMAC-SHA256;
2. listening side → :class:`Welcome` with its own random bytes, authenticated over both;
3. connecting side → a first sealed record (``CONFIRM``), which proves that it is not an old Hello played back;
4. listening side → a first sealed record (``ACCEPT``), once all streams have confirmed.

The last two carry, on stream 0, what each side has (:class:`data_exchange.Totals`); so a connection that breaks is
resumed by the same handshake. Each attempt of the connecting side is an incarnation with a number of its own, the
next higher one; the listening side never goes back to a lower one.

A Hello that is not authentic is dropped without an answer: nobody without the secret gets a reply. Record keys are
HKDF-SHA256 over the secret, salted with both randoms, one per direction, and bound to the whole transcript, so no
key ever serves two streams, two directions, two incarnations or two connections.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast_agent.errors import RecordRejected

PROTOCOL_VERSION = 3
"""Major version of the data channel, checked by both sides once the other has proved itself."""

SECRET_BYTES = 32
MAX_STREAMS = 16
_HELLO = struct.Struct("<4sHBBII16s32s")
_WELCOME = struct.Struct("<4sHHI32s")
_MAC_BYTES = 32
_HELLO_MAGIC = b"HFDH"
HELLO_BYTES = _HELLO.size + _MAC_BYTES
LONGEST_HELLO_BYTES = 512
"""Of any version: magic and version first and the MAC last stay where they are, so that the other side can be told."""

WELCOME_BYTES = _WELCOME.size + _MAC_BYTES
"""In all versions."""


class Hello(msgspec.Struct, frozen=True):
    """``stream`` of ``streams`` (from 0), the credit in bytes that the sender grants, the incarnation (from 1), and
    what names the connection."""

    version: int
    stream: int
    streams: int
    window_bytes: int
    incarnation: int
    connection: bytes
    random: bytes


class Welcome(msgspec.Struct, frozen=True):
    """The listening side's part: its credit and its random bytes."""

    version: int
    window_bytes: int
    random: bytes


class StreamKeys(msgspec.Struct, frozen=True):
    """AES-256 keys of one stream: from the connecting to the listening side (``out``) and back (``back``)."""

    out: bytes
    back: bytes

    def __repr__(self) -> str:
        return "StreamKeys()"


def encode_hello(hello: Hello, secret: bytes) -> bytes:
    """The Hello as it is sent, with its MAC."""
    numbers = hello.version, hello.stream, hello.streams, hello.window_bytes, hello.incarnation
    body = _HELLO.pack(_HELLO_MAGIC, *numbers, hello.connection, hello.random)
    return body + _mac(secret, b"hello", body)


def hello_version(frame: bytes, secret: bytes) -> int | None:
    """Of which version a Hello is, whatever else that version says in one; None for anything that does not prove
    knowledge of the secret (which gets no answer)."""
    body, mac = frame[:-_MAC_BYTES], frame[-_MAC_BYTES:]
    if not body.startswith(_HELLO_MAGIC) or len(frame) > LONGEST_HELLO_BYTES:
        return None
    if not hmac.compare_digest(mac, _mac(secret, b"hello", body)):
        return None
    return int.from_bytes(body[4:6], "little")


def decode_hello(frame: bytes, secret: bytes) -> Hello | None:
    """A Hello of this version, or None for anything that is none (which gets no answer)."""
    if len(frame) != HELLO_BYTES or hello_version(frame, secret) is None:
        return None
    _, version, stream, streams, window, incarnation, connection, random = _HELLO.unpack(frame[: _HELLO.size])
    if not 1 <= streams <= MAX_STREAMS or stream >= streams:
        return None
    return Hello(version, stream, streams, window, incarnation, connection, random)


def encode_welcome(welcome: Welcome, hello_frame: bytes, secret: bytes) -> bytes:
    """The answer to exactly this Hello."""
    body = _WELCOME.pack(b"HFDW", welcome.version, 0, welcome.window_bytes, welcome.random)
    return body + _mac(secret, b"welcome", hello_frame + body)


def decode_welcome(frame: bytes, hello_frame: bytes, secret: bytes) -> Welcome:
    """Check the answer to our Hello. Raises :class:`RecordRejected` if the other side does not know the secret."""
    body, mac = frame[: _WELCOME.size], frame[_WELCOME.size :]
    if len(frame) != WELCOME_BYTES or not hmac.compare_digest(mac, _mac(secret, b"welcome", hello_frame + body)):
        raise RecordRejected(reason="the welcome of the listening side is not authentic")
    magic, version, _reserved, window, random = _WELCOME.unpack(body)
    if magic != b"HFDW":
        raise RecordRejected(reason="the welcome has another magic")
    return Welcome(version, window, random)


def derive_keys(secret: bytes, hello_frame: bytes, welcome_frame: bytes) -> StreamKeys:
    """Keys of the stream whose handshake these two frames were, byte for byte."""
    randoms = hello_frame[_HELLO.size - 32 : _HELLO.size] + welcome_frame[_WELCOME.size - 32 : _WELCOME.size]
    transcript = hashlib.sha256(hello_frame + welcome_frame).digest()
    okm = HKDF(SHA256(), 64, randoms, b"holdfast data channel 1 keys" + transcript).derive(secret)
    return StreamKeys(okm[:32], okm[32:])


def _mac(secret: bytes, label: bytes, body: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise ValueError("a task's secret has 32 bytes")
    key = hmac.digest(secret, b"holdfast data channel 1 " + label, "sha256")
    return hmac.digest(key, body, "sha256")
