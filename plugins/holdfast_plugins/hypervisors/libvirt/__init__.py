"""The hypervisor `libvirt`: QEMU's virtual machines by libvirt's own backup jobs, checkpoints and snapshots.

The package libvirt-python is needed when a server is connected to, not before (`pip install 'holdfast[libvirt]'`).
"""

from __future__ import annotations

from holdfast_plugins.api import HypervisorDriver, Registry

from .driver import LibvirtDriver
from .options import Identity, LibvirtOptions, LibvirtSnapshotOptions, Method
from .tracker import CheckpointTracker

__all__ = [
    "CheckpointTracker",
    "Identity",
    "LibvirtDriver",
    "LibvirtOptions",
    "LibvirtSnapshotOptions",
    "Method",
    "holdfast_register_change_trackers",
    "holdfast_register_hypervisors",
]


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "libvirt",
        LibvirtDriver,
        summary="virtual machines of QEMU that libvirt manages, on this host or another",
        options_type=LibvirtOptions,
        snapshot_options_type=LibvirtSnapshotOptions,
    )


def _tracker(driver: HypervisorDriver) -> CheckpointTracker:
    if not isinstance(driver, LibvirtDriver):
        raise TypeError(f"a tracker for libvirt was given {type(driver).__name__}")
    return CheckpointTracker(driver)


def holdfast_register_change_trackers(registry: Registry) -> None:
    registry.change_tracker(
        "checkpoints", _tracker, summary="libvirt's checkpoints: dirty bitmaps in qcow2", hypervisor="libvirt"
    )
