"""The server of one share: on its two ports, for the addresses that were ordered and for nobody else."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
from collections.abc import Collection, Mapping

from holdfast_agent.disks.nbd.stream import PlainStream

from ..reception import STALL_S, BadClient, Reception
from .connection import Connection
from .listen import Listeners
from .programs import MountProgram, NfsProgram, Portmapper
from .rpc import Program, RpcError
from .share import Share

MOST_CLIENTS = 32
"""Connections at a time on each port: an ESXi host makes one or two, or up to eight where it is told so."""

_log = logging.getLogger("holdfast.export")


class NfsServer:
    """Serves ``share`` until :meth:`close`."""

    def __init__(self, listeners: Listeners, share: Share, clients: Collection[str], stall_s: float = STALL_S) -> None:
        """Takes over the listening sockets. ``clients``: addresses, as :mod:`ipaddress` takes them."""
        self._clients = {ipaddress.ip_address(client) for client in clients}
        self._lock = threading.Lock()
        self._served: set[Connection] = set()
        self._sent_bytes = 0
        nfs: list[Program] = [NfsProgram(share), MountProgram(share)]
        ports = {(program.number, program.version): listeners.port for program in nfs}
        self._receptions = [
            self._reception(listener, {program.number: program for program in programs}, stall_s)
            for listener, programs in ((listeners.nfs, nfs), (listeners.portmapper, [Portmapper(ports)]))
        ]

    @property
    def sent_bytes(self) -> int:
        """To all clients so far."""
        with self._lock:
            return self._sent_bytes + sum(client.sent_bytes for client in self._served)

    def close(self) -> bool:
        """As :meth:`Reception.close`."""
        ended = [reception.close() for reception in self._receptions]
        return all(ended)

    def _reception(self, listener: socket.socket, programs: Mapping[int, Program], stall_s: float) -> Reception:
        def converse(peer: socket.socket, stream: PlainStream) -> None:
            self._check(peer)
            connection = Connection(stream, programs, lambda: reception.stopping.is_set())
            with self._lock:
                self._served.add(connection)
            try:
                connection.serve()
            except RpcError as error:
                raise BadClient(str(error)) from error
            finally:
                with self._lock:
                    self._served.discard(connection)
                    self._sent_bytes += connection.sent_bytes

        reception = Reception(listener, MOST_CLIENTS, converse, stall_s)
        return reception

    def _check(self, peer: socket.socket) -> None:
        """Raises :class:`BadClient`."""
        address = ipaddress.ip_address(peer.getpeername()[0].partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        if (mapped or address) not in self._clients:
            raise BadClient(f"{address} is none of the addresses for which this was exported")
