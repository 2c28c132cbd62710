"""VMs that run from a restore point: a QEMU on disks that are served over NBD, until they are copied from under it.

Such a VM is a folder in ``restore_dir`` like a restored one, with a file ``start`` that always names the disks on which
the guest's last writes are. The file ``instant`` in it tells that disks are served still.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from holdfast_agent.errors import (
    AlreadyExists,
    Cancelled,
    HoldfastError,
    HypervisorUnreachable,
    SnapshotNotRemoved,
    UsageError,
    VmNotFound,
)
from holdfast_plugins.api import Journal, ServedDisk, Told, VmInfo, VmRef
from holdfast_plugins.hypervisors.images import restores as folders

from .firmware import write_firmware
from .inventory import Description, Disk, disks_of
from .launch import launch
from .mirrors import Mirrors, is_ours
from .monitor import CommandRefused, Monitor, QemuNotRunning, connected
from .options import Address, QemuOptions
from .restores import START, description_of, write_program
from .start_command import Renewed, Served, start_file

INSTANT = "qemu-instant"
"""Obligation to remove a VM that never came to run. ``data``: vm, and the socket of its disks."""
MIGRATION = "qemu-migration"
"""Obligation to end copies, and to delete files that no VM has come to use. ``data``: vm, token."""
_FACTS = "instant"
_LOOK_S = 0.5


class _Facts(msgspec.Struct, frozen=True):
    """The file ``instant``. ``description``: of the original; None for one of another hypervisor."""

    description: Description | None
    disks: dict[str, Served]


class Instants:
    """Of one server. Thread-safe for different VMs."""

    def __init__(self, options: QemuOptions) -> None:
        self._options = options

    def start(self, name: str, info: VmInfo, disks: Sequence[ServedDisk], journal: Journal) -> VmRef:
        """As ``RunsInstantly.start_instant``."""
        if not disks:
            raise UsageError(reason="a VM without disks cannot be started from a restore point")
        folders.check_name(name)
        folder = self._folder(name)
        folders.check_free(folder, False)
        if self._monitor(name).exists():
            raise AlreadyExists(kind="VM", name=name)
        data = {"vm": name, "socket": disks[0].socket}
        facts = _Facts(description_of(info), {disk.disk_id: Served(disk.socket, disk.export) for disk in disks})
        number = journal.promise(INSTANT, data)
        try:
            folder.mkdir(mode=0o700)
            (folder / _FACTS).write_bytes(msgspec.json.encode(facts))
            write_firmware(folder, facts.description.firmware if facts.description is not None else ())
            self._write_start(name, facts, facts.disks)
            launch(folder / START, lambda: self._answers(name))
        except BaseException as error:
            with suppress(HoldfastError, OSError):
                self._remove_unfinished(data)
                journal.strike(number)
            if isinstance(error, OSError):
                raise UsageError(reason=f"{folder}: {error.strerror or error}") from error
            raise
        journal.strike(number)
        return VmRef(name, name)

    def resume(self, vm: VmRef) -> None:
        """As ``RunsInstantly.resume_instant``."""
        try:
            with suppress(QemuNotRunning), self._connected(vm.name) as monitor:
                if monitor.run("query-status")["status"] == "io-error":
                    monitor.run("cont")
        except CommandRefused as error:
            raise HypervisorUnreachable(server=vm.name, reason=str(error)) from error

    def migrate(self, vm: VmRef, journal: Journal, told: Told) -> None:
        """As ``RunsInstantly.migrate_instant``."""
        facts = self._facts(vm.name)
        if facts is None:
            self._require(vm)
            return
        token = secrets.token_hex(8)
        mirrors = Mirrors(self._folder(vm.name), token)
        data = {"vm": vm.name, "token": token}
        number = journal.promise(MIGRATION, data)
        try:
            with self._asked(vm) as monitor:
                mirrors.begin(monitor, [disk for disk in disks_of(monitor) if _is_served(disk)])
            self._see_through(vm, mirrors, told)
            # A copy that is ready has every write before the disk itself has it: from now on it is as good.
            with self._asked(vm) as monitor:
                self._write_start(vm.name, facts, self._images(monitor, facts) | mirrors.files)
                mirrors.complete(monitor)
        except BaseException:
            with suppress(HoldfastError, CommandRefused, OSError):
                self._end_migration(data)
                journal.strike(number)
            raise
        (self._folder(vm.name) / _FACTS).unlink()
        journal.strike(number)

    def stop(self, vm: VmRef) -> None:
        """As ``RunsInstantly.stop_instant``."""
        if self._facts(vm.name) is None:
            with suppress(QemuNotRunning), self._connected(vm.name):
                raise UsageError(reason=f"the VM {vm.name} has disks of its own now")
            return
        self._remove(vm.name)

    def fulfil(self, kind: str, data: Mapping[str, str]) -> None:
        """Clear up what a dead session left, unless it has come into use."""
        try:
            folders.check_name(data.get("vm", ""))
            (self._remove_unfinished if kind == INSTANT else self._end_migration)(data)
        except (HoldfastError, CommandRefused, OSError) as error:
            reason = error.text if isinstance(error, HoldfastError) else str(error)
            raise SnapshotNotRemoved(snapshot=kind, vm=data.get("vm") or "a VM", reason=reason) from error

    def _see_through(self, vm: VmRef, mirrors: Mirrors, told: Told) -> None:
        """Until all copies follow their disks. Raises :class:`Cancelled`, and what broke a copy."""
        while True:
            with self._asked(vm) as monitor:
                done, whole, ready = mirrors.progress(monitor)
            if told(done, whole):
                raise Cancelled(reason="the migration was given up")
            if ready:
                return
            time.sleep(_LOOK_S)

    def _remove_unfinished(self, data: Mapping[str, str]) -> None:
        """A VM that was made and perhaps started, and that nobody was told of."""
        name = data["vm"]
        facts = self._facts(name)
        if facts is not None and data.get("socket") in {disk.socket for disk in facts.disks.values()}:
            self._remove(name)
        else:
            with suppress(OSError):
                self._folder(name).rmdir()  # it is empty, or not ours

    def _end_migration(self, data: Mapping[str, str]) -> None:
        """The VM goes on with what its disks are now; the start file tells of no copy that may be behind."""
        name, facts = data["vm"], self._facts(data["vm"])
        if facts is None:
            return  # it was seen through
        mirrors = Mirrors(self._folder(name), data.get("token", ""))
        try:
            with self._connected(name) as monitor:
                self._write_start(name, facts, self._images(monitor, facts))
                mirrors.cancel(monitor)
                images = self._images(monitor, facts)
                self._write_start(name, facts, images)
            in_use = {image for image in images.values() if isinstance(image, str)}
        except QemuNotRunning:
            text = (self._folder(name) / START).read_text()
            in_use = {path.name for path in mirrors.left() if path.name in text}
        for path in mirrors.left():
            if path.name not in in_use:
                path.unlink(missing_ok=True)

    def _remove(self, name: str) -> None:
        """End QEMU, if it runs, and remove all that is the VM's."""
        deadline = time.monotonic() + self._options.timeout
        with suppress(QemuNotRunning):
            while True:
                with self._connected(name) as monitor, suppress(HypervisorUnreachable):
                    monitor.run("quit")
                if time.monotonic() > deadline:
                    raise HypervisorUnreachable(server=name, reason="QEMU does not end")
                time.sleep(_LOOK_S / 10)
        self._monitor(name).unlink(missing_ok=True)
        shutil.rmtree(self._folder(name))

    def _write_start(self, name: str, facts: _Facts, images: Mapping[str, str | Served]) -> None:
        renewed = Renewed(name, images, fresh=True, monitor=str(self._monitor(name)))
        write_program(self._folder(name) / START, start_file(facts.description, renewed))

    def _images(self, monitor: Monitor, facts: _Facts) -> dict[str, str | Served]:
        """What the guest's disks are now, by their ids."""
        now: dict[str, str | Served] = dict(facts.disks)
        for disk in disks_of(monitor):
            if is_ours(disk):
                now[disk.disk_id] = Path(disk.image).name
        return now

    def _facts(self, name: str) -> _Facts | None:
        """None for a VM none of whose disks is served. Raises :class:`UsageError`."""
        try:
            return msgspec.json.decode((self._folder(name) / _FACTS).read_bytes(), type=_Facts)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise UsageError(reason=f"{self._folder(name) / _FACTS} cannot be read: {error}") from error

    def _require(self, vm: VmRef) -> None:
        if not self._monitor(vm.name).exists():
            raise VmNotFound(vm=vm.name, server=self._options.sockets)

    def _answers(self, name: str) -> bool:
        try:
            with self._connected(name):
                return True
        except QemuNotRunning:
            return False

    @contextlib.contextmanager
    def _asked(self, vm: VmRef) -> Iterator[Monitor]:
        """The monitor of a VM that must run."""
        try:
            with self._connected(vm.name) as monitor:
                yield monitor
        except QemuNotRunning as error:
            reason = f"the VM {vm.name} does not run; {self._folder(vm.name) / START} starts it"
            raise UsageError(reason=reason) from error

    def _connected(self, name: str) -> contextlib.AbstractContextManager[Monitor]:
        return connected(name, Address(path=str(self._monitor(name))), self._options.timeout)

    def _folder(self, name: str) -> Path:
        self._configured()
        return Path(self._options.restore_dir) / name

    def _monitor(self, name: str) -> Path:
        self._configured()
        return Path(self._options.sockets) / f"{name}.qmp"

    def _configured(self) -> None:
        if not self._options.restore_dir or not self._options.sockets:
            reason = (
                "VMs run from restore points where the server's options have restore_dir, where they are put, and "
                "sockets, where their monitors are"
            )
            raise UsageError(reason=reason)


def _is_served(disk: Disk) -> bool:
    return disk.image.startswith(("nbd:", "nbd+unix:"))
