"""The driver: the protocol's methods, put together from inventory, snapshots and restores."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast_agent.errors import HypervisorUnreachable, SnapshotFailed, SnapshotNotRemoved
from holdfast_plugins.api import Journal, RestoreTarget, Snapshot, SnapshotRequest, VmInfo, VmRef

from ..image_locks import written_by_others
from ..rewriting import in_place, is_in_place, rewritten_image, runs
from . import confined, restores, snapshots
from .confined import Purpose
from .inventory import Inventory
from .options import ImagesOptions, ImagesSnapshotOptions, SnapshotMethod

log = logging.getLogger(__name__)

SNAPSHOT = "images-snapshot"
"""Obligation to delete a snapshot's folder. ``data``: root, name."""
BESIDE = "images-beside"
"""Obligation to settle a hidden folder beside the VMs (see :class:`Purpose`). ``data``: root, name."""


class ImagesDriver:
    """A ``HypervisorDriver`` for one directory of images. Thread-safe; keeps nothing open between calls."""

    def __init__(self, options: ImagesOptions, secret: Mapping[str, str]) -> None:
        self._options = options
        self._root = options.directory
        self._snapshots = options.snapshots
        self._inventory = Inventory(self._root, self._snapshots)
        self._promises: dict[str, int] = {}
        self._in_place: dict[str, dict[Path, snapshots.Stamp]] = {}
        self._lock = threading.Lock()

    def connect(self) -> None:
        """Raises ``HypervisorUnreachable`` when the directory is not there (yet): an unmounted share, for instance."""
        with self._reachable():
            os.scandir(self._root).close()

    def close(self) -> None:
        """Nothing is held."""

    def list_vms(self) -> Sequence[VmRef]:
        with self._reachable():
            return list(self._inventory.vms())

    def vm_info(self, vm: VmRef) -> VmInfo:
        with self._reachable():
            return self._inventory.info(vm)

    def create_snapshot(self, request: SnapshotRequest, journal: Journal) -> Snapshot:
        with self._reachable():
            images = {image.name: image for image in self._inventory.images(request.vm)}
        missing = sorted(set(request.disk_ids) - set(images))
        if missing:
            raise SnapshotFailed(vm=request.vm.name, reason=f"it has no disk {', '.join(missing)} any more")
        wanted = [images[disk_id] for disk_id in request.disk_ids]
        method = self._method(request)
        if method is SnapshotMethod.IN_PLACE:
            self._in_place[request.vm.vm_id] = snapshots.stamps_of(request.vm, wanted)
            return snapshots.in_place(request.vm, wanted)
        try:
            confined.make_snapshot_root(self._snapshots, like=self._root)
        except OSError as error:
            raise SnapshotFailed(vm=request.vm.name, reason=str(error)) from error
        name = confined.new_snapshot_name()
        self._promise(journal, SNAPSHOT, self._snapshots, name)
        try:
            return snapshots.freeze(request.vm, wanted, method, self._snapshots / name)
        except BaseException:
            self._undo(journal, self._snapshots / name)
            raise

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """Clones and copies are files that nobody writes to. What is read in place may have been written to."""
        if snapshot.snapshot_id != snapshots.IN_PLACE_ID:
            return
        with self._reachable():
            images = self._inventory.images(snapshot.vm)
        now, before = snapshots.stamps_of(snapshot.vm, images), self._in_place[snapshot.vm.vm_id]
        changed = ", ".join(path.name for path, stamp in before.items() if now.get(path) != stamp)
        if changed:
            reason = (
                f"{changed} was written to while it was read in place; stop the VM, or choose another snapshot method"
            )
            raise SnapshotFailed(vm=snapshot.vm.name, reason=reason)

    def remove_snapshot(self, snapshot: Snapshot, committed: bool, journal: Journal) -> None:
        if snapshot.snapshot_id == snapshots.IN_PLACE_ID:
            return
        self._remove_snapshot(snapshot.snapshot_id, snapshot.vm.name)
        self._strike(journal, snapshot.snapshot_id)

    def fulfil(self, kind: str, data: dict[str, str]) -> None:
        root, name = data.get("root", ""), data.get("name", "")
        if kind == SNAPSHOT:
            self._expect_root(root, self._snapshots, name)
            self._remove_snapshot(name, "a VM")
        elif kind == BESIDE:
            self._expect_root(root, self._root, name)
            self.connect()
            self._settle(name)
        else:
            raise SnapshotNotRemoved(snapshot=name, vm="a VM", reason=f"{kind!r} is not an obligation of this plugin")

    def prepare_restore(self, name: str, info: VmInfo, overwrite: bool, journal: Journal) -> RestoreTarget:
        restores.check_name(name)
        with self._reachable():
            restores.check_free(self._root / name, overwrite)
            target_id = confined.new_name_beside(name, Purpose.REPLACING if overwrite else Purpose.RESTORING)
            self._promise(journal, BESIDE, self._root, target_id)
            directory = self._root / target_id
            try:
                confined.make_directory(directory, like=self._root)
                return RestoreTarget(target_id, VmRef(name, name), restores.restore_disks(info, directory))
            except BaseException:
                self._undo(journal, directory)
                raise

    def prepare_rollback(self, name: str, info: VmInfo, since: Mapping[str, str], journal: Journal) -> RestoreTarget:
        """As ``RollsBack`` has it. There are no bitmaps: all that is allocated is compared."""
        vm, wanted = VmRef(name, name), {disk.disk_id for disk in info.disks}
        with self._reachable():
            images = [image for image in self._inventory.images(vm) if image.name in wanted]
            if any(written_by_others(image.path) for image in images):
                raise runs(name, "now")
        found = [(image.name, image.size_bytes, str(image.path), image.format.value) for image in images]
        return in_place(vm, tuple(rewritten_image(*each) for each in found))

    def finish_restore(self, target: RestoreTarget, info: VmInfo, journal: Journal) -> VmRef:
        """Also raises ``AlreadyExists``: a VM of that name came into being since ``prepare_restore``."""
        if is_in_place(target):
            return target.vm
        vm, purpose = self._beside(target.target_id)
        directory, entry = self._root / target.target_id, self._root / vm
        with self._reachable():
            restores.check_written(target.disks, directory)
            restores.check_free(entry, overwrite=purpose is Purpose.REPLACING)
            if entry.exists():
                self._replace(entry, directory, journal)
            else:
                restores.rename_into_place(directory, entry)
        self._strike(journal, target.target_id)
        return VmRef(vm, vm)

    def abandon_restore(self, target: RestoreTarget, journal: Journal) -> None:
        """Of a rollback nothing is to be removed, and nothing can be taken back."""
        if is_in_place(target):
            return
        self._beside(target.target_id)
        self._settle(target.target_id)
        self._strike(journal, target.target_id)

    def _replace(self, entry: Path, directory: Path, journal: Journal) -> None:
        """Put ``directory`` in the place of the VM at ``entry``; on an error the old VM is back where it was."""
        aside = self._root / confined.new_name_beside(entry.name, Purpose.REPLACED)
        self._promise(journal, BESIDE, self._root, aside.name)
        entry.rename(aside)
        try:
            restores.rename_into_place(directory, entry)
        finally:
            self._settle_or_leave(aside.name, journal)

    def _settle_or_leave(self, name: str, journal: Journal) -> None:
        """Settle where a failure must neither hide an error nor spoil a success: it then stays in the journal."""
        try:
            self._settle(name)
        except SnapshotNotRemoved as error:
            log.warning("%s", error)
            return
        self._strike(journal, name)

    def _settle(self, name: str) -> None:
        """Bring a hidden folder beside the VMs to its end. Idempotent."""
        vm, purpose = self._beside(name)
        folder, entry = self._root / name, self._root / vm
        try:
            if purpose is not Purpose.REPLACED:
                confined.delete_tree(folder)
            elif entry.exists():
                restores.retire(folder, successor=entry)
            elif folder.exists():
                folder.rename(entry)
        except OSError as error:
            raise SnapshotNotRemoved(snapshot=name, vm=vm, reason=str(error)) from error

    def _remove_snapshot(self, name: str, vm: str) -> None:
        if not confined.is_snapshot_name(name):
            raise SnapshotNotRemoved(snapshot=name, vm=vm, reason="this is not a name that the plugin gives")
        if not confined.has_marker(self._snapshots):
            reason = f"{self._snapshots} is not (or no longer) the directory of snapshots; is its storage mounted?"
            raise SnapshotNotRemoved(snapshot=name, vm=vm, reason=reason)
        try:
            confined.delete_tree(self._snapshots / name)
        except OSError as error:
            raise SnapshotNotRemoved(snapshot=name, vm=vm, reason=str(error)) from error

    @staticmethod
    def _beside(name: str) -> tuple[str, Purpose]:
        parsed = confined.parse_name_beside(name)
        if parsed is None:
            raise SnapshotNotRemoved(snapshot=name, vm="a VM", reason="this is not a name that the plugin gives")
        return parsed

    @staticmethod
    def _expect_root(root: str, expected: Path, name: str) -> None:
        if root != str(expected):
            reason = f"it was made in {root}, and the server's options now say {expected}; delete it there by hand"
            raise SnapshotNotRemoved(snapshot=name, vm="a VM", reason=reason)

    def _method(self, request: SnapshotRequest) -> SnapshotMethod:
        options = request.options
        chosen = options.method if isinstance(options, ImagesSnapshotOptions) else None
        return chosen or self._options.snapshot

    def _promise(self, journal: Journal, kind: str, root: Path, name: str) -> None:
        number = journal.promise(kind, {"root": str(root), "name": name})
        with self._lock:
            self._promises[name] = number

    def _strike(self, journal: Journal, name: str) -> None:
        """Without a number (another process promised) the obligation stays; to fulfil it again does no harm."""
        with self._lock:
            number = self._promises.pop(name, None)
        if number is not None:
            journal.strike(number)

    def _undo(self, journal: Journal, directory: Path) -> None:
        """Clean up after a failure without hiding it: what cannot be deleted now stays promised."""
        try:
            confined.delete_tree(directory)
        except OSError:
            log.warning("%s could not be deleted; it stays in the journal", directory, exc_info=True)
            return
        self._strike(journal, directory.name)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = f"{error.filename}: " if error.filename not in (None, str(self._root)) else ""
            raise HypervisorUnreachable(server=str(self._root), reason=f"{place}{error.strerror or error}") from error
