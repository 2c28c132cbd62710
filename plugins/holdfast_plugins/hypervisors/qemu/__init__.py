"""The hypervisor `qemu`: running QEMU processes, asked by their own monitors (QMP).

For VMs that are started by hand, by a script or by systemd, without a management stack. VMs of libvirt are libvirt's.
The manager runs on QEMU's host, or reaches its monitors and its scratch directory as if it did.
"""

from __future__ import annotations

from holdfast_plugins.api import ChangeTracker, HypervisorDriver, Registry

from .driver import QemuDriver
from .options import Fleecing, QemuOptions
from .tracking import BitmapTracker

__all__ = [
    "BitmapTracker",
    "Fleecing",
    "QemuDriver",
    "QemuOptions",
    "holdfast_register_change_trackers",
    "holdfast_register_hypervisors",
]


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "qemu",
        QemuDriver,
        summary="running QEMU processes, by their monitors (QMP)",
        options_type=QemuOptions,
    )


def holdfast_register_change_trackers(registry: Registry) -> None:
    registry.change_tracker("qemu-bitmaps", _tracker, summary="dirty bitmaps of QEMU", hypervisor="qemu")


def _tracker(driver: HypervisorDriver) -> ChangeTracker:
    if not isinstance(driver, QemuDriver):
        raise TypeError(f"this tracker is for the driver of `qemu`, not for {type(driver).__name__}")
    return BitmapTracker(driver)
