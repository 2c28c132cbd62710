"""Accepting clients on one listening socket, and a thread for each: a bounded number of them."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable

from holdfast_agent.disks.nbd.stream import PlainStream

STALL_S = 60.0
"""For the rest of a request that has begun, and for a reply to be taken. An idle client may be so for ever."""

_CLOSE_S = 5.0
_log = logging.getLogger("holdfast.export")


class BadClient(Exception):
    """A client breaks its protocol, or may not be here: its connection is ended."""


class Reception:
    """Until :meth:`close`. Its thread is the only one that accepts."""

    def __init__(
        self,
        listener: socket.socket,
        most: int,
        converse: Callable[[socket.socket, PlainStream], None],
        stall_s: float = STALL_S,
    ) -> None:
        """Takes over a listening socket. ``most``: connections at a time. ``converse``: serves one client, in its own
        thread, until it has left; it may raise OSError and :class:`BadClient`."""
        self._listener = listener
        self._most = most
        self._converse = converse
        self._stall_s = stall_s
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, PlainStream] = {}
        self._stop_read, self._stop_write = socket.socketpair()
        self.stopping = threading.Event()
        """No request is taken any more."""
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Accept nobody, end all connections; False if a thread is still at work. Replies that are due may be lost."""
        self.stopping.set()
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
        while not self.stopping.is_set():
            poller.poll()
            if self.stopping.is_set():
                return
            try:
                peer, _ = self._listener.accept()
            except OSError as error:  # that client has gone again, or there are no descriptors for it
                _log.warning("a connection could not be accepted: %s", error)
                self.stopping.wait(0.1)
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
            if peer.family != socket.AF_UNIX:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that is gone says nothing either
            self._converse(peer, stream)
        except BadClient as error:
            _log.info("a connection was ended: %s", error)
        except OSError as error:  # most clients leave without a word
            _log.debug("a connection ended: %s", error)
        except Exception:  # noqa: BLE001 - thread boundary: other clients are served on
            _log.exception("a defect in the service of a client")
        finally:
            stream.close()
            with self._lock:
                del self._open[threading.current_thread()]
