"""The hypervisor `images`: a directory of raw or qcow2 disk images is a host, each folder or file in it a VM.

For VMs that no management stack knows, for disk images on a NAS, for tests and demonstrations. The manager and the
agents must see the directory at the same path, because this driver makes snapshots of files with the manager's own
hands and the agents then open them by that path.
"""

from __future__ import annotations

from holdfast_plugins.api import Registry

from .driver import ImagesDriver
from .options import ImagesOptions, ImagesSnapshotOptions, SnapshotMethod

__all__ = ["ImagesDriver", "ImagesOptions", "ImagesSnapshotOptions", "SnapshotMethod", "holdfast_register_hypervisors"]


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "images",
        ImagesDriver,
        summary="a directory of raw or qcow2 disk images; each folder or file is a VM",
        options_type=ImagesOptions,
        snapshot_options_type=ImagesSnapshotOptions,
    )
