"""The first phase of a connection: TLS, structured replies, meta contexts, and the export's facts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from holdfast_agent.errors import DiskDenied, DiskNotFound

from . import protocol
from .protocol import ExportFlag, NbdProtocolError, Option, Reply, printable
from .stream import Stream

_MAX_REPLIES = 64
_MAX_MINIMUM_BYTES = 64 << 10
_MAX_SIZE_BYTES = 1 << 63


class Wish(NamedTuple):
    """The export and the meta contexts asked for; ``url`` and ``host``: what errors call the disk and this host."""

    export: str
    contexts: tuple[str, ...]
    url: str
    host: str


class Export(NamedTuple):
    """Facts of an export. ``contexts``: the names granted, by the ids of this connection. ``minimum_bytes``: offsets
    and lengths are multiples of it; ``maximum_bytes``: of data in one request."""

    size_bytes: int
    flags: ExportFlag
    minimum_bytes: int
    maximum_bytes: int
    structured: bool
    contexts: dict[int, str]
    description: str

    def tells(self, context: str) -> bool:
        return context in self.contexts.values()


def negotiate(stream: Stream, wish: Wish, start_tls: Callable[[], Stream] | None = None) -> tuple[Stream, Export]:
    """Lead a fresh connection to its transmission phase; the stream to use from now on.

    ``start_tls``: turns the stream into one with TLS; with it nothing goes in clear, without it TLS is not asked for.

    Raises :class:`DiskNotFound`, :class:`DiskDenied` (with the server's reason), :class:`NbdProtocolError`, OSError,
    and what ``start_tls`` raises.
    """
    magic, option_magic, flags = struct.unpack(">QQH", _exactly(stream, 18))
    if magic != protocol.SERVER_MAGIC or option_magic != protocol.OPTION_MAGIC:
        raise NbdProtocolError("the server does not speak newstyle NBD")
    if not flags & protocol.HANDSHAKE_FIXED_NEWSTYLE:
        raise NbdProtocolError("the server does not speak fixed newstyle NBD")
    answer = protocol.HANDSHAKE_FIXED_NEWSTYLE | (flags & protocol.HANDSHAKE_NO_ZEROES)
    stream.send([struct.pack(">I", answer)])
    if start_tls is not None:
        if _option(stream, Option.STARTTLS, b"")[-1][0] != Reply.ACK:
            raise DiskDenied(host=wish.host, url=wish.url, reason="the server offers no TLS")
        stream = start_tls()
    structured = _option(stream, Option.STRUCTURED_REPLY, b"")[-1][0] == Reply.ACK
    contexts = _set_contexts(stream, wish) if structured and wish.contexts else {}
    return stream, _go(stream, wish, structured, contexts)


def _set_contexts(stream: Stream, wish: Wish) -> dict[int, str]:
    name = wish.export.encode()
    queries = [query.encode() for query in wish.contexts]
    body = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    body += b"".join(struct.pack(">I", len(query)) + query for query in queries)
    granted: dict[int, str] = {}
    for kind, reply in _option(stream, Option.SET_META_CONTEXT, body):
        if kind != Reply.META_CONTEXT:
            continue
        if len(reply) < 5:
            raise NbdProtocolError("a malformed meta context")
        number, context = struct.unpack(">I", reply[:4])[0], reply[4:].decode(errors="replace")
        if context not in wish.contexts or context in granted.values() or number in granted:
            raise NbdProtocolError(f"the server offers the context {printable(reply[4:])!r} out of place")
        granted[number] = context
    return granted


def _go(stream: Stream, wish: Wish, structured: bool, contexts: dict[int, str]) -> Export:
    name = wish.export.encode()
    body = struct.pack(">I", len(name)) + name
    body += struct.pack(">HHH", 2, protocol.INFO_BLOCK_SIZE, protocol.INFO_DESCRIPTION)
    replies = _option(stream, Option.GO, body)
    kind, text = replies[-1]
    if kind == Reply.ERROR_UNKNOWN_EXPORT:
        raise DiskNotFound(url=wish.url, host=wish.host)
    if kind == Reply.ERROR_TLS_REQUIRED:
        raise DiskDenied(host=wish.host, url=wish.url, reason="the server wants TLS: its URL must begin with nbds:")
    if kind == Reply.ERROR_POLICY:
        raise DiskDenied(host=wish.host, url=wish.url, reason=f"the server refuses: {printable(text)}")
    if kind != Reply.ACK:
        raise NbdProtocolError(f"the server refused the export (reply {kind:#x}): {printable(text)}")
    infos = {struct.unpack(">H", body[:2])[0]: body[2:] for kind, body in replies if kind == Reply.INFO and body[1:]}
    minimum, maximum = _block_sizes(infos.get(protocol.INFO_BLOCK_SIZE))
    facts = infos.get(protocol.INFO_EXPORT, b"")
    if len(facts) != 10:
        raise NbdProtocolError("the server did not tell the size of the export")
    size, flags = struct.unpack(">QH", facts)
    if size >= _MAX_SIZE_BYTES:
        raise NbdProtocolError(f"an export of {size} bytes is not possible")
    description = printable(infos.get(protocol.INFO_DESCRIPTION, b""))
    return Export(size, ExportFlag(flags), minimum, maximum, structured, contexts, description)


def _block_sizes(told: bytes | None) -> tuple[int, int]:
    """(minimum, maximum). A server that names none takes any offset and 32 MiB."""
    if told is None:
        return 1, protocol.MAX_PAYLOAD_BYTES
    if len(told) != 12:
        raise NbdProtocolError("malformed block sizes")
    minimum, preferred, maximum = struct.unpack(">III", told)
    good = minimum and minimum & (minimum - 1) == 0 and minimum <= _MAX_MINIMUM_BYTES
    if not good or preferred < minimum or maximum < minimum:
        raise NbdProtocolError(f"block sizes of {minimum}, {preferred} and {maximum} bytes are not possible")
    return minimum, min(maximum, protocol.MAX_PAYLOAD_BYTES) // minimum * minimum


def _option(stream: Stream, option: Option, body: bytes) -> list[tuple[int, bytes]]:
    """Send one option; all replies to it, the last being an acknowledgement or an error."""
    stream.send([struct.pack(">QII", protocol.OPTION_MAGIC, option, len(body)), body])
    replies: list[tuple[int, bytes]] = []
    while len(replies) < _MAX_REPLIES:
        magic, answered, kind, length = struct.unpack(">QIII", _exactly(stream, 20))
        if magic != protocol.OPTION_REPLY_MAGIC or answered != option or length > protocol.MAX_MESSAGE_BYTES:
            raise NbdProtocolError("a malformed reply to an option")
        replies.append((kind, _exactly(stream, length)))
        if kind == Reply.ACK or kind >= Reply.ERROR:
            return replies
    raise NbdProtocolError("too many replies to one option")


def _exactly(stream: Stream, length: int) -> bytes:
    buffer = bytearray(length)
    stream.receive_into(memoryview(buffer))
    return bytes(buffer)
