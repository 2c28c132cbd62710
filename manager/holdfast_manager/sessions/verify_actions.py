"""What each step of a verification does. It runs on the restore's machine, with nowhere to write to."""

from __future__ import annotations

import queue

from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import HoldfastError, VerificationFailed, from_record
from holdfast_agent.model.ids import Sid
from holdfast_agent.model.points import Point
from holdfast_agent.model.units import format_size
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.sealing.roots import open_point
from holdfast_agent.wire.messages import Done, Finding, ListPoints, PointList, Push, VerifyEnded, VerifyRepository
from holdfast_manager.catalog.values import PointState

from .events import (
    Event,
    SessionFailed,
    TargetAbandoned,
    TargetFailed,
    TargetFinished,
    TargetPrepared,
    TaskFailed,
    TaskKey,
)
from .instructions import AbandonTarget, FinishTarget, Instruction, PrepareTarget, ReleaseTask, TaskInstruction
from .requests import VerifyRequest
from .restore_actions import Placed, ReaderTasks, read_authentic_point
from .tasks import Context

_FINDINGS_SHOWN = 200


class VerifyActions:
    """Carries out the instructions of :class:`~.restore_machine.RestoreMachine` for a verification.

    Levels 0 and 1 are the repository agent's work and need no key; level 2 then reads every wanted disk through a
    proxy that holds the key. Points that a finding touches are marked suspect, so that no backup builds on them.
    """

    def __init__(self, context: Context, request: VerifyRequest, keys: RepositoryKeys) -> None:
        self._context = context
        self._request = request
        self._keys = keys
        self._readers = ReaderTasks(context, keys, request.proxy)
        self._ends: queue.SimpleQueue[VerifyEnded | HoldfastError] = queue.SimpleQueue()
        self._sids: dict[TaskKey, Sid] = {}
        self._found = 0
        self.tasks = self._readers.work

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case PrepareTarget():
                return self._prepare()
            case FinishTarget():
                return self._finish()
            case AbandonTarget():
                return TargetAbandoned()
            case TaskInstruction():
                if isinstance(instruction, ReleaseTask):
                    self._sids.pop(instruction.task, None)
                return self._readers.perform(instruction)
        raise AssertionError(f"a verification has no {type(instruction).__name__}")

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        match instruction:
            case TaskInstruction():
                return TaskFailed(task=instruction.task, error=error.to_record(), at=instruction.step)
            case PrepareTarget() | FinishTarget():
                return TargetFailed(error=error.to_record(), at=instruction.step)
        return SessionFailed(error=error.to_record())

    def tick(self) -> None:
        self.tasks.tick()

    def push(self, agent: str, push: Push | AgentLost) -> None:
        """What the repository's agent says of levels 0 and 1; called in the driver's thread."""
        if isinstance(push, VerifyEnded):
            self._ends.put(push)
        elif isinstance(push, AgentLost) and agent == self._context.repository.agent:
            self._ends.put(push.error)

    def _prepare(self) -> Event:
        self._check_keyless()
        keys: list[TaskKey] = []
        if self._request.level == 2:
            for point in self._points():
                keys += self._add(point)
        return TargetPrepared(note=f"level {self._request.level}", tasks=tuple(keys))

    def _check_keyless(self) -> None:
        context, level = self._context, min(self._request.level, 1)
        request = VerifyRepository(
            lease=context.pool.lease,
            ticket=f"session-{context.session}",
            repository=context.repository.path,
            level=level,
            points=self._request.points,
        )
        context.pool.ask(context.repository.agent, request, Done)
        ended = self._ends.get()
        if isinstance(ended, HoldfastError):
            raise ended
        if ended.error is not None:
            raise from_record(ended.error)
        for finding in ended.findings:
            self._found_wrong(finding)
        checked = f"{ended.objects_checked} objects, {format_size(ended.checked_bytes)} read"
        context.recorder.note(f"level {level}: {checked}, {len(ended.findings)} findings")

    def _points(self) -> list[Point]:
        """All points that were asked for; one that is not authentic is a finding, not the end."""
        if self._request.points:
            return [read_authentic_point(self._context, sid, self._keys) for sid in self._request.points]
        points: list[Point] = []
        after, more = "", True
        while more:
            request = ListPoints(repository=self._context.repository.path, after=after)
            page = self._context.pool.ask(self._context.repository.agent, request, PointList)
            for entry in page.points:
                try:
                    points.append(open_point(entry, self._keys))
                except HoldfastError as error:
                    wrong = Finding(
                        object=f"points/{entry.sid}", kind=error.code, detail=error.text, points=(entry.sid,)
                    )
                    self._found_wrong(wrong)
            more = page.more
            after = page.points[-1].sid if page.points else after
        return points

    def _add(self, point: Point) -> list[TaskKey]:
        keys = []
        for disk in point.disks:
            key = TaskKey(f"{point.vm_id}@{point.sid[:12]}", disk.disk_id)
            self._sids[key] = point.sid
            keys.append(self._readers.add(key, f"{point.vm_name}@{point.sid[:12]}", Placed(disk, None)))
        return keys

    def _finish(self) -> Event:
        """Tasks that were released are fine; those that are left could not be read whole."""
        for sid in sorted(set(self._sids.values())):
            self._context.catalog.points.set_state(sid, PointState.SUSPECT)
        wrong = self._found + len(self._sids)
        if wrong:
            raise VerificationFailed(repository=self._context.repository.name, findings=wrong)
        return TargetFinished(note="nothing wrong was found")

    def _found_wrong(self, finding: Finding) -> None:
        self._found += 1
        for sid in finding.points:
            self._context.catalog.points.set_state(sid, PointState.SUSPECT)
        if self._found <= _FINDINGS_SHOWN:
            lost = "; data is lost" if finding.lost else ""
            points = f"; touches {', '.join(sid[:12] for sid in finding.points[:5])}" if finding.points else ""
            self._context.recorder.note(f"{finding.object}: {finding.kind}: {finding.detail}{lost}{points}", "error")
