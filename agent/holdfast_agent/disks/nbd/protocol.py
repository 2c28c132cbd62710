"""Numbers of the protocol, and what can go wrong in it. Shared by the client here and the server of ``export``."""

from __future__ import annotations

import errno
import os
from enum import IntEnum, IntFlag

SERVER_MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

HANDSHAKE_FIXED_NEWSTYLE = 1
HANDSHAKE_NO_ZEROES = 2
EXPORT_NAME_ZEROES = 124

INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

CHUNK_DONE = 1
STATE_HOLE = 1
STATE_ZERO = 2
STATE_DIRTY = 1
ALLOCATION = "base:allocation"
BITMAP = "qemu:dirty-bitmap:"

MAX_MESSAGE_BYTES = 64 << 10
"""Of options, their replies and error texts; real ones have some hundred bytes."""

MAX_NAME_BYTES = 4096
"""Of any string, by the protocol."""

MAX_PAYLOAD_BYTES = 32 << 20
"""Of data in one request to a server that names no other maximum, by the protocol."""


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    """To an option. From ``ERROR`` on all are errors."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERROR = 1 << 31
    ERROR_UNSUPPORTED = ERROR | 1
    ERROR_POLICY = ERROR | 2
    ERROR_INVALID = ERROR | 3
    ERROR_TLS_REQUIRED = ERROR | 5
    ERROR_UNKNOWN_EXPORT = ERROR | 6


class ExportFlag(IntFlag):
    """What an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    FLUSH = 1 << 2
    FUA = 1 << 3
    TRIM = 1 << 5
    WRITE_ZEROES = 1 << 6
    DONT_FRAGMENT = 1 << 7
    MULTI_CONN = 1 << 8
    CACHE = 1 << 10
    FAST_ZERO = 1 << 11


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    NONE = 0
    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DONT_FRAGMENT = 1 << 2
    ONE_RUN = 1 << 3
    FAST_ZERO = 1 << 4


class Chunk(IntEnum):
    """Kinds of chunks of a structured reply. With ``ERROR`` set all are errors."""

    NONE = 0
    DATA = 1
    HOLE = 2
    STATUS = 5
    ERROR = 1 << 15
    ERROR_MESSAGE = ERROR | 1


class NbdProtocolError(Exception):
    """The server broke the protocol; the connection is out of step and of no more use."""


class NbdConnectionLost(Exception):
    """The connection has ended, for whatever reason; whether the request was carried out is not known."""


class NbdRequestError(Exception):
    """The server answered a request with an error number; the connection stays usable."""

    def __init__(self, number: int) -> None:
        """NBD's numbers are Linux's; anything strange counts as an I/O error."""
        self.number = number if number in errno.errorcode else errno.EIO
        super().__init__(os.strerror(self.number))


def printable(text: bytes) -> str:
    """What a server says for people, fit for a log line."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:300].decode(errors="replace")).strip()
