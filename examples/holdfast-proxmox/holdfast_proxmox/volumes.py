"""A VM's disks as its configuration names them, and where a storage shows their snapshots."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import msgspec

from holdfast_agent.errors import DiskUnsupported
from holdfast_agent.model.disk_url import DiskScheme, DiskUrl
from holdfast_plugins.api import DiskInfo

from .cluster import Cluster, ListedVm

DISK_KEY = re.compile(r"(ide|sata|scsi|virtio)[0-9]{1,2}|efidisk0|tpmstate0")
VOLUME = re.compile(r"(?P<storage>[A-Za-z][A-Za-z0-9._-]{0,99}):(?P<volume>(?:[A-Za-z0-9._-]+/)*[A-Za-z0-9._-]+)")
_ADVICE = "Move the disk to a storage of the kind zfspool or lvmthin"


class VmDisk(msgspec.Struct, frozen=True):
    """A disk: its key in the configuration, and where its volume lies."""

    key: str
    storage: str
    volume: str
    kind: str
    path: str
    size_bytes: int

    @property
    def info(self) -> DiskInfo:
        return DiskInfo(self.key, self.key, self.size_bytes, datastore=self.storage)

    def frozen_url(self, snapshot: str) -> str:
        """Where an agent on the node reads the disk as a snapshot has it."""
        path = PurePosixPath(self.path)
        name = f"{path.name}@{snapshot}" if self.kind == "zfspool" else f"snap_{path.name}_{snapshot}"
        return device_url(str(path.with_name(name)))


def device_url(path: str) -> str:
    return str(DiskUrl(DiskScheme.BLOCK, path))


def drives(config: dict[str, str]) -> dict[str, str]:
    """The volumes of a configuration's disks by key, in a stable order; drives without one (a CD) are left out."""
    found = {}
    for key in sorted(config):
        volume, *options = config[key].split(",")
        if DISK_KEY.fullmatch(key) and volume != "none" and "media=cdrom" not in options:
            found[key] = volume
    return found


def disks_of(cluster: Cluster, vm: ListedVm, config: dict[str, str]) -> list[VmDisk]:
    """Raises ``DiskUnsupported`` for a disk on a storage whose snapshots cannot be read."""
    return [_disk(cluster, vm, key, volume) for key, volume in drives(config).items()]


def _disk(cluster: Cluster, vm: ListedVm, key: str, text: str) -> VmDisk:
    named = VOLUME.fullmatch(text)
    if named is None:
        raise DiskUnsupported(disk=f"{key} of {vm.name}", reason=f"{text} is no volume of a storage", advice=_ADVICE)
    storage, volume = named["storage"], named["volume"]
    kind = cluster.storage(storage).type
    if kind not in ("zfspool", "lvmthin"):
        reason = f"snapshots on the storage {storage} ({kind}) are no devices that could be read"
        raise DiskUnsupported(disk=f"{key} of {vm.name}", reason=reason, advice=_ADVICE)
    found = cluster.volume(vm.node, storage, volume)
    path = PurePosixPath(found.path)
    if not path.is_absolute() or ".." in path.parts:
        raise DiskUnsupported(disk=f"{key} of {vm.name}", reason=f"its path is {found.path!r}", advice=_ADVICE)
    return VmDisk(key, storage, volume, kind, found.path, found.size)
