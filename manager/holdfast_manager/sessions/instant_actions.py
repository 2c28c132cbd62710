"""What each step of an instant recovery does: a kept, writable export, and a VM that runs from it.

The VM is started once, when its disks are first served. From then on the session does no more than an export's: what
becomes of the VM is for its owner, and for :mod:`.settling`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

from holdfast_agent.errors import HoldfastError, UsageError
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.messages import DiscardExport, Done
from holdfast_manager.host.driver_guard import mounts_instantly, runs_instantly
from holdfast_plugins.api import HypervisorDriver, Journal, MountsInstantly, RunsInstantly, ServedDisk, VmInfo, VmRef

from .events import Event
from .export_actions import ExportActions
from .hypervisor_side import Destination
from .instructions import BeginTransfer, Instruction
from .requests import InstantRequest
from .tasks import Context

log = logging.getLogger(__name__)
_LOOK_S = 2.0


class InstantActions(ExportActions):
    """Carries out the instructions of :class:`~.restore_machine.RestoreMachine` for an instant recovery."""

    def __init__(
        self, context: Context, request: InstantRequest, keys: RepositoryKeys, destination: Destination
    ) -> None:
        """Raises :class:`UsageError` for a server whose VMs cannot run so."""
        super().__init__(context, request, keys)
        self._wanted = request
        self._driver = running_instantly(destination.driver, request.server)
        self._mounting: MountsInstantly | None = None
        if mounts_instantly(destination.driver) and isinstance(self._driver, MountsInstantly):
            self._mounting = self._driver
        if self._mounting is not None and request.listen:
            raise UsageError(reason=f"hosts of {request.server} mount the disks over NFS: leave out --listen")
        self._hypervisor: HypervisorDriver = destination.driver
        self._journal: Journal = destination.journal
        self._vm: VmRef | None = None

    def perform(self, instruction: Instruction) -> Event | None:
        if isinstance(instruction, BeginTransfer) and self._vm is None:
            self._vm = self._start_vm()
            Thread(target=self._look_after, args=(self._vm,), name="look after the VM", daemon=True).start()
        return super().perform(instruction)

    def _look_after(self, vm: VmRef) -> None:
        """For as long as this process lives: a guest that was paused while its disks were away goes on with them."""
        while True:
            time.sleep(_LOOK_S)
            try:
                self._driver.resume_instant(vm)
            except HoldfastError as error:
                log.warning("the VM %s could not be looked after: %s", vm.name, error)

    def _abandon(self) -> Event:
        """Where no VM ever ran there is nothing to keep, though its disks were served."""
        if self._vm is None and not self._wanted.resumed:
            self._uris = ()
            self._context.pool.ask(self._wanted.proxy, DiscardExport(export=self._wanted.export), Done)
        return super()._abandon()

    def _start_vm(self) -> VmRef:
        """Unless it is there and only waits for its disks."""
        name, server = self._wanted.name, self._wanted.server
        waiting = vm_named(self._hypervisor, name) if self._wanted.resumed else None
        if waiting is not None:
            self._context.recorder.note(f"the VM {name} on {server} goes on with its disks")
            return waiting
        vm = self._driver.start_instant(name, self._info(), self._served(), self._journal)
        self._context.recorder.note(f"the VM {vm.name} runs on {server} from the restore point")
        return vm

    def _info(self) -> VmInfo:
        """Of the VM, with the disks that are served."""
        assert self._point is not None  # noqa: S101 - read when the target was prepared
        return self._reader.vm_info(self._point, self._disks)

    def _way(self) -> tuple[str, tuple[str, ...]]:
        if self._mounting is None:
            return super()._way()
        return "nfs", tuple(self._mounting.instant_clients(self._wanted.name, self._info()))

    def _served(self) -> Sequence[ServedDisk]:
        served = []
        for disk, uri in zip(self._disks, self._uris, strict=True):
            if self._mounting is not None:
                served.append(ServedDisk(disk.disk_id, disk.name, disk.size_bytes, "", "", uri))
                continue
            parts = urlsplit(uri)
            socket = parse_qs(parts.query).get("socket", [""])[0]
            if not socket:
                raise UsageError(reason="a VM takes its disks from a Unix socket on its own host")
            export = unquote(parts.path.removeprefix("/"))
            served.append(ServedDisk(disk.disk_id, disk.name, disk.size_bytes, socket, export))
        return served


def running_instantly(driver: HypervisorDriver, server: str) -> RunsInstantly:
    """The driver as one that can do that. Raises :class:`UsageError`."""
    if not runs_instantly(driver) or not isinstance(driver, RunsInstantly):
        reason = (
            f"VMs of {server} cannot run from a restore point: that takes a server of kind libvirt, qemu or vsphere. "
            "`holdfast restore vm` restores them"
        )
        raise UsageError(reason=reason)
    return driver


def vm_named(driver: HypervisorDriver, name: str) -> VmRef | None:
    return next((vm for vm in driver.list_vms() if vm.name == name), None)
