"""From an address to a connection in its second phase."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from functools import partial

from holdfast_agent.disks.places import check_server, open_allowed, real_path
from holdfast_agent.disks.tls import check_pin, client_context, untrusted
from holdfast_agent.errors import DiskUnreadable
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl
from holdfast_agent.wire.movers import MoverHost

from . import protocol
from .connection import Connection
from .negotiation import Wish, negotiate
from .protocol import NbdProtocolError
from .stream import PlainStream, Stream, TlsStream, at_most

Connect = Callable[[float], socket.socket]
"""Makes a connected socket within so many seconds. Raises OSError."""


class Dialler:
    """Makes connections to one export; see :data:`holdfast_agent.disks.nbd.export.Dial`."""

    def __init__(
        self, connect: Connect, wish: Wish, host: MoverHost, start_tls: Callable[[PlainStream], Stream] | None = None
    ) -> None:
        self._connect = connect
        self._wish = wish
        self._start_tls = start_tls
        self._connect_s = host.connect_timeout_s
        self._request_s = host.stall_timeout_s

    def __call__(self, timeout_s: float | None) -> Connection:
        """Raises :class:`DiskNotFound`, :class:`DiskDenied`, :class:`DiskServerUntrusted` and, for everything that
        may be better next time, :class:`DiskUnreadable`."""
        timeout_s = min(timeout_s or self._connect_s, self._connect_s)
        try:
            plain = PlainStream(self._connect(timeout_s), timeout_s)
            try:
                with at_most(timeout_s, plain):
                    start_tls = partial(self._start_tls, plain) if self._start_tls else None
                    stream, export = negotiate(plain, self._wish, start_tls)
                stream.set_timeout(self._request_s)
            except BaseException:
                plain.close()
                raise
        except ssl.SSLCertVerificationError as error:
            raise untrusted(error, self._wish.url) from error
        except (OSError, NbdProtocolError) as error:
            reason = f"NBD server: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
            raise DiskUnreadable(url=self._wish.url, offset_bytes=0, length_bytes=0, reason=reason) from error
        return Connection(stream, export, self._request_s)


def dialler(url: DiskUrl, host: MoverHost, access: DiskAccess) -> Dialler:
    """How to reach an export that a manager named. Raises :class:`DiskError` if the agent may not."""
    wish = Wish(url.option("export"), _contexts(url.option("bitmap")), str(url), host.agent)
    if url.scheme is DiskScheme.NBD_UNIX:
        fd = open_allowed(url.path, os.O_PATH, str(url), host)
        try:
            path = real_path(fd)
        finally:
            os.close(fd)
        return Dialler(partial(connect_unix, path), wish, host)
    check_server(url, host)
    connect = partial(_connect_tcp, url.host, url.port)
    if url.scheme is DiskScheme.NBD:
        return Dialler(connect, wish, host)
    try:
        context = client_context(host, access)
    except OSError as error:
        raise DiskUnreadable(url=str(url), offset_bytes=0, length_bytes=0, reason=f"TLS: {error}") from error
    return Dialler(connect, wish, host, partial(_start_tls, context, url.host, access))


def private_dialler(path: str, url: str, host: MoverHost, bitmap: str = "") -> Dialler:
    """How to reach the one export of a server of our own."""
    return Dialler(partial(connect_unix, path), Wish("", _contexts(bitmap), url, host.agent), host)


def connect_unix(path: str, timeout_s: float) -> socket.socket:
    """A connected Unix socket."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.settimeout(timeout_s)
        peer.connect(path)
    except BaseException:
        peer.close()
        raise
    return peer


def _contexts(bitmap: str) -> tuple[str, ...]:
    return (protocol.ALLOCATION, protocol.BITMAP + bitmap) if bitmap else (protocol.ALLOCATION,)


def _connect_tcp(name: str, port: int, timeout_s: float) -> socket.socket:
    peer = socket.create_connection((name, port), timeout_s)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return peer


def _start_tls(context: ssl.SSLContext, server: str, access: DiskAccess, plain: PlainStream) -> Stream:
    stream = TlsStream(plain, context, server)
    check_pin(stream.peer_certificate(), access)
    return stream
