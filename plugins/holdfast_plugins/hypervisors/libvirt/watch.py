"""Seeing to it that a guest never stands still for a backup.

Where a scratch file cannot grow any more, QEMU pauses the guest rather than let it lose what it overwrites. Then the
backup is given up: without its job the guest's write goes through, and nothing of the guest's is lost.
"""

from __future__ import annotations

import logging
import threading

from holdfast_agent.errors import HoldfastError
from holdfast_plugins.api import VmRef

from . import backup_job
from .binding import LibvirtRefused
from .connection import Connection

log = logging.getLogger(__name__)
_PAUSE_S = 1.0


class Watch:
    """Looks at a VM while the backup job of the snapshot ``name`` runs. A thread of its own; ends by :meth:`stop`."""

    def __init__(self, connection: Connection, vm: VmRef, name: str) -> None:
        self._connection, self._vm, self._name = connection, vm, name
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="libvirt-watch", daemon=True).start()

    def stop(self) -> None:
        """Idempotent; does not wait."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_PAUSE_S):
            try:
                domain = self._connection.domain(self._vm)
                if domain.paused_by_error():
                    log.warning("%s was paused by an I/O error during its backup, which is given up", self._vm.name)
                    backup_job.end(domain, self._name)
            except (HoldfastError, LibvirtRefused, ValueError) as error:  # it is looked at again in a moment
                log.info("%s cannot be looked at: %s", self._vm.name, error)
