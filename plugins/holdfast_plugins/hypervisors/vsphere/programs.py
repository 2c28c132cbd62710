"""Programs in a Linux guest by VMware Tools: guest operations of the vSphere API, with the guest's own credentials.

Tools run a program by the guest's shell and keep nothing of what it prints, so that goes to files in memory that are
fetched and deleted (vSphere API reference: GuestProcessManager, GuestFileManager). They are on tmpfs, because a file
system may be frozen.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shlex
import ssl
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from holdfast_agent.errors import GuestProcessingFailed, HypervisorUnreachable
from holdfast_plugins.api import Finished

from .binding import VsphereRefused
from .connection import Connection
from .properties import properties_of

_MOST_BYTES = 1 << 20
_POLL_S = 0.2
_PRIVATE = 0o600
_PLACE = "/dev/shm"  # noqa: S108 (names in it are random, and files are made under a umask of 077)


class ToolsGuest:
    """An ``InGuest``. ``user``, ``password``: of root in the guest, or of another account that may do as much.

    Raises ``GuestProcessingFailed`` or ``HypervisorUnreachable``.
    """

    def __init__(self, connection: Connection, machine: Any, vm: str, user: str, password: str) -> None:
        self._connection = connection
        self._machine = machine
        self._vm = vm
        told = properties_of(connection, machine, ("guest.toolsRunningStatus", "guest.guestFamily", "runtime.host"))
        if str(told.get("guest.toolsRunningStatus")) != "guestToolsRunning":
            raise self._failed("VMware Tools do not run in the guest")
        if str(told.get("guest.guestFamily", "")) == "windowsGuest":
            raise self._failed('programs are run in Linux guests only; quiesce = "require" has VSS prepare Windows')
        if not user:
            raise self._failed("the secret of the server has no guest_user and guest_password")
        auth = connection.vim.vm.guest.NamePasswordAuthentication
        self._auth = auth(username=user, password=password, interactiveSession=False)
        self._host = told.get("runtime.host")

    def run(self, command: Sequence[str], timeout_s: float) -> Finished:
        place = f"{_PLACE}/holdfast-{secrets.token_hex(8)}"
        line = f"umask 077; exec {shlex.join(command)} >{place}.out 2>{place}.err </dev/null"
        spec = self._connection.vim.vm.guest.ProcessManager.ProgramSpec(
            programPath="/bin/sh", arguments=f"-c {shlex.quote(line)}"
        )
        with self._translated(command[0]):
            try:
                pid = self._act(lambda manager: manager.processManager.StartProgramInGuest(*self._who(), spec))
                code = self._ended(int(pid), command[0], timeout_s)
                return Finished(code, self._read(f"{place}.out"), self._read(f"{place}.err"))
            finally:
                for each in (f"{place}.out", f"{place}.err"):
                    self._delete(each)

    def put(self, path: str, data: bytes) -> None:
        attributes = self._connection.vim.vm.guest.FileManager.PosixFileAttributes(permissions=_PRIVATE)
        with self._translated(path):
            url = self._act(
                lambda manager: manager.fileManager.InitiateFileTransferToGuest(
                    *self._who(), path, attributes, len(data), True
                )
            )
            self._transfer("PUT", str(url), data)

    def _ended(self, pid: int, what: str, timeout_s: float) -> int:
        """The exit code of a program, which is ended when its time is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            told = self._act(lambda manager: manager.processManager.ListProcessesInGuest(*self._who(), [pid]))
            if told and told[0].endTime is not None:
                return int(told[0].exitCode or 0)
            if time.monotonic() > deadline:
                with contextlib.suppress(VsphereRefused):
                    self._act(lambda manager: manager.processManager.TerminateProcessInGuest(*self._who(), pid))
                raise self._failed(f"{what} has not ended within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def _read(self, path: str) -> str:
        told = self._act(lambda manager: manager.fileManager.InitiateFileTransferFromGuest(*self._who(), path))
        return self._transfer("GET", str(told.url)).decode(errors="replace")

    def _delete(self, path: str) -> None:
        with contextlib.suppress(VsphereRefused, HypervisorUnreachable):
            self._act(lambda manager: manager.fileManager.DeleteFileInGuest(*self._who(), path))

    def _transfer(self, method: str, url: str, data: bytes = b"") -> bytes:
        """Send or fetch a file at the place that the server names: on itself, or on the host of the VM."""
        parts = urlsplit(url)
        try:
            with contextlib.closing(self._reached(parts.hostname or "*", parts.port or 443)) as http:
                http.request(method, f"{parts.path}?{parts.query}", data or None)
                response = http.getresponse()
                content = response.read(_MOST_BYTES)
                if response.status not in (200, 201):
                    raise self._failed(f"a file transfer is answered with {response.status}")
                return content
        except (OSError, HTTPException, ValueError) as error:
            raise HypervisorUnreachable(server=self._connection.server, reason=f"file transfer: {error}") from error

    def _reached(self, host: str, port: int) -> HTTPSConnection:
        """ "*" stands for the server itself; a host is trusted by the certificate that the vCenter knows it by."""
        if host == "*" or self._connection.is_at(host):
            return self._connection.web()
        told = properties_of(self._connection, self._host, ("config.certificate",))
        known = bytes(byte & 255 for byte in told.get("config.certificate") or ())
        if not known:
            raise self._failed(f"the certificate of {host}, which runs the VM, is not known to the server")
        pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(known.decode())).hexdigest()
        return self._connection.web_at(host, port, pin)

    def _who(self) -> tuple[Any, Any]:
        return self._machine, self._auth

    def _act(self, deed: Any) -> Any:
        return self._connection.act(lambda content: deed(content.guestOperationsManager))

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except VsphereRefused as error:
            raise self._failed(f"{what}: {error}") from error

    def _failed(self, reason: str) -> GuestProcessingFailed:
        return GuestProcessingFailed(vm=self._vm, phase="tools", reason=reason)
