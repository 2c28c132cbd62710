"""From the stable ids that events carry to the names that people use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast_manager.catalog.values import EventEntry, TaskEntry


class Names:
    """Knows the VMs and disks of one session. Fed with what there is; what it does not know keeps its id."""

    def __init__(self) -> None:
        self._vms: dict[str, str] = {}
        self._disks: dict[tuple[str, str], str] = {}
        self._tasks: dict[int, tuple[str, str]] = {}

    def learn_tasks(self, tasks: Iterable[TaskEntry]) -> None:
        for task in tasks:
            self._vms[task.vm_id] = task.vm_name
            self._disks[task.vm_id, task.disk_id] = task.disk_name
            self._tasks[task.id] = (task.vm_id, task.disk_id)

    def learn_event(self, event: EventEntry) -> None:
        for vm in event.data.get("vms", ()):
            if isinstance(vm, Mapping):
                self._vms.setdefault(str(vm.get("vm")), str(vm.get("name")))

    def vm(self, vm_id: str) -> str:
        return self._vms.get(vm_id, vm_id)

    def task(self, vm_id: str, disk_id: str) -> str:
        """ "web/root.img"."""
        return f"{self.vm(vm_id)}/{self._disks.get((vm_id, disk_id), disk_id)}"

    def subject(self, event: EventEntry) -> str:
        """What the event is about: a task, a VM, or "" for the session itself."""
        task: Any = event.data.get("task")
        if isinstance(task, Mapping):
            return self.task(str(task.get("vm")), str(task.get("disk")))
        if "vm" in event.data:
            return self.vm(str(event.data["vm"]))
        if event.task in self._tasks:
            return self.task(*self._tasks[event.task])
        return ""
