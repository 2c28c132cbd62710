"""The first phase of a connection, the server's side: options until a client has chosen an export, or leaves."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from holdfast_agent.disks.nbd import protocol
from holdfast_agent.disks.nbd.protocol import ExportFlag, NbdProtocolError, Option, Reply
from holdfast_agent.disks.nbd.stream import Stream

from .image import Image

CONTEXT_ID = 1
"""Of base:allocation, on every connection."""

MINIMUM_BYTES = 1
_MOST_OPTIONS = 256
_MOST_INFORMATION = 64  # requests for information, and queries for contexts, in one option
_ALL_READ = ExportFlag.HAS_FLAGS | ExportFlag.MULTI_CONN | ExportFlag.DONT_FRAGMENT | ExportFlag.CACHE
_ALL_WRITE = ExportFlag.FLUSH | ExportFlag.FUA | ExportFlag.TRIM | ExportFlag.WRITE_ZEROES | ExportFlag.FAST_ZERO


class Chosen(NamedTuple):
    """What a client goes on with. ``structured``: replies to reads come in chunks. ``allocation``: it asked to be told
    of base:allocation."""

    stream: Stream
    image: Image
    structured: bool
    allocation: bool


class _Refused(Exception):
    """The option gets this error; the connection lives on."""

    def __init__(self, reply: Reply, reason: str) -> None:
        self.reply = reply
        super().__init__(reason)


def flags_of(image: Image) -> ExportFlag:
    return _ALL_READ | (_ALL_WRITE if image.writable else ExportFlag.READ_ONLY)


class Handshake:
    """One client's. ``start_tls``: turns the stream into one with TLS and a proved client; with it nothing but
    STARTTLS is answered before."""

    def __init__(
        self, stream: Stream, images: Mapping[str, Image], description: str, start_tls: Callable[[], Stream] | None
    ) -> None:
        """``images``: by their names. The empty name is the only image's too, where there is one."""
        self._stream = stream
        self._images = images
        self._description = description.encode()[: protocol.MAX_NAME_BYTES]
        self._start_tls = start_tls
        self._no_zeroes = False
        self._structured = False
        self._allocation: str | None = None  # the export for which it was asked
        self._chosen: Chosen | None = None

    def run(self) -> Chosen | None:
        """What the client chose; None if it left in good order. Raises :class:`NbdProtocolError`, OSError."""
        flags = protocol.HANDSHAKE_FIXED_NEWSTYLE | protocol.HANDSHAKE_NO_ZEROES
        self._stream.send([struct.pack(">QQH", protocol.SERVER_MAGIC, protocol.OPTION_MAGIC, flags)])
        (answer,) = struct.unpack(">I", self._exactly(4))
        if not answer & protocol.HANDSHAKE_FIXED_NEWSTYLE or answer & ~flags:
            raise NbdProtocolError(f"the client's flags are {answer:#x}")
        self._no_zeroes = bool(answer & protocol.HANDSHAKE_NO_ZEROES)
        for _ in range(_MOST_OPTIONS):
            magic, number, length = struct.unpack(">QII", self._exactly(16))
            if magic != protocol.OPTION_MAGIC or length > protocol.MAX_MESSAGE_BYTES:
                raise NbdProtocolError("a malformed option")
            body = self._exactly(length)
            if number == Option.ABORT:
                self._reply(number, Reply.ACK)
                return None
            self._option(number, body)
            if self._chosen is not None:
                return self._chosen
        raise NbdProtocolError("too many options")

    def _option(self, number: int, body: bytes) -> None:
        try:
            if number == Option.STARTTLS:
                self._secure(body)
            elif self._start_tls is not None:
                if number == Option.EXPORT_NAME:  # there is no way to say no to it
                    raise NbdProtocolError("the client wants no TLS")
                raise _Refused(Reply.ERROR_TLS_REQUIRED, "this server speaks TLS only")
            elif number == Option.EXPORT_NAME:
                self._export_name(body)
            elif number == Option.LIST:
                self._list(body)
            elif number in (Option.INFO, Option.GO):
                self._go(number, body)
            elif number == Option.STRUCTURED_REPLY:
                _require_empty(body)
                self._structured = True
                self._reply(number, Reply.ACK)
            elif number in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
                self._contexts(number, body)
            else:
                raise _Refused(Reply.ERROR_UNSUPPORTED, "this server does not know the option")
        except _Refused as refused:
            self._reply(number, refused.reply, str(refused).encode())

    def _secure(self, body: bytes) -> None:
        _require_empty(body)
        if self._start_tls is None:
            raise _Refused(Reply.ERROR_POLICY, "there is no (further) TLS here")
        self._reply(Option.STARTTLS, Reply.ACK)
        self._stream = self._start_tls()
        self._start_tls = None
        self._structured, self._allocation = False, None

    def _export_name(self, body: bytes) -> None:
        image = self._named(body)
        if image is None:  # there is no way to say no to it
            raise NbdProtocolError("an export that does not exist")
        facts = struct.pack(">QH", image.size_bytes, flags_of(image))
        self._stream.send([facts + (b"" if self._no_zeroes else bytes(protocol.EXPORT_NAME_ZEROES))])
        self._choose(image)

    def _list(self, body: bytes) -> None:
        _require_empty(body)
        for name in self._images:
            told = name.encode()
            self._reply(Option.LIST, Reply.SERVER, struct.pack(">I", len(told)) + told)
        self._reply(Option.LIST, Reply.ACK)

    def _go(self, number: int, body: bytes) -> None:
        name, rest = _string(body)
        if len(rest) < 2:
            raise _Refused(Reply.ERROR_INVALID, "cut off")
        (count,) = struct.unpack_from(">H", rest)
        if count > _MOST_INFORMATION or len(rest) != 2 + 2 * count:
            raise _Refused(Reply.ERROR_INVALID, "the requests for information are malformed")
        image = self._existing(name)
        wanted = {each for (each,) in struct.iter_unpack(">H", rest[2:])}
        told = [struct.pack(">HQH", protocol.INFO_EXPORT, image.size_bytes, flags_of(image))]
        if protocol.INFO_NAME in wanted:
            told.append(struct.pack(">H", protocol.INFO_NAME) + image.name.encode())
        if protocol.INFO_DESCRIPTION in wanted and self._description:
            told.append(struct.pack(">H", protocol.INFO_DESCRIPTION) + self._description)
        # Told unasked, too: a client need not keep to what it did not ask for, and none of these limits it much.
        sizes = (MINIMUM_BYTES, image.preferred_bytes, protocol.MAX_PAYLOAD_BYTES)
        told.append(struct.pack(">HIII", protocol.INFO_BLOCK_SIZE, *sizes))
        for each in told:
            self._reply(number, Reply.INFO, each)
        self._reply(number, Reply.ACK)
        if number == Option.GO:
            self._choose(image)

    def _contexts(self, number: int, body: bytes) -> None:
        if number == Option.SET_META_CONTEXT:
            self._allocation = None
            if not self._structured:
                raise _Refused(Reply.ERROR_INVALID, "structured replies were not negotiated")
        name, rest = _string(body)
        if len(rest) < 4:
            raise _Refused(Reply.ERROR_INVALID, "cut off")
        (count,) = struct.unpack_from(">I", rest)
        if count > _MOST_INFORMATION:
            raise _Refused(Reply.ERROR_INVALID, "too many queries")
        rest = rest[4:]
        queries = []
        for _ in range(count):
            query, rest = _string(rest)
            queries.append(query)
        if rest:
            raise _Refused(Reply.ERROR_INVALID, "more than it says")
        image = self._existing(name)
        context = protocol.ALLOCATION.encode()
        listing = number == Option.LIST_META_CONTEXT
        if context in queries or (listing and (not queries or b"base:" in queries)):
            context_id = 0 if listing else CONTEXT_ID
            self._reply(number, Reply.META_CONTEXT, struct.pack(">I", context_id) + context)
            if not listing:
                self._allocation = image.name
        self._reply(number, Reply.ACK)

    def _choose(self, image: Image) -> None:
        self._chosen = Chosen(self._stream, image, self._structured, self._allocation == image.name)

    def _existing(self, name: bytes) -> Image:
        image = self._named(name)
        if image is None:
            raise _Refused(Reply.ERROR_UNKNOWN_EXPORT, "there is no such export")
        return image

    def _named(self, name: bytes) -> Image | None:
        if not name and len(self._images) == 1:
            return next(iter(self._images.values()))
        try:
            return self._images.get(name.decode())
        except UnicodeDecodeError:
            return None

    def _reply(self, option: int, reply: Reply, body: bytes = b"") -> None:
        self._stream.send([struct.pack(">QIII", protocol.OPTION_REPLY_MAGIC, option, reply, len(body)) + body])

    def _exactly(self, length: int) -> bytes:
        buffer = bytearray(length)
        self._stream.receive_into(memoryview(buffer))
        return bytes(buffer)


def _require_empty(body: bytes) -> None:
    if body:
        raise _Refused(Reply.ERROR_INVALID, "the option carries no data")


def _string(body: bytes) -> tuple[bytes, bytes]:
    """A string with its length before it, and what follows."""
    if len(body) < 4:
        raise _Refused(Reply.ERROR_INVALID, "cut off")
    (length,) = struct.unpack_from(">I", body)
    if length > protocol.MAX_NAME_BYTES or len(body) < 4 + length:
        raise _Refused(Reply.ERROR_INVALID, "a name is too long or cut off")
    return body[4 : 4 + length], body[4 + length :]
