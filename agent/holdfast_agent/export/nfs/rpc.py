"""ONC RPC version 2 (RFC 5531) over TCP: records, calls and replies, and the programs that answer."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from holdfast_agent.disks.nbd.stream import Stream

from .xdr import Reader, XdrError, opaque, uint

Parts = list[bytes | memoryview]
"""Consecutive bytes of a reply."""

MOST_RECORD_BYTES = (1 << 20) + (16 << 10)
"""The largest write and what is said around it."""

_LAST = 1 << 31
_MOST_FRAGMENTS = 64
_MOST_AUTH_BYTES = 400
_AUTH_NONE, _AUTH_SYS = 0, 1
_CALL, _REPLY = 0, 1
_ACCEPTED, _DENIED = 0, 1
_SUCCESS, _PROGRAM_UNAVAILABLE, _PROGRAM_MISMATCH, _PROCEDURE_UNAVAILABLE, _GARBAGE, _SYSTEM_ERROR = range(6)
_RPC_MISMATCH, _AUTH_ERROR = 0, 1
_AUTH_TOO_WEAK = 5
_RPC_VERSION = 2


class RpcError(Exception):
    """The client breaks the protocol: its connection is ended."""


class Call(NamedTuple):
    xid: int
    program: int
    version: int
    procedure: int
    arguments: Reader


class Refused(Exception):
    """A call that is answered without being looked at further. ``reply``: all of it."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        super().__init__("refused")


class Program(Protocol):
    """One program in one version. Thread-safe."""

    number: int
    version: int

    def procedure(self, number: int) -> Callable[[Reader], Parts] | None:
        """What carries a procedure out; it raises :class:`XdrError` for arguments that are none. None: there is no
        such procedure."""

    def waits(self, number: int) -> bool:
        """Whether a procedure may take longer than it takes to wake another thread for it."""


def receive_record(stream: Stream) -> memoryview:
    """The next record. Raises TimeoutError while nothing of it has come, else :class:`RpcError`; OSError."""
    record, last = memoryview(b""), False
    for number in range(_MOST_FRAGMENTS):
        head = memoryview(bytearray(4))
        first = stream.receive_some(head[:1]) if not number else 0
        stream_into(stream, head[first:])
        (word,) = struct.unpack(">I", head)
        last, length = bool(word & _LAST), word & ~_LAST
        if length > MOST_RECORD_BYTES - len(record):
            raise RpcError(f"a record of more than {MOST_RECORD_BYTES} bytes")
        fragment = memoryview(bytearray(length))
        stream_into(stream, fragment)
        record = fragment if not len(record) else memoryview(bytes(record) + bytes(fragment))
        if last:
            return record
    raise RpcError(f"a record of more than {_MOST_FRAGMENTS} fragments")


def stream_into(stream: Stream, view: memoryview) -> None:
    """Receive what must follow. Raises :class:`RpcError` when it does not come in time, OSError."""
    if not len(view):
        return
    try:
        stream.receive_into(view)
    except TimeoutError as error:
        raise RpcError("a record was begun and not ended") from error


def record_of(parts: Sequence[bytes | memoryview]) -> Parts:
    """A reply as it is sent."""
    return [uint(_LAST | sum(map(len, parts))), *parts]


def parse_call(record: memoryview) -> Call:
    """Raises :class:`Refused`, and :class:`RpcError` for what is no call."""
    reader = Reader(record)
    try:
        xid, kind, rpc_version = reader.uint(), reader.uint(), reader.uint()
        if kind != _CALL:
            raise RpcError("a reply, where calls are expected")
        if rpc_version != _RPC_VERSION:
            raise Refused(_denied(xid, _RPC_MISMATCH, _RPC_VERSION, _RPC_VERSION))
        program, version, procedure = reader.uint(), reader.uint(), reader.uint()
        flavor = reader.uint()
        reader.opaque(_MOST_AUTH_BYTES)
        reader.uint()
        reader.opaque(_MOST_AUTH_BYTES)
    except XdrError as error:
        raise RpcError(f"a call that is malformed: {error}") from error
    if flavor not in (_AUTH_NONE, _AUTH_SYS):
        raise Refused(_denied(xid, _AUTH_ERROR, _AUTH_TOO_WEAK))
    return Call(xid, program, version, procedure, reader)


def chosen(call: Call, programs: Mapping[int, Program]) -> tuple[Program, Callable[[Reader], Parts]]:
    """Who answers a call. Raises :class:`Refused`."""
    program = programs.get(call.program)
    if program is None:
        raise Refused(_accepted(call.xid, _PROGRAM_UNAVAILABLE))
    if call.version != program.version:
        raise Refused(_accepted(call.xid, _PROGRAM_MISMATCH) + uint(program.version) * 2)
    procedure = program.procedure(call.procedure)
    if procedure is None:
        raise Refused(_accepted(call.xid, _PROCEDURE_UNAVAILABLE))
    return program, procedure


def answer(call: Call, procedure: Callable[[Reader], Parts]) -> Parts:
    """Carry out a call; its reply, also to arguments that are none."""
    try:
        return [_accepted(call.xid, _SUCCESS), *procedure(call.arguments)]
    except XdrError:
        return [_accepted(call.xid, _GARBAGE)]


def defect(call: Call) -> Parts:
    """The reply to a call that cannot be carried out, for no fault of the client's."""
    return [_accepted(call.xid, _SYSTEM_ERROR)]


def _accepted(xid: int, state: int) -> bytes:
    return struct.pack(">III", xid, _REPLY, _ACCEPTED) + uint(_AUTH_NONE) + opaque(b"") + uint(state)


def _denied(xid: int, *reason: int) -> bytes:
    return struct.pack(">III", xid, _REPLY, _DENIED) + b"".join(map(uint, reason))
