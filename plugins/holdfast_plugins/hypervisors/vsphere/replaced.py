"""A VM that a restored one takes the place of: renamed, and destroyed when the other stands."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from holdfast_agent.errors import HoldfastError, HypervisorUnreachable, SnapshotNotRemoved
from holdfast_plugins.api import Journal, VmRef

from .binding import VsphereRefused
from .connection import Connection
from .inventory import Inventory
from .properties import properties_of
from .tasks import finished

log = logging.getLogger(__name__)

REPLACED = "vsphere-replaced"
"""Obligation to destroy a VM that was replaced, or to give it its name back. ``data``: see :class:`Aside`."""
_MOST_NAME = 80
_ASIDE = re.compile(r".{1,55}\.replaced-[0-9a-f]{16}", re.DOTALL)


class Aside(msgspec.Struct, frozen=True):
    """``moid``: of the old VM, ``instance``: its instance UUID, ``name``: its own, ``aside``: the one in between.

    ``vmx``: where the new VM lies, by which it is told whether it stands.
    """

    moid: str
    instance: str
    name: str
    aside: str
    vmx: str


class Old(msgspec.Struct, frozen=True):
    """An old VM that was set aside. ``number``: of its obligation."""

    promised: Aside
    number: int


class Replaced:
    """Thread-safe."""

    def __init__(self, connection: Connection, inventory: Inventory, task_timeout_s: float) -> None:
        self._connection = connection
        self._inventory = inventory
        self._task_timeout_s = task_timeout_s

    @contextmanager
    def aside(self, vm: VmRef | None, token: str, vmx: str, journal: Journal) -> Iterator[Old | None]:
        """The old VM has another name meanwhile; on an error it gets its own back. ``vm`` None: there is none."""
        if vm is None:
            yield None
            return
        machine = self._inventory.find(vm)
        name = f"{vm.name[: _MOST_NAME - 26]}.replaced-{token}"
        promised = Aside(machine._GetMoId(), vm.vm_id.partition("@")[0], vm.name, name, vmx)
        old = Old(promised, journal.promise(REPLACED, msgspec.structs.asdict(promised)))
        try:
            self._run(lambda _: machine.Rename_Task(name))
            yield old
        except BaseException:
            self._back(old, journal)
            raise

    def retire(self, old: Old, machine: Any, journal: Journal) -> None:
        """The new VM stands: destroy the old one, and hand its instance UUID on. What fails is tried again later."""
        try:
            self._destroy(old.promised)
            self._hand_on(old.promised, machine)
        except (VsphereRefused, HypervisorUnreachable) as error:
            log.warning("%s, which was replaced, could not be destroyed yet: %s", old.promised.aside, error)
        else:
            journal.strike(old.number)

    def fulfil(self, data: Mapping[str, str]) -> None:
        """Raises :class:`SnapshotNotRemoved`."""
        try:
            promised = msgspec.convert(dict(data), Aside)
        except msgspec.ValidationError:
            promised = None
        if promised is None or not _ASIDE.fullmatch(promised.aside):
            raise SnapshotNotRemoved(snapshot=data.get("aside", "?"), vm="a VM", reason="it is not of this plugin")
        try:
            stands = self._inventory.homes().get(promised.vmx)
            if stands is None:
                self._rename_back(promised)
            else:
                self._destroy(promised)
                self._hand_on(promised, self._connection.object("VirtualMachine", stands))
        except (VsphereRefused, HypervisorUnreachable) as error:
            raise SnapshotNotRemoved(snapshot=promised.aside, vm=promised.name, reason=str(error)) from error

    def _back(self, old: Old, journal: Journal) -> None:
        """After an error, which must not be hidden: what cannot be undone now stays in the journal."""
        try:
            self._rename_back(old.promised)
        except (VsphereRefused, HoldfastError) as error:
            log.warning("%s keeps that name for now: %s", old.promised.aside, error)
        else:
            journal.strike(old.number)

    def _rename_back(self, promised: Aside) -> None:
        if self._is_aside(promised):
            machine = self._connection.object("VirtualMachine", promised.moid)
            self._run(lambda _: machine.Rename_Task(promised.name))

    def _destroy(self, promised: Aside) -> None:
        if self._is_aside(promised):
            machine = self._connection.object("VirtualMachine", promised.moid)
            self._run(lambda _: machine.Destroy_Task())

    def _is_aside(self, promised: Aside) -> bool:
        """Whether the object is the VM that was set aside, by the name that nobody else gives."""
        entity = self._inventory.entities().get(promised.moid)
        return entity is not None and entity.text("name") == promised.aside

    def _hand_on(self, promised: Aside, machine: Any) -> None:
        told = properties_of(self._connection, machine, ("config.instanceUuid",))
        if promised.instance and str(told.get("config.instanceUuid")) != promised.instance:
            spec = self._connection.vim.vm.ConfigSpec(instanceUuid=promised.instance)
            self._run(lambda _: machine.ReconfigVM_Task(spec))

    def _run(self, deed: Any) -> Any:
        return finished(self._connection, self._connection.act(deed), self._task_timeout_s)
