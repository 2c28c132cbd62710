"""The server of NBD: what it does with each client, and how much all of them were sent."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping
from functools import partial

from holdfast_agent.disks.nbd.protocol import NbdProtocolError
from holdfast_agent.disks.nbd.stream import PlainStream, Stream, TlsStream, at_most

from .client import Client
from .handshake import Handshake
from .image import Image
from .reception import STALL_S, BadClient, Reception

MOST_CLIENTS = 32
"""Connections at a time, and one more for each disk: nbdcopy makes four, and a VM one for each of its disks."""

HANDSHAKE_S = 30.0
"""From the connection to the choice of an export, TLS included."""


class Server:
    """Serves ``images`` on one listening socket until :meth:`close`."""

    def __init__(
        self,
        listener: socket.socket,
        images: Mapping[str, Image],
        description: str,
        tls: ssl.SSLContext | None,
        stall_s: float = STALL_S,
    ) -> None:
        """Takes over a listening socket, over which ``tls`` (if given) is the only thing that is spoken."""
        self._images = images
        self._description = description
        self._tls = tls
        self._lock = threading.Lock()
        self._served: set[Client] = set()
        self._sent_bytes = 0
        self._reception = Reception(listener, MOST_CLIENTS + len(images), self._converse, stall_s)

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
        """As :meth:`Reception.close`."""
        return self._reception.close()

    def _converse(self, _: socket.socket, plain: PlainStream) -> None:
        try:
            with at_most(HANDSHAKE_S, plain):
                start_tls = partial(self._start_tls, plain, self._tls) if self._tls is not None else None
                chosen = Handshake(plain, self._images, self._description, start_tls).run()
            if chosen is None:
                return
            client = Client(chosen, f"disk {chosen.image.name}", lambda: self._reception.stopping.is_set())
            with self._lock:
                self._served.add(client)
            try:
                client.serve()
            finally:
                with self._lock:
                    self._served.discard(client)
                    self._sent_bytes += client.read_bytes
        except NbdProtocolError as error:
            raise BadClient(str(error)) from error

    @staticmethod
    def _start_tls(plain: PlainStream, context: ssl.SSLContext) -> Stream:
        return TlsStream(plain, context, None)
