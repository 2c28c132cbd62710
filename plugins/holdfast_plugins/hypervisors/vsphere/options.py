"""The options of a server of kind `vsphere` and of the jobs that back it up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec

_HOST = re.compile(r"[0-9A-Za-z._:-]{1,253}", re.ASCII)
_PIN = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Quiesce(StrEnum):
    """Whether VMware Tools bring a guest's file systems to rest for its snapshot.

    ``NO``: not asked for. ``TRY``: where it fails the snapshot is taken without. ``REQUIRE``: where it fails there is
    no snapshot.
    """

    NO = "no"
    TRY = "try"
    REQUIRE = "require"


class Identity(StrEnum):
    """Which UUIDs and MAC addresses a restored VM gets.

    ``KEEP``: its own. ``NEW``: new ones. ``AUTO``: its own unless a VM on the server has its UUID.
    """

    AUTO = "auto"
    KEEP = "keep"
    NEW = "new"


class Transport(StrEnum):
    """A way to the bytes of a disk (docs/vsphere.md).

    ``HOTADD``: attached to the proxy's own VM. ``SAN``, ``NFS``: from the datastore, which the proxy has mounted.
    ``HTTPS``: from the server. ``NBD``: through VMware's development kit.
    """

    HOTADD = "hotadd"
    SAN = "san"
    NFS = "nfs"
    HTTPS = "https"
    NBD = "nbd"


class ProxyOptions(msgspec.Struct, frozen=True):
    """What is known of a proxy. ``vm``: the VM that it is, by name or id. ``mounts``: where it has datastores mounted,
    by their names. ``vddk``: whether it has VMware's development kit."""

    vm: str = ""
    mounts: dict[str, str] = {}
    vddk: bool = False

    def __post_init__(self) -> None:
        for datastore, path in self.mounts.items():
            if not Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(f"mounts must say an absolute path for {datastore}, without ..")


class VsphereOptions(msgspec.Struct, frozen=True):
    """``host``, ``port``: of a vCenter, or of an ESXi host by itself. ``certificate_sha256``: the fingerprint of its
    certificate, which is trusted then, and no other; without one authorities decide, those in ``ca_file`` where it is
    given.

    ``skip``: disks that are left out, as patterns VM/DISK ("db/scsi0:1"). ``enable_cbt``: switch changed-block tracking
    on where it is off and may be. ``min_free_gib``: what a datastore must have left for a snapshot to be begun, and
    half of it for one to go on. ``max_snapshots``: a VM with so many, whosever they are, gets no further one.
    ``max_snapshot_hours``: a snapshot of Holdfast that is older makes no point.

    ``restore_folder``, ``restore_pool``: paths ("/dc/vm/restored", "/dc/host/cluster/Resources"), and
    ``restore_datastore``: where restored VMs are put; without them where they were, or where the VM is that they
    replace. ``restore_networks``: for the name that a network had the one to connect to, "" for none.
    ``restore_power_on``: start what was restored. ``instant_host``: by name, the host that runs VMs from restore
    points; without it the first of the pool's. ``timeout``: seconds for an answer; ``task_timeout``: for which a
    task of the server may go on without progress.

    ``transports``: by which disks may be read, the best first. ``proxies``: what there is to know of proxies, by their
    names as agents.
    """

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 443
    certificate_sha256: str = ""
    ca_file: str = ""
    skip: tuple[str, ...] = ()
    enable_cbt: bool = True
    min_free_gib: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    max_snapshots: Annotated[int, msgspec.Meta(ge=1, le=32)] = 8
    max_snapshot_hours: Annotated[float, msgspec.Meta(gt=0)] = 72.0
    restore_folder: str = ""
    restore_pool: str = ""
    restore_datastore: str = ""
    restore_networks: Mapping[str, str] = {}
    restore_identity: Identity = Identity.AUTO
    restore_power_on: bool = False
    instant_host: str = ""
    timeout: Annotated[int, msgspec.Meta(ge=5, le=600)] = 60
    task_timeout: Annotated[int, msgspec.Meta(ge=5, le=86400)] = 1800
    transports: Annotated[tuple[Transport, ...], msgspec.Meta(min_length=1)] = tuple(Transport)
    proxies: dict[str, ProxyOptions] = {}

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ValueError("host must be a name or an address")
        if self.certificate_sha256 and not _PIN.fullmatch(self.pin):
            raise ValueError("certificate_sha256 must be 64 hex digits, with or without colons")
        if self.ca_file and not Path(self.ca_file).is_absolute():
            raise ValueError("ca_file must be an absolute path")

    @property
    def pin(self) -> str:
        """The fingerprint as it is compared: 64 lower-case hex digits, or nothing."""
        return self.certificate_sha256.replace(":", "").lower()

    @property
    def address(self) -> str:
        """``host:port``, without a port that is the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """As :attr:`DiskUrl.origin` has it."""
        return f"https://{self.address.lower()}"

    def skips(self, vm: str, disk_id: str) -> bool:
        """Whether a disk of the VM called ``vm`` is left out."""
        return any(fnmatchcase(f"{vm}/{disk_id}", pattern) for pattern in self.skip)


class VsphereSnapshotOptions(msgspec.Struct, frozen=True):
    """A job's choice."""

    quiesce: Quiesce = Quiesce.NO
