"""The hypervisor `vsphere`: virtual machines of a VMware vCenter, or of an ESXi host by itself.

The package pyvmomi is needed when a server is connected to, not before (`pip install 'holdfast[vsphere]'`).
"""

from __future__ import annotations

from holdfast_plugins.api import HypervisorDriver, Registry

from .driver import VsphereDriver
from .options import Identity, ProxyOptions, Quiesce, Transport, VsphereOptions, VsphereSnapshotOptions
from .tracker import CbtTracker

__all__ = [
    "CbtTracker",
    "Identity",
    "ProxyOptions",
    "Quiesce",
    "Transport",
    "VsphereDriver",
    "VsphereOptions",
    "VsphereSnapshotOptions",
    "holdfast_register_change_trackers",
    "holdfast_register_hypervisors",
]


def holdfast_register_hypervisors(registry: Registry) -> None:
    registry.hypervisor(
        "vsphere",
        VsphereDriver,
        summary="virtual machines of a VMware vCenter, or of an ESXi host",
        options_type=VsphereOptions,
        snapshot_options_type=VsphereSnapshotOptions,
    )


def _tracker(driver: HypervisorDriver) -> CbtTracker:
    if not isinstance(driver, VsphereDriver):
        raise TypeError(f"a tracker for vsphere was given {type(driver).__name__}")
    return CbtTracker(driver)


def holdfast_register_change_trackers(registry: Registry) -> None:
    registry.change_tracker("cbt", _tracker, summary="changed-block tracking of ESXi", hypervisor="vsphere")
