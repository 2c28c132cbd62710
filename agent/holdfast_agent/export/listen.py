"""Where an export listens: a Unix socket that only its owner may open, or TCP for those who prove themselves by TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
from pathlib import Path
from urllib.parse import quote

from holdfast_agent.disks.places import check_allowed, real_path
from holdfast_agent.errors import Denied, Locked, UsageError
from holdfast_agent.wire.movers import ExportHost, MoverHost
from holdfast_agent.wire.specs import ExporterSpec

from .folder import SOCKET_NAME

_BACKLOG = 64
_PROBE_S = 2.0
TLS, NFS = "tls", "nfs"
_UNIX = "unix:"


class Listening:
    """A listening socket and how clients reach it; :meth:`close` removes what others could see of it."""

    def __init__(self, spec: ExporterSpec, host: MoverHost, folder: Path) -> None:
        """Raises :class:`Denied`, :class:`DiskDenied`, :class:`Locked`, :class:`UsageError`, OSError."""
        self.tls: ssl.SSLContext | None = None
        self._directory: int | None = None
        self._name = ""
        if spec.listen == TLS:
            self.tls = _server_context(host)
            self.socket = _tcp(host)
            port = self.socket.getsockname()[1]
            places = [f"nbds://{in_uri(address)}:{port}" for address in host.advertised_addresses[:1]]
            self.uris = tuple(f"{place}/{quote(disk.name, safe='')}" for disk in spec.disks for place in places)
            return
        path = folder / SOCKET_NAME if not spec.listen else _unix_path(spec.listen)
        self._name = path.name
        self._directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if spec.listen:
                check_allowed(real_path(self._directory), spec.listen, host)
            self.socket = self._unix(str(path))
        except BaseException:
            os.close(self._directory)
            raise
        where = quote(str(path), safe="/")
        self.uris = tuple(f"nbd+unix:///{quote(disk.name, safe='')}?socket={where}" for disk in spec.disks)

    def close(self) -> None:
        """After the socket was closed. Never raises."""
        if self._directory is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)
            os.close(self._directory)
            self._directory = None

    def _unix(self, shown: str) -> socket.socket:
        """Bound by the directory's descriptor, which was judged: an exchanged link gains nothing, and no path is too
        long."""
        place = f"/proc/self/fd/{self._directory}/{self._name}"
        self._clear(place, shown)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # no other thread of this process makes files yet
        try:
            listener.bind(place)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        finally:
            os.umask(before)
        return listener

    def _clear(self, place: str, shown: str) -> None:
        """Remove a socket that a killed exporter left; nothing else is ever removed."""
        try:
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise UsageError(reason=f"{shown} exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_S)
            try:
                probe.connect(place)
            except ConnectionRefusedError:
                os.unlink(self._name, dir_fd=self._directory)
                return
            except OSError:
                pass  # a server that is too busy to answer
        raise Locked(what=shown, holder="another server")


def _unix_path(listen: str) -> Path:
    path = Path(listen.removeprefix(_UNIX))
    if not listen.startswith(_UNIX) or not path.is_absolute() or ".." in path.parts or not path.name:
        raise UsageError(reason=f"{listen!r}: an export listens on unix:/path, {TLS} or {NFS}")
    return path


def _tcp(host: MoverHost) -> socket.socket:
    """On the first free port of those for movers."""
    first, last = host.port_range
    family = socket.AF_INET6 if ":" in host.listen_address else socket.AF_INET
    problem: OSError | None = None
    for port in range(first, last + 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host.listen_address.strip("[]"), port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            problem = error
            continue
        return listener
    raise Locked(what=f"every port of {first} to {last}", holder=str(problem))


def in_uri(address: str) -> str:
    """An address as URIs have it."""
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def _server_context(host: MoverHost) -> ssl.SSLContext:
    """TLS 1.2 at least, and no client without a certificate of ours: there is no way to serve everybody."""
    exports = host.exports or ExportHost(directory="")
    if not (exports.tls_certificate_file and exports.tls_key_file and exports.tls_client_ca_file):
        raise Denied(
            reason=f"{host.agent} exports nothing over TCP: its configuration does not name all of export."
            "tls_certificate_file, export.tls_key_file and export.tls_client_ca_file"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(exports.tls_certificate_file, exports.tls_key_file)
        context.load_verify_locations(exports.tls_client_ca_file)
    except OSError as error:
        raise Denied(reason=f"{host.agent} cannot use its TLS files for exports: {error}") from error
    return context
