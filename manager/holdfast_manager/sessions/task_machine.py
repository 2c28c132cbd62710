"""One task: one disk on its way through a proxy and a repository. Pure; shared by backups, restores, verifications.

A task passes two gates that its owner opens: ``admit`` (movers may start) and ``release`` (the transfer may begin). It
tries again by itself after retryable failures; its owner looks at ``at_rest`` and ``finished``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from holdfast_agent.errors import ErrorRecord

from .events import (
    ChangesMissed,
    MoversConnected,
    MoversStarted,
    RetryDue,
    SlotGranted,
    TaskEvent,
    TaskFailed,
    TaskKey,
    TaskStopped,
    TransferBegan,
    TransferFinished,
)
from .instructions import (
    BeginTransfer,
    DoubtPoints,
    Instruction,
    PauseTask,
    ReleaseTask,
    RequestSlot,
    StartMovers,
    StopTask,
)
from .story import Story


class RetryPolicy(msgspec.Struct, frozen=True):
    """``retries``: further tries after the first. ``pause_s``: before each of them."""

    retries: int = 3
    pause_s: float = 10.0


class TaskState(StrEnum):
    NEW = "new"
    QUEUED = "queued"
    GRANTED = "granted"
    STARTING = "starting"
    CONNECTED = "connected"
    TRANSFERRING = "transferring"
    STOPPING = "stopping"
    PAUSED = "paused"
    FINISHED = "finished"
    ENDED = "ended"


_AT_WORK = frozenset(
    {TaskState.QUEUED, TaskState.GRANTED, TaskState.STARTING, TaskState.CONNECTED, TaskState.TRANSFERRING}
)


class TaskMachine:
    """``handle(event) → instructions``. Not thread-safe; owned by a session's machine."""

    def __init__(self, key: TaskKey, policy: RetryPolicy) -> None:
        self.key = key
        self.state = TaskState.NEW
        self.error: ErrorRecord | None = None
        self._policy = policy
        self._failures = 0
        self._admitted = False
        self._released = False
        self._wanted = True
        self._story = Story()

    @property
    def finished(self) -> bool:
        return self.state is TaskState.FINISHED

    @property
    def at_rest(self) -> bool:
        """Nothing of this task runs or is under way."""
        return self.state in (TaskState.NEW, TaskState.FINISHED, TaskState.ENDED)

    @property
    def given_up(self) -> bool:
        return self.state is TaskState.ENDED

    def request(self) -> list[Instruction]:
        """Queue for slots: the task's beginning, and its new beginning in a VM's next attempt."""
        self._failures = 0
        self._admitted = self._released = False
        self._wanted = True
        self.error = None
        return self._queue()

    def admit(self) -> list[Instruction]:
        """Movers may start from now on."""
        self._admitted = True
        return self._start_if_possible()

    def release(self) -> list[Instruction]:
        """The disk is frozen: transfers may begin from now on."""
        self._released = True
        return self._transfer_if_possible()

    def stop(self) -> list[Instruction]:
        """End without a further try. Leads to ``at_rest``, if not at once then after TaskStopped."""
        self._wanted = False
        if self.state in _AT_WORK:
            self.state = TaskState.STOPPING
            return [StopTask(task=self.key)]
        if self.state in (TaskState.PAUSED, TaskState.NEW):
            self.state = TaskState.ENDED
        return []

    def handle(self, event: TaskEvent) -> list[Instruction]:
        self._story.note(self.state, event)
        if isinstance(event, TaskStopped):
            return self._stopped(event)
        if isinstance(event, RetryDue):
            return self._queue() if self.state is TaskState.PAUSED else []
        if self.state not in _AT_WORK:
            return []  # a late word from movers that are being stopped
        match event:
            case TaskFailed():
                return self._failed(event)
            case SlotGranted() if self.state is TaskState.QUEUED:
                self.state = TaskState.GRANTED
                return self._start_if_possible()
            case MoversStarted():
                return []  # movers on the same host may have connected before this was said
            case MoversConnected() if self.state is TaskState.STARTING:
                self.state = TaskState.CONNECTED
                return self._transfer_if_possible()
            case ChangesMissed():
                return [DoubtPoints(task=self.key)]
            case TransferBegan() if self.state is TaskState.TRANSFERRING:
                return []
            case TransferFinished() if self.state is TaskState.TRANSFERRING:
                self.state = TaskState.FINISHED
                return [ReleaseTask(task=self.key)]
        raise self._story.illegal(f"task {self.key}", self.state, event)

    def _queue(self) -> list[Instruction]:
        self.state = TaskState.QUEUED
        return [RequestSlot(task=self.key)]

    def _start_if_possible(self) -> list[Instruction]:
        if not (self._admitted and self.state is TaskState.GRANTED):
            return []
        self.state = TaskState.STARTING
        return [StartMovers(task=self.key)]

    def _transfer_if_possible(self) -> list[Instruction]:
        if not (self._released and self.state is TaskState.CONNECTED):
            return []
        self.state = TaskState.TRANSFERRING
        return [BeginTransfer(task=self.key)]

    def _failed(self, event: TaskFailed) -> list[Instruction]:
        self.error = event.error
        self._failures += 1
        self._wanted = event.error.retryable and self._failures <= self._policy.retries
        self.state = TaskState.STOPPING
        return [StopTask(task=self.key)]

    def _stopped(self, event: TaskStopped) -> list[Instruction]:
        if self.state is not TaskState.STOPPING:
            raise self._story.illegal(f"task {self.key}", self.state, event)
        if not self._wanted:
            self.state = TaskState.ENDED
            return []
        self.state = TaskState.PAUSED
        return [PauseTask(task=self.key, seconds=self._policy.pause_s)]
