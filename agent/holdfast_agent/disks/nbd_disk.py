"""``nbd+unix:``: an export of an NBD server on a Unix socket, over as many connections as threads read."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator

from holdfast_agent.errors import ChangeTrackingLost, DiskUnreadable
from holdfast_agent.wire.movers import MoverHost

from .disk import DiskExtent
from .nbd import NbdConnection, NbdProtocolError, NbdRequestError, Status

_TIMEOUT_S = 120.0


class NbdDisk:
    """Connections are lent to readers; one more is kept for the allocation where the server allows several."""

    def __init__(self, path: str, export: str, url: str, host: MoverHost, bitmap: str = "") -> None:
        self.url = url
        self._bitmap = bitmap
        first = _connect(path, export, bitmap, url, host)
        self.size_bytes = first.size_bytes
        self._all = [first]
        try:
            if first.multi_connection:
                self._all += [_connect(path, export, bitmap, url, host) for _ in range(host.workers)]
        except BaseException:
            self.close()
            raise
        self._idle: queue.SimpleQueue[NbdConnection] = queue.SimpleQueue()
        for connection in self._all:
            self._idle.put(connection)

    def extents(self) -> Iterator[DiskExtent]:
        if not self._all[0].tells_allocation:
            yield DiskExtent(0, self.size_bytes, data=True)
            return
        for start, run in self._runs():
            yield DiskExtent(start, run.length, data=not run.zero)

    def changed_extents(self) -> Iterator[DiskExtent]:
        if not self._all[0].tells_changes:
            missing = f"has no bitmap {self._bitmap!r}" if self._bitmap else "is asked for no bitmap"
            raise ChangeTrackingLost(reason=f"{self.url} {missing}")
        return self._changes()

    def _changes(self) -> Iterator[DiskExtent]:
        last: DiskExtent | None = None
        for start, run in self._runs():
            if not run.dirty:
                continue
            if last is not None and last.start + last.length == start and last.data is not run.zero:
                last = last._replace(length=last.length + run.length)
                continue
            if last is not None:
                yield last
            last = DiskExtent(start, run.length, data=not run.zero)
        if last is not None:
            yield last

    def _runs(self) -> Iterator[tuple[int, Status]]:
        """The status of the whole export, asked for as it is consumed: never more than one answer in memory."""
        position = 0
        while position < self.size_bytes:
            connection = self._idle.get()
            try:
                runs = connection.status(position, self.size_bytes - position)
            except (NbdRequestError, NbdProtocolError, OSError) as error:
                raise self._unreadable(position, 0, error) from error
            finally:
                self._idle.put(connection)
            for run in runs:
                yield position, run
                position += run.length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        connection = self._idle.get()
        try:
            connection.read_into(offset, buffer)
        except (NbdRequestError, NbdProtocolError, OSError) as error:
            # After a broken protocol the connection is out of step; every later use of it fails in the same way.
            raise self._unreadable(offset, len(buffer), error) from error
        finally:
            self._idle.put(connection)

    def close(self) -> None:
        for connection in self._all:
            connection.close()
        self._all.clear()

    def _unreadable(self, offset: int, length: int, error: Exception) -> DiskUnreadable:
        return DiskUnreadable(url=self.url, offset_bytes=offset, length_bytes=length, reason=str(error))


def _connect(path: str, export: str, bitmap: str, url: str, host: MoverHost) -> NbdConnection:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(_TIMEOUT_S)
        peer.connect(path)
    except OSError as error:
        peer.close()
        raise DiskUnreadable(url=url, offset_bytes=0, length_bytes=0, reason=f"NBD server: {error.strerror}") from error
    return NbdConnection(peer, export, url, host.agent, bitmap)
