"""Removing a snapshot until nothing is left of it: neither itself, nor deltas that were not merged.

A server removes a snapshot's name first and merges afterwards; where that fails the VM goes on, on deltas that no
snapshot accounts for, until its datastore is full. So both are looked at, and merged again for as long as it takes: by
this session a few times, and then by whoever fulfils the obligation.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from holdfast_agent.errors import VmNotFound
from holdfast_plugins.api import VmRef

from .binding import VsphereRefused
from .connection import Connection
from .inventory import LATELY_S, Inventory
from .machine import GONE, MachineState, look, without_snapshot_task
from .promises import Promised
from .tasks import TOO_SLOW, finished

log = logging.getLogger(__name__)

_PAUSES_S = (0.5, 2.0, 8.0)
"""Before a removal or a merge that failed is tried again: locks of other hosts go within seconds."""
_NEVER = ("NoPermission", "MethodDisabled", "NotSupported", TOO_SLOW)


class Removal:
    """Thread-safe, but never for one VM at a time."""

    def __init__(self, connection: Connection, inventory: Inventory, task_timeout_s: float) -> None:
        self._connection = connection
        self._inventory = inventory
        self._task_timeout_s = task_timeout_s

    def end(self, promised: Promised, wait_s: float | None = None) -> None:
        """Remove what ``promised`` stands for, and consolidate. Idempotent; a VM that is gone took it with it.

        ``wait_s``: for a snapshot that is still being made; None for as long as a task may take. Raises
        :class:`VsphereRefused` when something is left, or ``HypervisorUnreachable``.
        """
        vm = VmRef(promised.vm, promised.vm_name)
        try:
            try:
                self._end(self._inventory.find(vm, LATELY_S), promised, wait_s)
            except VsphereRefused as error:
                if error.fault != GONE:
                    raise
                self._end(self._inventory.find(vm), promised, wait_s)  # else it is gone, or was registered anew
        except VmNotFound:
            log.warning("%s is not there any more, and nor is its snapshot %s", promised.vm_name, promised.name)

    def _end(self, machine: Any, promised: Promised, wait_s: float | None) -> None:
        self._remove(self._settled(machine, promised, wait_s), promised)
        self.consolidate(machine)

    def consolidate(self, machine: Any) -> None:
        """Merge deltas that no snapshot accounts for, if there are any. Raises :class:`VsphereRefused`."""
        for pause_s in (*_PAUSES_S, None):
            if not look(self._connection, machine).needs_consolidation:
                return
            try:
                self._do(lambda _: machine.ConsolidateVMDisks_Task())
            except VsphereRefused as error:
                if pause_s is None or error.fault in _NEVER:
                    raise
                log.info("%s: its disks could not be consolidated yet: %s", machine._GetMoId(), error)
            else:
                if pause_s is None:
                    break
            time.sleep(pause_s)
        if look(self._connection, machine).needs_consolidation:
            raise VsphereRefused("ConsolidationNeeded", "its disks still need to be consolidated")

    def _settled(self, machine: Any, promised: Promised, wait_s: float | None) -> MachineState:
        """The VM with the snapshot, or when none is being made: one that a dead session began must be waited for."""
        wait_s = self._task_timeout_s if wait_s is None else wait_s
        return without_snapshot_task(
            self._connection, machine, wait_s, lambda state: state.snapshot(promised.name) is not None
        )

    def _remove(self, state: MachineState, promised: Promised) -> None:
        for pause_s in (*_PAUSES_S, None):
            found = state.snapshot(promised.name)
            if found is None:
                return
            try:
                # removeChildren False: what others have made over it stays
                self._do(
                    lambda _, found=found: found.entity.RemoveSnapshot_Task(removeChildren=False, consolidate=True)
                )
            except VsphereRefused as error:
                if error.fault == GONE:
                    return
                if pause_s is None or error.fault in _NEVER:
                    raise
                log.info("snapshot %s of %s could not be removed yet: %s", promised.name, promised.vm_name, error)
                time.sleep(pause_s)
            state = look(self._connection, state.entity)

    def _do(self, deed: Any) -> None:
        finished(self._connection, self._connection.act(deed), self._task_timeout_s)
