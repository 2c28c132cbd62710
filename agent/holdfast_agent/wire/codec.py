"""Control messages to bytes and back, with every bound that a peer could try.

A control message travels as two frames: a correlation number (8 bytes, little-endian) that a reply repeats, and
one msgpack map whose key "type" names the struct. Pushes carry correlation 0. Who sent a message is never part of
it: that is the authenticated connection's business.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any, Final, TypeVar

import msgspec

from holdfast_agent.errors import MalformedMessage, MessageTooLarge, UnknownMessage
from holdfast_agent.model.strict import NOT_DECODED

from .messages import BeginTransfer, Message, Push, Reply, Request

CONTROL_LIMIT_BYTES: Final = 8 << 20
"""Bound of one message; the largest ordinary ones are a blob of 4 MiB and a page of restore points."""

ORDER_LIMIT_BYTES: Final = 64 << 20
"""Bound of :class:`BeginTransfer` alone: an extent takes at most 19 bytes, so some 3.5 million extents fit."""

PUSH_CORRELATION: Final = 0
_CORRELATION = struct.Struct("<Q")
_TYPE_SHOWN_CHARS = 64  # a peer's own words in an error text stay short

M = TypeVar("M", bound=Message)


class _Tagged(msgspec.Struct):
    """Just enough of a message to name its type; other keys are skipped without being built."""

    type: str


def concrete(base: type[M]) -> dict[str, type[M]]:
    """All messages below ``base`` by the name that they have on the wire."""
    found: dict[str, type[M]] = {}
    for cls in base.__subclasses__():
        found[cls.__name__] = cls
        found.update(concrete(cls))
    return found


REQUESTS: Final = concrete(Request)
_FROM_AGENT: Final[dict[str, type[Reply | Push]]] = {**concrete(Reply), **concrete(Push)}

_encoder = msgspec.msgpack.Encoder()
_tagged = msgspec.msgpack.Decoder(_Tagged)


def _union_decoder(types: dict[str, Any]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(reduce(or_, types.values()))


_request_decoder = _union_decoder(dict(REQUESTS))


def encode(message: Message) -> bytes:
    """One message as one frame. Raises :class:`MessageTooLarge` before anything is sent. Thread-safe."""
    frame = _encoder.encode(message)
    limit = ORDER_LIMIT_BYTES if isinstance(message, BeginTransfer) else CONTROL_LIMIT_BYTES
    if len(frame) > limit:
        raise MessageTooLarge(peer="this side", size_bytes=len(frame), limit_bytes=limit)
    return frame


def decode_request(frame: bytes | memoryview, peer: str = "the manager") -> Request:
    """What a manager asks. Raises the same as :func:`decode_from_agent`. Thread-safe."""
    limit = ORDER_LIMIT_BYTES if len(frame) > CONTROL_LIMIT_BYTES and _is_order(frame, peer) else CONTROL_LIMIT_BYTES
    if len(frame) > limit:
        raise MessageTooLarge(peer=peer, size_bytes=len(frame), limit_bytes=limit)
    request: Request = _decode(_request_decoder, frame, peer, REQUESTS)
    return request


def decoder_of(types: dict[str, type[M]]) -> Callable[[bytes | memoryview, str], M]:
    """Decodes messages of these types as :func:`decode_from_agent` does: for another protocol on the same channel."""
    decoder = _union_decoder(dict(types))

    def decode(frame: bytes | memoryview, peer: str) -> M:
        if len(frame) > CONTROL_LIMIT_BYTES:
            raise MessageTooLarge(peer=peer, size_bytes=len(frame), limit_bytes=CONTROL_LIMIT_BYTES)
        message: M = _decode(decoder, frame, peer, dict(types))
        return message

    return decode


_decode_from_agent = decoder_of(_FROM_AGENT)


def decode_from_agent(frame: bytes | memoryview, peer: str = "the agent") -> Reply | Push:
    """What an agent says: a reply (:class:`Failure` included) or a push. Thread-safe.

    ``peer`` names the sender in errors. Raises :class:`MessageTooLarge`, :class:`UnknownMessage` for a type of a
    newer version, or :class:`MalformedMessage`; none is worth a retry with the same bytes.
    """
    return _decode_from_agent(frame, peer)


def pack_correlation(number: int) -> bytes:
    """The first frame of a message."""
    return _CORRELATION.pack(number)


def unpack_correlation(frame: bytes | memoryview, peer: str) -> int:
    """The number in a message's first frame. Raises :class:`MalformedMessage`."""
    if len(frame) != _CORRELATION.size:
        raise MalformedMessage(peer=peer, reason=f"a correlation frame of {len(frame)} bytes, not {_CORRELATION.size}")
    number: int = _CORRELATION.unpack(frame)[0]
    return number


def _decode(decoder: msgspec.msgpack.Decoder[Any], frame: bytes | memoryview, peer: str, known: dict[str, Any]) -> Any:
    try:
        return decoder.decode(frame)
    except NOT_DECODED as error:
        name = _type_of(frame, peer)
        if name not in known:
            raise UnknownMessage(type=name[:_TYPE_SHOWN_CHARS]) from None
        raise MalformedMessage(peer=peer, reason=f"{name}: {error}") from error


def _is_order(frame: bytes | memoryview, peer: str) -> bool:
    try:
        return _type_of(frame, peer) == BeginTransfer.__name__
    except MalformedMessage:
        return False


def _type_of(frame: bytes | memoryview, peer: str) -> str:
    try:
        return _tagged.decode(frame).type
    except NOT_DECODED as error:
        raise MalformedMessage(peer=peer, reason=str(error)) from error
