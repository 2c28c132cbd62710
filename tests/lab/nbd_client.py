"""A client of NBD by hand, for what no good client says."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import Protocol

from holdfast_agent.disks.nbd.protocol import (
    OPTION_MAGIC,
    REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC,
    Command,
    Option,
    Reply,
)


class Served(Protocol):
    """Something that listens."""

    @property
    def socket(self) -> Path: ...


class Raw:
    """A client's socket, and the protocol by hand."""

    def __init__(self, export: Served, timeout_s: float = 20.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        self.socket.connect(str(export.socket))

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise EOFError(f"{len(data)} bytes of {length} came")
            data += more
        return data

    def greet(self, flags: int = 3) -> None:
        self.exactly(18)
        self.send(struct.pack(">I", flags))

    def option(self, number: int, body: bytes = b"") -> list[tuple[int, bytes]]:
        self.send(struct.pack(">QII", OPTION_MAGIC, number, len(body)), body)
        replies = []
        while True:
            _, answered, kind, length = struct.unpack(">QIII", self.exactly(20))
            assert answered == number
            replies.append((kind, self.exactly(length)))
            if kind == Reply.ACK or kind >= Reply.ERROR:
                return replies

    def go(self, structured: bool = True) -> None:
        self.greet()
        if structured:
            assert self.option(Option.STRUCTURED_REPLY)[-1][0] == Reply.ACK
        assert self.option(Option.GO, struct.pack(">IH", 0, 0))[-1][0] == Reply.ACK

    def request(self, command: int, offset: int, length: int, flags: int = 0, cookie: int = 7) -> None:
        self.send(struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, cookie, offset, length))

    def error(self) -> int:
        """The number in the reply to a request that fails."""
        (magic,) = struct.unpack(">I", self.exactly(4))
        if magic == SIMPLE_REPLY_MAGIC:
            return int(struct.unpack(">IQ", self.exactly(12))[0])
        assert magic == STRUCTURED_REPLY_MAGIC
        _, kind, _, length = struct.unpack(">HHQI", self.exactly(16))
        body = self.exactly(length)
        assert kind & 1 << 15
        return int(struct.unpack_from(">I", body)[0])

    def ended(self) -> bool:
        """Whether the server closes the connection, whatever it says before."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(1 << 16):
                pass
        return True

    def reads(self, offset: int, length: int) -> bytes:
        """What a read gives, in chunks."""
        self.request(Command.READ, offset, length)
        found = bytearray(length)
        while True:
            _, flags, kind, _, size = struct.unpack(">IHHQI", self.exactly(20))
            body = self.exactly(size)
            assert kind in (1, 2), f"a chunk of kind {kind:#x}"
            at = struct.unpack_from(">Q", body)[0] - offset
            if kind == 1:
                found[at : at + size - 8] = body[8:]
            if flags & 1:
                return bytes(found)
