"""The tasks of a restore: each brings one tree from the repository to a disk on a proxy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from holdfast_agent.errors import UsageError
from holdfast_agent.model.change import AuditRate, ChangeMode
from holdfast_agent.model.disk_access import DiskAccess
from holdfast_agent.model.disk_url import parse_disk_url
from holdfast_agent.model.geometry import Extent
from holdfast_agent.model.points import DiskPoint
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import root_id
from holdfast_agent.wire.specs import RestoreOrder, WriterSpec

from .events import Event, MoversStarted, TaskKey, TransferBegan
from .pair_tasks import PairTasks
from .tasks import Context


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


class RestoreTasks(PairTasks):
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
