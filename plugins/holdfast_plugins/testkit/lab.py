"""What a conformance suite must know about a hypervisor, from outside the driver under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from holdfast_plugins.api import HypervisorDriver, RestoreDisk, VmRef


class HypervisorLab(ABC):
    """One real hypervisor with one VM of at least two disks, made anew for each test. None of it may use the driver.

    The class attributes are tolerances: what a hypervisor (or this lab of it) cannot do is said here, and those tests
    are skipped.
    """

    freezes = True
    """A snapshot holds against writes that come after it."""
    takes_several_snapshots = True
    """A VM may have two snapshots at a time."""
    restores = True
    """VMs can be restored to this hypervisor."""
    plugin: ModuleType | None = None
    """The module that registers the driver; what it registers is compared with what the driver does."""
    secrets: tuple[str, ...] = ()
    """What must never be seen: the credentials in use, in plain text."""
    resizes = False
    """The lab can make a disk larger (:meth:`grow`)."""
    plugs_disks = False
    """The lab can give the VM another disk and take it away (:meth:`plug`, :meth:`unplug`)."""
    faults: tuple[str, ...] = ()
    """Names of what the lab can have go wrong on the hypervisor while :meth:`fault` is entered."""

    @property
    @abstractmethod
    def vm(self) -> VmRef:
        """The VM."""

    @abstractmethod
    def driver(self) -> HypervisorDriver:
        """A new driver for this hypervisor, not connected. The suite connects and closes it."""

    def unreachable(self) -> HypervisorDriver | None:
        """A new driver for a server that is not there; None if the lab has no such thing."""
        return None

    def snapshot_options(self) -> Any:
        """What ``SnapshotRequest.options`` holds."""
        return None

    @abstractmethod
    def write(self, disk_id: str, offset: int, data: bytes) -> None:
        """Write to a disk of the VM as its guest would; on return a later snapshot must contain it."""

    @abstractmethod
    def read(self, url: str) -> bytes:
        """All bytes of the disk at a disk URL, as an agent reads them. The suite's disks are small."""

    def write_restored(self, disk: RestoreDisk, data: bytes) -> None:
        """Write a restored disk as an agent would, ``disk.create`` told."""
        raise NotImplementedError("a lab that restores says how")

    def grow(self, disk_id: str, size_bytes: int) -> None:
        """Make a disk of the VM larger, as its administrator would."""
        raise NotImplementedError("a lab that resizes says how")

    def plug(self) -> str:
        """Give the VM one disk more; returns its id. It must not sort last, or the test tells little."""
        raise NotImplementedError("a lab that plugs disks says how")

    def unplug(self, disk_id: str) -> None:
        """Take away what :meth:`plug` gave."""
        raise NotImplementedError("a lab that plugs disks says how")

    def fault(self, name: str) -> AbstractContextManager[None]:
        """While entered, snapshots of the VM fail for the reason ``name``, one of :attr:`faults`."""
        raise NotImplementedError("a lab with faults says how")

    @abstractmethod
    def traces(self) -> Hashable:
        """All that exists on the hypervisor, in a form that compares equal when nothing was made or lost.

        Snapshots, files, exports, half-restored VMs; also things that are not Holdfast's. Leave out what a driver
        makes once and keeps for good, such as an empty directory for snapshots.
        """
