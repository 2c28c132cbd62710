"""The options of a server of kind `libvirt` and of the jobs that back it up."""

from __future__ import annotations

import re
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec

from ..tracking_names import new_tracking_name

_LONGEST_SOCKET_BYTES = 107
"""Of a Unix socket's path (sun_path, unix(7)), its final zero left out."""
_PORTS = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?", re.ASCII)
_HOST = re.compile(r"[0-9A-Za-z._:-]{1,253}", re.ASCII)


class Method(StrEnum):
    """How running VMs are frozen.

    ``BACKUP``: by a backup job of QEMU, which copies what the guest overwrites to scratch files, and by checkpoints
    that track changes where disks are qcow2. ``SNAPSHOT``: by overlays that the guest writes to meanwhile, and which
    are brought down into the disks afterwards. ``AUTO``: a backup job; overlays where no disk can track changes and the
    hypervisor's files are this machine's.
    """

    AUTO = "auto"
    BACKUP = "backup"
    SNAPSHOT = "snapshot"


class Identity(StrEnum):
    """Which UUID, generation id and MAC addresses a restored VM gets.

    ``KEEP``: its own. ``NEW``: new ones. ``AUTO``: its own unless a VM on the server has its UUID.
    """

    AUTO = "auto"
    KEEP = "keep"
    NEW = "new"


class LibvirtOptions(msgspec.Struct, frozen=True):
    """``uri``: as `virsh -c` takes it. ``scratch_dir``: on the hypervisor's host; there are scratch files, overlays and
    the sockets of NBD. ``skip``: disks that are left out, as patterns VM/TARGET.

    ``nbd_host``: the address under which QEMU serves disks over TCP, on one of ``nbd_ports``, instead of by a Unix
    socket; with TLS unless ``nbd_tls`` is false (libvirt's own certificates: `backup_tls_x509_cert_dir`).
    ``restore_dir``: where restored disks are put; ``restore_format``: qcow2 or raw, where the hypervisor's files are
    this machine's, else always raw. ``timeout``: seconds for an answer of libvirt; ``commit_timeout``: for which an
    overlay may be brought down without any progress.
    """

    uri: str = "qemu:///system"
    scratch_dir: str = "/var/lib/holdfast-libvirt"
    skip: tuple[str, ...] = ()
    nbd_host: str = ""
    nbd_ports: str = "10809-10872"
    nbd_tls: bool = True
    restore_dir: str = "/var/lib/libvirt/images"
    restore_format: str = "qcow2"
    restore_identity: Identity = Identity.AUTO
    timeout: Annotated[int, msgspec.Meta(ge=5, le=600)] = 60
    commit_timeout: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 120

    def __post_init__(self) -> None:
        for name in ("scratch_dir", "restore_dir"):
            value = Path(getattr(self, name))
            if not value.is_absolute() or ".." in value.parts or "\0" in str(value):
                raise ValueError(f"{name} must be an absolute path without '..'")
        if len(str(self.scratch(f"{new_tracking_name('')}.sock")).encode()) > _LONGEST_SOCKET_BYTES:
            raise ValueError("scratch_dir is too long: sockets are made in it, whose paths have 107 bytes at most")
        if self.restore_format not in ("qcow2", "raw"):
            raise ValueError("restore_format must be qcow2 or raw")
        if self.nbd_host and not _HOST.fullmatch(self.nbd_host):
            raise ValueError("nbd_host must be a name or an address")
        self.ports()

    def scratch(self, name: str) -> Path:
        """A place in ``scratch_dir``."""
        return Path(self.scratch_dir) / name

    def ports(self) -> range:
        """Raises ``ValueError`` for what is no range of ports."""
        match = _PORTS.fullmatch(self.nbd_ports)
        first = int(match["first"]) if match else 0
        last = int(match["last"] or first) if match else 0
        if not 0 < first <= last < 65536:
            raise ValueError("nbd_ports must be a port, or FIRST-LAST")
        return range(first, last + 1)

    def skips(self, vm: str, target: str) -> bool:
        """Whether the disk ``target`` of the VM called ``vm`` is left out."""
        return any(fnmatchcase(f"{vm}/{target}", pattern) for pattern in self.skip)


class LibvirtSnapshotOptions(msgspec.Struct, frozen=True):
    """A job's choice of ``method``; None takes `auto`."""

    method: Method | None = None
