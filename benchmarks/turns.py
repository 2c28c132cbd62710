"""One turn of each program with one disk: full, unchanged, a part changed, restored, verified."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

from changed import overwrite
from holdfast_runs import backup
from images import copy_sparse
from peer import NotOffered, Peer

from holdfast_agent.model.geometry import Extent
from lab.installation import Installation
from lab.storage_vms import StorageVm

MIB = 1 << 20
WHOLE, TRANSFER = "holdfast, whole command", "holdfast, step transfer"
TRACKED = "holdfast, changes tracked by QEMU"


@dataclass(frozen=True)
class Measured:
    """Seconds until all is durable; NaN is what is not offered. ``stored_mib``: after full and unchanged backup.

    ``full_sync_s``, ``restore_sync_s``: what of the full and the restore is the sync that the program left to others.
    """

    full_s: float
    unchanged_s: float
    changed_s: float
    restore_s: float
    verify_s: float
    stored_mib: float
    full_sync_s: float = 0.0
    restore_sync_s: float = 0.0


class Disk:
    """An image that is as it was at first, or changed in a part; always the same part."""

    def __init__(self, image: Path, part: float) -> None:
        self.image = image
        self._pieces = {name: image.with_name(f"{image.name}.{name}") for name in ("before", "after")}
        copy = image.with_name(f"{image.name}.copy")
        copy_sparse(image, copy)
        self.changed: Sequence[Extent] = overwrite(copy, part, seed=5)
        self._keep("before", image)
        self._keep("after", copy)
        copy.unlink()

    def change(self) -> None:
        self._put("after")

    def change_back(self) -> None:
        self._put("before")

    def _keep(self, name: str, source: Path) -> None:
        with source.open("rb") as disk, self._pieces[name].open("wb") as pieces:
            for extent in self.changed:
                disk.seek(extent.start)
                pieces.write(disk.read(extent.length))

    def _put(self, name: str) -> None:
        with self.image.open("r+b") as disk, self._pieces[name].open("rb") as pieces:
            for extent in self.changed:
                disk.seek(extent.start)
                disk.write(pieces.read(extent.length))


def holdfast_turn(house: Installation, disk: Disk) -> dict[str, Measured]:
    """With a repository of its own, so that the first run is a full; compared by digest, for nobody tells changes."""
    name = f"main{time.time_ns()}"
    house.add_repository(name, encrypted=True)
    house.add_job(name, repository=name, include="vm")
    full, unchanged = backup(house, name), backup(house, name)
    assert unchanged.mode == "digest", unchanged.report
    stored = stored_mib(house.store / name)
    disk.change()
    try:
        changed = backup(house, name)
    finally:
        disk.change_back()
    to = house.out / "restored.raw"
    newest = house.points("vm")[0]["sid"]
    forget(house.store / name)
    restore_s = timed(lambda: house.restore_disk("vm", newest, to))
    to.unlink()
    verify_s = timed(lambda: house.holdfast("repository", "verify", name, "--level", "2"))
    shutil.rmtree(house.store / name)
    return {
        WHOLE: Measured(full.wall_s, unchanged.wall_s, changed.wall_s, restore_s, verify_s, stored),
        TRANSFER: Measured(full.transfer_s, unchanged.transfer_s, changed.transfer_s, nan, nan, stored),
    }


def tracked_turn(house: Installation, vm: StorageVm, disk: Disk) -> dict[str, Measured]:
    """The same content on a qcow2 that QEMU has open, read over NBD, with QEMU's bitmap telling what changed."""
    name = f"tracked{time.time_ns()}"
    house.add_repository(name, encrypted=True)
    place = ("--server", "storage", "--include", "*", "--repository", name)
    house.holdfast("job", "create", name, *place)
    full, unchanged = backup(house, name), backup(house, name)
    stored = stored_mib(house.store / name)
    disk.change()
    _write_through_qemu(vm, disk)
    changed = backup(house, name)
    disk.change_back()
    _write_through_qemu(vm, disk)
    assert (unchanged.mode, changed.mode) == ("cbt", "cbt"), changed.report
    newest = changed.report["points"][0]["sid"]
    to = house.out / "restored.raw"
    forget(house.store / name)
    restore_s = timed(lambda: house.restore_disk("guest", newest, to))
    to.unlink()
    shutil.rmtree(house.store / name)
    return {TRACKED: Measured(full.wall_s, unchanged.wall_s, changed.wall_s, restore_s, nan, stored)}


def _write_through_qemu(vm: StorageVm, disk: Disk) -> None:
    folder = vm.folder / "pieces"
    folder.mkdir()
    orders = []
    with disk.image.open("rb") as image:
        for number, extent in enumerate(disk.changed):
            image.seek(extent.start)
            (folder / f"{number}").write_bytes(image.read(extent.length))
            orders.append(f"write -s {folder}/{number} {extent.start} {extent.length}")
    vm.write(*orders)
    shutil.rmtree(folder)


def peer_turn(peer: Peer, home: Path, disk: Disk) -> dict[str, Measured]:
    """Nothing, and why on standard error, where the program fails."""
    try:
        peer.make_repository(home)
        peer.show(home, disk.image)
        full_s, full_sync_s = durable(lambda: peer.run(home, disk.image), home / "repo")
        unchanged_s, _ = durable(lambda: peer.run(home, disk.image), home / "repo")
        stored = stored_mib(home / "repo")
        disk.change()
        try:
            peer.show(home, disk.image, disk.changed)
            changed_s, _ = durable(lambda: peer.run_told(home, disk.image, disk.changed), home / "repo")
        finally:
            disk.change_back()
        target = home / "restored"
        target.mkdir()
        forget(home / "repo")
        restore_s, restore_sync_s = durable(lambda: peer.restore_to(home, target), target)
        shutil.rmtree(target)
        verify_s = timed(lambda: peer.check(home))
    except RuntimeError as error:
        print(f"{peer.name} is left out: {error}", file=sys.stderr)
        return {}
    finally:
        peer.close(home)
        shutil.rmtree(home, ignore_errors=True)
    found = Measured(full_s, unchanged_s, changed_s, restore_s, verify_s, stored, full_sync_s, restore_sync_s)
    return {peer.name: found}


def timed(work: Callable[[], object]) -> float:
    """Seconds; NaN where there is nothing to do."""
    began = time.monotonic()
    try:
        work()
    except NotOffered:
        return nan
    return time.monotonic() - began


def durable(work: Callable[[], object], folder: Path) -> tuple[float, float]:
    """Seconds until what ``work`` wrote below ``folder`` is on the disk, and what of them came after its own end.

    Holdfast, restic and borg say that they are done when it is; others when the kernel has it.
    """
    taken_s = timed(work)
    began = time.monotonic()
    _each_file(folder, os.fsync)
    sync_s = time.monotonic() - began
    return taken_s + sync_s, sync_s


def forget(repository: Path) -> None:
    """Have it read from its disk, by everybody: a restore follows days after its backup, and whoever writes past the
    page cache, as we do, would else be the only one to do so."""

    def drop(fd: int) -> None:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    _each_file(repository, drop)


def _each_file(folder: Path, action: Callable[[int], None]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                action(file.fileno())


def stored_mib(directory: Path) -> float:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "space-reserve")
    return sum(path.stat().st_blocks * 512 for path in files) / MIB
