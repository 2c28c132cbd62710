"""What each step of a restore does. The order is the machine's business (:mod:`restore_machine`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath

import msgspec

from holdfast_agent.errors import HoldfastError, NotFound, ObjectDamaged, UsageError
from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import image_url, parse_disk_url
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.model.strict import NOT_DECODED
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.specs import RestoreOrder, WriterSpec
from holdfast_plugins.api import HypervisorDriver, Journal, RestoreTarget, RollsBack, VmInfo, WritesByTransports

from .events import (
    Event,
    MoversStarted,
    TargetAbandoned,
    TargetFinished,
    TargetPrepared,
    TaskKey,
    TransferBegan,
)
from .instructions import AbandonTarget, Instruction
from .pair_tasks import PairTasks
from .point_reader import PointReader
from .requests import RestoreRequest
from .target_actions import TargetActions
from .tasks import Context


class Destination(msgspec.Struct, frozen=True):
    """The hypervisor that a VM is restored to."""

    driver: HypervisorDriver
    journal: Journal


class Placed(msgspec.Struct, frozen=True):
    """One disk and where it goes; ``url`` None: nowhere, it is only checked. ``access``: secrets for its server.

    ``differing``: the disk is there, and only what differs is written; of ``changed`` alone, where that is known.
    ``writers``: who alone can do that; empty: anybody.
    """

    disk: DiskPoint
    url: str | None
    create: bool = True
    overwrite: bool = False
    access: tuple[DiskAccess, ...] = ()
    differing: bool = False
    changed: tuple[Extent, ...] | None = None
    writers: tuple[str, ...] = ()

    def told(self) -> tuple[ChangeMode | None, str]:
        """By which mode the disk is compared, if it is, and what is done to it, in words."""
        if self.url is None:
            return None, "checked only"
        if not self.differing:
            return None, f"to {self.url}"
        if self.changed is not None or parse_disk_url(self.url).option("bitmap"):
            return ChangeMode.CBT, "in place; changes tracked since the point"
        return ChangeMode.DIGEST, "in place; compared with the point"


class ReaderTasks(PairTasks):
    """The tasks of a restore: each brings one tree from the repository to a disk on a proxy."""

    def __init__(
        self, context: Context, keys: RepositoryKeys, proxy: str, way: Callable[[Placed, str], Placed] | None = None
    ) -> None:
        """``way``: where the proxy that a disk's task was given is to write it."""
        super().__init__(context, proxy)
        self._keys = keys
        self._way = way
        self._placed: dict[TaskKey, Placed] = {}
        self._begun: set[TaskKey] = set()

    @property
    def begun(self) -> list[str]:
        """Names of the disks of which something may have been written."""
        return sorted(self._placed[key].disk.name for key in self._begun)

    def add(self, key: TaskKey, vm_name: str, placed: Placed) -> TaskKey:
        """One more disk to bring over; before the machine is told of it."""
        self._placed[key] = placed
        self._context.recorder.add_task(key, vm_name, placed.disk.name, placed.disk.size_bytes)
        return key

    def proxies(self, key: TaskKey) -> tuple[Collection[str], Sequence[str]]:
        """Raises :class:`UsageError` when none of those that the disk needs may be used."""
        (usable, preferred), placed = super().proxies(key), self._placed[key]
        if not placed.writers:
            return usable, preferred
        able = [name for name in placed.writers if name in usable]
        if not able:
            reason = f"{', '.join(usable) or 'no proxy'} cannot write to {placed.disk.name} where it is"
            raise UsageError(reason=f"{reason}; {', '.join(placed.writers)} could")
        return able, able

    def start(self, key: TaskKey) -> Event:
        self.start_reader(
            key,
            lambda name, secret, endpoints: WriterSpec(
                task_id=name, secret=secret, endpoints=endpoints, keys=self._keys.opening_keys()
            ),
        )
        return MoversStarted(task=key, rules="every block is checked by its id")

    def begin(self, key: TaskKey) -> None:
        """Tells TransferBegan by itself: where little differs, all may be over before the agent has answered."""
        placed = self._placed[key]
        if self._way is not None:
            placed = self._way(placed, self.work.proxy_of(key))
        order = RestoreOrder(
            geometry=placed.disk.geometry,
            root=root_id(placed.disk.root),
            disk=placed.url,
            create=placed.create,
            overwrite=placed.overwrite,
            access=placed.access,
            differing=placed.differing,
            extents=placed.changed,
            audit=AuditRate() if placed.differing else None,
        )
        self._begun.add(key)
        mode, told = placed.told()
        self._context.driver.post(TransferBegan(task=key, mode=mode, reason=told))
        self.work.begin(key, order, reads=self._context.repository.name)


class RestoreActions(TargetActions):
    def __init__(
        self, context: Context, request: RestoreRequest, keys: RepositoryKeys, destination: Destination | None
    ) -> None:
        self._context = context
        self._request = request
        self._reader = PointReader(context, context.repository, keys)
        self._destination = destination
        self._readers = ReaderTasks(context, keys, request.proxy, self._way)
        self._target: RestoreTarget | None = None
        self._info: VmInfo | None = None
        self._whole = False
        super().__init__(self._readers)
        self.tasks = self._readers.work

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
        keys = [self._readers.add(TaskKey(point.vm_id, each.disk.disk_id), point.vm_name, each) for each in placed]
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
        whole = vm_info_of(self._reader, point)
        kept = {disk.disk_id for disk in disks}
        info = msgspec.structs.replace(whole, disks=tuple(disk for disk in whole.disks if disk.disk_id in kept))
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
        if self._request.in_place and self._readers.begun:
            mixed = f"{', '.join(self._readers.begun)} may be partly as the point and partly as before"
            self._context.recorder.note(f"{mixed}: restore again before anybody uses it", "warning")
        if self._destination is not None and self._target is not None:
            self._destination.driver.abandon_restore(self._target, self._destination.journal)
        return TargetAbandoned()


_NO_PLACE = {
    False: "The hypervisor plugin made none",
    True: "The VM has no such disk any more; restore with --overwrite, or the others one by one",
}


def vm_info_of(reader: PointReader, point: Point) -> VmInfo:
    """What was told of a point's VM at the backup. Raises :class:`ObjectDamaged`, and as ``PointReader.config``."""
    plain = reader.config(point)
    try:
        return msgspec.json.decode(plain, type=VmInfo)
    except NOT_DECODED as error:
        name = f"the VM configuration of {point.sid}"
        raise ObjectDamaged(name=name, offset_bytes=0, reason=str(error)) from error


def wanted_disks(point: Point, wanted: tuple[str, ...]) -> list[DiskPoint]:
    known = {disk.disk_id for disk in point.disks} | {disk.name for disk in point.disks}
    for name in wanted:
        if name not in known:
            raise NotFound(kind="disk", name=name, advice=f"The point holds {', '.join(sorted(known))}")
    return [disk for disk in point.disks if not wanted or disk.disk_id in wanted or disk.name in wanted]


def _image_name(disk: DiskPoint, image_format: str) -> str:
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in disk.name).lstrip(".") or "disk"
    return f"{safe}.restored.{image_format}"
