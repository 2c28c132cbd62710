"""What each step of an export does. It runs on the restore's machine, with one task: an exporter and what feeds it.

The transfer is the serving itself. It has no end of its own: an exporter that dies, by itself or with its agent, is
started again for as long as nobody stops the session.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time

from holdfast_agent.channel.control_client import AgentLost
from holdfast_agent.errors import ErrorRecord, HoldfastError, MoverDied
from holdfast_agent.model.points import DiskPoint, Point
from holdfast_agent.sealing.keys import RepositoryKeys
from holdfast_agent.wire.messages import (
    ListMovers,
    MoverChanged,
    MoverList,
    MoverStarted,
    MoverState,
    PointRetention,
    Push,
    RetainPoint,
    StartMover,
    StopMover,
)
from holdfast_agent.wire.specs import AnySpec, ExporterSpec
from holdfast_manager.reports.table import printable
from holdfast_manager.reports.times import moment
from holdfast_manager.steps import Step

from .events import (
    Event,
    MoversConnected,
    MoversStarted,
    SessionFailed,
    SlotGranted,
    TargetAbandoned,
    TargetFailed,
    TargetPrepared,
    TaskFailed,
    TaskKey,
    TaskStopped,
    TransferBegan,
)
from .exporters import exported, start_exporter
from .instructions import (
    AbandonTarget,
    BeginTransfer,
    Instruction,
    PrepareTarget,
    ReleaseTask,
    RequestSlot,
    StartMovers,
    StopTask,
    TaskInstruction,
)
from .point_reader import PointReader, wanted_disks
from .requests import ExportRequest
from .routing import Routing
from .task_machine import RetryPolicy
from .tasks import Context

EXPORT_RETRIES = RetryPolicy(retries=1_000_000, pause_s=2.0)
"""A guest whose disk this is waits: it is started again until somebody gives up."""

_PROTECT_S = 86400.0
"""For so long nobody can prune the point; told anew each half day. A session that dies leaves it so for a day."""

_ENDED = ("done", "failed")


class ExportActions:
    """Carries out the instructions of :class:`~.restore_machine.RestoreMachine` for an export.

    No slots are taken: an export may stay for days, and works only as much as somebody reads.
    """

    def __init__(self, context: Context, request: ExportRequest, keys: RepositoryKeys) -> None:
        self._context = context
        self._request = request
        self._keys = keys
        self._reader = PointReader(context, context.repository, keys)
        self._routing = Routing(context.catalog, context.pool)
        self._point: Point | None = None
        self._disks: list[DiskPoint] = []
        self._lock = threading.Lock()
        self._movers: dict[str, str] = {}  # name → agent, of what runs now
        self._key = TaskKey(request.sid, request.export)
        self._protect_at: float | None = None
        self._uris: tuple[str, ...] = ()
        self._noted: set[str] = set()  # a state is told again with each change

    def perform(self, instruction: Instruction) -> Event | None:
        match instruction:
            case PrepareTarget():
                return self._prepare()
            case AbandonTarget():
                return self._abandon()
            case RequestSlot():
                repository = self._context.repository.name
                return SlotGranted(task=self._key, proxy=self._request.proxy, repository=repository, waited_s=0.0)
            case StartMovers():
                return self._start()
            case BeginTransfer():
                return TransferBegan(task=self._key, mode=None, reason=" ".join(self._uris))
            case StopTask():
                self._stop()
                return TaskStopped(task=self._key)
            case ReleaseTask():
                self._stop()
                return None
        raise AssertionError(f"an export has no {type(instruction).__name__}")

    def failed(self, instruction: Instruction, error: HoldfastError) -> Event:
        match instruction:
            case TaskInstruction():
                return TaskFailed(task=instruction.task, error=error.to_record(), at=instruction.step)
            case PrepareTarget():
                return TargetFailed(error=error.to_record(), at=instruction.step)
            case AbandonTarget():
                self._context.recorder.note(f"the restore point could not be released: {error}", "warning")
                return TargetAbandoned()
        return SessionFailed(error=error.to_record())

    def tick(self) -> None:
        """Protect the point anew when half of the time is over; in the driver's thread, which must not wait."""
        if self._protect_at is not None and time.monotonic() >= self._protect_at:
            self._protect_at = time.monotonic() + _PROTECT_S / 8  # the next try if this one fails
            threading.Thread(target=self._protect_again, name="protect the point", daemon=True).start()

    def push(self, agent: str, push: Push | AgentLost) -> None:
        """An agent told something, or was lost. In the driver's thread."""
        if isinstance(push, MoverChanged):
            state = push.state
            with self._lock:
                ours = state.mover in self._movers
            if ours and state.phase in _ENDED:
                self._ended(state)
            elif ours:
                self._context.recorder.progress(self._key, state.counters)
                for note in state.notes:
                    self._note_once(note)
        elif isinstance(push, AgentLost):
            with self._lock:
                touched = agent in self._movers.values()
            if touched:
                self._context.recorder.note(
                    f"the connection to the agent {agent} was lost: {push.error.text}", "warning"
                )
                name = f"look for movers of {agent}"
                threading.Thread(target=self._look_for_movers, args=(agent,), name=name, daemon=True).start()

    def _note_once(self, note: str) -> None:
        if note not in self._noted:
            self._noted.add(note)
            self._context.recorder.note(printable(note), "warning")

    def _ended(self, state: MoverState) -> None:
        """Something that runs for this session has ended."""
        self._fail(state.error or self._died("it ended by itself"))

    def _protect(self) -> None:
        """Nobody can prune the point for a while, whatever becomes of us: what is served is never collected."""
        repository = self._context.repository
        until = time.time() + _PROTECT_S
        hold = True if self._request.keep else None
        request = RetainPoint(repository=repository.path, sid=self._request.sid, until=until, hold=hold)
        retained = self._reader.ask(request, PointRetention).retained
        self._context.catalog.points.set_retention(self._request.sid, retained.until, retained.hold)
        self._protect_at = time.monotonic() + _PROTECT_S / 2

    def _protect_again(self) -> None:
        try:
            self._protect()
        except HoldfastError as error:
            self._context.recorder.note(f"the restore point could not be protected from pruning: {error}", "warning")

    def _abandon(self) -> Event:
        """Of an export that never came to serve anything there is nothing to keep."""
        request = self._request
        if request.held and not (request.resumed or self._uris):
            path = self._context.repository.path
            self._reader.ask(RetainPoint(repository=path, sid=request.sid, hold=False), PointRetention)
        return TargetAbandoned(note="served no more; what was written is kept" if request.keep else "served no more")

    def _prepare(self) -> Event:
        self._protect()
        point = self._reader.point(self._request.sid)
        self._point, self._disks = point, wanted_disks(point, self._request.disks)
        size = sum(disk.size_bytes for disk in self._disks)
        names = ", ".join(disk.name for disk in self._disks)
        self._context.recorder.add_task(self._key, point.vm_name, names, size)
        note = f"{point.vm_name} as of {moment(point.created)}"
        return TargetPrepared(note=note, tasks=(self._key,))

    def _start(self) -> Event:
        context, request = self._context, self._request
        listen, clients = self._way()
        spec = ExporterSpec(
            task_id=request.export,
            secret=secrets.token_bytes(32),
            export=request.export,
            keys=self._keys.opening_keys(),
            disks=exported(self._disks),
            listen=listen,
            clients=clients,
            writable=request.writable,
            keep=request.keep,
            description=f"{self._point.vm_name} as of {moment(self._point.created)}" if self._point else "",
        )
        self._uris = start_exporter(self._start_mover, self._routing, context.repository, request.proxy, spec)
        context.driver.post(MoversConnected(task=self._key))
        return MoversStarted(task=self._key, rules="every block is checked by its id or its seal")

    def _way(self) -> tuple[str, tuple[str, ...]]:
        """Where the exporter listens, and who alone may come where nobody proves who he is."""
        return self._request.listen, ()

    def _start_mover(self, agent: str, mover: str, spec: AnySpec) -> tuple[str, ...]:
        with self._lock:
            self._movers[mover] = agent
        request = StartMover(lease=self._context.pool.lease, mover=mover, spec=spec)
        return self._context.pool.ask(agent, request, MoverStarted).endpoints

    def _stop(self) -> None:
        """Stop what runs; what it still says is not heard. Never raises: a lease that runs out stops it too."""
        with self._lock:
            movers, self._movers = self._movers, {}
        for mover, agent in reversed(movers.items()):
            with contextlib.suppress(HoldfastError):
                stop = StopMover(lease=self._context.pool.lease, mover=mover, reason="the export was stopped")
                self._context.pool.dismiss(agent, stop)

    def _look_for_movers(self, agent: str) -> None:
        """Is what we started there still running? If not, or if nobody can be asked, it is started again."""
        try:
            listed = self._context.pool.ask(agent, ListMovers(lease=self._context.pool.lease), MoverList)
        except HoldfastError as error:
            record = error.to_record()
            self._context.driver.call_soon(lambda: self._fail(record))
            return
        running = {state.mover for state in listed.movers if state.phase not in _ENDED}
        with self._lock:
            gone = any(where == agent and mover not in running for mover, where in self._movers.items())
        if gone:
            self._context.driver.call_soon(lambda: self._fail(self._died("its agent was restarted")))

    def _fail(self, error: ErrorRecord) -> None:
        with self._lock:
            if not self._movers:
                return
        self._context.driver.post(TaskFailed(task=self._key, error=error, at=Step.TRANSFER))

    def _died(self, reason: str) -> ErrorRecord:
        return MoverDied(role="exporter", task=self._request.export, reason=reason).to_record()
