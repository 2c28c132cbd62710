"""Where a share listens. An address serves one export, for a client asks the portmapper of an address for one port.

An export keeps its address for as long as it exists: a host that has mounted it comes back to that after every restart.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path

from holdfast_agent.durable import replaced_file
from holdfast_agent.errors import Denied, Locked

from .protocol import PORTMAPPER_PORT

_ADDRESS = "address"
_BACKLOG = 64


class Listeners:
    """The sockets of one export."""

    def __init__(self, address: str, nfs: socket.socket, portmapper: socket.socket) -> None:
        self.address = address
        self.nfs = nfs
        self.portmapper = portmapper

    @property
    def port(self) -> int:
        return int(self.nfs.getsockname()[1])


def listen(folder: Path, addresses: Sequence[str], port: int, portmapper_port: int = PORTMAPPER_PORT) -> Listeners:
    """On the address that this export has, or on one that no other has; noted in ``folder`` before it returns.

    Raises :class:`Denied` where the agent's configuration names no address, :class:`Locked`, OSError.
    """
    if not addresses:
        raise Denied(
            reason="this agent exports nothing over NFS: its configuration names no address for that "
            "(export.nfs_addresses)"
        )
    note = folder / _ADDRESS
    own = note.read_text() if note.exists() else ""
    taken = {path.read_text() for path in folder.parent.parent.parent.glob(f"*/*/*/{_ADDRESS}")} - {own}
    candidates = [own] if own else [address for address in addresses if address not in taken]
    problem = "exports that are kept"
    for address in candidates:
        try:
            listeners = _bound(address, port, portmapper_port)
        except OSError as error:
            problem = str(error)
            continue
        if not own:
            with replaced_file(note) as file:
                file.write(address.encode("ascii"))
        return listeners
    raise Locked(what=f"NFS on {', '.join(candidates or addresses)}", holder=problem)


def _bound(address: str, port: int, portmapper_port: int) -> Listeners:
    with contextlib.ExitStack() as stack:
        nfs = stack.enter_context(_tcp(address, port))
        listeners = Listeners(address, nfs, _tcp(address, portmapper_port))
        stack.pop_all()
    return listeners


def _tcp(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"port {port}: {error.strerror or error}") from error
    return listener
