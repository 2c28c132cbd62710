"""The guest processor `vmware-tools`: the owner's scripts and databases in Linux guests, by what a vCenter runs there.

It freezes no file system: the snapshot does that itself (`quiesce` in the job's snapshot options of `vsphere`), at
the same time. A watchdog in the guest lets databases go in time, whatever becomes of this host.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from holdfast_agent.errors import GuestProcessingFailed, PlatformError
from holdfast_plugins.api import ConsistencyLevel, FreezeHandle, GuestAccess, InGuest, Registry, VmInfo

from .deployment import Deployment, Held, after_thaw
from .frozen import FrozenGuests
from .options import GuestOptions


class VmwareToolsProcessor:
    """A ``GuestProcessor``. Thread-safe: guests have nothing in common."""

    def __init__(self, options: GuestOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._held = FrozenGuests()

    def freeze(self, vm: VmInfo, access: GuestAccess, deadline_s: float) -> FreezeHandle:
        return self._held.add(ToolsHold(access.programs(), vm.ref.name, self._options, deadline_s))

    def close(self) -> None:
        """Let go of what nobody let go."""
        self._held.thaw_all()


class ToolsHold:
    """A ``FreezeHandle``: made with the databases held, or not at all."""

    def __init__(self, guest: InGuest, vm: str, options: GuestOptions, deadline_s: float) -> None:
        self._vm = vm
        self._lock = threading.Lock()
        self._thawed = False
        self._deployment = Deployment(guest, vm, options)
        try:
            self._deployment.run_script("pre-freeze")
            held = self._deployment.hold(min(deadline_s, options.freeze_limit_s))
        except BaseException as first:
            try:
                after_thaw(self._deployment)
            except PlatformError as error:
                first.add_note(f"and afterwards: {error}")
            raise
        self.consistency = _consistency(held, options)
        self.shortfall = held.shortfall
        self.note = f"{' and '.join(held.held)} held by VMware Tools" if held.held else "scripts by VMware Tools"

    def thaw(self) -> None:
        with self._lock:
            if self._thawed:
                return
            self._thawed = True
            early = after_thaw(self._deployment)
        if early:
            raise GuestProcessingFailed(vm=self._vm, phase="freeze", reason=early)


def _consistency(held: Held, options: GuestOptions) -> ConsistencyLevel:
    """Applications are at rest or not; of file systems the snapshot speaks."""
    level = held.consistency(options)
    return level if level is ConsistencyLevel.APPLICATION else ConsistencyLevel.CRASH


def holdfast_register_guest_processors(registry: Registry) -> None:
    registry.guest_processor(
        "vmware-tools",
        VmwareToolsProcessor,
        summary="runs scripts and holds databases in Linux guests through VMware Tools",
        options_type=GuestOptions,
    )
