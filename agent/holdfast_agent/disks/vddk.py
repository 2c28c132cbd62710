"""``vddk:``: disks of vSphere through VMware's Virtual Disk Development Kit, by an ``nbdkit`` of our own.

VMware's licence does not let anybody else hand the kit on: the user puts it on the proxy, and ``proxy.vddk_dir`` says
where. Command line: nbdkit-vddk-plugin(1). Each connection to nbdkit is a session of NFC on the ESXi host, of which it
has few (VMware: 52 through a vCenter), so a mover makes do with one, on which requests overtake each other.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from holdfast_agent.errors import DiskDenied, DiskError, DiskInUse, DiskNotFound, DiskUnreadable, UsageError
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import DiskUrl
from holdfast_agent.wire.movers import MoverHost

from .disk import DiskExtent
from .nbd.dial import Dialler
from .nbd.disk import NbdDisk
from .nbd.export import NbdExport
from .nbd.target import NbdTarget
from .places import check_server
from .private_server import PrivateServer, tool
from .served_target import ServedTarget
from .tls import check_pin, client_context, untrusted

_MEANINGS = (
    (
        re.compile(r"access rights|incorrect user|cannot complete login|login failure|not authenticated", re.I),
        DiskDenied,
    ),
    (re.compile(r"file was not found|could not be found|does not exist|has already been deleted", re.I), DiskNotFound),
    (re.compile(r"locked|lock the file|file is in use|resource.* in use", re.I), DiskInUse),
)
T = TypeVar("T")
_ERROR = re.compile(r"VixDiskLib_?\w{0,40}: (.{1,300})")


class VddkDisk:
    """A disk that is read. Open it in the main thread: see :class:`PrivateServer`."""

    def __init__(self, url: DiskUrl, host: MoverHost, access: DiskAccess) -> None:
        """Raises :class:`DiskServerDenied`, :class:`DiskServerUntrusted`, :class:`DiskDenied`, :class:`DiskNotFound`,
        :class:`DiskInUse`, :class:`DiskUnreadable`, :class:`ToolMissing`."""
        check_server(url, host)
        self.url = str(url)
        self._server, self._disk = _opened(url, host, access, self._connect)
        self.size_bytes = self._disk.size_bytes

    def extents(self) -> Iterator[DiskExtent]:
        return self._disk.extents()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            self._disk.read_into(offset, buffer)
        except DiskUnreadable as error:
            raise self._server.meaning(self._server.said()) or error from error

    def close(self) -> None:
        self._disk.close()
        self._server.stop()

    def _connect(self, dial: Dialler) -> NbdDisk:
        return NbdDisk(NbdExport(dial, self.url, 1, resume=False), self.url, "")


class VddkTarget(ServedTarget):
    """A disk that is rewritten in place: of a VM that is off and has no snapshots, so that the URL names none. VMware's
    kit locks it meanwhile. Open it in the main thread: see :class:`PrivateServer`."""

    def __init__(self, url: DiskUrl, host: MoverHost, access: DiskAccess, size_bytes: int) -> None:
        """Raises as :class:`VddkDisk`, and :class:`UsageError`."""
        check_server(url, host)
        if url.option("snapshot"):
            raise UsageError(reason=f"{url} is a disk of a snapshot, which nobody may write to")
        alone = msgspec.structs.replace(host, workers=1)

        def connect(dial: Dialler) -> NbdTarget:
            return NbdTarget(dial, str(url), alone, size_bytes)

        super().__init__(*_opened(url, host, access, connect, writable=True))


def _opened(
    url: DiskUrl, host: MoverHost, access: DiskAccess, connect: Callable[[Dialler], T], *, writable: bool = False
) -> tuple[_VddkServer, T]:
    """A server that has the disk open, and what ``connect`` makes of it."""
    with _readable(access.password) as password:
        server = _VddkServer(url, host, access, password, writable=writable)

        def connected(dial: Dialler) -> T:
            try:
                return connect(dial)
            except DiskError as error:  # the kit opens the disk when somebody connects
                raise server.meaning(server.said()) or error from error

        return server, server.open(connected, pass_fds=(password,), env={"HOME": host.runtime_dir})


class _VddkServer(PrivateServer):
    def __init__(self, url: DiskUrl, host: MoverHost, access: DiskAccess, password: int, *, writable: bool) -> None:
        """``password``: a descriptor to read it from."""
        super().__init__(str(url), host)
        self._writable = writable
        if not host.vddk_dir:
            reason = "VMware's Virtual Disk Development Kit is not set up there (proxy.vddk_dir)"
            raise DiskDenied(host=host.agent, url=self.url, reason=reason)
        self._program = tool("nbdkit", host, "nbdkit, and its plugin vddk")
        parameters = {
            "libdir": host.vddk_dir,
            "server": url.host,
            "port": str(url.port),
            "user": access.user,
            "password": f"-{password}",
            "thumbprint": _thumbprint(url, host, access),
            "vm": f"moref={url.option('vm')}",
            "transports": url.option("transports", "nbdssl"),
            "file": url.path.removeprefix("/"),
        }
        if url.option("snapshot"):
            parameters["snapshot"] = url.option("snapshot")
        self._parameters = [f"{name}={value}" for name, value in parameters.items()]

    def command(self, address: str) -> list[str]:
        options = ["--foreground", "--exit-with-parent", f"--unix={address}"]
        options += [] if self._writable else ["--readonly"]
        return [self._program, *options, "vddk", *self._parameters]

    def explain(self, said: str) -> DiskError:
        return self.meaning(said) or self.unreadable(said)

    def meaning(self, said: str) -> DiskError | None:
        """What VDDK's last error is, by its words: its numbers are not on the log of nbdkit."""
        errors = _ERROR.findall(said)
        if not errors:
            return None
        reason = errors[-1].strip()
        kind = next((kind for pattern, kind in _MEANINGS if pattern.search(reason)), None)
        if kind is DiskDenied:
            return DiskDenied(host=self.host.agent, url=self.url, reason=reason)
        if kind is DiskNotFound:
            return DiskNotFound(url=self.url, host=self.host.agent)
        return DiskInUse(url=self.url, reason=reason) if kind is DiskInUse else self.unreadable(reason)


def _thumbprint(url: DiskUrl, host: MoverHost, access: DiskAccess) -> str:
    """SHA-1 of the server's certificate, by which VDDK knows it, after the server has proved itself to us."""
    try:
        context = client_context(host, access)
        with (
            socket.create_connection((url.host, url.port), host.connect_timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=url.host) as tls,
        ):
            certificate = tls.getpeercert(binary_form=True) or b""
            check_pin(certificate, access)
    except ssl.SSLCertVerificationError as error:
        raise untrusted(error, str(url)) from error
    except OSError as error:
        reason = f"{url.host}: {error.strerror or error}"
        raise DiskUnreadable(url=str(url), offset_bytes=0, length_bytes=0, reason=reason) from error
    return hashlib.sha1(certificate, usedforsecurity=False).digest().hex(":")


@contextmanager
def _readable(secret: str) -> Iterator[int]:
    """A descriptor from which a program reads ``secret``, which so stands in no argument and no file with a name."""
    fd = os.memfd_create("secret")
    try:
        os.write(fd, secret.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
