"""The options of a server of kind `qemu` and of the jobs that back it up."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

_VM = re.compile(r"(?P<name>[^=/\0\n.][^=/\0\n]*)=(?P<address>(?:unix:/|tcp:)[!-~]+)")
_NBD = re.compile(r"(?P<host>\[[0-9A-Fa-f:]+\]|[0-9A-Za-z._-]+):(?P<port>[0-9]{1,5})")


class Fleecing(StrEnum):
    """What copies old data out of the guest's way.

    ``FILTER``: a filter that is put under the guest's devices; where it cannot copy, the snapshot breaks. ``JOB``: a
    backup job of QEMU's; it must always be able to copy, so all the space is taken before. ``AUTO``: a filter, but a
    job where a disk may have an I/O thread.
    """

    AUTO = "auto"
    FILTER = "filter"
    JOB = "job"


class Address(msgspec.Struct, frozen=True):
    """Where a monitor listens: ``path`` of a Unix socket, or ``host`` and ``port``."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"tcp:{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Of ``unix:/path`` or ``tcp:HOST:PORT``. Raises ``ValueError``."""
        if text.startswith("unix:/"):
            return cls(path=text.removeprefix("unix:"))
        if not text.startswith("tcp:"):
            raise ValueError(f"{text!r} is neither unix:/path nor tcp:HOST:PORT")
        host, port = host_and_port(text.removeprefix("tcp:"))
        return cls(host=host, port=port)


class QemuOptions(msgspec.Struct, frozen=True):
    """``vms``: one text a VM, ``NAME=unix:/path/of/socket`` or ``NAME=tcp:HOST:PORT``.

    ``sockets``: a directory in which each Unix socket ``NAME.qmp`` is a VM's. ``scratch_dir``: where old data goes that
    a guest overwrites during a backup, and where the sockets for the agents are. ``restore_dir``: where restored VMs
    are put. ``nbd``: ``HOST:PORT`` where QEMU serves the disks instead of a Unix socket, with TLS if ``nbd_tls_creds``
    names a ``tls-creds-x509`` object of its. ``fleecing``: how old data is copied. ``copy_timeout``: seconds after
    which a filter gives up the backup rather than let the guest wait. ``timeout``: seconds for an answer of the
    monitor.
    """

    vms: tuple[str, ...] = ()
    sockets: str = ""
    scratch_dir: str = "/var/lib/holdfast/qemu"
    restore_dir: str = ""
    nbd: str = ""
    nbd_tls_creds: str = ""
    fleecing: Fleecing = Fleecing.AUTO
    copy_timeout: Annotated[int, msgspec.Meta(ge=1, le=600)] = 10
    timeout: Annotated[int, msgspec.Meta(ge=1, le=600)] = 20

    def __post_init__(self) -> None:
        if not self.vms and not self.sockets:
            raise ValueError("name VMs in vms, or a directory of monitors in sockets")
        for name in ("sockets", "scratch_dir", "restore_dir"):
            value = Path(getattr(self, name) or "/")
            if not value.is_absolute() or ".." in value.parts or "\0" in str(value):
                raise ValueError(f"{name} must be an absolute path without '..'")
        names = [name for name, _ in map(_parse_vm, self.vms)]
        if len(set(names)) < len(names):
            raise ValueError("two entries of vms have the same name")
        if self.nbd:
            host_and_port(self.nbd)

    def monitors(self) -> dict[str, Address]:
        """Every VM's monitor by the VM's name. Looks into ``sockets``; raises ``OSError``."""
        found = {}
        if self.sockets:
            for path in sorted(Path(self.sockets).iterdir()):
                if path.suffix == ".qmp" and path.is_socket():
                    found[path.stem] = Address(path=str(path))
        return found | dict(map(_parse_vm, self.vms))


def host_and_port(text: str) -> tuple[str, int]:
    """The parts of ``HOST:PORT``, an IPv6 address without its brackets. Raises ``ValueError``."""
    match = _NBD.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return match["host"].strip("[]"), int(match["port"])


def _parse_vm(text: str) -> tuple[str, Address]:
    match = _VM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is neither NAME=unix:/path nor NAME=tcp:HOST:PORT")
    return match["name"], Address.parse(match["address"])
