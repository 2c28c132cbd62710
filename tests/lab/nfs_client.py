"""A client of ONC RPC and NFS 3 by hand, for what no good client says."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

from holdfast_agent.export.nfs.protocol import MOUNT, NFS, PORTMAPPER, PORTMAPPER_PORT, Procedure
from holdfast_agent.export.nfs.xdr import Reader, boolean, opaque, uhyper, uint

NO_AUTH = bytes(8)


class Mounted(Protocol):
    """Where a share is."""

    @property
    def address(self) -> str: ...
    @property
    def path(self) -> str: ...


class RawNfs:
    """A connection to one port of an export: NFS and MOUNT, or the portmapper's."""

    def __init__(self, share: Mounted, port: int = 0, timeout_s: float = 20.0) -> None:
        self.share = share
        self._xid = 0
        if not port:
            with RawNfs(share, PORTMAPPER_PORT) as portmapper:
                port = portmapper.port_of(NFS, 3)
        self.socket = socket.create_connection((share.address, port), timeout_s)

    def __enter__(self) -> RawNfs:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, program: int, version: int, procedure: int, arguments: bytes = b"") -> Reader:
        """The result of a call that is accepted."""
        reader = Reader(memoryview(self.exchange(self.message(program, version, procedure, arguments))))
        assert (reader.uint(), reader.uint(), reader.uint()) == (self._xid, 1, 0)
        assert reader.fixed(8) == NO_AUTH
        assert reader.uint() == 0, "the call was not carried out"
        return reader

    def message(self, program: int, version: int, procedure: int, arguments: bytes = b"") -> bytes:
        self._xid += 1
        return struct.pack(">6I", self._xid, 0, 2, program, version, procedure) + NO_AUTH * 2 + arguments

    def exchange(self, message: bytes) -> bytes:
        self.socket.sendall(uint(1 << 31 | len(message)) + message)
        return self.reply()

    def reply(self) -> bytes:
        (word,) = struct.unpack(">I", self.exactly(4))
        assert word & 1 << 31
        return self.exactly(word & ~(1 << 31))

    def exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def port_of(self, program: int, version: int) -> int:
        return self.call(PORTMAPPER, 2, 3, b"".join(map(uint, (program, version, socket.IPPROTO_TCP, 0)))).uint()

    def mounted(self, path: str = "") -> tuple[int, bytes]:
        """Status, and the handle of the root as it is said in arguments."""
        reader = self.call(MOUNT, 3, 1, opaque((path or self.share.path).encode()))
        status = reader.uint()
        return status, b"" if status else opaque(bytes(reader.opaque(64)))

    def nfs(self, procedure: Procedure, *arguments: bytes) -> tuple[int, Reader]:
        """Status and what follows it."""
        reader = self.call(NFS, 3, procedure, b"".join(arguments))
        return reader.uint(), reader

    def lookup(self, parent: bytes, name: str) -> tuple[int, bytes]:
        status, reader = self.nfs(Procedure.LOOKUP, parent, opaque(name.encode()))
        return status, b"" if status else opaque(bytes(reader.opaque(64)))

    def create(self, parent: bytes, name: bytes) -> int:
        return self.nfs(Procedure.CREATE, parent, opaque(name), uint(0), boolean(False) * 4, uint(0) * 2)[0]

    def write(self, handle: bytes, offset: int, data: bytes, stable: int = 2) -> tuple[int, bytes]:
        """Status, and the write verifier."""
        head = uhyper(offset) + uint(len(data)) + uint(stable)
        status, reader = self.nfs(Procedure.WRITE, handle, head, opaque(data))
        return status, b"" if status else verifier_at_end(reader)

    def read(self, handle: bytes, offset: int, count: int) -> tuple[int, bytes, bool]:
        """Status, bytes, and whether that was the end."""
        status, reader = self.nfs(Procedure.READ, handle, uhyper(offset), uint(count))
        if status:
            return status, b"", False
        assert reader.boolean()
        reader.fixed(84)
        reader.uint()
        end = reader.boolean()
        return status, bytes(reader.opaque(1 << 20)), end


def verifier_at_end(reader: Reader) -> bytes:
    return reader.fixed(reader.left)[-8:]
