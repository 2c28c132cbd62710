"""The point that a VM's backup builds on, and what is no longer built on because it was found to be wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from uuid import UUID

from holdfast_agent.errors import (
    ErrorRecord,
    HoldfastError,
    ObjectDamaged,
    ObjectMissing,
    PointNotAuthentic,
    PointNotFound,
)
from holdfast_agent.model.change import ChangeMode
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Point
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import PointList, ReadPoint
from holdfast_manager.catalog.doubts import taken_on_trust
from holdfast_manager.catalog.values import PointEntryRow, PointState
from holdfast_manager.steps import Step

from .tasks import Context
from .vm_work import VmWork


class BasePoints:
    """Of one backup session. Thread-safe for different VMs."""

    def __init__(self, context: Context, keys: RepositoryKeys, server: str) -> None:
        self._context = context
        self._keys = keys
        self._server = server
        self._lock = threading.Lock()

    def choose(self, vm: VmWork) -> None:
        """The VM's newest good point becomes its base. One that cannot be used costs time, never the backup.

        Where a newer one is suspect, change tracking is not believed in this session: what made that point wrong may
        have begun before the good one, and the session that found it out may have ended without mending it.
        """
        rows = [row for row in self._history(vm, self._server) if row.undo_until is None]
        good = _newest_good(rows) or self._before_it_moved(vm)
        if good is None:
            return
        if good.server != self._server:
            vm.doubt = f"the VM was on the server {good.server} then"
        elif rows[0] is not good:
            vm.doubt = f"the point {rows[0].sid[:8]}, which is newer, is suspect"
        try:
            vm.base = self._read(good.sid)
        except PointNotFound as error:  # whoever pruned it did not live to tell the catalogue, or knows another one
            self._context.catalog.points.remove(good.sid)
            self._note(vm, str(error), Step.MOVERS)
            vm.doubt = ""
            self.choose(vm)
        except PointNotAuthentic as error:
            self._context.catalog.points.set_state(good.sid, PointState.SUSPECT)
            self._note(vm, str(error), Step.MOVERS)
        except ObjectMissing as error:
            self._note(vm, f"no base to compare with: {error}", Step.MOVERS)

    def damaged(self, vm: VmWork, error: ErrorRecord | None) -> None:
        """A task failed with ``error``. Where that is damage in the repository, nothing builds on its base again.

        The next run reads the whole disk, and stores again what the reading of the base has put in quarantine.
        """
        if vm.base is None or error is None or error.code not in (ObjectDamaged.code, ObjectMissing.code):
            return
        self._context.catalog.points.set_state(vm.base.sid, PointState.SUSPECT)
        self._note(vm, f"the point {vm.base.sid[:12]} is damaged; the next run does without it", Step.TRANSFER)

    def missed(self, vm: VmWork, disk_id: str, disk_name: str) -> None:
        """The audit of a disk has found changes that tracking had missed: no point made on its word stands.

        Idempotent. From now on the VM's own attempts in this session compare that disk, too.
        """
        with self._lock:  # the task that learnt of it and the VM's commit may come here at once
            if vm.distrusts(disk_id):
                return
            if vm.base is None or vm.decisions[disk_id].mode is ChangeMode.ALLOCATION:
                text = "change tracking called areas unused that hold data; the disk itself was asked"
            else:
                text = self._doubt(vm.base, list(self._on_trust(vm, vm.base, disk_id)), disk_name)
            vm.distrust(disk_id)
            self._note(vm, f"disk {disk_name}: {text}", Step.TRANSFER)

    def _doubt(self, base: Point, suspects: list[Sid], disk_name: str) -> str:
        """Mark the points, and say so in one sentence."""
        reason = f"session {self._context.session} found that change tracking of disk {disk_name} had missed changes"
        for sid in suspects:
            self._context.catalog.points.cast_doubt(sid, reason)
        since = base.sid[:8]
        text = f"change tracking missed changes since the point {since}, so the whole disk is compared; "
        if not suspects:
            return f"{text}that point stands, because the disk was read whole for it"
        names = ", ".join(sid[:8] for sid in suspects)
        return f"{text}suspect are now all points made by tracking since the disk was last read whole: {names}"

    def _on_trust(self, vm: VmWork, base: Point, disk_id: str) -> Iterator[Sid]:
        """The points that are in doubt, newest first. What cannot be read cannot be cleared."""
        if not taken_on_trust(base, disk_id):
            return
        yield base.sid
        for row in self._history(vm, self._server):
            if row.created >= base.created:
                continue
            try:
                if not taken_on_trust(self._read(row.sid), disk_id):
                    return
            except HoldfastError:
                pass
            yield row.sid

    def _before_it_moved(self, vm: VmWork) -> PointEntryRow | None:
        """What another server has left of a VM that is new here. An id that is no UUID may be another VM's there."""
        try:
            UUID(vm.info.ref.vm_id)
        except ValueError:
            return None
        return _newest_good(self._history(vm, None))

    def _history(self, vm: VmWork, server: str | None) -> tuple[PointEntryRow, ...]:
        return self._context.catalog.points.history(self._context.repository.name, server, vm.info.ref.vm_id)

    def _read(self, sid: Sid) -> Point:
        request = ReadPoint(repository=self._context.repository.path, sid=sid)
        listed = self._context.pool.ask(self._context.repository.agent, request, PointList)
        return open_point(listed.points[0], self._keys)

    def _note(self, vm: VmWork, text: str, step: Step) -> None:
        self._context.recorder.note(f"{vm.info.ref.name}: {text}", "warning", step)


def _newest_good(rows: Iterable[PointEntryRow]) -> PointEntryRow | None:
    return next((row for row in rows if row.state is PointState.OK and row.undo_until is None), None)
