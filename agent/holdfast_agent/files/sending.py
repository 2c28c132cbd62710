"""Sending the content of one file over the data channel, as the confined reader tells it."""

from __future__ import annotations

import logging
import select
import time

import msgspec

from holdfast_agent.channel.data_connection import DataConnection
from holdfast_agent.channel.data_listener import DataListener
from holdfast_agent.errors import FilesUnreadable, MalformedMessage, Unreachable, from_record
from holdfast_agent.model.stats import TransferCounters
from holdfast_agent.mover.control import Control
from holdfast_agent.wire.files import FileBegins, FileData, FileEnds, FileEntry, FilePart
from holdfast_agent.wire.movers import Connected, Finished, Listening, MoverHost
from holdfast_agent.wire.specs import MoverResult

from .frames import Complaint, Complete, Confined, Data, Ended, Found, Frame, Inlet

_STEP_S = 0.5
_encode = msgspec.msgpack.Encoder().encode
_log = logging.getLogger("holdfast.files")


def send_file(control: Control, inlet: Inlet, secret: bytes, host: MoverHost) -> Finished:
    """Listen, and send to the one who knows ``secret`` what comes from ``inlet``; returns when it has arrived.

    Raises what the reader failed with, ``Cancelled``, :class:`Unreachable` when nobody comes, ``ConnectionLost``.
    """
    listener = DataListener(
        host.listen_address, host.advertised_addresses[0], host.port_range, secret, timeouts=host.link
    )
    try:
        endpoints = tuple(listener.endpoint_at(address) for address in host.advertised_addresses)
        control.report(Listening(endpoints=endpoints))
        connection = _await(listener, control, host.connect_timeout_s)
    except BaseException:
        listener.close()
        raise
    try:
        control.report(Connected())
        outgoing = Outgoing(connection)
        _pump(control, inlet, connection, outgoing)
        while not connection.part(_STEP_S, control.fds):
            control.check()
    except BaseException:
        connection.abort()
        raise
    return Finished(result=MoverResult(), counters=outgoing.counters)


def _await(listener: DataListener, control: Control, timeout_s: float) -> DataConnection:
    deadline = time.monotonic() + timeout_s
    while True:
        connection = listener.poll(_STEP_S, control.fds)
        control.check()
        if connection is not None:
            return connection
        if time.monotonic() > deadline:
            raise Unreachable(peer=listener.endpoint, timeout_s=timeout_s)


def _pump(control: Control, inlet: Inlet, connection: DataConnection, outgoing: Outgoing) -> None:
    """Take a frame only when it can leave: the pipe's end makes the reader wait."""
    while not outgoing.ended:
        connection.wait(_STEP_S, (*control.fds, *((inlet.fd,) if connection.writable else ())))
        control.check()
        while (incoming := connection.receive()) is not None:  # nobody has anything to say, but a goodbye is heard
            connection.release(incoming.cost_bytes)
        connection.check_alive()
        while not outgoing.ended and connection.writable and select.select([inlet.fd], [], [], 0)[0]:
            frame = inlet.take()
            if frame is None:
                raise FilesUnreadable(reason="its reader ended in the midst of it")
            outgoing.take(frame)
        control.progress(outgoing.counters)


class Outgoing:
    """A stranger's frames on their way out: one file, whole, and nothing beyond its end."""

    def __init__(self, connection: DataConnection) -> None:
        self.ended = False
        self._connection = connection
        self._entry: FileEntry | None = None
        self._reached = self._bytes = 0

    @property
    def counters(self) -> TransferCounters:
        size = self._entry.size if self._entry is not None else 0
        return TransferCounters(
            size_bytes=size, processed_bytes=self._reached, read_bytes=self._bytes, sent_bytes=self._bytes
        )

    def take(self, frame: Frame) -> None:
        """Raises :class:`FilesUnreadable`, :class:`MalformedMessage`, what the reader failed with."""
        match frame:
            case Confined(how=how):
                _log.info("the reader of file systems has %r", how)
            case Complaint(reason=reason):
                raise FilesUnreadable(reason=reason)
            case Ended(error=error) if error is not None:
                raise from_record(error)
            case Found(entry=entry) if self._entry is None:
                self._entry = entry
                self._say(FileBegins(entry))
            case Data(offset=offset, data=data) if self._entry is not None:
                if not self._reached <= offset <= offset + len(data) <= self._entry.size:
                    raise MalformedMessage(peer="the reader of file systems", reason="content beyond the end of a file")
                self._say(FileData(offset), data)
                self._reached, self._bytes = offset + len(data), self._bytes + len(data)
            case Complete() if self._entry is not None:
                self._say(FileEnds())
                self.ended = True
            case _:
                raise MalformedMessage(peer="the reader of file systems", reason=f"{type(frame).__name__} out of place")

    def _say(self, part: FilePart, payload: bytes = b"") -> None:
        self._connection.send(_encode(part), (payload,) if payload else ())
