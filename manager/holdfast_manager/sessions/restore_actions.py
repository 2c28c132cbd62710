"""What each step of a restore does. The order is the machine's business (:mod:`restore_machine`)."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

import msgspec

from holdfast_agent.errors import HoldfastError, NotFound, UsageError
from holdfast_agent.model.disk_url import image_url
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_plugins.api import RestoreTarget, RollsBack, VmInfo, WritesByTransports

from .events import Event, TargetAbandoned, TargetFinished, TargetPrepared, TaskKey
from .hypervisor_side import Destination
from .instructions import AbandonTarget, Instruction
from .point_reader import PointReader, wanted_disks
from .requests import RestoreRequest
from .restore_tasks import Placed, RestoreTasks
from .target_actions import TargetActions
from .tasks import Context


class RestoreActions(TargetActions):
    def __init__(
        self, context: Context, request: RestoreRequest, keys: RepositoryKeys, destination: Destination | None
    ) -> None:
        self._context = context
        self._request = request
        self._reader = PointReader(context, context.repository, keys)
        self._destination = destination
        self._disk_tasks = RestoreTasks(context, keys, request.proxy, self._way)
        self._target: RestoreTarget | None = None
        self._info: VmInfo | None = None
        self._whole = False
        super().__init__(self._disk_tasks)
        self.tasks = self._disk_tasks.work

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        if isinstance(instruction, AbandonTarget):
            self._context.recorder.note(f"what the restore had made could not be removed: {error}", "warning")
            return TargetAbandoned()
        return super().failed(instruction, error)

    def prepare(self) -> Event:
        point = self._reader.point(self._request.sid)
        wanted = wanted_disks(point, self._request.disks)
        self._whole = len(wanted) == len(point.disks)
        if self._destination is None:
            note, placed = self._files(wanted)
        else:
            note, placed = self._vm(point, wanted, self._destination)
        keys = [self._disk_tasks.add(TaskKey(point.vm_id, each.disk.disk_id), point.vm_name, each) for each in placed]
        return TargetPrepared(note=note, tasks=tuple(keys))

    def _files(self, disks: list[DiskPoint]) -> tuple[str, list[Placed]]:
        request = self._request
        if request.in_place:
            found = [(disk, request.places[disk.disk_id]) for disk in disks]
            note = f"in place: {', '.join(url for _, url in found)}"
            return note, [Placed(disk, url, create=False, differing=True) for disk, url in found]
        directory = PurePosixPath(request.directory)
        if not directory.is_absolute():
            raise UsageError(reason=f"{request.directory!r} is not an absolute directory on the proxy")
        names = {
            disk.disk_id: request.files.get(disk.disk_id) or _image_name(disk, request.image_format) for disk in disks
        }
        if len(set(names.values())) < len(names):
            raise UsageError(reason="two disks would be written to the same file; name the files apart")
        placed = [
            Placed(
                disk,
                str(image_url(str(directory / names[disk.disk_id]), request.image_format)),
                overwrite=request.overwrite,
            )
            for disk in disks
        ]
        return f"files in {directory}", placed

    def _vm(self, point: Point, disks: list[DiskPoint], destination: Destination) -> tuple[str, list[Placed]]:
        info = self._reader.vm_info(point, disks)
        name, in_place = self._request.name or point.vm_name, self._request.in_place
        target = self._prepared(name, info, disks, destination)
        self._target, self._info = target, info
        for note in target.notes:
            self._context.recorder.note(f"{name}: {note}")
        places = {each.disk_id: each for each in target.disks}
        placed = []
        for disk in disks:
            place = places.get(disk.disk_id)
            if place is None:
                raise NotFound(kind="place for the disk", name=disk.name, advice=_NO_PLACE[in_place])
            if in_place and place.size_bytes != disk.size_bytes:
                sizes = f"{disk.name} has {place.size_bytes} bytes now, and had {disk.size_bytes} in the point"
                raise UsageError(reason=f"{sizes}; resize it, or restore with --overwrite")
            placed.append(
                Placed(
                    disk, place.url, place.create, access=place.access, differing=in_place, changed=place.changed,
                    writers=place.writers,
                )
            )  # fmt: skip
        return f"VM {name} on {self._request.server}{', in place' if in_place else ''}", placed

    def _prepared(self, name: str, info: VmInfo, disks: list[DiskPoint], destination: Destination) -> RestoreTarget:
        driver, journal = destination.driver, destination.journal
        if not self._request.in_place:
            return driver.prepare_restore(name, info, self._request.overwrite, journal)
        if not isinstance(driver, RollsBack):
            raise UsageError(reason="this hypervisor rewrites no VM in place; replace it with --overwrite")
        # What was left out of a point is zeros in it and was data on the disk all along: no bitmap tells of that.
        since = {
            disk.disk_id: disk.change_id for disk in disks if disk.change_id and disk.unused_bytes is msgspec.UNSET
        }
        return driver.prepare_rollback(name, info, since, journal)

    def _way(self, placed: Placed, proxy: str) -> Placed:
        """Where the proxy is to write a disk, for hypervisors that must know."""
        destination, target = self._destination, self._target
        if not placed.writers or destination is None or target is None:
            return placed
        if not isinstance(destination.driver, WritesByTransports):
            return placed
        disk = next(each for each in target.disks if each.disk_id == placed.disk.disk_id)
        place = destination.driver.place_for(target, disk, proxy, destination.journal)
        return msgspec.structs.replace(placed, url=place.url, access=place.access)

    def finish(self) -> Event:
        finished = self._finish_target()
        if self._whole and not self._request.in_place:  # every block was read, decoded and compared with its id
            self._context.catalog.points.set_verified(self._request.sid, time.time())
        return finished

    def _finish_target(self) -> Event:
        if self._destination is None or self._target is None or self._info is None:
            place = ", ".join(self._request.places.values()) or f"files in {self._request.directory}"
            return TargetFinished(note=place)
        vm = self._destination.driver.finish_restore(self._target, self._info, self._destination.journal)
        return TargetFinished(note=f"VM {vm.name} on {self._request.server}")

    def abandon(self) -> Event:
        if self._request.in_place and self._disk_tasks.begun:
            mixed = f"{', '.join(self._disk_tasks.begun)} may be partly as the point and partly as before"
            self._context.recorder.note(f"{mixed}: restore again before anybody uses it", "warning")
        if self._destination is not None and self._target is not None:
            self._destination.driver.abandon_restore(self._target, self._destination.journal)
        return TargetAbandoned()


_NO_PLACE = {
    False: "The hypervisor plugin made none",
    True: "The VM has no such disk any more; restore with --overwrite, or the others one by one",
}


def _image_name(disk: DiskPoint, image_format: str) -> str:
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in disk.name).lstrip(".") or "disk"
    return f"{safe}.restored.{image_format}"
