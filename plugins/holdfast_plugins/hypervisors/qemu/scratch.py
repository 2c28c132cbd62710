"""Files that hold old data while a snapshot lives, and the socket by which agents read it.

A scratch file has no name: it is unlinked as soon as it is there, and handed to QEMU as an open file. Whoever dies, the
kernel takes it back when QEMU closes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from holdfast_agent.model.units import format_size

from .monitor import Monitor

NO_FLUSH = {"cache": {"no-flush": True}}
"""For nodes whose content is worth nothing after a crash."""
_SOCKET = re.compile(r"holdfast-[0-9a-f]{12}\.nbd", re.ASCII)
_LONGEST_SOCKET = 107  # sun_path of unix(7), without the zero byte


class Listening(msgspec.Struct, frozen=True):
    """Where QEMU serves NBD: on the snapshot's own Unix socket, or at ``host`` and ``port``, with TLS by ``creds``."""

    host: str = ""
    port: int = 0
    creds: str = ""


def add_scratch(monitor: Monitor, directory: Path, node: str, reserved_bytes: int) -> None:
    """Give QEMU a file as the block node ``node``, for which so much space is taken already.

    Raises ``OSError`` (ENOSPC) or ``CommandRefused``.
    """
    path = directory / f"{node}.scratch"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            if monitor.takes_descriptors:
                path.unlink()
            if reserved_bytes:
                _reserve(file, directory, reserved_bytes)
            with _passed(monitor, file, path) as name:
                options = {"driver": "file", "node-name": node, "filename": name, "locking": "off"}
                monitor.run("blockdev-add", options | NO_FLUSH | ({} if reserved_bytes else {"discard": "unmap"}))
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def start_nbd_server(monitor: Monitor, path: Path, listening: Listening) -> None:
    """Let QEMU serve NBD on a new Unix socket at ``path``, or on the network. Raises ``OSError`` or ``CommandRefused``.

    What lies at ``path`` says that the server is this snapshot's; it is gone when this raises. The socket is this
    process's own, so that QEMU needs no right in the directory, and whose agents may connect is for the directory's
    set-group-id bit to say.
    """
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise OSError(f"{path} is too long for a socket; choose a shorter scratch_dir")
    try:
        monitor.run("nbd-server-start", _address(monitor, path, listening))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _address(monitor: Monitor, path: Path, listening: Listening) -> dict[str, Any]:
    if listening.port:
        path.touch(0o600, exist_ok=False)
        address = {"type": "inet", "data": {"host": listening.host, "port": str(listening.port)}}
        return {"addr": address} | ({"tls-creds": listening.creds} if listening.creds else {})
    if not monitor.takes_descriptors:
        return {"addr": {"type": "unix", "data": {"path": str(path)}}}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen()
        monitor.run("getfd", {"fdname": path.name}, descriptor=listener.fileno())
    return {"addr": {"type": "fd", "data": {"str": path.name}}}


def socket_path(directory: Path, token: str) -> Path:
    return directory / f"holdfast-{token}.nbd"


def remove_socket(path: Path) -> None:
    """Delete what :func:`start_nbd_server` made; nothing that has another name, kind or content. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        empty = stat.S_ISREG(status.st_mode) and status.st_size == 0
        if _SOCKET.fullmatch(path.name) and (empty or stat.S_ISSOCK(status.st_mode)):
            path.unlink()


def _reserve(file: int, directory: Path, length_bytes: int) -> None:
    try:
        os.posix_fallocate(file, 0, length_bytes)
    except OSError as error:
        needed = format_size(length_bytes)
        raise OSError(error.errno, f"{directory} has no {needed} to reserve: {error.strerror}") from error


@contextmanager
def _passed(monitor: Monitor, file: int, path: Path) -> Iterator[str]:
    """A file name by which QEMU opens ``file``."""
    if not monitor.takes_descriptors:
        yield str(path)
        return
    number = monitor.run("add-fd", {"opaque": path.name}, descriptor=file)["fdset-id"]
    try:
        yield f"/dev/fdset/{number}"
    finally:
        monitor.run("remove-fd", {"fdset-id": number})  # the node keeps a descriptor of its own
