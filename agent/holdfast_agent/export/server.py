"""Listening, and a thread for each client: a bounded number of them, each with its own time-outs."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from functools import partial

from holdfast_agent.disks.nbd.protocol import NbdProtocolError
from holdfast_agent.disks.nbd.stream import PlainStream, Stream, TlsStream, at_most

from .client import Client
from .handshake import Handshake
from .image import Image

MOST_CLIENTS = 32
"""Connections at a time, and one more for each disk: nbdcopy makes four, and a VM one for each of its disks."""

HANDSHAKE_S = 30.0
"""From the connection to the choice of an export, TLS included."""

STALL_S = 60.0
"""For the rest of a request that has begun, and for a reply to be taken. An idle client may be so for ever."""

_CLOSE_S = 5.0
_log = logging.getLogger("holdfast.export")


class Server:
    """Serves ``images`` on one listening socket until :meth:`close`. Its thread is the only one that accepts."""

    def __init__(
        self,
        listener: socket.socket,
        images: Mapping[str, Image],
        description: str,
        tls: ssl.SSLContext | None,
        stall_s: float = STALL_S,
    ) -> None:
        """Takes over a listening socket, over which ``tls`` (if given) is the only thing that is spoken."""
        self._listener = listener
        self._images = images
        self._most = MOST_CLIENTS + len(images)
        self._description = description
        self._tls = tls
        self._stall_s = stall_s
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, PlainStream] = {}
        self._served: set[Client] = set()
        self._sent_bytes = 0
        self._stop_read, self._stop_write = socket.socketpair()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._thread.start()

    @property
    def clients(self) -> int:
        """Connections that have chosen an export."""
        return len(self._served)

    @property
    def sent_bytes(self) -> int:
        """To all clients so far."""
        with self._lock:
            return self._sent_bytes + sum(client.read_bytes for client in self._served)

    def close(self) -> bool:
        """Accept nobody, end all connections; False if a thread is still at work. Replies that are due may be lost."""
        self._stopping.set()
        self._stop_write.close()
        self._thread.join()
        self._stop_read.close()
        self._listener.close()
        with self._lock:
            left = dict(self._open)
        for stream in left.values():
            stream.shut_down()
        deadline = time.monotonic() + _CLOSE_S
        for thread in left:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in left)

    def _accept(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._stop_read, select.POLLIN)
        while not self._stopping.is_set():
            poller.poll()
            if self._stopping.is_set():
                return
            try:
                peer, _ = self._listener.accept()
            except OSError as error:  # that client has gone again, or there are no descriptors for it
                _log.warning("a connection could not be accepted: %s", error)
                self._stopping.wait(0.1)
                continue
            self._admit(peer)

    def _admit(self, peer: socket.socket) -> None:
        with self._lock:
            full = len(self._open) >= self._most
            if not full:
                stream = PlainStream(peer, self._stall_s)
                thread = threading.Thread(target=self._serve, args=(peer, stream), name="client", daemon=True)
                self._open[thread] = stream
        if full:
            _log.warning("a client was sent away: there are %d already", self._most)
            peer.close()
            return
        thread.start()

    def _serve(self, peer: socket.socket, stream: PlainStream) -> None:
        try:
            self._converse(peer, stream)
        except NbdProtocolError as error:
            _log.info("a connection was ended: %s", error)
        except OSError as error:  # most clients leave without a word
            _log.debug("a connection ended: %s", error)
        except Exception:  # noqa: BLE001 - thread boundary: other clients are served on
            _log.exception("a defect in the service of a client")
        finally:
            stream.close()
            with self._lock:
                del self._open[threading.current_thread()]

    def _converse(self, peer: socket.socket, plain: PlainStream) -> None:
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that is gone says nothing either
        with at_most(HANDSHAKE_S, plain):
            start_tls = partial(self._start_tls, plain, self._tls) if self._tls is not None else None
            chosen = Handshake(plain, self._images, self._description, start_tls).run()
        if chosen is None:
            return
        client = Client(chosen, f"disk {chosen.image.name}", self._stopping.is_set)
        with self._lock:
            self._served.add(client)
        try:
            client.serve()
        finally:
            with self._lock:
                self._served.discard(client)
                self._sent_bytes += client.read_bytes

    @staticmethod
    def _start_tls(plain: PlainStream, context: ssl.SSLContext) -> Stream:
        return TlsStream(plain, context, None)
