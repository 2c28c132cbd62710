"""Making room for a restored VM, and making it known when its disks are written.

The disks are written into a hidden folder beside the VMs, which is renamed when all is there: a VM is either the old
one, or the whole new one, never something in between.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from pathlib import Path

from holdfast_agent.errors import AlreadyExists, DiskInUse, DiskNotFound, DiskShrunk, UsageError
from holdfast_agent.model.disk_url import file_url
from holdfast_plugins.api import DiskInfo, RestoreDisk, VmInfo

from ..image_locks import written_by_others
from .formats import recognise

_MAX_NAME_BYTES = 200
"""Of 255 that a file name may have, room is left for what is put around a VM's name while it is restored."""


def check_name(name: str) -> None:
    """Whether a folder can be called ``name``. Raises :class:`UsageError`."""
    if (
        not name
        or name.startswith(".")
        or "/" in name
        or not name.isprintable()
        or len(name.encode()) > _MAX_NAME_BYTES
    ):
        reason = f"{name!r} cannot be the name of a VM here: no '/', no '.' in front, at most {_MAX_NAME_BYTES} bytes"
        raise UsageError(reason=reason)


def check_free(entry: Path, overwrite: bool) -> None:
    """Whether a VM may be put at ``entry``. Raises :class:`AlreadyExists` or :class:`DiskInUse`."""
    if not entry.exists() and not entry.is_symlink():
        return
    images = images_in(entry)
    if not images:
        raise AlreadyExists(kind="file or folder that is not a VM", name=entry.name)
    if not overwrite:
        raise AlreadyExists(kind="VM", name=entry.name)
    for image in images:
        if written_by_others(image):
            raise DiskInUse(url=str(file_url(str(image))), reason="another process has it open for writing")


def images_in(entry: Path) -> list[Path]:
    """The image files of the VM at ``entry``; none when it is no VM."""
    if entry.is_symlink():
        return []
    paths = list(entry.iterdir()) if entry.is_dir() else [entry]
    return [path for path in paths if recognise(path) is not None]


def restore_disks(info: VmInfo, directory: Path) -> tuple[RestoreDisk, ...]:
    """Where each disk of ``info`` is to be written below ``directory``: always raw, whatever it was."""
    names = _file_names(info.disks)
    return tuple(
        RestoreDisk(disk.disk_id, name, disk.size_bytes, str(file_url(str(directory / name))))
        for disk, name in zip(info.disks, names, strict=True)
    )


def _file_names(disks: Iterable[DiskInfo]) -> list[str]:
    """A safe file name for each disk, all different; an image that was raw keeps its own."""
    taken: set[str] = set()
    names = []
    for disk in disks:
        safe = re.sub(r"[^\w.-]", "_", disk.disk_id).lstrip(".")[: _MAX_NAME_BYTES // 4] or "disk"
        stem, suffix = Path(safe).stem, Path(safe).suffix
        if suffix == ".qcow2":
            suffix = ".raw"
        elif suffix not in (".raw", ".img"):
            stem, suffix = safe, ".raw"
        name, number = f"{stem}{suffix}", 1
        while name in taken:
            name, number = f"{stem}-{number}{suffix}", number + 1
        taken.add(name)
        names.append(name)
    return names


def check_written(disks: Iterable[RestoreDisk], directory: Path) -> None:
    """Whether every disk lies in ``directory`` at full size. Raises :class:`DiskNotFound` or :class:`DiskShrunk`."""
    for disk in disks:
        path = directory / disk.name
        if not path.is_file():
            raise DiskNotFound(url=disk.url, host="the manager")
        found = path.stat().st_size
        if found != disk.size_bytes:
            raise DiskShrunk(url=disk.url, found_bytes=found, expected_bytes=disk.size_bytes)


def rename_into_place(directory: Path, entry: Path) -> None:
    """Give the finished VM its name. Raises :class:`AlreadyExists` rather than replace anything.

    rename(2) of a folder replaces nothing but an empty folder, so no further check is needed against a race.
    """
    try:
        directory.rename(entry)
    except (FileExistsError, NotADirectoryError) as error:
        raise AlreadyExists(kind="VM", name=entry.name) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise AlreadyExists(kind="VM", name=entry.name) from error
        raise


def retire(aside: Path, successor: Path) -> None:
    """Delete the images of the replaced VM at ``aside``; whatever else lay in its folder moves to ``successor``.

    Idempotent: it may be called again after a crash at any point.
    """
    if aside.is_file():
        aside.unlink()
        return
    if not aside.is_dir():
        return
    for path in sorted(aside.iterdir()):
        if recognise(path) is not None:
            path.unlink()
        else:
            path.rename(_unused(successor / path.name))
    aside.rmdir()


def _unused(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists() or candidate.is_symlink():
        candidate, number = path.with_name(f"{path.name}.old{number}"), number + 1
    return candidate
