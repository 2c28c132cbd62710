"""One connection to a web server: ranges that are asked for and files that are put there, one after the other."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import re
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from holdfast_agent.disks.patience import Patience
from holdfast_agent.disks.tls import check_pin
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import DiskUrl

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})", re.ASCII)
_UNREAD_BYTES = 64 << 10  # of an answer that is not wanted: more is not worth keeping the connection for


class Answer(NamedTuple):
    """The head of a reply. ``total_bytes``: of the whole file, if the server says so; ``start`` and ``end``: of the
    range that follows, half-open."""

    status: int
    etag: str
    modified: str
    location: str
    retry_after: str
    start: int
    end: int
    total_bytes: int | None


class WebProtocolError(Exception):
    """The server does not speak HTTP as it should; the connection is of no more use."""


class WebConnection:
    """Not thread-safe. After an exception, or when :attr:`usable` is false, it is to be closed."""

    def __init__(self, url: DiskUrl, access: DiskAccess, context: ssl.SSLContext | None, timeout_s: float) -> None:
        """Connect; whom the other side is, is proved before anything is sent. ``timeout_s``: for connecting.

        Raises OSError, :class:`ssl.SSLCertVerificationError` among them.
        """
        if context is None:
            self._http = http.client.HTTPConnection(url.host, url.port, timeout_s)
        else:
            self._http = http.client.HTTPSConnection(url.host, url.port, timeout=timeout_s, context=context)
        self._http.response_class = _TimedResponse
        self._http.auto_open = 0  # a connection made again by itself would not be checked against the pin
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "holdfast"} | _credentials(access)
        self.usable = True
        try:
            self._http.connect()
            if isinstance(self._http.sock, ssl.SSLSocket):
                check_pin(self._http.sock.getpeercert(binary_form=True), access)
        except BaseException:
            self._http.close()
            raise

    def get(self, target: str, offset: int, buffer: memoryview, pin: str, timeout_s: float) -> Answer:
        """Ask for the range of ``buffer`` at ``offset``; if the answer has just that (206), the buffer is filled.

        ``pin``: the validator of the file as it was opened, or nothing. ``timeout_s``: for all of it.
        Raises OSError, :class:`http.client.HTTPException`, :class:`WebProtocolError`.
        """
        self.usable = False
        headers = self._headers | {"Range": f"bytes={offset}-{offset + len(buffer) - 1}"}
        if pin:
            headers["If-Range"] = pin
        self._http.sock.settimeout(timeout_s)
        self._http.request("GET", target, headers=headers)
        with contextlib.closing(self._http.getresponse()) as response:
            answer = _head(response)
            if (answer.status, answer.start, answer.end) == (206, offset, offset + len(buffer)):
                done = 0
                while done < len(buffer):
                    count = response.readinto(buffer[done:])
                    if not count:
                        raise WebProtocolError(f"only {done} of {len(buffer)} bytes came")
                    done += count
                over = response.read(1)
                if over:
                    raise WebProtocolError("more came than was asked for")
                self.usable = not response.will_close
            else:
                self._pass_over(response)
            return answer

    def put(self, target: str, size_bytes: int, read: Callable[[int], memoryview], timeout_s: float) -> Answer:
        """Put a file of ``size_bytes`` there. ``read`` gives what follows from an offset on, a piece, never nothing.

        A server that answers before it has all is listened to. ``timeout_s``: for each piece, and for the answer.
        Raises as :meth:`get`, and what ``read`` raises.
        """
        self.usable = False
        self._http.sock.settimeout(timeout_s)
        self._http.putrequest("PUT", target, skip_accept_encoding=True)
        told = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
        for name, value in (self._headers | told).items():
            self._http.putheader(name, value)
        broken: OSError | None = None
        try:
            self._http.endheaders()
            at = 0
            while at < size_bytes:
                piece = read(at)
                self._http.send(piece)
                at += len(piece)
        except (BrokenPipeError, ConnectionResetError) as error:
            broken = error
        try:
            response = self._http.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise broken or error from error
        with contextlib.closing(response):
            answer = _head(response)
            self._pass_over(response)
            self.usable = self.usable and broken is None
            return answer

    def _pass_over(self, response: http.client.HTTPResponse) -> None:
        """Nobody wants the body."""
        if response.length is not None and response.length <= _UNREAD_BYTES:
            response.read()
            self.usable = not response.will_close

    def close(self) -> None:
        """Idempotent, never raises."""
        self.usable = False
        with contextlib.suppress(OSError):
            self._http.close()


def _credentials(access: DiskAccess) -> dict[str, str]:
    headers = {}
    if access.cookie:
        headers["Cookie"] = access.cookie
    if access.user:
        token = base64.b64encode(f"{access.user}:{access.password}".encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    return headers


def _head(response: http.client.HTTPResponse) -> Answer:
    headers = response.headers
    told = headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(told.strip())
    if told and found is None:
        raise WebProtocolError(f"a content range of {told[:80]!r}")
    if response.status == 206 and (found is None or found[1] is None):
        raise WebProtocolError("part of a file without its content range")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise WebProtocolError("an answer in another encoding than was asked for")
    start, end = (int(found[1]), int(found[2]) + 1) if found and found[1] else (0, 0)
    if response.status == 206 and response.length not in (None, end - start):
        raise WebProtocolError("a length that is not that of the range")
    return Answer(
        response.status,
        headers.get("ETag", ""),
        headers.get("Last-Modified", ""),
        headers.get("Location", ""),
        headers.get("Retry-After", ""),
        start,
        end,
        int(found[3]) if found else None,
    )


class _TimedResponse(http.client.HTTPResponse):
    """A response whose every byte, those of its head too, must come before one deadline."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None):
        super().__init__(sock, debuglevel, method, url)
        raw = cast(socket.SocketIO, self.fp.detach())
        self.fp = io.BufferedReader(_TimedReader(sock, raw), 64 << 10)


class _TimedReader(io.RawIOBase):
    def __init__(self, peer: socket.socket, raw: socket.SocketIO) -> None:
        self._peer = peer
        self._raw = raw
        self._timeout_s = peer.gettimeout() or 0.0
        self._patience = Patience(self._timeout_s)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        left_s = self._patience.left_s()
        if left_s < 0.7 * self._timeout_s:  # not for each 16 KiB of TLS: it costs a system call
            self._peer.settimeout(left_s)
            self._timeout_s = left_s
        return self._peer.recv_into(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
