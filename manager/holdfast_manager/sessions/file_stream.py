"""The content of one file as a proxy sends it: the manager's end of the data channel that a look listens on."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence

import msgspec

from holdfast_agent.channel.data_connection import DataConnection, Incoming
from holdfast_agent.channel.data_connector import DataConnector
from holdfast_agent.errors import ConnectionLost, ErrorRecord, HoldfastError, MalformedMessage, from_record
from holdfast_agent.model.link import LinkTimeouts
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.wire.files import FileBegins, FileData, FileEnds, FileEntry, FilePart
from holdfast_agent.wire.messages import MoverState

_CONNECT_S = 20.0
_STEP_S = 0.2
_REASON_S = 5.0  # its agent tells why a look ended, soon after its connection has gone
_WINDOW_BYTES = 8 << 20
_MOST_ZEROS = 1 << 20
_PEER = "the reader of files"
_decoder: msgspec.msgpack.Decoder[FilePart] = msgspec.msgpack.Decoder(FilePart)
Events = queue.SimpleQueue[MoverState | ErrorRecord]


def received(endpoints: Sequence[str], secret: bytes, events: Events) -> Iterator[FileEntry | bytes]:
    """The file, then its content from its beginning to its end. Whoever is slow makes the sender wait.

    Raises what the look ended with, which ``events`` tell, and what the channel raises. To be closed.
    """
    timeouts = LinkTimeouts(resume_s=0)
    connector = DataConnector(endpoints, secret, timeout_s=_CONNECT_S, timeouts=timeouts, window_bytes=_WINDOW_BYTES)
    try:
        connection = _connected(connector, events)
    except BaseException:
        connector.close()
        raise
    try:
        yield from _content(connection, events)
        connection.close()
    except ConnectionLost as error:
        raise _reason(events) or error from None
    finally:
        connection.abort()


def _connected(connector: DataConnector, events: Events) -> DataConnection:
    while True:
        connection = connector.poll(_STEP_S)
        if connection is not None:
            return connection
        _check(events)


def _content(connection: DataConnection, events: Events) -> Iterator[FileEntry | bytes]:
    file: FileEntry | None = None
    reached = 0
    while True:
        incoming = connection.receive()
        if incoming is None:
            connection.check_alive()
            _check(events)
            connection.wait(_STEP_S)
            continue
        match _decoded(incoming), file:
            case FileBegins(entry=entry), None:
                file = entry
                yield entry
            case FileData(offset=offset), FileEntry(size=size) if reached <= offset <= size - len(incoming.payload):
                yield from _zeros(offset - reached)
                yield bytes(incoming.payload)
                reached = offset + len(incoming.payload)
            case FileEnds(), FileEntry(size=size):
                yield from _zeros(size - reached)
                return
            case _:
                raise MalformedMessage(peer=_PEER, reason="a message out of place")
        connection.release(incoming.cost_bytes)


def _zeros(length: int) -> Iterator[bytes]:
    while length > 0:
        part = min(length, _MOST_ZEROS)
        yield bytes(part)
        length -= part


def _decoded(incoming: Incoming) -> FilePart:
    try:
        return _decoder.decode(incoming.body)
    except NOT_DECODED as error:
        raise MalformedMessage(peer=_PEER, reason=str(error)) from error


def _check(events: Events) -> None:
    """Raise why the look ended, if it has."""
    try:
        event = events.get_nowait()
    except queue.Empty:
        return
    if failure := _failure(event):
        raise failure


def _reason(events: Events) -> HoldfastError | None:
    """Why the look ended, as far as anybody tells it soon."""
    give_up = time.monotonic() + _REASON_S
    while (left_s := give_up - time.monotonic()) > 0:
        try:
            event = events.get(timeout=left_s)
        except queue.Empty:
            break
        if failure := _failure(event):
            return failure
    return None


def _failure(event: MoverState | ErrorRecord) -> HoldfastError | None:
    record = event if isinstance(event, ErrorRecord) else event.error
    return None if record is None else from_record(record)
