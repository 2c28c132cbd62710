"""A restore or a verification: prepare a target, bring every disk to it, finish or abandon it. Pure.

A restore that loses one disk is abandoned as a whole; a verification goes on with the others, because what it looks
for is exactly the broken one.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

from .events import (
    CancelRequested,
    Event,
    SessionFailed,
    SessionStarted,
    TargetAbandoned,
    TargetFailed,
    TargetFinished,
    TargetPrepared,
    TaskEvent,
    TaskKey,
)
from .instructions import AbandonTarget, EndSession, FinishTarget, Instruction, PrepareTarget
from .story import Story
from .task_machine import RetryPolicy, TaskMachine


class RestoreState(StrEnum):
    PREPARING = "preparing"
    TRANSFERRING = "transferring"
    FINISHING = "finishing"
    STOPPING = "stopping"
    ABANDONING = "abandoning"
    ENDED = "ended"


class RestoreMachine:
    """``handle(event) → instructions``. ``keep_going``: one failed task does not stop the others (verification).

    ``one_by_one``: a task begins when the one before is over, so that it finds what that one has stored (heal).
    """

    def __init__(self, policy: RetryPolicy, keep_going: bool = False, one_by_one: bool = False) -> None:
        self.state = RestoreState.PREPARING
        self.tasks: dict[TaskKey, TaskMachine] = {}
        self._policy = policy
        self._keep_going = keep_going
        self._one_by_one = one_by_one
        self._pending: deque[TaskMachine] = deque()
        self._cancelled = False
        self._story = Story()

    @property
    def ended(self) -> bool:
        return self.state is RestoreState.ENDED

    def handle(self, event: Event) -> list[Instruction]:
        self._story.note(self.state, event)
        match event:
            case SessionStarted():
                return [PrepareTarget()]
            case CancelRequested():
                self._cancelled = True
                return self._stop_all() if self.state is RestoreState.TRANSFERRING else []
            case SessionFailed() if self.state is RestoreState.PREPARING:
                return self._end("failed")
            case TargetPrepared() if self.state is RestoreState.PREPARING:
                return self._begin(event)
            case TargetFailed() if self.state in (RestoreState.PREPARING, RestoreState.FINISHING):
                return self._abandon()
            case TargetFinished() if self.state is RestoreState.FINISHING:
                return self._end(self._result())
            case TargetAbandoned() if self.state is RestoreState.ABANDONING:
                return self._end("cancelled" if self._cancelled else "failed")
            case TaskEvent() if event.task in self.tasks:
                return [*self.tasks[event.task].handle(event), *self._after_task()]
        raise self._story.illegal("restore session", self.state, event)

    def _begin(self, event: TargetPrepared) -> list[Instruction]:
        if self._cancelled:
            return self._abandon()
        self.state = RestoreState.TRANSFERRING
        self.tasks = {key: TaskMachine(key, self._policy) for key in event.tasks}
        self._pending.extend(self.tasks.values())
        return self._after_task()

    def _start_next(self) -> list[Instruction]:
        instructions = []
        for _ in range(1 if self._one_by_one else len(self._pending)):
            task = self._pending.popleft()
            instructions += [*task.request(), *task.admit(), *task.release()]
        return instructions

    def _after_task(self) -> list[Instruction]:
        tasks = self.tasks.values()
        if self.state is RestoreState.TRANSFERRING and not self._keep_going and any(t.given_up for t in tasks):
            return self._stop_all()
        if not all(task.at_rest for task in tasks):
            return []
        if self.state is RestoreState.STOPPING:
            return self._abandon()
        if self.state is RestoreState.TRANSFERRING and self._pending:
            return self._start_next()
        if self.state is RestoreState.TRANSFERRING:
            self.state = RestoreState.FINISHING
            return [FinishTarget()]
        return []

    def _stop_all(self) -> list[Instruction]:
        self.state = RestoreState.STOPPING
        stops = [instruction for task in self.tasks.values() for instruction in task.stop()]
        return [*stops, *self._after_task()]

    def _abandon(self) -> list[Instruction]:
        self.state = RestoreState.ABANDONING
        return [AbandonTarget()]

    def _end(self, result: str) -> list[Instruction]:
        self.state = RestoreState.ENDED
        return [EndSession(result=result)]

    def _result(self) -> str:
        failed = sum(task.given_up for task in self.tasks.values())
        return "success" if not failed else "partial" if failed < len(self.tasks) else "failed"
