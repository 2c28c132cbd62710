"""The VMs in a directory of images.

A VM's id is its name, and its name is that of its folder or file: nothing else in a plain directory is stable. A
renamed VM is therefore a new VM; its first backup reads the disks anew, but stores nothing that is stored already.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from holdfast_agent.errors import VmNotFound
from holdfast_plugins.api import DiskInfo, VmInfo, VmRef

from ..image_locks import written_by_others
from .formats import Image, ImageFormat, open_image, overlooked, recognise

CONFIG_VERSION = 1
_LONGEST_NAME = 255
"""Bytes; what Linux's file systems take."""
_NOBODYS = frozenset({"lost+found"})
"""Found at the top of ext file systems, and readable by root only."""


class FileConfig(msgspec.Struct, frozen=True):
    """One image of a VM as it was backed up."""

    name: str
    format: ImageFormat
    size_bytes: int


class VmConfig(msgspec.Struct, frozen=True):
    """What ``VmInfo.config`` holds, as JSON. ``single`` tells a lone file from a folder with images."""

    kind: str
    version: int
    name: str
    single: bool
    files: tuple[FileConfig, ...]


class Inventory:
    """Looks into ``directory`` afresh on every call. ``hidden`` is a directory to pass over (the snapshots)."""

    def __init__(self, directory: Path, hidden: Path) -> None:
        self._directory = directory
        self._hidden = hidden

    def vms(self) -> Iterator[VmRef]:
        """Every folder with an image in it and every lone image."""
        for entry in sorted(self._directory.iterdir()):
            if any(True for _ in self._files(entry)):
                yield VmRef(entry.name, entry.name)

    def images(self, vm: VmRef) -> list[Image]:
        """The images of ``vm`` by name. Raises :class:`VmNotFound` or ``DiskUnsupported``."""
        entry = self.entry(vm.vm_id)
        try:
            images = [open_image(path, image_format) for path, image_format in self._files(entry)]
        except FileNotFoundError:
            images = []  # renamed or removed while we looked
        if not images:
            raise VmNotFound(vm=vm.name, server=str(self._directory))
        return images

    def info(self, vm: VmRef) -> VmInfo:
        """The facts of ``vm`` now."""
        images = self.images(vm)
        files = tuple(FileConfig(image.name, image.format, image.size_bytes) for image in images)
        config = VmConfig("images", CONFIG_VERSION, vm.name, self.entry(vm.vm_id).is_file(), files)
        return VmInfo(
            ref=VmRef(vm.vm_id, vm.vm_id),
            disks=tuple(DiskInfo(image.name, image.name, image.size_bytes) for image in images),
            running=any(written_by_others(image.path) for image in images),
            config=msgspec.json.encode(config),
            left_out=tuple(self._overlooked(self.entry(vm.vm_id))),
        )

    def entry(self, name: str) -> Path:
        """The folder or file called ``name``. Raises :class:`VmNotFound` for what cannot be a name in the directory."""
        possible = name == Path(name).name and 0 < len(name.encode()) <= _LONGEST_NAME
        if not possible or name.startswith(".") or "\0" in name:
            raise VmNotFound(vm=name[:_LONGEST_NAME], server=str(self._directory))
        return self._directory / name

    def _overlooked(self, entry: Path) -> Iterator[str]:
        """What in the VM's folder may be a disk of it and is not taken for one."""
        for path in sorted(entry.iterdir()) if entry.is_dir() else ():
            reason = overlooked(path)
            if reason and path != self._hidden:
                yield f"{path.name} ({reason})"

    def _files(self, entry: Path) -> Iterator[tuple[Path, ImageFormat]]:
        if entry.name.startswith(".") or entry.name in _NOBODYS or entry.is_symlink() or entry == self._hidden:
            return
        for path in sorted(entry.iterdir()) if entry.is_dir() else [entry]:
            image_format = recognise(path)
            if image_format is not None:
                yield path, image_format
