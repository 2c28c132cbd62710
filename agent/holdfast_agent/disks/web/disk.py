"""``https:`` and ``http:``: raw images that a web server gives by ranges."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from urllib.parse import urljoin

from holdfast_agent.disks.disk import DiskExtent
from holdfast_agent.errors import (
    DiskChanged,
    DiskDenied,
    DiskNotFound,
    DiskShrunk,
    DiskUnreadable,
    DiskUrlInvalid,
    HoldfastError,
)
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import DiskUrl, parse_disk_url
from holdfast_agent.wire.movers import MoverHost

from .connection import Answer
from .server import WebServer

_PIECE_BYTES = 4 << 20  # of one request, so that the time-out of a request fits slow links too
_MAX_REDIRECTIONS = 3
_MOVED = (301, 302, 303, 307, 308)


class WebDisk:
    """Reads of many threads, each on a connection of its own, which is kept for the next read.

    The file is pinned when it is opened, by its ETag or else its time of change, and by its size: a file that is
    replaced is noticed by the first read that meets the new one. A server that tells neither is trusted that far.
    """

    def __init__(self, url: DiskUrl, host: MoverHost, access: DiskAccess) -> None:
        self.url = str(url)
        self._origin = url.origin
        self._host = host
        self._server = WebServer(url, host, access, partial(self._unreadable, 0, 0))
        try:
            self._target, first = self._find(url.path)
        except BaseException:
            self.close()
            raise
        self.size_bytes = first.total_bytes or 0
        self._etag, self._modified = first.etag, first.modified
        # A weak tag may stay the same when bytes change, so a server must not decide by it; a date it may.
        self._pin = first.modified if first.etag.startswith("W/") else first.etag or first.modified

    def extents(self) -> Iterator[DiskExtent]:
        if self.size_bytes:
            yield DiskExtent(0, self.size_bytes, data=True)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        for at in range(0, len(buffer), _PIECE_BYTES):
            part = buffer[at : at + _PIECE_BYTES]
            answer = self._get(self._target, offset + at, part, self._pin)
            if (answer.status, answer.start, answer.end) != (206, offset + at, offset + at + len(part)):
                raise self._refusal(answer, offset + at, len(part))
            self._check_same(answer)

    def close(self) -> None:
        self._server.close()

    def _find(self, target: str) -> tuple[str, Answer]:
        """The first byte of the file tells all there is to know; redirections are followed on the same server only."""
        for _ in range(_MAX_REDIRECTIONS + 1):
            answer = self._get(target, 0, memoryview(bytearray(1)), "")
            empty = answer.status == 416 and answer.total_bytes == 0
            if empty or (answer.status == 206 and (answer.start, answer.end) == (0, 1) and answer.total_bytes):
                return target, answer
            if answer.status not in _MOVED:
                raise self._refusal(answer, 0, 0)
            target = self._moved(target, answer.location)
        raise self._unreadable(0, 0, "too many redirections")

    def _moved(self, target: str, location: str) -> str:
        try:
            moved = parse_disk_url(urljoin(self._origin + target, location))
        except (DiskUrlInvalid, ValueError) as error:
            raise self._unreadable(0, 0, "it is redirected to something that is no disk URL") from error
        if moved.origin != self._origin:  # where neither our secrets nor our trust belong
            raise self._denied(f"it is redirected to {moved.origin}")
        return moved.path

    def _get(self, target: str, offset: int, buffer: memoryview, pin: str) -> Answer:
        return self._server.get(target, offset, buffer, pin, partial(self._unreadable, offset, len(buffer)))

    def _check_same(self, answer: Answer) -> None:
        if answer.total_bytes != self.size_bytes:
            raise self._resized(answer.total_bytes or 0)
        if (answer.etag, answer.modified) != (self._etag, self._modified):
            raise DiskChanged(url=self.url, reason="the server has another version of it now")

    def _resized(self, found_bytes: int) -> HoldfastError:
        if found_bytes < self.size_bytes:
            return DiskShrunk(url=self.url, found_bytes=found_bytes, expected_bytes=self.size_bytes)
        return DiskChanged(url=self.url, reason=f"it has {found_bytes} bytes now, not {self.size_bytes}")

    def _refusal(self, answer: Answer, offset: int, length: int) -> HoldfastError:
        """What an answer other than the range means."""
        if answer.status in (404, 410):
            return DiskNotFound(url=self.url, host=self._host.agent)
        if answer.status in (401, 403):
            return self._denied(f"the server answers {answer.status}")
        if length and answer.status == 416 and answer.total_bytes is not None and answer.total_bytes < offset + length:
            return self._resized(answer.total_bytes)
        if answer.status == 206 and length and answer.total_bytes not in (None, self.size_bytes):
            return self._resized(answer.total_bytes or 0)
        if answer.status == 200:
            if length and self._pin and (answer.etag, answer.modified) != (self._etag, self._modified):
                return DiskChanged(url=self.url, reason="the server has another version of it now")
            return self._unreadable(offset, length, "the server gives no ranges")
        return self._unreadable(offset, length, f"the server answers {answer.status}")

    def _denied(self, reason: str) -> DiskDenied:
        return DiskDenied(host=self._host.agent, url=self.url, reason=reason)

    def _unreadable(self, offset: int, length: int, reason: str) -> DiskUnreadable:
        return DiskUnreadable(url=self.url, offset_bytes=offset, length_bytes=length, reason=reason[:300])
