"""Disks behind a server of our own (:class:`PrivateServer`) that are rewritten in place."""

from __future__ import annotations

from holdfast_agent.errors import DiskError, DiskUnwritable

from .disk import ReadableDisk
from .nbd.target import NbdTarget
from .private_server import PrivateServer


class ServedTarget:
    """A ``RewritableDisk``: writes go to the server, which is stopped in order at the end."""

    now: ReadableDisk

    def __init__(self, server: PrivateServer, target: NbdTarget) -> None:
        """``target``: what ``server`` was opened as."""
        self.url = server.url
        self._server = server
        self._target = target
        self.now = target.now
        self._ended = False

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._target.write(offset, data)

    def write_zeros(self, offset: int, length: int) -> None:
        self._target.write_zeros(offset, length)

    def finish(self) -> None:
        try:
            self._target.finish()
        except DiskError:
            self.abort()
            raise
        self._ended = True
        complaint = self._server.finish()
        if complaint:
            reason = f"its server has not closed it well: {complaint}"
            raise DiskUnwritable(url=self.url, offset_bytes=0, length_bytes=0, reason=reason)

    def abort(self) -> None:
        """In order, so that what was written and what is kept of it (a dirty bitmap, say) agree."""
        if not self._ended:
            self._ended = True
            self._target.abort()
            self._server.finish()
