"""Restored VMs: a folder each, with raw images and a file that starts QEMU on them.

Folders are made, replaced and cleared away as those of the hypervisor `images` are, by its own driver.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from holdfast_agent.errors import UsageError
from holdfast_plugins.api import Journal, RestoreTarget, VmInfo, VmRef
from holdfast_plugins.hypervisors.foreign_disks import VIRTIO
from holdfast_plugins.hypervisors.images import ImagesDriver, ImagesOptions

from .firmware import write_firmware
from .inventory import Description
from .start_command import Renewed, start_file

START = "start"


class Restores:
    """Below one directory. Thread-safe."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._folders = ImagesDriver(ImagesOptions(path=directory), {}) if directory else None

    def prepare(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        target = self._made().prepare_restore(name, info, overwrite, journal)
        return target if description_of(info) is not None else msgspec.structs.replace(target, notes=(VIRTIO,))

    def finish(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        """The start file first: a folder that has its name is whole."""
        folder = self._directory / target.target_id
        description = description_of(info)
        fresh = description is None or description.name != target.vm.name
        images = {disk.disk_id: disk.name for disk in target.disks}
        text = start_file(description, Renewed(target.vm.name, images, fresh))
        if folder.is_dir():
            write_firmware(folder, description.firmware if description is not None else ())
            write_program(folder / START, text)
        return self._made().finish_restore(target, info, journal)

    def abandon(self, target: RestoreTarget, journal: Journal) -> None:
        self._made().abandon_restore(target, journal)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        self._made().fulfil(kind, data)

    def _made(self) -> ImagesDriver:
        if self._folders is None:
            raise UsageError(reason="the server has no restore_dir: name a directory for restored VMs in its options")
        return self._folders


def description_of(info: VmInfo) -> Description | None:
    """What this plugin told of the VM at the backup; None for one of another hypervisor."""
    try:
        return msgspec.json.decode(info.config, type=Description)
    except msgspec.DecodeError:
        return None


def write_program(path: Path, text: str) -> None:
    """Whole or as it was. Only its owner may read it: a command line can hold secrets."""
    half = path.with_name(f".{path.name}")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o700), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
